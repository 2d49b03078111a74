package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/envoy/sandbox"
	"gatehouse/identity/apikey"
)

const clientsHeader = `
listen: {grpc: ["$GRPC"], admin: "$ADMIN", directory: {grpc: ["$DIRECTORY"], tls: {cert: tls.crt, key: tls.key}, keys: keys.yaml}}
directory: {file: directory, user: {by: id}}
policy: {bundles: [{path: policy}]}
decision_log: {file: decisions.log}
`

// TestAsertoClients has Aserto's own Python packages ask, unmodified: the Flask example with its decorator and its display state map,
// and the directory's client.
func TestAsertoClients(t *testing.T) {
	if testing.Short() {
		t.Skip("needs the Python packages")
	}
	t.Parallel()
	root := filepath.Join("..", "..")
	python, err := sandbox.Clients(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	p := newProcess(t, strings.Replace(clientsHeader, "$DIRECTORY", address, 1))
	example := filepath.Join(root, "examples", "flask-aserto")
	for _, folder := range []string{"policy", "directory"} {
		if err := os.CopyFS(p.path(folder), os.DirFS(filepath.Join(example, folder))); err != nil {
			t.Fatal(err)
		}
	}
	ca := newAuthority(t)
	cert, key := ca.issue(t, "localhost")
	write(t, p.path("ca.crt"), ca.pem())
	write(t, p.path("tls.crt"), cert)
	write(t, p.path("tls.key"), key)
	full, limited := newClientKey(t, "app", "act-as"), newClientKey(t, "other")
	file, err := limited.AppendTo("keys.yaml", full.YAML())
	if err != nil {
		t.Fatal(err)
	}
	write(t, p.path("keys.yaml"), string(file))
	p.ready()

	script, err := filepath.Abs(filepath.Join("testdata", "clients.py"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, script)
	cmd.Dir = example
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "AUTHORIZER_URL=localhost:"+address[strings.LastIndex(address, ":")+1:],
		"AUTHORIZER_API_KEY="+full.Reveal(), "OTHER_KEY="+limited.Reveal(), "AUTHORIZER_CERT="+p.path("ca.crt"))
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, problems.String(), p.stderr.String())
	}
	var got map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := map[string]any{
		"vera": 200.0, "bob": 403.0, "bob public": 200.0, "nobody": 403.0,
		"map of vera":    map[string]any{"example/GET/protected_route/__parameter": map[string]any{"visible": true, "enabled": true}},
		"map of bob":     map[string]any{"example/GET/protected_route/__parameter": map[string]any{"visible": true, "enabled": false}},
		"unknown path":   map[string]any{"allowed": false},
		"no key":         "UNAUTHENTICATED",
		"wrong key":      "UNAUTHENTICATED",
		"naming a user":  "PERMISSION_DENIED",
		"a forged token": map[string]any{"allowed": false},
		"check":          []any{true, false},
		"object":         "vera",
		"no object":      "NOT_FOUND",
		"users":          []any{"bob", "vera"},
		"graph":          []any{"vera"},
		"manifest":       true,
		"write":          "FAILED_PRECONDITION",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the clients got (-want +got):\n%s\n%s", diff, p.stderr.String())
	}
	logged, err := os.ReadFile(p.path("decisions.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(logged), `"path":"example.GET.protected_route.__parameter"`); n < 9 {
		t.Errorf("%d decisions are on record, want each:\n%s", n, logged)
	}
}

func newClientKey(t *testing.T, subject string, scopes ...string) apikey.Key {
	t.Helper()
	k, err := apikey.New(apikey.Entry{Subject: subject, Scopes: scopes})
	if err != nil {
		t.Fatal(err)
	}
	return k
}
