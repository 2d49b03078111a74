package main

import (
	"fmt"
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
func (s *server) degradedParts() []degradedPart {
	e := s.current.Load()
	return []degradedPart{
		{"keys", s.gate.View().Degraded()},
		{"bundles", e.bundles.Degraded()},
		{"routes", e.degradedRoutes()},
		{"reload", s.degradedReload()},
		{"decision_log", e.sink.log.Degraded()},
		{"listeners", s.degradedListeners()},
		{"panics", panics.Degraded()},
	}
}

// degraded lists what a process that decides cannot do, for /readyz and /status.
func (s *server) degraded() (list []string) {
	for _, part := range s.degradedParts() {
		list = append(list, part.says...)
	}
	return list
}

// degradedRoutes are the route tables, and the descriptors, whose file cannot be used: the old ones are in use.
func (e *engine) degradedRoutes() (list []string) {
	for _, r := range e.routes {
		if text := r.problem.Load(); text != nil {
			list = append(list, fmt.Sprintf("routes: %s cannot be used, the old table stays: %s", r.file.path, *text))
		}
	}
	if e.protos != nil {
		if text := e.protos.problem.Load(); text != nil {
			list = append(list, fmt.Sprintf("routes: %s cannot be used, the old descriptors stay: %s", e.protos.file.path, *text))
		}
	}
	return list
}

func (s *server) degradedReload() []string {
	if text := s.reloadErr.Load(); text != nil {
		return []string{"reload: the last one failed, the configuration before it stays active: " + *text}
	}
	if keys := s.awaitsRestart.Load(); keys != nil && len(*keys) > 0 {
		return []string{"reload: changed, and needs a restart: " + strings.Join(*keys, ", ")}
	}
	return nil
}

func (s *server) degradedListeners() []string {
	list := s.conns.degraded()
	if s.certificates != nil {
		if text := s.certificates.problem.Load(); text != nil {
			list = append(list, "listen.tls: the files changed and cannot be used, the old certificate stays: "+*text)
		}
	}
	return list
}

// gatherDegraded is the metric of the same.
func (s *server) gatherDegraded() ([]*dto.MetricFamily, error) {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "gatehouse_degraded",
		Help: "1 where a part of the process is not as configured, or cannot do all that it should; /status says what."}, []string{"part"})
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
