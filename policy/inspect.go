package policy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"gatehouse/policy/bundle"
	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
)

// Inspector evaluates parts of one entry, always with the same facts and time. It is for tools that explain decisions: it exposes the
// snapshot's own compiled rules, which must not be changed, and it is slow.
//
// Network calls are disabled: http.send fails. Random built-ins give the same value in every evaluation. Not safe for concurrent use.
type Inspector struct {
	entry  *Entry
	facts  Facts
	now    time.Time
	chance builtins.NDBCache
}

// Inspect makes an Inspector.
func (e *Entry) Inspect(facts Facts, now time.Time) *Inspector {
	return &Inspector{entry: e, facts: facts, now: now, chance: builtins.NDBCache{}}
}

// Compiler returns the snapshot's compiler: its rules, and its names for variables. Read-only.
func (i *Inspector) Compiler() *ast.Compiler { return i.entry.snapshot.compiler }

// Decide is Entry.Decide, except that errors quote the values that the policy failed on, panics of built-ins are not recovered, and the
// decision's size is not bounded.
func (i *Inspector) Decide(ctx context.Context, input rego.Value) (d Decision, err error) {
	var result rego.Value
	var failures []topdown.Error
	asked, err := i.run(ctx, i.entry.query, input, nil, &failures, func(found topdown.QueryResult) error {
		result = found[resultVar].Value
		return nil
	})
	switch {
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("evaluating the policy: %w", ctx.Err())
	case err != nil:
		err = quotingError(err)
	case result == nil && len(failures) > 0:
		err = quotingError(&failures[0])
	case result == nil:
		err = ErrUndefined
	default:
		d, err = i.entry.snapshot.output.decision(result)
	}
	d.Asked, d.AskedTruncated = asked.kept, asked.truncated
	return d, err
}

// quotingError is evaluationError with the values that the policy failed on.
func quotingError(err error) error {
	return fmt.Errorf("%w: %s", ErrEvaluation, rego.OneLine(halted(err).Error()))
}

// Query evaluates compiled expressions, such as a rule's body, under a tracer if there is one, and calls each for every result until it
// returns an error. If nothing else failed, the error is that of the first built-in that did.
func (i *Inspector) Query(ctx context.Context, body ast.Body, input rego.Value, tracer topdown.QueryTracer, each func(topdown.QueryResult) error) error {
	var failures []topdown.Error
	_, err := i.run(ctx, body, input, tracer, &failures, each)
	if err == nil && len(failures) > 0 {
		return &failures[0]
	}
	return err
}

// Reads returns which input a reference may depend on, including everything that it can reach.
func (i *Inspector) Reads(ref ast.Ref) reach.Reads {
	return reach.From(i.Compiler(), ast.NewBody(ast.NewExpr(ast.NewTerm(ref)))).Reads
}

// run evaluates one query as Entry.evaluate evaluates the decision, and returns its directory queries.
func (i *Inspector) run(ctx context.Context, body ast.Body, input rego.Value, tracer topdown.QueryTracer, failures *[]topdown.Error,
	each func(topdown.QueryResult) error) (*asking, error) {
	s := i.entry.snapshot
	state := &evaluation{facts: i.facts, now: i.now, strict: i.entry.inverted}
	stop := context.AfterFunc(ctx, state.Cancel) // goroutine: it sets a flag
	defer stop()
	q := topdown.NewQuery(body).
		WithCompiler(s.compiler).
		WithQueryCompiler(i.entry.queries).
		WithStore(s.store).
		WithTransaction(s.txn).
		WithMetrics(metrics.NoOp()).
		WithCancel(state).
		WithBuiltins(s.directory).
		WithInterQueryBuiltinValueCache(s.patterns).
		WithBuiltinErrorList(failures).
		WithNDBuiltinCache(i.chance).
		WithHTTPRoundTripper(func(*http.Transport) http.RoundTripper { return noCalls{} }).
		WithTime(i.now)
	if input != nil {
		q = q.WithInput(ast.NewTerm(input))
	}
	if tracer != nil {
		q = q.WithQueryTracer(tracer)
	}
	return &state.asked, q.Iter(ctx, each)
}

// PlaceOf returns a rule's name, below data, and location. File is the bundle and the path in it.
func PlaceOf(rule *ast.Rule) (name string, at bundle.Place) {
	name = strings.TrimPrefix(rule.Head.Ref().String(), "data.")
	if before, _, found := strings.Cut(name, "[__local"); found {
		name = before
	}
	if l := rule.Loc(); l != nil {
		at = bundle.Place{File: path.Clean(l.File), Line: l.Row}
	}
	return name, at
}

// errNoCalls is the error of http.send in an explanation.
var errNoCalls = errors.New("an explanation calls nobody")

// noCalls is a transport that refuses every request.
type noCalls struct{}

func (noCalls) RoundTrip(*http.Request) (*http.Response, error) { return nil, errNoCalls }

// Module is one file of a policy.
type Module struct {
	ID   string   // the bundle's name and the path in it
	Path []string // of its package, below data
}

// Modules returns the policy's modules, sorted by ID.
func (s *Snapshot) Modules() []Module {
	out := make([]Module, 0, len(s.compiler.Modules))
	for id, module := range s.compiler.Modules {
		out = append(out, Module{ID: id, Path: rego.Path(module.Package.Path)})
	}
	slices.SortFunc(out, func(a, b Module) int { return strings.Compare(a.ID, b.ID) })
	return out
}
