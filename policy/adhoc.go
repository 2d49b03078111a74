package policy

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"

	"gatehouse/policy/bounds"
	"gatehouse/policy/builtins"
	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
	"gatehouse/policy/regoerror"
)

// Bounds of a query that a client writes. The compiler cannot be interrupted, and some of its steps take exponential time in the nesting of
// comprehensions, or cubic in the number of expressions: so a query is refused by its size before it is compiled.
// docs/decisions/0016-queries-of-clients.md has what they were measured with.
const (
	// MaxQueryText bounds its text, in bytes.
	MaxQueryText = 4 << 10

	maxQueryDepth    = 100    // of the parser, which goes a few levels down for each bracket
	maxQueryNodes    = 300    // terms and expressions
	maxQueryExprs    = 24     // expressions, those in comprehensions included
	maxQueryClosures = 6      // comprehensions and every
	maxQueryNesting  = 3      // of those
	maxQueryWiths    = 6      // replacements (with)
	maxQueryReach    = 10_000 // terms of the rules below its references to data, counted for each reference: the types are put together

	maxQueryResults = 1000
	maxQueryBytes   = 1 << 20 // of all results, approximately as JSON
)

// ErrQuery means that a client's query is wrong, or beyond what is evaluated. Its text is for the client: it says where and why.
var ErrQuery = errors.New("query")

// queryErrorf wraps ErrQuery, whose word begins the text.
func queryErrorf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrQuery, fmt.Sprintf(format, args...))
}

// AdHocSlots bounds how many queries are compiled at once in one process: half of the processors, at most two. The zero value is usable.
type AdHocSlots struct{ used atomic.Int64 }

func (a *AdHocSlots) take() bool {
	if a.used.Add(1) <= int64(min(2, max(1, runtime.GOMAXPROCS(0)/2))) {
		return true
	}
	a.used.Add(-1)
	return false
}

func (a *AdHocSlots) free() { a.used.Add(-1) }

// AdHoc is a compiled query that a client wrote. It is evaluated with the policy as its rules are, by the same bounds.
type AdHoc struct {
	entry    *Entry
	captured map[*ast.Expr]ast.Var // the variables of expressions' values
}

// AdHoc compiles a client's query. It returns after within, whatever the compiler does; what then still runs keeps its slot. The error wraps
// ErrQuery, ErrOverloaded where all slots are taken, or the context's error.
func (s *Snapshot) AdHoc(ctx context.Context, within time.Duration, text string, slots *AdHocSlots) (*AdHoc, error) {
	if len(text) > MaxQueryText {
		return nil, queryErrorf("it has %d bytes, more than %d", len(text), MaxQueryText)
	}
	if !slots.take() {
		return nil, fmt.Errorf("%w: other queries are being compiled", ErrOverloaded)
	}
	type compiled struct {
		query *AdHoc
		err   error
	}
	out, err := bounds.RunIsolated(ctx, within, func() (out compiled) {
		defer slots.free()
		defer func() {
			if p := recover(); p != nil {
				out = compiled{err: panicError("panic while compiling a query", p)}
			}
		}()
		out.query, out.err = s.compileAdHoc(text)
		return out
	})
	switch {
	case errors.Is(err, bounds.ErrOverloaded): // nothing ran
		slots.free()
		return nil, isolatedError(err)
	case err != nil:
		return nil, fmt.Errorf("compiling the query: %w", err)
	}
	return out.query, out.err
}

