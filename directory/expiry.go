package directory

import "slices"

// timesChunk is larger than hubChunk: all relations that expire are in one such list.
const timesChunk = 4096

// newTimes is the list of when relations expire, out of sorted times. A time is in it as often as relations expire then.
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

// changeTimes is the list with times that came, and without as many that went.
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
