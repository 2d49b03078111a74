// Package explain says why a policy decides as it does: which rules held, where the others failed and on which values, and which single
// changes of the request would allow it. It is for tools, never for the request path.
//
// It owns the traversal of the rules, the wording, and the redaction of values. Compiling and evaluating belong to package policy, which it
// uses through policy.Inspector. Of ours it imports policy alone.
package explain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"gatehouse/policy"
	"gatehouse/policy/builtins"
	"gatehouse/policy/rego"
)

// Limits of one explanation.
const (
	explainTime   = 3 * time.Second // the default of Options.Timeout
	nearestTime   = time.Second     // for the nearest miss
	maxQueries    = 3000            // evaluations of a rule or a part of one
	maxSteps      = 80              // rules described
	maxNested     = 8               // levels of helper rules
	maxSiblings   = 12              // rules with one name
	maxIterations = 3               // bindings tried per expression
	maxCandidates = 50              // changes tried for the nearest miss
	maxNearest    = 8               // changes reported
)

// Options bounds an explanation and says what it must not show.
type Options struct {
	// Secret are paths into the input, such as {"identity", "claims"}: no value from there, or derived from one, is shown. Names are
	// compared without regard to case, and "_" and "-" are the same.
	Secret [][]string
	// Hide are texts that are redacted wherever they come from. Those shorter than four bytes are ignored.
	Hide []string
	// Timeout bounds the whole explanation; 0 means 3 seconds. What was found by then is returned, with Cut set.
	Timeout time.Duration
	// Why, if set, says in one line why the directory answers a query as it does: the path of relations, or the missing one; "" if unknown.
	Why func(policy.Question) string
}

// Explanation says why a policy decided as it did. Its texts are for operators: they quote the policy, its data and the input, bounded in
// length.
type Explanation struct {
	Decision policy.Decision `json:"-"`
	Err      error           `json:"-"` // why there is no decision, as Inspector.Decide returns it

	Allowed bool   `json:"allowed"`
	Path    string `json:"path"`              // of the decision, for example envoy.authz.allow
	Error   string `json:"error,omitempty"`   // Err's text
	By      []Step `json:"by,omitempty"`      // the rules that produced the decision; for an allow with those that they depend on
	WhyNot  []Step `json:"why_not,omitempty"` // of a denial: every rule that could have allowed
	Nearest []Near `json:"nearest,omitempty"` // of a denial: single changes that would allow, each verified

	// Asked are the policy's directory queries.
	Asked []Asked `json:"asked,omitempty"`

	// Notes say what the explanation cannot know or left out.
	Notes []string `json:"notes,omitempty"`
	// Cut says that a limit was reached: rules, values or nearest misses may be missing.
	Cut bool `json:"cut,omitempty"`
}

// Step is one rule of an explanation.
type Step struct {
	Rule    string `json:"rule"`
	File    string `json:"file"` // bundle and path in it
	Line    int    `json:"line"` // where the rule begins
	Held    bool   `json:"held"`
	Default bool   `json:"default,omitempty"`
	// At is the line of the first expression that failed, and Expr its source text. For a rule that held it is the last expression worth
	// showing.
	At   int    `json:"at,omitempty"`
	Expr string `json:"expr,omitempty"`
	// Found describes the values, one line for each of the first bindings that the expression was tried with.
	Found []string `json:"found,omitempty"`
	// Because are the rules that the expression depends on.
	Because []Step `json:"because,omitempty"`
	// Above says that the rule was already described.
	Above bool `json:"above,omitempty"`
}

// Asked is one directory query.
type Asked struct {
	Question string `json:"question"`      // ds.check({"object_id": "7", ...})
	Answer   string `json:"answer"`        // "undefined" if there was none
	Why      string `json:"why,omitempty"` // the path of relations, or the missing one
}

// Near is a change of the request, or of the caller, that would allow it.
type Near struct {
	// Kind is role, group, scope, relation (of the directory), method, subject, login, or input for anything else.
	Kind string `json:"kind"`
	// Path is the place in the input, for Kind input.
	Path string `json:"path,omitempty"`
	// Member says that a value must be in the list at Path, beside what is there, not instead of it.
	Member bool     `json:"member,omitempty"`
	Values []string `json:"values,omitempty"` // each of them would allow
	Login  bool     `json:"login,omitempty"`  // the caller must log in first
}

type explainer struct {
	ctx     context.Context
	entry   *policy.Entry
	inspect *policy.Inspector
	rego    *ast.Compiler
	input   rego.Value
	options Options
	hide    *strings.Replacer
	secrets map[string]bool // by reference: whether it reads secret input

	queries, steps int
	reported       map[string]bool
	failed         []failedRule // candidates for nearest misses
	cut            bool
}

// failedRule is a rule that did not hold, with its variables' values where it failed.
type failedRule struct {
	frame *frame
	env   env
}

