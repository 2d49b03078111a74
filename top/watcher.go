package top

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"gatehouse/replay/search"
	"gatehouse/server"
)

// patience bounds one look at a process that does not answer.
const patience = 5 * time.Second

// watcher keeps what was seen within the window.
type watcher struct {
	cfg   Config
	tail  *tail
	state State
	sort  string
	looks []look // the oldest first, over the window
	slots []slot // of the log, likewise
	now   func() time.Time
}

// look is what the process counted at one time.
type look struct {
	at           time.Time
	started      time.Time // of the process: its counters begin anew
	hits, misses uint64
	metrics      bool
	outcomes     map[outcome]float64
	buckets      []bucket // of latencies, cumulative
}

type outcome struct{ outcome, reason string }

type bucket struct{ upTo, count float64 }

func newWatcher(c Config) *watcher {
	return &watcher{cfg: c, tail: &tail{path: c.Log}, sort: cmp.Or(c.Sort, Sorts[0].Name), now: time.Now}
}

// look asks the process, and reads what the log has got since. What fails leaves the state of before.
func (w *watcher) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	status, err := w.cfg.Status(ctx)
	if err != nil {
		w.state.Error, w.state.Time = err.Error(), w.now()
		return
	}
	now := w.now()
	l := look{at: now, started: status.Started, hits: status.Memo.Hits, misses: status.Memo.Misses}
	problem := ""
	var lag float64
	if w.cfg.Metrics != nil {
		text, err := w.cfg.Metrics(ctx)
		if err == nil {
			lag, err = l.read(text)
		}
		if err != nil {
			problem = "metrics: " + err.Error()
		}
	}
	if n := len(w.looks); n > 0 && !w.looks[n-1].started.Equal(l.started) {
		w.looks, w.slots = nil, nil
	}
	w.looks = append(w.looks, l)
	w.readLog(now)
	w.forget(now)
	w.state = w.describe(&status, lag)
	w.state.Error = problem
}

// forget drops what is older than the window.
func (w *watcher) forget(now time.Time) {
	old := func(at time.Time) bool { return now.Sub(at) > w.cfg.Window }
	for len(w.looks) > 2 && old(w.looks[1].at) { // one from before the window stays: rates are differences
		w.looks = slices.Delete(w.looks, 0, 1)
	}
	for len(w.slots) > 1 && old(w.slots[0].until) {
		w.slots = slices.Delete(w.slots, 0, 1)
	}
}

// read takes what is counted out of the page of metrics. lag is the age of the oldest decision that a sink of the log lacks.
func (l *look) read(text []byte) (lag float64, err error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return 0, fmt.Errorf("not understood: %w", err)
	}
	l.metrics, l.outcomes = true, map[outcome]float64{}
	for _, m := range families["gatehouse_decisions_total"].GetMetric() {
		l.outcomes[outcome{labelOf(m, "outcome"), labelOf(m, "reason")}] += m.GetCounter().GetValue()
	}
	for _, m := range families["gatehouse_decision_duration_seconds"].GetMetric() {
		for _, b := range m.GetHistogram().GetBucket() {
			l.buckets = append(l.buckets, bucket{b.GetUpperBound(), float64(b.GetCumulativeCount())})
		}
	}
	for _, m := range families["gatehouse_decision_log_spool_oldest_seconds"].GetMetric() {
		lag = max(lag, m.GetGauge().GetValue())
	}
	return lag, nil
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// describe is what is shown of what was seen.
func (w *watcher) describe(s *server.Status, lag float64) State {
	first, last := w.looks[0], w.looks[len(w.looks)-1]
	out := State{Time: last.at, Ready: s.Ready, NotReady: s.NotReady, Degraded: s.Degraded, Revision: s.Revision, Started: s.Started, Directory: -1,
		Memo: Memo{On: s.Memo.On, Entries: s.Memo.Entries, Hits: ratio(last.hits-first.hits, last.misses-first.misses)},
		Log:  Log{Queued: int64(s.DecisionLog.Queued), Dropped: s.DecisionLog.Dropped, Error: s.DecisionLog.Error, Seconds: lag, Skipped: w.tail.skipped}}
	if out.Seconds = last.at.Sub(first.at).Seconds(); out.Seconds <= 0 {
		out.Memo.Hits = s.Memo.HitRatio
	}
	if d := s.Directory; d != nil && d.Control != nil && !d.Control.Confirmed.IsZero() {
		out.Directory = max(0, last.at.Sub(d.Control.Confirmed).Seconds())
	}
	out.Routes, out.NoRoutes = w.routes()
	switch {
	case first.metrics && last.metrics && out.Seconds > 0:
		out.Source = "metrics"
		out.fromMetrics(&first, &last)
	case w.cfg.Log != "" && w.tail.problem == "":
		out.Source = "log"
		out.fromLog(w)
	}
	return out
}

func ratio(yes, no uint64) float64 {
	if yes+no == 0 {
		return 0
	}
	return float64(yes) / float64(yes+no)
}

// fromMetrics fills in what happened between two looks.
func (s *State) fromMetrics(first, last *look) {
	s.Reasons = map[string]float64{}
	for what, n := range last.outcomes {
		rate := max(0, n-first.outcomes[what]) / s.Seconds
		s.Requests += rate
		if what.reason != "" && rate > 0 {
			s.Denied += rate
			s.Reasons[what.reason] += rate
		}
	}
	var between []bucket
	for i, b := range last.buckets {
		if i < len(first.buckets) {
			b.count -= first.buckets[i].count
		}
		between = append(between, b)
	}
	s.P50, s.P99 = quantile(between, 0.5), quantile(between, 0.99)
}

