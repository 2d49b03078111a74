package server

import (
	"errors"
	"fmt"
	"gatehouse/server/conns"
	"net"
	"net/http"
	"time"
)

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
