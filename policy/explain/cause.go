package explain

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"gatehouse/policy/rego"
)

// failedStep describes a rule that does not hold: the expression that failed and what it depends on.
func (x *explainer) failedStep(f *frame, tried attempt, depth int) Step {
	step := x.place(f.rule)
	if x.full() {
		return step
	}
	x.failed = append(x.failed, failedRule{f, tried.env()})
	x.fail(&step, f, tried, depth)
	return step
}

// full counts one more step and reports whether the limit is reached.
func (x *explainer) full() bool {
	x.steps++
	if x.steps > maxSteps {
		x.cut = true
	}
	return x.steps > maxSteps
}

// fail describes where a body failed.
func (x *explainer) fail(step *Step, f *frame, tried attempt, depth int) {
	if tried.at < 0 || tried.at >= len(f.body) {
		step.Found = appendText(step.Found, "the arguments do not fit")
		if len(f.extra) == 0 {
			step.Found = appendText(nil, "it was not evaluated")
		}
		return
	}
	e := f.body[tried.at]
	step.At, step.Expr = location(writtenOf(f.body, tried.at))
	for i, env := range tried.envs {
		if i == maxIterations {
			step.Found = append(step.Found, "and more")
			break
		}
		found, because := x.why(f, e, env, depth)
		if with := x.with(f, e, env); with != "" && found != "" {
			found += " (" + with + ")"
		}
		step.Found = appendText(step.Found, found)
		for _, b := range because {
			if !slices.ContainsFunc(step.Because, func(s Step) bool { return s.Above == b.Above && s.File == b.File && s.Line == b.Line && s.At == b.At }) {
				step.Because = x.add(step.Because, b)
			}
		}
	}
	if tried.err != nil && len(step.Found) == 0 {
		step.Found = []string{x.failure(f, e, tried.err)}
	}
}

// writtenOf returns the source expression that a compiler-generated one belongs to.
func writtenOf(body ast.Body, at int) *ast.Expr {
	for _, e := range body[at:] {
		if !e.Generated {
			return e
		}
	}
	return body[at]
}

// failure describes an error while evaluating part. If part is secret, so is the value that it failed on.
func (x *explainer) failure(f *frame, part any, err error) string {
	message := err.Error()
	if topdownErr, ok := errors.AsType[*topdown.Error](err); ok {
		message = topdownErr.Message
	}
	if len(x.options.Secret) > 0 && x.hiddenTerm(f, part, map[ast.Var]bool{}) {
		message = withoutValues(message)
	}
	return "it failed: " + x.hide.Replace(inOneLine(message, maxMessage))
}

// withoutValues reduces an OPA error's message to what names no value: the built-in, or that rules are in conflict.
func withoutValues(message string) string {
	const conflict = " produced conflicting values"
	if before, _, found := strings.Cut(message, conflict); found {
		return before + conflict
	}
	name, _, _ := strings.Cut(message, ": ")
	return name
}

// with names the variables of a source expression with their values: role = "viewer".
func (x *explainer) with(f *frame, e *ast.Expr, env env) string {
	var out []string
	seen := map[ast.Var]bool{}
	var visit func(any, bool)
	visit = func(y any, direct bool) {
		for _, v := range slices.Sorted(keysOf(vars(y))) {
			if seen[v] || len(out) >= maxIterations {
				continue
			}
			seen[v] = true
			if name, ok := x.rego.RewrittenVars[v]; ok && !strings.HasPrefix(string(name), "__local") && !direct && env[v] != nil {
				if !x.dark(f, ast.NewTerm(v)) {
					out = append(out, string(name)+" = "+x.show(env[v].Value))
				}
				continue
			}
			if at, _ := f.binder(v); at >= 0 && f.body[at].Generated && f.body[at] != e {
				visit(f.body[at], false)
			}
		}
	}
	direct := false
	if e.IsCall() {
		for _, operand := range e.Operands() {
			_, isVar := operand.Value.(ast.Var)
			visit(operand, isVar) // its value is in the text already
		}
		return strings.Join(out, ", ")
	}
	visit(e, direct)
	return strings.Join(out, ", ")
}

