package directory

import (
	"slices"
)

const (
	hubMin   = 128 // longer lists become hubs, so that a change does not copy the complete list
	hubBack  = 64  // shorter hubs become lists again
	hubChunk = 512 // edges per chunk after a bulk build; a chunk is split at twice that
)

// hub is a long list in chunks. No chunk is empty.
type hub struct {
	n      int
	chunks []chunk
}

type chunk struct {
	list
	first  edge // of the list, to find the chunk without reading others' lists
	before int  // number of edges in the previous chunks
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
		h.chunks = append(h.chunks, newChunk(part.clone(0)))
	}
	h.count()
	return h
}

func newChunk(l list) chunk { return chunk{list: l, first: l.edges[0]} }

func (h *hub) count() {
	h.n = 0
	for i := range h.chunks {
		h.chunks[i].before = h.n
		h.n += len(h.chunks[i].edges)
	}
}

// chunkOf is the chunk that contains e, or where it would be inserted.
func (h *hub) chunkOf(e edge) int {
	i, found := h.chunkFrom(e)
	if !found && i > 0 {
		i--
	}
	return i
}

// chunkFrom is the first chunk whose first edge is not less than e, and whether it is e.
func (h *hub) chunkFrom(e edge) (int, bool) {
	i, j := 0, len(h.chunks)
	for i < j {
		if m := int(uint(i+j) >> 1); h.chunks[m].first < e {
			i = m + 1
		} else {
			j = m
		}
	}
	return i, i < len(h.chunks) && h.chunks[i].first == e
}

// search finds e: its chunk and index there.
func (h *hub) search(e edge) (c, i int, ok bool) {
	c = h.chunkOf(e)
	i, ok = h.chunks[c].search(e)
	return c, i, ok
}

// from is the place of the first edge that is not less than e, and the number of those before it.
func (h *hub) from(e edge) (c, i, before int) {
	c, _ = h.chunkFrom(e)
	if c > 0 { // the previous chunk may contain equal edges: the list of times has duplicates
		c--
	}
	i, _ = h.chunks[c].search(e)
	return c, i, h.chunks[c].before + i
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
		h.chunks = append(h.chunks, newChunk(list{edges: slices.Clone(part)}))
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
