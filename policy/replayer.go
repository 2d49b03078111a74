package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	opa "github.com/open-policy-agent/opa/v1/topdown/builtins"

	"gatehouse/policy/builtins"
	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
)

// Replayer evaluates recorded decisions again, for tools that compare. It is made once for many decisions of one entry, by Entry.Replayer;
// the zero value is not usable.
type Replayer struct {
	entry  *Entry
	unsure []string // observed built-ins that may be called, sorted
	never  []string // unknown built-ins, for which the policy is not evaluated, sorted
	timed  bool
	asks   bool // the directory
}

// Replayer prepares an entry for replays. It walks the policy once.
func (e *Entry) Replayer() *Replayer {
	r := &Replayer{entry: e}
	r.note(slices.Sorted(maps.Keys(reach.From(e.snapshot.compiler, e.query).Builtins())))
	return r
}

// note classifies the built-ins that may be called.
func (r *Replayer) note(called []string) {
	for _, name := range called {
		switch builtins.Of(name) {
		case builtins.Unknown, builtins.Calling:
			r.never = append(r.never, name)
		case builtins.Observed, builtins.Changing:
			r.unsure = append(r.unsure, name)
		case builtins.Timed:
			r.timed = true
		case builtins.Asked:
			r.asks = true
		}
	}
}

// Entry returns the replayed entry.
func (r *Replayer) Entry() *Entry { return r.entry }

// Pure reports whether the decision depends only on the part of the input that is read: not on the time, randomness, or an external system.
func (r *Replayer) Pure() bool { return !r.timed && !r.asks && len(r.unsure)+len(r.never) == 0 }

// Basis says what a replayed decision depends on.
type Basis struct {
	// Unsure is the first built-in whose value may have differed at the original decision, "" if there is none. If it is set, the decision
	// is meaningless.
	Unsure string
	// Recorded and Current count the directory queries answered from the record, and those that are not on record and were answered by
	// facts, that is by the directory as it is now.
	Recorded, Current int
	asked             string // the first query of Current
}

// Decide is Entry.Decide with network calls disabled. unsure is Basis.Unsure, which a directory query sets too.
func (r *Replayer) Decide(ctx context.Context, input rego.Value, facts Facts, now time.Time) (d Decision, unsure string, err error) {
	d, of, err := r.DecideRecorded(ctx, input, nil, facts, now)
	if of.Current > 0 {
		return Decision{}, of.asked, nil
	}
	return d, of.Unsure, err
}

// DecideRecorded is Entry.Decide with network calls disabled and directory queries answered from the record. Queries that are not on record
// are sent to facts.
func (r *Replayer) DecideRecorded(ctx context.Context, input rego.Value, recorded []Question, facts Facts, now time.Time) (d Decision, of Basis, err error) {
	if len(r.never) > 0 {
		return Decision{}, Basis{Unsure: r.never[0]}, nil
	}
	if len(r.unsure) == 0 && !r.asks {
		d, err = r.entry.Decide(ctx, input, facts, now)
		return d, Basis{}, err
	}
	return r.watch(ctx, input, recorded, facts, now)
}

// watch decides and reports what the decision depends on.
func (r *Replayer) watch(ctx context.Context, input rego.Value, recorded []Question, facts Facts, now time.Time) (d Decision, of Basis, err error) {
	defer func() {
		if p := recover(); p != nil {
			d, err = Decision{}, panicError("panic", p)
		}
	}()
	result, of, err := r.evaluate(ctx, input, recorded, facts, now, nil)
	if err != nil || of.Unsure != "" {
		return Decision{}, of, err
	}
	d, err = r.entry.snapshot.output.decision(result)
	return d, of, err
}

// evaluate returns the value of the decision document. adjust, if set, may change the query last.
func (r *Replayer) evaluate(ctx context.Context, input rego.Value, recorded []Question, facts Facts, now time.Time, adjust func(*topdown.Query)) (result rego.Value, of Basis, err error) {
	sent, chance := false, opa.NDBCache{}
	directory := &recordedDirectory{record: recorded, now: facts.Directory}
	state, err := r.entry.evaluate(ctx, 0, input, Facts{Directory: directory}, now, func(q *topdown.Query) {
		q.WithNDBuiltinCache(chance).WithHTTPRoundTripper(func(*http.Transport) http.RoundTripper {
			sent = true
			return noCalls{}
		})
		if adjust != nil {
			adjust(q)
		}
	})
	of = directory.of
	for _, name := range r.unsure {
		if _, called := chance[name]; called || sent && name == "http.send" {
			of.Unsure = cmp.Or(of.Unsure, name)
		}
	}
	if of.Unsure != "" {
		return nil, of, nil
	}
	return state.result, of, err
}

