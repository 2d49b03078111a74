package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"gatehouse/decisionlog"
	"gatehouse/policy"
)

const (
	replayBatch    = 512 << 10 // bytes of events that are handed to a worker at once
	maxGroups      = 10_000    // groups of changes; the rest is one more
	maxReasons     = 1_000     // reasons why decisions were not replayed
	maxDamage      = 20        // places of damage that are named
	maxMemo        = 24 << 20  // bytes of inputs whose rulings a worker keeps
	maxMemoInput   = 8 << 10   // bytes of one of them
	memoTrial      = 20_000    // inputs after which a worker looks at whether keeping rulings pays
	replayExamples = 3         // examples of each group
)

// replay puts the decisions of a log to a policy, and says which of them come out in another way.
type replay struct {
	candidate *candidate
	old       func(*recorded) (*candidate, error) // the policy to compare with, nil where it is not kept; no func: what was recorded counts
	filter    logFilter
	expect    []expectedChange
	partial   bool // also where the policy reads what the log does not keep
	answers   bool // compare all that the policy answers
	workers   int

	read  atomic.Int64 // events, for the progress
	bytes atomic.Int64
}

// change is a decision that comes out in another way.
type change struct {
	record   *recorded
	route    routeOf
	from, to verdict
}

// group is all changes of one kind.
type group struct {
	Route      string    `json:"route"`
	App        string    `json:"app,omitempty"`
	From       string    `json:"from"`
	To         string    `json:"to"`
	Count      int64     `json:"count"`
	Expected   bool      `json:"expected"`
	ExpectedAt string    `json:"expected_at,omitempty"` // file:line of --expect
	Examples   []example `json:"examples"`

	expect int // which of the expected changes; -1: none
}

// example is one decision, for somebody to look up.
type example struct {
	DecisionID string   `json:"decision_id"`
	Timestamp  string   `json:"timestamp"`
	Request    string   `json:"request"`
	Subject    string   `json:"subject,omitempty"`
	Roles      []string `json:"roles,omitempty"`

	event int64
}

// skipped are decisions that were not replayed, for one reason.
type skipped struct {
	Reason  string `json:"reason"`
	Count   int64  `json:"count"`
	Example string `json:"example,omitempty"` // a decision's id

	event int64
}

// tally is what came of a log, or of a part of one.
type tally struct {
	Events   int64      `json:"events"`   // in the log, gaps among them
	Filtered int64      `json:"filtered"` // passed over: not what was asked for
	Replayed int64      `json:"replayed"`
	Changed  int64      `json:"changed"`
	Remade   int64      `json:"-"` // of Replayed, those that were evaluated and not remembered
	Since    string     `json:"since,omitempty"`
	Until    string     `json:"until,omitempty"`
	Gaps     int64      `json:"gaps,omitempty"`
	Dropped  int64      `json:"dropped,omitempty"` // decisions that the log itself says it lost
	Damage   []string   `json:"damage,omitempty"`
	Damaged  int64      `json:"damaged,omitempty"`
	Differs  int64      `json:"old_differs,omitempty"` // the old policy says something else than was recorded
	Differ   []example  `json:"old_differs_examples,omitempty"`
	Unkept   int64      `json:"old_not_kept,omitempty"` // compared with what was recorded for want of the policy that decided
	Groups   []*group   `json:"changes"`
	Skipped  []*skipped `json:"not_replayed"`

	groups map[groupKey]*group
	skips  map[string]*skipped
}

type groupKey struct {
	app, route, from, to string
	expect               int
}

// batch is a run of events, one behind the other.
type batch struct {
	first int64 // the number of the first
	data  []byte
	ends  []int
}

// run reads the log to its end, or to the number of decisions that is wanted.
func (p *replay) run(ctx context.Context, log *decisionlog.Reader) (*tally, error) {
	p.workers = max(runtime.GOMAXPROCS(0), 1)
	full, free := make(chan *batch, p.workers), make(chan *batch, 2*p.workers+2)
	for range cap(free) {
		free <- &batch{}
	}
	total := newTally()
	var mu sync.Mutex // guards total
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var work sync.WaitGroup
	for range p.workers {
		work.Go(func() { // goroutine: of a command that a panic may end
			w := &worker{replay: p, tally: newTally(), asked: map[*candidate]map[string]*asked{}}
			for b := range full {
				if err := w.take(ctx, b); err != nil {
					stop(err)
				}
				free <- b
			}
			mu.Lock()
			defer mu.Unlock()
			total.add(w.tally)
		})
	}
	reading := newTally()
	err := p.feed(ctx, log, reading, full, free)
	close(full)
	work.Wait()
	if failed := context.Cause(ctx); failed != nil {
		return nil, failed
	}
	if err != nil {
		return nil, err
	}
	total.add(reading)
	total.finish()
	return total, nil
}

