package gate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"gatehouse/panics"
	"gatehouse/policy"
	"gatehouse/policy/bounds"
)

// Shadow is a policy that decides beside the active one, on a sample of the requests, after they were answered. What it
// decides is compared and counted, and never seen by a client.
type Shadow struct {
	Policy *policy.Snapshot
	Sample float64 // share of the requests, 0 to 1
}

// Bounds of the shadow.
const (
	shadowQueue   = 64       // requests that wait; what comes beyond is dropped, and counted
	shadowBytes   = 64 << 10 // of a request; larger ones are skipped
	shadowShare   = 4        // it takes at most one part in so many of one processor
	shadowPause   = 2 * time.Second
	shadowFailure = 10 // evaluations in a row that end in a timeout or panic, after which it is stopped
	shadowKept    = 50 // differences that the status shows
	shadowText    = 200
)

// shadowView is the View in which the shadow decides: the active one but for the policy. It is part of a View.
type shadowView struct {
	view   *View
	sample uint32 // of 2^32
	counts *shadowCounts
}

// shadowJob is a request that waits for the shadow's decision. Nothing in it is of the call that was answered.
type shadowJob struct {
	call     call
	counts   *shadowCounts
	was      shadowOutcome
	decision policy.Decision
}

// shadowOutcome is what came of a decision.
type shadowOutcome struct {
	reason Reason // None: allow
	status int    // that the policy chose for a denial; 0: none
}

func (o shadowOutcome) String() string {
	switch {
	case o.reason == None:
		return "allow"
	case o.status != 0:
		return fmt.Sprintf("deny %s (%d)", o.reason, o.status)
	}
	return "deny " + o.reason.String()
}

// Difference is a request that the shadow decides otherwise.
type Difference struct {
	Time       time.Time `json:"time"`
	DecisionID string    `json:"decision_id"`
	App        string    `json:"app,omitempty"`
	Method     string    `json:"method"`
	Route      string    `json:"route,omitempty"`
	Rule       string    `json:"rule,omitempty"`
	Active     string    `json:"active"` // allow, or deny with its reason
	Shadow     string    `json:"shadow"`
	Error      string    `json:"error,omitempty"` // why the shadow did not decide
}

// ShadowStatus is the state of the shadow.
type ShadowStatus struct {
	On          bool         `json:"on"`
	Why         string       `json:"why,omitempty"` // why it is not on
	Sample      float64      `json:"sample"`
	Revision    string       `json:"revision,omitempty"`
	Decided     uint64       `json:"decided"` // since this policy is the shadow, like all below
	Differences uint64       `json:"differences"`
	Denies      uint64       `json:"denies"`  // that the active policy allows
	Allows      uint64       `json:"allows"`  // that the active policy denies
	Errors      uint64       `json:"errors"`  // no decision: evaluation failed, or took too long
	Dropped     uint64       `json:"dropped"` // the queue was full
	Skipped     uint64       `json:"skipped"` // too large, or decided by several rules
	Last        []Difference `json:"last,omitempty"`
}

// shadowCounts are counted since a policy is the shadow.
type shadowCounts struct {
	decided, differences, denies, allows, errors, dropped, skipped atomic.Uint64

	stopped atomic.Bool // it decides no more
}

// shadower decides by the shadow policy. It outlives the Views.
type shadower struct {
	gate  *Gate
	queue chan *shadowJob
	say   *rate.Limiter // for the log
	total shadowCounts  // of all shadows, for metrics
	busy  atomic.Int64  // nanoseconds

	mu      sync.Mutex // guards what is below
	current *Shadow
	counts  *shadowCounts
	last    []Difference
	failing int    // in a row
	stopped string // why it decides no more
	problem string // why it does not fit the rest
}

func newShadower(g *Gate, r prometheus.Registerer) (*shadower, error) {
	s := &shadower{gate: g, queue: make(chan *shadowJob, shadowQueue), say: rate.NewLimiter(1, 20), counts: &shadowCounts{}}
	if r == nil {
		return s, nil
	}
	return s, r.Register(s)
}

// next makes the shadow's part of the next View; nil where there is none. It depends on little: where neither policy nor
// settings nor routes changed its applications are those of the View before. A shadow that does not fit is no reason
// against a publication.
func (s *shadower) next(before, next *View) *shadowView {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != next.Shadow {
		s.current, s.counts, s.last, s.failing, s.stopped = next.Shadow, &shadowCounts{}, nil, 0, ""
	}
	s.problem = ""
	if next.Shadow == nil || next.Policy == nil || s.stopped != "" {
		return nil
	}
	own := *next
	own.Policy, own.Shadow, own.shadow, own.memo, own.asked, own.apps = next.Shadow.Policy, nil, nil, nil, nil, nil
	if was := before.shadow; was != nil {
		own.apps = was.view.apps
	}
	if err := guarded(own.assemble); err != nil {
		s.problem = err.Error()
		return nil
	}
	return &shadowView{view: &own, sample: uint32(min(max(next.Shadow.Sample, 0), 1) * (1<<32 - 1)), counts: s.counts}
}

