// Package server is the process around a node: it owns the listeners, TLS, the limits of connections, the admin port, the control socket, reloads and
// the way out. What decides, and what keeps that fresh, is package edge's; what Envoy says is package extauthz's.
//
// It may import edge, config, extauthz, gate and what their status consists of. It reads no flags and never exits: New reports everything that is wrong
// before anything listens, and Run serves until its context ends.
package server

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/extauthz"
	"gatehouse/gate"
	"gatehouse/panics"
	"gatehouse/server/conns"
)

// Config is what the process that serves is made of.
type Config struct {
	Source  config.Source    // read at the start, and again for each reload
	Reloads <-chan os.Signal // each value is a wish to read the configuration again
	Version string           // shown on the status page, in traces and in the log
	Log     zapcore.Core     // gets the log, whatever the configuration says of it; nil is standard error

	// LogLevel and LogFormat, unless empty, stand for log.level and log.format; Console is the format where neither says one.
	LogLevel, LogFormat string
	Console             bool
	// WaitForPolicy starts without a policy, or a directory, that can be used, and answers not_ready until there is one.
	WaitForPolicy bool
	// Embedded says that the process is a proxy's, which asks Gate by itself: listen.grpc and listen.http are not opened, and signals, the
	// memory limit and the number of threads are left to the process.
	Embedded bool
	// Smoke is [edge.Config.Smoke].
	Smoke func(*config.Config) (func(context.Context, *gate.Gate) error, error)
}

// read reads the configuration.
func (c Config) read() (*config.Config, *config.Document, error) {
	cfg, doc, err := c.Source.Read()
	if err != nil {
		return nil, nil, err
	}
	if _, said := doc.Lines["log.format"]; c.Console && !said {
		cfg.Log.Format = "console"
	}
	if c.Embedded {
		cfg.Listen.GRPC, cfg.Listen.HTTP = nil, nil
	}
	cfg.Log.Level, cfg.Log.Format = cmp.Or(c.LogLevel, cfg.Log.Level), cmp.Or(c.LogFormat, cfg.Log.Format)
	return cfg, doc, nil
}

// transport are the options of the gRPC server that depend on how messages are to be handled.
func (c Config) transport() []grpc.ServerOption {
	if c.Source.Plain {
		return extauthz.PlainServerOptions()
	}
	return append(extauthz.ServerOptions(), grpc.NumStreamWorkers(workers))
}

// Server is the whole of `gatehouse serve`.
type Server struct {
	with      Config
	config    *config.Config // as of the start; listen never changes
	level     zap.AtomicLevel
	logger    *zap.Logger
	registry  *prometheus.Registry
	node      *edge.Node
	cores     cores
	health    *health.Server
	grpc      *grpc.Server
	http      httpMode     // zero without listen.http
	directory directoryAPI // zero without listen.directory

	conns        *conns.Connections
	listeners    []net.Listener
	sockets      []*socket     // those of all listeners that are unix sockets
	certificates *certificates // nil without TLS
	admin        net.Listener
	control      net.Listener
	jwks         net.Listener
	flushTraces  func(context.Context) error
	started      time.Time
	failures     chan error    // that end the process
	leaving      chan struct{} // closed when long-lived streams must end
	draining     atomic.Bool
	reloadErr    atomic.Pointer[string] // why the last reload failed, nil where it did not
	reloads      atomic.Uint64          // that have ended, also in vain
	asked        chan chan<- error      // for a reload, over the control socket; who asks is told the outcome

	awaitsRestart atomic.Pointer[[]string] // keys that the last reload could not change
}

