package decisionlog

import (
	"path/filepath"
	"time"
)

// cursor is where somebody reads. It is only good while its reader holds the segment.
type cursor struct {
	s    *segment
	off  uint64
	last time.Time // of the last frame before
}

// piece is what a cursor came upon: a frame, or damage.
type piece struct {
	kind    uint32
	payload []byte // in the mapping
	damage  gap    // where payload is nil
}

// next reads on. It returns false where there is nothing more for now.
func (c *cursor) next() (p piece, ok bool) {
	for {
		s := c.s
		var kind uint32
		var payload []byte
		what := foundNothing
		if c.off < s.end.Load() { // else there may not even be a file behind the mapping
			kind, payload, what = s.frame(c.off)
		}
		if what == foundFrame {
			c.off += frameSize(len(payload))
			if t, ok := packedTime(kind, payload); ok {
				c.last = t
			}
			return piece{kind: kind, payload: payload}, true
		}
		end := s.end.Load()
		switch {
		case c.off >= end:
			if s.next.Load() == nil {
				return piece{}, false
			}
			missing := s.full - s.size()
			c.s, c.off = s.next.Load(), segmentHeader
			if missing > 0 {
				return piece{damage: c.damage(s, missing)}, true
			}
		case s.old || s.hollow.Load() || what == foundDamage:
			from := c.off
			next, damaged := s.resync(from, end, what == foundDamage)
			if end == noEnd && next == s.size() {
				return piece{}, false // what comes behind the damage is not there yet
			}
			c.off = next
			switch {
			case damaged || s.hollow.Load() && next == end && next > from:
				return piece{damage: c.damage(s, next-from)}, true
			case next < end: // a hole, with frames behind it
				hole := c.damage(s, 0)
				hole.unfinished = next - from
				return piece{damage: hole}, true
			}
		default:
			return piece{}, false // it is being written
		}
	}
}

// damage names what could not be read between two frames.
func (c *cursor) damage(s *segment, n uint64) gap {
	g := gap{damaged: n, since: c.last, segment: filepath.Base(s.path)}
	if g.since.IsZero() {
		g.since = s.made
	}
	g.until = g.since
	if kind, payload, what := c.s.frame(c.off); what == foundFrame {
		if t, ok := packedTime(kind, payload); ok {
			g.until = t
		}
	}
	return g
}
