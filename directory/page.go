package directory

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"unsafe"
)

const (
	pageBits = 6
	pageSize = 1 << pageBits // objects on a page
	rowBits  = 8
	rowSize  = 1 << rowBits // pages in a row
)

// page holds the objects of 64 numbers with their relations. It is immutable. It has few pointers, to keep garbage
// collection cheap: millions of objects are a hundred thousand pages.
type page struct {
	used  uint64 // bit set of the numbers in use
	ends  [pageSize + 1]uint32
	bytes []byte // the records in sequence; that of slot i is bytes[ends[i]:ends[i+1]]
	fwd   side   // relations of these objects
	rev   side   // relations of which they are the subject
}

// side is the relations of a page's objects in one direction.
type side struct {
	ends [pageSize + 1]uint16 // a page has at most 64 times 128 edges; longer lists are hubs
	list
	hubs []slotHub // by slot
}

type slotHub struct {
	slot uint8
	hub  *hub
}

func (d *side) of(slot number) edges {
	for _, h := range d.hubs {
		if number(h.slot) == slot {
			return edges{hub: h.hub}
		}
	}
	return edges{list: d.slice(int(d.ends[slot]), int(d.ends[slot+1]))}
}

func (p *page) record(slot number) record { return p.bytes[p.ends[slot]:p.ends[slot+1]] }

// size is the approximate size of a page in bytes.
func (p *page) size() int64 {
	n := int64(unsafe.Sizeof(*p)) + int64(len(p.bytes))
	for _, d := range [...]*side{&p.fwd, &p.rev} {
		n += int64(8 * (len(d.edges) + len(d.at)))
		for _, h := range d.hubs {
			n += int64(unsafe.Sizeof(h))
			for _, c := range h.hub.chunks {
				n += int64(unsafe.Sizeof(c)) + int64(8*(len(c.edges)+len(c.at)))
			}
		}
	}
	return n
}

// rows are the pages by number, in two levels so that a change copies little.
type rows []*[rowSize]*page

func (r rows) page(n number) *page {
	return r[n>>(pageBits+rowBits)][(n>>pageBits)&(rowSize-1)]
}

// each calls f for every page, with its first number.
func (r rows) each(f func(first number, p *page) bool) {
	for i, row := range r {
		for j, p := range row {
			if p != nil && !f(number(i<<rowBits|j)<<pageBits, p) {
				return
			}
		}
	}
}

// slots calls f for each object of a page.
func (p *page) slots(f func(slot number) bool) bool {
	for used := p.used; used != 0; used &= used - 1 {
		if !f(number(bits.TrailingZeros64(used))) {
			return false
		}
	}
	return true
}

// record is an encoded object: type, length-prefixed id and display name, and properties.
type record []byte

// wildcard is the id of the object that represents all of its type as a subject. Listings omit it.
const wildcard = "*"

func appendRecord(dst []byte, t typeID, o *Object) []byte {
	dst = binary.AppendUvarint(dst, uint64(t))
	dst = binary.AppendUvarint(dst, uint64(len(o.ID)))
	dst = append(dst, o.ID...)
	dst = binary.AppendUvarint(dst, uint64(len(o.DisplayName)))
	dst = append(dst, o.DisplayName...)
	return append(dst, o.Properties...)
}

// uvarint is binary.Uvarint, faster for small numbers.
func uvarint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return binary.Uvarint(b)
}

// is reports whether the record has that type and id.
func (r record) is(t typeID, id string) bool {
	have, rest := r.head()
	return have == t && string(rest) == id
}

// head returns type and id.
func (r record) head() (typeID, []byte) {
	t, i := uvarint(r)
	n, j := uvarint(r[i:])
	i += j
	return typeID(t), r[i : i+int(n)]
}

// parts returns all fields; they alias the record.
func (r record) parts() (t typeID, id, name, properties []byte) {
	u, i := uvarint(r)
	n, j := uvarint(r[i:])
	i += j
	id = r[i : i+int(n)]
	i += int(n)
	n, j = uvarint(r[i:])
	i += j
	return typeID(u), id, r[i : i+int(n)], r[i+int(n):]
}

// object decodes the record into an independent Object.
func (r record) object(y *symbols) Object {
	t, id, name, properties := r.parts()
	o := Object{Ref: Ref{y.typeName(t), string(id)}, DisplayName: string(name)}
	if len(properties) > 0 {
		o.Properties = slices.Clone(properties)
	}
	return o
}

// edges are the relations of one object in one direction.
type edges struct {
	list      // a short one
	hub  *hub // a long one
}

