package gate_test

import (
	"strings"
	"testing"

	"gatehouse/gate"
	"gatehouse/routes"
)

// upgrading is the request with header lines, each "name: value".
func upgrading(request string, lines ...string) *gate.Request {
	req := asks(request, "a.test")
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Headers = append(req.Headers, gate.Header{Name: name, Value: value})
	}
	return req
}

// TestUpgrades: a request that opens a WebSocket is decided by the WebSocket's rule and by no other, and no other request is decided
// by it. What servers read in different ways is refused, whatever the rules say.
func TestUpgrades(t *testing.T) {
	table := map[string]*routes.Table{"": routeTable(t, "starlette", "  - WEBSOCKET /ws/admin", "  - WEBSOCKET /ws/news", "  - GET /{path:path}", "  - ANY /any/{path:path}")}
	rules := compileFiles(t,
		"package app.GET.__path\nallowed := true\n",
		"package app.WEBSOCKET.ws.news\nallowed if { input.route.method == \"WEBSOCKET\"; input.route.template == \"/ws/news\"; input.attributes.request.http.method == \"GET\" }\n",
		"package app.WEBSOCKET.ws.admin\ndefault allowed := false\n")
	g := openApps(t, rules, table, gate.App{Root: []string{"app"}})
	loose := openApps(t, compile(t, allowAll), table, gate.App{Decision: single, AllowUnmatched: true})
	const up, list = "upgrade: websocket", "connection: Upgrade"
	for _, tt := range []struct {
		want, loose, request string
		lines                []string
	}{
		{"allow", "allow", "GET /ws/news", []string{up, list}},
		{"allow", "allow", "GET /ws/news", []string{"upgrade: WebSocket", "connection: keep-alive,  UPGRADE ", "sec-websocket-key: x", "sec-websocket-version: 13"}},
		{"denied", "allow", "GET /ws/admin", []string{up, list}},
		{"allow", "allow", "GET /ws/admin", nil}, // another router, which has the page
		{"allow", "allow", "GET /ws/admin", []string{"upgrade: h2c", "connection: Upgrade, HTTP2-Settings"}},
		{"allow", "allow", "GET /ws/admin", []string{list}},
		{"no_route", "no_route", "GET /elsewhere", []string{up, list}},
		{"no_route", "no_route", "GET /any/x", []string{up, list}},
		{"no_route", "no_route", "GET /ws/admin/", []string{up, list}},
		{"bad_request", "bad_request", "GET /ws/news", []string{up}}, // daphne upgrades, uvicorn does not
		{"bad_request", "bad_request", "GET /ws/news", []string{up, "connection: keep-alive"}},
		{"bad_request", "bad_request", "GET /ws/news", []string{up, "connection: upgraded"}},
		{"bad_request", "bad_request", "GET /ws/news", []string{"upgrade: websocket, h2c", list}},
		{"bad_request", "bad_request", "GET /ws/news", []string{"upgrade: h2c, WEBSOCKET", list}},
		{"bad_request", "bad_request", "GET /ws/news", []string{"upgrade: websocket/13", list}},
		{"bad_request", "bad_request", "GET /ws/news", []string{"upgrade: \"websocket\"", list}},
		{"bad_request", "bad_request", "GET /ws/news", []string{"upgrade: h2c", up, list}},
		{"bad_request", "bad_request", "GET /ws/news", []string{up, up, list}},
		{"bad_request", "bad_request", "GET /ws/news", []string{up, list, "connection: close"}},
		{"bad_request", "bad_request", "GET /ws/news", []string{"sec-websocket-key: x", "sec-websocket-version: 13"}}, // a proxy took Upgrade off
		{"bad_request", "bad_request", "POST /ws/news", []string{up, list}},
		{"bad_request", "bad_request", "CONNECT /ws/news", []string{":protocol: websocket"}},
		{"bad_request", "bad_request", "WEBSOCKET /ws/news", nil},
		{"bad_request", "bad_request", "WebSocket /ws/news", []string{up, list}},
		{"bad_request", "bad_request", "WEBSOC\u212aET /ws/news", nil}, // a Kelvin sign folds to k
	} {
		req := upgrading(tt.request, tt.lines...)
		if got := verdict(g.Check(t.Context(), req)); got != tt.want {
			t.Errorf("%s %q: %s, want %s", tt.request, tt.lines, got, tt.want)
		}
		if got := verdict(loose.Check(t.Context(), req)); got != tt.loose {
			t.Errorf("unmatched: policy, %s %q: %s, want %s", tt.request, tt.lines, got, tt.loose)
		}
	}
}

// TestUpgradeIsNotBypassed: a bypass applies to the page, not to the WebSocket at the same path.
func TestUpgradeIsNotBypassed(t *testing.T) {
	s := settings()
	s.Bypass = []gate.Bypass{{Method: "GET", Path: "/chat"}}
	g := open(t, s, compile(t, "package envoy.authz\ndefault allow := false\n"))
	for want, req := range map[string]*gate.Request{
		"allow":  upgrading("GET /chat"),
		"denied": upgrading("GET /chat", "upgrade: WebSocket", "connection: upgrade"),
	} {
		if got := verdict(g.Check(t.Context(), req)); got != want {
			t.Errorf("%v: %s, want %s", req.Headers, got, want)
		}
	}
}

// TestEveryCandidateAllows: where the application's converter may refuse a value and the next route be taken, both rules must allow.
func TestEveryCandidateAllows(t *testing.T) {
	table, _, err := routes.Parse("routes.yaml", []byte(`framework: django
converters: {even: {regex: "[0-9]+"}}
routes:
  - GET /<even:n>/
  - {route: "GET /<slug:s>/", allow: [encoded_slash]}
  - GET /sure/<even:n>/
`))
	if err != nil {
		t.Fatal(err)
	}
	rule := func(pkg, body string) string { return "package " + pkg + "\n" + body + "\n" }
	for name, tt := range map[string]struct{ even, slug, want string }{
		"both":               {"allowed := true", "allowed := true", "allow"},
		"both, by parameter": {"allowed if input.resource.n == \"17\"", "allowed if { input.resource.s == \"17\"; not input.resource.n }", "allow"},
		"first":              {"allowed := true", "allowed := false", "denied"},
		"second":             {"allowed := false", "allowed := true", "denied"},
		"first has no rule":  {"x := 1", "allowed := true", "no_decision"},
		"second has no rule": {"allowed := true", "x := 1", "no_decision"},
		"in different ways":  {"allowed := {\"allowed\": true, \"headers\": {\"x-a\": \"1\"}}", "allowed := true", "policy_error"},
		"in the same way":    {"allowed := {\"allowed\": true, \"headers\": {\"x-a\": \"1\"}}", "allowed := {\"allowed\": true, \"headers\": {\"x-a\": \"1\"}}", "allow"},
	} {
		t.Run(name, func(t *testing.T) {
			g := openApps(t, compileFiles(t, rule("app.GET.__n", tt.even), rule("app.GET.__s", tt.slug), rule("app.GET.sure.__n", "allowed := true")),
				map[string]*routes.Table{"": table}, gate.App{Root: []string{"app"}})
			for range 3 { // a remembered decision as well
				if got := verdict(g.Check(t.Context(), asks("GET /17/", "a.test"))); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			}
			if got := verdict(g.Check(t.Context(), asks("GET /sure/17/", "a.test"))); got != "allow" {
				t.Errorf("a route alone: %s", got)
			}
		})
	}
}
