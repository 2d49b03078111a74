package directory

import (
	"cmp"
	"runtime"
	"slices"
	"sync"
)

// Builder makes a Snapshot in bulk: all objects, then all relations. A call that returns an error changes nothing.
type Builder struct {
	s     *Snapshot
	raw   rawPart
	bytes []byte // the records of the last page
}

// NewBuilder returns a Builder. objects and relations are size hints, or 0.
func NewBuilder(m *Manifest, l Limits, objects, relations int) *Builder {
	b := &Builder{s: New(m, l)}
	b.s.ids.reserve(objects)
	b.raw.edges = make([]rawEdge, 0, min(max(relations, 0), 1<<26))
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
	p, slot := s.rows.own(n), n&(pageSize-1)
	b.bytes = appendRecord(b.bytes, t, o)
	p.records = alias(b.bytes)
	p.used |= 1 << slot
	p.starts[slot+1].record = uint32(len(b.bytes))
	s.next++
	if slot == pageSize-1 {
		b.endPage()
	}
	h := hashID(s.ids.seed, t, o.ID)
	table := s.ids.own(h)
	table.reserve(func(n number) uint64 { return hashRecord(s.ids.seed, s.record(n)) })
	table.put(h, n)
	return n
}

// endPage gives the last page its records as a copy of their own, and sets the starts of its free slots.
func (b *Builder) endPage() {
	if len(b.bytes) == 0 {
		return
	}
	p := b.s.rows.page(b.s.next - 1)
	p.records = string(b.bytes)
	b.bytes = b.bytes[:0]
	for i := 1; i <= pageSize; i++ {
		p.starts[i].record = max(p.starts[i].record, p.starts[i-1].record)
	}
}

