package mint_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/identity"
	"gatehouse/identity/mint"
)

func openIssuer(t testing.TB, dir string) *mint.LocalIssuer {
	t.Helper()
	l, err := mint.OpenLocalIssuer(dir, mint.LocalIssuerName)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestLocalIssuer makes tokens that a configuration with its key set takes, with the same key each time.
func TestLocalIssuer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "issuer")
	first := openIssuer(t, dir)
	if !first.Made() {
		t.Error("a new key pair is not told")
	}
	token, err := first.Mint("at+jwt", object{"sub": "u1", "aud": "orders", "roles": []string{"admin"}}, noon, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	second := openIssuer(t, dir)
	v := newVerifier(t, identity.Config{Clock: frozen, Issuers: []identity.Issuer{{Issuer: mint.LocalIssuerName, Audiences: []string{"orders"},
		Type: "at+jwt", Keys: identity.KeySource{File: second.Set()}}}})
	id, err := v.Identify(context.Background(), load(t, v), identity.Request{Header: bearer(token).get})
	if err != nil || id.Subject != "u1" || strings.Join(id.Roles, " ") != "admin" || !id.Expires.Equal(noon.Add(time.Hour)) || second.Made() {
		t.Errorf("%v: %s %v until %s", err, id.Subject, id.Roles, id.Expires)
	}
	if info, err := os.Stat(filepath.Join(dir, "key.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	for name, try := range map[string]func() (string, error){
		"another issuer": func() (string, error) { return first.Mint("", object{"iss": issuerA}, noon, time.Hour) },
		"for ever":       func() (string, error) { return first.Mint("", object{}, noon, 1000*time.Hour) },
		"never":          func() (string, error) { return first.Mint("", object{}, noon, 0) },
	} {
		if token, err := try(); err == nil || token != "" {
			t.Errorf("%s: a token is made", name)
		}
	}
}

// TestLocalIssuerIsLocal makes no tokens in the name of anybody who may have real users, and touches nobody else's keys.
func TestLocalIssuerIsLocal(t *testing.T) {
	for name, ok := range map[string]bool{
		"http://localhost": true, "http://localhost:9000/realms/a": true, "http://127.0.0.1": true, "http://127.1.2.3:1": true, "http://[::1]:9/x": true,
		"": false, "localhost": false, "https://localhost": false, "https://login.example.com": false, "http://localhost.example.com": false,
		"http://localhost@example.com": false, "http://example.com/localhost": false, "http://10.0.0.1": false, "http://0.0.0.0": false,
		"http://LOCALHOST.": false, "http://127.0.0.1.example.com": false, "http://127.0.0.1#@a.example": false, "http:localhost": false,
		"http://localhost?a": false, "gatehouse": false, "//localhost": false, "ftp://localhost": false,
	} {
		if _, err := mint.OpenLocalIssuer(t.TempDir(), name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	foreign := t.TempDir()
	writeFile(t, filepath.Join(foreign, "jwks.json"), foreignKeys(t))
	if _, err := mint.OpenLocalIssuer(foreign, mint.LocalIssuerName); err == nil || !strings.Contains(err.Error(), "somebody else's") {
		t.Errorf("beside somebody's set: %v", err)
	}
	dir := t.TempDir()
	set := openIssuer(t, dir).Set()
	others := foreignKeys(t)
	writeFile(t, set, others)
	if _, err := mint.OpenLocalIssuer(dir, mint.LocalIssuerName); err == nil {
		t.Error("a set with other keys is taken for ours")
	}
	if text, err := os.ReadFile(set); err != nil || string(text) != others {
		t.Error("it was overwritten")
	}
}
