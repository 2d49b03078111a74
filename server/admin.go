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
	"gatehouse/panics"
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
	Reloads     uint64                `json:"reloads"` // that have ended since the start, also in vain
	ReloadError string                `json:"reload_error,omitempty"`
	TLSError    string                `json:"tls_error,omitempty"`
	Notices     []string              `json:"notices,omitempty"`
	Bundles     []bundles.Status      `json:"bundles"`
	Routes      []edge.RoutesStatus   `json:"routes,omitempty"`
	Directory   *edge.DirectoryStatus `json:"directory,omitempty"`
	Keys        []identity.KeyStatus  `json:"keys"`
	Memo        gate.MemoStatus       `json:"memo"`
	Shadow      *edge.ShadowStatus    `json:"shadow,omitempty"`
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
	out.Reloads = s.reloads.Load()
	out.Notices, out.Degraded = slices.Concat(view.Notices(), g.Notices()), s.degraded()
	out.Routes, out.Directory, out.Shadow = s.node.Routes(), s.node.Directory(), s.node.Shadow()
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
	mux.Handle("GET /metrics", s.metrics())
	mux.HandleFunc("GET /status", s.serveStatus)
	profile(mux)
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ConnState: conns.StateOf}
}

func (s *Server) metrics() http.Handler {
	return promhttp.HandlerFor(prometheus.GathererFunc(s.gather), promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

func (s *Server) serveStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("content-type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(s.status()) // the client may be gone
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

// degradedPart is one part of the process that decides, and what it cannot do right now, one sentence each.
type degradedPart struct {
	name string // the metric's label: a closed list
	says []string
}

// degradedParts are all parts, in the order in which they are told.
func (s *Server) degradedParts() []degradedPart {
	d := s.node.Degraded()
	return []degradedPart{
		{"keys", d.Keys},
		{"bundles", d.Bundles},
		{"routes", d.Routes},
		{"directory", d.Directory},
		{"reload", s.degradedReload()},
		{"decision_log", d.DecisionLog},
		{"listeners", s.degradedListeners()},
		{"panics", panics.Degraded()},
	}
}

// degraded lists what a process that decides cannot do, for /readyz and /status.
func (s *Server) degraded() (list []string) {
	for _, part := range s.degradedParts() {
		list = append(list, part.says...)
	}
	return list
}

func (s *Server) degradedReload() []string {
	if text := s.reloadErr.Load(); text != nil {
		return []string{"reload: the last one failed, the configuration before it stays active: " + *text}
	}
	if keys := s.keysAwaitingRestart(); len(keys) > 0 {
		return []string{"reload: changed, and needs a restart: " + strings.Join(keys, ", ")}
	}
	return nil
}

func (s *Server) keysAwaitingRestart() []string {
	if keys := s.awaitsRestart.Load(); keys != nil {
		return *keys
	}
	return nil
}

func (s *Server) degradedListeners() []string {
	return slices.Concat(s.conns.Degraded(), s.certificates.degraded("listen.tls"), s.directory.degraded())
}

// gatherDegraded is the metric of the same.
func (s *Server) gatherDegraded() ([]*dto.MetricFamily, error) {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "gatehouse_degraded",
		Help: "1 while a part of the process is degraded; /status has the reasons."}, []string{"part"})
	for _, part := range s.degradedParts() {
		value := 0.0
		if len(part.says) > 0 {
			value = 1
		}
		gauge.WithLabelValues(part.name).Set(value)
	}
	r := prometheus.NewRegistry()
	r.MustRegister(gauge)
	return r.Gather()
}
