package gate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/routes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func compile(t testing.TB, rego string) *policy.Snapshot { t.Helper(); return gatetest.Policy(t, rego) }

func plain() bool { return gatetest.Plain() }

func settings() *gate.Settings { return gatetest.Settings() }

// open returns a running gate with one policy.
func open(t testing.TB, s *gate.Settings, p *policy.Snapshot) *gate.Gate {
	t.Helper()
	return gatetest.Start(t, gate.Config{}, gatetest.With(t, s, p))
}

func get(path string, headers ...string) *gate.Request {
	r := &gate.Request{Method: "GET", Path: path, Host: "orders.example.com"}
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, gate.Header{Name: headers[i], Value: headers[i+1]})
	}
	return r
}

const allowAll = gatetest.AllowAll

// TestPaths refuses every form of a path that two readers could understand differently, each by its name, and lets it
// through where the name is allowed.
func TestPaths(t *testing.T) {
	snapshot := compile(t, allowAll)
	strict := open(t, settings(), snapshot)
	for _, tt := range []struct {
		path    string
		refused routes.Forms
	}{
		{"/", 0}, {"/orders", 0}, {"/orders/", 0}, {"/a.b/.well-known/c..d", 0}, {"/a;b=c/d", 0}, {"/a:b@c,d", 0}, {"/%C3%A9", 0},
		{"/a%20b", 0}, {"/100%25", 0}, {"*", 0}, {"/...", 0}, {"/?a=%2e%2e/..//", 0}, {"/a?b#c", 0},
		{"/a/./b", routes.DotSegments}, {"/a/..", routes.DotSegments}, {"/..", routes.DotSegments}, {"/a/%2e%2e/b", routes.DotSegments}, {"/a/.%2E/b", routes.DotSegments},
		{"/a/..;/b", routes.DotSegments}, {"/a/..;x=y/b", routes.DotSegments}, {"/%2e/a", routes.DotSegments},
		{"//a", routes.DoubleSlash}, {"/a//b", routes.DoubleSlash}, {"/a//", routes.DoubleSlash},
		{"/a%2fb", routes.EncodedSlash}, {"/a%2Fb", routes.EncodedSlash},
		{`/a\b`, routes.Backslash}, {"/a%5cb", routes.Backslash},
		{"/a%00b", routes.ControlBytes}, {"/a%0d%0ab", routes.ControlBytes}, {"/a%7fb", routes.ControlBytes}, {"/a\tb", routes.ControlBytes},
		{"/a%", routes.BadEscape}, {"/a%2", routes.BadEscape}, {"/a%zz", routes.BadEscape}, {"/a%u002f", routes.BadEscape},
		{"/a%252fb", routes.DoubleEncoding}, {"/%2525", routes.DoubleEncoding}, {"/a%25%32%66b", routes.DoubleEncoding}, {"/%252e%252e/b", routes.DoubleEncoding},
		{"/a%c0%afb", routes.InvalidUTF8}, {"/%c0%ae%c0%ae/", routes.InvalidUTF8}, {"/%ff", routes.InvalidUTF8}, {"/%ed%a0%80", routes.InvalidUTF8},
		{"/a#b", routes.Fragment}, {"orders", routes.NotAbsolute}, {"http://orders.example.com/orders", routes.NotAbsolute},
		{"/a%3fb", routes.EncodedQuestion}, {"/a%3bb", routes.EncodedSemicolon},
	} {
		t.Run(tt.path, func(t *testing.T) {
			answer := strict.Check(t.Context(), get(tt.path))
			if answer.Allow != (tt.refused == 0) || tt.refused != 0 && answer.Reason != gate.BadRequest {
				t.Fatalf("allow %v, reason %q; want refusal %q", answer.Allow, answer.Reason, tt.refused)
			}
			if tt.refused == 0 {
				return
			}
			s := settings()
			s.Paths.Allow = tt.refused
			answer = open(t, s, snapshot).Check(t.Context(), get(tt.path))
			if !answer.Allow && tt.path != "http://orders.example.com/orders" { // which has a double slash as well
				t.Errorf("denied although paths.allow names %s", tt.refused)
			}
		})
	}
}

