package record

import (
	"time"

	"gatehouse/decisionlog/spool"
)

// What a record of the spool is.
const (
	KindEntry spool.Kind = 1
	KindGap   spool.Kind = 2
)

// Gap is what is missing from the log at some place: what was lost since the last gap was recorded, or what is damaged in a segment.
type Gap struct {
	Dropped      uint64
	Since, Until time.Time
	Damaged      uint64 // bytes that were an entry's once, or may have been
	Unfinished   uint64 // bytes that were reserved for entries that never were
	Segment      string // where
}

// GapOf is the gap where a segment is damaged.
func GapOf(d spool.Damage) Gap {
	return Gap{Damaged: d.Bytes, Unfinished: d.Unfinished, Since: d.Since, Until: d.Until, Segment: d.Segment}
}

// PackGap replaces o.buf by a packed gap.
func (o *Packing) PackGap(g Gap) {
	o.buf = append(o.buf[:0], packVersion)
	o.uint(g.Dropped)
	o.uint(g.Damaged)
	o.time(g.Since)
	o.time(g.Until)
	o.packString(g.Segment)
}

// UnpackGap reads what PackGap wrote.
func UnpackGap(packed []byte) (g Gap, err error) {
	r := packedReader{in: packed}
	if r.byte() != packVersion {
		return Gap{}, ErrPacked
	}
	g.Dropped, g.Damaged = r.uint(), r.uint()
	g.Since, g.Until = r.time(), r.time()
	g.Segment, _ = r.string()
	if r.err {
		return Gap{}, ErrPacked
	}
	return g, nil
}
