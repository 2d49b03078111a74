package directory

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"unsafe"
)

// Diff yields the changes that turn the data of from into that of to, for Apply: objects deleted with their
// relations, relations deleted, objects added or changed, relations added or with another expiry. Manifests are not
// compared: where they differ, use Diff(SetManifest(...), to). It is cheap where the two share most pages, as
// successive snapshots do.
func Diff(from, to *Snapshot) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		diff(from, to, func(c Change, _ bool) bool { return yield(c) })
	}
}

// diff calls yield for each change; was says whether what it sets existed before.
func diff(from, to *Snapshot, yield func(c Change, was bool) bool) bool {
	back, forth := newComparison(to, from), newComparison(from, to)
	forth.compare()
	back.alike = forth.alike
	return forth.objects(func(n number, other number, ok bool) bool {
		if ok {
			return true
		}
		r := from.ref(n)
		return yield(Change{DeleteObject: &r}, true)
	}) && forth.relations(func(r Relation, missing, there bool, _ int64) bool {
		if there || missing {
			return true
		}
		return yield(Change{DeleteRelation: &r}, true)
	}) && back.objects(func(n number, other number, ok bool) bool {
		if ok && from.sameContent(other, to.record(n)) {
			return true
		}
		o := to.record(n).object(to.symbols)
		return yield(Change{SetObject: &o}, ok)
	}) && back.relations(func(r Relation, _, there bool, at int64) bool {
		if there && at == unix(r) {
			return true
		}
		return yield(Change{SetRelation: &r}, there)
	})
}

// Difference counts the changes from one snapshot to another.
type Difference struct {
	Changes   []Change
	Objects   Tally
	Relations Tally // those deleted with an object are not among Changes
}

// Tally counts additions, changes and deletions.
type Tally struct {
	Added   int `json:"added"`
	Changed int `json:"changed"`
	Deleted int `json:"deleted"`
}

// Compare summarizes Diff. ok is false where the manifests differ, and with more than most changes.
func Compare(from, to *Snapshot, most int) (d Difference, ok bool) {
	if string(from.manifest.Text()) != string(to.manifest.Text()) {
		return Difference{}, false
	}
	ok = diff(from, to, func(c Change, was bool) bool {
		if len(d.Changes) == most {
			return false
		}
		d.Changes = append(d.Changes, c)
		tally := &d.Objects
		if c.SetRelation != nil || c.DeleteRelation != nil {
			tally = &d.Relations
		}
		switch {
		case c.DeleteObject != nil || c.DeleteRelation != nil:
			tally.Deleted++
		case was:
			tally.Changed++
		default:
			tally.Added++
		}
		return true
	})
	if !ok {
		return Difference{}, false
	}
	have, want := 0, 0
	for _, n := range from.counts.relations {
		have += n
	}
	for _, n := range to.counts.relations {
		want += n
	}
	d.Relations.Deleted = have + d.Relations.Added - want // includes those deleted with their objects
	return d, true
}

// String formats a Difference: "+3 objects, -1 relation", or "no difference".
func (d *Difference) String() string {
	var parts []string
	for _, of := range []struct {
		what string
		n    Tally
	}{{"object", d.Objects}, {"relation", d.Relations}} {
		for _, one := range []struct {
			sign string
			n    int
		}{{"+", of.n.Added}, {"~", of.n.Changed}, {"-", of.n.Deleted}} {
			switch {
			case one.n == 1:
				parts = append(parts, one.sign+"1 "+of.what)
			case one.n > 1:
				parts = append(parts, fmt.Sprintf("%s%d %ss", one.sign, one.n, of.what))
			}
		}
	}
	if parts == nil {
		return "no difference"
	}
	return strings.Join(parts, ", ")
}

func unix(r Relation) int64 {
	if r.Expires.IsZero() {
		return 0
	}
	return r.Expires.Unix()
}

// sameContent reports whether an object has the display name and properties of a record.
func (s *Snapshot) sameContent(n number, r record) bool {
	_, _, name, properties := s.record(n).parts()
	_, _, otherName, otherProperties := r.parts()
	return name == otherName && properties == otherProperties
}

// comparison visits what a does not share with b. Both may use different numbers for objects, types and relations. A
// shared page was changed in neither since they diverged, so no number in it was reused.
type comparison struct {
	a, b  *Snapshot
	types []typeID // types of a in b; 0: missing
	rels  []relID
	alike bitset // by page: its objects are the same in b, under the same numbers
}

func newComparison(a, b *Snapshot) *comparison {
	c := &comparison{a: a, b: b, types: make([]typeID, len(a.symbols.types)), rels: make([]relID, len(a.symbols.rels))}
	for i, t := range a.symbols.types {
		c.types[i] = b.symbols.ids[t.name]
	}
	for i, r := range a.symbols.rels {
		if t := c.types[r.typ]; t != 0 {
			c.rels[i] = b.symbols.types[t].rels[r.name]
		}
	}
	return c
}

func (r rows) at(n number) *page {
	if int(n>>(pageBits+rowBits)) >= len(r) {
		return nil
	}
	return r.page(n)
}