// TestNoRefusalStandsForAnother allows each form by itself and finds every other one still denied.
func TestNoRefusalStandsForAnother(t *testing.T) {
	samples := map[routes.Forms]string{routes.DotSegments: "/a/../b", routes.DoubleSlash: "/a//b", routes.EncodedSlash: "/a%2fb", routes.Backslash: "/a%5cb",
		routes.ControlBytes: "/a%00b", routes.BadEscape: "/a%zz", routes.DoubleEncoding: "/a%252fb", routes.InvalidUTF8: "/%ff", routes.Fragment: "/a#b", routes.NotAbsolute: "a",
		routes.EncodedQuestion: "/a%3fb", routes.EncodedSemicolon: "/a%3bb"}
	snapshot := compile(t, allowAll)
	for allowed := range samples {
		s := settings()
		s.Paths.Allow = allowed
		g := open(t, s, snapshot)
		for refused, path := range samples {
			if answer := g.Check(t.Context(), get(path)); answer.Allow != (refused == allowed) {
				t.Errorf("with %s allowed, %q: allow is %v", allowed, path, answer.Allow)
			}
		}
	}
}

// TestRequestHeaders resolves a policy's headers against what the client sent.
func TestRequestHeaders(t *testing.T) {
	for name, tt := range map[string]struct {
		decision string
		sent     []string
		set      map[string]string
		remove   []string
	}{
		"set over the client's":           {`{"x-a": "ours"}`, []string{"x-a", "theirs"}, map[string]string{"x-a": "ours"}, nil},
		"several values":                  {`{"x-a": ["1", "2"]}`, nil, map[string]string{"x-a": "1,2"}, nil},
		"append":                          {`{"x-a": {"value": "ours", "append_action": "APPEND_IF_EXISTS_OR_ADD"}}`, []string{"x-a", "theirs"}, map[string]string{"x-a": "theirs,ours"}, nil},
		"append to nothing":               {`{"x-a": {"value": "ours", "append_action": "APPEND_IF_EXISTS_OR_ADD"}}`, nil, map[string]string{"x-a": "ours"}, nil},
		"add if absent":                   {`{"x-a": {"value": "ours", "append_action": "ADD_IF_ABSENT"}}`, []string{"x-a", "theirs"}, map[string]string{}, nil},
		"absent":                          {`{"x-a": {"value": "ours", "append_action": "ADD_IF_ABSENT"}}`, nil, map[string]string{"x-a": "ours"}, nil},
		"overwrite if exists":             {`{"x-a": {"value": "ours", "append_action": "OVERWRITE_IF_EXISTS"}}`, nil, map[string]string{}, nil},
		"look-alike of a set":             {`{"x-tenant": "ours"}`, []string{"x_tenant", "theirs"}, map[string]string{"x-tenant": "ours"}, []string{"x_tenant"}},
		"identity names":                  {`{}`, []string{"x-auth-subject", "admin", "x_auth_subject", "admin", "x.auth-roles", "admin", "x-auth-roles-2", "fine"}, map[string]string{}, []string{"x-auth-subject", "x.auth-roles", "x_auth_subject"}},
		"an empty one first":              {`{}`, []string{"x-auth-subject", "", "x-auth-subject", "root"}, map[string]string{}, []string{"x-auth-subject"}},
		"look-alike of a set in capitals": {`{"X-Tenant": "ours"}`, []string{"x_tenant", "theirs"}, map[string]string{"X-Tenant": "ours"}, []string{"x_tenant"}},
		"identity, misspelt by policy":    {`{"x_auth_subject": "ours"}`, []string{"x-auth-subject", "admin"}, map[string]string{"x_auth_subject": "ours"}, []string{"x-auth-subject"}},
		"identity by policy":              {`{"x-auth-subject": "ours"}`, []string{"x-auth-subject", "admin"}, map[string]string{"x-auth-subject": "ours"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := open(t, settings(), compile(t, "package envoy.authz\nallow := {\"allowed\": true, \"headers\": "+tt.decision+"}"))
			answer := g.Check(t.Context(), get("/", tt.sent...))
			if !answer.Allow {
				t.Fatalf("denied: %s", answer.Reason)
			}
			set := map[string]string{}
			for _, h := range answer.Set {
				if h.Action != gate.OverwriteIfExistsOrAdd {
					t.Errorf("%s has action %v: the client's value could stay", h.Name, h.Action)
				}
				set[h.Name] = h.Value
			}
			if fmt.Sprint(set) != fmt.Sprint(tt.set) {
				t.Errorf("set %v, want %v", set, tt.set)
			}
			if slices.Sort(answer.Remove); !slices.Equal(answer.Remove, tt.remove) {
				t.Errorf("remove %v, want %v", answer.Remove, tt.remove)
			}
		})
	}
}

