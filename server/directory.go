package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"gatehouse/authzen"
	"gatehouse/config"
	"gatehouse/edge"
	"gatehouse/gate"
	"gatehouse/identity/apikey"
	"gatehouse/identity/credential"
	"gatehouse/panics"
	"gatehouse/server/conns"
	"gatehouse/topaz"
	"gatehouse/watch"
)

// maxKeys bounds the file of keys, in bytes.
const maxKeys = 16 << 20

// The scopes of keys.
const (
	actAs      = "act-as"      // may ask about users by name
	mayWrite   = "write"       // may change the directory
	readPolicy = "read-policy" // may see what the policy consists of
	mayQuery   = "query"       // may send queries of its own
)

// errNoKeys is a file of keys that was never read.
var errNoKeys = errors.New("the file of keys was not read")

// clientKeys are the keys of those who may ask the directory, as last read.
type clientKeys struct {
	file   string
	logger *zap.Logger
	active atomic.Pointer[apikey.Set]

	problem atomic.Pointer[string] // why the file is not in use; nil: it is
}

func (k *clientKeys) load() (err error) {
	defer func() {
		k.problem.Store(nil)
		if err != nil {
			k.problem.Store(new(err.Error()))
		}
	}()
	raw, err := watch.ReadFile(k.file, maxKeys)
	if err != nil {
		return err
	}
	set, err := apikey.Parse(k.file, raw)
	if err == nil {
		k.active.Store(set)
	}
	return err
}

// client finds who a key belongs to.
func (k *clientKeys) client(key string) (topaz.Client, error) {
	set := k.active.Load()
	if set == nil {
		return topaz.Client{}, errNoKeys
	}
	id, err := set.Check(credential.Token{Raw: key}, time.Now())
	if err != nil {
		return topaz.Client{}, err
	}
	c := topaz.Client{ID: id.Subject}
	for _, scope := range id.Scopes {
		c.ActAs = c.ActAs || scope == actAs
		c.Write = c.Write || scope == mayWrite
		c.ReadPolicy = c.ReadPolicy || scope == readPolicy
		c.Query = c.Query || scope == mayQuery
	}
	return c, nil
}

// watch follows the file. One that cannot be used changes nothing.
func (k *clientKeys) watch(ctx context.Context) {
	watch.Files(ctx, watch.Config{Targets: watch.Paths(k.file), Poll: watchInterval, Logger: k.logger}, func() {
		if err := k.load(); err != nil {
			k.logger.Error("the keys of listen.directory changed and cannot be used, the old ones stay", zap.Error(err))
		}
	})
}

// directoryAPI is what clients of the directory ask. The zero value is none: its methods do nothing.
type directoryAPI struct {
	server       *grpc.Server
	keys         *clientKeys
	certificates *certificates // nil without TLS
	listeners    []net.Listener
	authzen      authzenAPI
}

// validateDirectoryListen checks listen.directory.
func validateDirectoryListen(c *config.ListenDirectory) error {
	var errs []error
	if len(c.GRPC) == 0 && len(c.HTTP) == 0 {
		errs = append(errs, config.Wrong("listen.directory.grpc", "give at least one address, or listen.directory.http"))
	}
	errs = append(errs, validateAddresses("listen.directory.grpc", c.GRPC, c.TLS != nil), validateAuthZEN(c))
	if c.TLS != nil {
		if _, err := loadTLS(c.TLS); err != nil {
			errs = append(errs, config.Wrong("listen.directory.tls", "%w", err))
		}
	}
	if c.Keys == "" {
		errs = append(errs, config.Wrong("listen.directory.keys", "required: without it nobody could ask; make one with gatehouse identity new-key"))
	} else if err := (&clientKeys{file: c.Keys}).load(); err != nil {
		errs = append(errs, config.Wrong("listen.directory.keys", "%w", err))
	}
	return errors.Join(errs...)
}

// validateAddresses checks the addresses of a key. Without TLS they must be of this machine alone.
func validateAddresses(key string, addresses []string, secure bool) error {
	var errs []error
	for i, a := range addresses {
		kind, at, err := network(a)
		if err == nil && kind == "tcp" && !secure && !loopback(at) {
			err = fmt.Errorf("%q: keys would be readable on the network: set listen.directory.tls, or keep to 127.0.0.1 or a unix socket", a)
		}
		if err != nil {
			errs = append(errs, config.Wrong(fmt.Sprintf("%s[%d]", key, i), "%w", err))
		}
	}
	return errors.Join(errs...)
}

// loopback reports whether host:port is of this machine alone.
func loopback(address string) bool {
	host, _, _ := net.SplitHostPort(address)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func newDirectoryAPI(c config.Listen, n *edge.Node, version string, logger *zap.Logger) (directoryAPI, error) {
	if c.Directory == nil {
		return directoryAPI{}, nil
	}
	keys := &clientKeys{file: c.Directory.Keys, logger: logger}
	if err := keys.load(); err != nil {
		return directoryAPI{}, config.Wrong("listen.directory.keys", "%w", err)
	}
	service := topaz.New(topaz.Config{Gate: n.Gate(), Authenticate: keys.client, Write: n.Write, Queries: c.Directory.Queries, Version: version})
	server := grpc.NewServer(append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(recoverUnary), grpc.ChainStreamInterceptor(recoverStream),
		grpc.MaxConcurrentStreams(uint32(min(c.MaxStreams, 100))), grpc.MaxHeaderListSize(maxGRPCHeaders),
		grpc.ConnectionTimeout(time.Duration(c.Handshake)), grpc.KeepaliveParams(keepaliveOf(c)),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true})}, service.ServerOptions()...)...)
	service.Register(server)
	authzen, err := newAuthZEN(c.Directory, n.Gate(), keys, logger)
	return directoryAPI{server: server, keys: keys, authzen: authzen}, err
}

