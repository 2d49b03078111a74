package server

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"gatehouse/panics"
)

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
	if keys := s.awaitsRestart.Load(); keys != nil && len(*keys) > 0 {
		return []string{"reload: changed, and needs a restart: " + strings.Join(*keys, ", ")}
	}
	return nil
}

func (s *Server) degradedListeners() []string {
	list := s.conns.Degraded()
	if s.certificates != nil {
		if text := s.certificates.problem.Load(); text != nil {
			list = append(list, "listen.tls: the files changed and cannot be used, the old certificate stays: "+*text)
		}
	}
	return list
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
