package gate

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// TestLatenciesAreThoseOfTheLibrary holds the histogram to the library's own, on the page that is scraped.
func TestLatenciesAreThoseOfTheLibrary(t *testing.T) {
	const name, help = "took_seconds", "How long it took."
	bounds := make([]float64, len(latencyBounds))
	for i, b := range latencyBounds {
		bounds[i] = b.Seconds()
	}
	ours, theirs := newLatencies(name, help), prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: bounds})
	observed := []time.Duration{0, 1, time.Hour}
	for _, b := range latencyBounds {
		observed = append(observed, b-1, b, b+1)
	}
	for range 1000 {
		observed = append(observed, time.Duration(rand.Int64N(int64(2*time.Second))).Round(time.Millisecond)) // sums of floats differ otherwise
	}
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for _, d := range observed {
				ours.observe(d)
				theirs.Observe(d.Seconds())
			}
		})
	}
	wait.Wait()
	if got, want := page(t, ours), page(t, theirs); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// page is a collector's part of /metrics, with the sum rounded: float additions happen in any order.
func page(t *testing.T, c prometheus.Collector) string {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, f := range families {
		h := f.GetMetric()[0].GetHistogram()
		*h.SampleSum = float64(int64(h.GetSampleSum()*1e6+.5)) / 1e6
		h.CreatedTimestamp = nil
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}
