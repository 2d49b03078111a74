package gate_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/routes"
)

const permissionsPath = "/.well-known/gatehouse/permissions"

const permissionRoutes = `framework: fastapi
routes:
  - GET /healthz
  - GET, POST /orders
  - GET, DELETE /orders/{id}
`

func permissionSettings(change func(*gate.Settings)) *gate.Settings {
	s := settings()
	s.Permissions = gate.Permissions{Path: permissionsPath, MaxAge: 30 * time.Second}
	if change != nil {
		change(s)
	}
	return s
}

func openPermissions(t testing.TB, s *gate.Settings, p *policy.Snapshot, table string) *gate.Gate {
	t.Helper()
	return gatetest.Start(t, gate.Config{}, gatetest.With(t, s, p), func(v *gate.View) {
		if table == "" {
			return
		}
		parsed, _, err := routes.Parse("routes.yaml", []byte(table))
		if err != nil {
			t.Fatal(err)
		}
		v.Routes = map[string]*routes.Table{"": parsed}
	})
}

// ofRoles is a request of somebody with these roles.
func ofRoles(req *gate.Request, subject string, roles ...string) *gate.Request {
	req.As = &identity.Identity{Type: "jwt", Authenticated: true, Subject: subject, Identity: subject, Roles: roles}
	return req
}

// one is a policy with one entry point and this body.
func one(body string) string { return "package envoy.authz\ndefault allow := false\n" + body }

// TestPermissions checks the answers to callers.
func TestPermissions(t *testing.T) {
	const rest = `"GET /orders/{id}":%s,"DELETE /orders/{id}":%s}` + "\n"
	told := func(list ...any) string {
		return fmt.Sprintf(`{"GET /healthz":%s,"GET /orders":%s,"POST /orders":%s,`+rest, list...)
	}
	for _, tt := range []struct {
		name, rego string
		change     func(*gate.Settings)
		want       string
	}{
		{"nothing depends on the request", one("allow if \"viewer\" in input.identity.roles\nallow if input.route.method == \"GET\""), nil,
			told("true", "true", "true", "true", "true")},
		{"roles and methods", one(`allow if { "viewer" in input.identity.roles; input.attributes.request.http.method == "GET" }`), nil,
			told("true", "true", "false", "true", "false")},
		{"the path", one(`allow if input.parsed_path[0] == "orders"`), nil, told("false", "true", "true", "null", "null")},
		{"the path with the query", one(`allow if input.attributes.request.http.path == "/orders"`), nil, told("null", "null", "null", "null", "null")},
		{"a parameter", one("allow if input.route.params.id == \"1\"\nallow if input.route.template == \"/healthz\""), nil, told("true", "false", "false", "null", "null")},
		{"the resource", one(`allow if input.resource == {}`), nil, told("true", "true", "true", "null", "null")},
		{"all of the route", one(`allow if input.route`), nil, told("true", "true", "true", "null", "null")},
		{"the body", one(`allow if input.parsed_body.a == 1`), nil, told("null", "null", "null", "null", "null")},
		{"whether the body is whole", one(`allow if not input.truncated_body`), nil, told("null", "null", "null", "null", "null")},
		{"the query", one(`allow if not input.parsed_query.a`), nil, told("null", "null", "null", "null", "null")},
		{"a header", one(`allow if input.attributes.request.http.headers["x-tenant"] == "a"`), nil, told("null", "null", "null", "null", "null")},
		{"what Envoy's route says", one(`allow if not input.attributes.contextExtensions.a`), nil, told("null", "null", "null", "null", "null")},
		{"all of the input", one(`allow if input != {}`), nil, told("null", "null", "null", "null", "null")},
		{"an error", one(`allow := "what"`), nil, told("false", "false", "false", "false", "false")},
		{"a bypassed path", one(``), func(s *gate.Settings) { s.Bypass = []gate.Bypass{{Method: "GET", Path: "/healthz"}} },
			told("true", "false", "false", "false", "false")},
		{"a path below a template is bypassed", one(``), func(s *gate.Settings) { s.Bypass = []gate.Bypass{{Method: "GET", Path: "/orders/public"}} },
			told("false", "false", "false", "null", "false")},
		{"dry run", one(``), func(s *gate.Settings) { s.DryRun = true }, told("true", "true", "true", "true", "true")},
		{"plain", one(`allow if input.parsed_path[0] == "orders"`), func(s *gate.Settings) { s.Plain = true }, told("false", "true", "true", "null", "null")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := openPermissions(t, permissionSettings(tt.change), compile(t, tt.rego), permissionRoutes)
			answer := g.Check(t.Context(), ofRoles(get(permissionsPath+"?x=1", "x-tenant", "a"), "vera", "viewer"))
			if answer.Allow || !answer.Direct || answer.Status != 200 || answer.Body != tt.want {
				t.Fatalf("allow %v, own %v, %d:\n%swant\n%s", answer.Allow, answer.Direct, answer.Status, answer.Body, tt.want)
			}
			for name, value := range map[string]string{"content-type": "application/json", "cache-control": "private, max-age=30", "vary": "Authorization, Cookie"} {
				if !hasOption(answer.Set, name, value) {
					t.Errorf("no %s: %s in %v", name, value, answer.Set)
				}
			}
		})
	}
}

