package reach

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/input"
	"gatehouse/nearest"
	"gatehouse/policy/rego"
)

// maxName bounds a name that may be a misspelt field; a longer one belongs to another product.
const maxName = 64

// InputNotices reports each place where a policy misspells a field of the input: such a reference is undefined, and its condition never
// holds. A name that resembles no field is ignored: the policy may serve another product with its own input. The modules must be compiled,
// so that import aliases are resolved; variables that hold part of the input are not followed. Below an open object (headers, claims,
// parameters) any name is valid. Test rules make their own input and are skipped.
func InputNotices(modules map[string]*ast.Module, notice func(string)) {
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		said := map[string]bool{}
		ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case *ast.Rule:
				return strings.HasPrefix(string(x.Head.Name), "test_")
			case *ast.With: // the target of a with is not read
				ast.WalkTerms(x.Value, func(t *ast.Term) bool { return unknownField(t, said, notice) })
				return true
			case *ast.Term:
				return unknownField(x, said, notice)
			}
			return false
		}).Walk(modules[name])
	}
}

// unknownField reports a reference to a misspelt field, once per line. It returns false so that nested terms are visited too.
func unknownField(t *ast.Term, said map[string]bool, notice func(string)) bool {
	ref, ok := t.Value.(ast.Ref)
	if !ok || len(ref) < 2 || !ref[0].Equal(ast.InputRootDocument) {
		return false
	}
	at := t.Location // the aliases of an import share their first term and its location
	if at == nil || at.File == "" {
		at = ref[0].Location
	}
	if at == nil || strings.HasSuffix(at.File, "_test.rego") {
		return false
	}
	path, near := unknownInput(rego.Path(ref))
	if near == "" {
		return false
	}
	text := fmt.Sprintf("%s:%d: %s is not a field of the input; did you mean %s?", at.File, at.Row, path, near)
	if !said[text] {
		said[text] = true
		notice(text)
	}
	return false
}

// unknownInput returns the unknown part of an input path, and the field probably meant; "" if there is none.
func unknownInput(path []string) (unknown, near string) {
	nodes, so := input.Standard().Root, "input"
	for _, name := range path {
		i := slices.IndexFunc(nodes, func(n input.Node) bool { return n.Name == name })
		if i < 0 {
			names := make([]string, len(nodes))
			for i := range nodes {
				names[i] = nodes[i].Name
			}
			if best := nearest.Word(name, names, max(1, len(name)/3)+1); best != "" && len(name) <= maxName { // at most a third of the letters may differ
				near = so + "." + best
			}
			return so + "." + name, near
		}
		so += "." + name
		if nodes = nodes[i].Below; len(nodes) == 0 {
			return "", ""
		}
	}
	return "", ""
}
