package bounds

import (
	"context"
	"time"
)

// grace is for an evaluation that looks at its deadline between two steps: it ends by itself, and is not given up.
const grace = 20 * time.Millisecond

// Whole makes a whole evaluation on a goroutine of its own and waits for it until its deadline, whatever it does: a step of the evaluator
// itself, such as sorting a large set, looks at nothing. It is counted and bounded as a single call is: the error is ErrOverloaded or
// context.DeadlineExceeded, or the context's. within is 0 where the context has the deadline, or nobody. f recovers from its panics, and reads
// no memory that is used again.
func Whole[T any](ctx context.Context, within time.Duration, f func() T) (out T, err error) {
	if !calls.begin() {
		return out, ErrOverloaded
	}
	done := make(chan T, 1)
	go func() { // recovers: f does
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
			go func() { <-done; calls.left() }()
			if err = ctx.Err(); err == nil {
				err = context.DeadlineExceeded
			}
			return out, err
		}
	}
}