// Of evaluates an entry's decision again, then rule by rule, to say why it came out as it did. It takes a thousand times longer than
// Entry.Decide and shares nothing with it but the snapshot. A nil input is undefined.
//
// Network calls are disabled: http.send fails. Of does not fail; what it could not find out is in Err and Notes.
func Of(ctx context.Context, e *policy.Entry, input rego.Value, facts policy.Facts, now time.Time, o Options) (found *Explanation) {
	if o.Timeout <= 0 {
		o.Timeout = explainTime
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	inspect := e.Inspect(facts, now)
	x := &explainer{ctx: ctx, entry: e, inspect: inspect, rego: inspect.Compiler(), input: input, options: o, hide: redactor(o.Hide),
		secrets: map[string]bool{}, reported: map[string]bool{}}
	found = &Explanation{Path: strings.Join(e.Path(), ".")}
	defer func() {
		if p := recover(); p != nil {
			found.Notes = append(found.Notes, "the explanation failed: "+inOneLine(fmt.Sprintf("%v %s", p, debug.Stack()), maxMessage))
			found.Cut = true
		}
	}()
	x.explain(found)
	return found
}

func (x *explainer) explain(out *Explanation) {
	out.Decision, out.Err = x.decision()
	out.Allowed = out.Err == nil && out.Decision.Allowed
	if out.Err != nil {
		out.Error = x.hide.Replace(x.errorText(out.Err))
	}
	x.asked(out)
	pure := x.notes(out)
	ref := ast.Ref{ast.DefaultRootDocument}
	for _, segment := range x.entry.Path() {
		ref = append(ref, ast.StringTerm(segment))
	}
	x.rules(out, ref)
	if !out.Allowed && pure {
		out.Nearest = x.nearest()
	}
	out.Cut = x.cut || x.ctx.Err() != nil
}

// asked reports the directory queries, unless the policy reads secret input: it may be part of a query.
func (x *explainer) asked(out *Explanation) {
	d := &out.Decision
	if len(d.Asked) == 0 {
		return
	}
	if x.readsSecret(x.entry.Reads()) {
		out.Notes = append(out.Notes, fmt.Sprintf("the policy asked the directory %d times: it reads what is secret, so the questions are not shown", len(d.Asked)))
		return
	}
	for _, q := range d.Asked {
		args := make([]string, len(q.Args))
		for i, arg := range q.Args {
			args[i] = arg.String()
		}
		asked := Asked{Question: x.line(q.Builtin + "(" + strings.Join(args, ", ") + ")"), Answer: "undefined"}
		if q.Answer != nil {
			asked.Answer = x.line(q.Answer.String())
		}
		if x.options.Why != nil {
			asked.Why = x.line(x.options.Why(q))
		}
		out.Asked = append(out.Asked, asked)
	}
	x.cut = x.cut || d.AskedTruncated
}

// line returns a text in one line, bounded and redacted.
func (x *explainer) line(text string) string { return inOneLine(x.hide.Replace(text), maxMessage) }

// errorText returns the text of the decision's error, without values if the policy reads secret input.
func (x *explainer) errorText(err error) string {
	text := err.Error()
	if !errors.Is(err, policy.ErrEvaluation) || !x.readsSecret(x.entry.Reads()) {
		return text
	}
	for _, kind := range []string{topdown.BuiltinErr, topdown.ConflictErr} {
		if before, message, found := strings.Cut(text, kind+": "); found {
			return before + kind + ": " + withoutValues(message)
		}
	}
	return policy.ErrEvaluation.Error()
}

// notes names the built-ins that limit the explanation, and reports whether there are none.
func (x *explainer) notes(out *Explanation) (pure bool) {
	called := map[string]bool{}
	for _, use := range x.entry.Memoisable().Impure {
		called[use.What] = true
	}
	pure = true
	for _, name := range slices.Sorted(maps.Keys(called)) {
		switch class := builtins.Of(name); {
		case name == "http.send":
			out.Notes = append(out.Notes, "the policy may call http.send: an explanation sends no requests, so the answer is not known")
		case class == builtins.Calling:
			out.Notes = append(out.Notes, "the policy may look names up ("+name+"): the answer may differ from the one that the decision had")
		case class == builtins.Changing:
			out.Notes = append(out.Notes, "the policy may call "+name+": its value differs from one evaluation to the next")
		default:
			continue
		}
		pure = false
	}
	return pure
}

// decision evaluates the policy with network calls disabled.
func (x *explainer) decision() (d policy.Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			d, err = policy.Decision{}, fmt.Errorf("%w: panic: %v", policy.ErrEvaluation, p)
		}
	}()
	return x.inspect.Decide(x.ctx, x.input)
}

// rules finds the rules that made the decision and, for a denial, why no other rule did.
func (x *explainer) rules(out *Explanation, ref ast.Ref) {
	root := &frame{}
	for _, rule := range x.rulesFor(ref, nil) {
		if rule.Default {
			continue
		}
		f := root.enter(rule, x.constrain(rule, ref, nil))
		for link := rule; link != nil; link = link.Else {
			f = root.enter(link, f.extra)
			tried := x.probe(f, nil)
			if !tried.held {
				if !out.Allowed && mayAllow(link) {
					out.WhyNot = x.add(out.WhyNot, x.failedStep(f, tried, 0))
				}
				continue
			}
			step := x.place(link)
			step.Held = true
			switch {
			case out.Allowed:
				x.support(&step, f, tried.env(), 0)
				if _, t := f.verdict(); t != nil {
					step.Because = append(step.Because, x.holdingRules(f, t.Value.(ast.Ref), tried.env(), 0)...)
				}
			case out.Err == nil:
				x.denied(&step, f, tried.env())
			}
			if out.Err != nil || x.produces(f, tried.env(), out.Decision.Result, ref) {
				out.By = append(out.By, step)
			}
			break
		}
	}
	if len(out.By) == 0 && out.Err == nil {
		for _, rule := range x.rulesFor(ref, nil) {
			if rule.Default {
				step := x.place(rule)
				step.Held, step.Default = true, true
				out.By = append(out.By, step)
			}
		}
	}
}

