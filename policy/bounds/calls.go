package bounds

import (
	"runtime"
	"sync/atomic"
)

// maxCalls is how many calls may be under way apart, those that were given up included.
const maxCalls = 256

// ledger counts the calls apart. There is one, as there is one registry: what a call takes is the process's processors and memory.
type ledger struct {
	running   atomic.Int64
	abandoned atomic.Int64
	total     atomic.Uint64
	refused   atomic.Uint64
}

var calls ledger

// maxAbandoned is how many calls may be left over. Each keeps a processor busy until it ends.
func maxAbandoned() int64 { return max(4, 2*int64(runtime.GOMAXPROCS(0))) }

func (l *ledger) begin() bool {
	if l.abandoned.Load() >= maxAbandoned() {
		l.refused.Add(1)
		return false
	}
	if l.running.Add(1) > maxCalls {
		l.running.Add(-1)
		l.refused.Add(1)
		return false
	}
	return true
}

func (l *ledger) end() { l.running.Add(-1) }

func (l *ledger) abandon() {
	l.abandoned.Add(1)
	l.total.Add(1)
}

func (l *ledger) left() { l.abandoned.Add(-1) }

// Counts are how many calls of built-ins outlasted their evaluation's deadline.
type Counts struct {
	Abandoned int64  // and are still under way
	Total     uint64 // since the start
	Refused   uint64 // calls that were not begun because too many were under way
}

// Abandoned tells how many calls were given up.
func Abandoned() Counts {
	return Counts{calls.abandoned.Load(), calls.total.Load(), calls.refused.Load()}
}

// Occupy makes as many calls count as abandoned as refuse all others, until free is called: for tests of what happens then.
func Occupy() (free func()) {
	n := maxAbandoned()
	calls.abandoned.Add(n)
	return func() { calls.abandoned.Add(-n) }
}
