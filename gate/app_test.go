package gate_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/routes"
)

// compileFiles compiles a policy of several files without a single decision. Files are called 0.rego and so on.
func compileFiles(t testing.TB, files ...string) *policy.Snapshot {
	t.Helper()
	all := map[string]string{}
	for i, text := range files {
		all[fmt.Sprintf("%d.rego", i)] = text
	}
	return gatetest.Compile(t, policy.Config{}, "test", all)
}

// routeTable is a table of a framework's with these lines below routes:.
func routeTable(t testing.TB, framework string, lines ...string) *routes.Table {
	t.Helper()
	table, _, err := routes.Parse("routes.yaml", []byte("framework: "+framework+"\nroutes:\n"+strings.Join(lines, "\n")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// forApps are settings for these applications.
func forApps(apps ...gate.App) *gate.Settings {
	s := settings()
	s.Apps = apps
	return s
}

// openApps returns a running gate whose applications have tables by their names.
func openApps(t testing.TB, p *policy.Snapshot, tables map[string]*routes.Table, apps ...gate.App) *gate.Gate {
	t.Helper()
	g := open(t, forApps(gate.App{Decision: []string{"envoy", "authz", "allow"}}), compile(t, allowAll))
	s := forApps(apps...)
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := g.Publish(t.Context(), func(v *gate.View) { v.Settings, v.Policy, v.Routes = s, p, tables }); err != nil {
		t.Fatal(err)
	}
	return g
}

// asks is a request for "METHOD path" at a host.
func asks(request, host string) *gate.Request {
	method, path, _ := strings.Cut(request, " ")
	return &gate.Request{Method: method, Path: path, Host: host}
}

// verdict formats an answer: the outcome, and the reason of a denial.
func verdict(a gate.Answer) string {
	if a.Allow {
		return "allow"
	}
	return a.Reason.String()
}

// header is the value that the policy set on the request to the application.
func header(a gate.Answer, name string) string {
	for _, h := range a.Set {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

var single = []string{"envoy", "authz", "allow"}

// TestAppByHost finds the application that a Host header belongs to. Case and port do not count; what two proxies could take for
// two hosts belongs to nobody, not even to the application that takes every host.
func TestAppByHost(t *testing.T) {
	named := []gate.App{
		{Name: "orders", Hosts: []string{"Orders.example.com", "desk.example.net"}, Decision: single},
		{Name: "wide", Hosts: []string{"*.example.com"}, Decision: single},
		{Name: "narrow", Hosts: []string{"*.eu.Example.com"}, Decision: single},
	}
	rest := append(named[:3:3], gate.App{Name: "rest", Decision: single})
	alone := openApps(t, compile(t, allowAll), nil, named...)
	withRest := openApps(t, compile(t, allowAll), nil, rest...)
	for host, want := range map[string]string{
		"orders.example.com": "orders", "ORDERS.example.COM": "orders", "orders.example.com:8080": "orders", "desk.example.net:80": "orders",
		"a.example.com": "wide", "A.EXAMPLE.com:1": "wide", "x.orders.example.com": "wide", "eu.example.com": "wide", "a.b.c.example.com": "wide",
		"a.eu.example.com": "narrow", "a.b.EU.example.com": "narrow",
		"example.com": "rest", ".example.com": "rest", "": "rest", ":80": "rest", "notexample.com": "rest", "orders.example.com.evil.test": "rest",
		"[::1]:80": "rest", "[::1]": "rest", "127.0.0.1:8080": "rest", "orders.example": "rest",
		// Two proxies could take these for two hosts.
		"orders.example.com.": "", "orders.example.com.:443": "", "a.example.com.": "", "other.test.": "", ".": "", "orders.example.com..": "",
		"orders.example.com:": "", "orders.example.com:8080:8080": "", "orders.example.com:x": "", "[orders.example.com]": "", "[orders.example.com]:80": "",
		"orders.example.com,evil.test": "", "orders.example.com/": "", "orders.example.com ": "", "\torders.example.com": "", "a@orders.example.com": "",
		"de\u017fk.example.net": "", "des\u212a.example.net": "", "desk.example.net\x00": "", "desk\u3002example.net": "", "*.example.com": "", "*": "",
	} {
		req := asks("GET /", host)
		req.Headers = gate.Headers{{Name: "x-forwarded-host", Value: "orders.example.com"}, {Name: "host", Value: "orders.example.com"}, {Name: "forwarded", Value: "host=orders.example.com"}}
		for _, g := range []*gate.Gate{withRest, alone} {
			if g == alone && want == "rest" {
				want = ""
			}
			got := g.Check(t.Context(), req)
			if got.Diagnostics.App != want || got.Allow != (want != "") || want == "" && got.Reason != gate.NoRoute {
				t.Errorf("%q belongs to %q (%s), want %q", host, got.Diagnostics.App, verdict(got), want)
			}
		}
	}
}

// TestHostsThatNoRequestCouldHave are refused in the configuration.
func TestHostsThatNoRequestCouldHave(t *testing.T) {
	for _, host := range []string{"a.test.", "a.test:80", "a*.test", "*.*.test", "a b", "", "*.", "a/b", "des\u212a.test", "m\u00fcller.test"} {
		if err := forApps(gate.App{Name: "a", Hosts: []string{host}, Decision: single}).Validate(); err == nil || !strings.Contains(err.Error(), "Apps[0].Hosts") {
			t.Errorf("%q: %v", host, err)
		}
	}
	twice := forApps(gate.App{Name: "a", Hosts: []string{"a.test"}, Decision: single}, gate.App{Name: "b", Hosts: []string{"A.test"}, Decision: single})
	if err := twice.Validate(); err == nil || !strings.Contains(err.Error(), `already belongs to app "a"`) {
		t.Errorf("one host, two applications: %v", err)
	}
}

// TestAppNamedByEnvoy lets Envoy's configuration name the application. A name that nobody has is no application, whatever the
// host says; a header of that name means nothing.
func TestAppNamedByEnvoy(t *testing.T) {
	g := openApps(t, compile(t, allowAll), nil, gate.App{Name: "a", Hosts: []string{"a.test"}, Decision: single}, gate.App{Name: "b", Decision: single})
	for _, tt := range []struct{ host, named, want string }{
		{"a.test", "", "a"}, {"b.test", "", "b"}, {"a.test", "b", "b"}, {"b.test", "a", "a"}, {"a.test", "A", ""}, {"a.test", "c", ""}, {"a.test", " a", ""},
	} {
		req := asks("GET /", tt.host)
		req.Headers = gate.Headers{{Name: "gatehouse.app", Value: "b"}}
		if tt.named != "" {
			req.Extensions = map[string]string{"gatehouse.app": tt.named}
		}
		if got := g.Check(t.Context(), req); got.Diagnostics.App != tt.want || got.Allow != (tt.want != "") {
			t.Errorf("%+v: %q, %s", tt, got.Diagnostics.App, verdict(got))
		}
	}
	only := openApps(t, compile(t, allowAll), nil, gate.App{Name: "a", Hosts: []string{"a.test"}, Decision: single})
	for host, want := range map[string]string{"a.test": "allow", "b.test": "no_route"} {
		if got := verdict(only.Check(t.Context(), asks("GET /", host))); got != want {
			t.Errorf("one application with hosts, %s: %s, want %s", host, got, want)
		}
	}
}

// reflects is a policy that hands its input's new parts to the application.
const reflects = `package envoy.authz
allow := {"allowed": true, "headers": {"x-seen": json.marshal({k: v | some k in ["app", "route", "resource", "policy"]; v := input[k]})}}`

// TestRouteInput shows a policy the route and its parameters, decoded once and as strings.
func TestRouteInput(t *testing.T) {
	table := routeTable(t, "flask", "  - {route: \"GET /orders/<int:id>\", name: orders.show}", "  - GET /users/<user>/files/<path:file>", "  - GET /")
	one := openApps(t, compile(t, reflects), map[string]*routes.Table{"": table}, gate.App{Decision: single, AllowUnmatched: true})
	for request, want := range map[string]string{
		"GET /orders/17?id=18":       `{"policy":{"path":"envoy/authz/allow"},"resource":{"id":"17"},"route":{"method":"GET","name":"orders.show","params":{"id":"17"},"template":"/orders/<int:id>"}}`,
		"HEAD /orders/007":           `{"policy":{"path":"envoy/authz/allow"},"resource":{"id":"007"},"route":{"method":"HEAD","name":"orders.show","params":{"id":"007"},"template":"/orders/<int:id>"}}`,
		"GET /users/%61nn/files/a/b": `{"policy":{"path":"envoy/authz/allow"},"resource":{"file":"a/b","user":"ann"},"route":{"method":"GET","params":{"file":"a/b","user":"ann"},"template":"/users/<user>/files/<path:file>"}}`,
		"GET /":                      `{"policy":{"path":"envoy/authz/allow"},"resource":{},"route":{"method":"GET","params":{},"template":"/"}}`,
		"GET /nothing":               `{"policy":{"path":"envoy/authz/allow"}}`,
		"PATCH /orders/17":           `{"policy":{"path":"envoy/authz/allow"}}`,
	} {
		got := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(header(one.Check(t.Context(), asks(request, "a.test")), "x-seen"))
		if got != want {
			t.Errorf("%s shows\n%s, want\n%s", request, got, want)
		}
	}
	two := openApps(t, compile(t, reflects), map[string]*routes.Table{"b": table}, gate.App{Name: "a", Decision: single}, gate.App{Name: "b", Hosts: []string{"b.test"}, Decision: single})
	for host, want := range map[string]string{
		"a.test": `{"app":"a","policy":{"path":"envoy/authz/allow"}}`,
		"b.test": `{"app":"b","policy":{"path":"envoy/authz/allow"},"resource":{},"route":{"method":"GET","params":{},"template":"/"}}`,
	} {
		if got := header(two.Check(t.Context(), asks("GET /", host)), "x-seen"); got != want {
			t.Errorf("%s shows\n%s, want\n%s", host, got, want)
		}
	}
}

// TestRouteNamedByEnvoy compares the route name in Envoy's configuration with the matched route.
func TestRouteNamedByEnvoy(t *testing.T) {
	table := routeTable(t, "flask", "  - {route: \"GET /orders/<int:id>\", name: orders.show}", "  - {route: GET /health, name: health}")
	tables := map[string]*routes.Table{"": table}
	strict := openApps(t, compile(t, allowAll), tables, gate.App{Decision: single})
	loose := openApps(t, compile(t, allowAll), tables, gate.App{Decision: single, AllowUnmatched: true})
	bare := openApps(t, compile(t, allowAll), nil, gate.App{Decision: single})
	for _, tt := range []struct{ request, named, strict, loose, bare string }{
		{"GET /orders/1", "", "allow", "allow", "allow"},
		{"GET /orders/1", "orders.show", "allow", "allow", "bad_request"},
		{"GET /orders/1", "/orders/<int:id>", "allow", "allow", "bad_request"},
		{"GET /orders/1", "health", "bad_request", "bad_request", "bad_request"},
		{"GET /orders/1", "Orders.show", "bad_request", "bad_request", "bad_request"},
		{"POST /orders/1", "orders.show", "bad_request", "bad_request", "bad_request"},
		{"GET /orders/x", "orders.show", "bad_request", "bad_request", "bad_request"},
		{"GET /nothing", "", "no_route", "allow", "allow"},
	} {
		req := asks(tt.request, "a.test")
		req.Headers = gate.Headers{{Name: "gatehouse.route", Value: "health"}} // a client's word
		if tt.named != "" {
			req.Extensions = map[string]string{"gatehouse.route": tt.named}
		}
		got := [3]string{verdict(strict.Check(t.Context(), req)), verdict(loose.Check(t.Context(), req)), verdict(bare.Check(t.Context(), req))}
		if want := [3]string{tt.strict, tt.loose, tt.bare}; got != want {
			t.Errorf("%s named %q: %v, want %v", tt.request, tt.named, got, want)
		}
	}
}

// TestUnmatched denies what the application would answer with a redirect, 405 or 404, unless the policy is to be asked.
func TestUnmatched(t *testing.T) {
	tables := map[string]*routes.Table{"": routeTable(t, "flask", "  - GET /orders/<int:id>", "  - GET /files/", "  - {route: ANY /odd/<y>, unsupported: it looks ahead}")}
	deny := openApps(t, compile(t, reflects), tables, gate.App{Decision: single})
	ask := openApps(t, compile(t, reflects), tables, gate.App{Decision: single, AllowUnmatched: true})
	for request, outcome := range map[string]routes.Outcome{
		"GET /orders/1": routes.Matched, "HEAD /orders/1": routes.Matched, "OPTIONS /orders/1": routes.Matched, "GET /files": routes.Redirect, // Werkzeug reads methods in any case
		"POST /orders/1": routes.MethodNotAllowed, "get /orders/1": routes.Matched, "GET /nothing": routes.NotFound, "GET /orders/x": routes.NotFound, "GET /odd/1": routes.Refused,
	} {
		want, wantAsked := "no_route", "allow"
		switch outcome {
		case routes.Matched:
			want = "allow"
		case routes.Refused:
			want, wantAsked = "bad_request", "bad_request"
		}
		got := deny.Check(t.Context(), asks(request, "a.test"))
		if verdict(got) != want || want == "no_route" && (got.Status != 403 || !strings.HasSuffix(got.Diagnostics.Cause.Error(), outcome.String())) {
			t.Errorf("%s: %s (%v), want %s for %s", request, verdict(got), got.Diagnostics.Cause, want, outcome)
		}
		if got := ask.Check(t.Context(), asks(request, "a.test")); verdict(got) != wantAsked || strings.Contains(header(got, "x-seen"), "route\"") != (outcome == routes.Matched) {
			t.Errorf("%s: %s, shown %s; want %s where the policy is asked", request, verdict(got), header(got, "x-seen"), wantAsked)
		}
	}
}

// TestFormOnOneRoute lets a refused path form through on the route that allows it, and on no other.
func TestFormOnOneRoute(t *testing.T) {
	g := openApps(t, compile(t, reflects), map[string]*routes.Table{"": routeTable(t, "flask",
		"  - {route: \"GET /files/<path:name>\", allow: [encoded_slash]}", "  - GET /orders/<path:id>", "  - GET /public/<path:x>")}, gate.App{Decision: single, AllowUnmatched: true})
	for request, want := range map[string]string{
		"GET /files/a%2Fb": "allow", "GET /files/a%2fb/c": "allow", "GET /orders/a%2Fb": "bad_request", "GET /files/a%5Cb": "bad_request", "GET /files/a%2F../b": "bad_request",
		"GET /files/a%252Fb": "bad_request", "GET /nothing/a%2Fb": "bad_request", "POST /files/a%2Fb": "bad_request", "GET /files/a//b": "bad_request",
		"GET /files%2Fa": "allow", // the application reads it so as well
	} {
		got := g.Check(t.Context(), asks(request, "a.test"))
		if verdict(got) != want {
			t.Errorf("%s: %s (%v), want %s", request, verdict(got), got.Diagnostics.Cause, want)
		}
	}
	if got := header(g.Check(t.Context(), asks("GET /files/a%2Fb", "a.test")), "x-seen"); !strings.Contains(got, `"resource":{"name":"a/b"}`) {
		t.Errorf("the parameter is shown as %s", got)
	}
}

// The rules of a to-do list as they were published for Aserto: Rego v0, one package for each route, ds.* and a user that only a
// directory could know.
var asertoTodo = []string{`package todoapp.GET.todos

default allowed = false

allowed {
	input.identity.type == "IDENTITY_TYPE_JWT"
}`, `package todoapp.POST.todos

default allowed = false

allowed {
	input.user.properties.roles[_] == "editor"
}

allowed {
	input.identity.roles[_] == "editor"
}`, `package todoapp.PUT.todos.__id

default allowed = false
default visible = true

allowed {
	input.resource.id == input.identity.claims.owns[_]
}`, `package todoapp.DELETE.todos.__id

import input.user.properties as user_props

default allowed = false

allowed {
	user_props.roles[_] == "admin"
}

allowed {
	ds.check_relation({"object": {"type": "todo", "key": input.resource.id}, "relation": {"name": "owner"}, "subject": {"id": input.user.id}})
}

allowed {
	input.policy.path == "todoapp.DELETE.todos.__id"
	input.resource.id == "mine"
}`}

// TestAsertoRules asks the rule of the route, and only that.
func TestAsertoRules(t *testing.T) {
	table := routeTable(t, "flask", "  - GET, POST /todos", "  - PUT, DELETE /todos/<id>", "  - GET /stats")
	g := openApps(t, compileFiles(t, asertoTodo...), map[string]*routes.Table{"": table}, gate.App{Root: []string{"todoapp"}})
	ann := &identity.Identity{Type: "IDENTITY_TYPE_JWT", Identity: "ann", Subject: "ann", Authenticated: true, Claims: map[string]any{"owns": []any{"17"}}}
	eve := &identity.Identity{Type: "IDENTITY_TYPE_JWT", Identity: "eve", Subject: "eve", Authenticated: true, Roles: []string{"editor"}}
	for _, tt := range []struct {
		who           *identity.Identity
		request, want string
		asked         string
	}{
		{nil, "GET /todos", "denied", "todoapp.GET.todos"},
		{ann, "GET /todos", "allow", "todoapp.GET.todos"},
		{ann, "HEAD /todos", "allow", "todoapp.GET.todos"},
		{ann, "POST /todos", "denied", "todoapp.POST.todos"},
		{eve, "POST /todos", "allow", "todoapp.POST.todos"},
		{ann, "PUT /todos/17", "allow", "todoapp.PUT.todos.__id"},
		{ann, "PUT /todos/%31%37", "allow", "todoapp.PUT.todos.__id"},
		{ann, "PUT /todos/18", "denied", "todoapp.PUT.todos.__id"},
		{ann, "PUT /todos/18?id=17", "denied", "todoapp.PUT.todos.__id"},
		{ann, "DELETE /todos/17", "denied", "todoapp.DELETE.todos.__id"},
		{ann, "DELETE /todos/mine", "allow", "todoapp.DELETE.todos.__id"},
		{ann, "OPTIONS /todos", "no_decision", "todoapp"},
		{ann, "GET /stats", "no_decision", "todoapp"},
		{ann, "GET /todos/17", "no_route", ""},
		{ann, "GET /todos/", "no_route", ""},
		{ann, "PATCH /todos", "no_route", ""},
	} {
		req := asks(tt.request, "a.test")
		req.As = tt.who
		got := g.Check(t.Context(), req)
		if verdict(got) != tt.want || got.Diagnostics.Asked != tt.asked {
			t.Errorf("%s as %v: %s by %q (%v), want %s by %q", tt.request, tt.who, verdict(got), got.Diagnostics.Asked, got.Diagnostics.Cause, tt.want, tt.asked)
		}
	}
	if got, want := strings.Join(g.View().Notices(), "\n"), "the application: GET /stats has no rule: define data.todoapp.GET.stats.allowed"; got != want {
		t.Errorf("notices:\n%s, want\n%s", got, want)
	}
}

// TestRulesForAddedMethods: a rule for a method that the framework adds is used where it exists.
func TestRulesForAddedMethods(t *testing.T) {
	g := openApps(t, compileFiles(t, "package app.GET.a\nallowed := true", "package app.OPTIONS.a\nallowed := true", "package app.HEAD.b\nallowed := false",
		"package app.GET.b\nallowed := true", "package app.HEAD.c\nallowed := true", "package app.GET.any\nallowed := true"),
		map[string]*routes.Table{"": routeTable(t, "flask", "  - GET /a", "  - GET /b", "  - HEAD /c", "  - ANY /any")}, gate.App{Root: []string{"app"}})
	for request, want := range map[string]string{"GET /a": "allow", "HEAD /a": "allow", "OPTIONS /a": "allow", "GET /b": "allow", "HEAD /b": "denied", "OPTIONS /b": "no_decision",
		"HEAD /c": "allow", "GET /any": "allow", "HEAD /any": "allow", "POST /any": "no_decision", "PROPFIND /any": "no_decision", "OPTIONS /any": "no_decision"} {
		if got := verdict(g.Check(t.Context(), asks(request, "a.test"))); got != want {
			t.Errorf("%s: %s, want %s", request, got, want)
		}
	}
	for _, n := range g.View().Notices() {
		if strings.Contains(n, "belongs to no route") || strings.Contains(n, "OPTIONS /a ") || strings.Contains(n, "HEAD") {
			t.Errorf("notice %q", n)
		}
	}
}

// TestRulesAndRoutesMustFit: unmatched rules and routes are reported, and parts that do not fit change nothing.
func TestRulesAndRoutesMustFit(t *testing.T) {
	root := gate.App{Root: []string{"app"}}
	strict := gate.App{Root: []string{"app"}, StrictRoutes: true}
	table := func(lines ...string) map[string]*routes.Table {
		return map[string]*routes.Table{"": routeTable(t, "flask", lines...)}
	}
	good := compileFiles(t, "package app.GET.a\nallowed := true")
	g := openApps(t, good, table("  - GET /a"), strict)
	for name, tt := range map[string]struct {
		app     gate.App
		policy  *policy.Snapshot
		tables  map[string]*routes.Table
		notices []string // with an error nil
		err     []string
	}{
		"both sides": {root, compileFiles(t, "package app.GET.a\nallowed := true", `package app.GET["b-c"].__id`+"\nallowed := true", "package app.DELETE.gone\nallowed := true", "package app.lib\nallow := true", "package other.GET.x\nallowed := true"),
			table("  - GET, POST /a", "  - GET /b-c/<int:id>", "  - GET /2fa/<path:p>"), []string{
				"the application: POST /a has no rule: define data.app.POST.a.allowed",
				`the application: GET /2fa/<path:p> has no rule: define data.app.GET["2fa"].__p.allowed`,
				"the application: rule data.app.DELETE.gone.allowed belongs to no route"}, nil},
		"strict":             {strict, good, table("  - GET, POST /a"), nil, []string{"policy.strict_routes", "POST /a", "app.POST.a.allowed"}},
		"strict, of many":    {strict, good, table("  - GET /1", "  - GET /2", "  - GET /3", "  - GET /4", "  - GET /5", "  - GET /6", "  - GET /7"), nil, []string{"GET /5 has no rule: define data.app.GET[\"5\"].allowed; and 2 more"}},
		"no table":           {root, good, nil, nil, []string{"policy.root needs a route table"}},
		"one rule, two":      {root, good, table("  - GET /a/__b", "  - GET /a/<b>"), nil, []string{"/a/__b", "/a/<b>", "line 3", "line 4"}},
		"two converters":     {root, good, table("  - GET /a/<int:b>", "  - GET /a/<b>"), nil, []string{"/a/<int:b>", "/a/<b>"}},
		"shadowed":           {root, good, table("  - GET /a", "  - GET /a/allowed"), nil, []string{"/a/allowed", "stands in its way", "line 4"}},
		"not the same verb":  {root, compileFiles(t, "package app.GET.a.__b\nallowed := true", "package app.POST.a.__b\nallowed := true"), table("  - GET /a/<int:b>", "  - POST /a/<b>"), nil, nil},
		"closing slash":      {root, compileFiles(t, "package app.GET.a\nallowed := true"), table("  - GET /a", "  - GET /a/"), nil, nil},
		"a rule of no shape": {root, compileFiles(t, "package app.GET\na := true"), table("  - GET /"), []string{"the application: GET / has no rule: define data.app.GET.allowed"}, nil},
		"no decision":        {gate.App{Decision: []string{"app", "nothing"}}, good, nil, nil, []string{`"app/nothing" is not defined`}},
	} {
		t.Run(name, func(t *testing.T) {
			before := g.View()
			part := func(v *gate.View) { v.Settings, v.Policy, v.Routes = forApps(tt.app), tt.policy, tt.tables }
			fit, err := g.Validate(part), g.Publish(t.Context(), part)
			if fmt.Sprint(fit) != fmt.Sprint(err) {
				t.Errorf("Validate says %v, Publish %v", fit, err)
			}
			if (err != nil) != (tt.err != nil) {
				t.Fatalf("published with %v", err)
			}
			for _, want := range tt.err {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %q", err, want)
				}
			}
			if err != nil && (g.View() != before || verdict(g.Check(t.Context(), asks("GET /a", "a.test"))) != "allow") {
				t.Error("the old View is gone")
			}
			if err == nil {
				if got := strings.Join(g.View().Notices(), "\n"); got != strings.Join(tt.notices, "\n") {
					t.Errorf("notices:\n%s", got)
				}
				if err := g.Publish(t.Context(), func(v *gate.View) { v.Settings, v.Policy, v.Routes = forApps(strict), good, table("  - GET /a") }); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestRoutesAndRulesDoNotMix replaces routes and rules together while requests run: each is decided by the rule and with the
// parameters of one of the two.
func TestRoutesAndRulesDoNotMix(t *testing.T) {
	revision := func(n int) gate.Part {
		table := routeTable(t, "flask", fmt.Sprintf("  - {route: \"GET /items/<p%d>\", name: r%d}", n, n))
		rules := compileFiles(t, fmt.Sprintf(`package app.GET.items.__p%[1]d
allowed := {"allowed": input.resource == {"p%[1]d": "x"}, "headers": {"x-rule": "r%[1]d", "x-route": input.route.name}}`, n))
		return func(v *gate.View) { v.Policy, v.Routes = rules, map[string]*routes.Table{"": table} }
	}
	first := &gate.View{}
	revision(0)(first)
	g := openApps(t, first.Policy, first.Routes, gate.App{Root: []string{"app"}, StrictRoutes: true})
	done := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				got := g.Check(context.Background(), asks("GET /items/x", "a.test"))
				if rule := header(got, "x-rule"); !got.Allow || rule == "" || rule != header(got, "x-route") || got.Diagnostics.Asked != "app.GET.items.__p"+rule[1:] {
					t.Errorf("mixed or denied: %s by %q with %v", verdict(got), got.Diagnostics.Asked, got.Set)
					return
				}
			}
		})
	}
	for n := range 50 {
		if err := g.Publish(t.Context(), revision(n)); err != nil {
			t.Fatal(err)
		}
	}
	stray := routeTable(t, "flask", "  - GET /items/<q>")
	if err := g.Publish(t.Context(), func(v *gate.View) { v.Routes = map[string]*routes.Table{"": stray} }); err == nil {
		t.Error("routes without a rule were published")
	}
	close(done)
	callers.Wait()
}
