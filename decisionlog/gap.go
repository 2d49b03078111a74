package decisionlog

import (
	"time"

	"gatehouse/decisionlog/spool"
)

// What a record of the spool is.
const (
	kindEntry spool.Kind = 1
	kindGap   spool.Kind = 2
)

// gap is what is missing from the log at some place: what was lost since the last gap was recorded, or what is damaged in a segment.
type gap struct {
	dropped      uint64
	since, until time.Time
	damaged      uint64 // bytes that were an entry's once, or may have been
	unfinished   uint64 // bytes that were reserved for entries that never were
	segment      string // where
}

func damageGap(d spool.Damage) gap {
	return gap{damaged: d.Bytes, unfinished: d.Unfinished, since: d.Since, until: d.Until, segment: d.Segment}
}

// packGap replaces o.buf by a packed gap.
func (o *packing) packGap(g gap) {
	o.buf = append(o.buf[:0], packVersion)
	o.uint(g.dropped)
	o.uint(g.damaged)
	o.time(g.since)
	o.time(g.until)
	o.plain(g.segment)
}

// unpackGap reads what packGap wrote.
func unpackGap(packed []byte) (g gap, err error) {
	r := packedReader{in: packed}
	if r.byte() != packVersion {
		return gap{}, errPacked
	}
	g.dropped, g.damaged = r.uint(), r.uint()
	g.since, g.until = r.time(), r.time()
	g.segment, _ = r.string()
	if r.err {
		return gap{}, errPacked
	}
	return g, nil
}
