package explain

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"gatehouse/policy/rego"
)

// frame is the body of a rule or of an every, with what its evaluation starts from.
type frame struct {
	rule      *ast.Rule // nil for an every's body
	body      ast.Body
	extra     ast.Body             // equations before the body: a function's arguments, a requested key
	dark      map[ast.Var]bool     // arguments that hold secret values
	from      map[ast.Var][]string // arguments that are plain copies of part of the input
	bound     map[ast.Var]bool     // an every's variables
	enclosing *frame               // for an every's body: the enclosing body
}

// enter returns the frame of a rule called from f.
func (f *frame) enter(rule *ast.Rule, extra ast.Body) *frame {
	return &frame{rule: rule, body: rule.Body, extra: extra}
}

// boundOutside reports whether a variable is bound outside the body: an argument, or an every's variable.
func (f *frame) boundOutside(v ast.Var) bool {
	return f.bound[v] || f.rule != nil && vars(f.rule.Head.Args).Contains(v)
}

func (f *frame) binder(v ast.Var) (at int, other *ast.Term) {
	if f.boundOutside(v) || f.enclosing.names(v) {
		return -1, nil
	}
	return binder(v, f.body)
}

// names reports whether a variable is bound in the frame or an enclosing one.
func (f *frame) names(v ast.Var) bool {
	if f == nil {
		return false
	}
	at, _ := binder(v, f.body)
	return at >= 0 || f.boundOutside(v) || f.enclosing.names(v)
}

// adopt copies what is known about a function's arguments.
func (f *frame) adopt(args *frame) {
	if args != nil {
		f.dark, f.from = args.dark, args.from
	}
}

// env holds the values of variables. All of them are ground.
type env map[ast.Var]*ast.Term

// attempt is the result of evaluating one body.
type attempt struct {
	held bool
	at   int   // the expression that failed; -1: one of the frame's extra ones
	envs []env // the variables there, for each of the first bindings tried; of a body that held, the first
	err  error
}

func (a *attempt) env() env {
	if len(a.envs) == 0 {
		return nil
	}
	return a.envs[0]
}

// errEnough stops an evaluation that has delivered what was needed.
var errEnough = errors.New("enough")

// watcher is the tracer of one probe. The expression that failed is the furthest one of the body that was evaluated.
type watcher struct {
	index map[*ast.Expr]int
	vars  []ast.Var
	best  int
	envs  []env
}

// Enabled implements topdown.QueryTracer.
func (w *watcher) Enabled() bool { return true }

// Config implements topdown.QueryTracer.
func (w *watcher) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent implements topdown.QueryTracer.
func (w *watcher) TraceEvent(event topdown.Event) {
	if event.Op != topdown.EvalOp {
		return
	}
	expr, ok := event.Node.(*ast.Expr)
	if !ok {
		return
	}
	i, ok := w.index[expr]
	if !ok || i < w.best {
		return
	}
	if i > w.best {
		w.best, w.envs = i, nil
	}
	if len(w.envs) > maxIterations {
		return
	}
	e := env{}
	for _, v := range w.vars {
		if t := event.Plug(ast.NewTerm(v)); isValue(t.Value) {
			e[v] = t
		}
	}
	w.envs = append(w.envs, e)
}

// isValue reports whether a term is ground, with nothing left to evaluate.
func isValue(v ast.Value) bool {
	switch v := v.(type) {
	case ast.Null, ast.Boolean, ast.Number, ast.String:
		return true
	case *ast.Array, ast.Set, ast.Object:
		if !v.IsGround() {
			return false
		}
		plain := true
		ast.WalkTerms(v, func(t *ast.Term) bool {
			switch t.Value.(type) {
			case ast.Ref, ast.Call, *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
				plain = false
			}
			return !plain
		})
		return plain
	}
	return false
}

// bindings returns equations that bind the variables in x.
func bindings(x ast.VarSet, e env) ast.Body {
	var body ast.Body
	for _, v := range slices.Sorted(keysOf(x)) {
		if t := e[v]; t != nil {
			body = append(body, ast.Equality.Expr(ast.NewTerm(v), t))
		}
	}
	return body
}

func keysOf(x ast.VarSet) func(func(ast.Var) bool) {
	return func(yield func(ast.Var) bool) {
		for v := range x {
			if !yield(v) {
				return
			}
		}
	}
}

// copyBody returns a body that may be placed elsewhere: an expression stores its own index.
func copyBody(body ast.Body) ast.Body {
	out := make(ast.Body, len(body))
	for i, e := range body {
		c := *e
		out[i] = &c
	}
	return out
}