func hasOption(options []gate.HeaderOption, name, value string) bool {
	for _, o := range options {
		if o.Name == name {
			return o.Value == value
		}
	}
	return false
}

// TestPermissionsWithRulesOfRoutes evaluates each route's own rule: one that reads a parameter does not affect the others.
func TestPermissionsWithRulesOfRoutes(t *testing.T) {
	s := permissionSettings(func(s *gate.Settings) { s.Apps = []gate.App{{Root: []string{"orders"}}} })
	snapshot := gatetest.Compile(t, policy.Config{}, "orders", map[string]string{
		"list.rego":   "package orders.GET.orders\nallowed if \"viewer\" in input.identity.roles",
		"make.rego":   "package orders.POST.orders\nallowed if input.parsed_body.total < 10",
		"show.rego":   "package orders.GET.orders.__id\nallowed if input.resource.id == \"1\"",
		"delete.rego": "package orders.DELETE.orders.__id\nallowed if \"admin\" in input.identity.roles",
	})
	g := openPermissions(t, s, snapshot, permissionRoutes)
	for role, want := range map[string]string{
		"viewer": `{"GET /healthz":false,"GET /orders":true,"POST /orders":null,"GET /orders/{id}":null,"DELETE /orders/{id}":false}`,
		"admin":  `{"GET /healthz":false,"GET /orders":false,"POST /orders":null,"GET /orders/{id}":null,"DELETE /orders/{id}":true}`,
	} {
		if answer := g.Check(t.Context(), ofRoles(get(permissionsPath), "vera", role)); answer.Body != want+"\n" {
			t.Errorf("%s: %swant %s", role, answer.Body, want)
		}
	}
}