// why says why an expression failed with these values.
func (x *explainer) why(f *frame, e *ast.Expr, env env, depth int) (string, []Step) {
	switch {
	case len(e.With) > 0:
		return "it was evaluated with something else in the place of input or data, which is not followed", nil
	case e.Negated:
		return x.whyNegated(f, e, env, depth)
	}
	switch terms := e.Terms.(type) {
	case *ast.Term:
		return x.whyTerm(f, terms, env, depth)
	case *ast.Every:
		return x.whyEvery(f, terms, env, depth)
	case []*ast.Term:
		return x.whyCall(f, e, env, depth)
	}
	return "", nil
}

// whyTerm says why a term is undefined or false.
func (x *explainer) whyTerm(f *frame, t *ast.Term, env env, depth int) (string, []Step) {
	values, err := x.values(t, env)
	ref, isRef := t.Value.(ast.Ref)
	text := ""
	switch {
	case err != nil && len(values) == 0:
		text = x.failure(f, t, err)
	case len(values) == 0 && isRef:
		text = x.missing(f, ref, env)
	case len(values) == 0:
		text = "it has no value"
	case !harmless(values) && x.dark(f, t):
		text = "it is " + notShown
	default:
		text = "it is " + x.list(values)
	}
	if !isRef {
		return text, nil
	}
	rules := x.rulesFor(ref, env)
	if len(rules) == 0 {
		return text, nil
	}
	steps, held := x.failedRules(f, rules, ref, env, depth)
	if len(values) == 0 && !held && err == nil {
		text = "no rule holds"
	}
	return text, steps
}

// failedRules describes every rule for ref that does not hold. held reports whether one does.
func (x *explainer) failedRules(f *frame, rules []*ast.Rule, ref ast.Ref, env env, depth int) (steps []Step, held bool) {
	if depth >= maxNested {
		x.cut = true
		return nil, false
	}
	for _, rule := range rules {
		if rule.Default || len(rule.Head.Args) > 0 {
			continue
		}
		more, holds := x.chain(f, rule, x.constrain(rule, ref, env), nil, depth)
		held = held || holds
		for _, step := range more {
			steps = x.add(steps, step)
		}
	}
	return steps, held
}

// chain describes a rule and its else branches, up to the one that holds.
func (x *explainer) chain(f *frame, rule *ast.Rule, extra ast.Body, args *frame, depth int) (steps []Step, held bool) {
	for link := rule; link != nil; link = link.Else {
		inner := f.enter(link, copyBody(extra))
		inner.adopt(args)
		key := fmt.Sprintf("%p %v", link, extra)
		if x.reported[key] {
			step := x.place(link)
			step.Above = true
			steps = append(steps, step)
			continue
		}
		tried := x.probe(inner, nil)
		if tried.held {
			return steps, true
		}
		x.reported[key] = true
		steps = append(steps, x.failedStep(inner, tried, depth+1))
	}
	return steps, false
}

// missing says how far a reference resolves: there is no input.identity.subject.
func (x *explainer) missing(f *frame, ref ast.Ref, env env) string {
	ref = x.shown(f, ref, env)
	for n := 2; n <= len(ref); n++ {
		values, _ := x.values(ast.NewTerm(ref[:n]), env)
		if len(values) > 0 {
			continue
		}
		if n == 2 {
			return "there is no " + x.refText(ref[:n])
		}
		holder, _ := x.values(ast.NewTerm(ref[:n-1]), env)
		if len(holder) == 1 {
			switch v := holder[0].(type) {
			case ast.Object:
				if v.Len() > 0 {
					break
				}
				return x.refText(ref[:n-1]) + " is empty"
			case *ast.Array:
				if v.Len() == 0 {
					return x.refText(ref[:n-1]) + " is empty"
				}
			case ast.Set:
				if v.Len() == 0 {
					return x.refText(ref[:n-1]) + " is empty"
				}
			default:
				if !x.dark(f, ast.NewTerm(ref[:n-1])) {
					return x.refText(ref[:n-1]) + " is " + x.show(v)
				}
			}
		}
		return "there is no " + x.refText(ref[:n])
	}
	return "it is undefined"
}

// shown puts values into a reference, except secret ones.
func (x *explainer) shown(f *frame, ref ast.Ref, env env) ast.Ref {
	out := slices.Clone(ref)
	for i, t := range out {
		if v, isVar := t.Value.(ast.Var); isVar && env[v] != nil && !x.dark(f, t) {
			out[i] = env[v]
		}
	}
	return out
}

