package gate

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/policy"
	"gatehouse/policy/rego"
	"gatehouse/routes"
)

// Memo configures the memo of decisions: a decision is reused for requests that are identical in everything the
// policy reads.
type Memo struct {
	Off    bool
	Bytes  int64 // most memory; 0: 16 MiB
	Sample int   // one hit in this many is evaluated again in the background; 0: 1024
}

const (
	recheckQueue   = 16       // when it is full, hits are not rechecked
	recheckBytes   = 32 << 10 // of a request; larger ones are not rechecked
	recheckTimeout = time.Second
)

// memoManager outlives the Views' memos: it has the counters, and the goroutine that rechecks hits.
type memoManager struct {
	logger *zap.Logger
	view   func() *View
	stats  policy.Stats
	queue  chan policy.Recheck
	missed atomic.Uint64 // rechecks that found the queue full
}

func newMemoManager(r prometheus.Registerer, logger *zap.Logger, view func() *View) (*memoManager, error) {
	m := &memoManager{logger: logger, view: view, queue: make(chan policy.Recheck, recheckQueue)}
	if r == nil {
		return m, nil
	}
	return m, r.Register(m)
}

// next returns the memo of the next View: the previous one where policy and settings are unchanged, else a new one. A
// policy whose memo failed a recheck gets none.
func (m *memoManager) next(before, next *View) *policy.Memo {
	switch s := next.Settings; {
	case s == nil || next.Policy == nil || s.Memo.Off || s.Plain:
		return nil
	case before.memo != nil && before.memo.Of() == next.Policy && (before.Settings.Memo == s.Memo || before.memo.Status().Stopped != ""):
		return before.memo
	}
	return next.Policy.NewMemo(policy.MemoConfig{Bytes: next.Settings.Memo.Bytes, Sample: next.Settings.Memo.Sample, Stats: &m.stats})
}

// lookup returns the remembered decision for a key, if any.
func (g *Gate) lookup(c *call, key *policy.Key) (bool, error) {
	if key == nil {
		return false, nil
	}
	found, ok := key.Lookup(c.view.Facts, c.started)
	if !ok {
		return false, nil
	}
	if found.Sample {
		g.memos.recheck(c, key, found)
	}
	c.decision = found.Decision
	return true, found.Err
}

// evaluate evaluates the policy, and stores the decision where there is a key.
func (c *call) evaluate(ctx context.Context, key *policy.Key, document rego.Value) (policy.Decision, error) {
	s := c.view.Settings
	switch large := c.large(); {
	case large && key != nil:
		return key.DecideIsolated(ctx, s.Timeout, document, c.view.Facts, c.started)
	case large:
		return c.rule.entry.DecideIsolated(ctx, s.Timeout, document, c.view.Facts, c.started)
	case key != nil:
		return key.Decide(ctx, s.Timeout, document, c.view.Facts, c.started)
	case s.Plain:
		ctx, cancel := context.WithTimeout(ctx, s.Timeout)
		defer cancel()
		return c.rule.entry.Decide(ctx, document, c.view.Facts, c.started)
	}
	return c.rule.entry.DecideWithin(ctx, s.Timeout, document, c.view.Facts, c.started)
}

// large reports whether the input that the rule reads may be large.
func (c *call) large() bool {
	n := requestBytes(c.req)
	if n <= policy.LargeInput {
		return false
	}
	reads := c.rule.entry.Reads()
	http := reads.Below("attributes").Below("request").Below("http")
	if !c.view.Settings.Plain && !reads.Any("parsed_body") && !http.Has("body") && !http.Has("rawBody") {
		n -= len(c.req.Body)
	}
	return n > policy.LargeInput
}

// recheck queues a hit to be evaluated again with the complete input. It never blocks.
func (m *memoManager) recheck(c *call, key *policy.Key, found policy.MemoHit) {
	if requestBytes(c.req) > recheckBytes {
		return
	}
	document, err := c.all()
	if err != nil {
		return
	}
	if again, ok := key.Recheck(found, document, c.view.Facts, c.started); ok {
		select {
		case m.queue <- again:
		default:
			m.missed.Add(1)
		}
	}
}

// run rechecks queued hits until ctx ends.
func (m *memoManager) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case again := <-m.queue:
			within, cancel := context.WithTimeout(ctx, recheckTimeout)
			if wrong := again.Run(within); wrong != nil {
				m.logger.Error("a remembered decision is wrong; decisions of this policy are not remembered any more", zap.Error(wrong))
			}
			cancel()
		}
	}
}

