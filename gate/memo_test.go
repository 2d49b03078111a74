package gate_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

// reading is a policy that reads a little of everything that an input has.
const reading = `package envoy.authz

import input.attributes.request.http as request

default allow := {"allowed": false, "reason": "no"}

allow := {"allowed": true, "headers": {"x-saw": json.marshal(saw)}, "query_parameters_to_set": {"q": request.path}, "dynamic_metadata": {"saw": [saw]}} if {
	request.method != "DELETE"
}

saw := [a, b, team, roles, q, body, tier, meta, input.parsed_path]

default a := "none"

a := request.headers["x-a"]

default b := "none"

b := request.headers["x-b"]

default team := "none"

team := input.identity.claims.team

default roles := "none"

roles := input.identity.roles

default q := "none"

q := input.parsed_query.q

default body := "none"

body := input.parsed_body.a

default tier := "none"

tier := input.attributes.contextExtensions.tier

default meta := "none"

meta := input.attributes.metadataContext.filterMetadata.f.k
`

// variant returns one of many requests, without shared memory. The first 400 differ pairwise in one field, the others in many.
func variant(i int) *gate.Request {
	pick := func(thing, n int) int {
		switch {
		case i >= 400:
			return i % n
		case i%8 == thing:
			return i / 8 % n
		}
		return 0
	}
	id := identity.Anonymous()
	id.Roles = [][]string{nil, {"a"}, {"a", "b"}, {"a,b"}, {"b", "a"}}[pick(0, 5)]
	id.Claims = []map[string]any{nil, {"team": "x", "exp": json.Number(fmt.Sprint(i))}, {"team": nil}, {"team": []any{}}, {"team": map[string]any{}}, {"other": "x"}}[pick(1, 6)]
	req := &gate.Request{Method: []string{"GET", "POST", "DELETE"}[pick(2, 3)], Host: "orders.example.com", ID: fmt.Sprint("id", i), As: &id,
		Path: []string{"/a/b", "/a%2Fb", "/a", "/a/b?q=1", "/a/b?q=1&q=2", "/a/b?q", "/a/b?q=", "/"}[pick(3, 8)]}
	pairs := [][]string{{}, {"x-a", ""}, {"x-b", ""}, {"x-a", "1", "x-b", "2"}, {"x-b", "2", "x-a", "1"}, {"x-a", "1", "x-a", "2"}, {"x-a", "1,2"},
		{"x-a", "12", "x-b", ""}, {"x-a", "1k\x03x-bs\x012"}, {"x-a", "1kx-bs2"}, {"x-a", "none"}, {"x-ak", "1"}}[pick(4, 12)]
	for j := 0; j < len(pairs); j += 2 {
		req.Headers = append(req.Headers, gate.Header{Name: pairs[j], Value: pairs[j+1]})
	}
	req.Headers = append(req.Headers, gate.Header{Name: "x-request-id", Value: fmt.Sprint(i)})
	if body := []string{"", `{"a":1}`, `{"a":null,"z":2}`, `{"a":"1"}`, `{`}[pick(5, 5)]; body != "" {
		req.Headers = append(req.Headers, gate.Header{Name: "content-type", Value: "application/json"})
		req.Body = body
	}
	req.Extensions = []map[string]string{nil, {"tier": ""}, {"tier": "1"}, {"other": "1", "tier": "1"}}[pick(6, 4)]
	req.Metadata = []map[string]any{nil, {"filterMetadata": map[string]any{"f": map[string]any{"k": true, "l": float64(i)}}}, {"filterMetadata": nil}}[pick(7, 3)]
	return req
}

// same is what of an answer must be equal.
func same(a gate.Answer) gate.Answer {
	a.DecisionID, a.Diagnostics = "", gate.Diagnostics{}
	if i := strings.Index(a.Body, `"decision_id"`); i >= 0 {
		a.Body = a.Body[:i]
	}
	for i := range a.Set {
		if a.Set[i].Name == "x-decision-id" {
			a.Set[i].Value = ""
		}
	}
	return a
}

// lawful allows the path forms that variant uses, and turns the memo on or the whole reference path.
func lawful(plain bool) *gate.Settings {
	s := settings()
	s.Paths.Compat, s.Plain = true, plain
	return s
}

