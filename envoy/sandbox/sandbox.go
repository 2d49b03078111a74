// Package sandbox runs an example application, Gatehouse and Envoy together on this machine, as the real processes that
// they are, on free loopback ports. `gatehouse demo` and the end-to-end tests are built on it.
//
// An application is a directory with app.py (a WSGI object `app`), gunicorn.conf.py, gatehouse.yaml, envoy.yaml and
// policy/, and directory/ if it has one. Nothing in it is written to: policy, directory and both configurations are copied to the
// work directory, where only the ports are changed, so what runs is what a user would copy.
//
//	s, err := sandbox.Start(ctx, sandbox.Config{Root: root, WorkDir: dir, Gatehouse: binary})
//	if err != nil { ... }
//	defer s.Close()
//	answer, err := s.Do(ctx, sandbox.Call{Path: "/orders", Token: s.Token("vera", "viewer")})
//
// Python and Envoy come from a virtual environment, ROOT/.venv, which is made when it is missing or when a requirements
// file has changed. That Envoy is built for Linux only.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gatehouse/children"
	"gatehouse/identity/mint"
)

const (
	// startTimeout bounds one attempt to bring everything up; a busy two-core machine needs about two seconds.
	startTimeout = 60 * time.Second
	// startAttempts is how often a start is tried when another program takes one of our ports first.
	startAttempts = 3
	// stopGrace is how long a process may take over SIGTERM before it is killed: more than Gatehouse takes to drain.
	stopGrace = 20 * time.Second
)

// Config says what to run. Root, WorkDir and one of Gatehouse and Authz are required.
type Config struct {
	// Root is the checkout: the requirements files and .venv are found from here.
	Root string
	// App is the application's directory, absolute or relative to Root. Default: examples/flask-orders.
	App string
	// WorkDir receives copies, keys, the database and logs. It is created; what an earlier sandbox left there goes. Two
	// sandboxes cannot share one.
	WorkDir string
	// Gatehouse is the path of the gatehouse binary.
	Gatehouse string
	// Authz is the host:port of an ext_authz server that the caller runs; then no Gatehouse is started.
	Authz string
	// Module is the folder of libgatehouse.so: then Envoy loads it instead of asking a Gatehouse beside it.
	Module string
	// Policy fills the policy directory. Default: copies the application's.
	Policy func(dir string) error
	// Workers is the number of Envoy's worker threads. Default: 1.
	Workers int
	// Progress is told, in a few words each, what takes time. Default: nobody is told.
	Progress func(string)
	// Plain runs Gatehouse with --plain.
	Plain bool
	// Patient takes the application's Envoy and Gatehouse with long deadlines for a decision, where its files have the examples' short
	// ones: for tests, as a busy machine under the race detector needs longer.
	LongDeadlines bool

	// HandedOut is told each token that Token and ForgedToken make, so that a test can look for them where they must not
	// be. It may be called by several goroutines. Default: nobody is told.
	HandedOut func(token string)
}

// Sandbox is a running application behind Envoy and Gatehouse. Its methods may be called from several goroutines,
// except Close and StopGatehouse.
type Sandbox struct {
	// URL is Envoy's address, AppURL the application's own (nothing protects it), AdminURL Gatehouse's admin address and
	// EnvoyAdminURL Envoy's. None ends in a slash.
	URL, AppURL, AdminURL, EnvoyAdminURL string

	cfg       Config
	ports     ports
	issuer    *mint.LocalIssuer
	client    *http.Client
	unlock    func()
	app       *process
	gatehouse *process // nil where Config.Authz is set
	envoy     *process
}

// Start prepares the virtual environment, starts the three processes and returns when all of them say that they are
// ready. ctx bounds the start only; what was started runs until Close. An error is one line that says what to do.
func Start(ctx context.Context, cfg Config) (*Sandbox, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	tools, err := prepareVenv(ctx, cfg.Root, cfg.Progress)
	if err != nil {
		return nil, err
	}
	unlock, err := claim(cfg.WorkDir)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		s, err := startOnce(ctx, cfg, tools)
		if err == nil {
			s.unlock = unlock
			return s, nil
		}
		taken := s.ports.taken()
		if taken == 0 || attempt == startAttempts || ctx.Err() != nil {
			unlock()
			return nil, err
		}
		cfg.Progress(fmt.Sprintf("port %d was taken by another program, trying others", taken))
	}
}

// claim makes the work directory and takes it for this process.
func claim(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making work directory: %w", err)
	}
	release, err = children.TryLock(filepath.Join(dir, "lock"))
	if errors.Is(err, children.ErrLocked) {
		return nil, fmt.Errorf("another demo is running in %s: stop it first", dir)
	}
	return release, err
}

