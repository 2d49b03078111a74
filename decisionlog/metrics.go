package decisionlog

import (
	"fmt"
	"time"

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
	spool   []prometheus.Collector // nil: there is none
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
	if l.spool != nil {
		m.spool = spoolMetrics(l.spool)
	}
	return m
}

func spoolMetrics(sp *spool) []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gatehouse_decision_log_spool_" + name, Help: help}, value)
	}
	return []prometheus.Collector{
		gauge("bytes", "Bytes that the decision log's spool has on disk.", func() float64 { return float64(sp.used.Load()) }),
		gauge("max_bytes", "Bytes that the decision log's spool may have on disk.", func() float64 { return float64(sp.max.Load()) }),
		gauge("segments", "Files of the decision log's spool.", func() float64 { return float64(sp.count.Load()) }),
		gauge("unread_bytes", "Bytes in the spool that the sink does not have yet.", func() float64 { return float64(sp.unread()) }),
		gauge("oldest_seconds", "Age of the oldest decision that the sink does not have yet; 0: it has all.", func() float64 {
			if ns := sp.oldest.Load(); ns != 0 {
				return time.Since(time.Unix(0, ns)).Seconds()
			}
			return 0
		}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range append([]prometheus.Collector{m.dropped, m.errors, m.written, m.queued}, m.spool...) {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("decision log: registering metrics: %w", err)
		}
	}
	return nil
}
