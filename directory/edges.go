package directory

import "math"

// edges are the relations of one object in one direction.
type edges struct {
	list      // where they are few
	hub  *hub // where they are many
}

func (e edges) len() int {
	if e.hub != nil {
		return e.hub.n
	}
	return len(e.edges)
}

func (e edges) empty() bool { return e.len() == 0 }

// has says whether the relation is there and has not expired.
func (e edges) has(rel, sub relID, other number, now int64) bool {
	at, ok := e.find(makeEdge(rel, sub, other))
	return ok && !expired(at, now)
}

// find says when an edge expires, and whether it is there.
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

// span is the edges of one relation and subject relation, in order of their numbers. It is a value and is iterated without allocation.
type span struct {
	list          // what is left of the chunk at hand
	rest  []chunk // the chunks after it
	until edge    // the first edge that does not belong to it
	left  int
}

// all is every edge, in order.
func (e edges) all() span { return e.between(0, math.MaxUint64) }

// span is the edges with this relation and this subject relation.
func (e edges) span(rel, sub relID) span {
	from := makeEdge(rel, sub, 0)
	return e.between(from, from+1<<32)
}

// linear is up to how many edges are searched one after the other, which is faster for few.
const linear = 16

func (e edges) between(from, until edge) span {
	if until < from { // past the last relation
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

// bounds are the places of the first edges that are not less than from, and than until.
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

// len is how many edges are left, expired ones included.
func (s *span) len() int { return s.left }

// next is the next object at the other end whose relation has not expired.
func (s *span) next(now int64) (number, bool) {
	e, ok := s.nextEdge(now)
	return e.other(), ok
}

// nextEdge is the next edge that has not expired.
func (s *span) nextEdge(now int64) (edge, bool) {
	for {
		e, at, ok := s.step()
		if !ok || !expired(at, now) {
			return e, ok
		}
	}
}

// step is the next edge, expired or not.
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
