package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"gatehouse/gate"
	"gatehouse/policy"
)

const (
	replayTimeout = 10 * time.Second // of one evaluation: that a machine is busy is no change of the policy
	maxAsks       = 20_000           // rules of one policy that are kept prepared
)

// verdict is what was decided, as far as two policies are compared by it. The zero value is a denial.
type verdict struct {
	allow  bool
	reason string // of the closed set; "" with an allow
	status int    // that the client gets
	own    int    // the status that the policy itself chose; 0: none
	answer string // all that the policy answered, in one form for one meaning; "" where that is not compared
}

func (v verdict) String() string {
	if v.allow {
		return "allow"
	}
	return fmt.Sprintf("deny %d %s", v.status, v.reason)
}

// recordedVerdict is what the log says that was decided.
func (r *recorded) verdict() verdict {
	if string(r.outcome) == "allow" {
		return verdict{allow: true, status: 200}
	}
	v := verdict{reason: string(r.reason), status: r.status, own: answerOf(r.result).status}
	if v.reason == "" {
		v.reason = gate.Denied.String()
	}
	if r.dryRun { // the client got the application's
		if v.status = v.own; v.own == 0 {
			v.status = statusOf[v.reason]
		}
	}
	return v
}

// statusOf are the denials that can be the policy's, with the status that each has by itself.
var statusOf = map[string]int{
	gate.Denied.String(): gate.Denied.Status(), gate.NoCredential.String(): gate.NoCredential.Status(),
	gate.NoDecision.String(): gate.NoDecision.Status(), gate.PolicyError.String(): gate.PolicyError.Status(),
}

// candidate is one policy that the log's decisions are put to. It may be used by several goroutines at once.
type candidate struct {
	snapshot *policy.Snapshot
	apps     []gate.App // of the configuration; nil: the rules that the log names are asked
	tables   []*routeTable
	// credentials says whether the configuration accepts any. Without one the log itself is all there is to go by.
	credentials bool

	mu   sync.Mutex // guards asks
	asks map[string]*preparedRule
}

// preparedRule is one rule of a candidate, prepared.
type preparedRule struct {
	again  *policy.Again
	reads  policy.Reads
	pure   bool
	denies bool   // there is no rule for the route, which is a denial
	absent string // why nothing can be asked
}

func newCandidate(s *policy.Snapshot) *candidate {
	return &candidate{snapshot: s, asks: map[string]*preparedRule{}}
}

// app is the application of the configuration that a decision belongs to.
func (s *candidate) app(r *recorded) *gate.App {
	if len(s.apps) == 1 && s.apps[0].Name == "" {
		return &s.apps[0]
	}
	for i := range s.apps {
		if s.apps[i].Name == string(r.app) {
			return &s.apps[i]
		}
	}
	return nil
}

// key names the rule that a decision is asked of: what the log names, or what the configuration asks.
func (s *candidate) key(dst []byte, r *recorded) []byte {
	if s.apps == nil {
		return append(dst, r.path...)
	}
	dst = append(append(dst, r.app...), 0)
	if a := s.app(r); a != nil && len(a.Root) > 0 {
		dst = append(append(append(dst, r.routeMethod()...), 0), within(r.input, "route", "template")...)
	}
	return dst
}

// ask prepares the rule that a decision is asked of, once for all decisions of one key.
func (s *candidate) ask(r *recorded, key []byte) (*preparedRule, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.asks[string(key)]; a != nil {
		return a, nil
	}
	a, err := s.prepare(r)
	if err != nil {
		return nil, err
	}
	if len(s.asks) >= maxAsks {
		clear(s.asks)
	}
	s.asks[string(key)] = a
	return a, nil
}

func (s *candidate) prepare(r *recorded) (*preparedRule, error) {
	paths, byRoute, absent := s.paths(r)
	if absent != "" {
		return &preparedRule{absent: absent}, nil
	}
	for _, path := range paths {
		entry, err := s.snapshot.Entry(path)
		if err != nil {
			return nil, err
		}
		if entry != nil {
			a := &preparedRule{again: entry.Again(), reads: entry.Reads()}
			a.pure = a.again.Pure()
			return a, nil
		}
	}
	if byRoute {
		return &preparedRule{denies: true}, nil
	}
	return &preparedRule{absent: "the policy has no rule " + strings.Join(paths[0], "/")}, nil
}

