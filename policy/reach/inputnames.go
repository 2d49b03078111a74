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

// maxName bounds the name of a field that was misspelt; what is longer is another product's.
const maxName = 64

// InputNotices names each place where a policy misspells a field of the input: such a reference is undefined, and a condition with it never
// holds. A name that resembles no field is passed over: the policy may serve another product with an input of its own. The modules are compiled
// ones, where an import's alias stands for what it imports; a variable that holds a part of the input is not
// followed. What lies below an open object (headers, claims, parameters) may have any name. Rules of tests make inputs of their own.
func InputNotices(modules map[string]*ast.Module, notice func(string)) {
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		said := map[string]bool{}
		ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case *ast.Rule:
				return strings.HasPrefix(string(x.Head.Name), "test_")
			case *ast.With: // what it puts a value into is not read
				ast.WalkTerms(x.Value, func(t *ast.Term) bool { return unknownField(t, said, notice) })
				return true
			case *ast.Term:
				return unknownField(x, said, notice)
			}
			return false
		}).Walk(modules[name])
	}
}

// unknownField tells of a reference to a misspelt field, once for each line. It returns false: the terms within are looked at as well.
func unknownField(t *ast.Term, said map[string]bool, notice func(string)) bool {
	ref, ok := t.Value.(ast.Ref)
	if !ok || len(ref) < 2 || !ref[0].Equal(ast.InputRootDocument) {
		return false
	}
	at := t.Location // an import's aliases share their first term, with its place
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

// unknownInput is the part of a path in the input that leads to no field, and the field that may have been meant; "" where there is none.
func unknownInput(path []string) (unknown, near string) {
	nodes, so := input.Standard().Root, "input"
	for _, name := range path {
		i := slices.IndexFunc(nodes, func(n input.Node) bool { return n.Name == name })
		if i < 0 {
			names := make([]string, len(nodes))
			for i := range nodes {
				names[i] = nodes[i].Name
			}
			if best := nearest.Word(name, names, max(1, len(name)/3)+1); best != "" && len(name) <= maxName { // it may differ in a third of its letters
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
