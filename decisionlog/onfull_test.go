package decisionlog_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/decisionlog"
)

// inBubble is t.Run where time passes only while all wait: no load of the machine makes anything late.
func inBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// TestOnFull fills a queue of two before Run is there to empty it.
func TestOnFull(t *testing.T) {
	for _, tt := range []struct {
		name, onFull string
		left         time.Duration // until the request's deadline; 0: there is none; less: it was cancelled
		maxWait      time.Duration
		deny         bool
	}{
		{"drop", "drop", 0, 0, false},
		{"deny", "deny", 0, 0, true},
		{"wait until the context ends", "", -time.Second, time.Hour, false},
		{"wait until the deadline is near", "wait", 50 * time.Millisecond, time.Hour, false},
		{"wait as long as may be", "wait", 0, time.Millisecond, false},
	} {
		inBubble(t, tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			switch {
			case tt.left < 0:
				cancel()
			case tt.left > 0:
				ctx, cancel = context.WithTimeout(ctx, tt.left)
				defer cancel()
			}
			out, reg := newSink(), prometheus.NewRegistry()
			now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
			l := open(t, decisionlog.Config{File: "-", OnFull: tt.onFull, Queue: 2, MaxWait: tt.maxWait,
				Stdout: out, Registerer: reg, Clock: func() time.Time { return now }})
			add(t, l, entry(1))
			add(t, l, entry(2))
			err := l.Append(ctx, entry(3))
			if !errors.Is(err, decisionlog.ErrFull) || errors.Is(err, decisionlog.ErrDeny) != tt.deny {
				t.Errorf("append to a full queue: %v", err)
			}
			if tt.left > 0 && ctx.Err() != nil {
				t.Error("no time left for the answer")
			}
			end := run(l)
			text := out.await(`{"gap":{"dropped":1,"since":"2026-03-01T10:00:00Z","until":"2026-03-01T10:00:00Z"}}` + "\n")
			finish(t, end)
			if n := strings.Count(text, "decision_id"); n != 2 {
				t.Errorf("%d entries in %s", n, text)
			}
			want := decisionlog.Status{Sink: "stdout", Written: 2, Dropped: 1}
			if got := l.Status(); !cmp.Equal(got, want) {
				t.Errorf("status %+v, want %+v", got, want)
			}
			if got := dropped(t, reg); !cmp.Equal(got, map[string]float64{"full": 1, "closed": 0, "drain": 0}) {
				t.Errorf("metric %v", got)
			}
		})
	}
}

// dropped returns the metric of losses by cause.
func dropped(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	causes := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "gatehouse_decision_log_dropped_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			causes[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return causes
}
