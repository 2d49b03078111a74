package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"

	"gatehouse/bundles"
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

// Control gives commands to a running process, over its control socket.
type Control struct {
	Socket string // the socket's path
}

// Rollback makes an earlier policy active again: to is a revision or the beginning of a digest, "" what was active before.
func (c Control) Rollback(ctx context.Context, to string) (Answer, error) {
	return c.send(ctx, "POST", "/bundles/rollback", map[string]string{"to": to})
}

// Unpin ends a rollback.
func (c Control) Unpin(ctx context.Context) (Answer, error) {
	return c.send(ctx, "POST", "/bundles/unpin", nil)
}

// History lists the policies that can be rolled back to.
func (c Control) History(ctx context.Context) (Answer, error) {
	return c.send(ctx, "GET", "/bundles/history", nil)
}

// send gives a command to the running process and returns its answer.
func (c Control) send(ctx context.Context, method, url string, order any) (a Answer, err error) {
	body, err := json.Marshal(order)
	if err != nil {
		return a, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://gatehouse"+url, bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
	}}
	client := &http.Client{Transport: transport, Timeout: controlTimeout + 10*time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return a, fmt.Errorf("talking to the running process: %w\nis it running, as the same user, with listen.control set?", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxControl)).Decode(&a); err != nil {
		return a, fmt.Errorf("%s does not answer as gatehouse does (%s): %w", c.Socket, resp.Status, err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}