func (s *Snapshot) compileAdHoc(text string) (*AdHoc, error) {
	body, err := parseAdHoc(text, s.compiler.Capabilities())
	if err != nil {
		return nil, err
	}
	if err := s.measureAdHoc(body); err != nil {
		return nil, err
	}
	q := &AdHoc{entry: &Entry{snapshot: s, queries: s.compiler.QueryCompiler(), inverted: true}, captured: map[*ast.Expr]ast.Var{}}
	q.entry.queries.WithUnsafeBuiltins(impureBuiltins(s.compiler.Capabilities())).
		WithStageAfterID(ast.StageResolveRefs, ast.QueryCompilerStageDefinition{Name: "CaptureValues", MetricName: "query_compile_stage_capture_values", Stage: q.capture})
	if q.entry.query, err = q.entry.queries.Compile(body); err != nil {
		return nil, queryError(err, text)
	}
	found := reach.From(s.compiler, q.entry.query)
	for _, use := range found.Impure {
		if builtins.Of(use.What) != builtins.Timed {
			return nil, queryErrorf("it reaches %s, and what a query's answer rests on may not be random, outside, or an act", use)
		}
	}
	q.entry.reads = found.Reads
	return q, nil
}

// parseAdHoc parses a query: expressions alone, no rules, imports or packages.
func parseAdHoc(text string, c *ast.Capabilities) (ast.Body, error) {
	statements, _, errs := ast.NewParser().WithReader(strings.NewReader(text)).WithSkipRules(true).WithCapabilities(c).WithRegoVersion(ast.RegoV1).
		WithMaxRecursionDepth(maxQueryDepth).Parse()
	if len(errs) > 0 {
		return nil, queryError(errs, text)
	}
	var body ast.Body
	for _, statement := range statements {
		switch statement := statement.(type) {
		case ast.Body:
			for _, e := range statement {
				body.Append(e)
			}
		case *ast.Comment:
		default:
			return nil, queryErrorf("expressions alone are taken, no rules, imports or packages")
		}
	}
	if len(body) == 0 {
		return nil, queryErrorf("it is empty")
	}
	return body, nil
}

// queryError is an error of the parser or the compiler, with its place.
func queryError(err error, text string) error {
	var many ast.Errors
	if !errors.As(err, &many) || len(many) == 0 {
		return queryErrorf("%s", rego.OneLine(err.Error()))
	}
	e := regoerror.Parsing(many[0], text)
	return queryErrorf("%d:%d: %s", e.Line, e.Column, rego.OneLine(e.Text))
}

// querySize is what the bounds of a query are held against.
type querySize struct {
	nodes, exprs, closures, nesting, withs, reach int
	below                                         map[string]int // terms of the rules below a reference
}

// measureAdHoc refuses a query that the compiler could take long for.
func (s *Snapshot) measureAdHoc(body ast.Body) error {
	n := querySize{below: map[string]int{}}
	n.add(s.compiler, body, 0)
	for _, bound := range []struct {
		has, most int
		what      string
	}{{n.nodes, maxQueryNodes, "terms and expressions"}, {n.exprs, maxQueryExprs, "expressions"}, {n.closures, maxQueryClosures, "comprehensions and every"},
		{n.nesting, maxQueryNesting, "comprehensions and every in one another"}, {n.withs, maxQueryWiths, "with"},
		{n.reach, maxQueryReach, "terms in the rules below what it names of data: name a package, or a rule"}} {
		if bound.has > bound.most {
			return queryErrorf("it has more than %d %s", bound.most, bound.what)
		}
	}
	return nil
}

func (n *querySize) add(c *ast.Compiler, x any, depth int) {
	n.nesting = max(n.nesting, depth)
	ast.NewGenericVisitor(func(in any) bool {
		if n.nodes > maxQueryNodes || n.nesting > maxQueryNesting || n.reach > maxQueryReach {
			return true // too large already
		}
		switch in := in.(type) {
		case *ast.Term:
			n.nodes++
		case *ast.Expr:
			n.nodes++
			n.exprs++
		case *ast.With:
			n.withs++
		case ast.Ref:
			if !in[0].Equal(ast.DefaultRootDocument) {
				return false
			}
			n.data(c, in.ConstantPrefix())
			for _, t := range in {
				n.nodes++
				if _, isVar := t.Value.(ast.Var); !isVar {
					n.add(c, t.Value, depth)
				}
			}
			return true
		case ast.Var:
			if ast.DefaultRootDocument.Value.Compare(in) == 0 {
				n.data(c, ast.Ref{ast.DefaultRootDocument})
			}
		case *ast.ArrayComprehension:
			n.closure(c, depth, in.Term, in.Body)
			return true
		case *ast.SetComprehension:
			n.closure(c, depth, in.Term, in.Body)
			return true
		case *ast.ObjectComprehension:
			n.closure(c, depth, in.Key, in.Value, in.Body)
			return true
		case *ast.Every:
			n.add(c, in.Domain, depth)
			n.closure(c, depth, in.Key, in.Value, in.Body)
			return true
		}
		return false
	}).Walk(x)
}