func (c Config) withDefaults() (Config, error) {
	if c.Root == "" || c.WorkDir == "" || (c.Gatehouse == "") == (c.Authz == "") {
		return c, errors.New("sandbox: Root, WorkDir and exactly one of Gatehouse and Authz are required")
	}
	if c.App == "" {
		c.App = filepath.Join("examples", "flask-orders")
	}
	if !filepath.IsAbs(c.App) {
		c.App = filepath.Join(c.Root, c.App)
	}
	if c.Policy == nil {
		app := c.App
		c.Policy = func(dir string) error { return os.CopyFS(dir, os.DirFS(filepath.Join(app, "policy"))) }
	}
	if c.Workers == 0 {
		c.Workers = 1
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	if c.HandedOut == nil {
		c.HandedOut = func(string) {}
	}
	var err error
	if c.WorkDir, err = filepath.Abs(c.WorkDir); err != nil {
		return c, fmt.Errorf("resolving work directory: %w", err)
	}
	return c, nil
}

// startOnce makes one attempt. On an error everything is stopped again; the Sandbox is then good for its ports only.
func startOnce(ctx context.Context, cfg Config, tools tools) (*Sandbox, error) {
	s := &Sandbox{cfg: cfg}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := s.prepare()
	if err == nil {
		err = s.launch(tools)
	}
	if err == nil {
		err = s.awaitReady(ctx)
	}
	if err != nil {
		return s, errors.Join(err, s.Close())
	}
	return s, nil
}

// prepare chooses ports and writes every file that the processes read.
func (s *Sandbox) prepare() error {
	var err error
	if s.ports, err = freePorts(); err != nil {
		return err
	}
	s.URL, s.AppURL = loopback(s.ports.http), loopback(s.ports.app)
	s.AdminURL, s.EnvoyAdminURL = loopback(s.ports.admin), loopback(s.ports.envoyAdmin)
	s.client = &http.Client{
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s.writeFiles()
}

func (s *Sandbox) launch(tools tools) error {
	var err error
	s.app, err = startProcess(s.cfg.WorkDir, "app", s.cfg.App,
		[]string{tools.python, "-m", "gunicorn", "--bind", hostPort(s.ports.app), "--no-control-socket", "app:app"},
		"ORDERS_DATABASE="+s.path("orders.db"), "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1")
	if err != nil {
		return err
	}
	if s.cfg.Gatehouse != "" && s.cfg.Module == "" {
		command := []string{s.cfg.Gatehouse, "serve", "--config", s.path("gatehouse.yaml")}
		if s.cfg.Plain {
			command = append(command, "--plain")
		}
		s.gatehouse, err = startProcess(s.cfg.WorkDir, "gatehouse", s.cfg.WorkDir, command)
		if err != nil {
			return err
		}
	}
	s.envoy, err = startProcess(s.cfg.WorkDir, "envoy", s.cfg.WorkDir,
		[]string{tools.envoy, "--config-path", s.path("envoy.yaml"), "--concurrency", strconv.Itoa(s.cfg.Workers),
			"--disable-hot-restart", "--log-level", "warning"}, "ENVOY_DYNAMIC_MODULES_SEARCH_PATH="+s.cfg.Module)
	if s.cfg.Module != "" {
		s.gatehouse = s.envoy
	}
	return err
}

// awaitReady polls the health pages that an operator would use.
func (s *Sandbox) awaitReady(ctx context.Context) error {
	if err := s.await(ctx, s.app, s.AppURL+"/healthz"); err != nil {
		return err
	}
	if s.gatehouse != nil {
		if err := s.await(ctx, s.gatehouse, s.AdminURL+"/readyz"); err != nil {
			return err
		}
	}
	return s.await(ctx, s.envoy, s.EnvoyAdminURL+"/ready")
}

// await returns nil once url answers 200, and an error when p ends or ctx does before that.
func (s *Sandbox) await(ctx context.Context, p *process, url string) error {
	return p.await(ctx, func() bool { return s.respondsOK(ctx, url) })
}

func (s *Sandbox) respondsOK(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// PolicyDir is the policy that is in force: a copy, meant to be edited.
func (s *Sandbox) PolicyDir() string { return s.path("policy") }

// DirectoryDir is the directory that is in force, where the application has one: a copy, meant to be edited.
func (s *Sandbox) DirectoryDir() string { return s.path("directory") }

// GatehouseLog is all that Gatehouse has written to stdout and stderr so far.
func (s *Sandbox) GatehouseLog() string { return readLog(s.gatehouse) }

// EnvoyLog is all that Envoy has written so far: its access log and its warnings.
func (s *Sandbox) EnvoyLog() string { return readLog(s.envoy) }

// DecisionLog is the file that gatehouse.yaml names for decisions.
func (s *Sandbox) DecisionLog() string { return s.path("decisions.log") }

// StopGatehouse sends SIGTERM to Gatehouse, waits for its end and returns its exit code. Envoy and the application stay.
// A Gatehouse that does not end in time is killed, with an error.
func (s *Sandbox) StopGatehouse() (exitCode int, err error) {
	err = s.gatehouse.stop(stopGrace)
	return s.gatehouse.State().ExitCode(), err
}

// Close stops Envoy, Gatehouse and the application, in this order, and waits for them. It may be called more than once.
// An error says that a process had to be killed; no process is left either way.
func (s *Sandbox) Close() error {
	var errs []error
	for _, p := range []*process{s.envoy, s.gatehouse, s.app} {
		if p != nil {
			errs = append(errs, p.stop(stopGrace))
		}
	}
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
	if s.unlock != nil {
		s.unlock()
		s.unlock = nil
	}
	return errors.Join(errs...)
}

func (s *Sandbox) path(name string) string { return filepath.Join(s.cfg.WorkDir, name) }

// ports are the loopback ports of one sandbox.
type ports struct{ app, http, envoyAdmin, grpc, admin int }

// freePorts finds the ports of one sandbox.
func freePorts() (p ports, err error) {
	for _, port := range p.all() {
		if *port, err = children.FreePort(); err != nil {
			return p, err
		}
	}
	return p, nil
}

// taken is one of the ports that is in use, or 0.
func (p *ports) taken() int {
	for _, port := range p.all() {
		if !children.IsFree(*port) {
			return *port
		}
	}
	return 0
}

func (p *ports) all() []*int { return []*int{&p.app, &p.http, &p.envoyAdmin, &p.grpc, &p.admin} }

func hostPort(port int) string { return children.Loopback(port) }

func loopback(port int) string { return "http://" + hostPort(port) }

// lastLine is the last line of text that is not blank, cut to a readable length.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	line := text[strings.LastIndexByte(text, '\n')+1:]
	if len(line) > 300 {
		line = line[:300] + "..."
	}
	return line
}