// OnRecord returns facts that answer from the record. Other queries are sent to facts and fail if there is no directory. Not safe for
// concurrent use.
func OnRecord(recorded []Question, facts Facts) Facts {
	return Facts{Directory: &recordedDirectory{record: recorded, now: facts.Directory, strict: true}}
}

// errNotOnRecord is the error of a query without an answer.
var errNotOnRecord = errors.New("no answer on record, and there is no directory")

// recordedDirectory answers from the record, or else from the current directory. It serves one evaluation.
type recordedDirectory struct {
	record []Question
	now    Directory // nil: there is none
	strict bool      // a query without an answer fails; otherwise it is undefined and sets of.Unsure
	of     Basis
}

// Ask implements Directory.
func (d *recordedDirectory) Ask(builtin string, args []rego.Value, now time.Time) (rego.Value, error) {
	for i := range d.record {
		if q := &d.record[i]; q.Builtin == builtin && slices.EqualFunc(q.Args, args, equal) {
			d.of.Recorded++
			return q.Answer, nil
		}
	}
	if d.now == nil {
		d.of.Unsure = cmp.Or(d.of.Unsure, builtin)
		if d.strict {
			return nil, errNotOnRecord
		}
		return nil, nil
	}
	d.of.Current++
	d.of.asked = cmp.Or(d.of.asked, builtin)
	return d.now.Ask(builtin, args, now)
}

// Epoch implements Directory.
func (d *recordedDirectory) Epoch(now time.Time) uint64 {
	if d.now == nil {
		return 0
	}
	return d.now.Epoch(now)
}

// Coverage counts over many decisions which rules of a policy held. Not safe for concurrent use.
//
// It has its own tracer: OPA's package cover reports expressions, so that a rule's last expression counts as evaluated whether or not it
// held.
type Coverage struct {
	known  map[*ast.Rule]int // index in rules
	places map[RuleCount]int // likewise, for rules without a count yet
	rules  []RuleCount
}

// RuleCount is a rule with the number of decisions that it held in. Rules with the same name count separately, and so does each else.
type RuleCount struct {
	Rule string `json:"rule"`
	File string `json:"file"` // bundle and path in it
	Line int    `json:"line"`
	Held int64  `json:"held"`
}

// Held are the rules that held in one decision, for Coverage.Add.
type Held []int

// Watch adds the rules that a decision can reach, except defaults.
func (c *Coverage) Watch(e *Entry) {
	if c.known == nil {
		c.known, c.places = map[*ast.Rule]int{}, map[RuleCount]int{}
	}
	for rule := range reach.From(e.snapshot.compiler, e.query).Rules {
		if _, known := c.known[rule]; known || rule.Default || rule.Loc() == nil {
			continue
		}
		name, stands := PlaceOf(rule)
		place := RuleCount{Rule: name, File: stands.File, Line: stands.Line}
		// The compiler may split a rule into several; for the author they are one.
		at, known := c.places[place]
		if !known {
			at = len(c.rules)
			c.places[place] = at
			c.rules = append(c.rules, place)
		}
		c.known[rule] = at
	}
}

// Decide evaluates a recorded decision and returns the rules that held: every rule that was evaluated, even if an earlier one sufficed.
// Network calls are disabled; see Replayer.Decide for unsure. An evaluation error is not returned: the rules that held until then count.
//
// Directory queries are answered from the record, or else by facts.
func (c *Coverage) Decide(ctx context.Context, r *Replayer, input rego.Value, recorded []Question, facts Facts, now time.Time) (held Held, unsure string, err error) {
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

// Rules returns the watched rules, in source order.
func (c *Coverage) Rules() []RuleCount {
	out := slices.Clone(c.rules)
	slices.SortFunc(out, func(a, b RuleCount) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, strings.Compare(a.Rule, b.Rule))
	})
	return out
}

// holding is a tracer that records which rules hold.
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