func guarded(do func() error) (err error) {
	defer panics.Into("assembling the shadow policy", &err)
	return do()
}

// offer has the shadow decide about a request that was answered, if it is one of the sample. It takes what it needs of
// the call, and never blocks.
func (s *shadower) offer(v *shadowView, c *call, err error) {
	counts := v.counts
	if v.sample == 0 || rand.Uint32() > v.sample || counts.stopped.Load() {
		return
	}
	was := shadowOutcome{}
	if err != nil {
		f := asFailure(err)
		was = shadowOutcome{f.reason, f.status}
	}
	if c.rule == nil || c.bypassed || c.permissions.wanted || was.reason != None && !was.reason.OfPolicy() {
		return // the policy was not asked, or not to its end
	}
	if len(c.may) > 0 || len(c.match.Also) > 0 || requestBytes(c.req) > shadowBytes {
		counts.skipped.Add(1)
		s.total.skipped.Add(1)
		return
	}
	if len(s.queue) == cap(s.queue) { // before anything is copied
		counts.dropped.Add(1)
		s.total.dropped.Add(1)
		return
	}
	req := *c.req
	req.Headers = slices.Clone(req.Headers)
	j := &shadowJob{counts: counts, was: was, decision: c.decision, call: call{req: &req, fields: c.fields, id: c.id, started: c.started, view: v.view, target: c.target,
		method: c.method, match: c.match, redirect: c.redirect, identity: c.identity, peer: c.peer}}
	j.call.match.Params = slices.Clone(c.match.Params)
	for i := range c.view.apps {
		if c.app == &c.view.apps[i] && i < len(v.view.apps) {
			j.call.app = &v.view.apps[i]
		}
	}
	if j.call.app == nil {
		return
	}
	select {
	case s.queue <- j:
	default:
		counts.dropped.Add(1)
		s.total.dropped.Add(1)
	}
}

// run decides until ctx ends. After each decision it rests, so that it never takes more than its share of a processor.
func (s *shadower) run(ctx context.Context) {
	rest := time.NewTimer(0)
	defer rest.Stop()
	<-rest.C
	for {
		var j *shadowJob
		select {
		case <-ctx.Done():
			return
		case j = <-s.queue:
		}
		counts := j.counts
		if counts.stopped.Load() {
			continue
		}
		// What is still under way of an evaluation that was given up takes a processor, and the place of one of those that the active policy
		// may leave behind: until it has ended there is no other.
		if bounds.Abandoned().Abandoned > 0 {
			counts.dropped.Add(1)
			s.total.dropped.Add(1)
			continue
		}
		began := time.Now()
		s.decide(ctx, j)
		took := time.Since(began)
		s.busy.Add(int64(took))
		rest.Reset(min((shadowShare-1)*took, shadowPause))
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
		}
	}
}

// decide makes one decision and compares it.
func (s *shadower) decide(ctx context.Context, j *shadowJob) {
	c, counts := &j.call, j.counts
	err := s.gate.guard(c, func() error { return s.gate.evaluate(ctx, c) })
	if ctx.Err() != nil {
		return
	}
	is := shadowOutcome{}
	if err != nil {
		f := asFailure(err)
		is = shadowOutcome{f.reason, f.status}
	}
	counts.decided.Add(1)
	s.total.decided.Add(1)
	failed := is.reason != None && !is.reason.OfPolicy()
	if s.failed(counts, failed, is) {
		return
	}
	same := is == j.was
	if same && is.reason == None {
		same = alike(&j.decision, &c.decision)
	}
	add := func(which func(*shadowCounts) *atomic.Uint64) {
		which(counts).Add(1)
		which(&s.total).Add(1)
	}
	if failed || is.reason == PolicyError && j.was.reason != PolicyError {
		add(func(n *shadowCounts) *atomic.Uint64 { return &n.errors })
	}
	if same {
		return
	}
	add(func(n *shadowCounts) *atomic.Uint64 { return &n.differences })
	switch {
	case failed:
	case j.was.reason == None && is.reason != None:
		add(func(n *shadowCounts) *atomic.Uint64 { return &n.denies })
	case j.was.reason != None && is.reason == None:
		add(func(n *shadowCounts) *atomic.Uint64 { return &n.allows })
	}
	s.tell(j, is, err)
}

