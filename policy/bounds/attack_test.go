package bounds_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"

	"gatehouse/gate/gatetest"
	"gatehouse/policy"
	"gatehouse/policy/bounds"
	"gatehouse/policy/rego"
)

const (
	deadline = 100 * time.Millisecond
	// hangGuard is far beyond the deadline even on a loaded machine, and far below what hostile operands took without limits: minutes, or for
	// ever.
	hangGuard = time.Minute
	memory    = 1 << 30 // bytes that one decision may allocate
)

// TestEveryBuiltinIsInTheTable compares the table with the linked OPA: a new built-in has to be reviewed.
func TestEveryBuiltinIsInTheTable(t *testing.T) {
	known := map[string]bool{}
	for _, row := range bounds.Table() {
		known[row.Name] = true
		if row.Kind == "unknown" {
			t.Errorf("%s is not in the table of package bounds: say how it is bounded", row.Name)
		}
	}
	for _, name := range bounds.Rows() {
		if !known[name] {
			t.Errorf("%s is in the table, and OPA has no such built-in", name)
		}
	}
}

// TestMain checks that no abandoned call runs for ever.
func TestMain(m *testing.M) {
	code := m.Run()
	for range 300 {
		if bounds.Abandoned().Abandoned == 0 {
			os.Exit(code)
		}
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Println("calls that were given up are still under way:")
	_ = pprof.Lookup("goroutine").WriteTo(os.Stdout, 2)
	os.Exit(1)
}

// tree is a bundle's files by path.
type tree map[string]string

func module(rules string) tree { return tree{"authz.rego": "package authz\n" + rules} }

func compile(t testing.TB, files tree) *policy.Snapshot {
	t.Helper()
	return gatetest.Compile(t, policy.Config{Decision: "authz/allow"}, "app", files)
}

func fromTest(t testing.TB, x any) rego.Value {
	t.Helper()
	v, err := rego.FromJSON(x)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

var again = strings.Repeat

// hostile returns operands that a client may send, by type.
func hostile() map[string][]any {
	graph, edges := map[string]any{}, []any{}
	for i := range 40 {
		edges = append(edges, fmt.Sprint(i))
	}
	for i := range 40 {
		graph[fmt.Sprint(i)] = edges
	}
	fractions := make([]any, 20_000)
	for i := range fractions {
		fractions[i] = 0.5 + float64(i)/1e6
	}
	texts := make([]any, 20_000)
	for i := range texts {
		texts[i] = fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)
	}
	long := again("a", 200_000)
	return map[string][]any{
		"string": {
			again("[", 400_000), again("{a", 100_000), again(`{"a":`, 90_000) + "1" + again("}", 90_000), again("1", 500_000), "1e999999", "0x1p-99999999",
			again("(a{1000})", 50) + "b", again("*a", 30) + "{b,c}*", again("a*", 500), long, again("é", 100_000) + "b",
			"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d]",
			"x: &x \"" + again("y", 50_000) + "\"\nz:\n" + again("- *x\n", 5000), again("%1000000d", 1000), again("%[1]s", 50_000),
			"{{range .a}}" + again("{{range $.a}}", 8) + "x" + again("{{end}}", 9), `{"$ref":"#"}`, again("1d", 100_000), "::/0", "package a\np := " + again("[", 30_000),
		},
		"number": {json.Number("1e30000"), json.Number("-1e30000"), json.Number(again("9", 1000)), 1_000_000_000_000, -1, 0.1},
		"array":  {fractions, texts, deep(900), manyOps(), []any{long, long}, []any{json.Number("1e30000"), json.Number("1e29999")}},
		"object": {map[string]any{"$ref": "#"}, map[string]any{"allOf": []any{map[string]any{"$ref": "#"}}}, graph, map[string]any{"a": texts}, map[string]any{"a": deep(900)}},
	}
}

func deep(n int) any {
	var x any = []any{}
	for range n {
		x = []any{x}
	}
	return x
}

// manyOps returns a JSON patch that doubles a document sixty times.
func manyOps() any {
	var list []any
	for i := range 60 {
		list = append(list, map[string]any{"op": "copy", "from": "", "path": fmt.Sprintf("/a%d", i)})
	}
	return list
}

// TestHostileOperands calls every built-in with everything that a client may send. An operand that overflows the stack does not fail the
// test: it kills the process.
func TestHostileOperands(t *testing.T) {
	pool := hostile()
	values := map[string][]rego.Value{}
	for kind, list := range pool {
		for _, x := range list {
			values[kind] = append(values[kind], fromTest(t, x))
		}
	}
	values["set"] = values["array"]
	tried := 0
	for _, b := range ast.Builtins {
		args := b.Decl.NamedFuncArgs().Args
		if b.Decl.Result() == nil || strings.HasPrefix(b.Name, "internal.") || slices.Contains([]string{"http.send", "net.lookup_ip_addr", "opa.runtime", "rego.metadata.chain",
			"rego.metadata.rule", "eq", "assign", "print", "trace"}, b.Name) {
			continue
		}
		names := make([]string, len(args))
		for i, arg := range args {
			if names[i] = fmt.Sprintf("input.a%d", i); kinds(arg)[0] == "set" {
				names[i] = fmt.Sprintf("{x | some x in input.a%d}", i)
			}
		}
		s := compile(t, tree{".manifest": `{"rego_version": 0}`, "authz.rego": fmt.Sprintf("package authz\nimport future.keywords.in\ndefault allow = false\nallow { x := %s(%s); is_null(x) }",
			b.Name, strings.Join(names, ", "))})
		for n := range rounds {
			var members []rego.Member
			for i, arg := range args {
				var all []rego.Value
				for _, kind := range kinds(arg) {
					all = append(all, values[kind]...)
				}
				members = append(members, rego.Member{Key: fmt.Sprintf("a%d", i), Value: all[(n+i*(1+n/7))%len(all)]})
			}
			tried++
			promptly(t, fmt.Sprintf("%s, operands %d", b.Name, n), s, rego.Object(members...))
		}
	}
	t.Logf("%d calls", tried)
}

// kinds returns the keys of hostile that fit a parameter.
func kinds(of types.Type) []string {
	var out []string
	for _, kind := range []string{"string", "number", "object", "array", "set"} {
		if strings.Contains(strings.SplitN(of.String(), "[", 2)[0], kind) || strings.HasPrefix(of.String(), "any<") && strings.Contains(of.String(), kind) {
			out = append(out, kind)
		}
	}
	switch {
	case len(out) == 0:
		return []string{"string", "object", "array", "number"}
	case len(out) > 1:
		return slices.DeleteFunc(out, func(kind string) bool { return kind == "set" })
	}
	return out
}

// promptly decides, and checks time and memory.
func promptly(t *testing.T, what string, s *policy.Snapshot, input rego.Value) (policy.Decision, error) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	started := time.Now()
	entry, err := s.Entry([]string{"authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := entry.DecideWithin(context.Background(), deadline, input, policy.Facts{}, started)
	took := time.Since(started)
	runtime.ReadMemStats(&after)
	if took > hangGuard/30 {
		t.Logf("%s: %s", what, took)
	}
	if took > hangGuard {
		t.Errorf("%s: answered after %s, the deadline was %s: %v", what, took, deadline, err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > memory {
		t.Errorf("%s: allocated %d bytes", what, used)
	}
	return d, err
}

// TestAttacks has requests that killed the process, or kept it busy for minutes.
func TestAttacks(t *testing.T) {
	spreads := "{__schema{...F0}} "
	for i := range 40 {
		spreads += fmt.Sprintf("fragment F%d on __Schema {...F%d ...F%d}\n", i, i+1, i+1)
	}
	layers := map[string]any{}
	for layer := range 12 {
		var next []any
		for i := range 10 {
			next = append(next, fmt.Sprintf("%d.%d", layer+1, i))
		}
		for i := range 10 {
			layers[fmt.Sprintf("%d.%d", layer, i)] = next
		}
	}
	var doubled any = map[string]any{"type": "string"}
	definitions := map[string]any{"d40": doubled}
	for i := range 40 {
		ref := map[string]any{"$ref": fmt.Sprintf("#/definitions/d%d", i+1)}
		definitions[fmt.Sprintf("d%d", i)] = map[string]any{"allOf": []any{ref, ref}}
	}
	for name, c := range map[string]struct {
		rule  string
		input any
	}{
		"graphql, a deep query":              {`graphql.is_valid(input.a, "type Query { a: String }")`, again("{a", 300_000)},
		"graphql, brackets in comments":      {`graphql.is_valid(input.a, "type Query { a: String }")`, again("{a #}\n", 100_000)},
		"graphql, a deep list":               {`graphql.parse_query(input.a)`, "{a(x:" + again("[", 300_000)},
		"graphql, a deep type":               {`graphql.schema_is_valid(input.a)`, "type Query {a: " + again("[", 300_000)},
		"graphql, fragments":                 {`graphql.is_valid(input.a, "type Query { a: String }")`, spreads + "fragment F40 on __Schema {queryType{name}}"},
		"schema, it refers to itself":        {`json.match_schema({}, input.a)`, map[string]any{"$ref": "#"}},
		"schema, by way of allOf":            {`json.match_schema({}, input.a)`, map[string]any{"allOf": []any{map[string]any{"$ref": "#"}}}},
		"schema, by way of a name":           {`json.match_schema({}, input.a)`, map[string]any{"$id": "http://x/y", "not": map[string]any{"$ref": "http://x/y"}}},
		"schema, by two definitions":         {`json.match_schema({}, input.a)`, map[string]any{"$ref": "#/definitions/a", "definitions": map[string]any{"a": map[string]any{"anyOf": []any{map[string]any{"$ref": "#/definitions/b"}}}, "b": map[string]any{"$ref": "#/definitions/a"}}}},
		"schema, as text":                    {`json.match_schema("{}", input.a)`, `{"if":{"$ref":"#"}}`},
		"schema, doubled forty times":        {`json.match_schema("x", input.a)`, map[string]any{"$ref": "#/definitions/d0", "definitions": definitions}},
		"paths of a complete graph":          {`graph.reachable_paths(input.a, ["0"])`, complete(30)},
		"a graph of layers":                  {`graph.reachable(input.a, ["0.0"])`, layers},
		"a shift":                            {`bits.lsh(1, input.a)`, 1_000_000_000_000},
		"a unit":                             {`units.parse(input.a)`, "1e999999"},
		"a unit in bytes":                    {`units.parse_bytes(input.a)`, "1e999999"},
		"a unit of many digits":              {`units.parse(input.a)`, again("9", 900_000)},
		"a number of a million digits":       {`x := json.unmarshal(input.a); x == 12345`, again("1", 900_000)},
		"a number that is none":              {`to_number(input.a) < 3`, "0x1p-99999999"},
		"aliases of aliases":                 {`yaml.unmarshal(input.a)`, "a: &a \"" + again("x", 50_000) + "\"\nb:\n" + again("- *a\n", 10_000)},
		"an alias of itself":                 {`yaml.unmarshal(input.a)`, "a: &a [*a, *a]"},
		"concat":                             {`concat(input.a, [input.a | some i in numbers.range(1, 900)])`, again("x", 500_000)},
		"replace":                            {`replace(input.a, "", input.a)`, again("x", 500_000)},
		"strings.replace_n":                  {`strings.replace_n({"x": input.a}, input.a)`, again("x", 500_000)},
		"regex.replace":                      {`regex.replace(input.a, "", input.a)`, again("x", 500_000)},
		"regex.replace by groups":            {`regex.replace(input.a, "(.+)", concat("", ["$1" | some i in numbers.range(1, 900)]))`, again("x", 500_000)},
		"sprintf, widths":                    {`sprintf(input.a, [1])`, again("%1000000d", 50_000)},
		"sprintf, arguments again":           {`sprintf(input.a, [input.a])`, again("%[1]s", 100_000)},
		"a pattern that is repeated":         {`regex.match(input.a, input.a)`, again("(((a{30}){30}){30})", 20)},
		"a long pattern and text":            {`regex.match(input.a, input.a)`, again("a?", 15_000)},
		"a glob that backtracks":             {`glob.match(input.a, ["/"], input.a)`, again("*a", 20) + "{b,c}*" + "/d"},
		"globs that intersect":               {`regex.globs_match(input.a, input.a)`, again("a*", 300_000)},
		"a template with loops":              {`strings.render_template(input.a, {"a": numbers.range(1, 1000)})`, again("{{range $.a}}", 9) + "x" + again("{{end}}", 9)},
		"a template that calls itself":       {`strings.render_template(input.a, {})`, `{{define "a"}}x{{template "a"}}{{template "a"}}{{end}}{{template "a"}}`},
		"a module":                           {`rego.parse_module("a.rego", input.a)`, "package a\np := " + again("[", 3000) + again("]", 3000)},
		"a patch that doubles":               {`json.marshal(json.patch({"x": 1}, input.a))`, manyOps()},
		"a product":                          {`product(input.a) > 1`, repeated(json.Number(again("9", 900)), 900)},
		"a sum":                              {`sum(input.a) > 1`, repeated(json.Number("1e30000"), 100_000)},
		"elements of one hash":               {`object.remove({"a": 1}, input.a)`, fractions(100_000)},
		"one list in the other":              {`object.subset(array.concat(input.a, [1]), input.a)`, repeated(0, 60_000)},
		"many networks":                      {`net.cidr_contains_matches(input.a, input.a)`, repeated("10.0.0.0/8", 30_000)},
		"a network of all":                   {`net.cidr_expand(input.a)`, "::/0"},
		"a range":                            {`numbers.range(1, input.a)`, 1_000_000_000_000},
		"indexof":                            {`indexof(input.a, concat("", [substring(input.a, 0, 100000), "x"]))`, again("é", 200_000)},
		"indexof_n":                          {`indexof_n(input.a, substring(input.a, 0, 200000))`, again("a", 500_000)},
		"trim":                               {`trim(input.a, concat("", [input.a, "é"]))`, again("è", 200_000)},
		"a duration":                         {`time.parse_duration_ns(input.a)`, again("1d", 300_000)},
		"marshalling what is there so often": {`json.marshal([input.a | some i in numbers.range(1, 1000)])`, again("x", 500_000)},
	} {
		t.Run(name, func(t *testing.T) {
			s := compile(t, module("import rego.v1\ndefault allow := false\nallow if { "+c.rule+" }"))
			_, err := promptly(t, name, s, rego.Object(rego.Member{Key: "a", Value: fromTest(t, c.input)}))
			if err != nil && !errors.Is(err, policy.ErrEvaluation) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, policy.ErrOverloaded) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestLargeDecision checks that a decision that holds a value many times is not serialized.
func TestLargeDecision(t *testing.T) {
	s := compile(t, module(`import rego.v1
allow := {"allowed": true, "dynamic_metadata": {"x": [input.a | some i in numbers.range(1, 1000)]}}`))
	if d, err := promptly(t, "a large decision", s, rego.Object(rego.Member{Key: "a", Value: rego.String(again("x", 500_000))})); err == nil || d.Allowed {
		t.Errorf("allowed %v, %v", d.Allowed, err)
	}
}

// TestOverloaded checks that with too many abandoned calls, large ones are refused and small ones go on.
func TestOverloaded(t *testing.T) {
	defer bounds.Occupy()()
	s := compile(t, module(`allow if regex.match(input.a, "x")`))
	_, err := promptly(t, "a large call", s, rego.Object(rego.Member{Key: "a", Value: rego.String(again("a?", 20_000))}))
	if !errors.Is(err, policy.ErrOverloaded) {
		t.Errorf("a large call: %v", err)
	}
	if d, err := promptly(t, "a small call", s, rego.Object(rego.Member{Key: "a", Value: rego.String("x")})); err != nil || !d.Allowed {
		t.Errorf("a small call: %v, %v", d.Allowed, err)
	}
}

func complete(n int) any {
	graph, all := map[string]any{}, []any{}
	for i := range n {
		all = append(all, fmt.Sprint(i))
	}
	for i := range n {
		graph[fmt.Sprint(i)] = all
	}
	return graph
}

func repeated(x any, n int) any {
	list := make([]any, n)
	for i := range list {
		list[i] = x
	}
	return list
}

func fractions(n int) any {
	list := make([]any, n)
	for i := range list {
		list[i] = 0.5 + float64(i)/1e7
	}
	return list
}

// TestWhatExceedsALimitIsNoAnswer checks that an operand that is too large does not switch off a deny rule.
func TestWhatExceedsALimitIsNoAnswer(t *testing.T) {
	s := compile(t, module("import rego.v1\ndefault allow := true\nallow := false if { bits.lsh(1, input.n) > 5 }"))
	for n, wants := range map[int]bool{1: true, 10: false} {
		d, err := s.Decide(context.Background(), rego.Object(rego.Member{Key: "n", Value: rego.Int(int64(n))}), time.Now())
		if err != nil || d.Allowed != wants {
			t.Errorf("a shift by %d: %v, %v", n, d.Allowed, err)
		}
	}
	d, err := s.Decide(context.Background(), rego.Object(rego.Member{Key: "n", Value: rego.Int(1 << 40)}), time.Now())
	if !errors.Is(err, policy.ErrEvaluation) || d.Allowed {
		t.Errorf("a shift beyond the limit: %v, %v", d.Allowed, err)
	}
}
