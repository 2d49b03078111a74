package envoy_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/envoy/sandbox"
)

// TestPermissionsBehindEnvoy asks which routes a caller may call: Envoy hands the answer on, and the application, which would echo the
// request, is not asked.
func TestPermissionsBehindEnvoy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(echoApp(t))); err != nil {
		t.Fatal(err)
	}
	const path = "/.well-known/gatehouse/permissions"
	amend(t, filepath.Join(dir, "gatehouse.yaml"), "headers:\n", "routes: {file: routes.yaml}\npermissions: {path: "+path+"}\nheaders:\n")
	s := start(t, sandbox.Config{App: dir, Policy: func(policy string) error {
		write(t, filepath.Join(filepath.Dir(policy), "routes.yaml"), "framework: flask\nroutes:\n  - GET, POST /orders\n  - GET, DELETE /orders/<int:id>\n")
		return os.WriteFile(filepath.Join(policy, "authz.rego"), []byte(`package envoy.authz
default allow := false
allow if {
	input.route.method == "GET"
	input.route.template == "/orders"
}
allow if "clerk" in input.identity.roles
`), 0o644)
	}})
	for _, tt := range []struct {
		name   string
		call   sandbox.Call
		status int
		body   string
	}{
		{"anonymous", sandbox.Call{}, 200, `{"GET /orders":true,"POST /orders":false,"GET /orders/<int:id>":false,"DELETE /orders/<int:id>":false}` + "\n"},
		{"a clerk", sandbox.Call{Token: s.Token("carl", "clerk")}, 200, `{"GET /orders":true,"POST /orders":true,"GET /orders/<int:id>":true,"DELETE /orders/<int:id>":true}` + "\n"},
		{"HEAD", sandbox.Call{Method: http.MethodHead}, 200, ""},
		{"a bad token", sandbox.Call{Token: "x.y.z"}, 401, ""},
		{"POST", sandbox.Call{Method: http.MethodPost}, 405, ""},
	} {
		tt.call.Path = path
		answer := ask(t, s, tt.call)
		if answer.Status != tt.status || tt.body != "" && answer.Body != tt.body || strings.Contains(answer.Body, "X-Auth-Roles") {
			t.Errorf("%s: %d %s", tt.name, answer.Status, answer.Body)
		}
		if tt.status == 200 && (answer.Header.Get("Cache-Control") != "private, max-age=30" || answer.Header.Get("Content-Type") != "application/json") {
			t.Errorf("%s: %v", tt.name, answer.Header)
		}
	}
}
