package directory

import (
	"fmt"
	"math"
)

// pageReader puts the relations of one page together, which come in order.
type pageReader struct {
	rows   rows
	slot   number // of the object at hand, in the page at hand
	page   *page
	object list // its relations
	list   list // those of the page's objects before it
}

// to goes on to an object's page and slot. Numbers do not fall.
func (r *pageReader) to(n number) {
	p := r.rows.page(n)
	slot := n & (pageSize - 1)
	if p == r.page && slot == r.slot {
		return
	}
	r.endObject()
	if p != r.page {
		r.endPage()
		r.page, r.slot = p, 0
	}
	for ; r.slot < slot; r.slot++ {
		p.fwd.ends[r.slot+1] = uint16(len(r.list.edges))
	}
}

func (r *pageReader) endObject() {
	if r.page == nil {
		return
	}
	if len(r.object.edges) > hubMin {
		r.page.fwd.hubs = append(r.page.fwd.hubs, slotHub{uint8(r.slot), newHub(r.object)})
	} else {
		r.list.add(r.object)
	}
	r.object.edges = r.object.edges[:0]
	r.object.at = nil
	r.page.fwd.ends[r.slot+1] = uint16(len(r.list.edges))
	r.slot++
}

func (r *pageReader) endPage() {
	if r.page == nil {
		return
	}
	d := &r.page.fwd
	for ; r.slot < pageSize; r.slot++ {
		d.ends[r.slot+1] = uint16(len(r.list.edges))
	}
	if !r.list.expiring() {
		r.list.at = nil
	}
	d.list = r.list.clone(0)
	r.list = list{edges: r.list.edges[:0]}
}

// relations reads a block of relations.
func (f *fileReader) relations(b block) error {
	c, err := b.unpack(f.decoder, f.scratch)
	if err != nil {
		return err
	}
	f.scratch = c.rest
	count := 0
	for first := true; len(c.rest) > 0 && c.err == nil; first = false {
		gap := c.upTo(math.MaxInt32, "the distance to the next object")
		if gap == 0 && !first {
			return fmt.Errorf("object %d comes twice", f.before)
		}
		n := uint64(f.before) + uint64(gap)
		if n >= uint64(f.s.next) {
			return fmt.Errorf("relations of object %d of %d", n, f.s.next)
		}
		f.before = number(n)
		f.page.to(f.before)
		for c.err == nil {
			n, err := f.run(&c)
			if err != nil {
				return fmt.Errorf("relations of %v: %w", f.s.ref(f.before), err)
			}
			if n == 0 {
				break
			}
			count += n
		}
	}
	if c.err == nil && count != int(b.count) {
		return fmt.Errorf("has %d relations, not %d as it says", count, b.count)
	}
	return c.done()
}

// run reads relations of the object at hand, and says how many.
func (f *fileReader) run(c *cursor) (int, error) {
	rel := relID(c.upTo(len(f.s.symbols.rels)-1, "a relation"))
	if rel == 0 {
		return 0, c.err
	}
	sub := relID(c.upTo(len(f.s.symbols.rels)-1, "a subject relation"))
	count := c.upTo(2*len(c.rest)+1, "a number of relations")
	if c.err == nil && count < 2 {
		c.fail(fmt.Errorf("no relations where some are due"))
	}
	l := &f.page.object
	from, subject := len(l.edges), uint64(0)
	for range count >> 1 {
		subject += uint64(c.upTo(math.MaxInt32, "the distance to the next subject"))
		if c.err != nil {
			return 0, c.err
		}
		if subject >= uint64(f.s.next) {
			return 0, fmt.Errorf("subject %d of %d", subject, f.s.next)
		}
		e := makeEdge(rel, sub, number(subject))
		if n := len(l.edges); n > 0 && l.edges[n-1] >= e {
			return 0, fmt.Errorf("relation to %v: %w, or out of order", f.s.ref(e.other()), ErrDuplicate)
		}
		if !f.allows(e) {
			return 0, fmt.Errorf("relation to %v: %w", f.s.ref(e.other()), ErrNotAllowed)
		}
		l.edges = append(l.edges, e)
		if l.at != nil {
			l.at = append(l.at, 0)
		}
	}
	if count&1 == 0 {
		return count >> 1, c.err
	}
	if l.at == nil {
		l.at = make([]int64, len(l.edges))
	}
	for i := from; i < len(l.edges); i++ {
		l.at[i] = int64(c.upTo(endOfTime, "a time"))
	}
	return count >> 1, c.err
}

// allows says whether the manifest allows an edge of the object at hand. Few kinds of edges are looked up for many edges.
func (f *fileReader) allows(e edge) bool {
	object, subject := f.types[f.before], f.types[e.other()]
	rels := f.s.symbols.rels
	if object&anyBit != 0 || !rels[e.rel()].declared || rels[e.rel()].typ != typeID(object) {
		return false
	}
	kind := e&^math.MaxUint32 | edge(subject)
	if kind == f.last {
		return f.lastAllowed
	}
	ok, looked := f.known[kind]
	if !looked {
		typ := typeID(subject &^ anyBit)
		ok = f.s.symbols.allows(e.rel(), typ, e.sub(), subject&anyBit != 0)
		f.known[kind] = ok
	}
	f.last, f.lastAllowed = kind, ok
	return ok
}
