package policy

import (
	"context"
	"errors"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/bounds"
	"gatehouse/policy/rego"
)

// LogRules are a policy's rules about decision log events, under OPA's names: data.system.log.mask and data.system.log.drop, with the event
// as input. They are as immutable as their snapshot.
type LogRules struct {
	mask, drop *Entry // nil if the policy does not define it
}

// LogRules compiles the decision log rules. It returns nil if the policy has neither.
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

// Event is a parsed decision log event.
type Event struct {
	rules *LogRules
	input rego.Value
	now   time.Time
	large bool
}

// Event parses an event, a JSON object.
func (r *LogRules) Event(text []byte, now time.Time) (*Event, error) {
	input, ok := rego.ReadJSON(text)
	if !ok {
		return nil, errors.New("reading an event of the decision log: it is no JSON that a policy can have")
	}
	return &Event{rules: r, input: input, now: now, large: len(text) > LargeInput}, nil
}

// Drop reports whether the policy drops the event: data.system.log.drop is true.
func (e *Event) Drop(ctx context.Context) (bool, error) {
	v, err := e.query(ctx, e.rules.drop)
	return v != nil && v.Compare(ast.Boolean(true)) == 0, err
}

// Mask returns data.system.log.mask as plain JSON: the list of what to remove. nil if it is undefined.
func (e *Event) Mask(ctx context.Context) (any, error) {
	v, err := e.query(ctx, e.rules.mask)
	if v == nil || err != nil {
		return nil, err
	}
	return rego.JSON(v)
}

// query evaluates a rule; nil if it is undefined.
func (e *Event) query(ctx context.Context, rule *Entry) (v rego.Value, err error) {
	if rule == nil {
		return nil, nil
	}
	if e.large {
		return e.evaluateIsolated(ctx, rule)
	}
	return e.evaluate(ctx, rule)
}

// evaluateIsolated evaluates a rule on a large event: no single step can block the log beyond the deadline.
func (e *Event) evaluateIsolated(ctx context.Context, rule *Entry) (rego.Value, error) {
	type outcome struct {
		v   rego.Value
		err error
	}
	var within time.Duration
	if until, ok := ctx.Deadline(); ok {
		within = time.Until(until)
	}
	out, err := bounds.RunIsolated(ctx, max(within, 0), func() (o outcome) {
		o.v, o.err = e.evaluate(ctx, rule)
		return o
	})
	if err != nil {
		return nil, isolatedError(err)
	}
	return out.v, out.err
}

func (e *Event) evaluate(ctx context.Context, rule *Entry) (v rego.Value, err error) {
	defer func() {
		if p := recover(); p != nil {
			v, err = nil, panicError("panic", p)
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