// produces reports whether a rule that holds produces this decision. If the decision is only part of what the rule defines, or is built by
// several rules, every rule that holds counts.
func (x *explainer) produces(f *frame, e env, result rego.Value, ref ast.Ref) bool {
	if len(f.rule.Ref()) != len(ref) || f.rule.Head.Value == nil {
		return true
	}
	values, _ := x.values(f.rule.Head.Value, e)
	return slices.ContainsFunc(values, func(v rego.Value) bool { return v.Compare(result) == 0 })
}

// mayAllow reports whether a rule's value could be an allow, judging by its text.
func mayAllow(rule *ast.Rule) bool {
	switch v := unifiedValue(rule.Head.Value, rule.Body).(type) {
	case ast.Boolean:
		return bool(v)
	case ast.Object:
		if allowed := v.Get(ast.InternedTerm("allowed")); allowed != nil {
			b, isBool := unifiedValue(allowed, rule.Body).(ast.Boolean)
			return !isBool || bool(b)
		}
		return false
	}
	return true
}

// unifiedValue returns what a variable of a body was unified with; other terms are returned as they are.
func unifiedValue(t *ast.Term, body ast.Body) rego.Value {
	for range maxNested {
		if t == nil {
			return nil
		}
		v, isVar := t.Value.(ast.Var)
		if !isVar {
			break
		}
		at, other := binder(v, body)
		if other == nil || len(body[at].With) > 0 {
			break
		}
		t = other
	}
	return t.Value
}

// binder finds the expression that binds a variable: the first to name it, since the compiler orders a body for evaluation. other is the
// other side of the equation, nil if it is none. at is -1 if nothing names the variable.
func binder(v ast.Var, body ast.Body) (at int, other *ast.Term) {
	for i, e := range body {
		if !vars(e).Contains(v) {
			continue
		}
		if e.IsEquality() && !e.Negated {
			a, b := e.Operand(0), e.Operand(1)
			switch {
			case a.Value.Compare(v) == 0:
				return i, b
			case b.Value.Compare(v) == 0:
				return i, a
			}
		}
		return i, nil
	}
	return -1, nil
}

func vars(x any) ast.VarSet {
	visitor := ast.NewVarVisitor().WithParams(ast.VarVisitorParams{})
	visitor.Walk(x)
	return visitor.Vars()
}

// denied explains a rule that holds and denies: where its "allowed", or its whole value, comes from.
func (x *explainer) denied(step *Step, f *frame, e env) {
	at, t := f.verdict()
	switch {
	case t != nil:
		step.At, step.Expr = rowOf(t.Location), written(t.Location, t)
		found, because := x.whyTerm(f, t, e, 0)
		step.Found, step.Because = appendText(nil, found), because
	case at >= 0 && f.body[at].IsCall():
		step.At, step.Expr = location(writtenOf(f.body, at))
		found, because := x.why(f, f.body[at], e, 0)
		step.Found, step.Because = appendText(nil, found), because
		x.failed = append(x.failed, failedRule{f, e})
	}
}

// verdict finds where the rule's "allowed", or its whole value, comes from: a reference, or else an expression of the body.
func (f *frame) verdict() (at int, ref *ast.Term) {
	t := f.rule.Head.Value
	if t == nil {
		return -1, nil
	}
	if object, ok := unifiedValue(t, f.rule.Body).(ast.Object); ok {
		t = object.Get(ast.InternedTerm("allowed"))
	}
	for range maxNested {
		if t == nil {
			return -1, nil
		}
		v, isVar := t.Value.(ast.Var)
		if !isVar {
			break
		}
		at, other := binder(v, f.rule.Body)
		if other == nil {
			return at, nil
		}
		t = other
	}
	if _, isRef := t.Value.(ast.Ref); isRef {
		return -1, t
	}
	return -1, nil
}

// place returns a step at a rule's location.
func (x *explainer) place(rule *ast.Rule) Step {
	name, at := policy.PlaceOf(rule)
	return Step{Rule: name, File: at.File, Line: at.Line}
}

// add appends a step, up to the limit.
func (x *explainer) add(steps []Step, step Step) []Step {
	if len(steps) == maxSiblings {
		x.cut = true
	}
	if len(steps) >= maxSiblings {
		return steps
	}
	return append(steps, step)
}

func appendText(list []string, text string) []string {
	if text == "" || slices.Contains(list, text) {
		return list
	}
	return append(list, text)
}
