package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gatehouse/policy/bounds"
	"gatehouse/policy/rego"
)

// LargeInput is from how many bytes of a request on an evaluation is worth a goroutine of its own. What a smaller one makes a policy sort or
// compare takes no time that matters.
const LargeInput = 16 << 10

// DecideApart is DecideWithin for a large input: at the deadline there is an answer whatever the evaluation does. The evaluator looks at its
// deadline between its steps, and with a large input one step may be long: it is given up then, and counted (CountAbandoned). Past a bound of
// what was given up the error is ErrOverloaded. The input must not lie in memory that is used again.
func (e *Entry) DecideApart(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (Decision, error) {
	d, _, err := e.decideApart(ctx, timeout, input, facts, now)
	return d, err
}

// DecideApart is Decide for a large input, as that of Entry. Where all that is read of it fits into a key it is not large.
func (k *Key) DecideApart(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (Decision, error) {
	if !k.unfit {
		return k.Decide(ctx, timeout, input, facts, now)
	}
	d, clean, err := k.entry.decideApart(ctx, timeout, input, facts, now)
	return k.keep(d, clean, err, facts, now)
}

func (e *Entry) decideApart(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (Decision, bool, error) {
	type outcome struct {
		decision Decision
		clean    bool
		err      error
	}
	out, err := bounds.Whole(ctx, timeout, func() (o outcome) {
		o.decision, o.clean, o.err = e.decide(ctx, timeout, input, facts, now)
		return o
	})
	if err != nil {
		return Decision{}, false, apartError(err)
	}
	return out.decision, out.clean, out.err
}

func apartError(err error) error {
	if errors.Is(err, bounds.ErrOverloaded) {
		return fmt.Errorf("%w: %w", ErrOverloaded, err)
	}
	return fmt.Errorf("evaluating the policy: %w", err)
}

// Abandoned are the calls of built-in functions that outlasted the deadline of the evaluation that made them, of all snapshots.
type Abandoned struct {
	Running int64  // given up and still under way
	Total   uint64 // given up since the start
	Refused uint64 // not begun, because too many were under way: ErrOverloaded
}

// CountAbandoned tells how many there are.
func CountAbandoned() Abandoned {
	c := bounds.Abandoned()
	return Abandoned{Running: c.Abandoned, Total: c.Total, Refused: c.Refused}
}
