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

	"gatehouse/config"
	"gatehouse/extauthz"
	"gatehouse/gate"
	"gatehouse/server/conns"
)

// validate checks listen.http.
func validateHTTP(c *config.HTTP) error {
	var errs []error
	if _, _, err := network(c.Address); err != nil {
		errs = append(errs, config.Wrong("listen.http.address", "%w", err))
	}
	if _, err := extauthz.NewHTTP(nil, httpHandler(c, nil)); err != nil {
		errs = append(errs, fmt.Errorf("listen.http.%w", err))
	}
	return errors.Join(errs...)
}

func httpHandler(c *config.HTTP, logger *zap.Logger) extauthz.HTTPConfig {
	return extauthz.HTTPConfig{Proxy: extauthz.Proxy(c.Proxy), PathPrefix: c.PathPrefix, Logger: logger}
}

// httpMode is the HTTP listener. The zero value is none: its methods do nothing.
type httpMode struct {
	handler  *extauthz.HTTP
	server   *http.Server
	listener net.Listener
}

func newHTTPMode(c *config.HTTP, idle time.Duration, g *gate.Gate, logger *zap.Logger) (httpMode, error) {
	if c == nil {
		return httpMode{}, nil
	}
	handler, err := extauthz.NewHTTP(g, httpHandler(c, logger))
	if err != nil {
		return httpMode{}, fmt.Errorf("listen.http.%w", err)
	}
	server := handler.Server()
	server.IdleTimeout, server.ConnState = idle, conns.StateOf
	return httpMode{handler: handler, server: server}, nil
}

// serve answers until stop.
func (m httpMode) serve() error {
	if err := m.server.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving authorization over HTTP: %w", err)
	}
	return nil
}

// drain lets the proxy's connections end with their next answer.
func (m httpMode) drain() {
	if m.handler != nil {
		m.handler.Drain()
	}
}

// stop waits for the requests under way, at most for timeout. It reports whether it had to cut some off.
func (m httpMode) stop(timeout time.Duration) (cut bool) {
	if m.server == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if m.server.Shutdown(ctx) == nil {
		return false
	}
	_ = m.server.Close() // what is still open is cut off, which is all there is to do
	return true
}

// overHTTP is a listener's TLS configuration for HTTP/1.1, where the one for gRPC offers HTTP/2 only.
func overHTTP(c *tls.Config) *tls.Config {
	if c == nil {
		return nil
	}
	protocols := []string{"http/1.1"}
	out := c.Clone()
	out.NextProtos = protocols
	if active := c.GetConfigForClient; active != nil {
		out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			next, err := active(hello)
			if err != nil || next == nil {
				return next, err
			}
			next = next.Clone()
			next.NextProtos = protocols
			return next, nil
		}
	}
	return out
}

// jwksServer tells applications the keys of the active configuration's headers.jwt, and nothing else.
func (s *Server) jwksServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, r *http.Request) {
		if m := s.node.Minter(); m != nil {
			m.ServeJWKS(w, r)
			return
		}
		writeText(w, http.StatusNotFound, "headers.jwt is not configured\n")
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ConnState: conns.StateOf}
}

// serveUntilClosed answers on a listener until its server is closed; without a listener it returns at once.
func serveUntilClosed(what string, server *http.Server, l net.Listener) error {
	if l == nil {
		return nil
	}
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", what, err)
	}
	return nil
}
