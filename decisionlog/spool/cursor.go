package spool

import (
	"path/filepath"
	"time"
)

// Cursor is where somebody reads. It is only good while its reader holds the segment.
type Cursor struct {
	s    *segment
	off  uint64
	last time.Time // of the last frame before
}

// Piece is what a cursor came upon: a record, or damage.
type Piece struct {
	Kind   Kind
	Record []byte // in the mapping: good as long as the cursor
	Damage Damage // where Record is nil
}

// Damage is what could not be read between two records.
type Damage struct {
	Bytes        uint64    // that were a record's once, or may have been
	Unfinished   uint64    // that were reserved for records that never were
	Since, Until time.Time // of the record before, and of the one behind
	Segment      string    // the name of its file
}

// Next reads on. It returns false where there is nothing more for now.
func (c *Cursor) Next() (p Piece, ok bool) {
	for {
		s := c.s
		var kind Kind
		var payload []byte
		what := foundNothing
		if c.off < s.end.Load() { // else there may not even be a file behind the mapping
			kind, payload, what = s.frame(c.off)
		}
		if what == foundFrame {
			c.off += frameSize(len(payload))
			if t, ok := s.time(kind, payload); ok {
				c.last = t
			}
			return Piece{Kind: kind, Record: payload}, true
		}
		end := s.end.Load()
		switch {
		case c.off >= end:
			if s.next.Load() == nil {
				return Piece{}, false
			}
			missing := s.full - s.size()
			c.s, c.off = s.next.Load(), segmentHeader
			if missing > 0 {
				return Piece{Damage: c.damage(s, missing)}, true
			}
		case s.old || s.hollow.Load() || what == foundDamage:
			from := c.off
			next, damaged := s.resync(from, end, what == foundDamage)
			if end == noEnd && next == s.size() {
				return Piece{}, false // what comes behind the damage is not there yet
			}
			c.off = next
			switch {
			case damaged || s.hollow.Load() && next == end && next > from:
				return Piece{Damage: c.damage(s, next-from)}, true
			case next < end: // a hole, with frames behind it
				hole := c.damage(s, 0)
				hole.Unfinished = next - from
				return Piece{Damage: hole}, true
			}
		default:
			return Piece{}, false // it is being written
		}
	}
}

// damage names what could not be read between two frames.
func (c *Cursor) damage(s *segment, n uint64) Damage {
	d := Damage{Bytes: n, Since: c.since(s), Segment: filepath.Base(s.path)}
	d.Until = d.Since
	if kind, payload, what := c.s.frame(c.off); what == foundFrame {
		if t, ok := c.s.time(kind, payload); ok {
			d.Until = t
		}
	}
	return d
}

// Damage is that of n bytes just before the cursor, for a reader who cannot make anything of a record.
func (c Cursor) Damage(n uint64) Damage { return c.damage(c.s, n) }

// since is the time of the last record before, or when a segment was made.
func (c Cursor) since(s *segment) time.Time {
	if c.last.IsZero() {
		return s.made
	}
	return c.last
}

// Segment is the number of the segment that the cursor is in; 0: in none.
func (c Cursor) Segment() uint64 {
	if c.s == nil {
		return 0
	}
	return c.s.number
}

// Offset is where in the segment it is: behind a record, a multiple of 8.
func (c Cursor) Offset() uint64 { return c.off }

// SameSegment reports whether two cursors are in the same segment.
func (c Cursor) SameSegment(other Cursor) bool { return c.s == other.s }

// Same reports whether two cursors are at the same place.
func (c Cursor) Same(other Cursor) bool { return c.s == other.s && c.off == other.off }

// AtEnd reports whether nothing is left before the end of the last segment. It is known once the spool is sealed.
func (c Cursor) AtEnd() bool { return c.s.next.Load() == nil && c.off >= c.s.end.Load() }

// Pending reports whether something was reserved at the cursor and is not there yet.
func (c Cursor) Pending() bool {
	return !c.s.old && c.off < min(c.s.tail.Load(), c.s.end.Load(), c.s.size())
}

// Lost reports whether the file of the cursor's segment was cut off.
func (c Cursor) Lost() bool { return c.s.lost.Load() }