// New reads the configuration, makes all of it and opens the listeners. It reports every problem of the configuration at once, and leaves nothing
// behind where there is one.
func New(ctx context.Context, with Config) (_ *Server, err error) {
	cfg, doc, err := with.read()
	if err != nil {
		return nil, err
	}
	s := &Server{with: with, config: cfg, level: zap.NewAtomicLevel(), registry: prometheus.NewRegistry(),
		health: health.NewServer(), started: time.Now(), leaving: make(chan struct{}), failures: make(chan error, 8), asked: make(chan chan<- error)}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	found := doc.Problems()
	s.logger, err = buildLog(cfg.Log, s.level, with.Log)
	found.Add("log", err)
	panics.SetReporter(func(e panics.Event) {
		s.logger.Error("recovered from a panic", zap.String("where", e.Where), zap.Any("panic", e.Value), zap.Uint64("not_said_before", e.More), zap.ByteString("stack", e.Stack))
	})
	busy := s.cores.begin
	if with.Embedded {
		busy = nil
	} else {
		limitMemory(s.logger, memlimit.FromCgroup)
	}
	var traces *gate.Traces
	traces, s.flushTraces, err = buildTraces(ctx, cfg.Traces, with.Version)
	found.Add("traces", err)
	found.Add("listen", with.validateListen(cfg.Listen))
	s.node, err = edge.New(ctx, edge.Config{Config: cfg, Found: found, Failed: s.failed, Busy: busy, RefuseBroken: !with.WaitForPolicy, Smoke: with.Smoke, Version: with.Version,
		Gate: gate.Config{Logger: s.logger, Traces: traces, Registerer: s.registry, OnPublish: s.published}})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.node.Discard()
		}
	}()
	s.conns = conns.New(cfg.Listen, s.registry)
	s.grpc = grpc.NewServer(append(with.transport(), grpc.ChainUnaryInterceptor(recoverUnary), grpc.ChainStreamInterceptor(recoverStream, s.endOnDrain),
		grpc.MaxConcurrentStreams(uint32(cfg.Listen.MaxStreams)), grpc.MaxHeaderListSize(maxGRPCHeaders),
		grpc.ConnectionTimeout(time.Duration(cfg.Listen.Handshake)), grpc.KeepaliveParams(keepaliveOf(cfg.Listen)),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))...)
	extauthz.New(s.node.Gate(), s.logger).Register(s.grpc)
	if s.http, err = newHTTPMode(cfg.Listen.HTTP, time.Duration(cfg.Listen.Idle), s.node.Gate(), s.logger); err != nil {
		return nil, err
	}
	if s.directory, err = newDirectoryAPI(cfg.Listen, s.node, with.Version, s.logger); err != nil {
		return nil, err
	}
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	s.health.SetServingStatus(extauthz.ServiceName, grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if err := s.listen(doc); err != nil {
		return nil, err
	}
	return s, nil
}

// Ready is closed when Gate uses the configuration.
func (s *Server) Ready() <-chan struct{} { return s.node.Ready() }

// Gate is what decides.
func (s *Server) Gate() *gate.Gate { return s.node.Gate() }

// published keeps the health service in step with what the gate can do.
func (s *Server) published(v *gate.View) {
	serving := grpc_health_v1.HealthCheckResponse_SERVING
	if v.Ready() != nil || s.draining.Load() {
		serving = grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	s.health.SetServingStatus("", serving)
	s.health.SetServingStatus(extauthz.ServiceName, serving)
}

// Run serves until ctx ends, then drains: not serving, no new connections, requests under way end, the decision log is
// written out.
func (s *Server) Run(ctx context.Context) error {
	if !s.with.Embedded {
		signal.Ignore(syscall.SIGPIPE) // or the end of whoever reads standard error or output would be ours
	}
	// Everything behind the listeners outlives ctx: it is needed until the last request under way has its answer.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var helpers, servers sync.WaitGroup
	helpers.Go(func() { panics.Loop(background, "looking at connections", s.conns.Watch) })
	if len(s.sockets) > 0 {
		helpers.Go(func() { panics.Loop(background, "looking at sockets", s.watchSockets) })
	}
	if s.certificates != nil {
		helpers.Go(func() {
			panics.Loop(background, "watching TLS files", func(ctx context.Context) { s.certificates.watch(ctx, s.logger) })
		})
	}
	ended := make(chan error, 1)
	helpers.Go(func() {
		err := served("running the node", func() error { return s.node.Run(background) })
		ended <- err
		s.failed(err)
	})
	select {
	case <-s.node.Ready():
	case err := <-ended:
		s.closeListeners()
		return err
	}
	for _, l := range s.listeners {
		servers.Go(func() { s.failed(served("serving gRPC", func() error { return s.grpc.Serve(l) })) })
	}
	if s.http.listener != nil {
		servers.Go(func() { s.failed(served("serving authorization over HTTP", s.http.serve)) })
	}
	// goroutine: both are given what recovers by itself
	s.directory.serve(background, func(f func() error) { servers.Go(func() { s.failed(f()) }) }, func(f func()) { helpers.Go(f) })
	admin := s.adminServer()
	servers.Go(func() {
		s.failed(served("serving the admin port", func() error { return serveUntilClosed("the admin port", admin, s.admin) }))
	})
	jwks := s.jwksServer()
	servers.Go(func() {
		s.failed(served("serving the keys of headers.jwt", func() error { return serveUntilClosed("the keys of headers.jwt", jwks, s.jwks) }))
	})
	control := s.controlServer()
	servers.Go(func() {
		s.failed(served("serving the control socket", func() error { return serveUntilClosed("the control socket", control, s.control) }))
	})
	s.logger.Info("listening", zap.Strings("grpc", addresses(s.listeners...)), zap.Strings("http", addresses(s.http.listener)),
		zap.Strings("directory", addresses(s.directory.listeners...)), zap.Strings("authzen", addresses(s.directory.authzen.listeners...)), zap.Strings("admin", addresses(s.admin)), zap.Strings("jwks", addresses(s.jwks)), zap.Strings("control", addresses(s.control)), zap.String("version", s.with.Version))

	err := s.waitForEnd(ctx, background)
	s.drain()
	_ = admin.Close() // its requests only read
	_ = jwks.Close()  // likewise
	_ = control.Close()
	servers.Wait()
	stop()
	helpers.Wait()
	select {
	case late := <-s.failures:
		err = errors.Join(err, late)
	default:
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if late := s.flushTraces(flush); late != nil {
		s.logger.Warn("the last traces were not delivered", zap.Error(late))
	}
	s.logger.Info("stopped", zap.Error(err))
	_ = s.logger.Sync() // standard error cannot always be synced
	return err
}

// failed ends the process in order; nil is nothing.
func (s *Server) failed(err error) {
	if err == nil {
		return
	}
	select {
	case s.failures <- err:
	default: // one failure is enough
	}
}

// waitForEnd waits for the end of ctx or a failure, and reloads meanwhile when it is asked to.
func (s *Server) waitForEnd(ctx, background context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.failures:
			return err
		case <-s.with.Reloads:
			_ = s.reload(ctx, background) // it has said what is wrong
		case told := <-s.asked:
			told <- s.reload(ctx, background)
		}
	}
}

