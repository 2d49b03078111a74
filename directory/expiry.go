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
