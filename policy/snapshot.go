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

// Snapshot is a compiled policy: immutable, safe for concurrent use, released by the garbage collector.
type Snapshot struct {
	compiler  *ast.Compiler
	entry     *Entry // of Config.Decision; nil if that is empty
	store     storage.Store
	txn       storage.Transaction // one read transaction for all decisions; nothing is written, so nothing blocks
	patterns  cache.InterQueryValueCache
	answers   cache.InterQueryCache // of http.send; nil if disabled
	directory map[string]*topdown.Builtin
	transport topdown.CustomizeRoundTripper // of http.send; nil if disabled
	blocks    bool                          // blocking built-ins are enabled
	output    output
	revision  string
	bundles   []bundle.Info
	notices   []string
}

// Revision identifies the snapshot in one line, for logs and metrics: the bundle's revision, or with several bundles name=revision of each,
// sorted by name and separated by commas.
func (s *Snapshot) Revision() string { return s.revision }

// Bundles describes the bundles, sorted by name. The caller must not change the slice.
func (s *Snapshot) Bundles() []bundle.Info { return s.bundles }

// Notices returns warnings for the policy's author, at most eleven lines. The caller must not change the slice.
func (s *Snapshot) Notices() []string { return s.notices }

// resultVar is the variable that the compiled query binds to the decision.
const resultVar = ast.Var("result")

// evaluation is the state of one Decide, in one allocation. It is its query's topdown.Cancel.
type evaluation struct {
	cancelled  atomic.Bool
	sinceCheck uint32
	failures   []topdown.Error // of built-ins, in order
	result     rego.Value
	facts      Facts
	now        time.Time
	asked      asking
	strict     bool // without a directory its queries fail
	completed  bool // it ended normally

	// For an evaluation that polls its deadline instead of being cancelled: a timer and a goroutine cost as much as a short evaluation.
	ctx   context.Context // nil: it does not poll
	until time.Time
	left  time.Duration // time left at the last check; 0 before
	ended error         // why it was ended
	often bool
}

const (
	// lookEvery is the number of expressions between two checks of the deadline.
	lookEvery = 16
	// slow is the time for lookEvery expressions above which the deadline is checked before each.
	slow = time.Millisecond
	// quick is the number of expressions up to which a decision cannot be much larger than the input.
	quick = 64
)

func (e *evaluation) Cancel() { e.cancelled.Store(true) }

// Cancelled is called before each expression, and by built-ins that iterate, on the evaluating goroutine.
func (e *evaluation) Cancelled() bool {
	e.sinceCheck++
	if e.ctx == nil {
		return e.cancelled.Load()
	}
	if e.ended == nil && (e.often || e.sinceCheck%lookEvery == 0) {
		left := time.Until(e.until)
		e.often, e.left = e.left != 0 && e.left-left > slow, left
		if e.ended = e.ctx.Err(); e.ended == nil && left <= 0 {
			e.ended = context.DeadlineExceeded
		}
	}
	return e.ended != nil
}

// Deadline implements bounds.Evaluation. It is zero for an evaluation that does not poll: its context has the deadline.
func (e *evaluation) Deadline() time.Time { return e.until }

// End implements bounds.Evaluation.
func (e *evaluation) End(cause error) { e.ended = cause }

// stopped reports whether the evaluation was ended early.
func (e *evaluation) stopped() bool { return e.ended != nil || e.cancelled.Load() }

// Entry is one compiled decision path of a snapshot. It is immutable, except for its counters.
type Entry struct {
	snapshot *Snapshot
	path     []string
	queries  ast.QueryCompiler
	query    ast.Body // result = data.<path>
	reads    reach.Reads
	impure   []reach.Use // why decisions are not memoised
	changing []reach.Use
	inverted bool   // without a directory it could allow what should be denied
	prefix   []byte // of its inputs' keys: the path
	tally    tally
}

// Entry compiles the query for a decision path below data, each element one term: ["orders", "GET", "orders", "__id", "allowed"]. It returns
// nil if no rule and no data defines the document. It is for publishing, not for requests.
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

// Reads returns what a decision may read of the input.
func (e *Entry) Reads() reach.Reads { return e.reads }

// Memoisable says whether an entry's decisions can be memoised.
type Memoisable struct {
	// Impure are uses of built-ins whose value may differ next time; if there are any, nothing is memoised.
	Impure []reach.Use
	// Changing are reads of input that differs in each request: memoising would be sound but useless.
	Changing []reach.Use
}