// The memo, asked twice, answers as the reference path does.
func TestMemoAnswersAsThePlainPath(t *testing.T) {
	p := compile(t, reading)
	remembering, reference := open(t, lawful(false), p), open(t, lawful(true), p)
	for round := range 2 {
		for i := range 700 {
			want := same(reference.Check(t.Context(), variant(i)))
			if got := same(remembering.Check(t.Context(), variant(i))); !reflect.DeepEqual(got, want) {
				t.Fatalf("request %d, round %d: %+v\nwant %+v", i, round, got, want)
			}
		}
	}
	is, none := remembering.MemoStatus(), reference.MemoStatus()
	if !is.On || is.Hits < 500 || is.Entries < 100 || is.Mismatches != 0 {
		t.Errorf("%+v", is)
	}
	if none.On || none.Hits+none.Misses != 0 || none.Why == "" {
		t.Errorf("the reference path remembers: %+v", none)
	}
}

// Unordered parts are equal in any order.
func TestMemoKnowsNoOrder(t *testing.T) {
	g := open(t, lawful(false), compile(t, `package envoy.authz
		allow if count(input.parsed_query) + count(input.identity.claims) + count(input.attributes.contextExtensions) + count(input.attributes.request.http.headers) == 24`))
	const times = 20
	for i := range times {
		id := identity.Anonymous()
		id.Claims = map[string]any{"a": "1", "b": "2", "c": "3", "d": "4", "e": "5", "f": map[string]any{"g": "6", "h": "7", "i": "8"}}
		req := &gate.Request{Method: "GET", Path: "/?a=1&b=2&c=3&d=4&e=5&f=6", As: &id, Extensions: map[string]string{"a": "1", "b": "2", "c": "3", "d": "4", "e": "5", "f": "6"}}
		for j := range 6 {
			name := string(rune('a' + (i+j)%6))
			req.Headers = append(req.Headers, gate.Header{Name: name, Value: name})
		}
		if answer := g.Check(t.Context(), req); !answer.Allow {
			t.Fatal(answer.Reason)
		}
	}
	if is := g.MemoStatus(); is.Hits != times-1 {
		t.Errorf("%+v", is)
	}
}

// FuzzMemoAnswers makes two requests that try to be taken for each other, and asks about both, twice.
func FuzzMemoAnswers(f *testing.F) {
	f.Add("GET", "/a?q=1", "x-a: 1\nx-b: 2", `{"a":1}`, "GET", "/a?q=1", "x-a: 1,2", `{"a":null}`)
	f.Add("GET", "/a", "x-a: 1k\x03x-bs\x012", "", "GET", "/a", "x-a: 1\nx-b: 2", "")
	p := compile(f, reading)
	remembering, reference := open(f, lawful(false), p), open(f, lawful(true), p)
	f.Fuzz(func(t *testing.T, m1, p1, h1, b1, m2, p2, h2, b2 string) {
		for range 2 {
			for _, r := range [][4]string{{m1, p1, h1, b1}, {m2, p2, h2, b2}} {
				req := func() *gate.Request {
					out := &gate.Request{Method: r[0], Path: r[1], Host: "h", Body: r[3], Headers: gate.Headers{{Name: "content-type", Value: "application/json"}}}
					for line := range strings.SplitSeq(r[2], "\n") {
						name, value, _ := strings.Cut(line, ": ")
						out.Headers = append(out.Headers, gate.Header{Name: strings.ToLower(name), Value: value})
					}
					return out
				}
				want := same(reference.Check(t.Context(), req()))
				if got := same(remembering.Check(t.Context(), req())); !reflect.DeepEqual(got, want) {
					t.Fatalf("%q: %+v\nwant %+v", r, got, want)
				}
			}
		}
	})
}

