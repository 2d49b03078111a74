package directory

import (
	"fmt"
	"slices"
)

// Apply returns the next snapshot with all changes applied in order, or none: then the error is a *ChangeError.
// Setting what exists already and deleting what does not exist change nothing, and are no errors.
func (s *Snapshot) Apply(changes []Change) (*Snapshot, error) {
	t := s.begin()
	for i := range changes {
		if err := t.change(&changes[i]); err != nil {
			return nil, &ChangeError{Index: i, What: changes[i].String(), Err: err}
		}
	}
	return t.finish(), nil
}

// String describes a change.
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
	r := record(appendRecord(nil, typ, &o))
	if r == t.s.record(n) {
		return nil
	}
	t.countRecord(n, false)
	t.draft(n).setRecord(n&(pageSize-1), r)
	t.countRecord(n, true)
	return nil
}

// addObject adds an object under a new number.
func (t *txn) addObject(typ typeID, o *Object) (number, error) {
	n, ok := t.popFree()
	if !ok {
		if n = t.s.next; n == maxObjects {
			return 0, ErrFull
		}
		t.s.next++
	}
	t.draft(n).setRecord(n&(pageSize-1), record(appendRecord(nil, typ, o)))
	h := hashID(t.s.ids.seed, typ, o.ID)
	t.touch(keyOfName(h))
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

// removeObject removes an object with its relations.
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
			t.freezeDrafts()
		}
	}
	typ, id := t.s.record(n).head()
	h := hashID(t.s.ids.seed, typ, id)
	t.table(h).remove(h, n, t.hash)
	t.draft(n).setRecord(n&(pageSize-1), "")
	t.pushFree(n)
}

// takeAll empties one of an object's lists and returns what was in it.
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
	t.freezeDrafts()
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

// removeEdge removes a relation, if it exists.
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
	t.freezeDrafts()
}

// missing is the error for a relation whose object does not exist.
func missing(r Ref) error { return fmt.Errorf("%s %w", r, ErrNotFound) }

// txn is a snapshot while a batch changes it. It shares untouched parts with the previous snapshot and copies others
// once. Objects and ids are always up to date; relations are, when read through edges.
type txn struct {
	s      *Snapshot
	drafts map[number]*draft // by page number
	last   *draft            // the most recently used one
	lastID number

	ownRows   []uint64 // bit set of the rows that are copies
	ownTables map[int]bool
	ownIDs    bool
	ownIDRows [len(ids{}.rows)]bool

	come, gone []edge // expiry times added and removed
	touched    []uint16
	buf        []byte
}

func (s *Snapshot) begin() *txn {
	next := *s
	next.revision++
	next.rows = slices.Clone(s.rows)
	next.counts.objects, next.counts.relations = slices.Clone(s.counts.objects), slices.Clone(s.counts.relations)
	return &txn{s: &next, drafts: make(map[number]*draft, 4), ownRows: make([]uint64, len(s.rows)/64+1)}
}

// finish returns the snapshot.
func (t *txn) finish() *Snapshot {
	t.freeze()
	t.s.times = changeTimes(t.s.times, t.come, t.gone)
	t.s.follow(t.touched)
	return t.s
}

// maxDrafts bounds the drafts that a large batch holds at once.
const maxDrafts = 4096

// freezeDrafts freezes the drafts if there are many. The caller must not hold one.
func (t *txn) freezeDrafts() {
	if len(t.drafts) > maxDrafts {
		t.freeze()
	}
}

func (t *txn) freeze() {
	for _, d := range t.drafts {
		t.s.counts.bytes += d.freeze().size()
	}
	clear(t.drafts)
	t.last = nil
}

// draft returns the draft of a number's page, for a change of that object.
func (t *txn) draft(n number) *draft {
	t.touch(keyOf(n))
	id := n >> pageBits
	if t.last != nil && t.lastID == id {
		return t.last
	}
	d := t.drafts[id]
	if d == nil {
		d = t.newDraft(n)
		t.drafts[id] = d
	}
	t.last, t.lastID = d, id
	return d
}

