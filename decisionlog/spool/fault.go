package spool

import (
	"encoding/binary"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
)

// A file that somebody cuts off has nothing left to be mapped: whoever touches the mapping behind its new end gets SIGBUS, which ends a Go
// process. So every access to a mapping runs where a fault is a panic (debug.SetPanicOnFault, which is per goroutine and costs nothing), and
// recovers from that one panic. A segment that faults is given up: nothing more is appended to it, and what cannot be read of it is a gap.

// faulted tells whether a recovered value is such a fault. Every other panic goes on.
func faulted(p any) bool {
	if p == nil {
		return false
	}
	if !IsFault(p) {
		panic(p)
	}
	return true
}

// IsFault tells whether a recovered value is a fault of a mapping: that is no fault of whoever reads it.
func IsFault(p any) bool {
	fault, ok := p.(interface {
		error
		Addr() uintptr
	})
	return ok && fault.Addr() != 0
}

// CatchFault runs what touches a mapping, and reports whether it got through.
func CatchFault(f func()) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { ok = !faulted(recover()) }()
	f()
	return true
}

// put fills what was reserved at off and makes it valid. It returns false where the segment's file has been cut off.
func (s *segment) put(off uint64, kind Kind, payload []byte) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			ok = !faulted(p)
		}
	}()
	at := s.data[off : off+frameSize(len(payload))]
	binary.LittleEndian.PutUint32(at[4:], s.sum(kind, payload))
	binary.LittleEndian.PutUint32(at[8:], uint32(kind))
	binary.LittleEndian.PutUint32(at[12:], frameMagic)
	copy(at[frameHeader:], payload)
	s.length(off).Store(uint32(len(payload)))
	return true
}

// retire lets nobody append to a segment any more. What was reserved before is still written.
func (s *segment) retire() {
	if s.old || s.retired.Swap(true) {
		return
	}
	if off := s.tail.Add(sealed) - sealed; off <= s.size() {
		s.end.Store(off)
	}
}

// retireCut is for a segment whose file was cut off: it is retired, and another one is made.
func (sp *Spool) retireCut(s *segment) {
	s.retire()
	if s.lost.Swap(true) {
		return
	}
	sp.damages.Add(1)
	sp.note("a segment was cut off while it was in use")
	sp.log.Error("a segment of the decision log's spool was cut off while it was in use; what it had that no sink has yet is lost",
		zap.String("segment", s.path))
	notify(sp.low)
}

// SkipTruncated passes what cannot be read any more of the segment that the cursor is in, after a fault. It returns what is lost by it.
func (sp *Spool) SkipTruncated(c *Cursor, now time.Time) Damage {
	s := c.s
	sp.retireCut(s)
	d := Damage{Since: c.since(s), Until: now, Segment: filepath.Base(s.path)}
	if end := min(s.end.Load(), s.size()); end > c.off {
		d.Bytes = end - c.off
		c.off = end
	}
	return d
}

// AbandonReserved gives up the segment that the cursor is in, and what was reserved in it and is not there by now.
func (sp *Spool) AbandonReserved(c Cursor) {
	sp.retireCut(c.s)
	c.s.hollow.Store(true)
}
