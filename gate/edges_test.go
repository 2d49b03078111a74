package gate_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/query"
	"gatehouse/routes"
)

// forwarded is the query that Envoy sends on: that of a path which it is given; then it sets and removes names as they were sent, and writes them
// in their order. envoy/edges_test.go holds the real one against it.
func forwarded(raw string, a gate.Answer) string {
	for _, h := range a.Set {
		if h.Name == ":path" {
			_, raw, _ = strings.Cut(h.Value, "?")
		}
	}
	if len(a.SetQuery)+len(a.RemoveQuery) == 0 {
		return raw
	}
	values := map[string][]string{}
	for rest := raw; rest != ""; {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		name, value, _ := strings.Cut(pair, "=")
		values[name] = append(values[name], value)
	}
	for _, p := range a.SetQuery {
		values[p.Name] = []string{p.Value}
	}
	for _, name := range a.RemoveQuery {
		delete(values, name)
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for _, value := range values[name] {
			pairs = append(pairs, name+"="+value)
		}
	}
	return strings.Join(pairs, "&")
}

// plainPolicy sets what Envoy can set by itself, tenantPolicy what it cannot.
const plainPolicy = `package envoy.authz
allow := {"allowed": true,
	"query_parameters_to_set": {"tenant": "acme"},
	"query_parameters_to_remove": ["debug", "a b"]}`

const tenantPolicy = `package envoy.authz
allow := {"allowed": true,
	"query_parameters_to_set": {"tenant": "Acme&debug=1", "last name": "Jürgen", "tag": ["a+b", "100%"]},
	"query_parameters_to_remove": ["debug", "a b"]}`

var spellings = []string{"tenant", "%74enant", "t%65nan%74", "tenan%74%", "TENANT", "tenant[]", "%2574enant", "debug", "d%65bug", "%64%65%62%75%67", "%64ebug;x",
	"a+b", "a%20b", "a%2Bb", "%61+%62", "last+name", "last%20name", "tag", "%74%61%67", "other", "%6fther", "q", "%", "%zz", "%ff", "debug%ff", "\xff", "=", "=", "=", "=", "&", "&", "&",
	"&&", ";", "+", "evil", "2"}

// However a client spells what the policy sets or removes, the application has the policy's values of it and nothing of the client's,
// and of everything else what the policy saw.
func TestPolicyOwnsItsParameters(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for rego, sets := range map[string]map[string][]string{
		plainPolicy:  {"tenant": {"acme"}},
		tenantPolicy: {"tenant": {"Acme&debug=1"}, "last name": {"Jürgen"}, "tag": {"a+b", "100%"}},
	} {
		g := open(t, settings(), compile(t, rego))
		written := 0
		for range 10_000 {
			var b strings.Builder
			for range 1 + r.IntN(12) {
				b.WriteString(spellings[r.IntN(len(spellings))])
			}
			raw := b.String()
			a := g.Check(t.Context(), get("/?"+raw))
			if !a.Allow {
				t.Fatalf("%q: %s", raw, a.Reason)
			}
			if len(a.SetQuery) == 0 {
				written++
			}
			got, err := query.Parse(forwarded(raw, a))
			if err != nil {
				t.Fatal(err)
			}
			want, _ := query.Parse(raw)
			if want.Values == nil {
				want.Values = map[string][]string{}
			}
			maps.Copy(want.Values, sets)
			for _, gone := range []string{"debug", "a b", ""} { // Envoy makes "=" of an empty parameter
				delete(want.Values, gone)
				if gone == "" {
					delete(got.Values, gone)
				}
			}
			if !maps.EqualFunc(got.Values, want.Values, slices.Equal) {
				t.Fatalf("%q: the application has %q of %q, want %q", raw, got.Values, forwarded(raw, a), want.Values)
			}
		}
		if rego == plainPolicy && (written == 0 || written > 5_000) || rego == tenantPolicy && written != 10_000 {
			t.Errorf("%d paths are written here", written)
		}
	}
}

const tenantQuery = "last%20name=J%C3%BCrgen&tag=a%2Bb&tag=100%25&tenant=Acme%26debug%3D1"

// written is the path that Envoy is given.
func written(a gate.Answer) string {
	for _, h := range a.Set {
		if h.Name == ":path" && h.Action == gate.OverwriteIfExistsOrAdd {
			return h.Value
		}
	}
	return ""
}