// touch notes what changes.
func (t *txn) touch(key uint16) {
	if len(t.touched) <= maxTouched {
		t.touched = append(t.touched, key)
	}
}

func (t *txn) newDraft(n number) *draft {
	i, j := int(n>>(pageBits+rowBits)), (n>>pageBits)&(rowSize-1)
	switch {
	case i == len(t.s.rows):
		t.s.rows = append(t.s.rows, new(row))
		if len(t.ownRows) < i/64+1 {
			t.ownRows = append(t.ownRows, 0)
		}
	case t.ownRows[i/64]&(1<<(i%64)) == 0:
		mine := *t.s.rows[i]
		t.s.rows[i] = &mine
	}
	t.ownRows[i/64] |= 1 << (i % 64)
	p := new(page)
	if was := t.s.rows[i][j]; was != nil {
		t.s.counts.bytes -= was.size()
		*p = *was
	}
	t.s.rows[i][j] = p
	return &draft{page: p}
}

// edges are an object's current relations. Valid until the next change.
func (t *txn) edges(n number) edges {
	if d := t.drafts[n>>pageBits]; d != nil {
		return d.fwd.of(n&(pageSize-1), side{d.page, false})
	}
	return t.s.forward(n)
}

func (t *txn) hash(n number) uint64 { return hashRecord(t.s.ids.seed, t.s.record(n)) }

// table is a hash's table, for writing.
func (t *txn) table(h uint64) *idTable {
	if !t.ownIDs {
		all := *t.s.ids.rows
		t.s.ids.rows, t.ownIDs, t.ownTables = &all, true, map[int]bool{}
	}
	row, i := tableOf(h)
	if was := t.s.ids.rows[row]; was != nil && !t.ownIDRows[row] {
		mine := *was
		t.s.ids.rows[row] = &mine
	}
	t.ownIDRows[row] = true
	out := t.s.ids.own(h)
	if key := row<<tableRow | i; !t.ownTables[key] {
		t.ownTables[key] = true
		out.buckets = slices.Clone(out.buckets)
	}
	return out
}

// countRecord adds an object to the digest, or subtracts it.
func (t *txn) countRecord(n number, add bool) {
	var d digest
	d, t.buf = t.s.symbols.digestRecord(t.buf, t.s.record(n))
	if add {
		t.s.digest.add(d)
	} else {
		t.s.digest.sub(d)
	}
}

// countEdge adds a relation to counts and digest, or subtracts it.
func (t *txn) countEdge(object number, e edge, at int64, add bool) {
	s := t.s
	var d digest
	var from, to objectKey
	from, t.buf = s.symbols.key(t.buf, s.record(object))
	to, t.buf = s.symbols.key(t.buf, s.record(e.other()))
	d, t.buf = s.symbols.digestEdge(t.buf, &from, e, &to, at)
	if add {
		s.digest.add(d)
		s.counts.relations[e.rel()]++
		if at != 0 {
			t.come = append(t.come, edge(at))
		}
		return
	}
	s.digest.sub(d)
	s.counts.relations[e.rel()]--
	if at != 0 {
		t.gone = append(t.gone, edge(at))
	}
}

// freeNumbers is a stack of the numbers of deleted objects, in immutable parts.
type freeNumbers struct {
	numbers []number
	below   *freeNumbers
}

const freePart = 256

func (t *txn) pushFree(n number) {
	f := t.s.free
	if f == nil || len(f.numbers) == freePart {
		t.s.free = &freeNumbers{numbers: []number{n}, below: f}
		return
	}
	t.s.free = &freeNumbers{numbers: append(slices.Clip(f.numbers), n), below: f.below}
}

func (t *txn) popFree() (number, bool) {
	f := t.s.free
	if f == nil {
		return 0, false
	}
	last := len(f.numbers) - 1
	n := f.numbers[last]
	if t.s.free = f.below; last > 0 {
		t.s.free = &freeNumbers{numbers: f.numbers[:last], below: f.below}
	}
	return n, true
}
