package policy

import "sync/atomic"

// stripes keep goroutines on different processors from counting in one cache line.
const stripes = 16

type stripe struct {
	hits atomic.Uint64
	_    [56]byte
}

// Stats counts what memos do. It outlives them: a new policy has a new memo, and counters never go back. The zero value is ready.
type Stats struct {
	striped [stripes]stripe
	misses, unfit, evicted,
	rechecks, mismatches atomic.Uint64
}

// hit counts one, and returns how many of its stripe there were.
func (s *Stats) hit(hash uint64) uint64 { return s.striped[hash>>40%stripes].hits.Add(1) }

// Counts are the numbers of Stats.
type Counts struct {
	Hits, Misses uint64
	Unfit        uint64 // neither: a key over 8 KiB, or a decision too large to keep
	Evicted      uint64
	Rechecks     uint64 // hits that were decided again
	Mismatches   uint64 // of those, what came out otherwise; must be 0
}

// Counts returns the numbers of this moment.
func (s *Stats) Counts() Counts {
	c := Counts{Misses: s.misses.Load(), Unfit: s.unfit.Load(), Evicted: s.evicted.Load(), Rechecks: s.rechecks.Load(), Mismatches: s.mismatches.Load()}
	for i := range s.striped {
		c.Hits += s.striped[i].hits.Load()
	}
	return c
}

// tally judges whether remembering an entry's decisions is of use. Its numbers are about right, which is enough: they decide
// nothing but that.
type tally struct {
	striped [4]stripe
	misses  atomic.Uint64
	before  atomic.Uint64 // hits at the end of the last window
	rest    atomic.Int64  // decisions to do without the memo
	next    atomic.Int64  // how long the next rest is; 0: pace's
}

// resting reports whether this decision is to be made without the memo.
func (t *tally) resting() bool { return t.rest.Load() > 0 && t.rest.Add(-1) >= 0 }

func (t *tally) hit(hash uint64) { t.striped[hash>>44%4].hits.Add(1) }

// missed counts a miss, and at the end of a window looks back.
func (t *tally) missed(p *pace) {
	if t.misses.Add(1)%p.window != 0 {
		return
	}
	var hits uint64
	for i := range t.striped {
		hits += t.striped[i].hits.Load()
	}
	if hits-t.before.Swap(hits) >= p.window/worthwhile {
		t.next.Store(0)
		return
	}
	long := max(t.next.Load(), p.rest)
	t.next.Store(min(2*long, p.mostRest))
	t.rest.Store(long)
}

// Resting reports whether the entry does without the memo for now, because its decisions hardly come twice.
func (e *Entry) Resting() bool { return e.tally.rest.Load() > 0 }
