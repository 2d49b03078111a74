package bounds

import (
	"context"
	"time"
)

// grace is the extra time for an evaluation to notice its deadline between two steps and end by itself, rather than be abandoned.
const grace = 20 * time.Millisecond

// RunIsolated runs a whole evaluation on its own goroutine and waits for it until its deadline: within one step of the evaluator, such as sorting
// a large set, nothing is checked. It is counted and bounded like a single call: the error is ErrOverloaded, context.DeadlineExceeded, or
// the context's. within is 0 where the context has the deadline, or there is none. f must recover from its panics and must not read memory
// that is reused.
func RunIsolated[T any](ctx context.Context, within time.Duration, f func() T) (out T, err error) {
	if !calls.begin() {
		return out, ErrOverloaded
	}
	done := make(chan T, 1)
	go func() { // goroutine: f recovers from its panics
		defer calls.end()
		done <- f()
	}()
	if within == 0 {
		within = longest
	}
	timer := time.NewTimer(within + grace)
	defer timer.Stop()
	ended := ctx.Done()
	for {
		select {
		case out = <-done:
			return out, nil
		case <-ended:
			ended = nil
			timer.Reset(grace)
		case <-timer.C:
			calls.abandon()
			go func() { <-done; calls.left() }() // goroutine: it only counts
			if err = ctx.Err(); err == nil {
				err = context.DeadlineExceeded
			}
			return out, err
		}
	}
}