func (e edges) len() int {
	if e.hub != nil {
		return e.hub.n
	}
	return len(e.edges)
}

func (e edges) empty() bool { return e.len() == 0 }

// has reports whether the relation exists and has not expired.
func (e edges) has(rel, sub relID, other number, now int64) bool {
	at, ok := e.find(makeEdge(rel, sub, other))
	return ok && !expired(at, now)
}

// find returns an edge's expiry, and whether it exists.
func (e edges) find(x edge) (at int64, ok bool) {
	if e.hub != nil {
		c, i, ok := e.hub.search(x)
		if !ok {
			return 0, false
		}
		return e.hub.chunks[c].expires(i), true
	}
	i, ok := e.search(x)
	if !ok {
		return 0, false
	}
	return e.expires(i), true
}

// span iterates the edges of one relation and subject relation in order. It is a value and does not allocate.
type span struct {
	list          // the rest of the current chunk
	rest  []chunk // the chunks after it
	until edge    // exclusive upper bound
	left  int
}

// all is every edge, in order.
func (e edges) all() span { return e.between(0, math.MaxUint64) }

// span is the edges with this relation and this subject relation.
func (e edges) span(rel, sub relID) span {
	from := makeEdge(rel, sub, 0)
	return e.between(from, from+1<<32)
}

// linear is up to how many edges a linear search is faster.
const linear = 16

func (e edges) between(from, until edge) span {
	if until < from { // beyond the last relation
		until = math.MaxUint64
	}
	if e.hub == nil {
		i, j := bounds(e.edges, from, until)
		return span{list: e.slice(i, j), left: j - i}
	}
	h := e.hub
	n := h.from(until) - h.from(from)
	if n == 0 {
		return span{}
	}
	c, i, _ := h.search(from)
	l := h.chunks[c].list
	_, j := bounds(l.edges, 0, until)
	return span{list: l.slice(i, max(i, j)), rest: h.chunks[c+1:], until: until, left: n}
}

// bounds are the indices of the first edges not less than from, and than until.
func bounds(l []edge, from, until edge) (int, int) {
	if len(l) <= linear {
		i := 0
		for i < len(l) && l[i] < from {
			i++
		}
		j := i
		for j < len(l) && l[j] < until {
			j++
		}
		return i, j
	}
	i, _ := list{edges: l}.search(from)
	j, _ := list{edges: l[i:]}.search(until)
	return i, i + j
}

// len is the number of remaining edges, expired ones included.
func (s *span) len() int { return s.left }

// next returns the next object whose relation has not expired.
func (s *span) next(now int64) (number, bool) {
	e, ok := s.nextEdge(now)
	return e.other(), ok
}

// nextEdge returns the next edge that has not expired.
func (s *span) nextEdge(now int64) (edge, bool) {
	for {
		e, at, ok := s.step()
		if !ok || !expired(at, now) {
			return e, ok
		}
	}
}

// step returns the next edge, expired or not.
func (s *span) step() (e edge, at int64, ok bool) {
	for len(s.edges) == 0 {
		if len(s.rest) == 0 {
			return 0, 0, false
		}
		l := s.rest[0].list
		s.rest = s.rest[1:]
		_, n := bounds(l.edges, 0, s.until)
		if n < len(l.edges) {
			s.rest = nil
		}
		s.list = l.slice(0, n)
	}
	e, s.edges = s.edges[0], s.edges[1:]
	if s.at != nil {
		at, s.at = s.at[0], s.at[1:]
	}
	s.left--
	return e, at, true
}

const (
	hubMin   = 128 // longer lists become hubs, so that a change does not copy the complete list
	hubBack  = 64  // shorter hubs become lists again
	hubChunk = 512 // edges per chunk after a bulk build; a chunk is split at twice that
)

// edge is a relation as stored with one of its objects: relation, subject relation, and the object at the other end.
// Sorting groups edges by relation and subject relation.
type edge uint64

func makeEdge(rel, sub relID, other number) edge {
	return edge(rel)<<48 | edge(sub)<<32 | edge(other)
}

func (e edge) rel() relID    { return relID(e >> 48) }
func (e edge) sub() relID    { return relID(e >> 32) }
func (e edge) other() number { return number(e) }

// list is sorted edges with their expiry times: nil where none expires, else one per edge, 0 for never.
type list struct {
	edges []edge
	at    []int64
}

// search returns the index of e, or where to insert it.
func (l list) search(e edge) (int, bool) { return slices.BinarySearch(l.edges, e) }

func (l list) slice(from, to int) list {
	if l.at == nil {
		return list{edges: l.edges[from:to]}
	}
	return list{l.edges[from:to], l.at[from:to]}
}

