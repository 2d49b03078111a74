package envoy_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
)

// stack is an example as somebody would run it: the application by its own server, Gatehouse and Envoy from the files
// next to it, with other ports.
type stack struct {
	dir         string   // holds a copy of the example's files
	port, admin int      // of Envoy and of Gatehouse's admin pages
	ports       []string // pairs for amend: what gatehouse.yaml is written with, what it runs with
	gatehouse   *sandbox.Process
	key         ed25519.PrivateKey
}

// startStack runs Gatehouse and Envoy on the gatehouse.yaml and envoy.yaml in dir. They are written with the ports of the
// examples; apps says which port each application that is written down there has got instead.
func startStack(t *testing.T, dir string, apps map[int]int) *stack {
	t.Helper()
	s := &stack{dir: dir, port: freePort(t), admin: freePort(t)}
	grpc := freePort(t)
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.key = private
	write(t, filepath.Join(dir, "jwks.json"), fmt.Sprintf(`{"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "test", "x": %q}]}`,
		base64.RawURLEncoding.EncodeToString(public)))

	s.ports = []string{at(9191), at(grpc), at(9192), at(s.admin)}
	amend(t, filepath.Join(dir, "gatehouse.yaml"), s.ports...)
	value := func(port int) string { return fmt.Sprintf("port_value: %d}", port) }
	changes := []string{value(8080), value(s.port), value(9901), value(freePort(t)), value(9191), value(grpc)}
	if contains(read(t, filepath.Join(dir, "envoy.yaml")), at(8080)) { // an address that clients are sent to
		changes = append(changes, at(8080), at(s.port))
	}
	for written, port := range apps {
		changes = append(changes, value(written), value(port))
	}
	amend(t, filepath.Join(dir, "envoy.yaml"), changes...)

	for _, name := range []string{"gatehouse.yaml", "envoy.yaml"} {
		file := filepath.Join(dir, name)
		write(t, file, sandbox.LongDeadlines(read(t, file)))
	}
	if moduleDir != "" {
		s.runModule(t)
		return s
	}
	s.gatehouse = program(t, "gatehouse", dir, serving(filepath.Join(dir, "gatehouse.yaml")))
	if err := s.gatehouse.Ready(t.Context(), "http://"+at(s.admin)+"/readyz"); err != nil {
		t.Fatal(err)
	}
	envoy := program(t, "envoy", dir, []string{envoyBinary, "--config-path", filepath.Join(dir, "envoy.yaml"), "--concurrency", "1",
		"--disable-hot-restart", "--log-level", "warning"})
	if err := envoy.Ready(t.Context(), "http://"+at(s.port)+"/"); err != nil {
		t.Fatal(err)
	}
	return s
}

