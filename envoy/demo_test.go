package envoy_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/envoy/sandbox"
)

// The demo's transcript, played by the code that `gatehouse demo` runs.
func TestTranscript(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	lines := 0
	err := s.Play(t.Context(), func(l sandbox.Line) {
		lines++
		t.Logf("%d (want %d)  %s: %s  %s", l.Got, l.Want, l.Title, l.Reason, l.Command)
	})
	if err != nil {
		t.Error(err)
	}
	if lines < 15 {
		t.Errorf("only %d lines were played", lines)
	}
}

// The transcript's commands are there to be pasted: a shell and curl must get the same statuses.
func TestTranscriptCommands(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	env := filepath.Join(t.TempDir(), "env")
	if err := s.WriteEnv(env); err != nil {
		t.Fatal(err)
	}
	err := s.Play(t.Context(), func(l sandbox.Line) {
		// What is denied is denied to curl as well; what was allowed may have changed the state (deleted an order).
		if l.Command == "" || l.Want < 400 || strings.Contains(l.Command, "-X DELETE") {
			return
		}
		command := strings.Replace(l.Command, "curl", "curl -s -o /dev/null -w '%{http_code}'", 1)
		shell := exec.CommandContext(t.Context(), "sh", "-c", ". '"+env+"'; "+command)
		if out, err := shell.Output(); err != nil || string(out) != fmt.Sprint(l.Want) {
			t.Errorf("%s\nanswers %q (%v), want %d", l.Command, out, err, l.Want)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// The files to copy are valid as they stand, with their own ports.
func TestExampleEnvoyConfig(t *testing.T) {
	t.Parallel()
	file := filepath.Join(root, "examples", "flask-orders", "envoy.yaml")
	out, err := exec.CommandContext(t.Context(), envoyBinary, "--mode", "validate", "-c", file).CombinedOutput()
	if err != nil {
		t.Errorf("envoy --mode validate: %v\n%s", err, out)
	}
}

// The application contains not one line about authorization: asked directly it lets everybody do everything.
func TestAppItselfKnowsNothing(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, s.AppURL+"/orders/1", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("asked directly: %d", resp.StatusCode)
	}
	source, err := os.ReadFile(filepath.Join(root, "examples", "flask-orders", "app.py"))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"auth", "token", "role", "permission", "401", "403"} {
		if contains(strings.ToLower(string(source)), word) {
			t.Errorf("app.py speaks of %q", word)
		}
	}
}

func TestOrdersPolicy(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	const (
		lamp  = `{"item":"lamp","amount":45}`
		table = `{"item":"table","amount":700}`
		yacht = `{"item":"yacht","amount":90000}`
	)
	for _, c := range []struct {
		who, role, method, path, body string
		want                          int
	}{
		{"", "", "GET", "/healthz", "", 200},
		{"", "", "GET", "/orders", "", 401},
		{"", "", "POST", "/users/alice/orders", lamp, 401},
		{"", "", "GET", "/nothing/here", "", 401},
		{"vera", "viewer", "GET", "/orders", "", 200},
		{"vera", "viewer", "HEAD", "/orders", "", 200},
		{"vera", "viewer", "GET", "/orders/1", "", 200},
		{"vera", "viewer", "GET", "/orders/999", "", 404},
		{"vera", "viewer", "GET", "/users/bob/orders", "", 200},
		{"vera", "viewer", "PUT", "/orders/1", lamp, 403},
		{"vera", "viewer", "DELETE", "/orders/1", "", 403},
		{"vera", "viewer", "PATCH", "/orders/1", lamp, 403},
		{"carl", "clerk", "POST", "/users/bob/orders", lamp, 201},
		{"carl", "clerk", "POST", "/users/bob/orders", yacht, 403},
		{"carl", "clerk", "PUT", "/orders/1", table, 200},
		{"carl", "clerk", "PUT", "/orders/1", `{"item":"lamp","amount":"1"}`, 403},
		{"carl", "clerk", "PUT", "/orders/1", `{"item":"lamp"`, 400},
		{"carl", "clerk", "DELETE", "/orders/1", "", 403},
		{"ada", "admin", "POST", "/users/ada/orders", yacht, 201},
		{"ada", "admin", "DELETE", "/orders/1", "", 200},
		{"ada", "admin", "DELETE", "/orders/1", "", 404},
		{"alice", "customer", "GET", "/users/alice/orders", "", 200},
		{"alice", "customer", "POST", "/users/alice/orders", lamp, 201},
		{"alice", "customer", "POST", "/users/alice/orders", table, 403},
		{"alice", "customer", "POST", "/users/bob/orders", lamp, 403},
		{"alice", "customer", "GET", "/users/bob/orders", "", 403},
		{"alice", "customer", "GET", "/orders", "", 403},
		{"dave", "", "GET", "/orders/4", "", 200},
		{"dave", "", "GET", "/orders/04", "", 403},
		{"dave", "", "GET", "/orders/3", "", 403},
		{"dave", "", "DELETE", "/orders/5", "", 200},
		{"mallory", "made-up", "GET", "/orders", "", 403},
	} {
		call := sandbox.Call{Method: c.method, Path: c.path, Body: c.body}
		if c.who != "" {
			call.Token = s.Token(c.who, roles(c.role)...)
		}
		if got := ask(t, s, call); got.Status != c.want {
			t.Errorf("%s (%s) %s %s %s: %d %s, want %d", c.who, c.role, c.method, c.path, c.body, got.Status, got.Reason(), c.want)
		}
	}
}

// The policy's limit is on what Gatehouse reads of a body, the order is what the application reads of it. No body may be a
// cheap one to the first and a dear one to the second.
func TestBodiesCannotBeSmuggled(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	token := s.Token("carl", "clerk")
	for name, body := range map[string]string{
		"the last of two counts": `{"item":"x","amount":1,"amount":90000}`,
		"escaped key":            `{"item":"x","amount":1,"amoun\u0074":90000}`,
		"big exponent":           `{"item":"x","amount":9e4}`,
		"cut by Envoy":           `{"item":"x","amount":90000,"pad":"` + strings.Repeat("x", 70_000) + `"}`,
		"cut before the amount":  `{"item":"x","pad":"` + strings.Repeat("x", 70_000) + `","amount":90000}`,
		"byte order mark":        "\ufeff" + `{"item":"x","amount":90000}`,
		"UTF-16":                 utf16LE(`{"item":"x","amount":90000}`),
		"not a number":           `{"item":"x","amount":NaN}`,
		"infinite":               `{"item":"x","amount":Infinity}`,
		"two documents":          `{"item":"x","amount":1}{"item":"x","amount":90000}`,
	} {
		call := sandbox.Call{Method: http.MethodPost, Path: "/users/bob/orders", Token: token, Body: body}
		got := ask(t, s, call)
		t.Logf("%s: %d %s", name, got.Status, got.Reason())
		if got.Status != http.StatusForbidden && got.Status != http.StatusBadRequest && got.Status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d %s, want a denial", name, got.Status, got.Body)
		}
	}
}

// utf16LE is text, which must be ASCII, in an encoding that Python's json module detects.
func utf16LE(text string) string {
	var b strings.Builder
	for i := range len(text) {
		b.WriteByte(text[i])
		b.WriteByte(0)
	}
	return b.String()
}

func TestDenialsExplainThemselves(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	for _, c := range []struct {
		token  string
		status int
		reason string
	}{
		{"", 401, ""},
		{s.ForgedToken("ada", "admin"), 401, ""},
		{s.Token("mallory"), 403, "you need orders:read for this"},
	} {
		answer := ask(t, s, sandbox.Call{Path: "/orders", Token: c.token})
		if answer.Status != c.status || !contains(answer.Body, c.reason) {
			t.Errorf("%d %s, want %d with %q", answer.Status, answer.Body, c.status, c.reason)
		}
		if answer.Header.Get("X-Decision-Id") == "" || answer.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d lacks x-decision-id or cache-control: %v", answer.Status, answer.Header)
		}
		if challenge := answer.Header.Get("WWW-Authenticate"); (c.status == 401) != (challenge != "") {
			t.Errorf("%d with WWW-Authenticate %q", answer.Status, challenge)
		}
	}
}

