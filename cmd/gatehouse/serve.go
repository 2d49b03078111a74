package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"gatehouse/config"
	"gatehouse/extauthz"
	"gatehouse/gate"
	"gatehouse/panics"
)

func serveCommand() *cobra.Command {
	var src config.Source
	c := &cobra.Command{
		Use:   "serve",
		Short: "Answer Envoy's authorization requests",
		Example: `  gatehouse serve --config gatehouse.yaml
  gatehouse serve --bundle ./policy`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			paceGC()
			if src.File == "" && src.Bundle == "" {
				return usageError{errors.New("nothing to serve: give --config gatehouse.yaml, or --bundle DIR to run with defaults")}
			}
			s, err := newServer(c.Context(), src)
			if err != nil {
				return err
			}
			return s.run(c.Context())
		},
	}
	c.Flags().StringVarP(&src.File, "config", "c", "", "configuration file")
	c.Flags().StringVarP(&src.Bundle, "bundle", "b", "", "policy directory or tarball, besides those of the configuration")
	c.Flags().BoolVar(&src.Plain, "plain", false, "reference path: decide without anything that only makes it faster (remembered decisions, partial input, own wire format)")
	return c
}

// transport are the options of the gRPC server that depend on how messages are to be handled.
func transport(s config.Source) []grpc.ServerOption {
	if s.Plain {
		return extauthz.PlainServerOptions()
	}
	return append(extauthz.ServerOptions(), grpc.NumStreamWorkers(workers))
}

// server is the whole of `gatehouse serve`: built by newServer, which reports everything that is wrong before anything
// listens, and run until its context ends.
type server struct {
	source   config.Source
	config   *config.Config // as of the start; listen never changes
	level    zap.AtomicLevel
	logger   *zap.Logger
	registry *prometheus.Registry
	gate     *gate.Gate
	health   *health.Server
	grpc     *grpc.Server
	http     httpMode // zero without listen.http
	engine   *engine  // of the active configuration; replaced by reload, on run's goroutine

	conns        *connections
	listeners    []net.Listener
	certificates *certificates // nil without TLS
	admin        net.Listener
	control      net.Listener
	jwks         net.Listener
	retired      sync.WaitGroup // decision logs that a reload replaced
	flushTraces  func(context.Context) error
	started      time.Time
	hangups      chan os.Signal // SIGHUP
	leaving      chan struct{}  // closed when long-lived streams must end
	draining     atomic.Bool
	reloadErr    atomic.Pointer[string] // why the last reload failed, nil where it did not
	current      atomic.Pointer[engine] // engine, for the status page

	awaitsRestart atomic.Pointer[[]string] // keys that the last reload could not change
}

// newServer takes SIGHUP over first of all: one that comes while we start must not end the process.
func newServer(ctx context.Context, src config.Source) (*server, error) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	cfg, doc, err := src.Read()
	if err != nil {
		return nil, err
	}
	s := &server{source: src, config: cfg, level: zap.NewAtomicLevel(), registry: prometheus.NewRegistry(),
		health: health.NewServer(), started: time.Now(), hangups: hangups, leaving: make(chan struct{})}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	found := doc.Problems()
	s.logger, err = buildLog(cfg.Log, s.level)
	found.Add("log", err)
	panics.Tell(func(e panics.Event) {
		s.logger.Error("panicked, and goes on", zap.String("where", e.Where), zap.Any("panic", e.Value), zap.Uint64("not_said_before", e.More), zap.ByteString("stack", e.Stack))
	})
	limitMemory(s.logger, memlimit.FromCgroup)
	var traces *gate.Traces
	traces, s.flushTraces, err = buildTraces(cfg.Traces, ctx)
	found.Add("traces", err)
	e, policyErr, err := newEngine(ctx, cfg, found, s.logger, nil)
	if err != nil {
		return nil, err
	}
	if policyErr != nil {
		s.logger.Error("no policy yet: not ready until this is mended", zap.Error(policyErr))
	}
	if s.gate, err = gate.New(gate.Config{Logger: s.logger, Traces: traces, Registerer: s.registry, OnPublish: s.published}); err != nil {
		return nil, err
	}
	s.setEngine(e)
	s.conns = newConnections(cfg.Listen, s.registry)
	s.grpc = grpc.NewServer(append(transport(src), grpc.ChainUnaryInterceptor(recoverUnary), grpc.ChainStreamInterceptor(recoverStream, s.endWithUs),
		grpc.MaxConcurrentStreams(uint32(cfg.Listen.MaxStreams)), grpc.MaxHeaderListSize(maxGRPCHeaders), grpc.SharedWriteBuffer(true),
		grpc.ConnectionTimeout(time.Duration(cfg.Listen.Handshake)), grpc.KeepaliveParams(keepaliveOf(cfg.Listen)),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))...)
	extauthz.New(s.gate, s.logger).Register(s.grpc)
	if s.http, err = newHTTPMode(cfg.Listen.HTTP, time.Duration(cfg.Listen.Idle), s.gate, s.logger); err != nil {
		return nil, err
	}
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	s.health.SetServingStatus(extauthz.ServiceName, grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	return s, s.listen(doc)
}

