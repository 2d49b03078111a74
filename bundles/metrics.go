package bundles

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Label values are the configured bundles' names, a closed list of results, and one revision per bundle.
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

// current records that the source's bundle is the active one.
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

// Label values are the configured bundles' names and a closed list of results.
type remoteMetrics struct {
	requests    *prometheus.CounterVec
	confirmed   *prometheus.GaugeVec
	unreachable *prometheus.GaugeVec
	disk        *prometheus.GaugeVec
	unsaved     *prometheus.GaugeVec
	expired     *prometheus.GaugeVec
}

func newRemoteMetrics(registerer prometheus.Registerer) (*remoteMetrics, error) {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"bundle"})
	}
	m := &remoteMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_bundle_requests_total",
			Help: "Requests to the source of a remote bundle, by result: new, delta, delta_refused, unchanged, broken, error."}, []string{"bundle", "result"}),
		confirmed: gauge("gatehouse_bundle_confirmed_timestamp_seconds",
			"When the source of a remote bundle last answered. Of a bundle from disk: when it did so before the restart."),
		unreachable: gauge("gatehouse_bundle_unreachable", "1 while the source of a remote bundle cannot be reached."),
		disk:        gauge("gatehouse_bundle_from_disk", "1 while the bundle in use is the one kept on disk, unconfirmed since the start."),
		unsaved:     gauge("gatehouse_bundle_not_kept", "1 while the active bundle could not be written to disk."),
		expired:     gauge("gatehouse_bundle_expired", "1 while a remote bundle is older than its max_age."),
	}
	if registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.confirmed, m.unreachable, m.disk, m.unsaved, m.expired} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of remote bundles: %w", err)
		}
	}
	return m, nil
}

func (m *remoteMetrics) asked(bundle, result string) {
	m.requests.WithLabelValues(bundle, result).Inc()
}

// reachable records that the source is reachable.
func (m *remoteMetrics) reachable(bundle string, now time.Time) {
	m.confirmed.WithLabelValues(bundle).Set(seconds(now))
	m.unreachable.WithLabelValues(bundle).Set(0)
	m.expired.WithLabelValues(bundle).Set(0)
}

func (m *remoteMetrics) fromDisk(bundle string, yes bool) {
	value := 0.0
	if yes {
		value = 1
	}
	m.disk.WithLabelValues(bundle).Set(value)
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
