package directory

import (
	"fmt"
	"slices"
)

// Apply makes the next snapshot, with all of the changes in their order, or with none of them: then the error is a *ChangeError. Setting
// what is there already and deleting what is not changes nothing, and is no error.
func (s *Snapshot) Apply(changes []Change) (*Snapshot, error) {
	t := s.begin()
	for i := range changes {
		if err := t.change(&changes[i]); err != nil {
			return nil, &ChangeError{Index: i, What: changes[i].String(), Err: err}
		}
	}
	return t.finish(), nil
}

// String says what a change does.
func (c Change) String() string {
	switch {
	case c.SetObject != nil:
		return "set " + c.SetObject.String()
	case c.DeleteObject != nil:
		return "delete " + c.DeleteObject.String()
	case c.SetRelation != nil:
		return "set " + c.SetRelation.String()
	case c.DeleteRelation != nil:
		return "delete " + c.DeleteRelation.String()
	}
	return "nothing"
}

func (t *txn) change(c *Change) error {
	set := 0
	for _, is := range [...]bool{c.SetObject != nil, c.DeleteObject != nil, c.SetRelation != nil, c.DeleteRelation != nil} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return invalid("a change sets or deletes one thing, not %d", set)
	case c.SetObject != nil:
		return t.setObject(*c.SetObject)
	case c.DeleteObject != nil:
		return t.deleteObject(*c.DeleteObject)
	case c.SetRelation != nil:
		return t.setRelation(c.SetRelation)
	}
	return t.deleteRelation(c.DeleteRelation)
}

func (t *txn) setObject(o Object) error {
	typ, err := t.s.symbols.object(&o)
	if err != nil {
		return err
	}
	n, ok := t.s.find(typ, o.ID)
	if !ok {
		if n, err = t.addObject(typ, &o); err == nil {
			t.s.counts.objects[typ]++
			t.countRecord(n, true)
		}
		return err
	}
	r := appendRecord(nil, typ, &o)
	if slices.Equal(r, t.s.record(n)) {
		return nil
	}
	t.countRecord(n, false)
	t.draft(n).setRecord(n&(pageSize-1), r)
	t.countRecord(n, true)
	return nil
}

// addObject gives an object a number.
func (t *txn) addObject(typ typeID, o *Object) (number, error) {
	n, ok := t.popFree()
	if !ok {
		if n = t.s.next; n == maxObjects {
			return 0, ErrFull
		}
		t.s.next++
	}
	t.draft(n).setRecord(n&(pageSize-1), appendRecord(nil, typ, o))
	h := hashID(t.s.ids.seed, typ, o.ID)
	table := t.table(h)
	table.reserve(t.hash)
	table.put(h, n)
	return n, nil
}

func (t *txn) deleteObject(r Ref) error {
	typ, err := t.s.symbols.knownType(r.Type)
	if err != nil {
		return err
	}
	if r.ID == wildcard {
		return invalid(`"*" is no object`)
	}
	if n, ok := t.s.find(typ, r.ID); ok {
		t.s.counts.objects[typ]--
		t.countRecord(n, false)
		t.removeObject(n)
	}
	return nil
}

// removeObject takes an object out, with its relations.
func (t *txn) removeObject(n number) {
	for _, rev := range [...]bool{false, true} {
		span := t.takeAll(n, rev)
		for e, at, ok := span.step(); ok; e, at, ok = span.step() {
			other := e.other()
			if rev {
				t.countEdge(other, makeEdge(e.rel(), e.sub(), n), at, false)
			} else {
				t.countEdge(n, e, at, false)
			}
			d, base := t.draft(other).side(!rev)
			d.take(other&(pageSize-1), base).remove(makeEdge(e.rel(), e.sub(), n))
			t.relieve()
		}
	}
	typ, id := t.s.record(n).head()
	h := hashID(t.s.ids.seed, typ, alias(id))
	t.table(h).remove(h, n, t.hash)
	t.draft(n).setRecord(n&(pageSize-1), nil)
	t.pushFree(n)
}

// takeAll empties one of an object's lists, and is what was in it.
func (t *txn) takeAll(n number, rev bool) span {
	d, base := t.draft(n).side(rev)
	slot := n & (pageSize - 1)
	was := d.of(slot, base)
	if was.empty() {
		return span{}
	}
	l := d.take(slot, base)
	l.hub, l.list = nil, list{}
	return was.all()
}

func (t *txn) setRelation(r *Relation) error {
	x, err := t.s.symbols.relation(r)
	if err != nil {
		return err
	}
	object, ok := t.s.find(x.object, r.Object.ID)
	if !ok {
		return missing(r.Object)
	}
	subject, ok := t.s.find(x.subject, r.Subject.ID)
	if !ok {
		if r.Subject.ID != wildcard {
			return missing(r.Subject)
		}
		if subject, err = t.addObject(x.subject, &Object{Ref: r.Subject}); err != nil {
			return err
		}
	}
	e := makeEdge(x.rel, x.sub, subject)
	if at, ok := t.edges(object).find(e); ok && at == x.at {
		return nil
	}
	d, base := t.draft(object).side(false)
	before, was := d.take(object&(pageSize-1), base).set(e, x.at)
	if was {
		t.countEdge(object, e, before, false)
	}
	d, base = t.draft(subject).side(true)
	d.take(subject&(pageSize-1), base).set(makeEdge(x.rel, x.sub, object), x.at)
	t.countEdge(object, e, x.at, true)
	t.relieve()
	return nil
}

func (t *txn) deleteRelation(r *Relation) error {
	x, err := t.s.symbols.relation(r)
	if err != nil {
		return err
	}
	object, ok := t.s.find(x.object, r.Object.ID)
	if !ok {
		return nil
	}
	subject, ok := t.s.find(x.subject, r.Subject.ID)
	if !ok {
		return nil
	}
	t.removeEdge(object, makeEdge(x.rel, x.sub, subject))
	return nil
}

// removeEdge takes a relation out, if it is there.
func (t *txn) removeEdge(object number, e edge) {
	at, ok := t.edges(object).find(e)
	if !ok {
		return
	}
	subject := e.other()
	d, base := t.draft(object).side(false)
	d.take(object&(pageSize-1), base).remove(e)
	d, base = t.draft(subject).side(true)
	d.take(subject&(pageSize-1), base).remove(makeEdge(e.rel(), e.sub(), object))
	t.countEdge(object, e, at, false)
	t.relieve()
}

// missing is an object of a relation that does not exist.
func missing(r Ref) error { return fmt.Errorf("%s %w", r, ErrNotFound) }
