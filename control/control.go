// Package control is the control plane: one place in which the directories and policies of all environments are managed,
// and from which they go to every edge. Edges decide without it.
//
// It serves package api on one TLS port: clients with a token, edges with a certificate of control's own authority. What
// it knows is in package store; a write is answered once it is on disk there, and a stream to each edge then carries it
// on. Nothing here waits for an edge: one that is slow reads the database when it comes to it.
//
// It may import directory, the readers of bundles and its own parts: api, wire, store, authority, decisions, policies. It
// never meets the gate or Envoy: what is tried with a gate is tried in a process of its own, package judge.
package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"gatehouse/control/api"
	"gatehouse/control/authority"
	"gatehouse/control/decisions"
	"gatehouse/control/policies"
	"gatehouse/control/scim"
	"gatehouse/control/store"
	"gatehouse/control/wire"
	"gatehouse/panics"
)

// Config is what a Server is made of.
type Config struct {
	Dir    string   // made where it is missing
	Listen string   // host:port
	Names  []string // further names and addresses that the server's certificate is for
	Logger *zap.Logger
	Clock  func() time.Time // nil: time.Now
	// NewAdminToken makes a token with the scope admin, also where there are tokens already.
	NewAdminToken bool
	// Checker has bundles checked that are pushed: see policies.NewChecker.
	Checker policies.Checker
}

// Bounds of the server.
const (
	maxRequest     = 8 << 20          // bytes of one message of a client
	maxEdgeRequest = 64 << 10         // of an edge, or of who wants to be one
	maxConnections = 20_000           // at once
	maxHandshakes  = 64               // TLS handshakes at once: more would let none of them end in time
	handshakeTime  = 30 * time.Second // for one, once it has begun
	drainTime      = 10 * time.Second
	seenEvery      = 10 * time.Second // how often the last words of edges are stored
)

// AuthorityFile is the file in the folder that holds the certificate of control's authority.
const AuthorityFile = authority.CertificateFile

// DefaultEnvironment is there from the start.
const DefaultEnvironment = "default/prod"

// Server is one control plane. New makes it and opens its port; it serves while Run runs.
type Server struct {
	with      Config
	logger    *zap.Logger
	store     *store.Store
	authority *authority.Authority
	fleet     *fleet
	snapshots *snapshots
	policies  *policies.Store
	checker   *policies.Checker
	holds     chan struct{} // one for each request for a bundle that waits for a newer one
	listener  net.Listener
	limits    *limits
	trail     *trail
	admin     string // the text of the first admin token; "": none was made

	stopping chan struct{} // closed when streams are to end
}

// New opens the folder and the port.
func New(ctx context.Context, with Config) (s *Server, err error) {
	if with.Clock == nil {
		with.Clock = time.Now
	}
	if with.Logger == nil {
		with.Logger = zap.NewNop()
	}
	s = &Server{with: with, logger: with.Logger, fleet: newFleet(), stopping: make(chan struct{}), limits: newLimits(), holds: make(chan struct{}, maxHolds),
		checker: policies.NewChecker(with.Checker)}
	if s.store, err = store.Open(ctx, store.Config{Dir: with.Dir, Logger: with.Logger, Clock: with.Clock}); err != nil {
		return nil, err
	}
	opened := s
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	if s.snapshots, err = newSnapshots(filepath.Join(with.Dir, "tmp")); err != nil {
		return nil, err
	}
	if s.authority, err = authority.Open(with.Dir, serverNames(with), with.Clock); err != nil {
		return nil, fmt.Errorf("the certificate authority: %w", err)
	}
	if s.policies, err = policies.Open(with.Dir, s.authority); err != nil {
		return nil, fmt.Errorf("the folder of bundles: %w", err)
	}
	kept, err := decisions.Open(decisions.Config{Dir: filepath.Join(with.Dir, DecisionsFolder), Signer: s.authority, Logger: with.Logger, Clock: with.Clock})
	if err != nil {
		return nil, fmt.Errorf("the decisions: %w", err)
	}
	s.trail = newTrail(kept)
	if s.listener, err = net.Listen("tcp", with.Listen); err != nil {
		return nil, fmt.Errorf("%w\nanother program has this port, or this machine has no such address: --listen names another", err)
	}
	s.openTrail()
	if err := s.first(ctx); err != nil { // last: the token that it makes is shown once, by who runs the server
		return nil, err
	}
	return s, nil
}

// close gives back what New had opened when it failed.
func (s *Server) close() {
	if s.listener != nil {
		_ = s.listener.Close() // nothing was accepted
	}
	if s.snapshots != nil {
		s.snapshots.close()
	}
	if s.trail != nil {
		s.trail.Close()
	}
	s.store.Close()
}

// serverNames are the names that the server's certificate is for.
func serverNames(with Config) []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if host, _, err := net.SplitHostPort(with.Listen); err == nil && host != "" && net.ParseIP(host) == nil {
		names = append(names, host)
	} else if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		names = append(names, host)
	}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	names = append(names, with.Names...)
	slices.Sort(names)
	return slices.Compact(names)
}

// first makes what a new control has: an environment, and a token for who started it.
func (s *Server) first(ctx context.Context) error {
	if _, err := s.store.Environment(DefaultEnvironment); errors.Is(err, store.ErrNotFound) && len(s.store.Environments()) == 0 {
		if _, err := s.store.CreateEnvironment(ctx, DefaultEnvironment, "control"); err != nil {
			return err
		}
	}
	tokens, err := s.store.Tokens(ctx)
	if err != nil || len(tokens) > 0 && !s.with.NewAdminToken {
		return err
	}
	_, s.admin, err = s.store.CreateToken(ctx, "first admin", []string{store.ScopeAdmin}, 0, "control")
	return err
}

