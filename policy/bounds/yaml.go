package bounds

import (
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"go.yaml.in/yaml/v3"
)

// yamls checks the aliases before a built-in that parses YAML: an alias stands for a value that may be large and may hold aliases itself.
func yamls(name string) func(topdown.BuiltinFunc) topdown.BuiltinFunc {
	return func(original topdown.BuiltinFunc) topdown.BuiltinFunc {
		return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
			if refused := aliases(stringOf(args[0])); refused != "" {
				return limit(name, bctx.Location, refused)
			}
			return original(bctx, args, iter)
		}
	}
}

// aliases returns what is wrong with a document's aliases, "" if nothing is.
func aliases(s string) string {
	if len(s) > MaxText/8 {
		return fmt.Sprintf("a document of more than %d bytes", MaxText/8)
	}
	if !strings.Contains(s, "*") {
		return ""
	}
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(s), &document); err != nil {
		if strings.Contains(s, "&") {
			return "a document of YAML with anchors that cannot be read"
		}
		return ""
	}
	if (expansions{known: map[*yaml.Node]int{}}).of(&document, 0) > MaxText/8 {
		return fmt.Sprintf("a document of YAML of more than %d bytes once its aliases are put in", MaxText/8)
	}
	return ""
}

// expansions caches the size of nodes with their aliases expanded.
type expansions struct{ known map[*yaml.Node]int }

func (e expansions) of(n *yaml.Node, depth int) int {
	if size, ok := e.known[n]; ok {
		return size
	}
	if depth > MaxNesting {
		return MaxText
	}
	e.known[n] = MaxText // marks recursion while counting
	size := 4 + len(n.Value)
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		size += e.of(n.Alias, depth+1)
	}
	for _, child := range n.Content {
		if size += e.of(child, depth+1); size > MaxText {
			size = MaxText
			break
		}
	}
	e.known[n] = size
	return size
}
