package directory

import (
	"cmp"
	"runtime"
	"slices"
	"sync"
)

// Builder makes a Snapshot in bulk: all objects, then all relations. A call that returns an error changes nothing.
type Builder struct {
	s   *Snapshot
	raw []rawEdge
	at  []int64 // expiry times; nil while none expires
}

// rawEdge is a relation before sorting.
type rawEdge struct {
	object, subject number
	rel, sub        relID
}

// NewBuilder returns a Builder. objects and relations are size hints, or 0.
func NewBuilder(m *Manifest, l Limits, objects, relations int) *Builder {
	b := &Builder{s: New(m, l)}
	b.s.ids.reserve(objects)
	b.raw = make([]rawEdge, 0, min(max(relations, 0), 1<<26))
	return b
}

// reserve allocates room for n objects.
func (d *ids) reserve(n int) {
	if n < 1<<tableBits {
		return
	}
	n = bucketsFor((n >> tableBits) * 9 / 8)
	for i := range d.rows {
		d.rows[i] = new([1 << tableRow]idTable)
		for j := range d.rows[i] {
			d.rows[i][j].buckets = make([]bucket, n)
		}
	}
}

// AddObject adds an object. Its type and id must be unique.
func (b *Builder) AddObject(o Object) error {
	t, err := b.s.symbols.object(&o)
	if err != nil {
		return err
	}
	if _, ok := b.s.find(t, o.ID); ok {
		return ErrDuplicate
	}
	if b.s.next == maxObjects {
		return ErrFull
	}
	b.add(t, &o)
	return nil
}

func (b *Builder) add(t typeID, o *Object) number {
	s, n := b.s, b.s.next
	p := s.rows.own(n)
	p.bytes = appendRecord(p.bytes, t, o)
	slot := n & (pageSize - 1)
	p.used |= 1 << slot
	p.ends[slot+1] = uint32(len(p.bytes))
	if slot == pageSize-1 {
		p.bytes = slices.Clip(slices.Clone(p.bytes))
	}
	s.next++
	h := hashID(s.ids.seed, t, o.ID)
	table := s.ids.own(h)
	table.reserve(func(n number) uint64 { return hashRecord(s.ids.seed, s.record(n)) })
	table.put(h, n)
	return n
}

// own is the page of a number, created if missing, of a directory under construction.
func (r *rows) own(n number) *page {
	i, j := int(n>>(pageBits+rowBits)), (n>>pageBits)&(rowSize-1)
	if i == len(*r) {
		*r = append(*r, new([rowSize]*page))
	}
	p := (*r)[i][j]
	if p == nil {
		p = &page{}
		(*r)[i][j] = p
	}
	return p
}

// AddRelation adds a relation between added objects. Finish detects duplicates.
func (b *Builder) AddRelation(r Relation) error {
	raw, at, err := b.resolve(&r)
	if err != nil {
		return err
	}
	if at != 0 && b.at == nil {
		b.at = make([]int64, len(b.raw), cap(b.raw))
	}
	b.raw = append(b.raw, raw)
	if b.at != nil {
		b.at = append(b.at, at)
	}
	return nil
}

func (b *Builder) resolve(r *Relation) (raw rawEdge, at int64, err error) {
	s := b.s
	x, err := s.symbols.relation(r)
	if err != nil {
		return raw, 0, err
	}
	object, ok := s.find(x.object, r.Object.ID)
	if !ok {
		return raw, 0, missing(r.Object)
	}
	subject, ok := s.find(x.subject, r.Subject.ID)
	if !ok && r.Subject.ID == wildcard {
		subject, ok = b.add(x.subject, &Object{Ref: r.Subject}), true
	}
	if !ok {
		return raw, 0, missing(r.Subject)
	}
	return rawEdge{object, subject, x.rel, x.sub}, x.at, nil
}

// Finish sorts the relations and makes the Snapshot. The Builder cannot be used afterwards. A relation added twice is
// a ChangeError, whose Index counts relations in the order of AddRelation.
func (b *Builder) Finish(revision uint64) (*Snapshot, error) {
	s := b.s
	s.revision = revision
	s.rows.seal()
	s.rows.fill(s.next, false, b.forward)
	if err := b.duplicate(); err != nil {
		return nil, err
	}
	b.raw, b.at = nil, nil
	s.rows.fill(s.next, true, s.backward)
	s.total()
	return s, nil
}

// seal sets the ends of the unused slots, and the size of the last page.
func (r rows) seal() {
	r.each(func(_ number, p *page) bool {
		p.bytes = slices.Clip(p.bytes)
		for i := 1; i <= pageSize; i++ {
			p.ends[i] = max(p.ends[i], p.ends[i-1])
		}
		return true
	})
}

// duplicate finds a relation added twice.
func (b *Builder) duplicate() error {
	var object number
	var twice edge
	found := false
	b.s.eachObject(func(n number, p *page) bool {
		span := p.fwd.of(n & (pageSize - 1)).all()
		last, _, ok := span.step()
		for ok {
			var e edge
			if e, _, ok = span.step(); ok && e == last {
				object, twice, found = n, e, true
				return false
			}
			last = e
		}
		return true
	})
	if !found {
		return nil
	}
	index, seen := 0, false
	for i, r := range b.raw {
		if r.object != object || makeEdge(r.rel, r.sub, r.subject) != twice {
			continue
		}
		if index = i; seen {
			break
		}
		seen = true
	}
	return &ChangeError{Index: index, What: b.s.relation(object, twice, 0).String(), Err: ErrDuplicate}
}