// MemoStatus is the state of the memo.
type MemoStatus struct {
	On         bool              `json:"on"`
	Why        string            `json:"why,omitempty"` // why it is off
	Hits       uint64            `json:"hits"`
	Misses     uint64            `json:"misses"`
	HitRatio   float64           `json:"hit_ratio"` // of all lookups since the start
	Entries    int64             `json:"entries"`
	Bytes      int64             `json:"bytes"`
	Limit      int64             `json:"limit_bytes"`
	Rechecked  uint64            `json:"rechecked"`
	Mismatches uint64            `json:"mismatches"`
	Without    []MemoStatusEntry `json:"without,omitempty"` // at most 20 rules whose decisions are not remembered
}

// MemoStatusEntry is a rule without memo, and the reason.
type MemoStatusEntry struct {
	Rule string `json:"rule"`
	Why  string `json:"why"`
}

// MemoStatus returns the state of the active View's memo.
func (g *Gate) MemoStatus() MemoStatus {
	v, counts := g.View(), g.memos.stats.Counts()
	is := v.memo.Status()
	out := MemoStatus{On: v.memo != nil && is.Stopped == "", Why: is.Stopped, Hits: counts.Hits, Misses: counts.Misses, Entries: is.Entries, Bytes: is.Bytes,
		Limit: is.Limit, Rechecked: counts.Rechecks, Mismatches: counts.Mismatches}
	if all := counts.Hits + counts.Misses; all > 0 {
		out.HitRatio = float64(counts.Hits) / float64(all)
	}
	switch {
	case v.Settings == nil || v.Policy == nil:
		out.Why = "no policy is active yet"
	case v.Settings.Plain:
		out.Why = "gatehouse runs with --plain"
	case v.Settings.Memo.Off:
		out.Why = "policy.memo is off"
	}
	if out.On {
		out.Without = v.withoutMemo()
	}
	return out
}

// withoutMemo lists the first rules without memo.
func (v *View) withoutMemo() []MemoStatusEntry {
	const most = 20
	var out []MemoStatusEntry
	v.eachEntry(func(e *policy.Entry) bool {
		if found := e.Memoisable(); len(found.Impure) > 0 {
			out = append(out, MemoStatusEntry{routes.RuleName(e.Path()), "calls " + found.Impure[0].String()})
		} else if e.Bypassed() {
			out = append(out, MemoStatusEntry{routes.RuleName(e.Path()), "hardly any decision comes twice; it is tried again later"})
		}
		return len(out) < most
	})
	return out
}

// The metrics of the memo, read from its counters on each scrape.
var (
	memoHits       = memoDesc("hits_total", "Decisions found in the memo.")
	memoMisses     = memoDesc("misses_total", "Decisions not found in the memo.")
	memoUnfit      = memoDesc("skipped_total", "Decisions not kept in the memo because key or decision is too large.")
	memoEvicted    = memoDesc("evictions_total", "Remembered decisions that made room for others.")
	memoRechecks   = memoDesc("rechecks_total", "Remembered decisions that were decided again in the background.")
	memoMissed     = memoDesc("rechecks_dropped_total", "Rechecks that were dropped because others were under way.")
	memoMismatches = memoDesc("mismatches_total", "Rechecks that came out otherwise. Must be zero.")
	memoEntries    = memoDesc("entries", "Decisions in the memo.")
	memoBytes      = memoDesc("bytes", "Memory that they take.")
	memoLimit      = memoDesc("limit_bytes", "Most memory that they may take; 0 where nothing is remembered.")
	memoAlarm      = memoDesc("alarm", "1: a recheck came out otherwise, and the decisions of this policy are not remembered any more.")
)

func memoDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("gatehouse_memo_"+name, help, nil, nil)
}

// Describe implements prometheus.Collector.
func (m *memoManager) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, out) }

// Collect implements prometheus.Collector.
func (m *memoManager) Collect(out chan<- prometheus.Metric) {
	counts, is := m.stats.Counts(), policy.MemoStatus{}
	if v := m.view(); v != nil {
		is = v.memo.Status()
	}
	alarm := 0.0
	if is.Stopped != "" {
		alarm = 1
	}
	for desc, value := range map[*prometheus.Desc]uint64{memoHits: counts.Hits, memoMisses: counts.Misses, memoUnfit: counts.Unfit,
		memoEvicted: counts.Evicted, memoRechecks: counts.Rechecks, memoMissed: m.missed.Load(), memoMismatches: counts.Mismatches} {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value))
	}
	for desc, value := range map[*prometheus.Desc]float64{memoEntries: float64(is.Entries), memoBytes: float64(is.Bytes), memoLimit: float64(is.Limit), memoAlarm: alarm} {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value)
	}
}
