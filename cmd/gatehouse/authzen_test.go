package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
)

const authzenHeader = `
listen: {grpc: ["$GRPC"], admin: "$ADMIN", directory: {http: ["$AUTHZEN"], tls: {cert: tls.crt, key: tls.key}, keys: keys.yaml}}
directory: {file: directory.yaml}
policy: {bundles: [{path: policy}]}
decision_log: {file: decisions.log}
`

// TestAuthZEN asks a process by its AuthZEN API, over TLS, with a key and without.
func TestAuthZEN(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	p := newProcess(t, strings.Replace(authzenHeader, "$AUTHZEN", address, 1))
	if err := os.MkdirAll(p.path("policy"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, p.path("policy/policy.rego"), "package envoy.authz\nallow := true\n")
	write(t, p.path("directory.yaml"), "objects: [user:alice, resource:7]\nrelations: [\"resource:7#reader@user:alice\"]\n")
	ca := newAuthority(t)
	cert, key := ca.issue(t, "localhost")
	write(t, p.path("tls.crt"), cert)
	write(t, p.path("tls.key"), key)
	client := newClientKey(t, "app")
	write(t, p.path("keys.yaml"), string(client.YAML()))
	p.ready()

	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool(), MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	base := "https://localhost:" + address[strings.LastIndex(address, ":")+1:]
	ask := func(method, path, key, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("content-type", "application/json")
		if key != "" {
			r.Header.Set("authorization", key)
		}
		resp, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil {
			t.Fatalf("%v\n%s", err, p.stderr.String())
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	question := func(user string) string {
		return `{"subject":{"type":"user","id":"` + user + `"},"action":{"name":"can_read"},"resource":{"type":"resource","id":"7"}}`
	}
	const evaluation = "/access/v1/evaluation"
	for _, test := range []struct {
		method, path, key, body string
		status                  int
		want                    string
	}{
		{"POST", evaluation, "Bearer " + client.Reveal(), question("alice"), 200, `{"decision":true}`},
		{"POST", evaluation, "basic " + client.Reveal(), question("bob"), 200, `{"decision":false}`},
		{"POST", evaluation, "Bearer " + client.Reveal() + "x", question("alice"), 401, "the key is not known, or not valid now"},
		{"POST", evaluation, "", question("alice"), 401, "give one key: authorization: Bearer KEY"},
		{"GET", "/.well-known/authzen-configuration", "", "", 200, `{"access_evaluation_endpoint":"` + base + evaluation},
	} {
		if status, got := ask(test.method, test.path, test.key, test.body); status != test.status || !strings.HasPrefix(got, test.want) {
			t.Errorf("%s %s: %d %s, want %d %s", test.method, test.path, status, got, test.status, test.want)
		}
	}
	logged, err := os.ReadFile(p.path("decisions.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(logged), `"path":"directory","requested_by"`); n != 2 || !strings.Contains(string(logged), `"principal":"key/app"`) {
		t.Errorf("%d decisions are on record, want 2:\n%s", n, logged)
	}
}