// data adds the terms of the rules below a reference, or of the rule that it leads into.
func (n *querySize) data(c *ast.Compiler, ref ast.Ref) {
	key := ref.String()
	terms, known := n.below[key]
	if !known {
		rules := c.GetRulesWithPrefix(ref)
		if len(rules) == 0 {
			rules = c.GetRulesForVirtualDocument(ref)
		}
		for _, rule := range rules {
			ast.WalkTerms(rule, func(*ast.Term) bool {
				terms++
				return terms > maxQueryReach
			})
		}
		n.below[key] = terms
	}
	n.reach += terms
}

func (n *querySize) closure(c *ast.Compiler, depth int, parts ...any) {
	n.closures++
	for _, part := range parts {
		if term, ok := part.(*ast.Term); ok && term == nil {
			continue
		}
		n.add(c, part, depth+1)
	}
}

// impureBuiltins are those that a query may not call, nor put in the place of another.
func impureBuiltins(c *ast.Capabilities) map[string]struct{} {
	out := map[string]struct{}{}
	for _, b := range c.Builtins {
		switch builtins.Of(b.Name) {
		case builtins.Pure, builtins.Timed, builtins.Asked:
		default:
			out[b.Name] = struct{}{}
		}
	}
	return out
}

// capture binds the value of each expression that has one to a variable, as OPA's query API does. A query that can have one solution alone
// keeps it where the value is false.
func (q *AdHoc) capture(_ ast.QueryCompiler, query ast.Body) (ast.Body, error) {
	filters := len(query) > 1 || iterates(query)
	for _, e := range query {
		if e.Negated || e.IsAssignment() || e.IsEquality() || e.Generated {
			continue
		}
		value := ast.VarTerm(fmt.Sprintf("%svalue%d__", ast.WildcardPrefix, len(q.captured)))
		switch terms := e.Terms.(type) {
		case *ast.Term:
			e.Terms = ast.Equality.Expr(terms, value).Terms
		case []*ast.Term:
			function := q.entry.snapshot.compiler.TypeEnv.GetByValue(terms[0].Value)
			if types.Void(function) || types.Arity(function) != len(terms)-1 {
				continue
			}
			e.Terms = append(terms, value)
		default:
			continue
		}
		q.captured[e] = value.Value.(ast.Var)
		if filters {
			holds := ast.NewExpr(value)
			holds.Generated = true
			query.Append(holds)
		}
	}
	return query, nil
}

// iterates reports whether a query can have several solutions, comprehensions aside.
func iterates(query ast.Body) (found bool) {
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
			return true
		case ast.Ref:
			b := ast.BuiltinMap[x.String()]
			found = found || b != nil && b.Relation || slices.ContainsFunc(x[1:], func(t *ast.Term) bool { _, isVar := t.Value.(ast.Var); return isVar })
		}
		return found
	}).Walk(query)
	return found
}

// AdHocAnswer is what a query found.
type AdHocAnswer struct {
	// Results are its solutions as plain JSON, each {"expressions": [{"value", "text", "location"}], "bindings": {...}}, as in OPA's query API.
	Results        []any
	Asked          []Question // of the directory; see Decision
	AskedTruncated bool
}

// Reads returns what the query may read of the input.
func (q *AdHoc) Reads() reach.Reads { return q.entry.reads }