// expires is the expiry of edge i; 0: never.
func (l list) expires(i int) int64 {
	if l.at == nil {
		return 0
	}
	return l.at[i]
}

// clone copies l, with capacity for n more.
func (l list) clone(n int) list {
	out := list{edges: append(make([]edge, 0, len(l.edges)+n), l.edges...)}
	if l.at != nil {
		out.at = append(make([]int64, 0, len(l.at)+n), l.at...)
	}
	return out
}

// insert inserts e at index i of a list that is not shared.
func (l *list) insert(i int, e edge, at int64) {
	if at != 0 && l.at == nil {
		l.at = make([]int64, len(l.edges), cap(l.edges))
	}
	l.edges = slices.Insert(l.edges, i, e)
	if l.at != nil {
		l.at = slices.Insert(l.at, i, at)
	}
}

// remove removes the edge at index i of a list that is not shared.
func (l *list) remove(i int) {
	l.edges = slices.Delete(l.edges, i, i+1)
	if l.at != nil {
		l.at = slices.Delete(l.at, i, i+1)
	}
}

// add appends all of more.
func (l *list) add(more list) {
	if more.at != nil && l.at == nil {
		l.at = make([]int64, len(l.edges), cap(l.edges))
	}
	l.edges = append(l.edges, more.edges...)
	switch {
	case more.at != nil:
		l.at = append(l.at, more.at...)
	case l.at != nil:
		l.at = append(l.at, make([]int64, len(more.edges))...)
	}
}

// expired reports whether an expiry time has passed.
func expired(at, now int64) bool { return at != 0 && at <= now }

// hub is a long list in chunks. No chunk is empty.
type hub struct {
	n      int
	chunks []chunk
}

type chunk struct {
	list
	before int // number of edges in the previous chunks
}

// newHub splits a list. It copies.
func newHub(l list) *hub {
	h := &hub{}
	for from := 0; from < len(l.edges); from += hubChunk {
		to := min(from+hubChunk, len(l.edges))
		part := l.slice(from, to)
		if !part.expiring() {
			part.at = nil
		}
		h.chunks = append(h.chunks, chunk{list: part.clone(0)})
	}
	h.count()
	return h
}

func (h *hub) count() {
	h.n = 0
	for i := range h.chunks {
		h.chunks[i].before = h.n
		h.n += len(h.chunks[i].edges)
	}
}

// chunkOf is the chunk that contains e, or where it would be inserted.
func (h *hub) chunkOf(e edge) int {
	i, found := slices.BinarySearchFunc(h.chunks, e, func(c chunk, e edge) int { return cmp.Compare(c.edges[0], e) })
	if !found && i > 0 {
		i--
	}
	return i
}

// search finds e: its chunk and index there.
func (h *hub) search(e edge) (c, i int, ok bool) {
	c = h.chunkOf(e)
	i, ok = h.chunks[c].search(e)
	return c, i, ok
}

// from is the number of edges less than e.
func (h *hub) from(e edge) int {
	c, _ := slices.BinarySearchFunc(h.chunks, e, func(c chunk, e edge) int { return cmp.Compare(c.edges[0], e) })
	if c > 0 { // the previous chunk may contain equal edges: the list of times has duplicates
		c--
	}
	i, _ := h.chunks[c].search(e)
	return h.chunks[c].before + i
}

// flat is the hub as one list, copied.
func (h *hub) flat() list {
	out := list{edges: make([]edge, 0, h.n)}
	for _, c := range h.chunks {
		out.add(c.list)
	}
	return out
}

// timesChunk is larger than hubChunk: all expiry times are in one list.
const timesChunk = 4096

// newTimes is the hub of sorted expiry times. A time occurs once for each relation that expires then.
func newTimes(times []edge) *hub {
	if len(times) == 0 {
		return nil
	}
	h := &hub{}
	for part := range slices.Chunk(times, timesChunk) {
		h.chunks = append(h.chunks, chunk{list: list{edges: slices.Clone(part)}})
	}
	h.count()
	return h
}

// changeTimes adds and removes expiry times.
func changeTimes(times *hub, come, gone []edge) *hub {
	if len(come) == 0 && len(gone) == 0 {
		return times
	}
	if times == nil {
		times = &hub{}
	}
	h := newDraftHub(times, timesChunk)
	for _, at := range come {
		c, i, _ := h.find(at)
		h.insert(c, i, at, 0)
	}
	for _, at := range gone {
		if c, i, ok := h.find(at); ok {
			h.remove(c, i)
		}
	}
	if h.n == 0 {
		return nil
	}
	return h.freeze()
}