func (s *server) setEngine(e *engine) {
	s.engine = e
	s.current.Store(e)
}

// listen opens every listener, or none.
func (s *server) listen(doc *config.Document) error {
	var errs []error
	var secure *tls.Config
	if c := s.config.Listen.TLS; c != nil {
		var err error
		if s.certificates, err = newCertificates(c); err != nil {
			return fmt.Errorf("%s: listen.tls: %w", doc.At("listen.tls"), err)
		}
		secure = s.certificates.server()
	}
	open := func(key, address string, secure *tls.Config) net.Listener {
		c := s.config.Listen
		if key == "listen.control" {
			c.Socket = config.Socket{Mode: "0600"}
		}
		l, err := openListener(c, address, secure, listenerName(key), s.conns)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", doc.At(key), key, err))
			return nil
		}
		return l
	}
	for i, address := range s.config.Listen.GRPC {
		if l := open(fmt.Sprintf("listen.grpc[%d]", i), address, secure); l != nil {
			s.listeners = append(s.listeners, l)
		}
	}
	if c := s.config.Listen.HTTP; c != nil {
		s.http.listener = open("listen.http.address", c.Address, overHTTP(secure))
	}
	if s.config.Listen.Admin != "" {
		s.admin = open("listen.admin", s.config.Listen.Admin, nil)
	}
	if path, ok := config.CutUnix(s.config.Listen.Control); ok {
		s.control = open("listen.control", "unix:"+path, nil)
	}
	if s.config.Listen.JWKS != "" {
		s.jwks = open("listen.jwks", s.config.Listen.JWKS, nil)
	}
	if len(errs) == 0 {
		return nil
	}
	for _, l := range s.listeners {
		l.Close()
	}
	for _, l := range []net.Listener{s.http.listener, s.admin, s.control, s.jwks} {
		if l != nil {
			l.Close()
		}
	}
	return fmt.Errorf("cannot listen, nothing was started:\n%w\nanother process may be listening there: change the address, or stop it", errors.Join(errs...))
}

