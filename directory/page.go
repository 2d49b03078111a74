package directory

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"strings"
	"unsafe"
)

const (
	pageBits = 6
	pageSize = 1 << pageBits // objects on a page
	rowBits  = 8
	rowSize  = 1 << rowBits // pages in a row
)

// page holds the objects of 64 numbers with their relations. It is immutable. It has few pointers, to keep garbage
// collection cheap: millions of objects are a hundred thousand pages. What a question reads of it is in two cache
// lines: the first one, and that with the object's starts.
type page struct {
	records string // in sequence
	fwd     []edge // the relations of these objects, in sequence
	rev     []edge // the relations of which they are the subject
	used    uint64 // bit set of the numbers in use
	more    *pageMore
	starts  [pageSize + 1]starts // by slot; the last one is the end
}

// starts are where the record and the lists of a slot begin.
type starts struct {
	record   uint32
	fwd, rev start
}

// start is an index, and what there is to know of the list. A page has at most 64 times 128 edges; longer lists are
// hubs.
type start uint16

const (
	isHub   start = 1 << 15 // the list is a hub, in more
	expires start = 1 << 14 // some of the list's relations expire
	index   start = expires - 1
)

// pageMore is what most pages do not have.
type pageMore struct{ fwd, rev sideMore }

// sideMore is the expiry times of a side's edges (nil where none expires), and its hubs by slot.
type sideMore struct {
	at   []int64
	hubs []slotHub
}

type slotHub struct {
	slot uint8
	hub  *hub
}

// of returns a slot's list, whose edges and start are known. Where something expires or there is a hub, more has it.
func (m *sideMore) of(slot number, of []edge, from start) edges {
	if from&isHub == 0 {
		i := int(from & index)
		return edges{list: list{of, m.at[i : i+len(of)]}}
	}
	for _, h := range m.hubs {
		if number(h.slot) == slot {
			return edges{hub: h.hub}
		}
	}
	return edges{}
}

// forward are the relations of the object in a slot.
func (p *page) forward(slot number) edges {
	from, to := p.starts[slot].fwd, p.starts[slot+1].fwd
	l := p.fwd[from&index : to&index]
	if from > index {
		return p.more.fwd.of(slot, l, from)
	}
	return edges{list: list{edges: l}}
}

// reverse are the relations of which it is the subject.
func (p *page) reverse(slot number) edges {
	from, to := p.starts[slot].rev, p.starts[slot+1].rev
	l := p.rev[from&index : to&index]
	if from > index {
		return p.more.rev.of(slot, l, from)
	}
	return edges{list: list{edges: l}}
}

// side is one direction of a page's relations.
type side struct {
	*page
	rev bool
}

func (d side) of(slot number) edges {
	if d.rev {
		return d.page.reverse(slot)
	}
	return d.forward(slot)
}

// lists are the lists of all slots that are no hubs.
func (d side) lists() list {
	l := list{edges: d.fwd}
	if d.rev {
		l.edges = d.page.rev
	}
	l.at = d.rest().at
	return l
}

func (d side) rest() sideMore {
	switch {
	case d.more == nil:
		return sideMore{}
	case d.rev:
		return d.more.rev
	}
	return d.more.fwd
}

func (d side) start(slot number) int {
	if d.rev {
		return int(d.starts[slot].rev & index)
	}
	return int(d.starts[slot].fwd & index)
}

// ends are the index after each slot's list.
type ends [pageSize]uint16

// set replaces the lists of a page that is not shared yet.
func (d side) set(l list, ends *ends, hubs []slotHub) {
	rest := pageMore{}
	if d.more != nil {
		rest = *d.more // it may be shared
	}
	if d.rev {
		d.page.rev, rest.rev = l.edges, sideMore{l.at, hubs}
	} else {
		d.fwd, rest.fwd = l.edges, sideMore{l.at, hubs}
	}
	d.more = nil
	if rest.fwd.at != nil || rest.rev.at != nil || rest.fwd.hubs != nil || rest.rev.hubs != nil {
		d.more = &pageMore{rest.fwd, rest.rev}
	}
	from := 0
	for slot, to := range ends {
		x := start(from)
		if l.at != nil && l.slice(from, int(to)).expiring() {
			x |= expires
		}
		if len(hubs) > 0 && int(hubs[0].slot) == slot {
			x |= isHub
			hubs = hubs[1:]
		}
		d.setStart(slot, x)
		from = int(to)
	}
	d.setStart(pageSize, start(from))
}

func (d side) setStart(slot int, x start) {
	if d.rev {
		d.starts[slot].rev = x
	} else {
		d.starts[slot].fwd = x
	}
}

func (p *page) record(slot number) record {
	return record(p.records[p.starts[slot].record:p.starts[slot+1].record])
}

// size is the approximate size of a page in bytes.
func (p *page) size() int64 {
	n := int64(unsafe.Sizeof(*p)) + int64(len(p.records)+8*(len(p.fwd)+len(p.rev)))
	if p.more == nil {
		return n
	}
	n += int64(unsafe.Sizeof(*p.more))
	for _, d := range [...]*sideMore{&p.more.fwd, &p.more.rev} {
		n += int64(8 * len(d.at))
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
type rows []*row

// row is the pages of a row.
type row [rowSize]*page

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
type record string

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

// uvarint cuts a number off, as binary.Uvarint would. The record is known to be well formed.
func (r record) uvarint() (v uint64, rest record) {
	if b := r[0]; b < 0x80 {
		return uint64(b), r[1:]
	}
	for i, shift := 0, 0; ; i, shift = i+1, shift+7 {
		v |= uint64(r[i]&0x7f) << shift
		if r[i] < 0x80 {
			return v, r[i+1:]
		}
	}
}

// is reports whether the record has that type and id. An unused number's has none.
func (r record) is(t typeID, id string) bool {
	if len(r) == 0 {
		return false
	}
	have, rest := r.head()
	return have == t && rest == id
}

// head returns type and id. They alias the record.
func (r record) head() (typeID, string) {
	t, id, _ := r.cut()
	return t, id
}

func (r record) cut() (t typeID, id string, rest record) {
	u, r := r.uvarint()
	n, r := r.uvarint()
	return typeID(u), string(r[:n]), r[n:]
}

// parts returns all fields. They alias the record.
func (r record) parts() (t typeID, id, name, properties string) {
	t, id, r = r.cut()
	n, r := r.uvarint()
	return t, id, string(r[:n]), string(r[n:])
}

// object decodes the record into an independent Object.
func (r record) object(y *symbols) Object {
	t, id, name, properties := r.parts()
	o := Object{Ref: Ref{y.typeName(t), strings.Clone(id)}, DisplayName: strings.Clone(name)}
	if len(properties) > 0 {
		o.Properties = []byte(properties)
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
	return e.between(from, beyond(from))
}

// beyond is after all edges with the relation and subject relation of from.
func beyond(from edge) edge {
	if until := from + 1<<32; until > from {
		return until
	}
	return math.MaxUint64
}

// linear is up to how many edges a linear search is faster.
const linear = 16

func (e edges) between(from, until edge) span {
	if e.hub == nil {
		i, j := bounds(e.edges, from, until)
		return span{list: e.slice(i, j), left: j - i}
	}
	c, i, before := e.hub.from(from)
	_, _, to := e.hub.from(until)
	if before == to {
		return span{}
	}
	l := e.hub.chunks[c].list
	_, j := bounds(l.edges, 0, until)
	return span{list: l.slice(i, max(i, j)), rest: e.hub.chunks[c+1:], until: until, left: to - before}
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