// feed copies events into batches. It alone reads the log.
func (p *replay) feed(ctx context.Context, log *decisionlog.Reader, t *tally, full chan<- *batch, free <-chan *batch) error {
	var b *batch
	send := func() error {
		if b == nil {
			return nil
		}
		select {
		case full <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
		b = nil
		return nil
	}
	for number := int64(1); ; {
		event, err := log.Next()
		if damage, ok := errors.AsType[*decisionlog.DamageError](err); ok {
			t.damaged(damage.Error())
			continue
		}
		if errors.Is(err, io.EOF) {
			return send()
		}
		if err != nil {
			return err
		}
		if b == nil {
			select {
			case b = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
			*b = batch{first: number, data: b.data[:0], ends: b.ends[:0]}
		}
		b.data = append(b.data, event...)
		b.ends = append(b.ends, len(b.data))
		number++
		p.read.Add(1)
		p.bytes.Add(int64(len(event)) + 1)
		if p.filter.enough(event) {
			return send()
		}
		if len(b.data) >= replayBatch {
			if err := send(); err != nil {
				return err
			}
		}
	}
}

// worker decides batch after batch. It belongs to one goroutine.
type worker struct {
	*replay
	*tally
	asked  map[*candidate]map[string]*asked
	inputs policy.InputReader
	record recorded
	key    []byte
	taken  []byte // the part of an input that is read
	kept   int    // bytes of inputs whose rulings are kept
}

// asked is a rule with what a worker knows of it.
type asked struct {
	*preparedRule
	rulings  map[string]ruling // by the part of the input that is read; nil: they are not kept
	hits     int
	misses   int
	pointers map[string]string // by a list of pointers: what the rule reads of it
}

// take decides about all events of a batch.
func (w *worker) take(ctx context.Context, b *batch) error {
	from := 0
	for i, end := range b.ends {
		if err := w.event(ctx, b.data[from:end], b.first+int64(i)); err != nil {
			return err
		}
		from = end
	}
	if cap(b.data) > 4*replayBatch { // one huge event is no reason to keep its memory
		b.data = nil
	}
	return nil
}

func (w *worker) event(ctx context.Context, event []byte, number int64) error {
	r := &w.record
	w.Events++
	if err := r.parse(event, number); err != nil {
		w.damaged(fmt.Sprintf("event %d: %v", number, err))
		return nil
	}
	if r.gap != nil {
		w.Gaps++
		var gap struct{ Dropped int64 }
		_ = json.Unmarshal(r.gap, &gap)
		w.Dropped += gap.Dropped
		return nil
	}
	if !w.filter.wants(r) {
		w.Filtered++
		return nil
	}
	why, err := w.compare(ctx, r)
	if err != nil {
		return fmt.Errorf("decision %s: %w", r.id, err)
	}
	if why != "" {
		w.skip(why, r)
		return nil
	}
	w.Replayed++
	w.between(r)
	return nil
}

// compare decides a decision again. It returns why that cannot be done.
func (w *worker) compare(ctx context.Context, r *recorded) (why string, err error) {
	if why := r.unasked(); why != "" {
		return why, nil
	}
	was := r.verdict()
	if w.answers {
		was.answer = r.answer()
	}
	to, why, err := w.decide(ctx, w.candidate, r, was)
	if why != "" || err != nil {
		return why, err
	}
	from := was
	if w.old != nil {
		if from, why, err = w.before(ctx, r, was); why != "" || err != nil {
			return why, err
		}
	}
	before, after := from.String(), to.String()
	if before == after && from.answer != to.answer && from.answer != "" && to.answer != "" {
		after += ", with another answer"
	}
	if before != after {
		w.note(&change{record: r, route: r.routeOf(), from: from, to: to}, before, after)
	}
	return "", nil
}

// before is what the old policy says, or what was recorded where that policy is not kept.
func (w *worker) before(ctx context.Context, r *recorded, was verdict) (from verdict, why string, err error) {
	old, err := w.old(r)
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

// unasked says why the policy had no part in a decision, or why its part is not known.
func (r *recorded) unasked() string {
	reason := string(r.reason)
	switch _, policys := statusOf[reason]; {
	case r.input != nil && (reason == "" || policys):
		return ""
	case r.input != nil:
		return "the answer was not the policy's: " + reason
	case r.erased != nil && slices.ContainsFunc(texts(r.erased), func(p string) bool { return p == "/input" }):
		return "its input is not in the log (erased)"
	case reason == "":
		return "its input is not in the log"
	}
	return "the policy was not asked: " + reason
}

// answer is the recorded result in the form in which answers are compared; "" where it is not all there.
func (r *recorded) answer() string {
	for _, list := range [][]byte{r.erased, r.masked} {
		if slices.ContainsFunc(texts(list), func(p string) bool { return strings.HasPrefix(p, "/result") }) {
			return ""
		}
	}
	d := json.NewDecoder(bytes.NewReader(r.result))
	d.UseNumber()
	var plain any
	if r.result == nil || d.Decode(&plain) != nil {
		return ""
	}
	out, _ := json.Marshal(plain) // what was decoded
	return string(out)
}

// decide is what a candidate says of a recorded decision.
func (w *worker) decide(ctx context.Context, s *candidate, r *recorded, was verdict) (v verdict, why string, err error) {
	a, err := w.ask(s, r)
	switch {
	case err != nil:
		return v, "", err
	case a.absent != "":
		return v, a.absent, nil
	case a.denies:
		return s.verdict(ruling{reason: "no_decision"}, r, was), "", nil
	}
	if part := a.missing(r); part != "" && !w.partial {
		return v, "the policy reads " + part + ", which the log does not keep", nil
	}
	u, why, err := w.rule(ctx, a, r)
	switch {
	case why != "" || err != nil:
		return v, why, err
	case strings.HasPrefix(u.unsure, "after "):
		return v, "the evaluation was not done " + u.unsure, nil
	case u.unsure != "":
		return v, "the policy asks " + u.unsure + ", which may say something else now", nil
	}
	return s.verdict(u, r, was), "", nil
}

// ask finds the rule that is asked.
func (w *worker) ask(s *candidate, r *recorded) (*asked, error) {
	w.key = s.key(w.key[:0], r)
	known := w.asked[s]
	if a := known[string(w.key)]; a != nil {
		return a, nil
	}
	prepared, err := s.ask(r, w.key)
	if err != nil {
		return nil, err
	}
	if known == nil && len(w.asked) > 2*maxPast { // policies of the past that are done with
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

// missing is a part of the input that the rule reads and the log does not keep; "" where there is none.
func (a *asked) missing(r *recorded) string {
	for _, list := range [][]byte{r.erased, r.masked} {
		if len(list) == 0 {
			continue
		}
		part, known := a.pointers[string(list)]
		if !known {
			part = readOf(a.reads, texts(list))
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

// readOf is the first of the pointers into the input that is read, as a reference.
func readOf(reads policy.Reads, pointers []string) string {
	for _, pointer := range pointers {
		if ref := readRef(reads, pointer); ref != "" {
			return ref
		}
	}
	return ""
}

// rule gives the ruling for the part of the input that is read: a kept one, where nothing else can make a difference.
func (w *worker) rule(ctx context.Context, a *asked, r *recorded) (u ruling, why string, err error) {
	if w.taken, err = a.reads.Project(w.taken[:0], r.input); err != nil {
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
	at, err := r.at()
	if err != nil {
		return u, "its timestamp is not one of RFC 3339", nil
	}
	w.Remade++
	if u, err = a.preparedRule.rule(ctx, input, at, w.answers); err != nil {
		return u, "", err
	}
	w.keep(a, u)
	return u, "", nil
}

// keep keeps a ruling, within bounds, for as long as that pays.
func (w *worker) keep(a *asked, u ruling) {
	if a.misses++; a.misses == memoTrial && a.hits < a.misses/4 {
		a.rulings = nil
	}
	if a.rulings == nil || len(w.taken) > maxMemoInput || strings.HasPrefix(u.unsure, "after ") {
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

func newTally() *tally { return &tally{groups: map[groupKey]*group{}, skips: map[string]*skipped{}} }

// damaged notes a place that could not be read.
func (t *tally) damaged(where string) {
	if t.Damaged++; len(t.Damage) < maxDamage {
		t.Damage = append(t.Damage, where)
	}
}

// between widens the period.
func (t *tally) between(r *recorded) {
	at := r.timestamp
	if t.Since == "" || string(at) < t.Since {
		t.Since = string(at)
	}
	if string(at) > t.Until {
		t.Until = string(at)
	}
}

// skip counts a decision that was not replayed.
func (t *tally) skip(why string, r *recorded) {
	s := t.skips[why]
	if s == nil && len(t.skips) >= maxReasons {
		why = "for other reasons"
		s = t.skips[why]
	}
	if s == nil {
		s = &skipped{Reason: why, Example: string(r.id), event: r.event}
		t.skips[why] = s
	}
	s.Count++
}

// note counts a change.
func (w *worker) note(c *change, before, after string) {
	w.Changed++
	key := groupKey{app: c.route.app, route: c.route.label(), from: before, to: after}
	key.expect = slices.IndexFunc(w.expect, func(e expectedChange) bool { return e.covers(c) })
	g := w.groups[key]
	if g == nil && len(w.groups) >= maxGroups {
		key.route = "(other routes)"
		g = w.groups[key]
	}
	if g == nil {
		g = &group{App: key.app, Route: key.route, From: before, To: after, expect: key.expect}
		if g.Expected = key.expect >= 0; g.Expected {
			g.ExpectedAt = w.expect[key.expect].place
		}
		w.groups[key] = g
	}
	g.Count++
	g.Examples = addExample(g.Examples, c.record)
}

// addExample keeps the first few decisions of the log.
func addExample(list []example, r *recorded) []example {
	if len(list) >= replayExamples && list[len(list)-1].event < r.event {
		return list
	}
	return firstExamples(append(list, example{event: r.event, DecisionID: textOf(r.id), Timestamp: textOf(r.timestamp),
		Request: strings.TrimSpace(textOf(r.method) + " " + textOf(r.host) + textOf(r.target)), Subject: textOf(r.subject), Roles: texts(r.roles)}))
}

func firstExamples(list []example) []example {
	slices.SortFunc(list, func(a, b example) int { return cmp.Compare(a.event, b.event) })
	return list[:min(len(list), replayExamples)]
}

// add takes in what another part of the log came to.
func (t *tally) add(o *tally) {
	t.Events, t.Filtered, t.Replayed, t.Changed, t.Remade = t.Events+o.Events, t.Filtered+o.Filtered, t.Replayed+o.Replayed, t.Changed+o.Changed, t.Remade+o.Remade
	t.Gaps, t.Dropped, t.Damaged, t.Differs = t.Gaps+o.Gaps, t.Dropped+o.Dropped, t.Damaged+o.Damaged, t.Differs+o.Differs
	t.Unkept += o.Unkept
	t.Damage = append(t.Damage, o.Damage...)
	t.Damage = t.Damage[:min(len(t.Damage), maxDamage)]
	t.Differ = firstExamples(append(t.Differ, o.Differ...))
	if o.Since != "" && (t.Since == "" || o.Since < t.Since) {
		t.Since = o.Since
	}
	t.Until = max(t.Until, o.Until)
	for key, g := range o.groups {
		if mine := t.groups[key]; mine == nil {
			t.groups[key] = g
		} else {
			mine.Count += g.Count
			mine.Examples = firstExamples(append(mine.Examples, g.Examples...))
		}
	}
	for why, s := range o.skips {
		mine := t.skips[why]
		if mine == nil {
			t.skips[why] = s
			continue
		}
		if mine.Count += s.Count; s.event < mine.event {
			mine.Example, mine.event = s.Example, s.event
		}
	}
}

// finish puts groups and reasons in order: what was not expected first, then the most.
func (t *tally) finish() {
	t.Groups = slices.SortedFunc(maps.Values(t.groups), func(a, b *group) int {
		if a.Expected != b.Expected {
			if b.Expected {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.App+a.Route, b.App+b.Route), cmp.Compare(a.From+a.To, b.From+b.To))
	})
	slices.Sort(t.Damage)
	t.Skipped = slices.SortedFunc(maps.Values(t.skips), func(a, b *skipped) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason))
	})
}

// unexpected is how many changes no one expected.
func (t *tally) unexpected() (n int64) {
	for _, g := range t.Groups {
		if !g.Expected {
			n += g.Count
		}
	}
	return n
}
