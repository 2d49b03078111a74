package policy

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/cache"

	"gatehouse/policy/bounds"
	"gatehouse/policy/bundle"
	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
)

// Snapshot is a compiled policy: immutable, safe for concurrent use, retired by the garbage collector.
type Snapshot struct {
	compiler  *ast.Compiler
	entry     *Entry // of Config.Decision; nil where that is empty
	store     storage.Store
	txn       storage.Transaction // one read transaction for all decisions; nobody writes, so nobody waits
	patterns  cache.InterQueryValueCache
	answers   cache.InterQueryCache // of http.send; nil while that is off
	directory map[string]*topdown.Builtin
	transport topdown.CustomizeRoundTripper // of http.send; nil while that is off
	blocks    bool                          // there are built-ins that wait for others
	output    output
	revision  string
	bundles   []bundle.Info
	notices   []string
}

// Revision names the snapshot in one line for people, logs and metrics: the bundle's revision, or with several bundles
// name=revision of each in the order of their names, separated by commas.
func (s *Snapshot) Revision() string { return s.revision }

// Bundles describes the bundles in the order of their names. The caller must not change the slice.
func (s *Snapshot) Bundles() []bundle.Info { return s.bundles }

// Notices returns what the author of the policy should know although it is no error, at most eleven lines. The caller
// must not change the slice.
func (s *Snapshot) Notices() []string { return s.notices }

// resultVar is the variable that the compiled query binds to the decision.
const resultVar = ast.Var("result")

// evaluation is the state of one Decide, in one allocation. It is the topdown.Cancel of its query.
type evaluation struct {
	cancelled atomic.Bool
	looked    uint32
	failures  []topdown.Error // of built-ins, in order
	result    rego.Value
	facts     Facts
	now       time.Time
	asked     asking
	strict    bool // without a directory its questions fail
	clean     bool // it went undisturbed to its end

	// Of an evaluation that looks for its own end, instead of being told: a timer and a goroutine cost as much as a short evaluation.
	ctx   context.Context // nil: it is told
	until time.Time
	left  time.Duration // when the clock was looked at last; 0 before
	ended error         // why it was ended
	often bool
}

const (
	// lookEvery is how many expressions are evaluated between two looks at the clock.
	lookEvery = 16
	// slow is how long so many may take; where they take longer the clock is looked at before each.
	slow = time.Millisecond
	// quick is up to how many expressions a decision cannot have become much larger than the input.
	quick = 64
)

func (e *evaluation) Cancel() { e.cancelled.Store(true) }

// Cancelled is asked before each expression, and by built-ins that iterate, on the goroutine that evaluates.
func (e *evaluation) Cancelled() bool {
	e.looked++
	if e.ctx == nil {
		return e.cancelled.Load()
	}
	if e.ended == nil && (e.often || e.looked%lookEvery == 0) {
		left := time.Until(e.until)
		e.often, e.left = e.left != 0 && e.left-left > slow, left
		if e.ended = e.ctx.Err(); e.ended == nil && left <= 0 {
			e.ended = context.DeadlineExceeded
		}
	}
	return e.ended != nil
}

// Deadline implements bounds.Evaluation: zero for an evaluation that is told, whose context knows.
func (e *evaluation) Deadline() time.Time { return e.until }

// End implements bounds.Evaluation.
func (e *evaluation) End(cause error) { e.ended = cause }

// stopped reports whether the evaluation was to end before its end.
func (e *evaluation) stopped() bool { return e.ended != nil || e.cancelled.Load() }

// Entry is one decision path of a snapshot, compiled. It is as immutable as the snapshot, but for what it counts.
type Entry struct {
	snapshot *Snapshot
	path     []string
	queries  ast.QueryCompiler
	query    ast.Body // result = data.<path>
	reads    reach.Reads
	impure   []reach.Use // what keeps decisions from being remembered
	changing []reach.Use
	inverted bool   // without a directory it could allow what one would have denied
	prefix   []byte // of the keys of its inputs: the path
	tally    tally
}

