package events_test

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/decisionlog"
	"gatehouse/decisionlog/events"
	"gatehouse/decisionlog/record"
	"gatehouse/input"
)

// TestEventHoldsAWholeLine encodes the event of a line that has every member: it is that line again, so that none is unknown to Event.
func TestEventHoldsAWholeLine(t *testing.T) {
	seen := map[string]bool{}
	for _, line := range fullLines(t) {
		line = strings.TrimSuffix(line, "\n")
		var e events.Event
		if err := e.Parse([]byte(line)); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if again := events.EncodeAgain(&e); again != line {
			t.Errorf("got %s\nof  %s", again, line)
		}
		events.MembersOf(line, seen)
	}
	for _, name := range events.Unseen(seen) {
		if name != "nd_builtin_cache" { // Open Policy Agent's own
			t.Errorf("no line has %s", name)
		}
	}
}

// fullLines are what the log writes of an entry that has everything, of one that has nothing, and of gaps.
func fullLines(t *testing.T) (list []string) {
	t.Helper()
	out := &strings.Builder{}
	cfg := decisionlog.Config{File: "-", Stdout: out, Labels: map[string]string{"id": "here"}, Claims: []string{"dept"}}
	l, err := decisionlog.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	digest := strings.Repeat("ab", 32)
	e := &record.Entry{DecisionID: "a\"b", Time: time.Unix(1767225600, 5), Duration: 17, App: "orders", Route: "orders.show", Outcome: "deny", Reason: "policy_error",
		Status: 403, DryRun: true, Peer: "spiffe://a/b", RequestedBy: "10.0.0.1", TraceID: strings.Repeat("1", 32), SpanID: strings.Repeat("2", 16),
		Revision: "v17", Bundles: []record.Bundle{{Name: "app", Revision: "v17", Digest: digest}}, Digests: record.Digests{Routes: digest, Keys: digest, Directory: digest},
		DirectoryRevision: 12, Facts: manyFacts(65), Memo: true, Asked: true, Result: madeOf(map[string]any{"allowed": false}), Error: "it failed",
		Input: input.Input{Request: input.Request{Method: "GET", Host: "orders.example.com", Path: "/orders/17?token=x", Scheme: "https"}, HasBody: true,
			DecisionPath: "envoy/authz/allow", Identity: input.Identity{Type: "jwt", Subject: "ann", Issuer: "https://issuer.example.com", Roles: []string{"a"},
				Groups: []string{"b"}, Scopes: []string{"c"}, Claims: map[string]any{"dept": "x"}, Authenticated: true}}}
	e.AddParam("id", "17")
	for _, e := range []*record.Entry{e, {}} {
		if err := l.Append(context.Background(), e); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	gaps, err := record.NewLines(cfg.Record(), 1)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1767225600, 0)
	for _, g := range []record.Gap{{Dropped: 3, Since: at, Until: at}, {Damaged: 5, Unfinished: 7, Since: at, Until: at, Segment: "1.seg"}} {
		out.Write(gaps.AppendGap(nil, g))
	}
	return slices.Collect(strings.Lines(out.String()))
}

// manyFacts are so many questions with their answers.
type manyFacts int

func (n manyFacts) JSON() (any, error) {
	var list []any
	for range n {
		list = append(list, map[string]any{"question": map[string]any{"ds.check": "doc:7#viewer@user:ann"}, "answer": true})
	}
	return list, nil
}

// madeOf is a document that is there already.
type madeOf map[string]any

func (m madeOf) JSON() (any, error) { return map[string]any(m), nil }

// TestEventOfAnythingElse: what is no event is told, what has another type than ours is passed over.
func TestEventOfAnythingElse(t *testing.T) {
	for _, line := range []string{"", "{", "[]", `"x"`, "{}", `{"decision_id":7}`, `{"x":{"decision_id":"1"}}`, `{"decision_id":"1"`, `{"decision_id":"1"} x`, `{"decision_id":"1",}`} {
		var e events.Event
		if err := e.Parse([]byte(line)); err == nil {
			t.Errorf("%s: %+v", line, e)
		}
	}
	var e events.Event
	if err := e.Parse([]byte(` { "other": {"app": "x"}, "status" : 404 , "identity":"gone","request":[],"app":7,"decision_id" : "a\u0062\"" } `)); err != nil {
		t.Fatal(err)
	}
	if e.DecisionID.Decode() != `ab"` || e.Status != 404 || e.App != nil || !e.Identity.Recorded || e.Identity.Subject != nil || e.Gap.Recorded {
		t.Errorf("%+v", e)
	}
}

// FuzzEvent: whatever is well-formed JSON is read as encoding/json reads it.
func FuzzEvent(f *testing.F) {
	f.Add([]byte(`{"decision_id":"a\\","identity":{"roles":["a\"]}"],"subject":"é"},"status":12,"result":{"a":[1]}}`))
	f.Add([]byte(`{"gap":{"dropped":3,"since":"x"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var e events.Event
		err := e.Parse(line)
		members := map[string]json.RawMessage{}
		if json.Unmarshal(line, &members) != nil {
			return
		}
		var id string
		is := json.Unmarshal(members["decision_id"], &id) == nil && bytes.HasPrefix(members["decision_id"], []byte(`"`))
		_, gap := members["gap"]
		if bytes.Contains(line, []byte(`\u`)) {
			return // a name may be written with escapes
		}
		if is && err != nil || !is && !gap && err == nil && !bytes.Contains(line, []byte(`\`)) && bytes.Count(line, []byte("decision_id")) < 2 && !bytes.Contains(line, []byte("gap")) {
			t.Fatalf("%s: %v", line, err)
		}
	})
}