// published keeps the health service in step with what the gate can do.
func (s *server) published(v *gate.View) {
	serving := grpc_health_v1.HealthCheckResponse_SERVING
	if v.Ready() != nil || s.draining.Load() {
		serving = grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	s.health.SetServingStatus("", serving)
	s.health.SetServingStatus(extauthz.ServiceName, serving)
}

// run serves until ctx ends, then drains: not serving, no new connections, requests under way end, the decision log is
// written out.
func (s *server) run(ctx context.Context) error {
	// Everything behind the listeners outlives ctx: it is needed until the last request under way has its answer.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failures := make(chan error, 8)
	failed := func(err error) {
		if err != nil {
			select {
			case failures <- err:
			default: // one failure is enough to end the process
			}
		}
	}
	var helpers, servers sync.WaitGroup
	helpers.Go(func() {
		failed(panics.LoopError(background, "publishing what decides", s.gate.Run))
	})
	helpers.Go(func() { panics.Loop(background, "looking at connections", s.conns.watch) })
	if s.certificates != nil {
		helpers.Go(func() {
			panics.Loop(background, "watching TLS files", func(ctx context.Context) { s.certificates.watch(ctx, s.logger) })
		})
	}
	s.engine.sink.start(background, s.gate, failed)

	if err := s.gate.Publish(background, s.engine.parts(false)); err != nil {
		return err
	}
	// Where the policy does not fit the rest, the bundles' manager says so, and goes on trying.
	_ = s.gate.Publish(background, s.engine.parts(true))
	s.engine.start(background, s.gate, failed)
	for _, l := range s.listeners {
		servers.Go(func() { failed(served("serving gRPC", func() error { return s.grpc.Serve(l) })) })
	}
	if s.http.listener != nil {
		servers.Go(func() { failed(served("serving authorization over HTTP", s.http.serve)) })
	}
	admin := s.adminServer()
	servers.Go(func() {
		failed(served("serving the admin port", func() error { return serveUntilClosed("the admin port", admin, s.admin) }))
	})
	jwks := s.jwksServer()
	servers.Go(func() {
		failed(served("serving the keys of headers.jwt", func() error { return serveUntilClosed("the keys of headers.jwt", jwks, s.jwks) }))
	})
	control := s.controlServer()
	servers.Go(func() {
		failed(served("serving the control socket", func() error { return serveUntilClosed("the control socket", control, s.control) }))
	})
	s.logger.Info("listening", zap.Strings("grpc", addresses(s.listeners...)), zap.Strings("http", addresses(s.http.listener)),
		zap.Strings("admin", addresses(s.admin)), zap.Strings("jwks", addresses(s.jwks)), zap.Strings("control", addresses(s.control)), zap.String("version", version()))

	err := s.untilTheEnd(ctx, background, failures, failed)
	s.drain()
	_ = admin.Close() // its requests only read
	_ = jwks.Close()  // likewise
	_ = control.Close()
	servers.Wait()
	s.engine.halt()
	s.retired.Wait()
	s.engine.sink.halt()
	stop()
	helpers.Wait()
	select {
	case late := <-failures:
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

// untilTheEnd waits for the end of ctx or a failure, and reloads on SIGHUP meanwhile.
func (s *server) untilTheEnd(ctx, background context.Context, failures chan error, failed func(error)) error {
	defer signal.Stop(s.hangups)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failures:
			return err
		case <-s.hangups:
			s.reload(background, failed)
		}
	}
}

// drain tells the world that we are leaving and waits for the requests under way.
func (s *server) drain() {
	s.draining.Store(true)
	s.health.Shutdown()
	s.logger.Info("draining", zap.Duration("timeout", time.Duration(s.config.Listen.DrainTimeout)))
	s.http.drain()
	time.Sleep(time.Duration(s.config.Listen.DrainDelay))
	close(s.leaving)
	done := make(chan struct{})
	cut := make(chan bool, 1)
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
	if <-cut {
		s.logger.Warn("requests over HTTP were still under way, stopped anyway")
	}
}

// endWithUs ends streams that would go on as long as the client likes, such as health watches, once we have said that we
// are leaving: otherwise they would hold the drain up to its end.
func (s *server) endWithUs(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
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

// addresses are what listeners are bound to.
func addresses(listeners ...net.Listener) []string {
	out := []string{}
	for _, l := range listeners {
		if l != nil {
			out = append(out, l.Addr().String())
		}
	}
	return out
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

// listenerName is the kind of listener that a key configures.
func listenerName(key string) string {
	name := strings.TrimPrefix(key, "listen.")
	if end := strings.IndexAny(name, ".["); end >= 0 {
		name = name[:end]
	}
	return name
}

// workers is how many goroutines wait for streams: enough for the cores to be busy, few enough to stay in cache.
const workers = 32

func validateLog(c config.Log) error {
	var errs []error
	if l, err := zapcore.ParseLevel(c.Level); err != nil || l < zapcore.DebugLevel || l > zapcore.ErrorLevel {
		errs = append(errs, fmt.Errorf("log.level: %q is none of debug, info, warn, error", c.Level))
	}
	if c.Format != "json" && c.Format != "console" {
		errs = append(errs, fmt.Errorf("log.format: %q is neither json nor console", c.Format))
	}
	return errors.Join(errs...)
}

func setLevel(c config.Log, level zap.AtomicLevel) {
	if l, err := zapcore.ParseLevel(c.Level); err == nil {
		level.SetLevel(l)
	}
}

// build makes the operators' log: on standard error, in JSON or for people. It is usable also where it is not as wished.
func buildLog(c config.Log, level zap.AtomicLevel) (*zap.Logger, error) {
	setLevel(c, level)
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoder := zapcore.NewJSONEncoder(enc)
	if c.Format == "console" {
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	core := zapcore.NewSamplerWithOptions(zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), level), time.Second, 50, 100)
	return zap.New(core), validateLog(c)
}
