package explain

import (
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
)

// Limits of what is shown of a value or of the policy's text, in bytes and members.
const (
	maxShown   = 200
	maxString  = 80
	maxMembers = 6
	maxWritten = 160
	maxMessage = 500
)

const notShown = "a value that is not shown"

// harmless reports whether values reveal nothing but the outcome of a comparison.
func harmless(values []rego.Value) bool {
	for _, v := range values {
		switch v.(type) {
		case ast.Boolean, ast.Null:
		default:
			return false
		}
	}
	return true
}

func (x *explainer) show(v rego.Value) string {
	var b strings.Builder
	show(&b, v, 0)
	text := b.String()
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "..."
	}
	return x.hide.Replace(text)
}

func show(b *strings.Builder, v rego.Value, depth int) {
	switch v := v.(type) {
	case ast.String:
		s := string(v)
		if len(s) > maxString {
			s = strings.ToValidUTF8(s[:maxString], "") + "..."
		}
		b.WriteString(strconv.Quote(s))
	case ast.Number:
		b.WriteString(string(v[:min(len(v), maxString)]))
	case *ast.Array:
		members(b, "[", "]", termsOf(v), depth, func(t *ast.Term) { show(b, t.Value, depth+1) })
	case ast.Set:
		if v.Len() == 0 {
			b.WriteString("set()")
			return
		}
		members(b, "{", "}", v.Slice(), depth, func(t *ast.Term) { show(b, t.Value, depth+1) })
	case ast.Object:
		members(b, "{", "}", v.Keys(), depth, func(t *ast.Term) {
			show(b, t.Value, depth+1)
			b.WriteString(": ")
			show(b, v.Get(t).Value, depth+1)
		})
	default:
		b.WriteString(inOneLine(v.String(), maxMessage))
	}
}

func termsOf(a *ast.Array) []*ast.Term {
	terms := make([]*ast.Term, a.Len())
	for i := range terms {
		terms[i] = a.Elem(i)
	}
	return terms
}

func members(b *strings.Builder, open, end string, terms []*ast.Term, depth int, each func(*ast.Term)) {
	b.WriteString(open)
	for i, t := range terms {
		if i > 0 {
			b.WriteString(", ")
		}
		if i == maxMembers || depth > 2 || b.Len() > maxShown {
			b.WriteString("... " + strconv.Itoa(len(terms)-i) + " more")
			break
		}
		each(t)
	}
	b.WriteString(end)
}

// redactor redacts texts.
func redactor(texts []string) *strings.Replacer {
	var pairs []string
	for _, text := range texts {
		if len(text) >= 4 {
			pairs = append(pairs, text, "[redacted]")
			if quoted := strings.Trim(strconv.Quote(text), `"`); quoted != text {
				pairs = append(pairs, quoted, "[redacted]")
			}
		}
	}
	return strings.NewReplacer(pairs...)
}

// written returns a piece of policy as in its source file, in one line.
func written(l *ast.Location, x interface{ String() string }) string {
	text := ""
	if l != nil {
		text = string(l.Text)
	}
	if text == "" {
		text = x.String()
	}
	return inOneLine(text, maxWritten)
}

// inOneLine joins the lines of a text from elsewhere and bounds it.
func inOneLine(text string, limit int) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return text
}

func location(e *ast.Expr) (row int, text string) {
	if e.Location != nil {
		row = e.Location.Row
	}
	return row, written(e.Location, e)
}

func rowOf(l *ast.Location) int {
	if l == nil {
		return 0
	}
	return l.Row
}

// dark reports whether a term holds, or was derived from, a secret value.
func (x *explainer) dark(f *frame, t *ast.Term) bool {
	return len(x.options.Secret) > 0 && !isValue(t.Value) && x.hiddenTerm(f, t, map[ast.Var]bool{})
}

func (x *explainer) hiddenTerm(f *frame, t any, seen map[ast.Var]bool) bool {
	if term, isTerm := t.(*ast.Term); isTerm {
		if at, _, ok := x.origin(f, term, 0); ok {
			return x.secret(at)
		}
	}
	dark := false
	ast.NewGenericVisitor(func(y any) bool {
		switch y := y.(type) {
		case ast.Ref:
			dark = dark || x.hiddenRef(f, y, seen)
			return true
		case ast.Var:
			dark = dark || x.hiddenVar(f, y, seen)
		}
		return dark
	}).Walk(t)
	return dark
}

// hiddenRef decides for a reference: into the input by its path, to rules by everything that they read.
func (x *explainer) hiddenRef(f *frame, ref ast.Ref, seen map[ast.Var]bool) bool {
	switch {
	case len(ref) == 0:
		return false
	case ref[0].Equal(ast.InputRootDocument):
		return x.secret(inputPath(ref))
	case ref[0].Equal(ast.DefaultRootDocument):
		if at, _, ok := x.origin(f, ast.NewTerm(ref), 0); ok {
			return x.secret(at)
		}
		key := ref.String()
		found, known := x.secrets[key]
		if !known {
			found = x.readsSecret(x.inspect.Reads(ref))
			x.secrets[key] = found
		}
		if found {
			return true
		}
	default:
		if v, isVar := ref[0].Value.(ast.Var); isVar && x.hiddenVar(f, v, seen) {
			return true
		}
	}
	for _, t := range ref[1:] {
		if v, isVar := t.Value.(ast.Var); isVar && x.hiddenVar(f, v, seen) {
			return true
		}
	}
	return false
}