// TestPermissionsRefused: invalid requests get no answer, and no dry run lets them through to the application.
func TestPermissionsRefused(t *testing.T) {
	var table strings.Builder
	table.WriteString("framework: fastapi\nroutes:\n")
	for i := range 1001 {
		fmt.Fprintf(&table, "  - GET /%d\n", i)
	}
	for _, tt := range []struct {
		name, table string
		change      func(*gate.Settings)
		request     func(*gate.Request)
		status      int
		reason      gate.Reason
	}{
		{"POST", permissionRoutes, nil, func(r *gate.Request) { r.Method = "POST" }, 405, gate.BadRequest},
		{"OPTIONS", permissionRoutes, nil, func(r *gate.Request) { r.Method = "OPTIONS" }, 405, gate.BadRequest},
		{"a WebSocket", permissionRoutes, nil, func(r *gate.Request) {
			r.Headers = gate.Headers{{Name: "upgrade", Value: "websocket"}, {Name: "connection", Value: "upgrade"}}
		}, 400, gate.BadRequest},
		{"another path of the same file", permissionRoutes, nil, func(r *gate.Request) { r.Path += "/" }, 403, gate.NoRoute},
		{"no route table", "", nil, nil, 404, gate.NoRoute},
		{"too many routes", table.String(), nil, nil, 503, gate.Unavailable},
		{"a proxy that asks over HTTP", permissionRoutes, nil, func(r *gate.Request) { r.OnlyVerdicts = true }, 404, gate.NoRoute},
		{"a route of Envoy's configuration", permissionRoutes, nil, func(r *gate.Request) { r.Extensions = map[string]string{"gatehouse.route": "x"} }, 400, gate.BadRequest},
		{"no app has the host", permissionRoutes, func(s *gate.Settings) { s.Apps[0].Hosts = []string{"other.example.com"} }, nil, 403, gate.NoRoute},
		{"a message that is too large", permissionRoutes, nil, func(r *gate.Request) { r.Bytes = 2 << 20 }, 413, gate.BadRequest},
	} {
		for _, dryRun := range []bool{false, true} {
			if dryRun && (tt.status == 413 || tt.name == "another path of the same file") { // it is not known to be for permissions
				continue
			}
			t.Run(fmt.Sprintf("%s, dry run %v", tt.name, dryRun), func(t *testing.T) {
				s := permissionSettings(tt.change)
				s.DryRun = dryRun
				req := get(permissionsPath)
				if tt.request != nil {
					tt.request(req)
				}
				answer := openPermissions(t, s, compile(t, allowAll), tt.table).Check(t.Context(), req)
				if answer.Allow || answer.Direct || answer.Status != tt.status || answer.Reason != tt.reason {
					t.Fatalf("allow %v, own %v, %d %s: %v", answer.Allow, answer.Direct, answer.Status, answer.Reason, answer.Diagnostics.Cause)
				}
				if tt.status == 405 && !hasOption(answer.Set, "allow", "GET, HEAD") {
					t.Errorf("no Allow header in %v", answer.Set)
				}
			})
		}
	}
}

// TestPermissionsTakeTheTimeOfOneEvaluation: after the time limit there is no answer rather than a partial one.
func TestPermissionsTakeTheTimeOfOneEvaluation(t *testing.T) {
	s := permissionSettings(func(s *gate.Settings) { s.Timeout = time.Nanosecond })
	answer := openPermissions(t, s, compile(t, allowAll), permissionRoutes).Check(t.Context(), get(permissionsPath))
	if answer.Direct || answer.Status != 503 || answer.Reason != gate.Timeout || strings.Contains(answer.Body, "/orders") {
		t.Fatalf("%d %s: %s", answer.Status, answer.Reason, answer.Body)
	}
}

// TestPermissionsAreRecorded: one log entry per request, however many routes were evaluated.
func TestPermissionsAreRecorded(t *testing.T) {
	log, written := gatetest.Log(t)
	g := openPermissions(t, permissionSettings(func(s *gate.Settings) { s.Log = log }), compile(t, allowAll), permissionRoutes)
	g.Check(t.Context(), ofRoles(get(permissionsPath), "vera", "viewer"))
	text := written()
	var e struct {
		Outcome, Reason string
		Request         struct{ Path string }
		Identity        struct{ Subject string }
	}
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if e.Outcome != "allow" || e.Reason != "permissions" || e.Request.Path != permissionsPath || e.Identity.Subject != "vera" {
		t.Errorf("%s", text)
	}
}

// TestPermissionSettings refuses what could not be honoured.
func TestPermissionSettings(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*gate.Settings)
		want   string
	}{
		{"a wildcard", func(s *gate.Settings) { s.Permissions.Path = "/a/*" }, "Permissions.Path: \"/a/*\": give one exact path"},
		{"an escape", func(s *gate.Settings) { s.Permissions.Path = "/a%20b" }, "give one exact path"},
		{"no path", func(s *gate.Settings) { s.Permissions.Path = "a" }, "give one exact path"},
		{"an age", func(s *gate.Settings) { s.Permissions.MaxAge = 25 * time.Hour }, "Permissions.MaxAge: 25h0m0s: must be from 0s to 24h0m0s"},
		{"a bypass", func(s *gate.Settings) { s.Bypass = []gate.Bypass{{Method: "GET", Path: permissionsPath}} }, "is bypassed as well"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := permissionSettings(tt.change).Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%v, want %q", err, tt.want)
			}
		})
	}
}

