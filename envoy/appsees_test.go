package envoy_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/envoy/sandbox"
	"gatehouse/identity"
)

// everything is all that an application can be told, and a credential looked for in every kind of place.
const everything = `      from: [{header: authorization, scheme: Bearer}, {header: x-token}, {cookie: sid}, {query: access_token}]
headers:
  groups: x-auth-groups
  scopes: x-auth-scopes
  email: x-auth-email
  json: x-auth-identity
  jwt: {name: x-auth-token, audience: echo}
  remove_credential: true
`

// TestWhatTheApplicationSees has a real Envoy, which strips nothing, take each credential off, and each forged header with it.
func TestWhatTheApplicationSees(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(echoApp(t))); err != nil {
		t.Fatal(err)
	}
	published := at(freePort(t))
	amend(t, filepath.Join(dir, "app.py"), "dict(request.headers)", "dict(request.headers, Query=request.query_string.decode())")
	amend(t, filepath.Join(dir, "gatehouse.yaml"), "headers:\n", everything, "  grpc:", "  jwks: \""+published+"\"\n  grpc:")
	s := start(t, sandbox.Config{App: dir})
	names := []string{"X-Auth-Subject", "X-Auth-Roles", "X-Auth-Groups", "X-Auth-Scopes", "X-Auth-Email", "X-Auth-Identity", "X-Auth-Token"}
	forged := func() http.Header {
		h := http.Header{}
		for _, name := range names {
			h[name], h[strings.ReplaceAll(name, "-", "_")] = []string{"forged"}, []string{"forged"}
		}
		return h
	}

	got := seen(t, s, sandbox.Call{Path: "/?a=1", Header: with(forged(), "Authorization", "Basic eA==", "Cookie", "a=1; b=2")})
	for _, name := range names {
		if got[name] != "" {
			t.Errorf("anonymous: the app sees %s: %s", name, got[name])
		}
	}
	if got["Authorization"] != "Basic eA==" || got["Cookie"] != "a=1; b=2" || got["Query"] != "a=1" {
		t.Errorf("anonymous: the app sees %v", got)
	}

	token := s.Token("vera", "viewer", "a,b")
	for name, call := range map[string]sandbox.Call{
		"scheme": {Path: "/?a=1", Header: with(forged(), "Authorization", "Bearer "+token, "Cookie", "a=1; b=2")},
		"header": {Path: "/?a=1", Header: with(forged(), "X-Token", token, "Cookie", "a=1; b=2")},
		"cookie": {Path: "/?a=1", Header: with(forged(), "Cookie", "a=1; sid="+token+"; b=2")},
		"query":  {Path: "/?a=1&access_token=" + token, Header: with(forged(), "Cookie", "a=1; b=2")},
	} {
		got := seen(t, s, call)
		document := `{"sub":"vera","iss":"` + sandbox.Issuer + `","type":"IDENTITY_TYPE_JWT","roles":["viewer","a,b"],"groups":[],"scopes":[]}`
		want := map[string]string{"X-Auth-Subject": "vera", "X-Auth-Roles": "viewer,a%2Cb", "X-Auth-Groups": "", "X-Auth-Scopes": "", "X-Auth-Email": "",
			"X-Auth-Identity": base64.StdEncoding.EncodeToString([]byte(document)), "Authorization": "", "X-Token": "", "Cookie": "a=1; b=2", "Query": "a=1"}
		for header, value := range want {
			if got[header] != value {
				t.Errorf("%s: the app sees %s: %q, want %q", name, header, got[header], value)
			}
		}
		for header, value := range got {
			if strings.Contains(value, token) || strings.Contains(value, "forged") {
				t.Errorf("%s: the app sees %s: %.40s", name, header, value)
			}
		}
		if err := verifies(t, published, got["X-Auth-Token"]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// with adds headers, given as name, value, ...
func with(h http.Header, pairs ...string) http.Header {
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

// verifies is the application's side of headers.jwt.
func verifies(t *testing.T, published, token string) error {
	t.Helper()
	v, err := identity.New(identity.Config{Issuers: []identity.Issuer{{Issuer: "gatehouse", Audiences: []string{"echo"},
		Keys: identity.KeySource{URL: "http://" + published + "/.well-known/jwks.json"}}}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := v.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id, err := v.Identify(t.Context(), keys, v.RequestWith(token))
	if err == nil && (id.Subject != "vera" || strings.Join(id.Roles, " ") != "viewer a,b") {
		return fmt.Errorf("it is about %q with %q", id.Subject, id.Roles)
	}
	return err
}
