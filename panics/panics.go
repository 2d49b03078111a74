// Package panics is what becomes of a panic outside of a request: it is counted, said once a second with its stack, and the goroutine goes on or
// ends in order. A Go process ends with the first panic that nobody recovers from, so that one odd key set, bundle or answer of a server could
// take every decision with it.
//
// A panic is a fact of the process, not of one of its parts, so the package keeps state for the process, as the runtime does.
package panics

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// Event is one panic.
type Event struct {
	Where string // what the goroutine was doing
	Value any
	Stack []byte
	More  uint64 // panics that were not said before this one
}

var state struct {
	mu     sync.Mutex
	counts map[string]uint64
	last   map[string]time.Time
	said   time.Time
	unsaid uint64
	tell   func(Event)
}

// logInterval is how often a panic is said; degradedFor how long it counts as a state.
const (
	logInterval = time.Second
	degradedFor = time.Minute
)

// SetReporter sets who is told of panics. Until then, and where it is nil, nobody is.
func SetReporter(f func(Event)) {
	state.mu.Lock()
	defer state.mu.Unlock()
	state.tell = f
}

// Report counts a panic that was recovered, and says it unless one was said within the last second.
func Report(where string, value any) {
	stack := debug.Stack()
	state.mu.Lock()
	if state.counts == nil {
		state.counts, state.last = map[string]uint64{}, map[string]time.Time{}
	}
	now := time.Now()
	state.counts[where]++
	state.last[where] = now
	tell := state.tell
	if now.Sub(state.said) < logInterval {
		state.unsaid++
		tell = nil
	}
	e := Event{Where: where, Value: value, Stack: stack, More: state.unsaid}
	if tell != nil {
		state.said, state.unsaid = now, 0
	}
	state.mu.Unlock()
	if tell != nil {
		tell(e)
	}
}

// Recover is deferred by a goroutine, which then ends as if it had returned.
func Recover(where string) {
	if p := recover(); p != nil {
		Report(where, p)
	}
}

// Into is deferred by a func that returns an error: a panic becomes one.
func Into(where string, err *error) {
	if p := recover(); p != nil {
		Report(where, p)
		*err = fmt.Errorf("%s: it panicked: %v; please report this", where, p)
	}
}

// Loop runs what is to go on until ctx ends, and starts it again when it panicked: after a second at first, then ever more slowly, up to a minute.
// What it kept before stays in use meanwhile.
func Loop(ctx context.Context, where string, run func(context.Context)) {
	_ = LoopError(ctx, where, func(ctx context.Context) error { run(ctx); return nil })
}

// LoopError is Loop for what may end with an error, which ends the loop too.
func LoopError(ctx context.Context, where string, run func(context.Context) error) error {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		start := time.Now()
		panicked, err := once(ctx, where, run)
		if !panicked {
			return err
		}
		if time.Since(start) > 10*time.Minute {
			wait = time.Second
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

func once(ctx context.Context, where string, run func(context.Context) error) (panicked bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			Report(where, p)
			panicked = true
		}
	}()
	return false, run(ctx)
}

// Counts are the panics since the start, by where they were.
func Counts() map[string]uint64 {
	state.mu.Lock()
	defer state.mu.Unlock()
	out := make(map[string]uint64, len(state.counts))
	for where, n := range state.counts {
		out[where] = n
	}
	return out
}

// Degraded lists where something panicked within the last minute.
func Degraded() (list []string) {
	state.mu.Lock()
	defer state.mu.Unlock()
	for where, at := range state.last {
		if time.Since(at) < degradedFor {
			list = append(list, fmt.Sprintf("panics: %s panicked, the last time at %s (%d since the start); the log has the stack",
				where, at.UTC().Format(time.RFC3339), state.counts[where]))
		}
	}
	slices.Sort(list)
	return list
}
