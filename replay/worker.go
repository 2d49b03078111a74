package replay

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"gatehouse/decisionlog/events"
	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
)

const (
	maxMemo      = 24 << 20 // bytes of inputs whose rulings a worker caches
	maxMemoInput = 8 << 10  // bytes of one cached input
	memoTrial    = 20_000   // inputs after which a worker checks whether the cache pays
)

// change is a decision whose verdict changes.
type change struct {
	record   *Record
	route    Route
	from, to Verdict
}

// worker processes batches. One goroutine uses it.
type worker struct {
	*Replay
	*Report
	asked  map[*Candidate]map[string]*asked
	inputs rego.Reader
	record Record
	key    []byte
	taken  []byte // the part of an input that is read
	kept   int    // bytes of cached inputs

	userNow bool // of the decision at hand the user is the one of now
}

// asked is a prepared rule with a worker's caches.
type asked struct {
	*preparedRule
	rulings  map[string]ruling // by the part of the input that is read; nil: no cache
	hits     int
	misses   int
	pointers map[string]string // by a list of pointers: those that the rule reads
}

// take processes all events of a batch.
func (w *worker) take(ctx context.Context, b *batch) error {
	from := 0
	for i, end := range b.ends {
		if err := w.event(ctx, b.data[from:end], b.first+int64(i)); err != nil {
			return err
		}
		from = end
	}
	if cap(b.data) > 4*batchBytes { // release the buffer of an unusually large event
		b.data = nil
	}
	return nil
}

func (w *worker) event(ctx context.Context, event []byte, number int64) error {
	r := &w.record
	w.Events++
	if err := r.Parse(event, number); err != nil {
		w.damaged(fmt.Sprintf("event %d: %v", number, err))
		return nil
	}
	if r.Gap.Recorded {
		w.Gaps++
		w.Dropped += int64(r.Gap.Dropped)
		return nil
	}
	if w.Wants != nil && !w.Wants(r) {
		w.Filtered++
		return nil
	}
	w.userNow = false
	why, err := w.compare(ctx, r)
	if err != nil {
		return fmt.Errorf("decision %s: %w", r.DecisionID, err)
	}
	if why != "" {
		w.skip(why, r)
		return nil
	}
	w.Replayed++
	if w.userNow {
		w.UsersCurrent++
	}
	w.between(r)
	return nil
}

// compare makes a decision again. It returns why it cannot.
func (w *worker) compare(ctx context.Context, r *Record) (why string, err error) {
	if why := r.unasked(); why != "" {
		return why, nil
	}
	was := r.Verdict()
	if w.Answers {
		was.answer = r.answer()
	}
	to, why, err := w.decide(ctx, w.Candidate, r, was)
	if why != "" || err != nil {
		return why, err
	}
	from := was
	if w.Old != nil {
		if from, why, err = w.before(ctx, r, was); why != "" || err != nil {
			return why, err
		}
	}
	before, after := from.String(), to.String()
	if before == after && from.answer != to.answer && from.answer != "" && to.answer != "" {
		after += ", with another answer"
	}
	if before != after {
		w.note(&change{record: r, route: r.RouteOf(), from: from, to: to}, before, after)
	}
	return "", nil
}

// before is the old policy's verdict, or the recorded one where that policy is not archived.
func (w *worker) before(ctx context.Context, r *Record, was Verdict) (from Verdict, why string, err error) {
	old, err := w.Old(r)
	switch {
	case err != nil:
		return was, "", err
	case old == nil:
		w.Unkept++
		return was, "", nil
	}
	if from, why, err = w.decide(ctx, old, r, was); why != "" || err != nil {
		return from, why, err
	}
	if from.String() != was.String() {
		w.Differs++
		w.Differ = addExample(w.Differ, r)
	}
	return from, "", nil
}

// decide is a candidate's verdict for a recorded decision.
func (w *worker) decide(ctx context.Context, s *Candidate, r *Record, was Verdict) (v Verdict, why string, err error) {
	a, err := w.ruleFor(s, r)
	switch {
	case err != nil:
		return v, "", err
	case a.absent != "":
		return v, a.absent, nil
	case a.denies:
		return s.verdict(ruling{Verdict: gate.VerdictOf(nil, policy.ErrUndefined)}, r, was), "", nil
	}
	if part := a.missing(r); part != "" && !w.Partial {
		return v, "the policy reads " + part + ", which the log does not keep", nil
	}
	input, user, why := s.recall(a.preparedRule, r)
	if why != "" {
		return v, why, nil
	}
	if user.Current {
		w.FactsCurrent++
		w.userNow = true
	}
	if user.Denied {
		return s.verdict(ruling{Verdict: gate.Verdict{Reason: gate.UnknownUser, Status: gate.UnknownUser.Status()}}, r, was), "", nil
	}
	u, why, err := w.rule(ctx, a, r, input)
	switch {
	case why != "" || err != nil:
		return v, why, err
	case u.late:
		return v, "the evaluation was not done after " + evaluationLimit.String(), nil
	case u.unsure != "":
		return v, "the policy asks " + u.unsure + ", which may say something else now", nil
	}
	return s.verdict(u, r, was), "", nil
}

