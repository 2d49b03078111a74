package policy

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/cache"
)

// Snapshot is a compiled policy: immutable, safe for concurrent use, retired by the garbage collector.
type Snapshot struct {
	compiler  *ast.Compiler
	queries   ast.QueryCompiler
	query     ast.Body // result = data.<decision>
	store     storage.Store
	txn       storage.Transaction // one read transaction for all decisions; nobody writes, so nobody waits
	patterns  cache.InterQueryValueCache
	directory map[string]*topdown.Builtin
	transport topdown.CustomizeRoundTripper // of http.send; nil while that is off
	reads     *reads
	output    output
	revision  string
	bundles   []BundleInfo
	notices   []string
}

// BundleInfo describes one bundle of a snapshot.
type BundleInfo struct {
	Name     string
	Revision string // the manifest's, else the first twelve digits of the digest
	Digest   string // SHA-256 in hexadecimal
	Rules    int
	Modules  int
}

// Revision names the snapshot in one line for people, logs and metrics: the bundle's revision, or with several bundles
// name=revision of each in the order of their names, separated by commas.
func (s *Snapshot) Revision() string { return s.revision }

// Bundles describes the bundles in the order of their names. The caller must not change the slice.
func (s *Snapshot) Bundles() []BundleInfo { return s.bundles }

// Notices returns what the author of the policy should know although it is no error, at most eleven lines. The caller
// must not change the slice.
func (s *Snapshot) Notices() []string { return s.notices }

// Reads reports whether a decision may depend on input.<path...>, or on anything below or above it. It errs to true: a
// false is a promise that the decision is the same whatever the input holds there, present or absent.
func (s *Snapshot) Reads(path ...string) bool { return s.reads.has(path) }

// resultVar is the variable that the compiled query binds to the decision.
const resultVar = ast.Var("result")

// evaluation is the state of one Decide, in one allocation. It is the topdown.Cancel of its query.
type evaluation struct {
	cancelled atomic.Bool
	failures  []topdown.Error // of built-ins, in order
	result    Value
}

func (e *evaluation) Cancel()         { e.cancelled.Store(true) }
func (e *evaluation) Cancelled() bool { return e.cancelled.Load() }

// Decide evaluates the policy on an input; a nil input is undefined to the policy. The policy sees now as the current
// time. Evaluation ends when ctx does.
//
// The decision is only valid without an error; with one it is the zero value, which denies. Errors wrap ErrUndefined,
// ErrEvaluation, or the context's error when ctx ended first.
func (s *Snapshot) Decide(ctx context.Context, input Value, now time.Time) (d Decision, err error) {
	// A panic in a built-in must cost this request alone.
	defer func() {
		if p := recover(); p != nil {
			d, err = Decision{}, fmt.Errorf("%w: panic: %v\n%s", ErrEvaluation, p, debug.Stack())
		}
	}()
	result, err := s.evaluate(ctx, input, now)
	if err != nil {
		return Decision{}, err
	}
	return s.output.decision(result)
}

// evaluate returns the value of the decision document.
func (s *Snapshot) evaluate(ctx context.Context, input Value, now time.Time) (Value, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("evaluating the policy: %w", err)
	}
	e := &evaluation{}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, e.Cancel)
		defer stop()
	}
	query := topdown.NewQuery(s.query).
		WithCompiler(s.compiler).
		WithQueryCompiler(s.queries).
		WithStore(s.store).
		WithTransaction(s.txn).
		WithMetrics(metrics.NoOp()).
		WithCancel(e).
		WithBuiltins(s.directory).
		WithInterQueryBuiltinValueCache(s.patterns).
		WithBuiltinErrorList(&e.failures).
		WithTime(now)
	if input != nil {
		query = query.WithInput(ast.NewTerm(input))
	}
	if s.transport != nil {
		query = query.WithHTTPRoundTripper(s.transport)
	}
	err := query.Iter(ctx, func(found topdown.QueryResult) error {
		e.result = found[resultVar].Value
		return nil
	})
	switch {
	case err != nil && ctx.Err() != nil && topdown.IsCancel(err):
		return nil, fmt.Errorf("evaluating the policy: %w", ctx.Err())
	case err != nil:
		return nil, evaluationError(err)
	case e.result == nil && len(e.failures) > 0:
		return nil, evaluationError(&e.failures[0])
	case e.result == nil:
		return nil, ErrUndefined
	}
	return e.result, nil
}

// evaluationError makes ErrEvaluation of one of OPA's errors. Its text starts with bundle, file and line.
func evaluationError(err error) error {
	var halted topdown.Halt
	if errors.As(err, &halted) {
		err = halted.Err
	}
	return fmt.Errorf("%w: %s", ErrEvaluation, oneLine(err.Error()))
}
