package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"

	"gatehouse/authzen"
	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/server/conns"
	"gatehouse/topaz"
)

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
