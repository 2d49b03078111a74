package bounds

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/gobwas/glob"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// TestGlobExpression compares globs with the regular expressions that replace them.
func TestGlobExpression(t *testing.T) {
	pieces := []string{"a", "b", "/", ".", "*", "**", "?", "[ab]", "[!a]", "[a-c]", "{a,b}", "{a*,/}", "{,b}", `\*`, "é", "a*", "*b", "{a,{b,c}*}", "-", "^", "$", "+", "(", "|"}
	letters := []string{"a", "b", "c", "/", ".", "é", "*", "-", "^", "\n", "("}
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from []string, n int) string {
		var out strings.Builder
		for range random.IntN(n + 1) {
			out.WriteString(from[random.IntN(len(from))])
		}
		return out.String()
	}
	compared := 0
	for range 30_000 {
		pattern, subject := pick(pieces, 6), pick(letters, 8)
		for _, separators := range [][]rune{nil, {'/'}, {'.', '/'}} {
			g, err := glob.Compile(pattern, separators...)
			if err != nil {
				continue
			}
			expression, ok := globExpression(pattern, separators)
			if !ok {
				continue
			}
			compared++
			if want, got := g.Match(subject), matches(t, expression, subject); got != want {
				t.Fatalf("%q with %q on %q: the expression %q says %v, the glob %v", pattern, separators, subject, expression, got, want)
			}
		}
	}
	if compared < 10_000 {
		t.Errorf("only %d compared", compared)
	}
}

func matches(t *testing.T, expression, subject string) bool {
	t.Helper()
	re, err := regexp.Compile(expression)
	if err != nil {
		t.Fatal(err)
	}
	return re.MatchString(subject)
}

func originals(name string) topdown.BuiltinFunc { return opas[name] }

// results records a function's results, including panics: OPA's json.patch has some.
func results(f topdown.BuiltinFunc, args ...*ast.Term) (out string) {
	defer func() {
		if recover() != nil {
			out = "panic"
		}
	}()
	err := f(topdown.BuiltinContext{Context: context.Background(), Metrics: metrics.NoOp()}, args, func(t *ast.Term) error {
		out += t.String() + ";"
		return nil
	})
	return fmt.Sprint(out, err != nil)
}

// TestReplacementsAreTheSame compares our implementations with OPA's, on harmless operands.
func TestReplacementsAreTheSame(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	node := func() *ast.Term { return ast.StringTerm(string(rune('a' + random.IntN(6)))) }
	list := func() *ast.Term {
		var nodes []*ast.Term
		for range random.IntN(4) {
			nodes = append(nodes, node())
		}
		if random.IntN(2) == 0 {
			return ast.SetTerm(nodes...)
		}
		return ast.ArrayTerm(nodes...)
	}
	word := func(n int) string {
		var out strings.Builder
		for range random.IntN(n) {
			out.WriteString([]string{"a", "a", "b", "é", "\xff", "\uFFFD", "漢"}[random.IntN(7)])
		}
		return out.String()
	}
	for range 3000 {
		graph := ast.NewObject()
		for range random.IntN(6) {
			graph.Insert(node(), list())
		}
		if random.IntN(10) == 0 {
			graph.Insert(node(), ast.NullTerm())
		}
		start := list()
		for name, f := range map[string]func(topdown.BuiltinFunc) topdown.BuiltinFunc{"graph.reachable": reachable, "graph.reachable_paths": reachablePaths} {
			args := []*ast.Term{ast.NewTerm(graph), start}
			if want, got := results(originals(name), args...), results(f(originals(name)), args...); got != want {
				t.Fatalf("%s(%v, %v) = %s, OPA says %s", name, graph, start, got, want)
			}
		}
		base, search := word(30), word(3)
		if search != "" {
			for all, name := range map[bool]string{false: "indexof", true: "indexof_n"} {
				want := results(originals(name), ast.StringTerm(base), ast.StringTerm(search))
				found := positions(clean(base), clean(search), all)
				var list []*ast.Term
				for _, at := range found {
					list = append(list, ast.IntNumberTerm(at))
				}
				got := ast.ArrayTerm(list...).String() + ";false"
				if !all {
					if got = "-1;false"; len(found) > 0 {
						got = fmt.Sprint(found[0], ";false")
					}
				}
				if strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
					t.Fatalf("%s(%q, %q) = %s, OPA says %s", name, base, search, got, want)
				}
			}
		}
		document := ast.MustParseTerm(`{"a": {"b": [1, 2]}, "c": "x"}`)
		var operations []*ast.Term
		paths := []string{"/a", "/a/b", "/a/b/0", "/c", "/d", "/a/b/-", "", "/a/e"}
		for range random.IntN(4) {
			operations = append(operations, ast.ObjectTerm(
				ast.Item(ast.StringTerm("op"), ast.StringTerm([]string{"add", "remove", "replace", "move", "copy", "test"}[random.IntN(6)])),
				ast.Item(ast.StringTerm("path"), ast.StringTerm(paths[random.IntN(len(paths))])),
				ast.Item(ast.StringTerm("from"), ast.StringTerm(paths[random.IntN(len(paths))])),
				ast.Item(ast.StringTerm("value"), ast.StringTerm("x"))))
		}
		args := []*ast.Term{document, ast.ArrayTerm(operations...)}
		if want, got := results(originals("json.patch"), args...), results(patches(originals("json.patch")), args...); got != want {
			t.Fatalf("json.patch(%v) = %s, OPA says %s", args, got, want)
		}
	}
}