// probe evaluates a frame's body, with the variables of e given, until it holds once or has failed.
func (x *explainer) probe(f *frame, e env) attempt {
	body := copyBody(f.body)
	names := vars(f.body)
	if f.rule != nil {
		names.Update(vars(f.rule.Head.Args))
	}
	whole := bindings(names, e)
	whole = append(whole, copyBody(f.extra)...)
	end := &ast.Expr{Terms: ast.InternedTerm(true), Location: ast.NewLocation(nil, "", 0, 0)}
	w := &watcher{index: map[*ast.Expr]int{end: len(body)}, best: -1, vars: slices.Sorted(keysOf(names))}
	for i, expr := range body {
		w.index[expr] = i
	}
	whole = append(append(whole, body...), end)
	err := x.query(whole, w, func(topdown.QueryResult) error { return errEnough })
	a := attempt{at: w.best, envs: w.envs, held: w.best == len(body)}
	if err != nil && !errors.Is(err, errEnough) && !a.held {
		a.err = err
	}
	return a
}

// query evaluates part of the policy, unless a limit is reached.
func (x *explainer) query(body ast.Body, tracer topdown.QueryTracer, each func(topdown.QueryResult) error) error {
	if x.queries++; x.queries > maxQueries || x.ctx.Err() != nil {
		x.cut = true
		return context.DeadlineExceeded
	}
	for i, e := range body {
		e.Index = i
	}
	return x.inspect.Query(x.ctx, body, x.input, tracer, each)
}

// valueVar is the variable that is bound to a term's value.
const valueVar = ast.Var("__explained__")

// values evaluates a term: its distinct values, up to the limit, and the error if a built-in failed and there is none.
func (x *explainer) values(t *ast.Term, e env) (found []rego.Value, err error) {
	if isValue(t.Value) {
		return []rego.Value{t.Value}, nil
	}
	names := vars(t)
	if v, isVar := t.Value.(ast.Var); isVar {
		if e[v] != nil {
			return []rego.Value{e[v].Value}, nil
		}
		if v.Compare(ast.InputRootDocument.Value) != 0 {
			return nil, nil
		}
	}
	body := append(bindings(names, e), ast.Equality.Expr(ast.NewTerm(valueVar), t))
	err = x.query(body, nil, func(r topdown.QueryResult) error {
		v := r[valueVar]
		if v == nil || slices.ContainsFunc(found, func(f rego.Value) bool { return f.Compare(v.Value) == 0 }) {
			return nil
		}
		if found = append(found, v.Value); len(found) > 4*maxIterations {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, err
}

// rulesFor returns the rules that define the document at ref, in source order.
func (x *explainer) rulesFor(ref ast.Ref, e env) []*ast.Rule {
	if len(ref) == 0 || !ref[0].Equal(ast.DefaultRootDocument) {
		return nil
	}
	rules := slices.Clone(x.rego.GetRules(x.ground(ref, e).GroundPrefix()))
	slices.SortFunc(rules, func(a, b *ast.Rule) int {
		l, m := a.Loc(), b.Loc()
		if l == nil || m == nil {
			return 0
		}
		return cmp.Or(strings.Compare(l.File, m.File), l.Row-m.Row, l.Col-m.Col)
	})
	return rules
}

// ground puts the values of variables into a reference.
func (x *explainer) ground(ref ast.Ref, e env) ast.Ref {
	out := slices.Clone(ref)
	for i, t := range out {
		if v, isVar := t.Value.(ast.Var); isVar && i > 0 && e[v] != nil {
			out[i] = e[v]
		}
	}
	return out
}

// constrain restricts a rule with many values to the one that ref selects.
func (x *explainer) constrain(rule *ast.Rule, ref ast.Ref, e env) ast.Body {
	var extra ast.Body
	name, ref := rule.Ref(), x.ground(ref, e)
	for i := 1; i < min(len(name), len(ref)); i++ {
		if _, isVar := name[i].Value.(ast.Var); isVar && isValue(ref[i].Value) {
			extra = append(extra, ast.Equality.Expr(name[i], ref[i]))
		}
	}
	if rule.Head.Key != nil && rule.Head.Value == nil && len(ref) > len(name) && isValue(ref[len(name)].Value) {
		extra = append(extra, ast.Equality.Expr(rule.Head.Key, ref[len(name)]))
	}
	return extra
}
