package identity

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse/identity/keyset"
	"gatehouse/identity/refusal"
)

// ErrWouldWait is Identify's with a context of WithoutWaiting, where it would have to wait. It is kept nowhere and counted nowhere.
var ErrWouldWait = refusal.Unavailable("the credential needs a key or an answer that has to be waited for")

type withoutWaiting struct{}

// WithoutWaiting is a context with which Identify fails with ErrWouldWait instead of waiting for a key that is not known yet, or for an
// introspection server. It is for threads that must not wait: with another context, elsewhere, Identify then does.
func WithoutWaiting(ctx context.Context) context.Context {
	return context.WithValue(ctx, withoutWaiting{}, true)
}

func mayWait(ctx context.Context) bool { return ctx.Value(withoutWaiting{}) == nil }

// keyFetch is one fetch of an issuer's keys that requests wait for, because their tokens name a key that we do not have.
type keyFetch struct {
	asked time.Time
	done  chan struct{} // closed when what it brought is published, or when it brought nothing
}

// keyLookups is what the requests with unknown key ids share, one for each issuer. Made-up key ids can neither turn us against the
// provider (one fetch at a time, one in refetchInterval over time) nor hold many requests (keyWait, maxKeyWaiters).
type keyLookups struct {
	latest atomic.Pointer[keyset.Set] // what Run published last; nil = no keys
	asks   chan *keyFetch             // to the fetcher; holds one

	mu      sync.Mutex // guards what follows; only unknown key ids take it
	open    bool       // there is a Run that fetches
	current *keyFetch  // asked for and not ended; nil = none
	ended   time.Time  // when the last one that ended was asked for
	due     time.Time  // when the next one would be on time, were there no burst
	kid     string     // that made for the last one
	waiting int        // requests
}

func newLookups() *keyLookups { return &keyLookups{asks: make(chan *keyFetch, 1)} }

// find gives the newest key set where that has the key, else nil. Where a fetch may bring it, find waits for one: until what it
// brought is published, keyWait has passed since it was asked for, or three quarters of ctx's time are used up (keyWaitBlind where
// ctx has no end). The rest is for the answer: a proxy that gave up on us might let the request through. A set that was on its way before the request came
// may be older than the token's key; such a request may ask for one more.
func (l *keyLookups) find(ctx context.Context, kid string) (*keyset.Set, waitResult) {
	arrived := time.Now()
	result := waitNone
	for latest := l.latest.Load(); !latest.Has(kid) && !latest.Lost(kid); latest = l.latest.Load() {
		if !mayWait(ctx) {
			return nil, waitWould
		}
		joined, refused := l.join(kid, arrived)
		if joined == nil {
			if result == waitNone && refused {
				result = waitRefused
			}
			break
		}
		published := joined.wait(ctx)
		l.leave()
		if !published {
			result = waitTimeout
			break
		}
		result = waitMissing
	}
	set := l.latest.Load()
	if !set.Has(kid) {
		return nil, result
	}
	if result != waitNone {
		result = waitFound
	}
	return set, result
}

// join finds the fetch to wait for, or asks for one. nil is none: refused where bounds are the cause.
func (l *keyLookups) join(kid string, arrived time.Time) (joined *keyFetch, refused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open || !l.ended.Before(arrived) {
		return nil, false
	}
	if l.waiting >= maxKeyWaiters {
		return nil, true
	}
	if l.current == nil {
		now := time.Now()
		repeated := kid == l.kid && now.Sub(l.ended) < refetchInterval // one made-up id leaves the burst to others
		if repeated || now.Add((refetchBurst-1)*refetchInterval).Before(l.due) {
			return nil, true
		}
		if l.due.Before(now) {
			l.due = now
		}
		l.due = l.due.Add(refetchInterval)
		l.kid = strings.Clone(kid)
		l.current = &keyFetch{asked: now, done: make(chan struct{})}
		l.asks <- l.current // there is room: its last one was taken out before it ended
	}
	l.waiting++
	return l.current, false
}

func (l *keyLookups) leave() {
	l.mu.Lock()
	l.waiting--
	l.mu.Unlock()
}

// waits is the number of requests that wait now.
func (l *keyLookups) waits() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting
}

// wait reports whether the fetch ended in time.
func (w *keyFetch) wait(ctx context.Context) bool {
	limit := keyWaitBlind
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline) * 3 / 4
	}
	left := min(limit, keyWait-time.Since(w.asked))
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-w.done:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// next waits for the time of a fetch, or for one that requests ask for. ok is false when ctx has ended.
func (l *keyLookups) next(ctx context.Context, wait time.Duration) (asked *keyFetch, ok bool) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case asked = <-l.asks:
	case <-ctx.Done():
	}
	return asked, ctx.Err() == nil
}

// begin lets requests ask. Run calls it before, and end after, its fetchers live.
func (l *keyLookups) begin() {
	l.mu.Lock()
	l.open = true
	l.mu.Unlock()
}

func (l *keyLookups) end() {
	l.mu.Lock()
	l.open = false
	left := l.current
	l.mu.Unlock()
	select {
	case <-l.asks:
	default:
	}
	l.finish(left)
}

// finish wakes the requests that wait for w; nil is none.
func (l *keyLookups) finish(w *keyFetch) {
	if w == nil {
		return
	}
	l.mu.Lock()
	l.current, l.ended = nil, w.asked
	l.mu.Unlock()
	close(w.done)
}
