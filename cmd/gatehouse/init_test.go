package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.yaml.in/yaml/v3"

	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/envoy/sandbox"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/policy/lint"
	"gatehouse/scaffold"
	"gatehouse/server"
	"gatehouse/trial"
	"gatehouse/trial/node"
)

// pythonWithFrameworks is the interpreter that package routes is tested with too.
func pythonWithFrameworks(t *testing.T) string {
	t.Helper()
	path, err := sandbox.Frameworks(t.Context(), "../..")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// invoke runs the program in this process.
func invoke(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, messages bytes.Buffer
	code = run(t.Context(), args, &out, &messages)
	return out.String(), messages.String(), code
}

// TestInitRuns holds that whatever init writes activates with strict_routes, and that each line of its tests comes true.
func TestInitRuns(t *testing.T) {
	apps, err := filepath.Abs("../../routes/testdata/apps")
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []struct {
		flag, app string
		rules     []string
		atLeast   int // requests in tests.yaml
	}{
		{"--flask", "aserto_app:app", []string{scaffold.PerRoute, scaffold.RoleTable}, 2},
		{"--flask", "flask_app:create_app()", []string{scaffold.RoleTable}, 100},
		{"--flask", "flask_app:create_hosts()", []string{scaffold.RoleTable}, 6},
		{"--flask", "flask_app:create_subdomains()", []string{scaffold.PerRoute, scaffold.RoleTable}, 1},
		{"--fastapi", "fastapi_app:app", []string{scaffold.PerRoute, scaffold.RoleTable}, 30},
		{"--fastapi", "fastapi_app:create_app('/api/v1')", []string{scaffold.PerRoute, scaffold.RoleTable}, 30},
		{"--fastapi", "starlette_app:app", []string{scaffold.RoleTable}, 60},
		{"--django", "djangoapp.settings", []string{scaffold.RoleTable}, 300},
		{"--openapi", "../petstore.yaml", []string{scaffold.PerRoute, scaffold.RoleTable}, 5},
	} {
		for _, rules := range from.rules {
			t.Run(from.app+" "+rules, func(t *testing.T) {
				t.Parallel()
				dir, app := t.TempDir(), from.app
				if from.flag == "--openapi" {
					app = filepath.Join(apps, app)
				}
				_, stderr, code := invoke(t, "init", from.flag, app, "--python", pythonWithFrameworks(t), "--dir", apps, "--rules", rules, "--out", dir)
				if code != 0 {
					t.Fatal(stderr)
				}
				g := activated(t, dir)
				tests := writtenTests(t, dir)
				if len(tests) < from.atLeast {
					t.Errorf("%d tests, at least %d were expected", len(tests), from.atLeast)
				}
				for _, c := range tests {
					c.run(t, g)
					if from.flag == "--flask" && c.method == "GET" && c.headers == nil { // whoever may GET may HEAD
						c.method = "HEAD"
						c.run(t, g)
					}
				}
			})
		}
	}
}

// activated is a gate that runs what a folder's gatehouse.yaml says.
func activated(t *testing.T, dir string) *gate.Gate {
	t.Helper()
	cfg, doc, err := config.Source{File: filepath.Join(dir, "gatehouse.yaml")}.Read()
	if err != nil || len(doc.Errs) > 0 {
		t.Fatal(err, doc.Errs)
	}
	cfg.StateDir = ""                                 // it belongs to one process, and some tests have several of these
	cfg.Policy.Timeout = config.Duration(time.Minute) // machines that run tests are busy
	found := doc.Problems()
	found.Add("listen", server.ValidateListen(cfg.Listen))
	n, err := edge.NewStatic(context.Background(), edge.Config{Config: cfg, Found: found, Smoke: node.ReadSmoke})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n.Gate()
}

// writtenTest is a line of tests.yaml.
type writtenTest struct {
	allow                  bool
	as, method, host, path string
	roles                  []string
	headers                map[string]any
}

func writtenTests(t *testing.T, dir string) []writtenTest {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "tests.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Tests []map[string]map[string]any }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var out []writtenTest
	for _, line := range file.Tests {
		for verdict, keys := range line {
			c := writtenTest{allow: verdict == "allow"}
			for key, value := range keys {
				switch key {
				case "as":
					c.as = value.(string)
				case "host":
					c.host = value.(string)
				case "headers":
					c.headers = value.(map[string]any)
				case "roles":
					for _, r := range value.([]any) {
						c.roles = append(c.roles, r.(string))
					}
				default:
					c.method, c.path = key, value.(string)
				}
			}
			out = append(out, c)
		}
	}
	return out
}

func (c writtenTest) run(t *testing.T, g *gate.Gate) {
	t.Helper()
	who := identity.Anonymous()
	if c.as != "" {
		who = identity.Identity{Type: identity.TypeJWT, Identity: c.as, Subject: c.as, Roles: c.roles, Authenticated: true}
	}
	try := trial.Request{Method: c.method, Host: c.host, Path: c.path, As: &who}
	for name, value := range c.headers {
		try.Headers = append(try.Headers, gate.Header{Name: name, Value: value.(string)})
	}
	a := g.Check(t.Context(), try.Gate())
	if a.Allow != c.allow {
		t.Errorf("%s %s as %q %v: allow is %t (%v)", c.method, c.path, c.as, c.roles, a.Allow, a.Diagnostics.Cause)
	}
	if !a.Allow && a.Reason != gate.Denied {
		t.Errorf("%s %s: the policy did not decide: %v (%v)", c.method, c.path, a.Reason, a.Diagnostics.Cause)
	}
}

// TestInitServes goes the way of the printed steps: init, serve, one rule edited while it runs.
func TestInitServes(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "")
	for _, name := range []string{"gatehouse.yaml", "policy"} {
		if err := os.RemoveAll(p.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	stdout, stderr, code := invoke(t, "init", "--flask", "aserto_app:app", "--python", pythonWithFrameworks(t), "--dir", "../../routes/testdata/apps",
		"--name", "app", "--out", p.dir)
	if code != 0 {
		t.Fatal(stderr)
	}
	rule := p.path("policy", "GET", "protected_route", "__parameter.rego")
	if !strings.Contains(stdout, "$EDITOR "+rule) {
		t.Errorf("the rule to edit is not named:\n%s", stdout)
	}
	text, err := os.ReadFile(p.path("gatehouse.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p.configure(strings.NewReplacer("127.0.0.1:9191", "$GRPC", "127.0.0.1:9192", "$ADMIN").Replace(string(text)))
	p.ready()
	conn := dial(t, p.grpc, nil)
	status := func(path string) int32 {
		resp, err := auth.NewAuthorizationClient(conn).Check(t.Context(), &auth.CheckRequest{Attributes: &auth.AttributeContext{
			Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "GET", Path: path, Host: "app", Scheme: "http"}}}})
		if err != nil {
			t.Fatal(err)
		}
		if denied := resp.GetDeniedResponse(); denied != nil {
			return int32(denied.GetStatus().GetCode())
		}
		return 200
	}
	if got := status("/protected_route/42"); got != 403 {
		t.Errorf("before the edit: %d", got)
	}
	stub, err := os.ReadFile(rule)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(stub), "# GET /protected_route/<parameter>   (protected)\npackage app.GET.protected_route.__parameter\n") {
		t.Errorf("the stub:\n%s", stub)
	}
	write(t, rule, string(stub)+"\nallowed if input.resource.parameter == \"42\"\n")
	eventually(t, "waiting for the rule", func() error {
		if got := status("/protected_route/42"); got != 200 {
			return os.ErrInvalid
		}
		return nil
	})
	if got := status("/protected_route/43"); got != 403 {
		t.Errorf("another parameter: %d", got)
	}
}

// TestInitStubsAllow holds that every way to allow that a stub or the configuration shows in a comment works.
func TestInitStubsAllow(t *testing.T) {
	dir := t.TempDir()
	if _, stderr, code := invoke(t, "init", "--openapi", "../../routes/testdata/petstore.yaml", "--out", dir); code != 0 {
		t.Fatal(stderr)
	}
	rule := filepath.Join(dir, "policy", "GET", "pets", "__petId.rego")
	stub, err := os.ReadFile(rule)
	if err != nil {
		t.Fatal(err)
	}
	ask := map[string]writtenTest{
		"# allowed := true # anyone, logged in or not":                                                              {},
		"# allowed if input.identity.authenticated":                                                                 {as: "ann"},
		`# allowed if "viewer" in input.identity.roles`:                                                             {as: "ann", roles: []string{"viewer"}},
		`# allowed if "viewer" in input.user.roles # in the directory, which finds users by the sub of their token`: {as: "ann@example.com"},
		"# allowed if input.resource.petId == input.identity.subject":                                               {as: "7"},
	}
	for comment, c := range ask {
		if !strings.Contains(string(stub), comment+"\n") {
			t.Fatalf("the stub does not show %s:\n%s", comment, stub)
		}
		text := strings.Replace(string(stub), comment, strings.TrimPrefix(comment, "# "), 1)
		if formatted, err := lint.Format(rule, []byte(text)); err != nil || string(formatted) != text {
			t.Errorf("not formatted: %s\n%s, error %v", text, formatted, err)
		}
		write(t, rule, text)
		c.method, c.path, c.allow = "GET", "/v1/pets/7", true
		g := activated(t, dir)
		c.run(t, g)
		if c.as != "" {
			writtenTest{method: "GET", path: "/v1/pets/7"}.run(t, g)
		}
	}
	file := filepath.Join(dir, "gatehouse.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, commented, found := strings.Cut(string(text), "# identity:\n")
	block, after, end := strings.Cut(commented, "\n\n")
	if !found || !end {
		t.Fatalf("no block for identity:\n%s", text)
	}
	write(t, file, before+"identity:\n"+strings.ReplaceAll("\n"+block, "\n# ", "\n")[1:]+"\n\n"+after)
	cfg, doc, err := config.Source{File: file}.Read()
	if err != nil || len(doc.Errs) > 0 || len(cfg.Identity.JWT) != 1 {
		t.Error(err, doc.Errs, cfg.Identity)
	}
}

// TestInitDirectory holds that what init says of the table of roles and the directory works, that it keeps a directory which is there, and that it
// writes nothing where that one cannot be used.
func TestInitDirectory(t *testing.T) {
	dir := t.TempDir()
	again := func() (stdout, stderr string, code int) {
		return invoke(t, "init", "--openapi", "../../routes/testdata/petstore.yaml", "--rules", "rbac", "--out", dir, "--force")
	}
	if stdout, stderr, code := again(); code != 0 || !strings.Contains(stdout, "ann@example.com is made up") {
		t.Fatal(stdout, stderr)
	}
	ann := writtenTest{as: "ann@example.com", method: "GET", path: "/v1/pets/7"}
	ann.run(t, activated(t, dir))
	file := filepath.Join(dir, "directory", "directory.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mine := strings.Replace(string(text), "# - role:admin#member@group:staff#member", "- role:admin#member@group:staff#member", 1)
	write(t, file, mine)
	ann.allow = true
	ann.run(t, activated(t, dir))
	if stdout, stderr, code := again(); code != 0 || !strings.Contains(stdout, "was there, and is as it was") {
		t.Fatal(stdout, stderr)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != mine {
		t.Errorf("init --force changed the directory: %v\n%s", err, text)
	}
	ann.run(t, activated(t, dir))
	write(t, file, "objects: [user:ann\n")
	if _, stderr, code := again(); code == 0 || !strings.Contains(stderr, "nothing was written") || !strings.Contains(stderr, "directory.yaml:") {
		t.Errorf("with a broken directory: exit code %d: %s", code, stderr)
	}
}

// BenchmarkInit2000 is everything but the application's own import.
func BenchmarkInit2000(b *testing.B) {
	var routes strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&routes, "  - route: ANY /app%d/<int:id>/\n    name: r%d\n", i, i)
	}
	text := "framework: django\nroutes:\n" + routes.String()
	for b.Loop() {
		s, err := scaffold.New(b.Context(), scaffold.Config{Name: "app", Rules: scaffold.PerRoute, Table: parsed(b, text), Try: tryScaffold})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Write(b.TempDir(), false); err != nil {
			b.Fatal(err)
		}
	}
}
