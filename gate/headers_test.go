package gate_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/identity/mint"
)

// everyHeader names every identity header, so that a forgery of each can be tried.
func everyHeader(t testing.TB) gate.IdentityHeaders {
	t.Helper()
	m, err := mint.New(mint.Config{})
	if err == nil {
		err = m.Load()
	}
	if err != nil {
		t.Fatal(err)
	}
	return gate.IdentityHeaders{Subject: "x-auth-subject", Roles: "x-auth-roles", Groups: "x-auth-groups", Scopes: "x-auth-scopes",
		Email: "x-auth-email", JSON: "x-auth-identity", Token: "x-auth-token", Minter: m, Audience: "orders"}
}

func vera() *identity.Identity {
	return &identity.Identity{Type: identity.TypeJWT, Identity: "vera", Subject: "vera", Issuer: "https://login.example.com", Roles: []string{"viewer", "a,b"},
		Groups: []string{"north"}, Scopes: []string{"orders:read", "orders:write"}, Email: "vera@example.com", Authenticated: true,
		Expires: time.Now().Add(time.Hour)}
}

// sees is what the application gets of a request that was let through, as a server that folds spellings reads it: Envoy sets,
// then removes.
func sees(req *gate.Request, a gate.Answer) map[string][]string {
	got := map[string][]string{}
	fold := func(name string) string { return strings.ReplaceAll(strings.ToLower(name), "_", "-") }
	spelled := map[string][]string{}
	for _, h := range req.Headers {
		spelled[h.Name] = append(spelled[h.Name], h.Value)
	}
	for _, h := range a.Set {
		spelled[h.Name] = []string{h.Value}
	}
	for _, name := range a.Remove {
		delete(spelled, name)
	}
	for name, values := range spelled {
		got[fold(name)] = append(got[fold(name)], values...)
	}
	return got
}

// TestEveryIdentityHeader holds, for each header that can be configured, that the application sees the verified caller's value
// or nothing, whatever the client sent, also in compat mode and where dry run lets a denial through.
func TestEveryIdentityHeader(t *testing.T) {
	names := everyHeader(t)
	for mode, change := range map[string]func(*gate.Settings){
		"as is":   func(*gate.Settings) {},
		"compat":  func(s *gate.Settings) { s.Paths.Compat = true },
		"dry run": func(s *gate.Settings) { s.DryRun = true },
		"bypass":  func(s *gate.Settings) { s.Bypass = []gate.Bypass{{Method: "GET", Path: "/"}} },
	} {
		s := settings()
		s.Headers = names
		change(s)
		rego := allowAll
		if s.DryRun {
			rego = "package envoy.authz\nallow := false"
		}
		g := open(t, s, compile(t, rego))
		for who, id := range map[string]*identity.Identity{"vera": vera(), "anonymous": nil} {
			var forged []string
			for _, name := range names.Names() {
				forged = append(forged, name, "forged", strings.ReplaceAll(name, "-", "_"), "forged", strings.Replace(name, "-", "_", 1), "forged")
			}
			req := get("/", forged...)
			if req.As = id; id == nil {
				req.As = &identity.Identity{Type: identity.TypeNone}
			}
			answer := g.Check(t.Context(), req)
			if !answer.Allow {
				t.Fatalf("%s, %s: denied: %s", mode, who, answer.Reason)
			}
			got := sees(req, answer)
			if id == nil || mode == "bypass" {
				for _, name := range names.Names() {
					if got[name] != nil {
						t.Errorf("%s, %s: %s is %q", mode, who, name, got[name])
					}
				}
				continue
			}
			for name, want := range map[string]string{"x-auth-subject": "vera", "x-auth-roles": "viewer,a%2Cb", "x-auth-groups": "north",
				"x-auth-scopes": "orders:read,orders:write", "x-auth-email": "vera@example.com"} {
				if !slices.Equal(got[name], []string{want}) {
					t.Errorf("%s: %s is %q, want %q", mode, name, got[name], want)
				}
			}
			wantJSON(t, mode, got["x-auth-identity"])
			if token := got["x-auth-token"]; len(token) != 1 || strings.Count(token[0], ".") != 2 {
				t.Errorf("%s: the token is %q", mode, token)
			}
		}
	}
}

func wantJSON(t *testing.T, mode string, values []string) {
	t.Helper()
	var raw []byte
	var err error
	if len(values) == 1 {
		raw, err = base64.StdEncoding.DecodeString(values[0])
	}
	const want = `{"sub":"vera","iss":"https://login.example.com","type":"IDENTITY_TYPE_JWT","roles":["viewer","a,b"],"groups":["north"],` +
		`"scopes":["orders:read","orders:write"],"email":"vera@example.com"}`
	if err != nil || string(raw) != want {
		t.Errorf("%s: the JSON header is %q (%v): %s", mode, values, err, raw)
	}
}

