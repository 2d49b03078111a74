package edge

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/bundles"
	"gatehouse/config"
	"gatehouse/decisionlog"
	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/identity/mint"
	"gatehouse/panics"
	"gatehouse/policy"
	"gatehouse/routes"
	"gatehouse/terminal"
)

// engine runs everything of one configuration beside the requests: it keeps keys and policy up to date and publishes
// each new version. A reload makes a new engine and ends the old one.
type engine struct {
	settings      *gate.Settings
	verifier      *identity.Verifier
	minter        *mint.Minter     // nil without headers.jwt
	shadow        *bundles.Manager // of policy.shadow; nil: there is none
	bundles       *bundles.Manager
	sink          *sink
	protos        *descriptors // nil where none are configured
	routes        []*routeTable
	directory     *directorySource // nil where there is none
	control       *controlLink     // nil where nothing is taken from control but the directory
	controlBundle string           // the name of the bundle that comes from control; "": none does
	controlKept   string           // for tools: the state_dir with the copy of it that is read instead
	keys          *identity.Keys   // as first loaded; nil where no issuer is configured
	directoryErr  error            // why there is no directory after the first load
	policy        *policy.Snapshot // as first loaded; nil where it does not compile yet
	metrics       *prometheus.Registry
	logger        *zap.Logger
	smoke         func(context.Context, *gate.Gate) error // policy.smoke; nil: no requests
	gate          *gate.Gate                              // set by start
	publisher     *publisher                              // set by start, too

	counted   atomic.Pointer[gate.Counts] // when the policy was published
	published chan struct{}               // signals a publication: see follow

	ctx  context.Context // of its sources; set by begin, before it is published
	stop context.CancelFunc
	wait sync.WaitGroup
}

// newEngine prepares everything without touching what is active, and reports all problems of the configuration at
// once. A policy that does not compile is not a problem of the configuration: it is returned as policyErr.
func newEngine(ctx context.Context, c Config, before *engine) (e *engine, policyErr, err error) {
	cfg, found, logger := c.Config, c.Found, c.logger()
	e = &engine{metrics: prometheus.NewRegistry(), logger: logger, published: make(chan struct{}, 1)}
	running := before.ownSink()

	verifier, minter := VerifierConfig(cfg, logger, e.metrics), (*mint.Minter)(nil)
	if before != nil {
		verifier.Succeeds, minter = before.verifier, before.minter
	}
	if e.verifier, err = identity.New(verifier); err != nil {
		found.Add("identity", WithKeys(err))
	} else if cfg.Identity.Configured() {
		e.keys, err = e.verifier.Load(ctx)
		found.Add("identity", WithKeys(err))
	}
	e.minter, err = newMinter(cfg, logger, minter)
	found.Add("headers.jwt", err)
	found.Add("headers.remove_credential", cfg.ValidateRemoval())
	e.settings, err = Settings(cfg, e.verifier, e.minter)
	found.Add("", err)
	_, e.settings.ManageHeaders = found.Doc.Lines["headers"]
	if e.sink, err = newSink(LogConfig(cfg, logger, nil), sinkServers(cfg), running); err != nil {
		found.Add("decision_log", err)
	} else {
		e.settings.Log = e.sink.log
	}
	if cfg.Policy.Protos != "" {
		e.protos = newDescriptors(cfg.Policy.Protos)
		e.settings.Protos, err = e.protos.read()
		found.Add("policy.protos", err)
	}
	for i, app := range cfg.Applications() {
		if app.Routes.File == "" {
			continue
		}
		at := "routes.file"
		if len(cfg.Apps) > 0 {
			at = fmt.Sprintf("apps[%d].routes.file", i)
		}
		table := newRouteTable(app.Name, app.Routes.File)
		found.Add(at, table.read(logger))
		e.routes = append(e.routes, table)
	}
	e.loadDirectory(ctx, c, before)
	found.Add("control", e.linkControl(c, before))
	if cfg.Identity.Required && !cfg.Identity.Configured() {
		found.Add("identity.required", config.Wrong("identity.required", "no credential is configured, so every request would be denied"))
	}

	if c.Smoke != nil {
		e.smoke, err = c.Smoke(cfg)
		found.Add("policy.smoke", err)
	}
	cfg.ValidateServices(found)
	if len(cfg.Policy.Bundles) == 0 {
		found.Add("policy", config.Wrong("policy.bundles", "give at least one, or --bundle DIR"))
	} else if e.bundles, err = e.newBundles(c, before); err != nil {
		found.Add("policy.bundles", WithKeys(err))
	}
	e.shadow, err = e.newShadow(c)
	found.Add("policy.shadow", WithKeys(err))
	if len(found.Errs) > 0 {
		e.sink.discard(running)
		outcome := "nothing was started"
		if before != nil {
			outcome = "the running configuration stays"
		}
		return nil, nil, &ConfigError{Problems: found.Errs, Outcome: outcome}
	}
	e.policy, policyErr = e.bundles.Load(ctx)
	return e, policyErr, nil
}

