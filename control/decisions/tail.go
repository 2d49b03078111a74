package decisions

import (
	"sync"
	"sync/atomic"
)

// maxTails bounds who follows an environment at once, and tailRows how far one may be behind.
const (
	maxTails = 50
	tailRows = 2000
)

// tails are those who follow an environment's new entries.
type tails struct {
	mu  sync.Mutex
	all map[*Tail]struct{} // guarded by mu
}

// Tail gets what is new in an environment. Who does not keep up loses entries, and learns how many.
type Tail struct {
	C    <-chan Row
	lost atomic.Int64

	rows     chan Row
	filter   Filter
	from, to int64
	of       *tails
}

// Follow begins to follow what a filter wants.
func (e *Environment) Follow(f Filter) (*Tail, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	t := &Tail{filter: f, rows: make(chan Row, tailRows), of: &e.tails}
	t.C = t.rows
	t.from, t.to = f.times()
	e.tails.mu.Lock()
	defer e.tails.mu.Unlock()
	if len(e.tails.all) >= maxTails {
		return nil, ErrBusy
	}
	if e.tails.all == nil {
		e.tails.all = map[*Tail]struct{}{}
	}
	e.tails.all[t] = struct{}{}
	return t, nil
}

// Lost is how many entries were lost since it was asked last.
func (t *Tail) Lost() int64 { return t.lost.Swap(0) }

// Close ends it.
func (t *Tail) Close() {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	delete(t.of.all, t)
}

// send gives new rows to who follows. It never waits.
func (t *tails) send(rows []Row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for one := range t.all {
		for i := range rows {
			if !one.filter.matches(&rows[i], one.from, one.to) {
				continue
			}
			select {
			case one.rows <- rows[i]:
			default:
				one.lost.Add(1)
			}
		}
	}
}