// failed counts evaluations in a row that came to no end, and stops a shadow with too many.
func (s *shadower) failed(counts *shadowCounts, failed bool, is shadowOutcome) (stopped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts != counts || s.stopped != "" {
		return true
	}
	if !failed {
		s.failing = 0
		return false
	}
	if s.failing++; s.failing < shadowFailure {
		return false
	}
	counts.stopped.Store(true)
	s.stopped = fmt.Sprintf("stopped: %d decisions in a row came to no end (%s)", s.failing, is.reason)
	s.gate.logger.Error("the shadow policy decides no more, until there is another", zap.String("revision", s.current.Policy.Revision()), zap.Stringer("reason", is.reason))
	return false
}

// tell keeps a difference for the status, and logs some of them.
func (s *shadower) tell(j *shadowJob, is shadowOutcome, err error) {
	c := &j.call
	shown := c.shown()
	d := Difference{Time: c.started.UTC(), DecisionID: c.id, App: c.app.Name, Method: shown.Path(c.req.Method), Rule: c.asked(), Active: j.was.String(), Shadow: is.String()}
	if r := c.match.Route; r != nil {
		d.Route = r.Template
	}
	if d.Active == d.Shadow {
		d.Shadow += ", with other headers or query parameters"
	}
	if err != nil && is.reason != Denied && is.reason != NoCredential {
		d.Error = shown.Text(err.Error())
		d.Error = d.Error[:min(len(d.Error), shadowText)]
	}
	s.mu.Lock()
	if s.counts == j.counts {
		if s.last = append(s.last, d); len(s.last) > shadowKept {
			s.last = slices.Delete(s.last, 0, 1)
		}
	}
	s.mu.Unlock()
	if s.say.Allow() {
		s.gate.logger.Info("the shadow policy decides otherwise", zap.String("decision_id", d.DecisionID), zap.String("app", d.App), zap.String("method", d.Method),
			zap.String("route", d.Route), zap.String("rule", d.Rule), zap.String("active", d.Active), zap.String("shadow", d.Shadow), zap.String("error", d.Error))
	}
}

// ShadowStatus is the state of the shadow; nil where none was published.
func (g *Gate) ShadowStatus() *ShadowStatus {
	s := g.shadows
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil
	}
	n := s.counts
	out := &ShadowStatus{On: s.stopped == "" && s.problem == "", Why: s.stopped + s.problem, Sample: s.current.Sample, Revision: s.current.Policy.Revision(),
		Decided: n.decided.Load(), Differences: n.differences.Load(), Denies: n.denies.Load(), Allows: n.allows.Load(), Errors: n.errors.Load(),
		Dropped: n.dropped.Load(), Skipped: n.skipped.Load(), Last: slices.Clone(s.last)}
	return out
}

// The metrics of the shadow, of all policies since the start.
var (
	shadowDecided     = shadowDesc("decisions_total", "Requests that the shadow policy decided about.")
	shadowDifferences = shadowDesc("differences_total", "Of these, those that it decides otherwise.")
	shadowDenies      = shadowDesc("denies_total", "Requests that the shadow policy denies and the active one allows.")
	shadowAllows      = shadowDesc("allows_total", "Requests that the shadow policy allows and the active one denies.")
	shadowErrors      = shadowDesc("errors_total", "Requests about which the shadow policy came to no decision.")
	shadowDropped     = shadowDesc("dropped_total", "Requests of the sample that were dropped because others waited.")
	shadowSkipped     = shadowDesc("skipped_total", "Requests of the sample that are too large, or that several rules decide about.")
	shadowBusy        = shadowDesc("busy_seconds_total", "How long it was decided by shadow policies.")
	shadowOn          = shadowDesc("active", "1: a shadow policy decides beside the active one.")
)

func shadowDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("gatehouse_shadow_"+name, help, nil, nil)
}

// Describe implements prometheus.Collector.
func (s *shadower) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(s, out) }

// Collect implements prometheus.Collector.
func (s *shadower) Collect(out chan<- prometheus.Metric) {
	on, n := 0.0, &s.total
	if v := s.gate.View(); v != nil && v.shadow != nil && !v.shadow.counts.stopped.Load() {
		on = 1
	}
	for desc, value := range map[*prometheus.Desc]float64{shadowDecided: float64(n.decided.Load()), shadowDifferences: float64(n.differences.Load()), shadowDenies: float64(n.denies.Load()),
		shadowAllows: float64(n.allows.Load()), shadowErrors: float64(n.errors.Load()), shadowDropped: float64(n.dropped.Load()), shadowSkipped: float64(n.skipped.Load()),
		shadowBusy: time.Duration(s.busy.Load()).Seconds()} {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value)
	}
	out <- prometheus.MustNewConstMetric(shadowOn, prometheus.GaugeValue, on)
}
