package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rollout is a revision on its way to the edges of an environment, stage by stage. It is immutable: a change makes
// another.
type Rollout struct {
	Revision  Revision
	Stages    []string // 1, 10%, all
	Stage     int
	Threshold uint32 // edges with at most this place have the revision
	Held      bool
	Reason    string // why it is held
	Every     time.Duration
	Since     time.Time // when the stage began
	Actor     string
	Message   string
	Baseline  Counts // of the revision before, when it began
}

// Counts are what edges have decided by one revision.
type Counts struct {
	Decisions    uint64 `json:"decisions"`
	Denied       uint64 `json:"denied"`
	Errors       uint64 `json:"errors"`
	Microseconds uint64 `json:"microseconds"`
}

// Add adds others.
func (c *Counts) Add(o Counts) {
	c.Decisions, c.Denied, c.Errors, c.Microseconds = c.Decisions+o.Decisions, c.Denied+o.Denied, c.Errors+o.Errors, c.Microseconds+o.Microseconds
}

// Guard are bounds for a revision on its way, compared with the one before. Zero: the default.
type Guard struct {
	Errors  float64 `json:"errors"`  // most share of decisions that fail, beyond that of the one before
	Denied  float64 `json:"denied"`  // likewise of denials
	Latency float64 `json:"latency"` // most mean time, as a multiple of that of the one before
	Least   uint64  `json:"least"`   // decisions before anything is compared

	By string    `json:"by,omitempty"` // who set it; "": nobody, or before that was kept
	At time.Time `json:"at,omitzero"`
}

// String is the bounds in words.
func (g Guard) String() string {
	return fmt.Sprintf("errors %v, denied %v, latency %v, after %d decisions", g.Errors, g.Denied, g.Latency, g.Least)
}

// OrDefault fills in the defaults.
func (g Guard) OrDefault() Guard {
	for at, value := range map[*float64]float64{&g.Errors: 0.01, &g.Denied: 0.1, &g.Latency: 5} {
		if *at == 0 {
			*at = value
		}
	}
	if g.Least == 0 {
		g.Least = 100
	}
	return g
}

func (g Guard) check() error {
	for _, x := range []float64{g.Errors, g.Denied, g.Latency} {
		if x < 0 || math.IsNaN(x) || math.IsInf(x, 0) || x > 1e6 {
			return fmt.Errorf("%w: a bound is a number above zero", ErrInvalid)
		}
	}
	return nil
}

// Compares reports whether there is enough of both revisions for Left to say something.
func (g Guard) Compares(now, before Counts) bool {
	return now.Decisions >= g.Least && before.Decisions >= g.Least && now.Decisions > 0
}

// Left says which bound the new revision has left, compared with the old one; "": none.
func (g Guard) Left(now, before Counts) string {
	if now.Decisions < g.Least || now.Decisions == 0 {
		return ""
	}
	share := func(n, of uint64) float64 {
		if of == 0 {
			return 0
		}
		return float64(n) / float64(of)
	}
	switch is, was := share(now.Errors, now.Decisions), share(before.Errors, before.Decisions); {
	case is > was+g.Errors:
		return fmt.Sprintf("%.1f %% of its decisions fail, and %.1f %% of those before", 100*is, 100*was)
	}
	if before.Decisions < g.Least {
		return "" // there is nothing to compare with
	}
	if is, was := share(now.Denied, now.Decisions), share(before.Denied, before.Decisions); is > was+g.Denied {
		return fmt.Sprintf("it denies %.1f %% of the requests, and the one before %.1f %%", 100*is, 100*was)
	}
	if is, was := share(now.Microseconds, now.Decisions), share(before.Microseconds, before.Decisions); was > 0 && is > was*g.Latency {
		return fmt.Sprintf("a decision takes %.0f µs, and took %.0f µs before", is, was)
	}
	return ""
}

// Place is an edge's place in the order in which a revision reaches the edges: another one for each revision.
func Place(edge string, r *Revision) uint32 {
	sum := sha256.Sum256([]byte(edge + " " + r.Digest))
	return binary.BigEndian.Uint32(sum[:])
}

// Has reports whether an edge is one of those that have the revision.
func (r *Rollout) Has(edge string) bool { return Place(edge, &r.Revision) <= r.Threshold }

// maxStages bounds the stages of a rollout.
const maxStages = 20

// CheckStages checks stages: numbers and shares of edges, and all as the last one.
func CheckStages(list []string) error {
	if len(list) < 2 || len(list) > maxStages || list[len(list)-1] != "all" {
		return fmt.Errorf("%w: stages: give 2 to %d of them, the last one all: 1,10%%,all", ErrInvalid, maxStages)
	}
	for _, s := range list[:len(list)-1] {
		if _, _, err := parseStage(s); err != nil {
			return err
		}
	}
	return nil
}

