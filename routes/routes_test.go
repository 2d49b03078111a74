package routes_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gatehouse/routes"

	"github.com/google/go-cmp/cmp"
)

func parse(t testing.TB, text string) *routes.Table {
	t.Helper()
	table, _, err := routes.Parse("routes.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// told writes a match as one line: outcome, template, parameters.
func told(m routes.Match) string {
	words := []string{m.Outcome.String()}
	if m.Route != nil && m.Outcome == routes.Matched {
		words = append(words, m.Route.Template)
	}
	for _, p := range m.Params {
		words = append(words, p.Name+"="+p.Value)
	}
	return strings.Join(words, " ")
}

func TestMatch(t *testing.T) {
	tables := map[string]string{
		"flask": `
framework: flask
routes:
  - GET /
  - GET, POST /orders
  - GET /orders/<int:id>
  - GET /orders/<name>
  - GET /docs/
  - route: GET /files/<path:name>
    allow: [encoded_slash, double_slash]
`,
		"behind a prefix": `
framework: fastapi
mount: /shop
routes:
  - GET /
  - GET /orders/{id}
`,
		"rewritten": `
framework: flask
mount: {prefix: /shop/, rewrite: /v2/}
routes: [GET /v2/<x>]
`,
		"script name": `
framework: flask
root_path: /app
routes: [GET /x]
`,
		"openapi": `
framework: openapi
root_path: /api
routes:
  - GET /pets/{id}
  - GET /pets/mine
  - DELETE /pets/{pet}
  - GET /pets/{id}.json
  - GET /{kind}/mine/toys
`,
		"unknown": `
framework: django
routes:
  - ANY /a/
  - re_path: ANY ^look(?=ahead)
    unsupported: a lookahead
  - ANY /look/<x>
`,
	}
	for _, c := range []struct{ table, method, path, want string }{
		{"flask", "GET", "/orders/17", "match /orders/<int:id> id=17"},
		{"flask", "HEAD", "/orders/17", "match /orders/<int:id> id=17"},
		{"flask", "OPTIONS", "/orders/17", "match /orders/<int:id> id=17"},
		{"flask", "DELETE", "/orders", "405"},
		{"flask", "GET", "/orders/%37", "match /orders/<int:id> id=7"},
		{"flask", "GET", "/orders/caf%C3%A9", "match /orders/<name> name=café"},
		{"flask", "GET", "/docs", "redirect"},
		{"flask", "GET", "/nothing", "404"},
		{"flask", "GET", "//orders", "refused"},
		{"flask", "GET", "/orders/a%2Fb", "refused"},
		{"flask", "GET", "/orders/../x", "refused"},
		{"flask", "GET", "/files/a%2Fb", "match /files/<path:name> name=a/b"},
		{"flask", "GET", "/files/a//b", "match /files/<path:name> name=a//b"},
		{"flask", "GET", "/files/a%5Cb", "refused"},
		{"behind a prefix", "GET", "/shop/orders/17", "match /orders/{id} id=17"},
		{"behind a prefix", "GET", "/shop", "match /"},
		{"behind a prefix", "GET", "/shopping/orders/17", "404"},
		{"behind a prefix", "GET", "/orders/17", "404"},
		{"behind a prefix", "HEAD", "/shop/orders/17", "405"},
		{"rewritten", "GET", "/shop/x", "match /v2/<x> x=x"},
		{"script name", "GET", "/app/x", "match /x"},
		{"script name", "GET", "/x", "404"},
		{"openapi", "GET", "/api/pets/mine", "match /pets/mine"},
		{"openapi", "DELETE", "/api/pets/mine", "405"},
		{"openapi", "GET", "/api/pets/7", "match /pets/{id} id=7"},
		{"openapi", "DELETE", "/api/pets/7", "match /pets/{pet} pet=7"},
		{"openapi", "GET", "/api/pets/7.json", "match /pets/{id}.json id=7"},
		{"openapi", "GET", "/api/pets/mine/toys", "match /{kind}/mine/toys kind=pets"},
		{"openapi", "GET", "/api/pets/", "404"},
		{"openapi", "GET", "/pets/7", "404"},
		{"unknown", "GET", "/a/", "match /a/"},
		{"unknown", "GET", "/look/x", "refused"},
		{"unknown", "GET", "/lo", "404"},
	} {
		if got := told(parse(t, tables[c.table]).Match(c.method, "example.com", c.path)); got != c.want {
			t.Errorf("%s: %s %s: %s, want %s", c.table, c.method, c.path, got, c.want)
		}
	}
}

func TestForms(t *testing.T) {
	for path, want := range map[string]string{
		"/a/b": "", "/": "", "": "", "*": "", "/a;b/~x,y": "", "/a.b/.c/..d/...": "", "/caf%C3%A9": "", "/a%20b": "",
		"/a/../b": "dot_segments", "/.": "dot_segments", "/a/%2e%2E": "dot_segments", "/a/..;x=1/b": "dot_segments",
		`/a\..\b`: "dot_segments,backslash", "/a//b": "double_slash", "//": "double_slash", "/a%2fb": "encoded_slash",
		"/a%5Cb": "backslash", "/a%00": "control_bytes", "/a\x7f": "control_bytes", "/a%0Ab": "control_bytes",
		"/a%": "bad_escape", "/a%4": "bad_escape", "/a%zz": "bad_escape", "/%252F": "double_encoding",
		"/%2541": "double_encoding", "/%25zz": "", "/%FF": "invalid_utf8", "/\xff": "invalid_utf8", "/%C0%AF": "invalid_utf8",
		"/a#b": "fragment", "a/b": "not_absolute", "http://x/": "double_slash,not_absolute",
		"/a%3Fb": "encoded_question", "/a%3bb": "encoded_semicolon", "/%2e%2e%2f": "dot_segments,encoded_slash",
	} {
		if got := routes.FormsOf(path).String(); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
	if f, err := routes.ParseForms(routes.AllForms().Names()); err != nil || f != routes.AllForms() {
		t.Errorf("names and back: %v, %v", f, err)
	}
}

func TestParseSaysEveryMistake(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "busted_routes.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = routes.Parse("routes.yaml", data)
	if err == nil {
		t.Fatal("no error")
	}
	want := []string{
		`routes.yaml:2: unknown key "strict_slash" (did you mean "strict_slashes"?)`,
		`routes.yaml:3: key "append_slash" is not used by flask: it is for django`,
		`routes.yaml:5: "get /x" is not a route: write the methods in capitals, or ANY, and then the template, as in "GET /orders"`,
		`routes.yaml:6: unknown key "tag" (did you mean "tags"?)`,
		`routes.yaml:7: allow: unknown path form "encodedslash" (did you mean "encoded_slash"?)`,
		`routes.yaml:8: an entry needs route:, as in "GET /orders"`,
		`routes.yaml:9: ANY: leave out the other methods`,
		`routes.yaml:10: key "name" twice`,
	}
	if diff := cmp.Diff(strings.Join(want, "\n"), err.Error()); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefusesTemplates(t *testing.T) {
	for text, want := range map[string]string{
		"framework: flask\nroutes: [GET /<in:x>]":                                    `unknown converter "in"`,
		"framework: flask\nroutes: [GET /<x>/<x>]":                                   `parameter "x" twice`,
		"framework: flask\nroutes: [GET x]":                                          `does not start with a slash`,
		"framework: flask\nroutes: [GET /<x]":                                        `malformed rule at "<x"`,
		"framework: flask\nroutes: [\"GET /<int(min=-1):x>\"]":                       `can't read converter arguments "min=-1"`,
		"framework: starlette\nroutes: [\"GET /{x:integer}\"]":                       `unknown converter "integer"`,
		"framework: django\nroutes: [{re_path: 'GET ^a(?i:b)'}]":                     `a flag, comment or conditional group at offset 2`,
		"framework: django\nroutes: [{re_path: 'GET ^(a'}]":                          `can't be expressed`,
		"framework: openapi\nroutes: [\"GET /{x\"]":                                  `unbalanced braces`,
		"framework: rails\nroutes: []":                                               `framework: "rails" is none of flask, starlette, fastapi, django, openapi`,
		"framework: django\nroutes: {}":                                              `routes: expected a list`,
		"framework: flask\nconverters: {x: {regex: '(?i)a'}}\nroutes: []":            `converter "x"`,
		"framework: flask\nhost_matching: true\nsubdomain_matching: a.b\nroutes: []": `exclude each other`,
		"": `empty`,
	} {
		_, _, err := routes.Parse("routes.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "routes.yaml:") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestUnreachableRoutesAreNoticed(t *testing.T) {
	for text, want := range map[string]string{
		"framework: starlette\nroutes:\n  - GET /items/{id}\n  - GET /items/mine\n":                "routes.yaml:4: GET /items/mine is never reached: GET /items/{id} (line 3) takes its requests",
		"framework: starlette\nroutes:\n  - GET /items/mine\n  - GET /items/{id}\n":                "",
		"framework: starlette\nroutes:\n  - GET /items/{id:int}\n  - GET /items/mine\n":            "",
		"framework: starlette\nroutes:\n  - GET /a/{p:path}\n  - GET, POST /a/b\n":                 "routes.yaml:4: GET, POST /a/b: GET goes to GET /a/{p:path} (line 3)",
		"framework: starlette\nroutes:\n  - mount: /api\n    routes: [GET /x]\n  - GET /api/y\n":   "routes.yaml:5: GET /api/y is never reached: the mount of /api/ (line 3) keeps what is below it",
		"framework: django\nroutes:\n  - GET /a/<str:x>/\n  - POST /a/<int:y>/\n":                  "routes.yaml:4: POST /a/<int:y>/ is never reached: GET /a/<str:x>/ (line 3) takes its requests",
		"framework: flask\nroutes:\n  - GET /a/<x>\n  - GET /a/b\n":                                "",
		"framework: flask\nroutes:\n  - GET /a/<x>\n  - GET /a/<string:y>\n":                       "routes.yaml:4: GET /a/<string:y> is never reached: GET /a/<x> (line 3) takes its requests",
		"framework: flask\nroutes:\n  - GET /n/<int(max=5):x>\n  - GET /n/<int:y>\n":               "routes.yaml:4: GET /n/<int:y> is never reached: GET /n/<int(max=5):x> (line 3) takes its requests",
		"framework: openapi\nroutes:\n  - GET /a/{x}\n  - GET /a/{y}\n":                            "routes.yaml:4: GET /a/{y} is never reached: GET /a/{x} (line 3) takes its requests",
		"framework: openapi\nroutes:\n  - GET /a/{x}\n  - GET /a/b\n":                              "",
		"framework: openapi\nroutes:\n  - route: GET /a\n    guess: true\n":                        "routes.yaml:3: GET /a is a guess from traffic: look at it, then remove guess",
		"framework: flask\nroutes:\n  - route: GET /l\n    unsupported: no reason\n":               "routes.yaml:3: GET /l can't be expressed (no reason): paths that begin like it are refused",
		"framework: starlette\nroot_path: /r\nroutes:\n  - GET /items/{id}\n  - GET /items/mine\n": "routes.yaml:5: GET /items/mine is never reached: GET /items/{id} (line 4) takes its requests",
	} {
		_, notices, err := routes.Parse("routes.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, n := range notices {
			lines = append(lines, n.String())
		}
		if got := strings.Join(lines, "\n"); got != want {
			t.Errorf("%s\n  got  %s\n  want %s", text, got, want)
		}
	}
}

// TestUnknownMethodsAreNoticed warns of unregistered methods, and accepts them: applications may define methods.
func TestUnknownMethodsAreNoticed(t *testing.T) {
	table, notices, err := routes.Parse("routes.yaml", []byte("framework: openapi\nroutes:\n- GTE /orders\n- PURGE, MKCOL /cache\n- ANY /any\n"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range notices {
		got = append(got, n.String())
	}
	want := []string{`routes.yaml:3: method "GTE" is not a registered HTTP method (did you mean "GET"?)`,
		`routes.yaml:4: method "PURGE" is not a registered HTTP method`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if m := table.Match("PURGE", "", "/cache"); m.Outcome != routes.Matched {
		t.Errorf("a method of the application's own: %s", m.Outcome)
	}
}

func TestRulePath(t *testing.T) {
	for template, want := range map[string]string{ // contract.md, one rule per route
		"/api/users":                    "root.GET.api.users",
		"/api/users/<id>":               "root.GET.api.users.__id",
		"/api/users/<int:id>":           "root.GET.api.users.__id",
		"/api/users/<int(min=1):id>":    "root.GET.api.users.__id",
		"/api/users/{id}":               "root.GET.api.users.__id",
		"/api/<a>/x/<b>":                "root.GET.api.__a.x.__b",
		"/":                             "root.GET",
		"/api/users/":                   "root.GET.api.users",
		"/<path:p>":                     "root.GET.__p",
		"/{p:path}":                     "root.GET.__p",
		"/protected_route/<parameter>":  "root.GET.protected_route.__parameter",
		"/a-b/2fa/{x}.json":             `root.GET["a-b"]["2fa"]["__x.json"]`,
		`/a/(?P<year>[0-9]{4})/(\w+)/$`: "root.GET.a.__year.__0",
		`^a\.b/(?P<x>(?:[)(]|\)))/?$`:   `root.GET["a.b"].__x`,
		`/in/<slug:s>/(?P<id>\d+)$`:     "root.GET.in.__s.__id",
		// What no template says is named after its text, with a digest, so that no two share a rule.
		`/a/(?:b|c)/$`:    "root.GET.a.b.c.__re_ce82af2e",
		`/a/(?:b|c)$`:     "root.GET.a.b.c.__re_" + digest(`/a/(?:b|c)$`),
		`/a/b+$`:          "root.GET.a.b.__re_fc1c7b87",
		`^(?!api/).*$`:    "root.GET.api.__re_" + digest(`^(?!api/).*$`),
		`^a/(?P<y>x|z)?$`: "root.GET.a.__y.__re_" + digest(`^a/(?P<y>x|z)?$`),
	} {
		got := "error"
		if path, err := routes.RulePath([]string{"root"}, "GET", template); err == nil {
			got = routes.RuleName(path)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", template, got, want)
		}
	}
}

// digest is what tells two expressions apart.
func digest(expr string) string {
	sum := sha256.Sum256([]byte(expr))
	return hex.EncodeToString(sum[:4])
}

func TestRuleConflictsSkipsWhatNeverMatches(t *testing.T) {
	table := parse(t, `
framework: django
routes:
  - re_path: ANY ^look(?=ahead)
    unsupported: a lookahead
  - GET /allowed/x
`)
	if got := table.RuleConflicts([]string{"app"}, "allowed"); len(got) > 0 {
		t.Error(got)
	}
}

func TestRuleConflicts(t *testing.T) {
	table := parse(t, `
framework: flask
routes:
  - GET /a/__b
  - GET /a/<b>
  - GET /c
  - GET /c/
  - GET, POST /d/<int:x>
  - DELETE /d/<x>
  - ANY /d/<float:x>
  - GET /e
  - GET /e/allowed/f
`)
	var got []string
	for _, n := range table.RuleConflicts([]string{"app"}, "allowed") {
		got = append(got, n.String())
	}
	want := []string{
		"GET /a/<b>: its rule app.METHOD.a.__b is that of GET /a/__b (line 4) as well",
		"ANY /d/<float:x>: its rule app.METHOD.d.__x is that of GET, POST /d/<int:x> (line 8) as well",
		`GET /e/allowed/f: the rule "allowed" of GET /e (line 11) stands in its way`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDiff(t *testing.T) {
	old := parse(t, "framework: django\nroutes:\n  - GET /a/\n  - {route: GET /b/, name: b, tags: [kept]}\n  - GET /c/\n  - GET /d/\n")
	for text, want := range map[string]string{
		"framework: django\nroutes:\n  - GET /a/\n  - {route: GET /b/, name: b}\n  - GET /c/\n  - GET /d/\n":                                          "",
		"framework: django\nroutes:\n  - GET /a/\n  - {route: GET /b/, name: bb}\n  - GET /d/\n  - POST /c/\n":                                        `~ GET /b/: name "b" is now "bb"; + POST /c/; - GET /c/`,
		"framework: django\nroutes:\n  - GET /c/\n  - GET /a/\n  - {route: GET /b/, name: b}\n  - GET /d/\n":                                          "~ GET /c/: stands at another place in the order",
		"framework: django\nmount: /x\nroutes:\n  - GET /a/\n  - {route: GET /b/, name: b}\n  - {route: GET /c/, append_slash: false}\n  - GET /d/\n": "~ GET /c/: options [] are now [append_slash=false]",
	} {
		var got []string
		for _, c := range routes.Diff(old, parse(t, text)) {
			got = append(got, c.String())
		}
		slices.Sort(got)
		wanted := strings.Split(want, "; ")
		slices.Sort(wanted)
		if diff := cmp.Diff(strings.Join(wanted, "; "), strings.Join(got, "; ")); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	changed := routes.Diff(old, parse(t, "framework: django\nappend_slash: false\nroutes:\n  - GET /a/\n  - {route: GET /b/, name: b}\n  - GET /c/\n  - GET /d/\n"))
	if len(changed) != 1 || !strings.Contains(changed[0].String(), "append_slash=false") {
		t.Errorf("settings: %v", changed)
	}
}