// Nothing that is remembered is part of a request's memory, or of an answer's that somebody changes.
func TestMemoOutlivesTheRequest(t *testing.T) {
	g := open(t, lawful(false), compile(t, reading))
	message := []byte("GET/a/b?q=1one")
	request := func() *gate.Request {
		text := func(from, to int) string { return unsafe.String(&message[from], to-from) }
		return &gate.Request{Method: text(0, 3), Path: text(3, 11), Host: "h", Headers: gate.Headers{{Name: "x-a", Value: text(11, 14)}}}
	}
	first := g.Check(t.Context(), request())
	want := fmt.Sprintf("%+v", same(first))
	for i := range message {
		message[i] = '?'
	}
	first.SetQuery[0].Value, first.Set[0].Value, first.Metadata["saw"] = "changed", "changed", "changed"
	copy(message, "GET/a/b?q=1one")
	for range 2 {
		again := g.Check(t.Context(), request())
		if got := fmt.Sprintf("%+v", same(again)); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		again.SetQuery[0].Value, again.Set[0].Value, again.Metadata["saw"] = "changed", "changed", "changed"
	}
	if is := g.MemoStatus(); is.Hits != 2 {
		t.Errorf("%+v", is)
	}
}

// Each hit is on record with its own request.
func TestMemoHitsAreLogged(t *testing.T) {
	log, written := gatetest.Log(t)
	s := lawful(false)
	s.Log = log
	g := open(t, s, compile(t, `package envoy.authz
		allow := {"allowed": true} if input.attributes.request.http.method == "GET"`))
	ids := map[string]bool{}
	for i := range 3 {
		ids[g.Check(t.Context(), get("/orders", "x-request-id", fmt.Sprint(i))).DecisionID] = true
	}
	text := written()
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		var e struct {
			ID     string `json:"decision_id"`
			Memo   bool
			Result map[string]any
			Input  struct {
				Attributes struct {
					Request struct {
						HTTP struct{ Headers map[string]string }
					}
				}
			}
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if !ids[e.ID] || e.Memo != (i > 0) || e.Result["allowed"] != true || e.Input.Attributes.Request.HTTP.Headers["x-request-id"] != fmt.Sprint(i) {
			t.Errorf("entry %d: %s", i, line)
		}
		delete(ids, e.ID)
	}
	if len(ids) > 0 {
		t.Errorf("not on record, or with the id of another: %v", ids)
	}
}

// No request that starts after a swap has returned gets the decision of the policy before, however many hits flow.
func TestMemoEndsWithItsPolicy(t *testing.T) {
	var policies []*policy.Snapshot
	for i := range 4 {
		policies = append(policies, compile(t, fmt.Sprintf(`package envoy.authz
			allow := {"allowed": true, "headers": {"x-version": "%d"}} if input.attributes.request.http.method == "GET"`, i)))
	}
	s := lawful(false)
	g := open(t, s, policies[0])
	var active atomic.Int64 // the version whose publication has returned
	var stop atomic.Bool
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			for !stop.Load() {
				least := active.Load()
				answer := g.Check(context.Background(), get("/orders"))
				var version int64 = -1
				for _, h := range answer.Set {
					if h.Name == "x-version" {
						_, _ = fmt.Sscan(h.Value, &version)
					}
				}
				underWay := (least + 1) % 4 // may be in force, though its publication has not returned
				if !answer.Allow || version != least%4 && version != underWay && active.Load() == least {
					t.Errorf("version %d of %d decided", version, least)
				}
			}
		})
	}
	for i := 1; i < 200; i++ {
		next := policies[i%4]
		if err := g.Publish(t.Context(), func(v *gate.View) { v.Policy = next }); err != nil {
			t.Fatal(err)
		}
		active.Store(int64(i))
		if answer := g.Check(t.Context(), get("/orders")); answer.Set[0].Value != fmt.Sprint(i%4) {
			t.Fatalf("version %s decides after %d was published", answer.Set[0].Value, i%4)
		}
	}
	stop.Store(true)
	wait.Wait()
	before := g.MemoStatus()
	if err := g.Publish(t.Context(), func(v *gate.View) {}); err != nil {
		t.Fatal(err)
	}
	if g.Check(t.Context(), get("/orders")); g.MemoStatus().Hits != before.Hits+1 || before.Entries != 1 {
		t.Errorf("what is remembered is lost although the policy stays: %+v, %+v", before, g.MemoStatus())
	}
}

