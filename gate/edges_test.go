package gate_test

import (
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/query"
	"gatehouse/routes"
)

// forwarded is the query that Envoy sends on: it sets and then removes names as they were sent, and writes them in their order.
// envoy/edges_test.go holds the real one against it.
func forwarded(raw string, a gate.Answer) string {
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
	g := open(t, settings(), compile(t, tenantPolicy))
	r := rand.New(rand.NewPCG(7, 8))
	refused := 0
	for range 20_000 {
		var b strings.Builder
		for range 1 + r.IntN(12) {
			b.WriteString(spellings[r.IntN(len(spellings))])
		}
		raw := b.String()
		a := g.Check(t.Context(), get("/?"+raw))
		if !a.Allow {
			refused++
			if a.Reason != gate.BadRequest {
				t.Fatalf("%q: %s", raw, a.Reason)
			}
			continue
		}
		got, err := query.Parse(forwarded(raw, a))
		if err != nil {
			t.Fatal(err)
		}
		want, _ := query.Parse(raw)
		if want.Values == nil {
			want.Values = map[string][]string{}
		}
		want.Values["tenant"], want.Values["last name"], want.Values["tag"] = []string{"Acme&debug=1"}, []string{"Jürgen"}, []string{"a+b", "100%"}
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
	if refused == 0 || refused > 5_000 {
		t.Errorf("%d requests refused", refused)
	}
}

func TestQueryMutations(t *testing.T) {
	g := open(t, settings(), compile(t, tenantPolicy))
	a := g.Check(t.Context(), get("/?%74enant=evil&d%65bug=2&debug=3"))
	var set []string
	for _, p := range a.SetQuery {
		set = append(set, p.Name+"="+p.Value)
	}
	if want := []string{"last%20name=J%C3%BCrgen", "tag=a%2Bb&tag=100%25", "tenant=Acme%26debug%3D1"}; !slices.Equal(set, want) {
		t.Errorf("sets %q, want %q", set, want)
	}
	slices.Sort(a.RemoveQuery)
	if want := []string{"%74enant", "a%20b", "d%65bug", "debug"}; !slices.Equal(a.RemoveQuery, want) {
		t.Errorf("removes %q, want %q", a.RemoveQuery, want)
	}

	var many strings.Builder // one name in very many spellings is no honest request
	for i := range 64 {
		for bit, c := range "debug1" {
			if i>>bit&1 == 1 {
				many.WriteString("%" + string("0123456789abcdef"[c>>4]) + string("0123456789abcdef"[c&15]))
			} else {
				many.WriteRune(c)
			}
		}
		many.WriteByte('&')
	}
	if a := g.Check(t.Context(), get("/?"+strings.ReplaceAll(many.String(), "1", ""))); a.Allow && len(a.RemoveQuery) > 40 {
		t.Errorf("%d names are removed", len(a.RemoveQuery))
	}
}

// Where policies escape by themselves, as for opa-envoy-plugin, escapes stay, and still nothing ends a parameter.
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

// A header that the policy removes goes in every spelling that an application may take for it. What is set stays.
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

// What looks like a header that holds credentials is taken off, so that no application reads another credential than was verified.
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

// Chunks of a cookie and the token among a WebSocket's protocols go with remove_credential; what is beside them stays as it was.
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

// Answers that have no content say nothing of one, whatever made them; and a policy may want an empty body.
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
