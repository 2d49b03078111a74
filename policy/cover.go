package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Coverage counts over many decisions which rules of a policy held. It belongs to one goroutine.
//
// It has its own tracer instead of OPA's package cover, which covers expressions: it tells of a rule's last one that it was evaluated,
// and not whether it held.
type Coverage struct {
	known  map[*ast.Rule]int // index in rules
	places map[RuleCount]int // likewise; what nothing was counted of yet
	rules  []RuleCount
}

// RuleCount is a rule with how many decisions it held in. Each of several rules of one name counts by itself, and each else.
type RuleCount struct {
	Rule string `json:"rule"`
	File string `json:"file"` // bundle and path in it
	Line int    `json:"line"`
	Held int64  `json:"held"`
}

// Held are the rules that held in one decision, for Coverage.Add.
type Held []int

// Watch makes the rules that a decision can reach part of the coverage, but for defaults.
func (c *Coverage) Watch(e *Entry) {
	if c.known == nil {
		c.known, c.places = map[*ast.Rule]int{}, map[RuleCount]int{}
	}
	for rule := range reachable(e.snapshot.compiler, e.query).rules {
		if _, known := c.known[rule]; known || rule.Default || rule.Loc() == nil {
			continue
		}
		name, stands := PlaceOf(rule)
		place := RuleCount{Rule: name, File: stands.File, Line: stands.Line}
		// The compiler makes several rules of one where a head stands for several; they are one to whoever wrote it.
		at, known := c.places[place]
		if !known {
			at = len(c.rules)
			c.places[place] = at
			c.rules = append(c.rules, place)
		}
		c.known[rule] = at
	}
}

// Decide evaluates a decision that was made before, and says which rules hold: every one that the evaluation comes to, also where one
// that held before it would have been enough. Nobody is called; see Replayer.Decide for unsure. An error of the policy is no error here:
// what held until then, held.
//
// What was asked of the directory has the answer that is on record, else that of facts.
func (c *Coverage) Decide(ctx context.Context, r *Replayer, input Value, recorded []Question, facts Facts, now time.Time) (held Held, unsure string, err error) {
	if len(r.never) > 0 {
		return nil, r.never[0], nil
	}
	defer func() {
		if p := recover(); p != nil {
			held, err = nil, fmt.Errorf("%w: panic: %v", ErrEvaluation, p)
		}
	}()
	t := &holding{known: c.known, seen: map[int]bool{}}
	_, of, err := r.evaluate(ctx, input, recorded, facts, now, func(q *topdown.Query) { q.WithEarlyExit(false).WithQueryTracer(t) })
	if errors.Is(err, ErrEvaluation) || errors.Is(err, ErrUndefined) {
		err = nil
	}
	return t.held, of.Unsure, err
}

// Add counts the rules that held in n decisions.
func (c *Coverage) Add(held Held, n int64) {
	for _, at := range held {
		c.rules[at].Held += n
	}
}

// Rules are the rules that were watched, in the order of their places.
func (c *Coverage) Rules() []RuleCount {
	out := slices.Clone(c.rules)
	slices.SortFunc(out, func(a, b RuleCount) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, strings.Compare(a.Rule, b.Rule))
	})
	return out
}

// holding is a tracer that notes which rules hold.
type holding struct {
	known map[*ast.Rule]int
	seen  map[int]bool
	held  Held
}

// Enabled implements topdown.QueryTracer.
func (h *holding) Enabled() bool { return true }

// Config implements topdown.QueryTracer.
func (h *holding) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent implements topdown.QueryTracer.
func (h *holding) TraceEvent(event topdown.Event) {
	if event.Op != topdown.ExitOp {
		return
	}
	rule, ok := event.Node.(*ast.Rule)
	if !ok {
		return
	}
	if at, known := h.known[rule]; known && !h.seen[at] {
		h.seen[at] = true
		h.held = append(h.held, at)
	}
}
