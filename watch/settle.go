package watch

import "time"

const (
	// settleComplete is how long a complete change waits for others.
	settleComplete = 25 * time.Millisecond
	// settleWrite is how long files written in place must be quiet before they are read.
	settleWrite = 100 * time.Millisecond
	// maxSettle bounds the wait under constant writing.
	maxSettle = 2 * time.Second
)

// settling is a target's changes that were seen and not yet reported. The zero value is none.
type settling struct {
	first    time.Time // zero: nothing is pending
	due      time.Time
	complete bool // all of them were complete when seen
}

// note adds a change.
func (p *settling) note(now time.Time, complete bool) {
	if p.first.IsZero() {
		*p = settling{first: now, complete: true}
	}
	p.complete = p.complete && complete
	if p.complete {
		p.due = now.Add(settleComplete)
		return
	}
	p.due = earlier(now.Add(settleWrite), p.first.Add(maxSettle))
}

// schedule schedules a report, also without a change. Changes noted meanwhile settle as writes do.
func (p *settling) schedule(now time.Time, after time.Duration) {
	*p = settling{first: now, due: now.Add(after)}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// note and handed are called by Run only; again by any goroutine.
func (t *target) note(now time.Time, complete bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.covered = false
	t.pending.note(now, complete)
}

func (t *target) schedule(now time.Time, after time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending.schedule(now, after)
}

// handed clears what was reported. A later LookAgain stays scheduled.
func (t *target) handed(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.covered = false
	if !t.pending.due.After(now) {
		t.pending = settling{}
	}
}

func (t *target) due() (at time.Time, pending bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pending.due, !t.pending.first.IsZero()
}
