package bounds

import (
	"runtime"
	"sync/atomic"
)

// maxCalls bounds the calls running apart, abandoned ones included.
const maxCalls = 256

// ledger counts the calls apart. There is one per process, as there is one registry: calls use the process's processors and memory.
type ledger struct {
	running   atomic.Int64
	abandoned atomic.Int64
	total     atomic.Uint64
	refused   atomic.Uint64
}

var calls ledger

// maxAbandoned bounds the abandoned calls. Each keeps a processor busy until it ends.
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

// Counts are the calls of built-ins that outlasted their evaluation's deadline.
type Counts struct {
	Abandoned int64  // still running
	Total     uint64 // since the start
	Refused   uint64 // not started because too many were running
}

// Abandoned returns how many calls were abandoned.
func Abandoned() Counts {
	return Counts{calls.abandoned.Load(), calls.total.Load(), calls.refused.Load()}
}

// Occupy fills the ledger so that further calls are refused, until free is called. For tests.
func Occupy() (free func()) {
	n := maxAbandoned()
	calls.abandoned.Add(n)
	return func() { calls.abandoned.Add(-n) }
}