// Paths on which proxies and frameworks disagree reach neither policy nor application, even for an admin.
func TestAmbiguousPathsAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	token := s.Token("ada", "admin")
	for path, want := range map[string]int{
		"//orders":              400,
		"/orders//1":            400,
		"/orders%2f1":           400,
		"/orders%2F..%2Fx":      400,
		"/orders%5c1":           400,
		"/orders/%252e%252e/1":  400,
		"/orders/%00":           400,
		"/orders/%zz":           400,
		"/x/../orders":          200, // Envoy has made /orders of it, for us and for the app
		"/users/alice/orders?a": 200,
	} {
		if got := ask(t, s, sandbox.Call{Path: path, Token: token}); got.Status != want {
			t.Errorf("GET %s: %d %s, want %d", path, got.Status, got.Reason(), want)
		}
	}
}

// TestExampleOverUnixSocket takes the comment marks off the lines that the example has for it, and puts them before the others.
func TestExampleOverUnixSocket(t *testing.T) {
	t.Parallel()
	app := t.TempDir()
	if err := os.CopyFS(app, os.DirFS(filepath.Join(root, "examples", "flask-orders"))); err != nil {
		t.Fatal(err)
	}
	for name, lines := range map[string][2]string{
		"gatehouse.yaml": {"  grpc: [\"127.0.0.1:9191\"]", "  # grpc: [\"unix:"},
		"envoy.yaml":     {"              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9191", "              # - endpoint: {address: {pipe:"},
	} {
		file := filepath.Join(app, name)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tcp, unix := lines[0], lines[1]
		if strings.Count(string(text), tcp) != 1 || strings.Count(string(text), unix) != 1 {
			t.Fatalf("%s has no line %q, or none %q", name, tcp, unix)
		}
		indent := tcp[:len(tcp)-len(strings.TrimLeft(tcp, " "))]
		swapped := strings.NewReplacer(tcp, indent+"# "+strings.TrimLeft(tcp, " "), unix, strings.Replace(unix, "# ", "", 1)).Replace(string(text))
		if err := os.WriteFile(file, []byte(swapped), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, sandbox.Config{App: app})
	if answer := ask(t, s, sandbox.Call{Path: "/orders", Token: s.Token("vera", "viewer")}); answer.Status != 200 {
		t.Errorf("a viewer reads: %d %s", answer.Status, answer.Body)
	}
	if answer := ask(t, s, sandbox.Call{Path: "/orders"}); answer.Status != 401 {
		t.Errorf("no token: %d %s", answer.Status, answer.Body)
	}
}
