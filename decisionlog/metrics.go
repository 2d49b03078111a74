package decisionlog

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Causes of a loss: the closed list of values of the metric's label.
const (
	causeFull   = "full"   // no room in the queue
	causeClosed = "closed" // appended after the log had ended
	causeDrain  = "drain"  // still unwritten when the log had to end
)

type metrics struct {
	dropped *prometheus.CounterVec
	errors  prometheus.Counter
	written prometheus.CounterFunc
	queued  prometheus.GaugeFunc
}

func newMetrics(l *Log) metrics {
	m := metrics{
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_decision_log_dropped_total",
			Help: "Decisions that were not recorded, by cause.",
		}, []string{"cause"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gatehouse_decision_log_errors_total",
			Help: "Writes that the decision log's sink refused; each is retried.",
		}),
		written: prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "gatehouse_decision_log_written_total",
			Help: "Decisions that were written to the decision log.",
		}, func() float64 { return float64(l.written.Load()) }),
		queued: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "gatehouse_decision_log_queued",
			Help: "Decisions that wait to be written to the decision log.",
		}, func() float64 { return float64(l.queued()) }),
	}
	// Alerts on a series that does not exist yet never fire.
	for _, cause := range []string{causeFull, causeClosed, causeDrain} {
		m.dropped.WithLabelValues(cause)
	}
	return m
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.dropped, m.errors, m.written, m.queued} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("decision log: registering metrics: %w", err)
		}
	}
	return nil
}
