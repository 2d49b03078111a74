package bundles

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the manager's. Label values are the configured bundles' names, a closed list of results, and one revision
// per bundle.
type metrics struct {
	reloads *prometheus.CounterVec
	success *prometheus.GaugeVec
	info    *prometheus.GaugeVec
	failing *prometheus.GaugeVec
	stages  *prometheus.CounterVec
	pinned  *prometheus.GaugeVec
	retries *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_bundle_reloads_total",
			Help: "Attempts to activate a changed bundle, by result."}, []string{"bundle", "result"}),
		success: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "gatehouse_bundle_last_success_timestamp_seconds",
			Help: "When the bundle was last activated, or read and found unchanged."}, []string{"bundle"}),
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "gatehouse_bundle_info",
			Help: "1 for the active revision of each bundle."}, []string{"bundle", "revision"}),
		failing: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "gatehouse_bundle_failing",
			Help: "1 while the newest version of the bundle could not be read or activated."}, []string{"bundle"}),
		stages: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_bundle_failures_total",
			Help: "Failed attempts to activate a changed bundle, by the stage that failed."}, []string{"bundle", "stage"}),
		pinned: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "gatehouse_bundle_pinned",
			Help: "1 while the bundle is pinned to an earlier version by a rollback."}, []string{"bundle"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_bundle_retries_total",
			Help: "Repeated attempts to activate a refused bundle that has not changed."}, []string{"bundle"}),
	}
	if registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.reloads, m.success, m.info, m.failing, m.stages, m.pinned, m.retries} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of bundles: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) activated(bundle, revision string) {
	m.reloads.WithLabelValues(bundle, "ok").Inc()
	m.info.DeletePartialMatch(prometheus.Labels{"bundle": bundle})
	m.info.WithLabelValues(bundle, revision).Set(1)
}

// current notes that what is on disk is what is active.
func (m *metrics) current(bundle string, now time.Time) {
	m.failing.WithLabelValues(bundle).Set(0)
	m.success.WithLabelValues(bundle).Set(float64(now.UnixMilli()) / 1000)
}

func (m *metrics) failed(bundle, stage string) {
	m.reloads.WithLabelValues(bundle, "error").Inc()
	m.stages.WithLabelValues(bundle, stage).Inc()
	m.failing.WithLabelValues(bundle).Set(1)
}

func (m *metrics) pin(bundle string, pinned bool) {
	value := 0.0
	if pinned {
		value = 1
	}
	m.pinned.WithLabelValues(bundle).Set(value)
}