// TestIdentityHeaders tells the application who calls, over whatever the client sent, and never in a form that could be
// taken for more than it is.
func TestIdentityHeaders(t *testing.T) {
	g := open(t, settings(), compile(t, allowAll))
	for name, tt := range map[string]struct {
		subject string
		roles   []string
		want    string // subject|roles; "": denied as bad_credential
	}{
		"a caller":                {"alice", []string{"viewer", "clerk"}, "alice|viewer,clerk"},
		"a role with a comma":     {"alice", []string{"viewer,admin"}, "alice|viewer%2Cadmin"},
		"a role with an escape":   {"alice", []string{"viewer%2Cadmin", "b"}, "alice|viewer%252Cadmin,b"},
		"no roles":                {"alice", nil, "alice|-"},
		"letters of any language": {"björk", []string{"ü"}, "björk|ü"},
		"a line break":            {"alice\r\nx-auth-roles: admin", nil, ""},
		"a line break in a role":  {"alice", []string{"a\nb"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			req := get("/", "x-auth-subject", "mallory", "x-auth-roles", "admin")
			req.As = &identity.Identity{Type: identity.TypeJWT, Subject: tt.subject, Roles: tt.roles, Authenticated: true}
			answer := g.Check(t.Context(), req)
			if tt.want == "" {
				if answer.Allow || answer.Reason != gate.BadCredential {
					t.Fatalf("allow %v, reason %s", answer.Allow, answer.Reason)
				}
				return
			}
			got := map[string]string{"x-auth-subject": "-", "x-auth-roles": "-"}
			for _, h := range answer.Set {
				if h.Action != gate.OverwriteIfExistsOrAdd {
					t.Errorf("%s has action %v: the client's value could stay", h.Name, h.Action)
				}
				got[h.Name] = h.Value
			}
			if have := got["x-auth-subject"] + "|" + got["x-auth-roles"]; have != tt.want {
				t.Errorf("the application sees %s, want %s", have, tt.want)
			}
			if tt.roles == nil && !slices.Contains(answer.Remove, "x-auth-roles") {
				t.Errorf("the client's roles stay: %v", answer.Remove)
			}
		})
	}
}

// TestViewsDoNotMix publishes policies while requests run: each answer's two halves come from one policy.
func TestViewsDoNotMix(t *testing.T) {
	revision := func(n int) *policy.Snapshot {
		return compile(t, fmt.Sprintf(`package envoy.authz
allow := {"allowed": true, "headers": {"x-a": a}, "response_headers_to_add": {"x-b": b}}
a := "%d"
b := "%d"`, n, n))
	}
	g := open(t, settings(), revision(0))
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
				answer := g.Check(context.Background(), get("/"))
				if !answer.Allow || answer.Set[0].Value != answer.Response[0].Value {
					t.Errorf("mixed or denied: %+v", answer)
					return
				}
			}
		})
	}
	for n := range 50 {
		if err := g.Publish(t.Context(), func(v *gate.View) { v.Policy = revision(n) }); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	callers.Wait()
}