// Entry compiles the query for a decision path below data, each element one term: ["orders", "GET", "orders", "__id",
// "allowed"]. It returns nil where no rule and no data defines the document. It is for publishing, not for requests.
func (s *Snapshot) Entry(path []string) (*Entry, error) {
	if s.entry != nil && slices.Equal(path, s.entry.path) {
		return s.entry, nil
	}
	ref := ast.Ref{ast.DefaultRootDocument}
	for _, segment := range path {
		ref = append(ref, ast.StringTerm(segment))
	}
	_, err := s.store.Read(context.Background(), s.txn, storage.Path(path))
	if err != nil && len(s.compiler.GetRules(ref)) == 0 {
		return nil, nil
	}
	e := &Entry{snapshot: s, path: path, queries: s.compiler.QueryCompiler()}
	if e.query, err = e.queries.Compile(ast.NewBody(ast.Equality.Expr(ast.NewTerm(resultVar), ast.NewTerm(ref)))); err != nil {
		return nil, fmt.Errorf("compiling the query for %v: %w", ref, err)
	}
	e.prefix = prefix(path)
	found := reach.From(s.compiler, e.query)
	e.reads, e.impure, e.changing = found.Reads, found.Impure, found.Changing
	e.inverted = found.AllowsUnanswered(ref)
	return e, nil
}

// Rules returns the packages at and below root that define a rule of this name, each as its path below data, sorted.
func (s *Snapshot) Rules(root []string, name string) [][]string {
	var found [][]string
	for _, module := range s.compiler.Modules {
		path := rego.Path(module.Package.Path)
		if len(path) < len(root) || !slices.Equal(path[:len(root)], root) {
			continue
		}
		if slices.ContainsFunc(module.Rules, func(r *ast.Rule) bool { return string(r.Head.Name) == name || r.Head.Ref().String() == name }) {
			found = append(found, path)
		}
	}
	slices.SortFunc(found, slices.Compare[[]string])
	return slices.CompactFunc(found, slices.Equal[[]string])
}

// Reads tells what of the input a decision may depend on.
func (e *Entry) Reads() reach.Reads { return e.reads }

// Memoisable tells whether the decisions of an entry can be remembered.
type Memoisable struct {
	// Impure are the uses of built-ins whose value may be another next time; where there is one nothing is remembered.
	Impure []reach.Use
	// Changing are reads of what is another in each request, so that remembering is of no use although it would be sound.
	Changing []reach.Use
}

// Memoisable tells whether this entry's decisions can be remembered and, if not, what is in the way.
func (e *Entry) Memoisable() Memoisable { return Memoisable{Impure: e.impure, Changing: e.changing} }

// Path returns the decision path. The caller must not change it.
func (e *Entry) Path() []string { return e.path }

// Reads is Entry.Reads of Config.Decision.
func (s *Snapshot) Reads() reach.Reads { return s.entry.Reads() }

// Decide is Entry.Decide of Config.Decision, without facts.
func (s *Snapshot) Decide(ctx context.Context, input rego.Value, now time.Time) (Decision, error) {
	return s.entry.Decide(ctx, input, Facts{}, now)
}

// Decide evaluates the policy on an input; a nil input is undefined to the policy. It may read facts, and sees now as the current
// time. Evaluation ends when ctx does.
//
// The decision is only valid without an error; with one it denies, and holds nothing but what was asked. Errors wrap ErrUndefined,
// ErrEvaluation, or the context's error when ctx ended first.
func (e *Entry) Decide(ctx context.Context, input rego.Value, facts Facts, now time.Time) (Decision, error) {
	d, _, err := e.decide(ctx, 0, input, facts, now)
	return d, err
}