// TestPermissionsAreWhatCheckSays compares permissions with decisions, for random policies and callers: a route
// reported true is allowed whatever else the request contains, one reported false is denied.
func TestPermissionsAreWhatCheckSays(t *testing.T) {
	conditions := []string{`"a" in input.identity.roles`, `input.identity.subject == "s1"`, `input.route.method == "GET"`, `input.route.template == "/b"`,
		`input.parsed_path[0] == "b"`, `input.attributes.request.http.method == "POST"`, `input.route.params.id == "1"`, `input.resource == {}`,
		`input.parsed_query.q == ["1"]`, `input.parsed_body.q == 1`, `input.attributes.request.http.headers.q == "1"`, `not input.identity.authenticated`,
		`input.attributes.request.http.host == "orders.example.com"`, `input.attributes.request.http.path == "/b"`}
	const table = "framework: %s\nroutes:\n  - GET, POST /a\n  - GET /b\n  - POST /c/{id}\n  - GET /c/new\n  - PUT /d/{id}/e\n  - WEBSOCKET /w\n  - GET /b/c\n"
	random := rand.New(rand.NewPCG(1, 2))
	paths := map[string][]string{"/c/{id}": {"/c/1", "/c/2", "/c/new"}, "/d/{id}/e": {"/d/1/e", "/d/2/e"}}
	told := map[bool]int{}
	for round := range 60 {
		var rego strings.Builder
		rego.WriteString("default allow := false\n")
		for range 1 + random.IntN(3) {
			fmt.Fprintf(&rego, "allow if { %s; %s }\n", conditions[random.IntN(len(conditions))], conditions[random.IntN(len(conditions))])
		}
		g := openPermissions(t, permissionSettings(nil), compile(t, "package envoy.authz\n"+rego.String()), fmt.Sprintf(table, "fastapi"))
		for _, who := range []func(*gate.Request) *gate.Request{
			func(r *gate.Request) *gate.Request { return r },
			func(r *gate.Request) *gate.Request { return ofRoles(r, "s1") },
			func(r *gate.Request) *gate.Request { return ofRoles(r, "s2", "a") },
		} {
			answer := g.Check(t.Context(), who(get(permissionsPath)))
			var list map[string]*bool
			if err := json.Unmarshal([]byte(answer.Body), &list); err != nil || len(list) != 8 {
				t.Fatalf("%v: %s", err, answer.Body)
			}
			for key, is := range list {
				method, template, _ := strings.Cut(key, " ")
				concrete := paths[template]
				if concrete == nil {
					concrete = []string{template}
				}
				if is == nil {
					continue
				}
				told[*is]++
				for _, path := range concrete {
					for _, extra := range []func(*gate.Request){
						func(*gate.Request) {},
						func(r *gate.Request) { r.Path += "?q=1" },
						func(r *gate.Request) {
							r.Headers = append(r.Headers, gate.Header{Name: "q", Value: "1"}, gate.Header{Name: "content-type", Value: "application/json"})
							r.Body = `{"q": 1}`
						},
					} {
						req := who(get(path))
						if req.Method = method; method == routes.WebSocket {
							req.Method = "GET"
							req.Headers = gate.Headers{{Name: "upgrade", Value: "websocket"}, {Name: "connection", Value: "upgrade"}}
						}
						extra(req)
						if got := g.Check(t.Context(), req); got.Allow != *is && got.Diagnostics.Match.Route != nil && got.Diagnostics.Match.Route.Template == template {
							t.Fatalf("round %d: told %v of %s, and %s %s is %v:\n%s", round, *is, key, req.Method, req.Path, got.Allow, rego.String())
						}
					}
				}
			}
		}
	}
	if told[true] < 20 || told[false] < 100 {
		t.Fatalf("hardly anything was told: %v", told)
	}
}
