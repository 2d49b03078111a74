//go:build full

package envoy_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"gatehouse/envoy/sandbox"
)

// long says that the long matrices are wanted.
const long = true

// What each refusal keeps out: the spellings that reach the protected resource once paths.allow turns it off, behind an
// Envoy that leaves paths alone. Nothing is held but the table in the docs: to turn a refusal off is the operator's choice.
func TestWhatEachRefusalKeepsOut(t *testing.T) {
	t.Parallel()
	apps := startBackends(t)
	policy, err := os.ReadFile("testdata/secret/policy/secret.rego")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range []string{"dot_segments", "double_slash", "encoded_slash", "backslash", "control_bytes", "bad_escape", "double_encoding",
		"invalid_utf8", "fragment", "not_absolute", "encoded_question", "encoded_semicolon"} {
		names = append(names, "allow: ["+name+"]")
	}
	names = append(names, "allow: [encoded_slash, dot_segments]", "compat: true")
	doors := []door{{Port: 8080, App: 8000, Authz: []int{9191}, Manager: notNormalising}}
	for _, rules := range names {
		gatehouse := startGatehouse(t, "gatehouse", `listen: {grpc: ["{GRPC}"], admin: "{ADMIN}"}
policy: {timeout: 1s, bundles: [{path: "{DIR}"}]}
paths: {`+rules+"}\n", map[string]string{"secret.rego": string(policy)})
		for _, app := range apps {
			doors = append(doors, door{Port: freePort(t), App: app, Authz: []int{gatehouse.port}, Manager: notNormalising})
		}
	}
	s := start(t, sandbox.Config{App: withDoors(t, doors, "flask", "secret")})
	if got := ask(t, s, sandbox.Call{Path: "/admin/secret"}); got.Status != 401 {
		t.Fatalf("the control answers %d", got.Status)
	}
	var rows strings.Builder
	for n, rules := range names {
		var served []string
		for _, sp := range spellings {
			var by []string
			for i := range apps {
				if contains(send(t, doors[1+n*len(apps)+i].Port, sp.request("")).Body, jewels) {
					by = append(by, backends[i])
				}
			}
			if len(by) > 0 {
				served = append(served, code(sp.String())+" ("+strings.Join(by, ", ")+")")
			}
		}
		if served == nil {
			served = []string{"none of the table"}
		}
		fmt.Fprintf(&rows, "| `paths: {%s}` | %s |\n", rules, strings.Join(served, "; "))
	}
	inDocs(t, "refusals", "| with | reaches the protected resource |\n|---|---|\n"+rows.String())
}