// own is the page of a number, created if missing, of a directory under construction.
func (r *rows) own(n number) *page {
	i, j := int(n>>(pageBits+rowBits)), (n>>pageBits)&(rowSize-1)
	if i == len(*r) {
		*r = append(*r, new(row))
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
	b.raw.add(raw, at)
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
	b.endPage()
	if object, twice, found := s.rows.relate(b.parts()); found {
		return nil, &ChangeError{Index: b.second(object, twice), What: s.relation(object, twice, 0).String(), Err: ErrDuplicate}
	}
	b.raw = rawPart{}
	s.total()
	return s, nil
}

func (b *Builder) parts() (out []rawPart) {
	for from := 0; from < len(b.raw.edges); from += rawPartSize {
		to := min(from+rawPartSize, len(b.raw.edges))
		p := rawPart{edges: b.raw.edges[from:to]}
		if b.raw.at != nil {
			p.at = b.raw.at[from:to]
		}
		out = append(out, p)
	}
	return out
}

// second is the index of a relation that was added twice: of the second time.
func (b *Builder) second(object number, twice edge) int {
	index, seen := 0, false
	for i, r := range b.raw.edges {
		if r.object != object || makeEdge(r.rel, r.sub, r.subject) != twice {
			continue
		}
		if index = i; seen {
			break
		}
		seen = true
	}
	return index
}

// eachObject calls f for each object, with its page.
func (s *Snapshot) eachObject(f func(n number, p *page) bool) {
	s.rows.each(func(first number, p *page) bool {
		return p.slots(func(slot number) bool { return f(first|slot, p) })
	})
}

// rawEdge is a relation before it is sorted into the pages of its object and its subject.
type rawEdge struct {
	object, subject number
	rel, sub        relID
}

// rawPart is some relations in any order, with their expiry times; nil: none expires.
type rawPart struct {
	edges []rawEdge
	at    []int64
}

func (p *rawPart) add(e rawEdge, at int64) {
	if at != 0 && p.at == nil {
		p.at = make([]int64, len(p.edges), cap(p.edges))
	}
	p.edges = append(p.edges, e)
	if p.at != nil {
		p.at = append(p.at, at)
	}
}

// rawPartSize is how many relations a part should have, so that all cores have some.
const rawPartSize = 1 << 18

// relate fills the pages with relations. Where one comes twice, it returns that.
func (r rows) relate(parts []rawPart) (object number, twice edge, found bool) {
	if object, twice, found = r.fill(r.sort(parts, false)); found {
		return object, twice, true
	}
	r.fill(r.sort(parts, true))
	return 0, 0, false
}

// sorted is the edges of one side by row, those of row i from ends[i-1] to ends[i]. Within a row they are in any
// order; owners are their objects' numbers there.
type sorted struct {
	rev    bool
	ends   []int
	owners []uint16
	list
}

// sort sorts the relations by the rows of their objects, or of their subjects. Reading and writing along rows keeps
// to few places of memory at a time.
func (r rows) sort(parts []rawPart, rev bool) *sorted {
	counts := make([][]int, len(parts))
	expiring := false
	for _, p := range parts {
		expiring = expiring || p.at != nil
	}
	owner := func(e *rawEdge) number {
		if rev {
			return e.subject
		}
		return e.object
	}
	each(len(parts), func(i int) {
		counts[i] = make([]int, len(r))
		edges := parts[i].edges
		for j := range edges {
			counts[i][owner(&edges[j])>>(pageBits+rowBits)]++
		}
	})
	out := &sorted{rev: rev, ends: make([]int, len(r))}
	total := 0
	for row := range r {
		for i := range parts { // from now on counts are where a part's edges of the row begin
			n := counts[i][row]
			counts[i][row] = total
			total += n
		}
		out.ends[row] = total
	}
	out.owners, out.edges = make([]uint16, total), make([]edge, total)
	if expiring {
		out.at = make([]int64, total)
	}
	each(len(parts), func(i int) {
		next, edges, at := counts[i], parts[i].edges, parts[i].at
		for j := range edges {
			e := &edges[j]
			n, other := e.object, e.subject
			if rev {
				n, other = other, n
			}
			row := n >> (pageBits + rowBits)
			k := next[row]
			next[row]++
			out.owners[k], out.edges[k] = uint16(n&(pageSize*rowSize-1)), makeEdge(e.rel, e.sub, other)
			if at != nil {
				out.at[k] = at[j]
			}
		}
	})
	return out
}

// fill builds one side of all pages. Where an edge comes twice, it returns the first.
func (r rows) fill(from *sorted) (owner number, twice edge, found bool) {
	var mu sync.Mutex // guards the results
	each(len(r), func(i int) {
		first := 0
		if i > 0 {
			first = from.ends[i-1]
		}
		n, e, ok := r[i].fill(from.rev, from.owners[first:from.ends[i]], from.slice(first, from.ends[i]))
		if n += number(i) << (pageBits + rowBits); ok {
			mu.Lock()
			defer mu.Unlock()
			if !found || n < owner {
				owner, twice, found = n, e, true
			}
		}
	})
	return owner, twice, found
}

func (r *row) fill(rev bool, owners []uint16, in list) (owner number, twice edge, found bool) {
	starts := make([]uint32, pageSize*rowSize+1)
	for _, n := range owners {
		starts[n+1]++
	}
	for i := 1; i < len(starts); i++ {
		starts[i] += starts[i-1]
	}
	all := list{edges: make([]edge, len(in.edges))}
	if in.expiring() {
		all.at = make([]int64, len(in.edges))
	}
	next := slices.Clone(starts)
	for i, n := range owners {
		k := next[n]
		next[n]++
		all.edges[k] = in.edges[i]
		if all.at != nil {
			all.at[k] = in.at[i]
		}
	}
	for i, p := range r {
		if p == nil {
			break
		}
		first := i * pageSize
		if slot, e, ok := (side{p, rev}).fill(all, starts[first:first+pageSize+1]); ok && !found {
			owner, twice, found = number(first+slot), e, true
		}
	}
	return owner, twice, found
}

// fill takes a page's edges out of a list, where those of slot i are from starts[i] to starts[i+1], and sorts them.
func (d side) fill(all list, starts []uint32) (slot int, twice edge, found bool) {
	var hubs []slotHub
	var to ends
	total, expiring := 0, false
	for i := range pageSize {
		l := all.slice(int(starts[i]), int(starts[i+1]))
		l.sort()
		if e, ok := l.twice(); ok && !found {
			slot, twice, found = i, e, true
		}
		if len(l.edges) > hubMin {
			hubs = append(hubs, slotHub{uint8(i), newHub(l)})
		} else {
			total += len(l.edges)
			expiring = expiring || l.expiring()
		}
		to[i] = uint16(total)
	}
	out := list{edges: make([]edge, 0, total)}
	if expiring {
		out.at = make([]int64, 0, total)
	}
	rest := hubs
	for i := range pageSize {
		if len(rest) > 0 && int(rest[0].slot) == i {
			rest = rest[1:]
			continue
		}
		l := all.slice(int(starts[i]), int(starts[i+1]))
		if !expiring {
			l.at = nil
		}
		out.add(l)
	}
	d.set(out, &to, hubs)
	return slot, twice, found
}

func (l list) expiring() bool {
	return slices.ContainsFunc(l.at, func(at int64) bool { return at != 0 })
}

func (l list) sort() {
	if slices.IsSorted(l.edges) {
		return
	}
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

// twice is an edge that a sorted list has twice.
func (l list) twice() (edge, bool) {
	for i := 1; i < len(l.edges); i++ {
		if l.edges[i] == l.edges[i-1] {
			return l.edges[i], true
		}
	}
	return 0, false
}

// each calls f for 0 to n-1, on all cores.
func each(n int, f func(i int)) {
	var work parallel
	workers := min(runtime.GOMAXPROCS(0), n)
	for w := range workers {
		work.run(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	work.wait()
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
