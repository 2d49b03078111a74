package explain

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"gatehouse/policy/builtins"
)

// whyCall says why a comparison, a built-in or a function failed.
func (x *explainer) whyCall(f *frame, e *ast.Expr, env env, depth int) (string, []Step) {
	name, operands := e.Operator().String(), e.Operands()
	if e.IsEquality() && len(operands) == 2 {
		return x.whyEqual(f, operands[0], operands[1], env, depth)
	}
	if rules := x.rego.GetRulesExact(e.Operator()); len(rules) > 0 {
		return x.whyFunction(f, e, rules, env, depth)
	}
	n := len(operands)
	if b := ast.BuiltinMap[name]; b != nil {
		n = min(n, b.Decl.Arity())
	} else if arity := builtins.DirectoryArity(name); arity > 0 {
		n = min(n, arity)
	}
	for _, operand := range operands[:n] {
		if values, err := x.values(operand, env); len(values) == 0 && err == nil {
			return x.whyTerm(f, operand, env, depth)
		}
	}
	text := x.called(f, name, operands[:n], env, false)
	if err := x.callFails(e, env); err != nil {
		text = strings.TrimSuffix(text, " is false") + ": " + x.failure(f, e, err)
	} else if n < len(operands) { // its result goes on: it has none
		text = strings.TrimSuffix(text, " is false") + " has no value"
	}
	return text, nil
}

// callFails returns the error of a call, such as one that the directory cannot answer: that is neither false nor true.
func (x *explainer) callFails(e *ast.Expr, env env) error {
	call := e.Copy()
	call.Negated = false
	return x.query(append(bindings(vars(e), env), copyBody(ast.NewBody(call))...), nil, func(topdown.QueryResult) error { return nil })
}

// called renders a call with its arguments' values. holds selects the wording.
func (x *explainer) called(f *frame, name string, operands []*ast.Term, env env, holds bool) string {
	shown := x.sides(f, operands, env)
	is := func(yes, no string) string {
		if holds {
			return yes
		}
		return no
	}
	switch {
	case name == "internal.member_2" && len(shown) == 2:
		return shown[0] + is(" is in ", " is not in ") + shown[1]
	case name == "internal.member_3" && len(shown) == 3:
		return shown[0] + ", " + shown[1] + is(" is in ", " is not in ") + shown[2]
	case slices.Contains([]string{"equal", "eq"}, name) && len(shown) == 2:
		return shown[0] + is(" equals ", " against ") + shown[1]
	case name == "neq" && len(shown) == 2:
		return shown[0] + is(" against ", " equals ") + shown[1]
	case slices.Contains([]string{"lt", "lte", "gt", "gte"}, name) && len(shown) == 2:
		return shown[0] + " against " + shown[1]
	}
	text := name + "(" + strings.Join(shown, ", ") + ")"
	if holds {
		return text + " holds"
	}
	return text + " is false"
}

// sides renders the operands of a comparison. If one of them is secret, the others are only shown if they are literals of the policy: what a
// secret is compared with is a secret.
func (x *explainer) sides(f *frame, operands []*ast.Term, env env) []string {
	dark := slices.ContainsFunc(operands, func(t *ast.Term) bool { return x.dark(f, t) })
	out := make([]string, len(operands))
	for i, t := range operands {
		values, _ := x.values(t, env)
		switch {
		case isValue(t.Value):
			out[i] = x.show(t.Value)
		case dark && x.public(f, t):
			out[i] = x.list(values)
		case dark:
			out[i] = notShown
		case len(values) == 0:
			out[i] = "nothing"
		default:
			out[i] = x.list(values)
		}
	}
	return out
}

// public reports whether a term's value is a literal of the policy.
func (x *explainer) public(f *frame, t *ast.Term) bool {
	for range maxNested {
		v, isVar := t.Value.(ast.Var)
		if !isVar {
			break
		}
		if _, t = f.binder(v); t == nil {
			return false
		}
	}
	return isValue(t.Value)
}

// whyEqual says why two terms are not equal, or which of them is undefined.
func (x *explainer) whyEqual(f *frame, a, b *ast.Term, env env, depth int) (string, []Step) {
	for _, t := range []*ast.Term{a, b} {
		if unbound(t, env) {
			continue
		}
		if values, _ := x.values(t, env); len(values) == 0 {
			return x.whyTerm(f, t, env, depth)
		}
	}
	if unbound(a, env) || unbound(b, env) {
		shape, other := a, b
		if unbound(b, env) {
			shape, other = b, a
		}
		if _, isVar := shape.Value.(ast.Var); isVar {
			return "", nil
		}
		return x.sides(f, []*ast.Term{other}, env)[0] + " does not fit " + x.hide.Replace(written(shape.Location, shape)), nil
	}
	return x.called(f, "eq", []*ast.Term{a, b}, env, false), nil
}

// unbound reports whether a term is a variable, or a pattern with one, without a value yet.
func unbound(t *ast.Term, env env) bool {
	switch v := t.Value.(type) {
	case ast.Var:
		return env[v] == nil && v.Compare(ast.InputRootDocument.Value) != 0
	case *ast.Array, ast.Object:
		for name := range vars(t) {
			if env[name] == nil && name.Compare(ast.InputRootDocument.Value) != 0 && name.Compare(ast.DefaultRootDocument.Value) != 0 {
				return true
			}
		}
	}
	return false
}

// whyFunction explains the rules of a function that was called.
func (x *explainer) whyFunction(f *frame, e *ast.Expr, rules []*ast.Rule, env env, depth int) (string, []Step) {
	if depth >= maxNested {
		x.cut = true
		return "", nil
	}
	operands := e.Operands()
	n := min(len(rules[0].Head.Args), len(operands))
	for _, operand := range operands[:n] {
		if values, _ := x.values(operand, env); len(values) == 0 {
			return x.whyTerm(f, operand, env, depth)
		}
	}
	name := strings.TrimPrefix(e.Operator().String(), "data.")
	name = name[strings.LastIndexByte(name, '.')+1:]
	text := name + "(" + strings.Join(x.sides(f, operands[:n], env), ", ") + ")"
	var steps []Step
	for _, rule := range rules {
		if rule.Default {
			continue
		}
		extra, args := x.arguments(f, rule, operands[:n], env)
		more, held := x.chain(f, rule, extra, args, depth)
		for _, step := range more {
			steps = x.add(steps, step)
		}
		if held {
			return text + " is false", steps
		}
	}
	return text + " has no value", steps
}

// arguments returns the equations that bind a function's arguments, and what is known about where these come from.
func (x *explainer) arguments(f *frame, rule *ast.Rule, operands []*ast.Term, env env) (extra ast.Body, args *frame) {
	args = &frame{dark: map[ast.Var]bool{}, from: map[ast.Var][]string{}}
	for i, operand := range operands {
		if i >= len(rule.Head.Args) {
			break
		}
		if values, _ := x.values(operand, env); len(values) > 0 {
			extra = append(extra, ast.Equality.Expr(rule.Head.Args[i], ast.NewTerm(values[0])))
		}
		if name, isVar := rule.Head.Args[i].Value.(ast.Var); isVar {
			if at, each, ok := x.origin(f, operand, 0); ok && !each {
				args.from[name] = append([]string{}, at...)
				continue
			}
		}
		if x.dark(f, operand) {
			for v := range vars(rule.Head.Args[i]) {
				args.dark[v] = true
			}
		}
	}
	return extra, args
}
