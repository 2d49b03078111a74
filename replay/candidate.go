package replay

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"gatehouse/decisionlog/events"
	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
)

const (
	evaluationLimit = 10 * time.Second // of one evaluation; long, because a busy machine is no change of the policy
	maxAsks         = 20_000           // prepared rules kept for one policy
)

// Candidate is one policy that replays the log's decisions. It is safe for concurrent use.
type Candidate struct {
	gate *gate.Replayer
	view *gate.View

	mu   sync.Mutex // guards asks
	asks map[string]*preparedRule
}

// preparedRule is one rule of a candidate.
type preparedRule struct {
	replayer *policy.Replayer
	facts    policy.Facts // current facts, for those not on record
	reads    reach.Reads
	pure     bool
	denies   bool   // no rule for the route, which is a denial
	absent   string // why no rule can be evaluated

	then map[string]bool // whether the rule is the one that the log names, by that name; Candidate.mu guards it
}

// NewCandidate returns the policy of a View. Without settings the rules that the log names are evaluated.
func NewCandidate(v *gate.View) *Candidate {
	return &Candidate{gate: gate.NewReplayer(v), view: v, asks: map[string]*preparedRule{}}
}

// With returns the candidate with another policy. Rules and anonymity are determined as before.
func (c *Candidate) With(s *policy.Snapshot) *Candidate {
	return NewCandidate(&gate.View{Settings: c.view.Settings, Policy: s, Directory: c.view.Directory, Facts: c.view.Facts})
}

// apps are those of the configuration; nil where there is none.
func (c *Candidate) apps() []gate.App {
	if c.view.Settings == nil {
		return nil
	}
	return c.view.Settings.Apps
}

// key identifies the rule of a decision: what the log names, or what the configuration chooses by.
func (c *Candidate) key(dst []byte, r *Record) []byte {
	if c.view.Settings == nil {
		return append(dst, r.Path...)
	}
	dst = append(append(dst, r.App...), 0)
	if a := c.gate.App(string(r.App)); a != nil && len(a.Root) > 0 {
		dst = append(append(append(dst, r.routeMethod()...), 0), events.Member(r.Input, "route", "template")...)
	}
	return dst
}

// ruleFor prepares the rule of a decision, once per key.
func (c *Candidate) ruleFor(r *Record, key []byte) (*preparedRule, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.asks[string(key)]; a != nil {
		return a, nil
	}
	a, err := c.prepare(r)
	if err != nil {
		return nil, err
	}
	if len(c.asks) >= maxAsks {
		clear(c.asks)
	}
	c.asks[string(key)] = a
	return a, nil
}

func (c *Candidate) prepare(r *Record) (*preparedRule, error) {
	entry, err := c.gate.Rule(r.Recorded())
	if absent, ok := errors.AsType[*gate.NotAskedError](err); ok {
		return &preparedRule{absent: absent.Why}, nil
	}
	if err != nil {
		return nil, err
	}
	if entry == nil {
		return &preparedRule{denies: true}, nil
	}
	a := &preparedRule{replayer: entry.Replayer(), facts: c.view.Facts, reads: entry.Reads()}
	a.pure = a.replayer.Pure()
	return a, nil
}

// Reads is what a decision's rule reads of its input. ok is false where there is no rule.
func (c *Candidate) Reads(r *Record) (reads reach.Reads, ok bool, err error) {
	a, err := c.prepare(r)
	if err != nil || a.absent != "" || a.denies {
		return reach.Reads{}, false, err
	}
	return a.reads, true, nil
}

// ruling is a rule's result for an input, whoever the caller.
type ruling struct {
	gate.Verdict
	answer string
	unsure string // the non-deterministic built-in that may explain a difference
	basis  policy.Basis
	late   bool // evaluationLimit was exceeded
}

// rule evaluates. Directory facts come from the record. An error aborts the replay.
func (a *preparedRule) rule(ctx context.Context, input rego.Value, recorded []policy.Question, at time.Time, answers bool) (ruling, error) {
	bounded, cancel := context.WithTimeout(ctx, evaluationLimit)
	defer cancel()
	d, basis, err := a.replayer.DecideRecorded(bounded, input, recorded, a.facts, at)
	switch {
	case ctx.Err() != nil:
		return ruling{}, ctx.Err()
	case basis.Unsure != "":
		return ruling{unsure: basis.Unsure}, nil
	case bounded.Err() != nil:
		return ruling{late: true}, nil
	}
	out := ruling{Verdict: gate.VerdictOf(&d, err), basis: basis}
	if err != nil && !out.Reason.OfPolicy() {
		out.Verdict = gate.VerdictOf(nil, policy.ErrEvaluation) // a busy machine is not the policy's fault
	}
	if answers && err == nil {
		if out.answer, err = canonicalJSON(d.Result); err != nil {
			return out, err
		}
	}
	return out, nil
}

// canonicalJSON is a value's canonical JSON: members sorted.
func canonicalJSON(v rego.Value) (string, error) {
	plain, err := rego.JSON(v)
	if err != nil {
		return "", err
	}
	out, err := json.Marshal(plain)
	return string(out), err
}

// verdict is the gate's verdict for a ruling. was is the recorded verdict: its parts that do not depend on the policy
// are kept.
func (c *Candidate) verdict(u ruling, r *Record, was Verdict) Verdict {
	v := u.Verdict
	switch {
	case v.Allow && was.Reason == gate.PolicyError && answerOf(r.Result).allowed:
		return was // the policy's answer could not be sent
	case !r.Identity.Authenticated && c.asksToLogIn(r, was):
		v = v.Anonymous()
	}
	if !was.Allow && !v.Allow && was.ReasonName() == v.Reason.String() && was.PolicyStatus == v.PolicyStatus && was.Status != 0 {
		v.Status = was.Status // a browser may have been redirected to log in
	}
	return Verdict{Verdict: v, answer: u.answer}
}

// asksToLogIn reports whether an anonymous caller is asked for a credential.
func (c *Candidate) asksToLogIn(r *Record, was Verdict) bool {
	some, known := c.gate.Credentials()
	switch {
	case known:
		return some
	case !was.Allow && was.PolicyStatus == 0 && was.Reason == gate.Denied:
		return false // it was not at the time
	}
	return r.Identity.Recorded
}

// ReadRef converts a JSON pointer (RFC 6901) into a record to a reference to the input; "" where that is outside the
// input, or not read.
func ReadRef(reads reach.Reads, pointer string) string {
	rest, ok := strings.CutPrefix(pointer, "/input/")
	if !ok {
		return ""
	}
	path := strings.Split(rest, "/")
	for i := range path {
		path[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(path[i])
	}
	if !reads.Any(path...) {
		return ""
	}
	return "input." + strings.Join(path, ".")
}