// TestEveryExitIsLoggedOnce ends a Check in every possible way and counts the entries.
func TestEveryExitIsLoggedOnce(t *testing.T) {
	log, written := gatetest.Log(t)
	s := settings()
	s.Log, s.Timeout = log, time.Minute
	s.Bypass = []gate.Bypass{{Method: "GET", Path: "/healthz"}}
	policy := compile(t, `package envoy.authz
p := input.parsed_path[0]
allow := true if p == "allow"
allow := false if p == "deny"
allow := 7 if p == "error"
allow := count([1 | some i in range; some j in range; some k in range; i + j + k == 0]) > 0 if p == "slow"
range := numbers.range(1, 3000)`)
	hurried := *s
	hurried.Timeout = 20 * time.Millisecond
	g, short := open(t, s, policy), open(t, &hurried, policy)
	want := map[string]string{}
	for path, verdict := range map[string]string{"/allow": "allow ", "/deny": "deny denied", "/none": "deny no_decision", "/error": "deny policy_error",
		"/a//b": "deny bad_request", "/healthz": "allow bypass"} {
		answer := g.Check(t.Context(), get(path))
		want[answer.DecisionID] = verdict
	}
	want[short.Check(t.Context(), get("/slow")).DecisionID] = "deny timeout"
	malformed := get("/allow")
	malformed.Malformed = fmt.Errorf("it does not parse")
	want[g.Check(t.Context(), malformed).DecisionID] = "deny bad_request"
	text := written()
	got := map[string]string{}
	for line := range strings.Lines(text) {
		var e struct {
			ID      string `json:"decision_id"`
			Outcome string
			Reason  string
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if _, twice := got[e.ID]; twice {
			t.Errorf("%s is logged twice", e.ID)
		}
		got[e.ID] = e.Outcome + " " + e.Reason
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("logged %v, want %v", got, want)
	}
}

// TestLogShowsWhatThePolicyCouldRead holds the two readers of the input against each other: a policy that reads all of it, and the log.
func TestLogShowsWhatThePolicyCouldRead(t *testing.T) {
	table := routeTable(t, "fastapi", "  - {route: \"GET /orders/{id}\", name: orders.show}")
	endpoint := gate.Endpoint{Address: gate.Address{Host: "10.0.0.1", Port: 443}, Service: "s", Labels: map[string]string{"a": "b"}, Principal: "spiffe://a/b", Certificate: "c"}
	full := get("/orders/17?expand=lines&x", "x-a", "1", "x-a", "2", "accept", "", "content-type", "application/json")
	full.ID, full.Scheme, full.Protocol, full.Query, full.Fragment, full.Size = "7", "https", "HTTP/2", "q", "f", 12
	full.Source, full.Destination, full.Time = endpoint, gate.Endpoint{Address: gate.Address{Other: map[string]any{"pipe": map[string]any{"path": "/run/x"}}}}, time.Unix(1700000000, 5)
	full.Extensions, full.RouteMetadata = map[string]string{"k": "v"}, map[string]any{"filterMetadata": map[string]any{"x": []any{json.Number("1"), nil, true}}}
	full.TLS, full.RawHeader = &gate.TLSSession{SNI: "example.com"}, true
	full.As = &identity.Identity{Type: identity.TypeJWT, Identity: "vera", Subject: "vera", Issuer: "i", Roles: []string{"viewer"}, Scopes: []string{"a", "b"}, Authenticated: true}
	for name, req := range map[string]*gate.Request{"bare": get("/"), "without a tls name": {Method: "GET", Path: "/a//", TLS: &gate.TLSSession{}}, "a redirect": get("/orders/17/"), "full": full} {
		t.Run(name, func(t *testing.T) {
			log, written := gatetest.Log(t)
			s := settings()
			s.Log, s.Paths.Compat, s.Apps[0].AllowUnmatched, s.Apps[0].Redirects = log, true, true, true
			g := open(t, s, compile(t, "package envoy.authz\nallow := {\"allowed\": true, \"dynamic_metadata\": {\"input\": input}}"))
			if err := g.Publish(t.Context(), func(v *gate.View) { v.Routes = map[string]*routes.Table{"": table} }); err != nil {
				t.Fatal(err)
			}
			answer := g.Check(t.Context(), req)
			text := written()
			var line struct{ Input json.RawMessage }
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatal(err)
			}
			want, err := json.Marshal(answer.Metadata["input"])
			if err != nil {
				t.Fatal(err)
			}
			var logged, seen any
			if err := errors.Join(json.Unmarshal(line.Input, &logged), json.Unmarshal(want, &seen)); err != nil {
				t.Fatal(err)
			}
			if name == "a redirect" && !strings.Contains(string(line.Input), `"redirect":true`) {
				t.Errorf("the log does not say that it is a redirect: %s", line.Input)
			}
			if !reflect.DeepEqual(logged, seen) {
				t.Errorf("the log says\n%s\nthe policy saw\n%s", line.Input, want)
			}
		})
	}
}