// runModule runs the example's Envoy with Gatehouse inside.
func (s *stack) runModule(t *testing.T) {
	t.Helper()
	file := filepath.Join(s.dir, "envoy.yaml")
	text, err := sandbox.InModule(read(t, file), filepath.Join(s.dir, "gatehouse.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, text)
	s.gatehouse = program(t, "envoy", s.dir, []string{envoyBinary, "--config-path", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"},
		"ENVOY_DYNAMIC_MODULES_SEARCH_PATH="+moduleDir)
	for _, page := range []string{"http://" + at(s.admin) + "/readyz", "http://" + at(s.port) + "/"} {
		if err := s.gatehouse.Ready(t.Context(), page); err != nil {
			t.Fatal(err)
		}
	}
}

// token is a bearer token for subject as the examples' configurations expect it.
func (s *stack) token(audience, subject string, roles ...string) string {
	part := func(v any) string {
		text, _ := json.Marshal(v) // strings and numbers always encode
		return base64.RawURLEncoding.EncodeToString(text)
	}
	now := time.Now().Unix()
	signed := part(map[string]any{"alg": "EdDSA", "kid": "test"}) + "." + part(map[string]any{"iss": sandbox.Issuer, "aud": audience,
		"sub": subject, "roles": roles, "note": canary + subject, "iat": now, "exp": now + 3600})
	token := signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(s.key, []byte(signed)))
	handedOut.add(token)
	return token
}

// reload puts another gatehouse.yaml in place of the one that runs, and returns when it is in use.
func (s *stack) reload(t *testing.T, config string) {
	t.Helper()
	if moduleDir != "" {
		t.Skip("Envoy takes SIGHUP for itself: in a module a reload is asked for over the control socket, see dynmod/inenvoy")
	}
	file := filepath.Join(s.dir, "gatehouse.yaml")
	write(t, file, sandbox.LongDeadlines(config))
	amend(t, file, s.ports...)
	seen := len(s.gatehouse.Log())
	if err := s.gatehouse.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if line := s.awaitLog(t, seen, `reload`); !contains(line, "reloaded the configuration") {
		t.Fatalf("gatehouse says %s", line)
	}
}

// awaitLog waits until a line of Gatehouse's log, after the first seen bytes, holds text, and returns it.
func (s *stack) awaitLog(t *testing.T, seen int, text string) string {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(hangGuard)
	for {
		for line := range strings.Lines(s.gatehouse.Log()[seen:]) {
			if contains(line, text) && strings.HasSuffix(line, "\n") {
				return line
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("gatehouse did not log %q within %v", text, hangGuard)
		}
	}
}

// awaitAnswer asks, with further header lines, until the answer is the one wanted.
func (s *stack) awaitAnswer(t *testing.T, request, host, want string, headers ...string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(hangGuard)
	for {
		got := s.say(t, request, host, headers...)
		if got.String() == want {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: %s after %v, want %s: %s", request, got, hangGuard, want, got.Body)
		}
	}
}

// say sends "METHOD target" with further header lines to Envoy, byte for byte.
func (s *stack) say(t *testing.T, request, host string, headers ...string) verdict {
	t.Helper()
	method, target, _ := strings.Cut(request, " ")
	text := method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n"
	body := ""
	for _, h := range headers {
		if h = strings.TrimSpace(h); strings.HasPrefix(h, "{") {
			body = h
			h = fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d", len(body))
		}
		if h != "" {
			text += h + "\r\n"
		}
	}
	return send(t, s.port, text+"\r\n"+body)
}

// status is Gatehouse's status page.
func (s *stack) status(t *testing.T) (page struct {
	Notices []string
	Routes  []struct {
		App, File, Error string
		Routes           int
	}
	Directory *struct {
		Loaded bool
		Error  string
	}
}) {
	t.Helper()
	got := send(t, s.admin, "GET /status HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
	if err := json.Unmarshal([]byte(got.Body), &page); err != nil {
		t.Fatalf("/status answers %q: %v", got.Body, err)
	}
	return page
}

// scene is one line of a transcript.
type scene struct {
	who, roles string // subject and its roles, separated by spaces; nobody where empty
	request    string // "METHOD target", as on the wire
	want       string // who answers, and the status: "app 200"
	more       string // a header line, or a body where it begins with a brace
}

// play asks scene after scene, as one host, and logs the transcript.
func (s *stack) play(t *testing.T, host, audience string, scenes []scene) {
	t.Helper()
	for _, sc := range scenes {
		headers := []string{sc.more}
		if sc.who != "" {
			headers = append(headers, "Authorization: Bearer "+s.token(audience, sc.who, strings.Fields(sc.roles)...))
		}
		got := s.say(t, sc.request, host, headers...)
		t.Logf("%-14s %-6s %-9s %q %s", got, sc.who, sc.roles, sc.request, sc.more)
		if got.String() != sc.want {
			t.Errorf("%s (%s) %q %s: %s, want %s: %.300s", sc.who, sc.roles, sc.request, sc.more, got, sc.want, got.Body)
		}
	}
}

// copyOf copies an example, without what ran in it, to a directory of its own.
func copyOf(t *testing.T, example string, without ...string) string {
	t.Helper()
	dir := workDir(t)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "examples", example))); err != nil {
		t.Fatal(err)
	}
	for _, name := range without {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// scaffolding is what `gatehouse init` writes.
var scaffolding = []string{"policy", "routes.yaml", "tests.yaml", "gatehouse.yaml", "envoy.yaml"}

// gatehouse runs a command in dir and returns what it says; it must succeed.
func gatehouse(t *testing.T, dir string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), gatehouseBinary, args...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("gatehouse %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// initExample sets up an example as its developer did: the application alone, then `gatehouse init`. What init writes there are
// the files that the example has, but for the rules and for who calls.
func initExample(t *testing.T, example string, flags ...string) string {
	t.Helper()
	dir := copyOf(t, example, scaffolding...)
	t.Log(gatehouse(t, dir, append([]string{"init", "--python", pythonOf(t, example)}, flags...)...))
	t.Log(gatehouse(t, dir, "test"))
	for _, name := range []string{"routes.yaml", "envoy.yaml"} {
		if made, kept := read(t, filepath.Join(dir, name)), read(t, filepath.Join(root, "examples", example, name)); made != kept {
			t.Errorf("%s is not the one that init writes: %s", name, made)
		}
	}
	return dir
}

// finish does what is left to do for the developer of an example: the rules, and who calls.
func (s *stack) finish(t *testing.T, example string) {
	t.Helper()
	from := filepath.Join(root, "examples", example)
	overlay(t, filepath.Join(s.dir, "policy"), filepath.Join(from, "policy"))
	s.reload(t, read(t, filepath.Join(from, "gatehouse.yaml")))
	write(t, filepath.Join(s.dir, "tests.yaml"), read(t, filepath.Join(from, "tests.yaml")))
	t.Log(gatehouse(t, s.dir, "test", "--coverage"))
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// pythonOf is the interpreter of an example's own virtual environment.
func pythonOf(t *testing.T, example string) string {
	t.Helper()
	python, err := sandbox.PrepareExtra(t.Context(), root, example, filepath.Join(root, "examples", example, "requirements.txt"), func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	if python, err = filepath.Abs(python); err != nil {
		t.Fatal(err)
	}
	return python
}

// serve runs an application's server until the test ends; "PORT" in an argument is its port, which is returned.
func serve(t *testing.T, name, dir string, argv []string, env ...string) int {
	t.Helper()
	port := freePort(t)
	for i := range argv {
		argv[i] = strings.ReplaceAll(argv[i], "PORT", fmt.Sprint(port))
	}
	p := program(t, name, dir, argv, append(env, "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1")...)
	if err := p.Ready(t.Context(), "http://"+at(port)+"/healthz"); err != nil {
		t.Fatal(err)
	}
	return port
}
