package logged_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/config"
	"gatehouse/decisionlog/read"
	"gatehouse/replay"
	"gatehouse/trial/logged"
	"gatehouse/trial/node"
)

const policyText = `package shop

default allow := false

allow if input.attributes.request.http.method == "GET"

allow if {
	input.attributes.request.http.method == "POST"
	input.attributes.request.http.headers["x-color"] == "green"
}
`

// TestRows makes rows of single decisions.
func TestRows(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"p/shop.rego": policyText, "gatehouse.yaml": "policy: {decision: shop/allow, bundles: [{name: p, path: p}]}\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n, err := node.New(t.Context(), config.Source{File: filepath.Join(dir, "gatehouse.yaml")}, nil, func(*config.Config) {}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	event := func(method, path, outcome, more, http string) string {
		return `{"decision_id":"A","timestamp":"2026-03-01T10:00:00Z","outcome":"` + outcome + `",` + more + `"request":{"method":"` + method + `","path":"` + path +
			`"},"input":{"attributes":{"request":{"http":{"method":"` + method + `","path":"` + path + `"` + http + `}}}}}`
	}
	const denied = `"reason":"denied","status":403,`
	for _, test := range []struct{ name, event, line, problem string }{
		{"allowed", event("GET", "/a", "allow", "", ""), "allow: {GET: /a}", ""},
		{"denied", event("DELETE", "/a", "deny", denied, ""), "deny: {DELETE: /a, status: 403, reason: denied}", ""},
		{"a header that is read", event("POST", "/a", "allow", "", `,"headers":{"x-color":"green","x-size":"1"}`), "allow: {POST: /a, headers: {x-color: green}}", ""},
		{"a header that is masked", event("POST", "/a", "allow", `"masked":["/input/attributes/request/http/headers/x-color"],`, `,"headers":{"x-color":"***"}`),
			"allow: {POST: /a}", "here it comes out as deny 403 denied"},
		{"another verdict", event("GET", "/a", "deny", denied, ""), "deny: {GET: /a, status: 403, reason: denied}", "here it comes out as allow"},
	} {
		t.Run(test.name, func(t *testing.T) {
			log, err := read.OpenReader("-", strings.NewReader(test.event+"\n"+test.event+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			table := logged.New(n.Trial, n.Gate.View())
			all := func(*replay.Record) bool { return true }
			if err := table.Take(t.Context(), log, all, func([]byte) bool { return false }); err != nil {
				t.Fatal(err)
			}
			if table.Read != 2 || len(table.Rows) != 1 || table.Made+table.Left != 1 {
				t.Fatalf("%d events, rows %+v", table.Read, table.Rows)
			}
			if got := table.Rows[0]; strings.TrimSpace(got.Line) != test.line || got.Problem != test.problem {
				t.Errorf("%q, %q; want %q, %q", got.Line, got.Problem, test.line, test.problem)
			}
		})
	}
}

func TestFindSaysWhatItRead(t *testing.T) {
	const text = `{"decision_id":"A","timestamp":"2026-03-01T10:00:00Z","outcome":"deny","reason":"denied","status":403,"request":{"method":"GET","path":"/a"}}` + "\n"
	for id, want := range map[string]string{"A": "", "B": `no such decision: "B" is not in d.log (1 events)`} {
		log, err := read.OpenReader("-", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		found, err := logged.Find(log, "d.log", id)
		log.Close()
		switch {
		case want == "" && (err != nil || found.Outcome != "deny" || found.Status != 403 || found.Request.Path != "/a"):
			t.Errorf("%s: %+v, %v", id, found, err)
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("%s: %v, want %s", id, err, want)
		}
	}
}