// DecideWithin is Decide with a context that ends after timeout, and costs less than one.
func (e *Entry) DecideWithin(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (Decision, error) {
	d, _, err := e.decide(ctx, timeout, input, facts, now)
	return d, err
}

// decide is Decide; clean says that nothing failed on the way, not even a built-in function, that nothing was cut
// short and that there was a directory if one was asked: the decision is good for any facts that give the same answers.
func (e *Entry) decide(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (d Decision, clean bool, err error) {
	// A panic in a built-in must cost this request alone.
	defer func() {
		if p := recover(); p != nil {
			d, clean, err = Decision{}, false, fmt.Errorf("%w: panic: %s\n%s", ErrEvaluation, withoutOperands(fmt.Sprint(p)), debug.Stack())
		}
	}()
	state, err := e.evaluate(ctx, timeout, input, facts, now, nil)
	if err == nil {
		d, err = e.snapshot.output.decision(state.result)
	}
	d.Asked, d.AskedTruncated = state.asked.kept, state.asked.truncated
	return d, state.clean, err
}

// evaluate returns what became of an evaluation: its result is the value of the decision document. adjust, where there is one, has the last word
// on the query.
func (e *Entry) evaluate(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time, adjust func(*topdown.Query)) (*evaluation, error) {
	s := e.snapshot
	state := &evaluation{facts: facts, now: now, strict: e.inverted}
	if err := ctx.Err(); err != nil {
		return state, fmt.Errorf("evaluating the policy: %w", err)
	}
	if timeout > 0 && s.blocks { // what waits has to be told
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	if timeout > 0 && !s.blocks {
		state.ctx, state.until = ctx, time.Now().Add(timeout)
	} else if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, state.Cancel) // goroutine: it sets a flag
		defer stop()
	}
	query := topdown.NewQuery(e.query).
		WithCompiler(s.compiler).
		WithQueryCompiler(e.queries).
		WithStore(s.store).
		WithTransaction(s.txn).
		WithMetrics(metrics.NoOp()).
		WithCancel(state).
		WithBuiltins(s.directory).
		WithInterQueryBuiltinValueCache(s.patterns).
		WithBuiltinErrorList(&state.failures).
		WithTime(now)
	if input != nil {
		query = query.WithInput(ast.NewTerm(input))
	}
	if s.transport != nil {
		query = query.WithHTTPRoundTripper(s.transport).WithInterQueryBuiltinCache(s.answers)
	}
	if adjust != nil {
		adjust(query)
	}
	err := query.Iter(ctx, func(found topdown.QueryResult) error {
		state.result = found[resultVar].Value
		return nil
	})
	switch {
	case err != nil && errors.Is(state.ended, bounds.ErrOverloaded):
		return state, fmt.Errorf("%w: %w", ErrOverloaded, err)
	case err != nil && state.ended != nil && topdown.IsCancel(err):
		return state, fmt.Errorf("evaluating the policy: %w", state.ended)
	case (err != nil || state.result == nil) && ctx.Err() != nil:
		return state, fmt.Errorf("evaluating the policy: %w", ctx.Err())
	case err != nil:
		return state, evaluationError(err)
	case state.result == nil && len(state.failures) > 0:
		return state, evaluationError(&state.failures[0])
	}
	state.clean = len(state.failures) == 0 && !state.asked.missing && !state.stopped()
	if state.result == nil {
		return state, ErrUndefined
	}
	if state.looked > quick { // fewer steps hold an input a few times at most
		if err := bounds.Check(state.result); err != nil {
			state.clean = false
			return state, fmt.Errorf("%w: the decision: %w", ErrEvaluation, err)
		}
	}
	return state, nil
}

// evaluationError makes ErrEvaluation of one of OPA's errors. Its text starts with bundle, file and line, and quotes no value.
func evaluationError(err error) error {
	return fmt.Errorf("%w: %s", ErrEvaluation, errorText(halted(err)))
}

// halted is the error that ended an evaluation.
func halted(err error) error {
	var halted topdown.Halt
	if errors.As(err, &halted) {
		return halted.Err
	}
	return err
}

// Defined returns where the policy has rules that are one value each: their paths below data, terms joined by PathSeparator. A
// package is not among them, although data has a value there as well.
func (s *Snapshot) Defined() map[string]bool {
	found := map[string]bool{}
	for _, module := range s.compiler.Modules {
		for _, rule := range module.Rules {
			if ref := rule.Ref(); rule.Head.DocKind() == ast.CompleteDoc && ref.IsGround() {
				found[strings.Join(rego.Path(ref), PathSeparator)] = true
			}
		}
	}
	return found
}

// PathSeparator joins the terms of a path where one text is needed. No term of a route's rule has it.
const PathSeparator = "\x00"
