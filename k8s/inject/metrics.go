package inject

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	pods     *prometheus.CounterVec // by result and reason, which are closed lists in pod.go
	seconds  prometheus.Histogram
	expires  *prometheus.GaugeVec
	changes  prometheus.Counter
	failures prometheus.Counter
	reloads  *prometheus.CounterVec
}

func newMetrics(r *prometheus.Registry) metrics {
	m := metrics{
		pods: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_inject_pods_total",
			Help: "Pods that the API server asked about, by result (injected, skipped, refused, error) and reason."}, []string{"result", "reason"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "gatehouse_inject_seconds", Help: "Time to an answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .05, .25, 1, 5}}),
		expires: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "gatehouse_inject_certificate_expires_timestamp_seconds",
			Help: "When the certificate in use ends: serving, authority."}, []string{"certificate"}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{Name: "gatehouse_inject_certificate_changes_total", Help: "Serving certificates that came into use."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "gatehouse_inject_renewal_failures_total",
			Help: "Rounds in which certificates or the webhook configuration could not be kept up to date."}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_inject_settings_reads_total", Help: "Times that injector.yaml was read: used, failed."}, []string{"result"}),
	}
	r.MustRegister(m.pods, m.seconds, m.expires, m.changes, m.failures, m.reloads)
	return m
}
