package decisionlog

import (
	"context"
	"time"

	"gatehouse/decisionlog/record"
)

// Append takes the entry and its documents over: neither may be touched by the
// caller afterwards. It is called before the reply goes out and never waits
// longer than ctx, nor at all unless the queue is full and OnFull is "wait".
// An error is ErrFull or ErrDeny: the entry is lost, and counted.
func (l *Log) Append(ctx context.Context, e *record.Entry) error {
	if l == nil || l.queue == nil && l.spool == nil {
		return nil
	}
	if l.closed.Load() {
		return l.countLost(causeClosed)
	}
	if l.spool != nil {
		return l.appendSpool(ctx, e)
	}
	l.reserve(e)
	select {
	case l.queue <- e:
	default:
		if err := l.wait(ctx, e); err != nil {
			l.release(e)
			return err
		}
	}
	if l.closed.Load() {
		return l.sweep(ctx, e)
	}
	return nil
}

// Retains reports whether Append keeps an entry, and what it refers to, after it returned: without a spool it does.
func (l *Log) Retains() bool { return l != nil && l.queue != nil }

// appendSpool puts the entry where it outlives this process. Where there is room it takes no lock.
func (l *Log) appendSpool(ctx context.Context, e *record.Entry) error {
	o := l.packings.Get().(*record.Packing)
	l.packer.Pack(o, e)
	var err error
	if !l.spool.Append(record.KindEntry, o.Bytes()) {
		err = l.waitSpool(ctx, o.Bytes())
	}
	if o.Reusable() {
		l.packings.Put(o)
	}
	return err
}

// waitSpool is wait for a spool. A segment that is only late is waited for in any case: that is a matter of milliseconds, and there is
// room for it. Once it is known that there is none, OnFull decides. Where there was none for all of MaxWait nobody waits any more until
// there is: one request after the other would only be slower, and be lost all the same.
func (l *Log) waitSpool(ctx context.Context, packed []byte) error {
	l.spool.RequestSegment()
	timer := time.NewTimer(l.waitBudget(ctx))
	defer timer.Stop()
	for !l.closed.Load() {
		room := l.spool.RoomChanged()
		if l.spool.Append(record.KindEntry, packed) {
			return nil
		}
		if l.spool.Full() && (l.cfg.OnFull != OnFullWait || l.failing() || l.spool.FullSince() > l.cfg.MaxWait) {
			return l.countLost(causeFull)
		}
		select {
		case <-room:
			continue
		case <-ctx.Done():
		case <-timer.C:
		case <-l.done:
			return l.countLost(causeClosed)
		}
		return l.countLost(causeFull)
	}
	return l.countLost(causeClosed)
}

// waitBudget is how long an Append may wait. What Envoy does not get in time it may treat as our failure, and let the request
// through: enough time is left for the answer.
func (l *Log) waitBudget(ctx context.Context) time.Duration {
	limit := l.cfg.MaxWait
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end)/2)
	}
	return limit
}

// reserve counts the entry's input against QueueBytes, and lets go of the
// input where it does not fit: an audit trail without inputs is better than
// one without entries, and both are better than a process out of memory.
func (l *Log) reserve(e *record.Entry) {
	if !e.Asked && len(e.Input.Headers) == 0 {
		e.InputSize = 0
		return
	}
	if n := int64(e.InputSize); l.kept.Add(n) > l.cfg.QueueBytes {
		l.kept.Add(-n)
		l.packer.ReleaseInput(e)
	}
}

func (l *Log) release(e *record.Entry) { l.kept.Add(-int64(e.InputSize)) }

// wait puts the entry into a queue that was full a moment ago.
func (l *Log) wait(ctx context.Context, e *record.Entry) error {
	if l.cfg.OnFull != OnFullWait || l.failing() {
		return l.countLost(causeFull)
	}
	timer := time.NewTimer(l.waitBudget(ctx))
	defer timer.Stop()
	select {
	case l.queue <- e:
		return nil
	case <-ctx.Done():
	case <-timer.C:
	case <-l.done:
		return l.countLost(causeClosed)
	}
	return l.countLost(causeFull)
}

// sweep is for an Append that raced with the end of Run: it put its entry into
// the queue, but Run may have looked for the last time. What is still there
// when Run has ended is lost.
func (l *Log) sweep(ctx context.Context, e *record.Entry) error {
	select {
	case <-l.done:
	case <-ctx.Done():
		return l.refusal(causeClosed) // to be on the safe side; end counts it if it is lost
	}
	l.mu.Lock()
	n := l.discard()
	lost := e.Lost
	l.mu.Unlock()
	l.count(causeClosed, n)
	if lost {
		return l.refusal(causeClosed)
	}
	return nil
}

// discard empties the queue and returns how many entries were in it. Its caller
// holds mu.
func (l *Log) discard() (n uint64) {
	for {
		select {
		case e := <-l.queue:
			l.release(e)
			e.Lost = true
			n++
		default:
			return n
		}
	}
}

// countLost accounts for one entry and returns what Append's caller is to be told.
func (l *Log) countLost(cause string) error {
	l.count(cause, 1)
	return l.refusal(cause)
}

func (l *Log) refusal(cause string) error {
	switch {
	case l.cfg.OnFull == OnFullDeny:
		return ErrDeny
	case cause == causeClosed:
		return errClosed
	}
	return ErrFull
}

// count accounts for n entries that will never be written.
func (l *Log) count(cause string, n uint64) {
	if n == 0 {
		return
	}
	l.dropped.Add(n)
	l.met.dropped.WithLabelValues(cause).Add(float64(n))
	now := l.cfg.Clock()
	l.lostAt.Store(new(time.Now()))
	l.mu.Lock()
	if l.gap.Dropped == 0 {
		l.gap.Since = now
	}
	l.gap.Dropped += n
	l.gap.Until = now
	l.mu.Unlock()
	notify(l.lossy)
}

// notify leaves a note in a channel of capacity one, unless there is one already.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Shown is for a request with this path, with its query, and these headers. A nil Log knows what every log leaves out.
func (l *Log) Shown(path string, headers []Header) record.Shown {
	if l == nil {
		return (*record.Packer)(nil).Shown(path, headers)
	}
	return l.packer.Shown(path, headers)
}
