package identity

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// tokenResult is how the credential of one request ended.
type tokenResult int

const (
	tokenCached   tokenResult = iota // verified before
	tokenVerified                    // verified now, or known to an introspection server, or an API key
	tokenNegative                    // refused before, and not looked at again
	tokenBad
	tokenUnavailable
	tokenResults
)

var tokenLabels = [tokenResults]string{"cached", "verified", "negative", "bad", "unavailable"}

// waitResult is how a token with an unknown key id ended.
type waitResult int

const (
	waitNone    waitResult = iota // there was nothing to wait for; not counted
	waitFound                     // the fetch brought the key
	waitMissing                   // it did not
	waitTimeout                   // it took too long
	waitRefused                   // too many fetches, or too many waiting
	waitResults
	waitWould // it must not be waited for; not counted
)

var waitLabels = [waitResults]string{"", "found", "missing", "timeout", "refused"}

// askResult is how a question to an introspection server ended.
type askResult int

const (
	askActive askResult = iota
	askRefused
	askFailed
	askResults
)

var askLabels = [askResults]string{"active", "refused", "failed"}

// metrics are looked up once: a request finds its counter by an index. Label values are the configured issuers and closed lists.
type metrics struct {
	tokens        [tokenResults]prometheus.Counter
	waits         [waitResults]prometheus.Counter
	questions     [askResults]prometheus.Counter
	fetchFailures []prometheus.Counter // by issuer.index; nil for files
	copyFailures  prometheus.Counter
}

func newMetrics(v *Verifier, r prometheus.Registerer) (*metrics, error) {
	tokens := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_identity_tokens_total",
		Help: "Requests with a credential, by result of the verification."}, []string{"result"})
	waits := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_identity_unknown_key_waits_total",
		Help: "Tokens signed with an unknown key, by result of fetching the issuer's keys again."}, []string{"result"})
	questions := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_identity_introspections_total",
		Help: "Requests to introspection servers, by result."}, []string{"result"})
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_identity_key_fetch_failures_total",
		Help: "Failed attempts to fetch an issuer's keys."}, []string{"issuer"})
	m := &metrics{fetchFailures: make([]prometheus.Counter, len(v.issuers)), copyFailures: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "gatehouse_identity_key_copy_failures_total", Help: "Copies of key sets that could not be written or used."})}
	for i, label := range tokenLabels {
		m.tokens[i] = tokens.WithLabelValues(label)
	}
	for i := waitFound; i < waitResults; i++ {
		m.waits[i] = waits.WithLabelValues(waitLabels[i])
	}
	for i, label := range askLabels {
		m.questions[i] = questions.WithLabelValues(label)
	}
	for i, iss := range v.issuers {
		if iss.remote() {
			m.fetchFailures[i] = failures.WithLabelValues(iss.Issuer.Issuer)
		}
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{tokens, waits, questions, failures, m.copyFailures, newKeyCollector(v)} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("identity: registering metrics: %w", err)
		}
	}
	return m, nil
}

// failed counts an error of Identify.
func (m *metrics) failed(err error) {
	if errors.Is(err, ErrUnavailable) {
		m.tokens[tokenUnavailable].Inc()
		return
	}
	m.tokens[tokenBad].Inc()
}

// counted counts how a credential that is verified elsewhere than from an issuer's keys came out.
func (m *metrics) counted(err error) {
	if err != nil {
		m.failed(err)
		return
	}
	m.tokens[tokenVerified].Inc()
}

// asked counts a question to an introspection server.
func (m *metrics) asked(err error) {
	switch {
	case err == nil:
		m.questions[askActive].Inc()
	case errors.Is(err, ErrUnavailable):
		m.questions[askFailed].Inc()
	default:
		m.questions[askRefused].Inc()
	}
}

func (m *metrics) waited(result waitResult) {
	if result != waitNone {
		m.waits[result].Inc()
	}
}

// keyCollector tells of the keys as they are when it is asked, because an age grows by itself.
type keyCollector struct {
	v                                   *Verifier
	count, age, success, stale, waiting *prometheus.Desc
}

func newKeyCollector(v *Verifier) *keyCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("gatehouse_identity_"+name, help, []string{"issuer"}, nil)
	}
	return &keyCollector{v: v,
		count:   desc("keys", "Usable keys of the issuer; with 0 its tokens are unavailable."),
		age:     desc("keys_age_seconds", "Time since the issuer's keys were last fetched. At max_stale they are no longer used."),
		success: desc("keys_last_success_timestamp_seconds", "When the issuer's keys were last fetched."),
		waiting: desc("unknown_key_waiting", "Requests waiting for the issuer's keys because their token names an unknown one."),
		stale:   desc("keys_stale", "1 while older keys are in use because the issuer's cannot be fetched."),
	}
}

// Describe implements prometheus.Collector.
func (c *keyCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.count, c.age, c.success, c.stale, c.waiting} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *keyCollector) Collect(to chan<- prometheus.Metric) {
	keys := c.v.shown.Load()
	for i, iss := range c.v.issuers {
		var s KeyStatus
		if keys != nil {
			s = keys.status[i]
		}
		gauge := func(d *prometheus.Desc, value float64) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, iss.Issuer.Issuer)
		}
		gauge(c.count, float64(s.Keys))
		if !iss.remote() {
			continue
		}
		stale := 0.0
		if s.Stale {
			stale = 1
		}
		gauge(c.stale, stale)
		gauge(c.waiting, float64(iss.lookups.waits()))
		if !s.FetchedAt.IsZero() {
			gauge(c.age, c.v.clock().Sub(s.FetchedAt).Seconds())
			gauge(c.success, float64(s.FetchedAt.UnixMilli())/1000)
		}
	}
}