// Hits are rechecked in the background; a different result is an error in the log, an alarm, and turns the memo off.
func TestMemoIsChecked(t *testing.T) {
	core, logged := observer.New(zapcore.ErrorLevel)
	registry := prometheus.NewRegistry()
	g, err := gate.New(gate.Config{Logger: zap.New(core), Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = g.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	s, p := lawful(false), compile(t, `package envoy.authz
		default allow := false
		allow if input.attributes.request.http.method == "GET"`)
	s.Memo.Sample = 1
	if err := g.Publish(ctx, func(v *gate.View) { v.Settings, v.Policy = s, p }); err != nil {
		t.Fatal(err)
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("never %s: %+v", what, g.MemoStatus())
			}
		}
	}
	for range 5 {
		g.Check(ctx, get("/orders"))
	}
	until("checked", func() bool { return g.MemoStatus().Rechecked > 0 })
	if is := g.MemoStatus(); is.Mismatches != 0 || !is.On {
		t.Fatalf("%+v", is)
	}

	// What must never be: under the key of a DELETE the decision about a GET.
	entry, err := p.Entry([]string{"envoy", "authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	about := func(method string) rego.Value {
		return rego.Object(rego.Member{Key: "request", Value: rego.Object(rego.Member{Key: "http",
			Value: rego.Object(rego.Member{Key: "method", Value: rego.String(method)})})})
	}
	k := g.Memo().Key(entry)
	k.Name("attributes")
	k.Value(about("DELETE"), entry.Reads().Below("attributes"))
	k.Lookup(policy.Facts{}, time.Now())
	if _, err := k.Decide(ctx, time.Second, rego.Object(rego.Member{Key: "attributes", Value: about("GET")}), policy.Facts{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	k.Done()
	wrong := get("/orders")
	wrong.Method = "DELETE"
	if answer := g.Check(ctx, wrong); !answer.Allow {
		t.Fatal("the wrong decision was not planted")
	}
	until("found", func() bool { return !g.MemoStatus().On })
	if answer := g.Check(ctx, wrong); answer.Allow {
		t.Error("a decision that is known to be wrong is given again")
	}
	until("logged", func() bool { return logged.FilterMessageSnippet("a remembered decision is wrong").Len() == 1 })
	if err := g.Publish(ctx, func(v *gate.View) { other := *s; other.Memo.Bytes = 1 << 20; v.Settings = &other }); err != nil {
		t.Fatal(err)
	}
	if is := g.MemoStatus(); is.On || is.Mismatches != 1 || !strings.Contains(is.Why, "is not what the policy decides") {
		t.Errorf("other settings, the same policy: %+v", is)
	}
	want := "# HELP gatehouse_memo_alarm 1: a recheck came out otherwise, and the decisions of this policy are not remembered any more.\n" +
		"# TYPE gatehouse_memo_alarm gauge\ngatehouse_memo_alarm 1\n# HELP gatehouse_memo_mismatches_total Rechecks that came out otherwise. Must be zero.\n" +
		"# TYPE gatehouse_memo_mismatches_total counter\ngatehouse_memo_mismatches_total 1\n"
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "gatehouse_memo_alarm", "gatehouse_memo_mismatches_total"); err != nil {
		t.Error(err)
	}
	other := compile(t, allowAll)
	if err := g.Publish(ctx, func(v *gate.View) { v.Policy = other }); err != nil {
		t.Fatal(err)
	}
	if is := g.MemoStatus(); !is.On {
		t.Errorf("another policy has no memo: %+v", is)
	}
}

// The status names what keeps a rule out of the memo, and policy.memo: off.
func TestMemoStatus(t *testing.T) {
	g := open(t, lawful(false), compile(t, "package envoy.authz\nallow if time.now_ns() > 0"))
	for range 3 {
		if answer := g.Check(t.Context(), get("/orders")); !answer.Allow {
			t.Fatal(answer.Reason)
		}
	}
	is := g.MemoStatus()
	if len(is.Without) != 1 || is.Without[0] != (gate.MemoStatusEntry{Rule: "envoy.authz.allow", Why: "calls time.now_ns (test/policy.rego:2)"}) || is.Hits+is.Misses > 0 {
		t.Errorf("%+v", is)
	}
	s := lawful(false)
	s.Memo.Off = true
	if is := open(t, s, compile(t, allowAll)).MemoStatus(); is.On || is.Why != "policy.memo is off" {
		t.Errorf("%+v", is)
	}
}
