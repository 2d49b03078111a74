package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"gatehouse/bundles"
	"gatehouse/policy/bundle"
	"gatehouse/server/conns"
)

// controlTimeout is how long a command over the control socket may take. It waits for an activation that is under way.
const controlTimeout = time.Minute

// maxControl bounds a command and its answer, in bytes.
const maxControl = 1 << 20

// Answer is what every command over the control socket gives back.
type Answer struct {
	Error   string               `json:"error,omitempty"`
	Active  *bundles.Activation  `json:"active,omitempty"`
	Pinned  []string             `json:"pinned,omitempty"` // names of bundles
	History []bundles.Activation `json:"history,omitempty"`

	NeedsRestart []string `json:"needs_restart,omitempty"` // keys that a reload does not change
}

// controlServer serves the commands that change something, over a socket that only its owner can open.
func (s *Server) controlServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /bundles/history", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, Answer{History: s.node.Bundles().History()}, nil)
	})
	mux.HandleFunc("POST /bundles/rollback", func(w http.ResponseWriter, r *http.Request) {
		var order struct {
			To string `json:"to"`
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControl)).Decode(&order); err != nil {
			reply(w, Answer{}, fmt.Errorf("reading the command: %w", err))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), controlTimeout)
		defer cancel()
		active, err := s.node.Bundles().Rollback(ctx, order.To)
		s.logger.Info("control: rollback", zap.String("to", order.To), zap.Error(err))
		reply(w, Answer{Active: &active, Pinned: s.pinned()}, err)
	})
	mux.HandleFunc("POST /bundles/unpin", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), controlTimeout)
		defer cancel()
		err := s.node.Bundles().Unpin(ctx)
		s.logger.Info("control: unpin", zap.Error(err))
		reply(w, Answer{History: s.node.Bundles().History()}, err)
	})
	mux.Handle("GET /metrics", s.metrics())
	mux.HandleFunc("GET /status", s.serveStatus)
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), controlTimeout)
		defer cancel()
		err := s.askReload(ctx)
		a := Answer{NeedsRestart: s.keysAwaitingRestart()}
		if err != nil {
			err = errors.New(bundle.Excerpts(err))
		}
		reply(w, a, err)
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: controlTimeout + 10*time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ConnState: conns.StateOf}
}

// pinned names the bundles that are held at what was rolled back to.
func (s *Server) pinned() (names []string) {
	for _, b := range s.node.Bundles().Status() {
		if b.Pinned {
			names = append(names, b.Name)
		}
	}
	return names
}

func reply(w http.ResponseWriter, a Answer, err error) {
	w.Header().Set("content-type", "application/json")
	if err != nil {
		a = Answer{Error: err.Error()}
		w.WriteHeader(http.StatusConflict)
	}
	_ = json.NewEncoder(w).Encode(a) // the client may be gone
}