// eachObject calls f for each object, with its page.
func (s *Snapshot) eachObject(f func(n number, p *page) bool) {
	s.rows.each(func(first number, p *page) bool {
		return p.slots(func(slot number) bool { return f(first|slot, p) })
	})
}

// source calls emit for every edge whose owner is in [lo, hi): with the owner, the edge and its expiry.
type source func(lo, hi number, emit func(owner number, e edge, at int64))

func (b *Builder) forward(lo, hi number, emit func(number, edge, int64)) {
	for i := range b.raw {
		r := &b.raw[i]
		if r.object < lo || r.object >= hi {
			continue
		}
		at := int64(0)
		if b.at != nil {
			at = b.at[i]
		}
		emit(r.object, makeEdge(r.rel, r.sub, r.subject), at)
	}
}

// backward emits the same relations from their subjects' side.
func (s *Snapshot) backward(lo, hi number, emit func(number, edge, int64)) {
	s.eachObject(func(n number, p *page) bool {
		span := p.fwd.of(n & (pageSize - 1)).all()
		for e, at, ok := span.step(); ok; e, at, ok = span.step() {
			if o := e.other(); o >= lo && o < hi {
				emit(o, makeEdge(e.rel(), e.sub(), n), at)
			}
		}
		return true
	})
}

// fill builds one side of all pages from edges in any order. Workers divide the pages, and each scans all edges.
func (r rows) fill(next number, rev bool, from source) {
	pages := int(next+pageSize-1) >> pageBits
	workers := min(runtime.GOMAXPROCS(0), 1+pages/64)
	each := (pages + workers - 1) / workers
	var work parallel
	for w := range workers {
		lo, hi := min(w*each, pages), min((w+1)*each, pages)
		work.run(func() { r.fillRange(number(lo)<<pageBits, number(hi)<<pageBits, rev, from) })
	}
	work.wait()
}

func (r rows) fillRange(lo, hi number, rev bool, from source) {
	ends := make([]uint32, hi-lo+1)
	expiring := false
	from(lo, hi, func(n number, _ edge, at int64) {
		ends[n-lo+1]++
		expiring = expiring || at != 0
	})
	for i := 1; i < len(ends); i++ {
		ends[i] += ends[i-1]
	}
	all := list{edges: make([]edge, ends[hi-lo])}
	if expiring {
		all.at = make([]int64, ends[hi-lo])
	}
	next := slices.Clone(ends)
	from(lo, hi, func(n number, e edge, at int64) {
		i := next[n-lo]
		next[n-lo]++
		all.edges[i] = e
		if expiring {
			all.at[i] = at
		}
	})
	for first := lo; first < hi; first += pageSize {
		p := r.page(first)
		d := &p.fwd
		if rev {
			d = &p.rev
		}
		d.fill(all, ends[first-lo:first-lo+pageSize+1])
	}
}

// fill sorts a page's edges out of a list, where those of slot i are from ends[i] to ends[i+1].
func (d *side) fill(all list, ends []uint32) {
	total, expiring := 0, false
	for i := range pageSize {
		l := all.slice(int(ends[i]), int(ends[i+1]))
		l.sort()
		if len(l.edges) > hubMin {
			d.hubs = append(d.hubs, slotHub{uint8(i), newHub(l)})
			continue
		}
		total += len(l.edges)
		expiring = expiring || l.expiring()
	}
	d.edges = make([]edge, 0, total)
	if expiring {
		d.at = make([]int64, 0, total)
	}
	h := 0
	for i := range pageSize {
		if h < len(d.hubs) && int(d.hubs[h].slot) == i {
			h++
		} else {
			l := all.slice(int(ends[i]), int(ends[i+1]))
			if !expiring {
				l.at = nil
			}
			d.add(l)
		}
		d.ends[i+1] = uint16(len(d.edges))
	}
}

func (l list) expiring() bool {
	return slices.ContainsFunc(l.at, func(at int64) bool { return at != 0 })
}

func (l list) sort() {
	if !l.expiring() {
		slices.Sort(l.edges)
		return
	}
	type pair struct {
		e  edge
		at int64
	}
	pairs := make([]pair, len(l.edges))
	for i, e := range l.edges {
		pairs[i] = pair{e, l.at[i]}
	}
	slices.SortFunc(pairs, func(a, b pair) int { return cmp.Compare(a.e, b.e) })
	for i, p := range pairs {
		l.edges[i], l.at[i] = p.e, p.at
	}
}

// parallel runs parts of one job concurrently. A panic ends its part only; wait then panics in the caller's
// goroutine, which can recover, instead of ending the process.
type parallel struct {
	wg       sync.WaitGroup
	once     sync.Once
	panicked any
}

func (p *parallel) run(part func()) {
	p.wg.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				p.note(v)
			}
		}()
		part()
	})
}

// note keeps the first panic.
func (p *parallel) note(v any) { p.once.Do(func() { p.panicked = v }) }

func (p *parallel) wait() {
	p.wg.Wait()
	if p.panicked != nil {
		panic(p.panicked)
	}
}