// TestSettingsSayWhatIsWrong reports every mistake at once.
func TestSettingsSayWhatIsWrong(t *testing.T) {
	s := &gate.Settings{
		Headers: gate.IdentityHeaders{Subject: "X-Subject", Roles: "x roles"},
		Apps:    []gate.App{{}, {Name: "b", Hosts: []string{"a b"}, Decision: []string{"x"}}},
		Bypass:  []gate.Bypass{{Path: "/x"}, {Method: "GET", Path: "/a/*"}, {Method: "GET", Path: "/a/../b"}, {Method: "POST", Preflight: true}},
		Limits:  gate.Limits{Concurrent: -1},
	}
	err := s.Validate()
	for _, want := range []string{"Headers.Subject", "Headers.Roles", "Apps[0]: name", "set one of Decision and Root", "Apps[1].Hosts", "Bypass[0]", "Bypass[1]", "Bypass[2]", "Bypass[3]", "Timeout", "Limits"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// FuzzCheck throws requests at a policy that reads everything: the answer is never Internal, and a path that got through
// is one that decodes in one step to itself.
func FuzzCheck(f *testing.F) {
	f.Add("GET", "/orders/1?a=b", "content-type", "application/json", `{"a": [1, {"b": null}]}`)
	f.Add("POST", "/a%2fb", "content-type", "application/x-www-form-urlencoded", "a=b&c=%20")
	f.Add("POST", "/x", "content-type", "multipart/form-data; boundary=X", "--X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--X--\r\n")
	f.Add("POST", "/pkg.S/M", "content-type", "application/grpc", "\x00\x00\x00\x00\x01a")
	f.Add("GET", "/%2e%2e/%252e", "x_auth_subject", "admin", "")
	f.Add("", "", "content-length", "x", "")
	g := open(f, settings(), compile(f, `package envoy.authz
allow := {"allowed": true, "headers": {"x-all": json.marshal(input)}}`))
	f.Fuzz(func(t *testing.T, method, path, name, value, body string) {
		req := get(path, name, value)
		req.Method, req.Body = method, body
		answer := g.Check(t.Context(), req)
		switch {
		case answer.Reason == gate.Internal:
			t.Fatalf("internal error")
		case !answer.Allow:
			if answer.Status < 400 || answer.DecisionID == "" {
				t.Fatalf("denial with status %d", answer.Status)
			}
		default:
			raw, _, _ := strings.Cut(path, "?")
			for segment := range strings.SplitSeq(raw, "/") {
				if segment == "." || segment == ".." {
					t.Fatalf("%q got through", path)
				}
			}
			if strings.Contains(raw, "//") || strings.ContainsAny(raw, "\\\x00#") {
				t.Fatalf("%q got through", path)
			}
		}
	})
}
