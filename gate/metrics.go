package gate

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/policy"
)

// The outcomes of a Check, as metric label and in the decision log.
const (
	outcomeAllow = iota
	outcomeDeny
	outcomeBypass
	outcomeDryRun
	outcomePermissions
	outcomeCount
)

var outcomeLabels = [outcomeCount]string{"allow", "deny", "bypass", "dry_run", "permissions"}

// metrics are looked up once: a Check finds its counter by two indices.
type metrics struct {
	decisions [outcomeCount][reasons]prometheus.Counter
	duration  *latencies
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gatehouse_decisions_total", Help: "Decisions by outcome, and by reason where the verdict was a denial.",
	}, []string{"outcome", "reason"})
	m := &metrics{duration: newLatencies("gatehouse_decision_duration_seconds", "Time from a parsed request to its answer.")}
	for o := range outcomeLabels {
		for reason := None; reason < reasons; reason++ {
			if (reason == None) == (o == outcomeAllow || o == outcomeBypass || o == outcomePermissions) {
				m.decisions[o][reason] = decisions.WithLabelValues(outcomeLabels[o], reason.String())
			}
		}
	}
	if r == nil {
		return m, nil
	}
	return m, errors.Join(r.Register(decisions), r.Register(m.duration), registerAbandoned(r))
}

// registerAbandoned shows the calls of built-in functions that outlasted their deadline.
func registerAbandoned(r prometheus.Registerer) error {
	return errors.Join(
		r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "gatehouse_policy_abandoned", Help: "Built-in function calls abandoned at their deadline that are still running.",
		}, func() float64 { return float64(policy.CountAbandoned().Running) })),
		r.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "gatehouse_policy_abandoned_total", Help: "Built-in function calls abandoned at their deadline.",
		}, func() float64 { return float64(policy.CountAbandoned().Total) })),
		r.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "gatehouse_policy_abandoned_refused_total", Help: "Built-in function calls refused because too many abandoned ones are running; answered as overloaded.",
		}, func() float64 { return float64(policy.CountAbandoned().Refused) })),
	)
}

func (m *metrics) observe(outcome int, reason Reason, took time.Duration) {
	m.decisions[outcome][reason].Inc()
	m.duration.observe(took)
}