// inputPath returns the constant prefix of a reference into the input.
func inputPath(ref ast.Ref) (path []string) {
	for _, t := range ref[1:] {
		key, isString := t.Value.(ast.String)
		if !isString {
			break
		}
		path = append(path, string(key))
	}
	return path
}

// hiddenVar decides for a variable by the expression that binds it.
func (x *explainer) hiddenVar(f *frame, v ast.Var, seen map[ast.Var]bool) bool {
	if seen[v] {
		return false
	}
	seen[v] = true
	if v.Compare(ast.InputRootDocument.Value) == 0 {
		return len(x.options.Secret) > 0
	}
	if from := f.from[v]; from != nil {
		return x.secret(from)
	}
	if f.dark[v] {
		return true
	}
	at, other := f.binder(v)
	switch {
	case at < 0 && f.enclosing != nil:
		return x.hiddenVar(f.enclosing, v, seen)
	case at < 0:
		return false
	case other != nil:
		return x.hiddenTerm(f, other, seen)
	case f.body[at].IsCall():
		if at, ok := x.originGet(f, f.body[at]); ok {
			return x.secret(at)
		}
		for _, operand := range f.body[at].Operands() {
			if x.hiddenTerm(f, operand, seen) {
				return true
			}
		}
		if rules := x.rego.GetRulesExact(f.body[at].Operator()); len(rules) > 0 {
			return x.hiddenRef(f, f.body[at].Operator(), seen)
		}
		return false
	}
	return x.hiddenTerm(f, f.body[at], seen)
}

// originGet is origin for an object.get with a constant key.
func (x *explainer) originGet(f *frame, e *ast.Expr) (at []string, ok bool) {
	if e.Operator().String() != "object.get" || len(e.Operands()) < 3 {
		return nil, false
	}
	key, isString := e.Operand(1).Value.(ast.String)
	at, each, ok := x.origin(f, e.Operand(0), 0)
	return append(slices.Clone(at), string(key)), ok && !each && isString && isValue(e.Operand(2).Value)
}

// secret reports whether the value at a path contains, is, or is part of a secret value.
func (x *explainer) secret(path []string) bool {
	return slices.ContainsFunc(x.options.Secret, func(s []string) bool {
		n := min(len(s), len(path))
		return slices.EqualFunc(s[:n], path[:n], alike)
	})
}

// alike compares names as CGI and WSGI fold header names.
func alike(a, b string) bool {
	return a == b || strings.EqualFold(strings.ReplaceAll(a, "_", "-"), strings.ReplaceAll(b, "_", "-"))
}

// readsSecret reports whether a secret path is read.
func (x *explainer) readsSecret(reads reach.Reads) bool {
	return slices.ContainsFunc(x.options.Secret, func(p []string) bool { return reads.AnyFunc(alike, p...) })
}

// origin returns the place in the input that a term is a plain copy of. each says that it is any element there.
func (x *explainer) origin(f *frame, t *ast.Term, depth int) (at []string, each, ok bool) {
	if depth > maxNested || t == nil {
		return nil, false, false
	}
	switch v := t.Value.(type) {
	case ast.Var:
		if from := f.from[v]; from != nil {
			return from, false, true
		}
		i, other := f.binder(v)
		if i < 0 && f.enclosing != nil {
			return x.origin(f.enclosing, t, depth+1)
		}
		if other == nil || len(f.body[i].With) > 0 {
			return nil, false, false
		}
		return x.origin(f, other, depth+1)
	case ast.Ref:
		return x.originRef(f, v, depth)
	}
	return nil, false, false
}

func (x *explainer) originRef(f *frame, ref ast.Ref, depth int) (at []string, each, ok bool) {
	rest := ref[1:]
	switch {
	case ref[0].Equal(ast.InputRootDocument):
	case ref[0].Equal(ast.DefaultRootDocument):
		var rule *ast.Rule
		for n := 2; n <= len(ref) && rule == nil; n++ {
			if rules := x.rego.GetRulesExact(ref[:n]); len(rules) == 1 {
				rule, rest = rules[0], ref[n:]
			} else if len(rules) > 1 {
				return nil, false, false
			}
		}
		if rule == nil || rule.Else != nil || len(rule.Head.Args) > 0 || rule.Head.Value == nil || rule.Head.Key != nil {
			return nil, false, false
		}
		if at, each, ok = x.origin(&frame{rule: rule, body: rule.Body}, rule.Head.Value, depth+1); !ok || each {
			return nil, false, false
		}
	default:
		if at, each, ok = x.origin(f, ref[0], depth+1); !ok || each {
			return nil, false, false
		}
	}
	for i, t := range rest {
		switch key := t.Value.(type) {
		case ast.String:
			at = append(slices.Clone(at), string(key))
		case ast.Var:
			if i != len(rest)-1 {
				return nil, false, false
			}
			return at, true, len(at) > 0
		default:
			return nil, false, false
		}
	}
	return at, false, true
}
