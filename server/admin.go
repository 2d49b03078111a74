package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"gatehouse/bundles"
	"gatehouse/decisionlog"
	"gatehouse/edge"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/server/conns"
)

var errDraining = errors.New("draining")

// Status is the document at /status.
type Status struct {
	Version     string                `json:"version"`
	Started     time.Time             `json:"started"`
	Ready       bool                  `json:"ready"`
	NotReady    string                `json:"not_ready,omitempty"`
	Degraded    []string              `json:"degraded,omitempty"`
	Draining    bool                  `json:"draining"`
	View        uint64                `json:"view"`
	Revision    string                `json:"revision,omitempty"`
	ReloadError string                `json:"reload_error,omitempty"`
	TLSError    string                `json:"tls_error,omitempty"`
	Notices     []string              `json:"notices,omitempty"`
	Bundles     []bundles.Status      `json:"bundles"`
	Routes      []edge.RoutesStatus   `json:"routes,omitempty"`
	Directory   *edge.DirectoryStatus `json:"directory,omitempty"`
	Keys        []identity.KeyStatus  `json:"keys"`
	Memo        gate.MemoStatus       `json:"memo"`
	DecisionLog decisionlog.Status    `json:"decision_log"`
}

// ready says why this process should get no traffic, nil where it should.
func (s *Server) ready() error {
	if s.draining.Load() {
		return errDraining
	}
	return s.node.Gate().View().Ready()
}

// keyStatus is an empty list where no issuer is configured.
func keyStatus(v *gate.View) []identity.KeyStatus {
	if list := v.Keys.Status(); list != nil {
		return list
	}
	return []identity.KeyStatus{}
}

func (s *Server) status() Status {
	g := s.node.Gate()
	view := g.View()
	out := Status{Version: s.with.Version, Started: s.started.UTC(), Draining: s.draining.Load(), View: view.Serial,
		Bundles: s.node.Bundles().Status(), Keys: keyStatus(view), Memo: g.MemoStatus(), DecisionLog: s.node.DecisionLog()}
	out.Notices, out.Degraded = slices.Concat(view.Notices(), g.Notices()), s.degraded()
	out.Routes, out.Directory = s.node.Routes(), s.node.Directory()
	if s.certificates != nil {
		if text := s.certificates.problem.Load(); text != nil {
			out.TLSError = *text
		}
	}
	if err := s.ready(); err != nil {
		out.NotReady = err.Error()
	}
	out.Ready = out.NotReady == ""
	if view.Policy != nil {
		out.Revision = view.Policy.Revision()
	}
	if text := s.reloadErr.Load(); text != nil {
		out.ReloadError = *text
	}
	return out
}

// adminServer serves what operators and probes read. Nothing on it changes anything.
func (s *Server) adminServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		code, text := http.StatusOK, "ready"
		if err := s.ready(); err != nil {
			code, text = http.StatusServiceUnavailable, "not ready: "+err.Error()
		}
		if degraded := s.degraded(); len(degraded) > 0 {
			text += " (degraded: " + strings.Join(degraded, "; ") + ")"
		}
		writeText(w, code, text+"\n")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.GathererFunc(s.gather), promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(s.status()) // the client may be gone
	})
	profile(mux)
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ConnState: conns.StateOf}
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("content-type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // the client may be gone
}

// gather collects the process's metrics and those of the active engine, which come and go with it.
func (s *Server) gather() ([]*dto.MetricFamily, error) {
	return prometheus.Gatherers{s.registry, s.node, prometheus.GathererFunc(s.gatherDegraded), prometheus.GathererFunc(gatherPanics)}.Gather()
}