// refText renders a reference with its variables' names in the source.
func (x *explainer) refText(ref ast.Ref) string {
	var b strings.Builder
	for i, t := range ref {
		switch v := t.Value.(type) {
		case ast.Var:
			name := string(v)
			if given, ok := x.rego.RewrittenVars[v]; ok {
				name = string(given)
			}
			if strings.HasPrefix(name, "__local") || strings.HasPrefix(name, "$") {
				name = "_"
			}
			if i > 0 {
				name = "[" + name + "]"
			}
			b.WriteString(name)
		case ast.String:
			if i > 0 && plainName(string(v)) {
				b.WriteString("." + string(v))
				continue
			}
			b.WriteString("[" + x.show(v) + "]")
		default:
			if i == 0 && !isValue(v) {
				b.WriteString("it")
				continue
			}
			b.WriteString("[" + x.show(v) + "]")
		}
	}
	return x.hide.Replace(b.String())
}

func plainName(s string) bool {
	return s != "" && len(s) <= maxString && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == "" && (s[0] < '0' || s[0] > '9')
}

// list renders the values of one term.
func (x *explainer) list(values []rego.Value) string {
	var out []string
	for i, v := range values {
		if i == maxIterations {
			out = append(out, "and more")
			break
		}
		out = append(out, x.show(v))
	}
	return strings.Join(out, ", ")
}

// whyEvery finds the first member for which the body does not hold.
func (x *explainer) whyEvery(f *frame, every *ast.Every, env env, depth int) (string, []Step) {
	domain, _ := x.values(every.Domain, env)
	if len(domain) == 0 {
		return x.whyTerm(f, every.Domain, env, depth)
	}
	dark := x.dark(f, every.Domain)
	inner := &frame{body: every.Body, enclosing: f, dark: map[ast.Var]bool{}, bound: map[ast.Var]bool{}}
	for _, t := range []*ast.Term{every.Key, every.Value} {
		if t != nil {
			for v := range vars(t) {
				inner.bound[v], inner.dark[v] = true, dark
			}
		}
	}
	var text string
	var steps []Step
	eachMember(domain[0], func(key, value *ast.Term) bool {
		bound := env.clone()
		for t, v := range map[*ast.Term]*ast.Term{every.Key: key, every.Value: value} {
			if t == nil {
				continue
			}
			if name, isVar := t.Value.(ast.Var); isVar {
				bound[name] = v
			}
		}
		tried := x.probe(inner, bound)
		if tried.held {
			return x.ctx.Err() == nil
		}
		member := notShown
		if !dark {
			member = x.show(value.Value)
		}
		text = "not for " + member
		if tried.at < 0 || len(tried.envs) == 0 {
			return false
		}
		_, failed := location(writtenOf(inner.body, tried.at))
		text += ": " + failed
		found, because := x.why(inner, inner.body[tried.at], tried.env(), depth+1)
		if found != "" {
			text += ": " + found
		}
		steps = because
		return false
	})
	return text, steps
}

func (e env) clone() env {
	out := make(env, len(e)+2)
	for v, t := range e {
		out[v] = t
	}
	return out
}

// eachMember calls f for the members of a collection until it returns false.
func eachMember(v rego.Value, f func(key, value *ast.Term) bool) {
	switch v := v.(type) {
	case *ast.Array:
		for i := range v.Len() {
			if !f(ast.InternedTerm(i), v.Elem(i)) {
				return
			}
		}
	case ast.Set:
		for _, t := range v.Slice() {
			if !f(t, t) {
				return
			}
		}
	case ast.Object:
		for _, k := range v.Keys() {
			if !f(k, v.Get(k)) {
				return
			}
		}
	}
}

