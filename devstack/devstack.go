// Package devstack runs an application on this machine as it will run elsewhere: behind a real Envoy that asks Gatehouse, for its developer. The
// application runs in its own development server, Gatehouse within this process, Envoy from wherever it is found, or fetched once. Policy, directory,
// route table, gatehouse.yaml and the application are reloaded as they change. There is a local issuer with a token for a user of each role that is
// known; its key is for this machine alone, outside of the project, and no other process accepts it.
//
// It owns the processes, their output and the ports. Behind `gatehouse up`. It imports server, project, envoy/generate, and identity/mint.
package devstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gatehouse/children"
	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/project"
	"gatehouse/server"
	"gatehouse/terminal"
)

// Config says what to run.
type Config struct {
	File    string           // gatehouse.yaml
	Project *project.Project // the application; its development server is started
	Command []string         // runs the application instead, with $PORT and {port} for its port
	Port    int              // of Envoy. 0: that of envoy.yaml if it is free, else another
	AppPort int              // of the application. 0: a free one
	Envoy   string           // the program. "": found, or fetched
	Offline bool             // fetch nothing
	State   string           // folder for what is kept about this project, such as the issuer's key: see StateDir
	Cache   string           // folder for an Envoy that was fetched: see CacheDir
	Version string           // of Gatehouse
	Smoke   func(*config.Config) (func(context.Context, *gate.Gate) error, error)
	Out     terminal.Printer // for everything
}

const (
	stopGrace  = 5 * time.Second  // for each program to end
	slowToUp   = 20 * time.Second // after which it is said who is awaited
	pollEvery  = 50 * time.Millisecond
	runPattern = "gatehouse-up-"
)

// stack is everything that runs.
type stack struct {
	cfg   Config
	log   *output
	dir   string // of this run: Envoy's configuration, and sockets
	ports ports
	url   string // of Envoy, for clients
	users *users
	envoy envoyProgram

	gatehouse *server.Server
	app       *program
	proxy     *program
}

type ports struct{ envoy, app, admin int }

// Run runs all of it until ctx ends, which is no error, or until one of them ends, which is. Nothing is left running.
func Run(ctx context.Context, cfg Config) (err error) {
	ctx, unread := context.WithCancel(ctx)
	defer unread()
	s := &stack{cfg: cfg, log: &output{out: cfg.Out, unread: unread}}
	unlock, err := s.claim()
	if err != nil {
		return err
	}
	defer unlock()
	if len(cfg.Command) == 0 {
		if err := s.checkServer(ctx); err != nil {
			return ended(ctx, err)
		}
	}
	if s.envoy, err = findEnvoy(ctx, &cfg, s.log.note); err != nil {
		return ended(ctx, err)
	}
	if s.dir, err = os.MkdirTemp("", runPattern); err != nil {
		return fmt.Errorf("making a folder for this run: %w", err)
	}
	defer os.RemoveAll(s.dir)
	if err := s.prepare(ctx); err != nil {
		return ended(ctx, err)
	}
	return ended(ctx, s.run(ctx))
}

// ended is err, nil where we were told to end.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(err, errKilled) {
		return nil
	}
	return err
}

// errKilled is of a program that would not end by itself.
var errKilled = errors.New("it had to be killed")

// claim makes the folder of the project's state, and takes it for this process.
func (s *stack) claim() (release func(), err error) {
	if err := os.MkdirAll(s.cfg.State, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder for the local issuer: %w", err)
	}
	release, err = children.TryLock(filepath.Join(s.cfg.State, lockFile))
	if errors.Is(err, children.ErrLocked) {
		where, _ := os.ReadFile(s.urlFile())
		return nil, fmt.Errorf("gatehouse up runs for this folder already%s\nstop it with Ctrl-C in its terminal, or use it", at(string(where)))
	}
	return release, err
}

func at(url string) string {
	if url == "" {
		return ""
	}
	return ", at " + url
}

// Files of the project's state: the lock is held, and the URL is there, while gatehouse up runs.
const (
	lockFile = "lock"
	urlFile  = "url"
)

func (s *stack) urlFile() string { return filepath.Join(s.cfg.State, urlFile) }