// parseStage reads a number of edges, or a share.
func parseStage(s string) (count int, share float64, err error) {
	if text, ok := strings.CutSuffix(s, "%"); ok {
		share, err = strconv.ParseFloat(text, 64)
		if err == nil && share > 0 && share <= 100 {
			return 0, share / 100, nil
		}
	} else if count, err = strconv.Atoi(s); err == nil && count > 0 {
		return count, 0, nil
	}
	return 0, 0, fmt.Errorf("%w: stage %q: give a number of edges (1) or a share of them (10%%)", ErrInvalid, s)
}

// threshold is the place up to which edges have the revision in a stage, of those that are connected. It never shrinks.
func (r *Rollout) threshold(stage string, edges []string) (uint32, error) {
	if stage == "all" {
		return math.MaxUint32, nil
	}
	count, share, err := parseStage(stage)
	if err != nil {
		return 0, err
	}
	if len(edges) == 0 {
		return 0, fmt.Errorf("%w: no edge is connected that could be the first", ErrInvalid)
	}
	if share > 0 {
		count = int(math.Ceil(share * float64(len(edges))))
	}
	places := make([]uint32, len(edges))
	for i, id := range edges {
		places[i] = Place(id, &r.Revision)
	}
	slices.Sort(places)
	return max(r.Threshold, places[min(count, len(places))-1]), nil
}

// Rollout is the one that is under way; nil: none.
func (e *Environment) Rollout() *Rollout {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.rollout
}

// RevisionFor is the revision that an edge is to have, nil where there is none, and a channel that is closed when that may
// be another.
func (e *Environment) RevisionFor(edge string) (*Revision, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.promotion == nil:
		return nil, e.repointed
	case e.rollout != nil && edge != "" && e.rollout.Has(edge):
		return &e.rollout.Revision, e.repointed
	}
	return &e.promotion.Revision, e.repointed
}

// Guard are the bounds of the environment's rollouts.
func (e *Environment) Guard() Guard {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.guard
}

// SetGuard sets them, as entry has it on record.
func (s *Store) SetGuard(ctx context.Context, e *Environment, g Guard, entry Audit) error {
	if err := g.check(); err != nil {
		return err
	}
	g.By, g.At = entry.Actor, s.with.Clock().UTC().Truncate(time.Millisecond)
	entry.Action, entry.Subject, entry.Detail = "guard", e.Name, g.OrDefault().String()
	text, err := json.Marshal(g)
	if err != nil {
		return err
	}
	return s.submit(ctx, 1, func(w *writer) error {
		if _, err := w.exec("insert into guard (environment, bounds) values (?, ?) on conflict do update set bounds = excluded.bounds", e.id, string(text)); err != nil {
			return err
		}
		w.after = append(w.after, func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.guard = g
		})
		return w.audit(entry)
	})
}

// setRollout makes another rollout the environment's one, once it is on disk. nil ends it.
func (w *writer) setRollout(e *Environment, r *Rollout) error {
	var err error
	if r == nil {
		_, err = w.exec("delete from rollout where environment = ?", e.id)
	} else {
		var baseline []byte
		if baseline, err = json.Marshal(r.Baseline); err != nil {
			return err
		}
		state := "running"
		if r.Held {
			state = "held"
		}
		_, err = w.exec(`insert into rollout (environment, revision, stages, stage, threshold, state, reason, every, since, actor, message, baseline) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			on conflict do update set revision = excluded.revision, stages = excluded.stages, stage = excluded.stage, threshold = excluded.threshold, state = excluded.state, reason = excluded.reason,
			every = excluded.every, since = excluded.since, actor = excluded.actor, message = excluded.message, baseline = excluded.baseline`,
			e.id, r.Revision.id, strings.Join(r.Stages, ","), r.Stage, r.Threshold, state, r.Reason, int64(r.Every.Seconds()), r.Since.UnixMilli(), r.Actor, r.Message, string(baseline))
	}
	if err == nil {
		w.after = append(w.after, func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.rollout = r
			close(e.repointed)
			e.repointed = make(chan struct{})
		})
	}
	return err
}

// Begin begins a rollout, with its first stage. edges are those that are connected.
func (s *Store) Begin(ctx context.Context, e *Environment, r Rollout, expected string, edges []string, peer string) (*Rollout, error) {
	if err := CheckStages(r.Stages); err != nil {
		return nil, err
	}
	found, err := s.FindRevision(ctx, e.Project(), r.Revision.Digest)
	if err != nil {
		return nil, err
	}
	r.Revision, r.Since = found, s.with.Clock().UTC().Truncate(time.Millisecond)
	if r.Threshold, err = r.threshold(r.Stages[0], edges); err != nil {
		return nil, err
	}
	err = s.submit(ctx, 1, func(w *writer) error {
		was, err := w.promotion(e)
		switch {
		case err != nil:
			return err
		case was == nil:
			return fmt.Errorf("%w: nothing is promoted in %s yet that the other edges could keep: promote it without stages", ErrInvalid, e.Name)
		case expected != "" && strings.TrimPrefix(expected, "sha256:") != was.Revision.Digest:
			return &movedError{e.Name, was.Revision.Digest}
		case was.Revision.Digest == r.Revision.Digest:
			return fmt.Errorf("%w: %s has this revision already", ErrInvalid, e.Name)
		}
		if is, err := w.underWay(e); err != nil || is {
			return errorsOr(err, fmt.Errorf("%w: a rollout is under way in %s: end it first", ErrInvalid, e.Name))
		}
		if err := w.setRollout(e, &r); err != nil {
			return err
		}
		return w.audit(Audit{Actor: r.Actor, Peer: peer, Action: "rollout", Subject: e.Name, Detail: "of " + r.Revision.Digest + " in stages " + strings.Join(r.Stages, ",") + ": " + r.Message})
	})
	if err != nil {
		return nil, err
	}
	return &r, nil
}

func errorsOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func (w *writer) underWay(e *Environment) (bool, error) {
	var n int
	_, err := w.row([]any{&n}, "select count(*) from rollout where environment = ?", e.id)
	return n > 0, err
}

// Actions on a rollout.
const (
	RolloutHold   = "hold"
	RolloutResume = "resume"
	RolloutNext   = "next"
	RolloutAbort  = "abort"
)

// Change acts on the rollout was, which must be the one that is under way. edges are those that are connected. With the last stage the revision
// is promoted, and the rollout has ended.
func (s *Store) Change(ctx context.Context, e *Environment, was *Rollout, action, reason string, edges []string, by Audit) error {
	next := *was
	next.Since = s.with.Clock().UTC().Truncate(time.Millisecond)
	by.Action, by.Subject, by.Detail = "rollout", e.Name, action+" of "+was.Revision.Digest+": "+reason
	ends := false
	switch action {
	case RolloutHold:
		next.Held, next.Reason, next.Since = true, reason, was.Since
	case RolloutResume:
		next.Held, next.Reason = false, ""
	case RolloutAbort:
		ends = true
	case RolloutNext:
		next.Held, next.Reason = false, ""
		if next.Stage++; next.Stage >= len(next.Stages)-1 {
			ends = true
			break
		}
		var err error
		if next.Threshold, err = was.threshold(next.Stages[next.Stage], edges); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%w: action %q: there are hold, resume, next and abort", ErrInvalid, action)
	}
	return s.submit(ctx, 1, func(w *writer) error {
		if e.Rollout() != was {
			return fmt.Errorf("the rollout: %w", ErrEtag)
		}
		if !ends {
			if err := w.setRollout(e, &next); err != nil {
				return err
			}
			return w.audit(by)
		}
		if action == RolloutNext {
			if err := w.promote(e, &Promotion{Environment: e.Name, Action: ActionPromote, Revision: was.Revision, Actor: was.Actor, Message: was.Message}); err != nil {
				return err
			}
		}
		if err := w.setRollout(e, nil); err != nil {
			return err
		}
		return w.audit(by)
	})
}

// promote points the environment at a promotion's revision.
func (w *writer) promote(e *Environment, p *Promotion) error {
	was, err := w.promotion(e)
	if err != nil {
		return err
	}
	var previous any
	p.Sequence, p.At = 1, w.store.with.Clock().UTC().Truncate(time.Millisecond)
	if was != nil {
		p.Sequence, p.Previous, previous = was.Sequence+1, was.Revision.Digest, was.Revision.id
	}
	if _, err := w.exec("insert into promotion (environment, sequence, action, revision, previous, actor, message, at) values (?, ?, ?, ?, ?, ?, ?, ?)",
		e.id, p.Sequence, p.Action, p.Revision.id, previous, p.Actor, p.Message, p.At.UnixMilli()); err != nil {
		return err
	}
	w.after = append(w.after, func() { e.point(p) })
	return nil
}

// loadRollout reads the rollout and the guard of an environment.
func (s *Store) loadRollout(ctx context.Context, e *Environment) error {
	r := &Rollout{}
	var stages, state, baseline, bounds string
	var every int64
	found, err := scanOne(s.write.QueryRowContext(ctx, "select o.stages, o.stage, o.threshold, o.state, o.reason, o.every, o.since, o.actor, o.message, o.baseline, "+revisionColumns+
		" from rollout o join revision r on r.id = o.revision where o.environment = ?", e.id),
		append([]any{&stages, &r.Stage, &r.Threshold, &state, &r.Reason, &every, (*millis)(&r.Since), &r.Actor, &r.Message, &baseline}, r.Revision.columns()...)...)
	if err == nil && found {
		r.Stages, r.Held, r.Every = strings.Split(stages, ","), state == "held", time.Duration(every)*time.Second
		e.rollout, err = r, json.Unmarshal([]byte(baseline), &r.Baseline)
	}
	if err == nil {
		if found, err = scanOne(s.write.QueryRowContext(ctx, "select bounds from guard where environment = ?", e.id), &bounds); err == nil && found {
			err = json.Unmarshal([]byte(bounds), &e.guard)
		}
	}
	return err
}