// ruleFor finds the rule of a decision.
func (w *worker) ruleFor(s *Candidate, r *Record) (*asked, error) {
	w.key = s.key(w.key[:0], r)
	known := w.asked[s]
	if a := known[string(w.key)]; a != nil {
		return a, nil
	}
	prepared, err := s.ruleFor(r, w.key)
	if err != nil {
		return nil, err
	}
	if known == nil && len(w.asked) > 2*maxArchived { // archived policies that are no longer used
		clear(w.asked)
		w.kept = 0
	}
	if known == nil || len(known) >= maxAsks {
		known = map[string]*asked{}
		w.asked[s] = known
	}
	a := &asked{preparedRule: prepared, pointers: map[string]string{}}
	if prepared.pure {
		a.rulings = map[string]ruling{}
	}
	known[string(w.key)] = a
	return a, nil
}

// missing is a part of the input that the rule reads and the log does not keep; "": none.
func (a *asked) missing(r *Record) string {
	for _, list := range []json.RawMessage{r.Erased, r.Masked} {
		if len(list) == 0 {
			continue
		}
		part, known := a.pointers[string(list)]
		if !known {
			part = readOf(a.reads, events.Strings(list))
			if len(a.pointers) >= maxReasons {
				clear(a.pointers)
			}
			a.pointers[string(list)] = part
		}
		if part != "" {
			return part
		}
	}
	return ""
}

// readOf is the first of the pointers that the rule reads, as a reference.
func readOf(reads reach.Reads, pointers []string) string {
	for _, pointer := range pointers {
		if ref := ReadRef(reads, pointer); ref != "" {
			return ref
		}
	}
	return ""
}

// rule returns the ruling for the part of the input that is read: from the cache, where nothing else can influence
// it.
func (w *worker) rule(ctx context.Context, a *asked, r *Record, document json.RawMessage) (u ruling, why string, err error) {
	if w.taken, err = a.reads.Project(w.taken[:0], document); err != nil {
		return u, "its input is damaged", nil
	}
	if u, ok := a.rulings[string(w.taken)]; ok {
		a.hits++
		return u, "", nil
	}
	input, err := w.inputs.Read(w.taken)
	if err != nil {
		return u, "its input is damaged", nil
	}
	at, err := r.Time()
	if err != nil {
		return u, "its timestamp is not one of RFC 3339", nil
	}
	recorded, err := policy.ParseQuestions(r.Facts)
	if err != nil {
		return u, "what was asked of the directory is damaged", nil
	}
	w.Remade++
	if u, err = a.preparedRule.rule(ctx, input, recorded, at, w.Answers); err != nil {
		return u, "", err
	}
	w.FactsRecorded += int64(u.basis.Recorded)
	w.FactsCurrent += int64(u.basis.Current)
	w.cache(a, u)
	return u, "", nil
}

// cache caches a ruling, within bounds, while that pays.
func (w *worker) cache(a *asked, u ruling) {
	if a.misses++; a.misses == memoTrial && a.hits < a.misses/4 {
		a.rulings = nil
	}
	if a.rulings == nil || len(w.taken) > maxMemoInput || u.late {
		return
	}
	if w.kept += len(w.taken) + 100; w.kept > maxMemo {
		for _, known := range w.asked {
			for _, other := range known {
				clear(other.rulings)
			}
		}
		w.kept = 0
	}
	a.rulings[string(w.taken)] = u
}

// note counts a change.
func (w *worker) note(c *change, before, after string) {
	w.Changed++
	key := groupKey{app: c.route.App, route: c.route.Label(), from: before, to: after}
	key.expect = slices.IndexFunc(w.Expect, func(e Expected) bool { return e.covers(c) })
	g := w.groups[key]
	if g == nil && len(w.groups) >= maxGroups {
		key.route = "(other routes)"
		g = w.groups[key]
	}
	if g == nil {
		g = &Group{App: key.app, Route: key.route, From: before, To: after, expect: key.expect}
		if g.Expected = key.expect >= 0; g.Expected {
			g.ExpectedAt = w.Expect[key.expect].Place
		}
		w.groups[key] = g
	}
	g.Count++
	g.Examples = addExample(g.Examples, c.record)
}