// Memoisable says whether this entry's decisions can be memoised and, if not, why.
func (e *Entry) Memoisable() Memoisable { return Memoisable{Impure: e.impure, Changing: e.changing} }

// Path returns the decision path. The caller must not change it.
func (e *Entry) Path() []string { return e.path }

// Reads is Entry.Reads for Config.Decision.
func (s *Snapshot) Reads() reach.Reads { return s.entry.Reads() }

// Decide is Entry.Decide for Config.Decision, without facts.
func (s *Snapshot) Decide(ctx context.Context, input rego.Value, now time.Time) (Decision, error) {
	return s.entry.Decide(ctx, input, Facts{}, now)
}

// Decide evaluates the policy on an input; a nil input is undefined to the policy. The policy may query facts, and sees now as the current
// time. Evaluation ends when ctx does.
//
// The decision is only valid if err is nil; otherwise it denies and holds only Asked. Errors wrap ErrUndefined, ErrEvaluation, or the
// context's error if ctx ended first.
func (e *Entry) Decide(ctx context.Context, input rego.Value, facts Facts, now time.Time) (Decision, error) {
	d, _, err := e.decide(ctx, 0, input, facts, now)
	return d, err
}

// DecideWithin is Decide with a deadline of timeout, cheaper than with a context's.
func (e *Entry) DecideWithin(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (Decision, error) {
	d, _, err := e.decide(ctx, timeout, input, facts, now)
	return d, err
}

// panicError is the error of an evaluation that ended with a recovered panic p, with its stack. It is called while p is being recovered from.
func panicError(what string, p any) error {
	return fmt.Errorf("%w: %s: %s\n%s", ErrEvaluation, what, withoutOperands(fmt.Sprint(p)), debug.Stack())
}

// decide is Decide; clean means that nothing failed, not even a built-in, that evaluation was not cut short, and that there was a directory
// if one was queried: the decision is valid for any facts with the same answers.
func (e *Entry) decide(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (d Decision, clean bool, err error) {
	// A panic in a built-in must fail this request only.
	defer func() {
		if p := recover(); p != nil {
			d, clean, err = Decision{}, false, panicError("panic", p)
		}
	}()
	state, err := e.evaluate(ctx, timeout, input, facts, now, nil)
	if err == nil {
		d, err = e.snapshot.output.decision(state.result)
	}
	d.Asked, d.AskedTruncated = state.asked.kept, state.asked.truncated
	return d, state.completed, err
}

// evaluate returns the finished evaluation, whose result is the value of the decision document. adjust, if set, may change the query last.
func (e *Entry) evaluate(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time, adjust func(*topdown.Query)) (*evaluation, error) {
	return e.evaluateEach(ctx, timeout, input, facts, now, adjust, func(state *evaluation, found topdown.QueryResult) error {
		state.result = found[resultVar].Value
		return nil
	})
}

// evaluateEach is evaluate for a query of any form. each takes one solution; it sets the result, or nothing is defined.
func (e *Entry) evaluateEach(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time, adjust func(*topdown.Query),
	each func(*evaluation, topdown.QueryResult) error) (*evaluation, error) {
	s := e.snapshot
	state := &evaluation{facts: facts, now: now, strict: e.inverted}
	if err := ctx.Err(); err != nil {
		return state, fmt.Errorf("evaluating the policy: %w", err)
	}
	if timeout > 0 && s.blocks { // blocking built-ins need a context with the deadline
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
	err := query.Iter(ctx, func(found topdown.QueryResult) error { return each(state, found) })
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
	state.completed = len(state.failures) == 0 && !state.asked.missing && !state.stopped()
	if state.result == nil {
		return state, ErrUndefined
	}
	if state.sinceCheck > quick { // with fewer steps the result is at most a few times the input
		if err := bounds.Check(state.result); err != nil {
			state.completed = false
			return state, fmt.Errorf("%w: the decision: %w", ErrEvaluation, err)
		}
	}
	return state, nil
}

// evaluationError wraps an OPA error as ErrEvaluation. Its text starts with bundle, file and line, and quotes no value.
func evaluationError(err error) error {
	return fmt.Errorf("%w: %s", ErrEvaluation, errorText(halted(err)))
}

// halted returns the error that ended an evaluation.
func halted(err error) error {
	var halted topdown.Halt
	if errors.As(err, &halted) {
		return halted.Err
	}
	return err
}

// Defined returns the paths below data of all single-value rules, terms joined by PathSeparator. Packages are not included, although data
// has a value there as well.
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

// PathSeparator joins a path's terms into one text. No term of a route's rule contains it.
const PathSeparator = "\x00"