// paths are where the rule may be, the better one first.
func (s *candidate) paths(r *recorded) (paths [][]string, byRoute bool, absent string) {
	if s.apps == nil {
		path, byRoute := askedThen(textOf(r.path))
		if len(path) == 0 {
			return nil, false, "the log does not say which rule was asked"
		}
		return [][]string{path}, byRoute, ""
	}
	a := s.app(r)
	if a == nil {
		return nil, false, fmt.Sprintf("the configuration has no app %q", r.app)
	}
	if len(a.Decision) > 0 {
		return [][]string{a.Decision}, false, ""
	}
	template := textOf(unquoted(within(r.input, "route", "template")))
	if template == "" {
		return nil, false, "the log does not say which route it took"
	}
	paths, err := gate.RuleCandidates(a.Root, textOf(r.routeMethod()), template, true)
	if err != nil {
		return nil, false, err.Error()
	}
	return paths, true, ""
}

// askedThen is the path below data of what the log says was asked: envoy/authz/allow, or of a route's rule its package,
// orders.GET.orders.__id, as routes.RuleName writes it.
func askedThen(name string) (path []string, byRoute bool) {
	if name == "" {
		return nil, false
	}
	if strings.Contains(name, "/") && !strings.Contains(name, "[") || !strings.ContainsAny(name, ".[") {
		return strings.Split(strings.Trim(name, "/"), "/"), false
	}
	for name != "" {
		if quoted, err := strconv.QuotedPrefix(strings.TrimPrefix(name, "[")); name[0] == '[' && err == nil {
			term, _ := strconv.Unquote(quoted)
			path, name = append(path, term), strings.TrimPrefix(name[1+len(quoted):], "]")
			continue
		}
		name = strings.TrimPrefix(name, ".")
		end := strings.IndexAny(name, ".[")
		if end < 0 {
			end = len(name)
		}
		if end == 0 {
			return nil, false
		}
		path, name = append(path, name[:end]), name[end:]
	}
	for _, term := range path[1:] { // the method's place is the first term of capitals
		if methodName.MatchString(term) {
			if term == "ANY" {
				return path, true // those are named with their rule
			}
			break
		}
	}
	return append(path, "allowed"), true
}

// ruling is what a rule says about an input, whoever asks.
type ruling struct {
	allow  bool
	own    int
	reason string // why there is no decision
	answer string
	unsure string // the built-in that may have said something else then
}

// rule evaluates. An error is the end of all.
func (a *preparedRule) rule(ctx context.Context, input policy.Value, at time.Time, answers bool) (ruling, error) {
	bounded, cancel := context.WithTimeout(ctx, replayTimeout)
	defer cancel()
	d, unsure, err := a.again.Decide(bounded, input, at)
	switch {
	case ctx.Err() != nil:
		return ruling{}, ctx.Err()
	case unsure != "":
		return ruling{unsure: unsure}, nil
	case bounded.Err() != nil:
		return ruling{unsure: "after " + replayTimeout.String()}, nil
	case errors.Is(err, policy.ErrUndefined):
		return ruling{reason: gate.NoDecision.String()}, nil
	case err != nil:
		return ruling{reason: gate.PolicyError.String()}, nil
	}
	out := ruling{allow: d.Allowed, own: d.Status}
	if answers {
		out.answer, err = oneForm(d.Result)
	}
	return out, err
}

// oneForm is a value's JSON with the members in order.
func oneForm(v policy.Value) (string, error) {
	plain, err := policy.JSON(v)
	if err != nil {
		return "", err
	}
	out, err := json.Marshal(plain)
	return string(out), err
}

// verdict is what the gate makes of a ruling. was is the recorded verdict: what the policy has no part in stays as it was.
func (s *candidate) verdict(u ruling, r *recorded, was verdict) verdict {
	switch {
	case u.allow && was.reason == gate.PolicyError.String() && answerOf(r.result).allowed:
		return was // what the policy answered could not be given
	case u.allow:
		return verdict{allow: true, status: 200, answer: u.answer}
	case u.reason != "":
		return s.denied(u, u.reason, was)
	}
	reason := gate.Denied.String()
	if !r.authenticated && u.own == 0 && s.asksToLogIn(r, was) {
		reason = gate.NoCredential.String()
	}
	return s.denied(u, reason, was)
}

// asksToLogIn reports whether a caller without a credential is told to bring one.
func (s *candidate) asksToLogIn(r *recorded, was verdict) bool {
	switch {
	case s.apps != nil:
		return s.credentials
	case !was.allow && was.own == 0 && was.reason == gate.Denied.String():
		return false // it was not so then
	}
	return r.known
}

func (s *candidate) denied(u ruling, reason string, was verdict) verdict {
	v := verdict{reason: reason, own: u.own, status: u.own, answer: u.answer}
	if v.own == 0 {
		v.status = statusOf[reason]
	}
	if !was.allow && was.reason == reason && was.own == v.own && was.status != 0 {
		v.status = was.status // a browser may have been sent to log in
	}
	return v
}
