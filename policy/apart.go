package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gatehouse/policy/bounds"
	"gatehouse/policy/rego"
)

// LargeInput is the input size in bytes from which an evaluation runs on its own goroutine. What a policy sorts or compares of a smaller
// input takes no time that matters.
const LargeInput = 16 << 10

// DecideIsolated is DecideWithin for a large input: it returns at the deadline whatever the evaluation does. The evaluator checks its deadline
// between steps, and with a large input one step may be long: the evaluation is then abandoned and counted (CountAbandoned). With too many
// abandoned the error is ErrOverloaded. The input must not be in memory that is reused.
func (e *Entry) DecideIsolated(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (Decision, error) {
	d, _, err := e.decideIsolated(ctx, timeout, input, facts, now)
	return d, err
}

// DecideIsolated is Decide for a large input, like Entry.DecideIsolated. An input whose read part fits into a key is not large.
func (k *Key) DecideIsolated(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (Decision, error) {
	if !k.unfit {
		return k.Decide(ctx, timeout, input, facts, now)
	}
	d, clean, err := k.entry.decideIsolated(ctx, timeout, input, facts, now)
	return k.keep(d, clean, err, facts, now)
}

func (e *Entry) decideIsolated(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (Decision, bool, error) {
	type outcome struct {
		decision Decision
		clean    bool
		err      error
	}
	out, err := bounds.RunIsolated(ctx, timeout, func() (o outcome) {
		o.decision, o.clean, o.err = e.decide(ctx, timeout, input, facts, now)
		return o
	})
	if err != nil {
		return Decision{}, false, isolatedError(err)
	}
	return out.decision, out.clean, out.err
}

func isolatedError(err error) error {
	if errors.Is(err, bounds.ErrOverloaded) {
		return fmt.Errorf("%w: %w", ErrOverloaded, err)
	}
	return fmt.Errorf("evaluating the policy: %w", err)
}

// Abandoned counts the built-in calls that outlasted their evaluation's deadline, over all snapshots.
type Abandoned struct {
	Running int64  // still running
	Total   uint64 // since the start
	Refused uint64 // not started, because too many were running: ErrOverloaded
}

// CountAbandoned returns the current counts.
func CountAbandoned() Abandoned {
	c := bounds.Abandoned()
	return Abandoned{Running: c.Abandoned, Total: c.Total, Refused: c.Refused}
}