// whyNegated says what made an expression under not true.
func (x *explainer) whyNegated(f *frame, e *ast.Expr, env env, depth int) (string, []Step) {
	switch terms := e.Terms.(type) {
	case *ast.Term:
		values, _ := x.values(terms, env)
		text := "it is " + x.list(values)
		if !harmless(values) && x.dark(f, terms) {
			text = "it is " + notShown
		}
		if ref, isRef := terms.Value.(ast.Ref); isRef {
			return text, x.holdingRules(f, ref, env, depth)
		}
		return text, nil
	case []*ast.Term:
		if rules := x.rego.GetRulesExact(e.Operator()); len(rules) > 0 {
			return x.heldFunction(f, e, rules, env, depth)
		}
		operands := e.Operands()
		name := e.Operator().String()
		if e.IsEquality() && len(operands) == 2 && (unbound(operands[0], env) || unbound(operands[1], env)) {
			return "", nil
		}
		text := x.called(f, name, operands, env, true)
		if err := x.callFails(e, env); err != nil {
			text = strings.TrimSuffix(text, " holds") + ": " + x.failure(f, e, err)
		}
		return text, nil
	}
	return "", nil
}

// holdingRules describes the rules for ref that hold.
func (x *explainer) holdingRules(f *frame, ref ast.Ref, env env, depth int) []Step {
	var steps []Step
	if depth >= maxNested {
		x.cut = true
		return nil
	}
	for _, rule := range x.rulesFor(ref, env) {
		if rule.Default || len(rule.Head.Args) > 0 {
			continue
		}
		if step, held := x.heldStep(f, rule, x.constrain(rule, ref, env), nil, depth); held {
			steps = x.add(steps, step)
		}
	}
	return steps
}

// heldStep describes a rule that holds, or the else branch of it that does.
func (x *explainer) heldStep(f *frame, rule *ast.Rule, extra ast.Body, args *frame, depth int) (Step, bool) {
	for link := rule; link != nil; link = link.Else {
		inner := f.enter(link, copyBody(extra))
		inner.adopt(args)
		tried := x.probe(inner, nil)
		if !tried.held {
			continue
		}
		step := x.place(link)
		step.Held = true
		if !x.full() {
			x.support(&step, inner, tried.env(), depth+1)
		}
		return step, true
	}
	return Step{}, false
}

func (x *explainer) heldFunction(f *frame, e *ast.Expr, rules []*ast.Rule, env env, depth int) (string, []Step) {
	operands := e.Operands()
	n := min(len(rules[0].Head.Args), len(operands))
	name := e.Operator().String()
	text := name[strings.LastIndexByte(name, '.')+1:] + "(" + strings.Join(x.sides(f, operands[:n], env), ", ") + ") holds"
	var steps []Step
	if depth >= maxNested {
		x.cut = true
		return text, nil
	}
	for _, rule := range rules {
		if rule.Default {
			continue
		}
		extra, args := x.arguments(f, rule, operands[:n], env)
		if step, held := x.heldStep(f, rule, extra, args, depth); held {
			steps = x.add(steps, step)
		}
	}
	return text, steps
}

// support says what a rule that holds depends on: the helper rules in its body, or else its last comparison.
func (x *explainer) support(step *Step, f *frame, env env, depth int) {
	for i, e := range f.body {
		if e.Negated || len(e.With) > 0 {
			continue
		}
		switch terms := e.Terms.(type) {
		case *ast.Term:
			if ref, isRef := terms.Value.(ast.Ref); isRef {
				for _, s := range x.holdingRules(f, ref, env, depth) {
					step.Because = x.add(step.Because, s)
				}
			}
		case []*ast.Term:
			if rules := x.rego.GetRulesExact(e.Operator()); len(rules) > 0 {
				_, because := x.heldFunction(f, e, rules, env, depth)
				for _, s := range because {
					step.Because = x.add(step.Because, s)
				}
				continue
			}
			if e.Generated || !comparison(e) {
				continue
			}
			text := x.called(f, e.Operator().String(), e.Operands(), env, true)
			if with := x.with(f, e, env); with != "" {
				text += " (" + with + ")"
			}
			step.At, step.Expr = location(f.body[i])
			step.Found = []string{text}
		}
	}
}

// comparison reports whether an expression compares two values, rather than binding a variable.
func comparison(e *ast.Expr) bool {
	switch e.Operator().String() {
	case "internal.member_2", "internal.member_3", "equal", "neq", "lt", "lte", "gt", "gte", "startswith", "endswith", "contains", "glob.match", "regex.match":
		return true
	case "eq":
		for _, t := range e.Operands() {
			if isValue(t.Value) {
				return true
			}
			if _, isVar := t.Value.(ast.Var); isVar {
				return false
			}
		}
		return true
	}
	return false
}
