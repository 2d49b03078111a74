package identity_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"gatehouse/identity"
)

// TestMetrics reads all of them after a life with every kind of token, and has Prometheus' own linter look at the names.
func TestMetrics(t *testing.T) {
	p, now, registry := serveKeys(t, oldSet()), newClock(), prometheus.NewRegistry()
	c := oneIssuer(identity.KeySource{URL: p.URL, Refresh: time.Hour})
	c.Issuers = append(c.Issuers, identity.Issuer{Issuer: issuerB, Audiences: []string{"orders"}, Keys: identity.KeySource{File: temp(t, keysOfA())}})
	c.Clock, c.Registerer = now.now, registry
	r := run(t, c)
	keys := r.next("the set", isGood)
	for _, want := range []struct{ token, result string }{
		{good(nil), "ok"},
		{good(nil), "ok"},
		{good(object{"aud": "x"}), "bad credential: audience does not match"},
		{"x" + strings.Repeat("x", 20<<10), "bad credential: token is too long"},
		{withKid("made-up"), unknownKey},
		{withKid("made-up"), unknownKey},
	} {
		r.decides(keys, want.token, want.result)
	}
	r.decides(nil, good(nil), neverLoaded)
	p.serve(jwks(jwk(&keyRing().rsa.PublicKey, object{"kid": "r1"}), jwk(&keyRing().p256.PublicKey, object{"kid": "e1"})))
	r.decides(keys, withKid("e1"), "ok")
	now.advance(90 * time.Second)
	want := `
gatehouse_identity_introspections_total{active} 0
gatehouse_identity_introspections_total{failed} 0
gatehouse_identity_introspections_total{refused} 0
gatehouse_identity_key_copy_failures_total 0
gatehouse_identity_key_fetch_failures_total{https://a.example} 0
gatehouse_identity_keys_age_seconds{https://a.example} 90
gatehouse_identity_keys_last_success_timestamp_seconds{https://a.example} 1.7803152e+09
gatehouse_identity_keys_stale{https://a.example} 0
gatehouse_identity_keys{https://a.example} 2
gatehouse_identity_keys{https://b.example} 4
gatehouse_identity_tokens_total{bad} 4
gatehouse_identity_tokens_total{cached} 1
gatehouse_identity_tokens_total{negative} 0
gatehouse_identity_tokens_total{unavailable} 1
gatehouse_identity_tokens_total{verified} 2
gatehouse_identity_unknown_key_waiting{https://a.example} 0
gatehouse_identity_unknown_key_waits_total{found} 1
gatehouse_identity_unknown_key_waits_total{missing} 1
gatehouse_identity_unknown_key_waits_total{refused} 1
gatehouse_identity_unknown_key_waits_total{timeout} 0
`
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := []string{"\n"}
	for _, f := range families {
		for _, m := range f.Metric {
			label := ""
			if len(m.Label) > 0 {
				label = "{" + m.Label[0].GetValue() + "}"
			}
			got = append(got, fmt.Sprintf("%s%s %v\n", f.GetName(), label, m.GetCounter().GetValue()+m.GetGauge().GetValue()))
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, strings.Join(got, "")); diff != "" {
		t.Error(diff)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// TestMetricsOfFailures counts what went wrong with the keys.
func TestMetricsOfFailures(t *testing.T) {
	p, registry := serveKeys(t, oldSet()), prometheus.NewRegistry()
	c, file := kept(t, p)
	writeFile(t, file, "spoilt")
	p.fail()
	c.Registerer = registry
	v := newVerifier(t, c)
	load(t, v)
	for name, want := range map[string]float64{"gatehouse_identity_key_fetch_failures_total": 1, "gatehouse_identity_key_copy_failures_total": 1,
		"gatehouse_identity_keys": 0, "gatehouse_identity_keys_stale": 0} {
		if got := gathered(t, registry, name, ""); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	p.serve(oldSet())
	load(t, v)
	p.fail()
	c.Registerer = prometheus.NewRegistry()
	if _, err := identity.New(c); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.New(c); err == nil || !strings.Contains(err.Error(), "registering metrics") {
		t.Errorf("two Verifiers with one registry: %v", err)
	}
}

// gathered is the value of a metric's sample with this label value; empty = of its first.
func gathered(t *testing.T, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && (label == "" || m.Label[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("there is no metric %s of %q", name, label)
	return 0
}
