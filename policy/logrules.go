package policy

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/bounds"
	"gatehouse/policy/rego"
)

// LogRules are what a policy says of the events of a decision log, under Open Policy Agent's names: data.system.log.mask and
// data.system.log.drop, which see the event as input. They are as immutable as their snapshot.
type LogRules struct {
	mask, drop *Entry // nil where the policy does not define it
}

// LogRules compiles the rules about the decision log. It returns nil where the policy has neither.
func (s *Snapshot) LogRules() (_ *LogRules, err error) {
	r := &LogRules{}
	if r.mask, err = s.Entry([]string{"system", "log", "mask"}); err != nil {
		return nil, err
	}
	if r.drop, err = s.Entry([]string{"system", "log", "drop"}); err != nil {
		return nil, err
	}
	if r.mask == nil && r.drop == nil {
		return nil, nil
	}
	return r, nil
}

// Event is an event of a decision log, ready to be asked about.
type Event struct {
	rules *LogRules
	input rego.Value
	now   time.Time
	large bool
}

// Event reads an event, a JSON object.
func (r *LogRules) Event(text []byte, now time.Time) (*Event, error) {
	input, ok := rego.ReadJSON(text)
	if !ok {
		return nil, errors.New("reading an event of the decision log: it is no JSON that a policy can have")
	}
	return &Event{rules: r, input: input, now: now, large: len(text) > LargeInput}, nil
}

// Drop reports whether the policy does not want the event recorded: data.system.log.drop is true.
func (e *Event) Drop(ctx context.Context) (bool, error) {
	v, err := e.ask(ctx, e.rules.drop)
	return v != nil && v.Compare(ast.Boolean(true)) == 0, err
}

// Mask returns data.system.log.mask in plain JSON: a list of what to take out. nil where it is undefined.
func (e *Event) Mask(ctx context.Context) (any, error) {
	v, err := e.ask(ctx, e.rules.mask)
	if v == nil || err != nil {
		return nil, err
	}
	return rego.JSON(v)
}

// ask evaluates a rule; nil where it is undefined.
func (e *Event) ask(ctx context.Context, rule *Entry) (v rego.Value, err error) {
	if rule == nil {
		return nil, nil
	}
	if e.large {
		return e.askApart(ctx, rule)
	}
	return e.askHere(ctx, rule)
}

// askApart asks about a large event: no step of the evaluation holds up the log for longer than its deadline.
func (e *Event) askApart(ctx context.Context, rule *Entry) (rego.Value, error) {
	type outcome struct {
		v   rego.Value
		err error
	}
	var within time.Duration
	if until, ok := ctx.Deadline(); ok {
		within = time.Until(until)
	}
	out, err := bounds.Whole(ctx, max(within, 0), func() (o outcome) {
		o.v, o.err = e.askHere(ctx, rule)
		return o
	})
	if err != nil {
		return nil, apartError(err)
	}
	return out.v, out.err
}

func (e *Event) askHere(ctx context.Context, rule *Entry) (v rego.Value, err error) {
	defer func() {
		if p := recover(); p != nil {
			v, err = nil, fmt.Errorf("%w: panic: %s\n%s", ErrEvaluation, withoutOperands(fmt.Sprint(p)), debug.Stack())
		}
	}()
	state, err := rule.evaluate(ctx, 0, e.input, Facts{}, e.now, nil)
	if errors.Is(err, ErrUndefined) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return state.result, nil
}