// maxGRPCHeaders bounds the headers of one request over gRPC: those of the call itself, as the request that Envoy asks about is in the message.
const maxGRPCHeaders = 64 << 10

// keepalive ends connections that are idle or old, with GOAWAY: the client takes another one for what it asks next.
func keepaliveOf(c config.Listen) keepalive.ServerParameters {
	out := keepalive.ServerParameters{MaxConnectionIdle: time.Duration(c.Idle)}
	if c.MaxAge > 0 {
		out.MaxConnectionAge, out.MaxConnectionAgeGrace = time.Duration(c.MaxAge), time.Minute
	}
	return out
}

// workers is how many goroutines wait for streams: enough for the cores to be busy, few enough to stay in cache.
const workers = 32

// drain tells the world that we are leaving and waits for the requests under way.
func (s *Server) drain() {
	s.draining.Store(true)
	s.health.Shutdown()
	s.logger.Info("draining", zap.Duration("timeout", time.Duration(s.config.Listen.DrainTimeout)))
	s.http.drain()
	time.Sleep(time.Duration(s.config.Listen.DrainDelay))
	close(s.leaving)
	done := make(chan struct{})
	cut := make(chan bool, 1)
	others := make(chan struct{})
	go func() {
		defer panics.Recover("ending connections to the directory")
		defer close(others)
		s.directory.stop(time.Duration(s.config.Listen.DrainTimeout))
	}()
	go func() {
		defer panics.Recover("ending HTTP connections")
		cut <- s.http.stop(time.Duration(s.config.Listen.DrainTimeout))
	}()
	go func() {
		defer panics.Recover("ending gRPC connections")
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
	case <-time.After(time.Duration(s.config.Listen.DrainTimeout)):
		s.logger.Warn("requests are still under way, stopping anyway")
		s.grpc.Stop()
		<-done
	}
	<-others
	if <-cut {
		s.logger.Warn("requests over HTTP were still under way, stopped anyway")
	}
}

// endOnDrain ends streams that would go on as long as the client likes, such as health watches, once we have said that we
// are leaving: otherwise they would hold the drain up to its end.
func (s *Server) endOnDrain(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() {
		defer panics.Recover("ending a stream")
		select {
		case <-s.leaving:
			cancel()
		case <-ctx.Done():
		}
	}()
	return next(srv, &endingStream{ServerStream: stream, ctx: ctx})
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *endingStream) Context() context.Context { return s.ctx }