// compare finds the pages that are alike: most of two that were loaded from files with few differences. Where the
// names have other numbers, it finds none.
func (c *comparison) compare() {
	same := len(c.a.symbols.types) == len(c.b.symbols.types) && len(c.a.symbols.rels) == len(c.b.symbols.rels)
	for i, t := range c.types {
		same = same && int(t) == i
	}
	for i, r := range c.rels {
		same = same && int(r) == i
	}
	if !same {
		return
	}
	c.alike = make(bitset, len(c.a.rows)*rowSize/64)
	each(len(c.a.rows), func(i int) {
		for j, p := range c.a.rows[i] {
			at := i<<rowBits | j
			if q := c.b.rows.at(number(at) << pageBits); p != nil && (p == q || q != nil && p.sameObjects(q)) {
				c.alike[at>>6] |= 1 << (at & 63)
			}
		}
	})
}

func (c *comparison) isAlike(n number) bool { return c.alike.has(int(n >> pageBits)) }

func (p *page) sameObjects(q *page) bool {
	if p.used != q.used || p.records != q.records {
		return false
	}
	for i := range p.starts {
		if p.starts[i].record != q.starts[i].record {
			return false
		}
	}
	return true
}

// sameRelations reports whether the relations of two pages that are alike are to the same numbers. Hubs are not
// looked at.
func (p *page) sameRelations(q *page) bool {
	if !slices.Equal(p.fwd, q.fwd) {
		return false
	}
	for i := range p.starts {
		if p.starts[i].fwd != q.starts[i].fwd || p.starts[i].fwd&isHub != 0 {
			return false
		}
	}
	return slices.Equal(side{p, false}.rest().at, side{q, false}.rest().at)
}

// unshared calls f for each object of a on a page that b does not share, and that is not skipped.
func (c *comparison) unshared(skip func(first number, p, q *page) bool, f func(n number, p *page) bool) bool {
	for i, row := range c.a.rows {
		if i < len(c.b.rows) && c.b.rows[i] == row {
			continue
		}
		for j, p := range row {
			first := number(i<<rowBits|j) << pageBits
			q := c.b.rows.at(first)
			if p == nil || q == p || q != nil && skip(first, p, q) {
				continue
			}
			if !p.slots(func(slot number) bool { return f(first|slot, p) }) {
				return false
			}
		}
	}
	return true
}

// find returns the number in b of an object of a.
func (c *comparison) find(n number) (number, bool) {
	p, q := c.a.rows.page(n), c.b.rows.at(n)
	if p == q || c.isAlike(n) {
		return n, true
	}
	t, id := p.record(n & (pageSize - 1)).head()
	t = c.types[t]
	if q != nil && q.used&(1<<(n&(pageSize-1))) != 0 && q.record(n&(pageSize-1)).is(t, id) {
		return n, true
	}
	if t == 0 {
		return 0, false
	}
	return c.b.find(t, id)
}

// objects calls f for each object of a that may differ, with its number in b.
func (c *comparison) objects(f func(n, other number, ok bool) bool) bool {
	alike := func(first number, _, _ *page) bool { return c.isAlike(first) }
	return c.unshared(alike, func(n number, p *page) bool {
		if _, id := p.record(n & (pageSize - 1)).head(); id == wildcard {
			return true
		}
		other, ok := c.find(n)
		return f(n, other, ok)
	})
}

// relations calls f for each relation of a that may differ: whether b lacks its object or subject, whether it exists
// in b, and its expiry there.
func (c *comparison) relations(f func(r Relation, missing, there bool, at int64) bool) bool {
	same := func(first number, p, q *page) bool {
		return c.isAlike(first) && p.sameRelations(q) && !slices.ContainsFunc(p.fwd, func(e edge) bool { return !c.isAlike(e.other()) })
	}
	return c.unshared(same, func(n number, p *page) bool {
		mine, theirs := p.forward(n&(pageSize-1)), edges{}
		other, known := c.find(n)
		if known {
			theirs = c.b.forward(other)
		}
		return mine.apart(theirs, func(e edge, at int64) bool {
			subject, ok := c.find(e.other())
			var there bool
			var atThere int64
			if ok && c.rels[e.rel()] != 0 && (e.sub() == 0 || c.rels[e.sub()] != 0) {
				atThere, there = theirs.find(makeEdge(c.rels[e.rel()], c.rels[e.sub()], subject))
			}
			if there && at == atThere {
				return true
			}
			return f(c.a.relation(n, e, at), !known || !ok && !c.a.isWildcard(e.other()), there, atThere)
		})
	})
}

// apart calls f for the edges that are not in memory shared by both.
func (e edges) apart(other edges, f func(e edge, at int64) bool) bool {
	if e.hub == nil {
		if other.hub == nil && same(e.list, other.list) {
			return true
		}
		return e.list.each(f)
	}
	shared := map[*edge]list{}
	if other.hub != nil {
		for _, c := range other.hub.chunks {
			shared[unsafe.SliceData(c.edges)] = c.list
		}
	}
	for _, c := range e.hub.chunks {
		if l, ok := shared[unsafe.SliceData(c.edges)]; ok && same(l, c.list) {
			continue
		}
		if !c.each(f) {
			return false
		}
	}
	return true
}

