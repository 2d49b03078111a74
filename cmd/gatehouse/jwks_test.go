package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	pemfile "encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"gatehouse/identity"
)

func newSigningPEM(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pemfile.EncodeToMemory(&pemfile.Block{Type: "PRIVATE KEY", Bytes: der}))
}

const signedHeader = `
state_dir: state
listen: {grpc: ["$GRPC"], admin: "$ADMIN", jwks: "$JWKS"}
identity: {jwt: [{issuer: "https://login.example.com", audiences: [orders], keys: {file: keys.pem}, claims: {roles: "https://example.com/roles"}}]}
headers: {jwt: {name: x-auth-token, audience: orders, lifetime: 2s}, remove_credential: true}
policy: {bundles: [{path: policy}]}
`

// TestServeSignsTheCaller has the application verify who calls by the published keys, through a reload that changes the key and
// a restart.
func TestServeSignsTheCaller(t *testing.T) {
	t.Parallel()
	pem, private := keyPair(t)
	jwks := freeAddress(t)
	config := strings.Replace(signedHeader, "$JWKS", jwks, 1)
	p := newProcess(t, config)
	write(t, p.path("keys.pem"), pem)
	p.ready()
	bearer := "Bearer " + viewerToken(private)
	token := p.tokenFor(bearer)
	if err := verifiedBy(t, jwks, token); err != nil {
		t.Error(err)
	}
	eventually(t, "waiting for the key to be kept", func() error {
		info, err := os.Stat(p.path("state", "headers", "signing.pem"))
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Fatalf("the key is not kept for its owner alone: %v", info.Mode())
		}
		return err
	})
	if got := p.tokenFor(""); got != "" {
		t.Errorf("an anonymous caller has %q", got)
	}
	for path, want := range map[string]int{"/": 404, "/status": 404, "/.well-known/": 404} {
		if code, _ := fetch(t, "GET", "http://"+jwks+path); code != want {
			t.Errorf("%s: %d", path, code)
		}
	}
	if code, _ := fetch(t, "POST", "http://"+jwks+"/.well-known/jwks.json"); code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", code)
	}

	write(t, p.path("key.pem"), newSigningPEM(t))
	p.configure(strings.Replace(config, "lifetime: 2s", "lifetime: 2s, key_file: key.pem", 1))
	p.signal(syscall.SIGHUP)
	eventually(t, "waiting for both keys", func() error {
		if _, set := fetch(t, "GET", "http://"+jwks+"/.well-known/jwks.json"); strings.Count(set, `"kid"`) != 2 {
			return fmt.Errorf("the set is %s", set)
		}
		return nil
	})
	token = p.tokenFor(bearer)
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Fatalf("exit code %d", code)
	}

	next := &process{t: t, dir: p.dir, grpc: p.grpc, admin: p.admin, ended: make(chan struct{})}
	next.ready()
	if err := verifiedBy(t, jwks, token); err != nil {
		t.Errorf("a token from before the restart: %v", err)
	}
}

// tokenFor is what the application finds in x-auth-token, "" where a forged one is taken off and nothing put there.
func (p *process) tokenFor(authorization string) string {
	p.t.Helper()
	headers := map[string]string{"x-auth-token": "forged"}
	if authorization != "" {
		headers["authorization"] = authorization
	}
	resp, err := auth.NewAuthorizationClient(dial(p.t, p.grpc, nil)).Check(p.t.Context(), &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "GET", Path: "/", Host: "app", Scheme: "http", Headers: headers}}}})
	if err != nil || resp.GetOkResponse() == nil {
		p.t.Fatalf("%v %v", resp, err)
	}
	removed := strings.Join(resp.GetOkResponse().GetHeadersToRemove(), " ")
	if strings.Contains(removed, "authorization") != (authorization != "") {
		p.t.Errorf("of a caller with %t credential, %q is removed", authorization != "", removed)
	}
	for _, h := range resp.GetOkResponse().GetHeaders() {
		if h.Header.Key == "x-auth-token" {
			return h.Header.Value + string(h.Header.RawValue)
		}
	}
	if !strings.Contains(removed, "x-auth-token") {
		p.t.Errorf("a forged token stays: %q is removed", removed)
	}
	return ""
}

// verifiedBy does what an application does: verify by what is published.
func verifiedBy(t *testing.T, jwks, token string) error {
	t.Helper()
	v, err := identity.New(identity.Config{Issuers: []identity.Issuer{{Issuer: "gatehouse", Audiences: []string{"orders"},
		Keys: identity.KeySource{URL: "http://" + jwks + "/.well-known/jwks.json"}}}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := v.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id, err := v.Identify(t.Context(), keys, identity.Request{Header: func(name string) []string {
		if name == "authorization" {
			return []string{"Bearer " + token}
		}
		return nil
	}})
	if err == nil && (id.Subject != "alice" || strings.Join(id.Roles, " ") != "viewer" || id.Claims["original_issuer"] != "https://login.example.com") {
		return fmt.Errorf("%s %s %v", id.Subject, id.Roles, id.Claims)
	}
	return err
}

func fetch(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}