// open opens the listeners with what opens one of a key.
func (a *directoryAPI) open(c *config.ListenDirectory, open func(key, address string, secure *tls.Config) net.Listener) error {
	if a.server == nil {
		return nil
	}
	var secure *tls.Config
	if c.TLS != nil {
		var err error
		if a.certificates, err = newCertificates(c.TLS); err != nil {
			return config.Wrong("listen.directory.tls", "%w", err)
		}
		secure = a.certificates.server()
	}
	for i, address := range c.GRPC {
		if l := open(fmt.Sprintf("listen.directory.grpc[%d]", i), address, secure); l != nil {
			a.listeners = append(a.listeners, l)
		}
	}
	a.authzen.open(c, secure, open)
	return nil
}

// serve runs in goroutines that start starts: those that serve, and with help those that end with ctx.
func (a *directoryAPI) serve(ctx context.Context, serve func(func() error), help func(func())) {
	if a.server == nil {
		return
	}
	help(func() { panics.Loop(ctx, "watching the keys of listen.directory", a.keys.watch) })
	if a.certificates != nil {
		help(func() {
			panics.Loop(ctx, "watching TLS files", func(ctx context.Context) { a.certificates.watch(ctx, a.keys.logger) })
		})
	}
	for _, l := range a.listeners {
		serve(func() error { return served("serving the directory", func() error { return a.server.Serve(l) }) })
	}
	a.authzen.serve(serve)
}

// stop waits for the calls under way, at most for timeout.
func (a *directoryAPI) stop(timeout time.Duration) {
	if a.server == nil {
		return
	}
	late := time.AfterFunc(timeout, a.server.Stop) // goroutine: it closes connections, nothing else
	defer late.Stop()
	var wait sync.WaitGroup
	defer wait.Wait()
	wait.Go(func() { // goroutine: net/http recovers its own
		a.authzen.stop(timeout)
	})
	a.server.GracefulStop()
}

// degraded is what was changed and cannot be used.
func (a *directoryAPI) degraded() (list []string) {
	if a.keys != nil {
		if text := a.keys.problem.Load(); text != nil {
			list = append(list, "listen.directory.keys: the file changed and cannot be used, the old keys stay: "+*text)
		}
	}
	return append(list, a.certificates.degraded("listen.directory.tls")...)
}

// authzenKey is where the addresses of the AuthZEN API are configured.
const authzenKey = "listen.directory.http"

// validateAuthZEN checks listen.directory.http, and listen.directory.authzen.
func validateAuthZEN(c *config.ListenDirectory) error {
	errs := []error{validateAddresses(authzenKey, c.HTTP, c.TLS != nil)}
	if _, err := authzen.New(authzenConfig(c)); err != nil {
		errs = append(errs, config.Wrong("listen.directory.authzen", "%w", err))
	}
	if len(c.HTTP) == 0 && c.AuthZEN != (config.AuthZEN{}) {
		errs = append(errs, config.Wrong("listen.directory.authzen", "nobody can ask: give an address in %s", authzenKey))
	}
	return errors.Join(errs...)
}

func authzenConfig(c *config.ListenDirectory) authzen.Config {
	return authzen.Config{Decision: c.AuthZEN.Decision, URL: c.AuthZEN.URL}
}

// authzenAPI is the AuthZEN API over HTTP. The zero value is none: its methods do nothing.
type authzenAPI struct {
	server    *http.Server
	listeners []net.Listener
}

func newAuthZEN(c *config.ListenDirectory, g *gate.Gate, keys *clientKeys, logger *zap.Logger) (authzenAPI, error) {
	if len(c.HTTP) == 0 {
		return authzenAPI{}, nil
	}
	with := authzenConfig(c)
	with.Gate = g
	with.Authenticate = func(authorization string) (authzen.Client, error) {
		client, err := keys.client(topaz.Key(authorization))
		return authzen.Client{ID: client.ID, ActAs: client.ActAs}, err
	}
	handler, err := authzen.New(with)
	if err != nil {
		return authzenAPI{}, fmt.Errorf("listen.directory.authzen.%w", err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, Protocols: protocols, ConnState: conns.StateOf, DisableGeneralOptionsHandler: true}
	if server.ErrorLog, err = zap.NewStdLogAt(logger, zap.DebugLevel); err != nil {
		return authzenAPI{}, err
	}
	return authzenAPI{server: server}, nil
}

// open opens the listeners with what opens one of a key.
func (a *authzenAPI) open(c *config.ListenDirectory, secure *tls.Config, open func(key, address string, secure *tls.Config) net.Listener) {
	for i, address := range c.HTTP {
		if l := open(fmt.Sprintf("%s[%d]", authzenKey, i), address, overHTTP(secure)); l != nil {
			a.listeners = append(a.listeners, l)
		}
	}
}

// serve runs in goroutines that start starts.
func (a *authzenAPI) serve(start func(func() error)) {
	for _, l := range a.listeners {
		start(func() error {
			return served("serving AuthZEN", func() error { return serveUntilClosed("AuthZEN", a.server, l) })
		})
	}
}

// stop waits for the requests under way, at most for timeout.
func (a *authzenAPI) stop(timeout time.Duration) {
	if a.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if a.server.Shutdown(ctx) != nil {
		_ = a.server.Close() // what is still open is cut off
	}
}
