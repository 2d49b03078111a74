// Package dynmod is the gate inside Envoy, without the C: it keeps a node for Envoy's process, makes of what Envoy knows of a request what the
// gate decides about, and of the gate's answer the steps that Envoy takes. cmd/envoymodule is the library around it that Envoy loads.
//
// A request is decided where it is, on the thread of Envoy's worker, unless something must be waited for; see Filter.Decide. The package holds
// nothing that Envoy owns beyond a call, and Envoy holds nothing of its own but numbers. Every way in recovers, and a request that could not be
// decided is denied.
//
// It may import server, gate, extauthz and config, and knows no C.
package dynmod

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap/zapcore"

	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/panics"
	"gatehouse/server"
)

// Config is what a module is made of.
type Config struct {
	Version string
	// Smoke is [edge.Config.Smoke].
	Smoke func(*config.Config) (func(context.Context, *gate.Gate) error, error)
	// Log gets the node's log; nil is standard error.
	Log zapcore.Core
	// Say gets what concerns Envoy's operators before there is a log, and while there is none.
	Say func(text string)
	// Workers is how many threads Envoy has for requests.
	Workers int
	// Executable is Envoy's program, in which its version is looked for. Default: /proc/self/exe.
	Executable string
}

// Module is all of Gatehouse in one process of Envoy's: one node, however many filters ask it.
type Module struct {
	with    Config
	tickets tickets

	serving   atomic.Pointer[server.Server] // nil: there is none that could decide
	slowUntil atomic.Int64                  // nanoseconds since the epoch
	saidAt    atomic.Int64                  // second in which sayBroken last said something

	mu      sync.Mutex // guards what follows: of Open and Close
	file    string
	content [sha256.Size]byte // of file, as it was last read
	users   int
	reloads chan os.Signal
	stop    context.CancelFunc
	ended   chan struct{}
	version error // of Envoy, once it was looked at
	checked bool
	threads bool // were chosen
}

// New returns a Module, which does nothing until a filter is opened.
func New(with Config) *Module {
	if with.Say == nil {
		with.Say = func(string) {}
	}
	if with.Executable == "" {
		with.Executable = "/proc/self/exe"
	}
	return &Module{with: with}
}

// readyWithin is how long a start may take until the node decides; afterwards it denies until it does.
const (
	startTimeout = time.Minute
	readyWithin  = 10 * time.Second
	stopWithin   = 30 * time.Second
	restartAfter = time.Second
)

// Open makes a filter of its configuration, and starts the node with the first of them. A further filter has a changed gatehouse.yaml read
// again. lacks is a function that Envoy should have and has not; "" is none. With validate nothing is started: the configuration is only read. It is called by one thread at a time.
func (m *Module) Open(text, lacks string, validate bool) (_ *Filter, err error) {
	defer panics.Into("opening a filter", &err)
	settings, err := ParseSettings(text)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := &Filter{settings: settings, module: m}
	if f.broken = m.envoy(settings, lacks); f.broken != nil {
		m.with.Say(f.broken.Error())
		m.users++
		return f, nil
	}
	if validate {
		_, _, err := config.Source{File: settings.Config}.Read()
		m.users++
		return f, err
	}
	if m.stop != nil && m.file != settings.Config {
		return nil, fmt.Errorf("filter_config: config: this process has a node already, of %s: give all filters the same file, "+
			"and what differs between them in context_extensions (gatehouse.app)", m.file)
	}
	if m.stop == nil {
		err = m.start(settings)
	} else {
		m.reload()
	}
	if err != nil {
		return nil, err
	}
	m.users++
	return f, nil
}

// envoy is what is wrong with the version of Envoy. Its file is read once.
func (m *Module) envoy(s *Settings, lacks string) error {
	if lacks != "" {
		return fmt.Errorf("this Envoy has no envoy_dynamic_module_callback_%s: use Envoy %s, or the libgatehouse.so for yours", lacks, Tried)
	}
	if s.AnyEnvoy {
		return nil
	}
	if !m.checked {
		m.version, m.checked = checkEnvoy(m.with.Executable), true
	}
	return m.version
}

