package decisionlog

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatehouse/input"
)

// TestEventHoldsAWholeLine encodes the event of a line that has every member: it is that line again, so that none is unknown to Event.
func TestEventHoldsAWholeLine(t *testing.T) {
	seen := map[string]bool{}
	for _, line := range fullLines(t) {
		line = strings.TrimSuffix(line, "\n")
		var e Event
		if err := e.Parse([]byte(line)); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if again := string(appendMembers(nil, &e, eventMembers)); again != line {
			t.Errorf("got %s\nof  %s", again, line)
		}
		s := jsonScan{text: []byte(line)}
		s.members(func(key, value []byte) {
			seen[string(key)] = true
			inner := jsonScan{text: value}
			inner.members(func(key2, _ []byte) { seen[string(key)+"."+string(key2)] = true })
		})
	}
	every(t, seen, "", eventMembers)
	every(t, seen, "identity.", identityMembers)
	every(t, seen, "request.", requestMembers)
	every(t, seen, "error.", errorMembers)
	every(t, seen, "digests.", digestMembers)
	every(t, seen, "gap.", gapMembers)
}

// every checks that the lines had all members that Event knows, but for Open Policy Agent's own.
func every[T any](t *testing.T, seen map[string]bool, below string, members []eventMember[T]) {
	t.Helper()
	for _, m := range members {
		if !seen[below+m.name] && m.name != "nd_builtin_cache" {
			t.Errorf("no line has %s%s", below, m.name)
		}
	}
}

// fullLines are what the log writes of an entry that has everything, of one that has nothing, and of gaps.
func fullLines(t *testing.T) (list []string) {
	t.Helper()
	out := &strings.Builder{}
	cfg := Config{File: "-", Stdout: out, Labels: map[string]string{"id": "here"}, Claims: []string{"dept"}}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	digest := strings.Repeat("ab", 32)
	e := &Entry{DecisionID: "a\"b", Time: time.Unix(1767225600, 5), Duration: 17, App: "orders", Route: "orders.show", Outcome: "deny", Reason: "policy_error",
		Status: 403, DryRun: true, Peer: "spiffe://a/b", RequestedBy: "10.0.0.1", TraceID: strings.Repeat("1", 32), SpanID: strings.Repeat("2", 16),
		Revision: "v17", Bundles: []Bundle{{Name: "app", Revision: "v17", Digest: digest}}, Digests: Digests{Routes: digest, Keys: digest, Directory: digest},
		Memo: true, Asked: true, Result: madeOf(map[string]any{"allowed": false}), Error: "it failed",
		Input: Input{Request: input.Request{Method: "GET", Host: "orders.example.com", Path: "/orders/17?token=x", Scheme: "https"}, HasBody: true,
			DecisionPath: "envoy/authz/allow", Identity: Identity{Type: "jwt", Subject: "ann", Issuer: "https://issuer.example.com", Roles: []string{"a"},
				Groups: []string{"b"}, Scopes: []string{"c"}, Claims: map[string]any{"dept": "x"}, Authenticated: true}}}
	e.AddParam("id", "17")
	for _, e := range []*Entry{e, {}} {
		if err := l.Append(context.Background(), e); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	gaps := newCodec(&recordConfig{Labels: cfg.Labels})
	at := time.Unix(1767225600, 0)
	for _, g := range []gap{{dropped: 3, since: at, until: at}, {damaged: 5, unfinished: 7, since: at, until: at, segment: "1.seg"}} {
		out.Write(gaps.appendGap(nil, g))
	}
	return slices.Collect(strings.Lines(out.String()))
}

// madeOf is a document that is there already.
type madeOf map[string]any

func (m madeOf) JSON() (any, error) { return map[string]any(m), nil }

// TestEventOfAnythingElse: what is no event is told, what has another type than ours is passed over.
func TestEventOfAnythingElse(t *testing.T) {
	for _, line := range []string{"", "{", "[]", `"x"`, "{}", `{"decision_id":7}`, `{"x":{"decision_id":"1"}}`, `{"decision_id":"1"`, `{"decision_id":"1"} x`, `{"decision_id":"1",}`} {
		var e Event
		if err := e.Parse([]byte(line)); err == nil {
			t.Errorf("%s: %+v", line, e)
		}
	}
	var e Event
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
		var e Event
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

// always are the members that a line has whatever their value is.
var always = []string{"authenticated", "dropped"}

func appendMembers[T any](dst []byte, from *T, members []eventMember[T]) []byte {
	dst = append(dst, '{')
	for _, m := range members {
		if field := m.field(from); encoded(field) || slices.Contains(always, m.name) {
			dst = appendValue(appendKey(dst, m.name), field)
		}
	}
	return append(dst, '}')
}

// encoded reports whether a field stands in a line.
func encoded(field any) bool {
	switch field := field.(type) {
	case *RawString:
		return *field != nil
	case *json.RawMessage:
		return *field != nil
	case *bool:
		return *field
	case *int:
		return *field != 0
	case *uint64:
		return *field != 0
	case *EventIdentity:
		return field.Recorded
	case *EventRequest:
		return field.Recorded
	case *EventError:
		return field.Recorded
	case *EventDigests:
		return field.Recorded
	case *EventGap:
		return field.Recorded
	}
	return false
}

func appendValue(dst []byte, field any) []byte {
	switch field := field.(type) {
	case *RawString:
		return append(append(append(dst, '"'), *field...), '"')
	case *json.RawMessage:
		return append(dst, *field...)
	case *bool:
		return strconv.AppendBool(dst, *field)
	case *int:
		return strconv.AppendInt(dst, int64(*field), 10)
	case *uint64:
		return strconv.AppendUint(dst, *field, 10)
	case *EventIdentity:
		return appendMembers(dst, field, identityMembers)
	case *EventRequest:
		return appendMembers(dst, field, requestMembers)
	case *EventError:
		return appendMembers(dst, field, errorMembers)
	case *EventDigests:
		return appendMembers(dst, field, digestMembers)
	case *EventGap:
		return appendMembers(dst, field, gapMembers)
	}
	return dst
}