// Evaluate evaluates the query on an input, as Entry.DecideIsolated does a rule. Errors wrap ErrQuery where there are too many results or too
// large ones, else as those of Decide do; a query without a solution has no results.
func (q *AdHoc) Evaluate(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (AdHocAnswer, error) {
	type outcome struct {
		answer AdHocAnswer
		err    error
	}
	out, err := bounds.RunIsolated(ctx, timeout, func() (o outcome) {
		defer func() {
			if p := recover(); p != nil {
				o = outcome{err: panicError("panic", p)}
			}
		}()
		o.answer, o.err = q.evaluate(ctx, timeout, input, facts, now)
		return o
	})
	if err != nil {
		return AdHocAnswer{}, isolatedError(err)
	}
	return out.answer, out.err
}

func (q *AdHoc) evaluate(ctx context.Context, timeout time.Duration, input rego.Value, facts Facts, now time.Time) (AdHocAnswer, error) {
	found := collected{query: q}
	state, err := q.entry.evaluateEach(ctx, timeout, input, facts, now, nil, func(state *evaluation, solution topdown.QueryResult) error {
		state.result = rego.Null()
		state.sinceCheck |= lookEvery - 1 // a large value takes long
		found.err = found.add(solution)
		return found.err
	})
	answer := AdHocAnswer{Results: found.results, Asked: state.asked.kept, AskedTruncated: state.asked.truncated}
	switch {
	case found.err != nil:
		err = found.err
	case errors.Is(err, ErrUndefined):
		err = nil
	}
	if err != nil {
		answer.Results = nil
	}
	return answer, err
}

// collected are the results of one evaluation so far.
type collected struct {
	query   *AdHoc
	results []any
	bytes   int64
	err     error
}

// add converts one solution. Its variables are only valid meanwhile.
func (c *collected) add(solution topdown.QueryResult) error {
	if len(c.results) == maxQueryResults {
		return queryErrorf("it has more than %d results", maxQueryResults)
	}
	names := c.query.entry.queries.RewrittenVars()
	bindings := map[string]any{}
	for name, value := range solution {
		if written, ok := names[name]; ok {
			name = written
		}
		if name.IsGenerated() || name.IsWildcard() {
			continue
		}
		plain, err := c.plain(value.Value)
		if err != nil {
			return err
		}
		c.bytes += int64(len(name))
		bindings[string(name)] = plain
	}
	expressions := []any{}
	for _, e := range c.query.entry.query {
		if e.Generated {
			continue
		}
		expression := map[string]any{"value": true}
		if name, ok := c.query.captured[e]; ok {
			var err error
			if expression["value"], err = c.plain(solution[name].Value); err != nil {
				return err
			}
		}
		if e.Location != nil {
			c.bytes += int64(len(e.Location.Text))
			expression["text"] = string(e.Location.Text)
			expression["location"] = map[string]any{"row": e.Location.Row, "col": e.Location.Col}
		}
		expressions = append(expressions, expression)
	}
	if c.bytes > maxQueryBytes {
		return errQueryBytes()
	}
	result := map[string]any{"expressions": expressions}
	if len(bindings) > 0 {
		result["bindings"] = bindings
	}
	c.results = append(c.results, result)
	return nil
}

func errQueryBytes() error {
	return queryErrorf("its results have more than %d bytes: ask for less", maxQueryBytes)
}

// plain is a value as plain JSON that a protobuf Struct can hold.
func (c *collected) plain(v rego.Value) (any, error) {
	if err := bounds.Check(v); err != nil {
		return nil, errQueryBytes()
	}
	if c.bytes += weight(v, 0); c.bytes > maxQueryBytes {
		return nil, errQueryBytes()
	}
	plain, err := rego.JSONAt(v, rego.MaxDepth-maxMetadataDepth)
	if err != nil {
		return nil, queryErrorf("a result is nested deeper than %d", maxMetadataDepth)
	}
	if err := sendable(plain); err != nil {
		return nil, queryErrorf("a result: %v", err)
	}
	return plain, nil
}