// isWildcard reports whether an object is the wildcard of its type. No change deletes it.
func (s *Snapshot) isWildcard(n number) bool { return s.idOf(n) == wildcard }

// same reports whether two lists share memory.
func same(a, b list) bool {
	return len(a.edges) == len(b.edges) && unsafe.SliceData(a.edges) == unsafe.SliceData(b.edges) && unsafe.SliceData(a.at) == unsafe.SliceData(b.at)
}

func (l list) each(f func(e edge, at int64) bool) bool {
	for i, e := range l.edges {
		if !f(e, l.expires(i)) {
			return false
		}
	}
	return true
}

// maxOrphans bounds the lists of an OrphanError.
const maxOrphans = 100

// OrphanError means that a manifest does not allow some of the directory's data.
type OrphanError struct {
	Objects   []Ref      // of types that it lacks; the first 100
	Relations []Relation // of relations that it lacks, or with subjects that it does not allow; the first 100
	Total     int        // of both
}

func (e *OrphanError) Error() string {
	var names []string
	for _, o := range e.Objects[:min(len(e.Objects), 3)] {
		names = append(names, o.String())
	}
	for _, r := range e.Relations[:min(len(e.Relations), 3)] {
		names = append(names, r.String())
	}
	if len(names) < e.Total {
		names = append(names, "...")
	}
	return fmt.Sprintf("the manifest does not allow %d objects and relations that are there: %s", e.Total, strings.Join(names, ", "))
}

// SetManifest returns the same data under another manifest. Data that it does not allow is an *OrphanError, or
// dropped with force.
func (s *Snapshot) SetManifest(m *Manifest, force bool) (*Snapshot, error) {
	y := s.symbols.with(m)
	if len(y.types) >= anyBit || len(y.rels) > 1<<16-1 {
		return nil, fmt.Errorf("%w: its manifests have named %d types and %d relations", ErrFull, len(y.types), len(y.rels))
	}
	orphans := s.needsOrphans(y)
	if orphans && !force {
		if err := s.orphans(y); err.Total > 0 {
			return nil, err
		}
	}
	t := s.begin()
	next := t.s
	next.manifest, next.symbols, next.line = m, y, nil
	next.digest.sub(digestManifest(s.manifest))
	next.digest.add(digestManifest(m))
	next.fit()
	if orphans && force {
		t.dropOrphans(s)
	}
	return t.finish(), nil
}

// needsOrphans reports whether orphans are possible: a used name is gone, or an allowed subject no longer is.
func (s *Snapshot) needsOrphans(y *symbols) bool {
	for t, n := range s.counts.objects {
		if n > 0 && !y.types[t].declared {
			return true
		}
	}
	for r, n := range s.counts.relations {
		if n == 0 {
			continue
		}
		for _, rule := range s.symbols.rels[r].subjects {
			if !slices.Contains(y.rels[r].subjects, rule) {
				return true
			}
		}
	}
	return false
}

// orphanRelation reports whether a manifest's symbols disallow a relation.
func (s *Snapshot) orphanRelation(y *symbols, e edge) bool {
	t, id := s.record(e.other()).head()
	return !y.rels[e.rel()].declared || !y.allows(e.rel(), t, e.sub(), id == wildcard)
}

func (s *Snapshot) orphans(y *symbols) *OrphanError {
	out := &OrphanError{}
	s.eachObject(func(n number, p *page) bool {
		t, id := p.record(n & (pageSize - 1)).head()
		if !y.types[t].declared && id != wildcard {
			if out.Total++; len(out.Objects) < maxOrphans {
				out.Objects = append(out.Objects, s.ref(n))
			}
		}
		span := p.forward(n & (pageSize - 1)).all()
		for e, at, ok := span.step(); ok; e, at, ok = span.step() {
			if !s.orphanRelation(y, e) {
				continue
			}
			if out.Total++; len(out.Relations) < maxOrphans {
				out.Relations = append(out.Relations, s.relation(n, e, at))
			}
		}
		return true
	})
	return out
}

// dropOrphans removes what the new symbols do not allow.
func (t *txn) dropOrphans(before *Snapshot) {
	y := t.s.symbols
	before.eachObject(func(n number, p *page) bool {
		span := p.forward(n & (pageSize - 1)).all()
		for e, _, ok := span.step(); ok; e, _, ok = span.step() {
			if before.orphanRelation(y, e) {
				t.removeEdge(n, e)
			}
		}
		return true
	})
	before.eachObject(func(n number, p *page) bool {
		typ, id := p.record(n & (pageSize - 1)).head()
		if y.types[typ].declared {
			return true
		}
		if id != wildcard {
			t.s.counts.objects[typ]--
			t.countRecord(n, false)
		}
		t.removeObject(n)
		return true
	})
}