// fromLog fills it in where there are no metrics.
func (s *State) fromLog(w *watcher) {
	all, seconds := w.total()
	if seconds <= 0 {
		return
	}
	s.Seconds, s.Reasons = seconds, map[string]float64{}
	s.Requests, s.Denied = all.requests/seconds, all.denied/seconds
	s.P50, s.P99 = quantile(all.latencies.cumulative(), 0.5), quantile(all.latencies.cumulative(), 0.99)
	for _, slot := range w.slots {
		for reason, n := range slot.reasons {
			s.Reasons[reason] += n / seconds
		}
	}
}

// quantile is within which time a share of what was measured came to its end, as Prometheus' histogram_quantile has it: within a bucket all are taken to
// be spread evenly.
func quantile(buckets []bucket, share float64) float64 {
	if len(buckets) == 0 {
		return 0
	}
	all := buckets[len(buckets)-1].count
	if all <= 0 {
		return 0
	}
	below, from := 0.0, 0.0
	for _, b := range buckets {
		if b.count >= share*all {
			if math.IsInf(b.upTo, 1) {
				return from
			}
			return from + (b.upTo-from)*(share*all-below)/max(b.count-below, 1)
		}
		below, from = b.count, b.upTo
	}
	return from
}

const (
	mostRoutes = 1000 // that are told apart; the others are one
	theOthers  = "(other routes)"
	unmatched  = "(no route)"
)

// slot is what the log got between two looks.
type slot struct {
	from, until time.Time
	routes      map[string]*counts
	reasons     map[string]float64
}

// counts is what was decided about a route.
type counts struct {
	requests, denied float64
	latencies        latencies
}

// latencies are counts by time: the first are those up to 10 µs, each next up to twice as long.
type latencies [24]float64

func (l *latencies) add(took time.Duration) {
	i := 0
	for limit := 10 * time.Microsecond; took > limit && i < len(l)-1; limit *= 2 {
		i++
	}
	l[i]++
}

func (l *latencies) cumulative() (out []bucket) {
	sum := 0.0
	for i, n := range l {
		sum += n
		out = append(out, bucket{10e-6 * math.Pow(2, float64(i)), sum})
	}
	return out
}

// readLog reads what the log got since the last look.
func (w *watcher) readLog(now time.Time) {
	if w.cfg.Log == "" {
		return
	}
	s := slot{from: w.tail.read, until: now, routes: map[string]*counts{}, reasons: map[string]float64{}}
	first := w.tail.read.IsZero()
	var e search.Event
	w.tail.lines(now, func(line []byte) {
		if e.Parse(line, 0) != nil || e.Gap.Recorded || e.IsQuestion() {
			return
		}
		if first && now.Sub(e.When()) > w.cfg.Window { // the end of what was there before
			return
		}
		if at := e.When(); first && (s.from.IsZero() || at.Before(s.from)) {
			s.from = at
		}
		s.add(&e)
	})
	if s.from.IsZero() {
		s.from = now
	}
	w.slots = append(w.slots, s)
}

func (s *slot) add(e *search.Event) {
	name := unmatched
	if route := e.RouteOf(); route.Template != "" || route.Name != "" {
		name = route.Label()
		if route.App != "" {
			name = route.App + ": " + name
		}
	}
	c := s.routes[name]
	if c == nil {
		if len(s.routes) >= mostRoutes {
			name = theOthers
			c = s.routes[name]
		}
		if c == nil {
			c = &counts{}
			s.routes[name] = c
		}
	}
	c.requests++
	if outcome, reason, _ := e.Outcomes(); outcome == "deny" {
		c.denied++
		if len(s.reasons) < mostRoutes {
			s.reasons[reason]++
		}
	}
	if took := e.HandlerTime(); took > 0 {
		c.latencies.add(took)
	}
}

func (c *counts) merge(o *counts) {
	c.requests, c.denied = c.requests+o.requests, c.denied+o.denied
	for i, n := range o.latencies {
		c.latencies[i] += n
	}
}

// total is all that the log got within the window, and how long that was.
func (w *watcher) total() (all counts, seconds float64) {
	for _, s := range w.slots {
		for _, c := range s.routes {
			all.merge(c)
		}
	}
	if n := len(w.slots); n > 0 {
		seconds = w.slots[n-1].until.Sub(w.slots[0].from).Seconds()
	}
	return all, seconds
}

// routes are the routes of the window in the order that is asked for, or why there are none.
func (w *watcher) routes() (out []Route, none string) {
	switch {
	case w.cfg.Log == "":
		return []Route{}, cmp.Or(w.cfg.NoLog, "there is no decision log to read them from")
	case w.tail.problem != "":
		return []Route{}, w.tail.problem
	}
	all := map[string]*counts{}
	for _, s := range w.slots {
		for name, c := range s.routes {
			if all[name] == nil {
				if len(all) >= mostRoutes {
					name = theOthers
				}
				if all[name] == nil {
					all[name] = &counts{}
				}
			}
			all[name].merge(c)
		}
	}
	_, seconds := w.total()
	out = []Route{}
	for name, c := range all {
		seconds := max(seconds, 0.001)
		out = append(out, Route{name, c.requests / seconds, c.denied / seconds, quantile(c.latencies.cumulative(), 0.5), quantile(c.latencies.cumulative(), 0.99)})
	}
	slices.SortFunc(out, func(a, b Route) int {
		by := 0
		switch w.sort {
		case "denied":
			by = cmp.Compare(b.Denied, a.Denied)
		case "latency":
			by = cmp.Compare(b.P99, a.P99)
		case "requests":
			by = cmp.Compare(b.Requests, a.Requests)
		}
		return cmp.Or(by, cmp.Compare(a.Route, b.Route))
	})
	return out, ""
}