// ConfigError is New's where the configuration is wrong: everything that is, and what came of that.
type ConfigError struct {
	Problems []error
	Outcome  string // nothing was started, or the running configuration stays
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("the configuration has %s, %s:\n%v", terminal.Count(len(e.Problems), "problem"), e.Outcome, errors.Join(e.Problems...))
}
func (e *ConfigError) Unwrap() []error { return e.Problems }

// BrokenError is New's, with RefuseBroken: policy or directory cannot be used, and no waiting mends that.
type BrokenError struct{ Err error }

func (e *BrokenError) Error() string {
	return "nothing was started, as it could decide nothing:\n" + e.Err.Error()
}
func (e *BrokenError) Unwrap() error { return e.Err }

// broken is what is wrong with policy and directory that no waiting mends: somebody has to change a file on this machine.
func (e *engine) broken(g *gate.Gate, policyErr error) error {
	var found []error
	if _, broken := errors.AsType[*bundles.BrokenError](policyErr); broken {
		found = append(found, policyErr)
	}
	if e.directory.broken(e.directoryErr) {
		found = append(found, e.directoryErr)
	}
	if policyErr == nil && e.bundles.Local() {
		if err := g.Validate(e.parts(true)); err != nil {
			found = append(found, err)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return &BrokenError{errors.Join(found...)}
}

// newBundles makes the manager of the bundles.
func (e *engine) newBundles(with Config, before *engine) (*bundles.Manager, error) {
	c := BundlesConfig(with.Config, e.logger, e.metrics, e.publish)
	if e.smoke != nil {
		c.Smoke = e.smokeTest
	}
	if before != nil {
		c.Succeeds = before.bundles
	}
	c.Busy = with.Busy
	e.fromControl(with.Config, &c)
	return bundles.New(c)
}

// loadDirectory loads the directory. A failure is not a problem of the configuration: it is kept in directoryErr.
func (e *engine) loadDirectory(ctx context.Context, with Config, before *engine) {
	c := with.Config
	var old *directorySource
	revision := uint64(0)
	if before != nil && before.directory != nil {
		old, revision = before.directory, before.directory.status.Load().Revision
	}
	if e.directory = newDirectorySource(c, e.logger, old); e.directory == nil {
		return
	}
	e.directory.version, e.directory.state = with.Version, e.stateForControl
	e.metrics.MustRegister(e.directory)
	if err := e.directory.start(ctx, revision); err != nil {
		key := "directory.file"
		switch {
		case c.Directory.Writable:
			key = "directory.writable"
		case c.Directory.Control:
			key = "directory.control"
		}
		e.directoryErr = config.Wrong(key, "%w", err)
	}
}

// ownSink is the engine's decision log, nil without an engine.
func (e *engine) ownSink() *sink {
	if e == nil {
		return nil
	}
	return e.sink
}

// parts are the engine's initial parts, to be published in one step. withPolicy false leaves the policy unchanged.
func (e *engine) parts(withPolicy bool) gate.Part {
	return func(v *gate.View) {
		v.Settings, v.Keys, v.Routes = e.settings, e.keys, map[string]*routes.Table{}
		for _, r := range e.routes {
			v.Routes[r.app] = r.table
		}
		e.directory.part()(v)
		v.Shadow = nil // what there is of it comes when it is loaded
		if withPolicy && e.policy != nil {
			v.Policy = e.policy
		}
	}
}

// begin makes the context of the engine's sources before it is published, so that its successor can end it at any
// time after.
func (e *engine) begin(ctx context.Context) { e.ctx, e.stop = context.WithCancel(ctx) }

// start runs the engine until halt is called.
func (e *engine) start(own *publisher, failed func(error)) {
	ctx := e.ctx
	e.gate, e.publisher = own.gate, own
	e.policy = nil // once published the gate owns it; keeping it would hold a replaced policy in memory
	e.wait.Go(func() {
		if err := panics.LoopError(ctx, "keeping bundles fresh", e.bundles.Run); err != nil {
			failed(fmt.Errorf("watching bundles: %w", err))
		}
	})
	if e.directory != nil {
		e.directory.takeOver()
		publish := func(s *directory.Snapshot) error {
			return e.publisher.publish(ctx, e, func(v *gate.View) { v.Directory = s })
		}
		e.wait.Go(func() {
			panics.Loop(ctx, "following the directory", func(ctx context.Context) { e.directory.run(ctx, publish) })
		})
	}
	if e.shadow != nil {
		e.wait.Go(func() {
			if err := panics.LoopError(ctx, "keeping the shadow policy fresh", e.shadow.Run); err != nil {
				e.logger.Error("the shadow policy is not kept fresh any more", zap.Error(err))
			}
		})
	}
	if e.control != nil {
		e.wait.Go(func() { panics.Loop(ctx, "following control", e.control.run) })
	}
	if files := e.followers(); len(files) > 0 {
		e.wait.Go(func() {
			panics.Loop(ctx, "following files", func(ctx context.Context) { e.follow(ctx, files) })
		})
	}
	if e.minter != nil {
		e.wait.Go(func() { _ = panics.LoopError(ctx, "keeping the key of headers.jwt", e.minter.Run) })
	}
	e.wait.Go(func() {
		publish := func(k *identity.Keys) {
			_ = e.publisher.publish(ctx, e, func(v *gate.View) { v.Keys = k })
			e.bundles.RetryRefused()
		}
		if err := panics.LoopError(ctx, "keeping keys fresh", func(ctx context.Context) error { return e.verifier.Run(ctx, publish) }); err != nil {
			failed(fmt.Errorf("keeping keys fresh: %w", err))
		}
	})
}

// publish publishes a compiled policy. Where it does not fit the active routes, it is tried together with route
// tables that were refused because of the active policy: the new versions may only fit each other.
func (e *engine) publish(ctx context.Context, s *policy.Snapshot) error {
	parts := []gate.Part{func(v *gate.View) { v.Policy = s }}
	err := e.publisher.publish(ctx, e, parts...)
	for _, r := range e.routes {
		if table := r.pending.Load(); table != nil {
			parts = append(parts, r.part(table))
		}
	}
	if err != nil && len(parts) > 1 && e.publisher.publish(ctx, e, parts...) == nil {
		err = nil
	}
	if f := e.follower(); f != nil && err == nil {
		now := e.publisher.gate.Counts()
		e.counted.Store(&now)
		f.Tell()
	}
	return err
}

// shutDown ends the engine and waits for it. What it published stays active.
func (e *engine) shutDown() {
	e.stop()
	e.wait.Wait()
}

// sink is a decision log with its metrics and goroutine. A reload that leaves its configuration unchanged keeps it.
type sink struct {
	config  decisionlog.Config // without what is made for this log
	servers []sinkServer       // of its sinks
	log     *decisionlog.Log
	rules   *logRules
	metrics *prometheus.Registry
	stop    context.CancelFunc // nil until started
	done    chan struct{}
}

// newSink opens the decision log, or returns the running one where the configuration is unchanged.
func newSink(cfg decisionlog.Config, servers []sinkServer, running *sink) (*sink, error) {
	if running != nil && reflect.DeepEqual(running.config, cfg) && reflect.DeepEqual(running.servers, servers) {
		return running, nil
	}
	s := &sink{config: cfg, servers: servers, metrics: prometheus.NewRegistry(), done: make(chan struct{}), rules: newLogRules(cfg.Dir, cfg.Logger)}
	cfg.Registerer, cfg.Rules = s.metrics, s.rules.rule
	if running != nil {
		cfg.Succeeds = running.log
	}
	var err error
	if cfg.Sinks, err = connect(cfg.Sinks, servers); err != nil {
		return s, err
	}
	s.log, err = decisionlog.New(cfg)
	return s, err
}

// start writes entries until halt. Masking rules come from the gate's active policy.
func (s *sink) start(ctx context.Context, g *gate.Gate, failed func(error)) {
	if s.stop != nil {
		return
	}
	s.rules.gate.Store(g)
	ctx, s.stop = context.WithCancel(ctx)
	go func() {
		defer close(s.done)
		if err := s.run(ctx); err != nil {
			failed(fmt.Errorf("writing the decision log: %w", err))
		}
	}()
}

// run writes until ctx ends. A panic ends the process in order, like any other error: otherwise nothing would be
// recorded.
func (s *sink) run(ctx context.Context) (err error) {
	defer panics.Into("writing the decision log", &err)
	return s.log.Run(ctx)
}

// shutDown flushes the queue and ends.
func (s *sink) shutDown() {
	s.stop()
	<-s.done
}

// discard closes a log that was opened but will not be used.
func (s *sink) discard(running *sink) {
	if s == nil || s == running || s.log == nil {
		return
	}
	s.log.Discard()
}
