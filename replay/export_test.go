package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

// Decide is what a replay makes of a decision, without anything of the verdict that was recorded.
func (c *Candidate) Decide(ctx context.Context, r *Record, input rego.Value, at time.Time) (gate.Verdict, error) {
	a, err := c.prepare(r)
	switch {
	case err != nil:
		return gate.Verdict{}, err
	case a.absent != "":
		return gate.Verdict{}, errors.New(a.absent)
	case a.denies:
		return c.verdict(ruling{Verdict: gate.VerdictOf(nil, policy.ErrUndefined)}, r, Verdict{}).Verdict, nil
	}
	u, err := a.rule(ctx, input, nil, at, false)
	if err == nil && (u.late || u.unsure != "") {
		err = fmt.Errorf("late %v, unsure %q", u.late, u.unsure)
	}
	return c.verdict(u, r, Verdict{}).Verdict, err
}