// TestIdentityTooLarge denies a caller whom the header cannot hold: half of somebody's roles would be somebody else's.
func TestIdentityTooLarge(t *testing.T) {
	for name, drop := range map[string]func(*gate.IdentityHeaders){
		"json":  func(h *gate.IdentityHeaders) { h.Token = "" },
		"token": func(h *gate.IdentityHeaders) { h.JSON = "" },
	} {
		s := settings()
		s.Headers = everyHeader(t)
		drop(&s.Headers)
		req := get("/")
		req.As = vera()
		req.As.Groups = []string{strings.Repeat("g", 7000)}
		if answer := open(t, s, compile(t, allowAll)).Check(t.Context(), req); answer.Allow || answer.Reason != gate.BadCredential {
			t.Errorf("%s: allow %v, reason %q", name, answer.Allow, answer.Reason)
		}
	}
}

// keyFileOf is a file with a new public key in PEM.
func keyFileOf(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keys.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// withPlaces are settings that look for credentials in each kind of place, and take them off.
func withPlaces(t testing.TB) *gate.Settings {
	t.Helper()
	v, err := identity.New(identity.Config{Issuers: []identity.Issuer{{Issuer: "https://login.example.com", Audiences: []string{"orders"},
		Keys: identity.KeySource{File: keyFileOf(t)},
		From: []identity.TokenSource{{Header: "Authorization", Scheme: "Bearer"}, {Header: "x-token"}, {Cookie: "sid"}, {Query: "access_token"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	s := settings()
	s.Verifier, s.Headers.RemoveCredential = v, true
	return s
}

// TestRemoveCredential: the credential is removed, everything else is unchanged.
func TestRemoveCredential(t *testing.T) {
	removed := "-"
	s := withPlaces(t)
	s.DryRun = true // most of these are bad credentials, and the application must not see those either
	g := open(t, s, compile(t, allowAll))
	for _, tt := range []struct {
		sent []string // header, value, ...
		name string
		want string // of the header that the application sees; "-": none
	}{
		{[]string{"authorization", "Bearer x"}, "authorization", removed},
		{[]string{"authorization", "bEARER x"}, "authorization", removed},
		{[]string{"authorization", "Bearer"}, "authorization", removed},
		{[]string{"authorization", "Basic eA=="}, "authorization", "Basic eA=="},
		{[]string{"authorization", "Basic eA==, Bearer x"}, "authorization", removed},
		{[]string{"authorization", "Basic eA==", "authorization", "Bearer x"}, "authorization", removed},
		{[]string{"x-token", "x"}, "x-token", removed},
		{[]string{"x-token", ""}, "x-token", ""},
		{[]string{"cookie", "sid=x"}, "cookie", removed},
		{[]string{"cookie", "a=1; sid=x"}, "cookie", "a=1"},
		{[]string{"cookie", "sid=x; a=1"}, "cookie", "a=1"},
		{[]string{"cookie", `a="1 2";  b=%3B;sid=x ;c==;d; sid=y`}, "cookie", `a="1 2";  b=%3B;c==;d`},
		{[]string{"cookie", "a=1;sid =x"}, "cookie", "a=1"},
		{[]string{"cookie", "xsid=1; sid2=2; Sid=3; a=sid=4"}, "cookie", "xsid=1; sid2=2; Sid=3; a=sid=4"},
		{[]string{"cookie", "a=1", "cookie", "sid=x; b=2"}, "cookie", "a=1; b=2"},
		{[]string{"cookie", "a=1"}, "cookie", "a=1"},
	} {
		for _, fixed := range []bool{false, true} {
			req := get("/", tt.sent...)
			req.FixedHeaders = fixed
			answer := g.Check(t.Context(), req)
			if !answer.Allow {
				t.Fatalf("%q: %s", tt.sent, answer.Reason)
			}
			got := sees(req, answer)[tt.name]
			if want := tt.want; want == removed && got != nil || want != removed && !slices.Equal(got, []string{want}) {
				t.Errorf("%q, fixed %v: the application sees %q, want %q", tt.sent, fixed, got, want)
			}
			said := slices.ContainsFunc(answer.Set, func(h gate.HeaderOption) bool { return h.Name == tt.name })
			if fixed && tt.want != removed && !said {
				t.Errorf("%q: a proxy that sends on what is answered would take it off", tt.sent)
			}
		}
	}
}

// TestRemoveCredentialFromQuery: the parameter is removed, or the request denied where the proxy cannot remove it.
func TestRemoveCredentialFromQuery(t *testing.T) {
	s := withPlaces(t)
	s.DryRun = true
	g := open(t, s, compile(t, allowAll))
	for path, want := range map[string]int{"/?access_token=x": 1, "/?a=1&access%5Ftoken=x&access_token=y": 2, "/?a=1": 0, "/": 0, "/?access_token": 1,
		"/..?access_token=x": 1, "/?%61ccess_token=x&b=a;access_token=y": 2, "/?access%255ftoken=x&access_token[]=y&Access_token=z": 0} {
		for _, fixed := range []bool{false, true} {
			req := get(path)
			req.FixedQuery = fixed
			a := g.Check(t.Context(), req)
			switch denied := fixed && want > 0; {
			case denied != !a.Allow, denied && a.Reason != gate.BadRequest:
				t.Errorf("%s, fixed %v: allow %v, %s", path, fixed, a.Allow, a.Reason)
			case !denied && len(a.RemoveQuery) != want:
				t.Errorf("%s: removes %q", path, a.RemoveQuery)
			}
		}
	}
	s = withPlaces(t)
	setting := open(t, s, compile(t, `package envoy.authz
allow := {"allowed": true, "query_parameters_to_set": {"access_token": "ours"}}`))
	if a := setting.Check(t.Context(), get("/?access_token=")); !a.Allow || len(a.RemoveQuery) != 0 {
		t.Errorf("allow %v, %q is removed, which the policy has set", a.Allow, a.RemoveQuery)
	}
}

// TestRemoveCredentialIsOff: without the setting nothing is removed, and a header set by the policy always stays.
func TestRemoveCredentialIsOff(t *testing.T) {
	sent := []string{"x-token", "", "authorization", "Basic eA==", "cookie", "a=1"}
	s := withPlaces(t)
	s.Headers.RemoveCredential = false
	s.DryRun = true
	req := get("/", append(sent[2:], "authorization", "Bearer x", "cookie", "sid=x")...)
	if a := open(t, s, compile(t, allowAll)).Check(t.Context(), req); !a.Allow || slices.Contains(a.Remove, "authorization") || slices.Contains(a.Remove, "cookie") {
		t.Errorf("allow %v, removes %v", a.Allow, a.Remove)
	}
	s = withPlaces(t)
	g := open(t, s, compile(t, `package envoy.authz
allow := {"allowed": true, "headers": {"Authorization": "Basic ours"}}`))
	req = get("/", sent...)
	req.Headers[1].Value, req.As = "Bearer x", vera()
	a := g.Check(t.Context(), req)
	if got := sees(req, a); !a.Allow || slices.Contains(a.Remove, "authorization") || fmt.Sprint(got["cookie"]) != "[a=1]" {
		t.Errorf("allow %v, removes %v, sees %v", a.Allow, a.Remove, got)
	}
}

// TestHeadersSayWhatIsWrong refuses names that could not be trusted.
func TestHeadersSayWhatIsWrong(t *testing.T) {
	for want, change := range map[string]func(*gate.IdentityHeaders){
		"Headers.Groups":                        func(h *gate.IdentityHeaders) { h.Groups = "X-Groups" },
		"Subject and JSON are both":             func(h *gate.IdentityHeaders) { h.JSON = h.Subject },
		"Headers.Audience":                      func(h *gate.IdentityHeaders) { h.Token = "x-auth-token" },
		`Headers.Email: "authorization" is whe`: func(h *gate.IdentityHeaders) { h.Email = "authorization" },
		`Headers.Scopes: "x-token" is whe`:      func(h *gate.IdentityHeaders) { h.Scopes = "x-token" },
		`Headers.JSON: "cookie" is whe`:         func(h *gate.IdentityHeaders) { h.JSON = "cookie" },
	} {
		s := withPlaces(t)
		change(&s.Headers)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %s", err, want)
		}
	}
}

// BenchmarkIdentityHeaders is a complete decision with each kind of identity header, to compare with subject and roles.
func BenchmarkIdentityHeaders(b *testing.B) {
	all := everyHeader(b)
	two := gate.IdentityHeaders{Subject: all.Subject, Roles: all.Roles}
	for _, c := range []struct {
		name  string
		names gate.IdentityHeaders
	}{
		{"none", gate.IdentityHeaders{}},
		{"subject and roles", two},
		{"five", gate.IdentityHeaders{Subject: all.Subject, Roles: all.Roles, Groups: all.Groups, Scopes: all.Scopes, Email: all.Email}},
		{"json", gate.IdentityHeaders{JSON: all.JSON}},
		{"token", gate.IdentityHeaders{Token: all.Token, Minter: all.Minter, Audience: all.Audience}},
		{"all", all},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := settings()
			s.Headers = c.names
			g := open(b, s, compile(b, allowAll))
			req := get("/orders/17", "accept", "*/*", "user-agent", "x")
			req.As = vera()
			b.ReportAllocs()
			for b.Loop() {
				if answer := g.Check(b.Context(), req); !answer.Allow {
					b.Fatal(answer.Reason)
				}
			}
		})
	}
}