// prepare chooses ports, writes what Envoy reads, and makes all of Gatehouse.
func (s *stack) prepare(ctx context.Context) error {
	source := config.Source{File: s.cfg.File}
	as, doc, err := source.Read()
	if err != nil {
		return err
	}
	if len(doc.Errs) > 0 {
		return errors.Join(doc.Errs...)
	}
	if len(as.Apps) > 0 {
		return fmt.Errorf("%s has several applications: gatehouse up runs one; start their servers yourself, with gatehouse serve and envoy", s.cfg.File)
	}
	envoy, err := readEnvoyConfig(s.cfg.File, as)
	if err != nil {
		return err
	}
	if err := s.choosePorts(envoy.port); err != nil {
		return err
	}
	s.url = envoy.scheme + "://" + children.Loopback(s.ports.envoy)
	text, err := envoy.with(addresses{envoy: s.ports.envoy, app: s.ports.app, gatehouse: s.socket(), admin: s.adminSocket()})
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.envoyFile(), text, 0o600); err != nil {
		return fmt.Errorf("writing Envoy's configuration: %w", err)
	}
	if s.users, err = openUsers(s.cfg.State, as); err != nil {
		return err
	}
	for _, j := range as.Identity.JWT {
		if isUnmade(j) {
			s.log.note(fmt.Sprintf("issuer %s is left out, as %s is not there: gatehouse token mint --config %s --sub NAME makes it", j.Issuer, terminal.Path(j.Keys.File), terminal.ShellWord(terminal.Path(s.cfg.File))))
		}
	}
	source.Change = s.change
	reloads := make(chan os.Signal, 1)
	s.gatehouse, err = server.New(ctx, server.Config{Source: source, Reloads: reloads, Version: s.cfg.Version, Smoke: s.cfg.Smoke, WaitForPolicy: true, Log: &logCore{out: s.log}})
	if err != nil {
		return err
	}
	s.log.reloads = reloads
	return nil
}

func (s *stack) socket() string      { return filepath.Join(s.dir, "authz.sock") }
func (s *stack) adminSocket() string { return filepath.Join(s.dir, "admin.sock") }
func (s *stack) envoyFile() string   { return filepath.Join(s.dir, "envoy.yaml") }

// longestSocket is the longest path of a unix socket on every system.
const longestSocket = 100

// change is what Gatehouse does otherwise here than elsewhere: where it listens, and that it also accepts the local issuer's tokens.
func (s *stack) change(c *config.Config) {
	c.Listen.GRPC, c.Listen.HTTP, c.Listen.TLS = []string{"unix:" + s.socket()}, nil, nil
	c.Listen.Admin = children.Loopback(s.ports.admin)
	if path, ok := config.CutUnix(c.Listen.Control); ok && len(path) > longestSocket {
		c.Listen.Control = "unix:" + filepath.Join(s.dir, "control.sock")
	}
	c.Policy.Timeout = max(c.Policy.Timeout, config.Duration(2*time.Second)) // the machine of a developer is busy now and then
	s.users.accept(c)
}

// choosePorts takes the ports that are given, or chooses free ones and says which.
func (s *stack) choosePorts(usual int) (err error) {
	s.ports = ports{envoy: s.cfg.Port, app: s.cfg.AppPort}
	for flag, port := range map[string]int{"--port": s.cfg.Port, "--app-port": s.cfg.AppPort} {
		if port != 0 && !children.IsFree(port) {
			return fmt.Errorf("port %d of 127.0.0.1 is in use: choose another one with %s, or leave the flag out for a free one", port, flag)
		}
	}
	if s.ports.envoy == 0 && children.IsFree(usual) {
		s.ports.envoy = usual
	} else if s.ports.envoy == 0 {
		if s.ports.envoy, err = children.FreePort(); err != nil {
			return err
		}
		s.log.note(fmt.Sprintf("port %d of 127.0.0.1 is in use: Envoy listens on %d (--port chooses)", usual, s.ports.envoy))
	}
	if s.ports.app == 0 {
		if s.ports.app, err = children.FreePort(); err != nil {
			return err
		}
	}
	s.ports.admin, err = children.FreePort()
	return err
}

// run runs all three, and returns when they have ended.
func (s *stack) run(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var wait sync.WaitGroup
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	var gatehouseErr error
	wait.Go(func() { // goroutine: the server recovers by itself
		if gatehouseErr = s.gatehouse.Run(serving); gatehouseErr != nil {
			end(fmt.Errorf("gatehouse ended: %w", gatehouseErr))
		}
	})
	wait.Go(func() { s.reload(ctx) }) // goroutine: only looks at a file
	err := s.start(end)
	if err == nil {
		if err = s.tell(ctx); err == nil {
			s.renew(ctx)
			err = context.Cause(ctx)
		}
	}
	if errors.Is(err, context.Canceled) {
		err = nil
		s.log.note("stopping")
	}
	err = errors.Join(err, s.stopAll())
	stopServing()
	end(nil)
	wait.Wait()
	return err
}

// start starts the application and Envoy; end is told where one ends by itself.
func (s *stack) start(end context.CancelCauseFunc) (err error) {
	if s.app, err = s.log.start(s.appCommand(), "app", end); err != nil {
		return err
	}
	s.proxy, err = s.log.start(children.Command{Name: "envoy", Dir: s.dir, Env: os.Environ(), Argv: []string{s.envoy.path, "--config-path", s.envoyFile(), "--concurrency", "1",
		"--disable-hot-restart", "--log-level", "warning", "--log-format", "%l: %v", "--file-flush-interval-msec", "200"}}, "envoy", end)
	return err
}

// stopAll ends Envoy, so that nobody asks any more, and then the application.
func (s *stack) stopAll() error {
	var errs []error
	for _, p := range []*program{s.proxy, s.app} {
		if p != nil {
			if err := p.stop(stopGrace); err != nil {
				errs = append(errs, fmt.Errorf("%w: %w", errKilled, err))
			}
		}
	}
	_ = os.Remove(s.urlFile())
	return errors.Join(errs...)
}
