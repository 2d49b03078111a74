package decisionlog

import (
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/decisionlog/spool"
)

// Causes of a loss: the closed list of values of the metric's label.
const (
	causeFull   = "full"   // no room in the queue
	causeClosed = "closed" // appended after the log had ended
	causeDrain  = "drain"  // still unwritten when the log had to end
	causeBroken = "broken" // no line could be made of it: a fault of ours, so that its series begins with the first
)

type metrics struct {
	dropped *prometheus.CounterVec
	errors  *prometheus.CounterVec
	refused *prometheus.CounterVec
	damaged *prometheus.CounterVec
	sinks   []prometheus.Collector
	rules   []prometheus.Collector
	queued  prometheus.GaugeFunc
	spool   []prometheus.Collector // nil: there is none
}

func newMetrics(l *Log) metrics {
	m := metrics{
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_decision_log_dropped_total",
			Help: "Decisions that were not recorded, by cause.",
		}, []string{"cause"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_decision_log_errors_total",
			Help: "Writes that a sink of the decision log refused; each is retried.",
		}, []string{"sink"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_decision_log_refused_total",
			Help: "Decisions that a sink's server permanently rejected.",
		}, []string{"sink"}),
		damaged: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gatehouse_decision_log_damaged_bytes_total",
			Help: "Bytes of the spool that could not be read for a sink; the sink does not get what they held.",
		}, []string{"sink"}),
		queued: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "gatehouse_decision_log_queued",
			Help: "Decisions waiting to be written to the decision log.",
		}, func() float64 { return float64(l.queued()) }),
	}
	// Alerts on a series that does not exist yet never fire.
	for _, cause := range []string{causeFull, causeClosed, causeDrain} {
		m.dropped.WithLabelValues(cause)
	}
	m.rules = l.lines.Collectors()
	for _, s := range l.sinks {
		s.errors, s.unwanted = m.errors.WithLabelValues(s.cfg.Name), m.refused.WithLabelValues(s.cfg.Name)
		s.damaged = m.damaged.WithLabelValues(s.cfg.Name)
		m.sinks = append(m.sinks, sinkMetrics(s)...)
	}
	if l.spool != nil {
		m.spool = spoolMetrics(l.spool)
	}
	return m
}

func sinkMetrics(s *sink) []prometheus.Collector {
	label := prometheus.Labels{"sink": s.cfg.Name}
	all := []prometheus.Collector{prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "gatehouse_decision_log_written_total", ConstLabels: label,
		Help: "Decisions that were written to a sink of the decision log."}, func() float64 { return float64(s.written.Load()) })}
	if s.reader == nil {
		return all
	}
	gauge := func(name, help string, value func() float64) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gatehouse_decision_log_spool_" + name, Help: help, ConstLabels: label}, value))
	}
	gauge("unread_bytes", "Bytes in the spool that a sink does not have yet.", func() float64 { return float64(s.unread()) })
	gauge("oldest_seconds", "Age of the oldest decision that a sink does not have yet; 0: it has all.", func() float64 {
		if t := s.oldest(); !t.IsZero() {
			return time.Since(t).Seconds()
		}
		return 0
	})
	return all
}

func spoolMetrics(sp *spool.Spool) []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gatehouse_decision_log_spool_" + name, Help: help}, value)
	}
	return []prometheus.Collector{
		gauge("bytes", "Bytes that the decision log's spool has on disk.", func() float64 { return float64(sp.Status().Bytes) }),
		gauge("max_bytes", "Bytes that the decision log's spool may have on disk.", func() float64 { return float64(sp.Status().MaxBytes) }),
		gauge("segments", "Files of the decision log's spool.", func() float64 { return float64(sp.Status().Segments) }),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range slices.Concat([]prometheus.Collector{m.dropped, m.errors, m.refused, m.damaged, m.queued}, m.rules, m.sinks, m.spool) {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("decision log: registering metrics: %w", err)
		}
	}
	return nil
}