func TestQueryMutations(t *testing.T) {
	a := open(t, settings(), compile(t, plainPolicy)).Check(t.Context(), get("/?%74enant=evil&d%65bug=2&debug=3"))
	slices.Sort(a.RemoveQuery)
	if want := []string{"%74enant", "a%20b", "d%65bug", "debug"}; !slices.Equal(a.RemoveQuery, want) || len(a.SetQuery) != 1 || a.SetQuery[0].Value != "acme" {
		t.Errorf("sets %q, removes %q, want %q", a.SetQuery, a.RemoveQuery, want)
	}

	// Envoy's validate_mutations takes no escapes, and nothing else either but a few characters: there the path is written here.
	g := open(t, settings(), compile(t, tenantPolicy))
	for sent, want := range map[string]string{
		"/a":                                     "/a?" + tenantQuery,
		"/a?":                                    "/a?" + tenantQuery,
		"/a?%74enant=evil&d%65bug=2&debug=3&q":   "/a?" + tenantQuery + "&q",
		"/a?b=1&&%61=;tenant=&a=2&c==#&tenant=x": "/a?" + tenantQuery + "&b=1&%61=;tenant=&a=2&c==#",
	} {
		a := g.Check(t.Context(), get(sent))
		if got := written(a); !a.Allow || got != want || len(a.SetQuery)+len(a.RemoveQuery) > 0 {
			t.Errorf("%s: goes on as %q, want %q", sent, got, want)
		}
	}
	for value, here := range map[string]bool{`"acme"`: false, `"a-b.c_d1"`: false, `"*"`: true, `""`: false, `"~"`: true, `"a b"`: true, `["a", "b"]`: true, `"ü"`: true, `"a/b"`: true} {
		a := open(t, settings(), compile(t, `package envoy.authz
allow := {"allowed": true, "query_parameters_to_set": {"tenant": `+value+`}}`)).Check(t.Context(), get("/"))
		if !a.Allow || (written(a) != "") != here {
			t.Errorf("%s: %q", value, a.Set)
		}
	}
	b, err := bundle.Read("test", fstest.MapFS{"policy.rego": {Data: []byte(`package envoy.authz
allow := {"allowed": true, "headers": {":path": "/b?%74enant=own&c=1"}, "query_parameters_to_set": {"tenant": "a b"}}`)}}, bundle.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(t.Context(), policy.Config{Decision: "envoy/authz/allow", AllowHeaders: []string{":path"}}, []*bundle.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	a = open(t, settings(), p).Check(t.Context(), get("/a?x=1"))
	if got := written(a); !a.Allow || got != "/b?tenant=a%20b&c=1" {
		t.Errorf("beside a path of the policy's own: %s, goes on as %q", a.Reason, got)
	}

	var many strings.Builder // names in very many spellings, as no honest client has them
	for i := range 32 {
		for bit, c := range "debug" {
			if i>>bit&1 == 1 {
				fmt.Fprintf(&many, "%%%02x", c)
			} else {
				many.WriteRune(c)
			}
		}
		many.WriteByte('&')
	}
	raw := many.String() + "a+b&%61+b&a+%62&%61+%62&a%20b&%61%20b&a%20%62&%61%20%62&tenant&rest"
	for rego, want := range map[string]string{plainPolicy: "tenant=acme&rest", tenantPolicy: tenantQuery + "&rest"} {
		a := open(t, settings(), compile(t, rego)).Check(t.Context(), get("/?"+raw))
		if got := forwarded(raw, a); !a.Allow || got != want || len(a.RemoveQuery) > 40 {
			t.Errorf("%d names are removed, %q goes on, want %q", len(a.RemoveQuery), got, want)
		}
	}
}

// In compat mode policies escape: escapes stay, and still nothing ends a parameter.
func TestQueryMutationsInCompat(t *testing.T) {
	s := settings()
	s.Paths.Compat = true
	g := open(t, s, compile(t, `package envoy.authz
allow := {"allowed": true, "query_parameters_to_set": {"tenant": ["Acme%20Ltd", "a&debug=1"]}, "query_parameters_to_remove": ["debug"]}`))
	a := g.Check(t.Context(), get("/?%74enant=evil&d%65bug=2"))
	if got := forwarded("%74enant=evil&d%65bug=2", a); got != "tenant=a%26debug%3D1" {
		t.Errorf("Envoy sends on %q", got)
	}
	if len(a.SetQuery) != 2 || a.SetQuery[0].Value != "Acme%20Ltd" {
		t.Errorf("sets %q", a.SetQuery)
	}
	if a := g.Check(t.Context(), get("/?a=%zz")); a.Allow {
		t.Error("compat lets a query through that opa-envoy-plugin refuses")
	}
}

// What frameworks read differently is refused where the rule looks at it, and data where it does not.
func TestQueryThatIsNotUTF8(t *testing.T) {
	for rego, want := range map[string]map[string]bool{
		`allow := true`: {"/?q=%E9": true, "/?tenant=%E9": true},
		`allow := {"allowed": true, "headers": {"x-tenant": input.parsed_query.tenant[0]}} if input.parsed_query.tenant`: {
			"/?tenant=a&q=%E9": true, "/?tenant=%E9": false, "/?tenant=a&tenant=%FF": false, "/?tenant=%C3%A9": true, "/?tenant=100%&a;b": true},
		`allow := count(input.parsed_query) > 0`: {"/?q=%E9": false, "/?%E9": false, "/?q=%C3%A9": true},
	} {
		for _, mode := range []string{"", "allowed", "compat"} {
			s := settings()
			switch mode {
			case "allowed":
				s.Paths.Allow = routes.InvalidUTF8
			case "compat":
				s.Paths.Compat = true
			}
			g := open(t, s, compile(t, "package envoy.authz\ndefault allow := false\n"+rego))
			for path, allowed := range want {
				if mode == "compat" && strings.ContainsAny(path, ";") {
					continue
				}
				a := g.Check(t.Context(), get(path))
				if a.Allow != (allowed || mode != "") || !a.Allow && a.Reason != gate.BadRequest {
					t.Errorf("%s, %s, %q: allow %v, %s", rego, path, mode, a.Allow, a.Reason)
				}
			}
		}
	}
}

// A removed header is removed in every spelling that an application may read as its name. Headers that are set stay.
func TestRemovedHeadersInEverySpelling(t *testing.T) {
	sent := []string{"x-debug", "x_debug", "x.debug", "x-debug-2", "x_auth_subject", "x-other"}
	var lines []string
	for _, name := range sent {
		lines = append(lines, name, "client")
	}
	for rego, want := range map[string][]string{
		`{"request_headers_to_remove": ["x-debug"]}`:                                          {"x-debug-2", "x-other"},
		`{"request_headers_to_remove": ["X-Debug"]}`:                                          {"x-debug-2", "x-other"},
		`{"request_headers_to_remove": ["X_Debug"]}`:                                          {"x-debug-2", "x-other"},
		`{"request_headers_to_remove": ["x_debug"], "headers": {"x-debug": "ours"}}`:          {"x-debug", "x-debug-2", "x-other"},
		`{"headers": {"x_debug": "ours"}}`:                                                    {"x-debug-2", "x-other", "x_debug"},
		`{"headers": {"X-Debug": "ours"}}`:                                                    {"x-debug", "x-debug-2", "x-other"},
		`{"request_headers_to_remove": ["x-other"]}`:                                          {"x-debug", "x-debug-2", "x.debug", "x_debug"},
		`{"request_headers_to_remove": ["x.other"], "headers": {"x-debug": ["ours", "two"]}}`: {"x-debug", "x-debug-2"},
	} {
		g := open(t, settings(), compile(t, `package envoy.authz
allow := object.union({"allowed": true}, `+rego+`)`))
		req := get("/", lines...)
		a := g.Check(t.Context(), req)
		arrived := map[string]bool{}
		for _, h := range req.Headers {
			arrived[h.Name] = true
		}
		for _, h := range a.Set {
			arrived[strings.ToLower(h.Name)] = true
		}
		for _, name := range a.Remove {
			delete(arrived, strings.ToLower(name))
		}
		maps.DeleteFunc(arrived, func(name string, _ bool) bool { return strings.HasPrefix(name, ":") })
		if got := slices.Sorted(maps.Keys(arrived)); !a.Allow || !slices.Equal(got, want) {
			t.Errorf("%s: %q arrive, want %q", rego, got, want)
		}
	}
}

// Other spellings of credential headers are removed, so that no application reads a credential that was not verified.
func TestLookalikesOfCredentialHeaders(t *testing.T) {
	for _, remove := range []bool{false, true} {
		s := withPlaces(t)
		s.Headers, s.DryRun = gate.IdentityHeaders{RemoveCredential: remove}, true
		g := open(t, s, compile(t, allowAll))
		req := get("/", "x_token", "forged", "x.token", "forged", "x-token-2", "kept", "xtoken", "kept", "authorization_", "kept")
		a := g.Check(t.Context(), req)
		slices.Sort(a.Remove)
		if !a.Allow || !slices.Equal(a.Remove, []string{"x.token", "x_token"}) {
			t.Errorf("removes %q", a.Remove)
		}
		req.FixedHeaders = true
		if a := g.Check(t.Context(), req); a.Allow || a.Reason != gate.BadRequest {
			t.Errorf("a proxy that cannot take them off: allow %v, %s", a.Allow, a.Reason)
		}
	}
}

// remove_credential covers cookie chunks and the token among a WebSocket's protocols; the other values stay.
func TestRemoveCredentialElsewhere(t *testing.T) {
	const removed = "-"
	s := withPlaces(t)
	config := identity.Config{Issuers: []identity.Issuer{{Issuer: "https://login.example.com", Audiences: []string{"orders"},
		Keys: identity.KeySource{File: keyFileOf(t)}, From: []identity.TokenSource{{Cookie: "sid", Chunked: true}, {WebsocketProtocol: "Bearer"}}}}}
	v, err := identity.New(config)
	if err != nil {
		t.Fatal(err)
	}
	s.Verifier, s.DryRun = v, true
	g := open(t, s, compile(t, allowAll))
	for _, tt := range []struct{ name, sent, want string }{
		{"cookie", `a="1 2";  sid_0=x;b=ü; sid_1=y;c=!; sid_10=z;  sid_a=1;sid=w;d `, `a="1 2";b=ü;c=!;  sid_a=1;d `},
		{"cookie", "sid_0=x; sid_1=y", removed},
		{"cookie", "a=1; sid =x; sid\t=y;  b=2", "a=1;  b=2"},
		{"sec-websocket-protocol", "bearer, TOKEN", "bearer"},
		{"sec-websocket-protocol", "graphql-ws, BEARER,TOKEN, other", "graphql-ws, BEARER, other"},
		{"sec-websocket-protocol", "bearer, ,,TOKEN, a", "bearer, a"},
		{"sec-websocket-protocol", "graphql-ws", "graphql-ws"},
	} {
		req := get("/", tt.name, tt.sent)
		a := g.Check(t.Context(), req)
		got := sees(req, a)[tt.name]
		if !a.Allow || tt.want == removed && got != nil || tt.want != removed && !slices.Equal(got, []string{tt.want}) {
			t.Errorf("%q: the application sees %q, want %q", tt.sent, got, tt.want)
		}
	}
}

// Answers without content have no content headers, whatever made them; a policy may choose an empty body.
func TestDenialsWithoutContent(t *testing.T) {
	for rego, want := range map[string]struct {
		status int
		body   string
		typ    bool
	}{
		`{"http_status": 204}`: {204, "", false},
		`{"http_status": 204, "body": "x", "headers": {"Content-Type": "text/plain", "x-a": "b"}}`: {204, "", false},
		`{"http_status": 205, "reason": "x"}`:                                                      {205, "", false},
		`{"http_status": 304, "headers": {"etag": "1"}}`:                                           {304, "", false},
		`{"body": ""}`:                                                   {403, "", false},
		`{"body": "", "http_status": 429}`:                               {429, "", false},
		`{"body": "", "headers": {"content-type": "text/x"}}`:            {403, "", true},
		`{"body": "", "reason": "not shown"}`:                            {403, "", false},
		`{"body": "closed"}`:                                             {403, "closed", false},
		`{"http_status": 200, "headers": {"content-type": "text/html"}}`: {200, "*", true},
		`{}`: {403, "*", true},
	} {
		g := open(t, settings(), compile(t, `package envoy.authz
allow := object.union({"allowed": false}, `+rego+`)`))
		for _, accept := range []string{"*/*", "text/html", "application/json"} {
			for range 2 { // the second time it is remembered
				a := g.Check(t.Context(), get("/", "accept", accept))
				typed := slices.ContainsFunc(a.Set, func(h gate.HeaderOption) bool { return strings.EqualFold(h.Name, "content-type") })
				if a.Allow || a.Status != want.status || a.Body != want.body && want.body != "*" || want.body == "*" && a.Body == "" || typed != want.typ {
					t.Errorf("%s: %d %q %v", rego, a.Status, a.Body, a.Set)
				}
				if !slices.ContainsFunc(a.Set, func(h gate.HeaderOption) bool { return http.CanonicalHeaderKey(h.Name) == "X-Decision-Id" }) {
					t.Errorf("%s: no decision id", rego)
				}
			}
		}
	}
}