// AdminToken is the text of the admin token that New made; "": it made none. It is nowhere else.
func (s *Server) AdminToken() string { return s.admin }

// Addr is the address of the port.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Pin names control's certificate authority.
func (s *Server) Pin() string { return s.authority.Pin() }

// AuthorityFile is the file of the authority's certificate.
func (s *Server) AuthorityFile() string { return filepath.Join(s.with.Dir, authority.CertificateFile) }

// Run serves until ctx ends; then it ends the streams, lets requests finish and closes the store.
func (s *Server) Run(ctx context.Context) error {
	defer s.store.Close()
	defer s.trail.Close()
	defer s.snapshots.close()
	var running sync.WaitGroup
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	writing, stopWriting := context.WithCancel(inner)
	defer running.Wait()
	defer stop()
	var failed error
	var writer sync.WaitGroup
	writer.Go(func() {
		if err := panics.LoopError(writing, "writing to the database", s.store.Run); err != nil {
			s.logger.Error("writing to the database", zap.Error(err))
		}
	})
	running.Go(func() { panics.Loop(inner, "storing what edges said", s.keepSeen) })
	running.Go(func() { panics.Loop(inner, "guarding rollouts", s.guardRollouts) })

	tcp := &handshakes{logger: s.logger, inner: s.listener, config: s.tls(), ready: make(chan net.Conn), done: make(chan struct{}),
		slots: make(chan struct{}, maxHandshakes), open: make(chan struct{}, maxConnections), say: rate.NewLimiter(5, 20)}
	running.Go(func() { panics.Loop(inner, "accepting connections", func(context.Context) { tcp.run() }) })
	server := &http.Server{Handler: s.handler(), TLSConfig: s.tls(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return inner }, ErrorLog: zap.NewStdLog(zap.NewNop()),
		HTTP2: &http.HTTP2Config{SendPingTimeout: 20 * time.Second, PingTimeout: 20 * time.Second, WriteByteTimeout: 30 * time.Second, MaxConcurrentStreams: 100,
			MaxReadFrameSize: 64 << 10, MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 256 << 10}}
	served := make(chan error, 1)
	running.Go(func() { served <- server.Serve(tcp) }) // goroutine: net/http recovers its own
	s.logger.Info("control is ready", zap.Stringer("listen", s.Addr()), zap.String("epoch", s.store.Epoch()), zap.Int("environments", len(s.store.Environments())))
	select {
	case <-ctx.Done():
	case failed = <-served:
	}
	close(s.stopping)
	drain, stopDrain := context.WithTimeout(inner, drainTime)
	if err := server.Shutdown(drain); err != nil {
		s.logger.Warn("requests were cut at the end", zap.Error(err))
		_ = server.Close()
	}
	stopDrain()
	_ = tcp.Close() // the server closed it already, unless it failed
	if err := s.storeSeen(inner); err != nil {
		s.logger.Warn("storing what edges said", zap.Error(err))
	}
	stopWriting()
	writer.Wait()
	if errors.Is(failed, http.ErrServerClosed) {
		failed = nil
	}
	return failed
}

// tls are the settings of the port: a client's certificate is optional, but one that is shown must be of our authority.
func (s *Server) tls() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: s.authority.Pool(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.authority.Server() }, Time: s.with.Clock}
}

// handler serves the services, and the bundles.
func (s *Server) handler() http.Handler {
	options := []connect.HandlerOption{connect.WithReadMaxBytes(maxRequest), connect.WithCompressMinBytes(4 << 10), connect.WithRecover(
		func(_ context.Context, spec connect.Spec, _ http.Header, value any) error {
			panics.Report("answering "+spec.Procedure, value)
			return connect.NewError(connect.CodeInternal, errors.New("an error of control itself: its log has more"))
		})}
	mux := http.NewServeMux()
	path, h := api.NewDirectoryServiceHandler(&directoryService{s}, options...)
	mux.Handle(path, s.tokenFirst(h))
	path, h = api.NewAdminServiceHandler(&adminService{s}, options...)
	mux.Handle(path, s.tokenFirst(h))
	path, h = api.NewPolicyServiceHandler(&policyService{s, make(chan struct{}, 1)}, append(slices.Clip(options), connect.WithReadMaxBytes(maxPush))...)
	mux.Handle(path, s.tokenFirst(h))
	mux.Handle(api.PolicyServicePushRevisionProcedure, s.tokenFirst(few(make(chan struct{}, pushesAtOnce), (*store.Token).MayPush, h)))
	mux.HandleFunc("GET /bundles/{project}/{environment}", s.fetch)
	mux.HandleFunc("GET "+wire.BundlePath, s.fetch)
	mux.HandleFunc("GET "+wire.SignerPath, s.signer)
	path, h = api.NewDecisionServiceHandler(&decisionService{Server: s}, options...)
	mux.Handle(path, s.tokenFirst(h))
	mux.HandleFunc("POST "+DecisionsPath, s.takeDecisions)
	// Changes are small and go to many: compressing them for each would cost more than it saves.
	path, h = api.NewEdgeServiceHandler(&edgeService{s}, append(slices.Clip(options), connect.WithCompression("gzip", nil, nil), connect.WithReadMaxBytes(maxEdgeRequest))...)
	mux.Handle(path, h)
	for _, procedure := range []string{api.EdgeServiceEnrollProcedure, api.EdgeServiceRenewProcedure} {
		mux.Handle(procedure, soon(h))
	}
	mux.Handle(scim.Path, s.scim())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return withPeer(mux)
}
