package directory

import (
	"cmp"
	"slices"
)

const (
	hubMin   = 128 // lists that are longer live in a hub of their own, so that a change of one does not copy it whole
	hubBack  = 64  // hubs that are shorter become plain lists again
	hubChunk = 512 // edges in a chunk after a bulk build; a chunk that grows to twice that is split
)

// edge is a relation as it is stored with one of its objects: relation, subject relation, and the object at the other end. Sorted edges have
// those of one relation and subject relation side by side.
type edge uint64

func makeEdge(rel, sub relID, other number) edge {
	return edge(rel)<<48 | edge(sub)<<32 | edge(other)
}

func (e edge) rel() relID    { return relID(e >> 48) }
func (e edge) sub() relID    { return relID(e >> 32) }
func (e edge) other() number { return number(e) }

// list is sorted edges with the times at which they expire: nil where none does, else one for each edge, 0 for never.
type list struct {
	edges []edge
	at    []int64
}

// search finds e, or where it belongs.
func (l list) search(e edge) (int, bool) { return slices.BinarySearch(l.edges, e) }

func (l list) slice(from, to int) list {
	if l.at == nil {
		return list{edges: l.edges[from:to]}
	}
	return list{l.edges[from:to], l.at[from:to]}
}

// expires is when edge i expires; 0: never.
func (l list) expires(i int) int64 {
	if l.at == nil {
		return 0
	}
	return l.at[i]
}

// clone copies l, with room for n more.
func (l list) clone(n int) list {
	out := list{edges: append(make([]edge, 0, len(l.edges)+n), l.edges...)}
	if l.at != nil {
		out.at = append(make([]int64, 0, len(l.at)+n), l.at...)
	}
	return out
}

// insert puts e at place i of a list that nobody else reads.
func (l *list) insert(i int, e edge, at int64) {
	if at != 0 && l.at == nil {
		l.at = make([]int64, len(l.edges), cap(l.edges))
	}
	l.edges = slices.Insert(l.edges, i, e)
	if l.at != nil {
		l.at = slices.Insert(l.at, i, at)
	}
}

// remove takes out the edge at place i of a list that nobody else reads.
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

// expired says whether a relation that expires at this time has by now.
func expired(at, now int64) bool { return at != 0 && at <= now }

// hub is a long list in chunks. No chunk is empty.
type hub struct {
	n      int
	chunks []chunk
}

type chunk struct {
	list
	before int // how many edges are in the chunks before it
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

// chunkOf is the chunk in which e is, or into which it belongs.
func (h *hub) chunkOf(e edge) int {
	i, found := slices.BinarySearchFunc(h.chunks, e, func(c chunk, e edge) int { return cmp.Compare(c.edges[0], e) })
	if !found && i > 0 {
		i--
	}
	return i
}

// search finds e: its chunk and its place there.
func (h *hub) search(e edge) (c, i int, ok bool) {
	c = h.chunkOf(e)
	i, ok = h.chunks[c].search(e)
	return c, i, ok
}

// from is how many edges are less than e.
func (h *hub) from(e edge) int {
	c, _ := slices.BinarySearchFunc(h.chunks, e, func(c chunk, e edge) int { return cmp.Compare(c.edges[0], e) })
	if c > 0 { // in the chunk before, edges may be equal to e: times are more than once in their list
		c--
	}
	i, _ := h.chunks[c].search(e)
	return h.chunks[c].before + i
}

// flat is all of it as one list, copied.
func (h *hub) flat() list {
	out := list{edges: make([]edge, 0, h.n)}
	for _, c := range h.chunks {
		out.add(c.list)
	}
	return out
}