// start starts the node. What is wrong with its configuration is returned; once it runs, it is started anew where it ends by itself.
func (m *Module) start(s *Settings) error {
	m.chooseThreads()
	reloads := make(chan os.Signal, 1)
	with := server.Config{Source: config.Source{File: s.Config}, Reloads: reloads, Version: m.with.Version, Log: m.with.Log, Embedded: true,
		WaitForPolicy: s.WaitForPolicy, Smoke: m.with.Smoke}
	content := fingerprint(s.Config)
	first, err := newServer(with)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	m.file, m.content, m.reloads, m.stop, m.ended = s.Config, content, reloads, stop, ended
	ready := first.Ready()
	go func() {
		defer close(ended)
		defer panics.Recover("keeping a node in Envoy")
		m.keep(ctx, first, with)
	}()
	select {
	case <-ready:
	case <-ended:
	case <-time.After(readyWithin):
	}
	return nil
}

func newServer(with server.Config) (*server.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return server.New(ctx, with)
}

// keep runs the node until ctx ends. Where it ends with an error, all requests are denied until the next one is up.
func (m *Module) keep(ctx context.Context, s *server.Server, with server.Config) {
	for ctx.Err() == nil {
		if s != nil {
			m.serving.Store(s)
			err := panics.LoopError(ctx, "serving in Envoy", s.Run)
			m.serving.Store(nil)
			if ctx.Err() != nil {
				return
			}
			m.with.Say(fmt.Sprintf("the node ended, and is started anew; until then every request is denied: %v", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(restartAfter):
		}
		var err error
		if s, err = newServer(with); err != nil {
			m.with.Say("the node cannot be started, every request is denied: " + err.Error())
		}
	}
}

// reload has the node read its configuration again where the file is another one than it has read.
func (m *Module) reload() {
	content := fingerprint(m.file)
	if content == m.content {
		return
	}
	m.content = content
	select {
	case m.reloads <- syscall.SIGHUP:
	default: // one is asked for already, and has not begun
	}
}

// fingerprint is a file's content, for comparison. Files that cannot be read are alike.
func fingerprint(file string) [sha256.Size]byte {
	text, err := config.ReadBounded(file)
	if err != nil {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(text)
}

// Close ends a filter. With the last one the node ends too, and has written its log when Close returns.
func (m *Module) Close(*Filter) {
	defer panics.Recover("closing a filter")
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.users--; m.users > 0 || m.stop == nil {
		return
	}
	m.stop()
	select {
	case <-m.ended:
	case <-time.After(stopWithin):
		m.with.Say("the node takes too long to end, and is left behind")
	}
	m.stop = nil
}

// moreThreads are those beside Envoy's workers: what the node does in the background must not wait until a worker leaves Go.
const moreThreads = 2

// chooseThreads lets Go use a thread for each of Envoy's workers and some more. Where GOMAXPROCS is set, its owner knows better.
func (m *Module) chooseThreads() {
	if m.threads {
		return
	}
	m.threads = true
	if _, set := os.LookupEnv("GOMAXPROCS"); !set {
		runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), m.with.Workers) + moreThreads)
	}
	server.PaceGC()
}

// gate is what decides now; nil: nothing does.
func (m *Module) gate() *gate.Gate {
	if s := m.serving.Load(); s != nil {
		return s.Gate()
	}
	return nil
}

// slow reports whether decisions are made by other threads now.
func (m *Module) slow(now time.Time) bool { return now.UnixNano() < m.slowUntil.Load() }

// took notes how long a decision took on a worker.
func (m *Module) took(since time.Time) {
	if took := time.Since(since); took > slowDecision {
		m.slowUntil.Store(since.Add(took + slowFor).UnixNano())
	}
}

// sayBroken says why every request is denied, at most once a second.
func (m *Module) sayBroken(err error) {
	if now := time.Now().Unix(); m.saidAt.Swap(now) != now {
		m.with.Say("every request is denied: " + err.Error())
	}
}
