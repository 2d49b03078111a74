package lint

import (
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
)

// The rules about conditions that hold, or fail, otherwise than they read. Regal has them under the same names; docs/decisions/0022-lint.md says why
// they are written here.
const (
	NotInLoop    = "not-equals-in-loop"         // x[_] != y: true as soon as one differs
	Impossible   = "impossible-not"             // not deny, where deny is a set: an empty set is a value too
	Constant     = "constant-condition"         // 1 == 1
	SprintfArity = "sprintf-arguments-mismatch" // more or fewer values than the format has verbs
)

const maxSprintf = 64 // verbs of one format that are counted

// bugs finds conditions in one bundle that do not mean what they say. all are the bundles that it is compiled with.
func bugs(b *bundle.Bundle, all []*bundle.Bundle) (found []Finding) {
	sets := partialRules(all)
	for file, m := range b.Modules() {
		at := strings.Join(rego.Path(m.Package.Path), "/")
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			report := func(rule, text string) {
				found = append(found, Finding{rule, file, e.Location.Row, text})
			}
			if e.Negated {
				if name, ok := negated(e, at, sets); ok {
					report(Impossible, fmt.Sprintf("not %s never holds: it is a set, and a set without elements is a value too; write count(%s) == 0", name, name))
				}
			}
			if e.IsCall() {
				checkCall(e, report)
			}
			return false
		})
		ast.WalkTerms(m, func(t *ast.Term) bool { // calls within terms: sprintf is hardly ever an expression
			if call, ok := t.Value.(ast.Call); ok && len(call) == 3 && call[0].Value.String() == "sprintf" {
				if text := sprintf(call[1], call[2]); text != "" {
					found = append(found, Finding{SprintfArity, file, t.Location.Row, text})
				}
			}
			return false
		})
	}
	return found
}

// checkCall looks at an expression that is a call, such as a == b.
func checkCall(e *ast.Expr, report func(rule, text string)) {
	operands := e.Operands()
	switch e.Operator().String() {
	case "neq":
		for _, o := range operands {
			if ref, ok := o.Value.(ast.Ref); ok && loops(ref) && !e.Negated {
				report(NotInLoop, fmt.Sprintf("%s != ... holds as soon as one of several differs; to say that none is equal write not ... in %s", o, collection(ref)))
				return
			}
		}
		fallthrough
	case "equal", "eq", "lt", "gt", "lte", "gte":
		if len(operands) == 2 && ast.IsScalar(operands[0].Value) && ast.IsScalar(operands[1].Value) {
			report(Constant, "the condition compares two constants: it always comes out the same")
		}
	case "sprintf":
		if len(operands) >= 2 {
			if text := sprintf(operands[0], operands[1]); text != "" {
				report(SprintfArity, text)
			}
		}
	}
}

// loops reports whether a reference goes over all elements of something: input.roles[_].
func loops(ref ast.Ref) bool {
	for _, t := range ref[1:] {
		if v, ok := t.Value.(ast.Var); ok && v.IsWildcard() {
			return true
		}
	}
	return false
}

// collection is what a reference goes over.
func collection(ref ast.Ref) ast.Ref {
	for i, t := range ref[1:] {
		if v, ok := t.Value.(ast.Var); ok && v.IsWildcard() {
			return ref[:i+1]
		}
	}
	return ref
}

// partialRules are the paths of rules that build a set or an object, and nothing else.
func partialRules(all []*bundle.Bundle) map[string]bool {
	found := map[string]bool{}
	for _, b := range all {
		for _, m := range b.Modules() {
			at := strings.Join(rego.Path(m.Package.Path), "/")
			for _, r := range m.Rules {
				path := at + "/" + string(r.Head.Name)
				if r.Head.Name == "" && len(r.Head.Reference) > 0 {
					path = at + "/" + strings.Trim(r.Head.Reference[0].Value.String(), `"`)
				}
				if r.Head.RuleKind() == ast.MultiValue {
					if _, seen := found[path]; !seen {
						found[path] = true
					}
				} else {
					found[path] = false
				}
			}
		}
	}
	return found
}

// negated reports whether what an expression negates is a set that rules build, and its name.
func negated(e *ast.Expr, pkg string, sets map[string]bool) (string, bool) {
	term, ok := e.Terms.(*ast.Term)
	if !ok {
		return "", false
	}
	switch value := term.Value.(type) {
	case ast.Var:
		return string(value), sets[pkg+"/"+string(value)]
	case ast.Ref:
		if value.HasPrefix(ast.DefaultRootRef) && value.IsGround() {
			return value.String(), sets[strings.Join(rego.Path(value), "/")]
		}
	}
	return "", false
}

// sprintf says where a format and its values do not agree; "" where they do or cannot be told.
func sprintf(format, values *ast.Term) string {
	text, ok := format.Value.(ast.String)
	list, isArray := values.Value.(*ast.Array)
	if !ok || !isArray || strings.ContainsAny(string(text), "*[") {
		return ""
	}
	verbs := 0
	for rest := string(text); verbs < maxSprintf; verbs++ {
		at := strings.IndexByte(rest, '%')
		if at < 0 || at+1 == len(rest) {
			break
		}
		if rest[at+1] == '%' {
			verbs--
		}
		rest = rest[at+2:]
	}
	if verbs == list.Len() {
		return ""
	}
	return fmt.Sprintf("the format %s takes %d, and is given %d", format, verbs, list.Len())
}
