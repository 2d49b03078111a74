package replay_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/gate/recorded"
	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
	"gatehouse/replay"
	"gatehouse/routes"
)

// decided is a gate with the log of what it decides.
type decided struct {
	gate    *gate.Gate
	file    string
	answers []gate.Answer
}

func decide(t *testing.T, s *gate.Settings, p *policy.Snapshot, tables map[string]*routes.Table, requests []*gate.Request) *decided {
	t.Helper()
	d := &decided{file: filepath.Join(t.TempDir(), "decisions.log")}
	log, err := decisionlog.New(decisionlog.Config{File: d.file})
	if err != nil {
		t.Fatal(err)
	}
	if s.Log = log; s.Validate() != nil {
		t.Fatal(s.Validate())
	}
	if d.gate, err = gate.New(gate.Config{}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	logging, end := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- d.gate.Run(ctx) }()
	go func() { ended <- log.Run(logging) }()
	if err := d.gate.Publish(ctx, func(v *gate.View) { v.Settings, v.Policy, v.Routes = s, p, tables }); err != nil {
		t.Fatal(err)
	}
	for _, req := range requests {
		d.answers = append(d.answers, d.gate.Check(ctx, req))
	}
	stop()
	end()
	for range 2 {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// compare decides the log again, and holds each verdict against the answer that Check gave. It returns how many the policy was asked about.
func (d *decided) compare(t *testing.T) (asked int) {
	t.Helper()
	f, err := os.Open(d.file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	again := replay.NewCandidate(d.gate.View())
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	at := 0
	for ; lines.Scan(); at++ {
		var r replay.Record
		if err := r.Parse(lines.Bytes(), int64(at)); err != nil {
			t.Fatal(err)
		}
		answer := &d.answers[at]
		if r.DecisionID.Decode() != answer.DecisionID {
			t.Fatalf("line %d is of another decision", at)
		}
		if r.Input == nil || answer.Reason != gate.None && !answer.Reason.OfPolicy() {
			continue // the answer is not the policy's
		}
		var plain map[string]any
		decoder := json.NewDecoder(strings.NewReader(string(r.Input)))
		decoder.UseNumber()
		if err := decoder.Decode(&plain); err != nil {
			t.Fatal(err)
		}
		input, err := rego.FromJSON(plain)
		if err != nil {
			t.Fatal(err)
		}
		when, err := r.Time()
		if err != nil {
			t.Fatal(err)
		}
		asked++
		got, err := again.Decide(t.Context(), &r, input, when)
		if err != nil {
			t.Errorf("%s: %v", r.Path, err)
			continue
		}
		if got.Allow != answer.Allow || got.Reason != answer.Reason || !got.Allow && got.Status != answer.Status {
			t.Errorf("%s %s: Check says %v %v %d (%v), the recorded decision comes out as %+v", r.Request.Method.Decode(), r.Request.Path.Decode(),
				answer.Allow, answer.Reason, answer.Status, answer.Diagnostics.Cause, got)
		}
	}
	if at != len(d.answers) {
		t.Errorf("%d decisions are in the log, of %d", at, len(d.answers))
	}
	return asked
}

func compile(t *testing.T, modules ...string) *policy.Snapshot {
	t.Helper()
	files := fstest.MapFS{}
	for i, text := range modules {
		files[fmt.Sprintf("%d.rego", i)] = &fstest.MapFile{Data: []byte(text)}
	}
	b, err := bundle.Read("test", files, bundle.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.Compile(t.Context(), policy.Config{}, []*bundle.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func settings(app gate.App) *gate.Settings {
	return &gate.Settings{Apps: []gate.App{app}, Timeout: time.Minute, Limits: gate.Limits{Message: 1 << 20, Headers: 256}}
}

// TestVerdictsAreThoseOfCheck: replaying the recorded corpus gives Check's verdicts.
func TestVerdictsAreThoseOfCheck(t *testing.T) {
	const folder = "../extauthz/testdata/conformance/"
	corpus, err := os.Open(folder + "corpus.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer corpus.Close()
	rego, err := os.ReadFile(folder + "policy.rego")
	if err != nil {
		t.Fatal(err)
	}
	var requests []*gate.Request
	lines := bufio.NewScanner(corpus)
	for lines.Buffer(nil, 16<<20); lines.Scan(); {
		var c struct{ Request map[string]any }
		d := json.NewDecoder(strings.NewReader(lines.Text()))
		d.UseNumber()
		if err := d.Decode(&c); err != nil {
			t.Fatal(err)
		}
		if req, err := recorded.Request(c.Request); err == nil {
			requests = append(requests, req)
		}
	}
	s := settings(gate.App{Decision: []string{"envoy", "authz", "allow"}})
	s.Paths.Compat = true
	asked := decide(t, s, compile(t, string(rego)), nil, requests).compare(t)
	t.Logf("%d requests, the policy was asked about %d", len(requests), asked)
	if asked < 50 {
		t.Error("these are too few")
	}
}

// TestVerdictsAreThoseOfCheckByRoute: a rule for each route, wherever it stands, and callers who could have brought a credential.
func TestVerdictsAreThoseOfCheckByRoute(t *testing.T) {
	table, _, err := routes.Parse("routes.yaml", []byte("framework: django\nroutes:\n  - GET, HEAD, POST /orders/\n  - GET, HEAD /orders/<int:id>/\n  - ANY /admin/users/\n"+
		"  - GET, HEAD /admin/\n  - GET, HEAD, DELETE /broken/\n  - GET /none/\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := compile(t, "package shop.GET.orders\nallowed := input.identity.authenticated",
		"package shop.ANY.orders\nPOST := {\"allowed\": false, \"http_status\": 409, \"reason\": \"not now\"}",
		"package shop.ANY.orders.__id\nHEAD := true\nGET := false",
		"package shop.GET.admin.users\nallowed := false",
		"package shop.PURGE.admin.users\nallowed := true",
		"package shop.ANY.admin[\"/**\"]\nallowed if input.identity.roles[_] == \"admin\"",
		"package shop.GET.broken\nallowed := 17",
		"package shop.DELETE.broken\nallowed := to_number(input.attributes.request.http.path) == 1")
	v, err := identity.New(identity.Config{Issuers: []identity.Issuer{{Issuer: "https://issuer.example.com", Audiences: []string{"shop"},
		Keys: identity.KeySource{URL: "http://127.0.0.1:1/keys"}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, verifier := range []*identity.Verifier{nil, v} {
		var requests []*gate.Request
		for _, who := range []*identity.Identity{nil, {Type: identity.TypeJWT, Subject: "u1", Authenticated: true}, {Type: identity.TypeJWT, Subject: "u2", Roles: []string{"admin"}, Authenticated: true}} {
			for _, path := range []string{"/orders/", "/orders/1/", "/admin/", "/admin/users/", "/broken/", "/none/", "/elsewhere/"} {
				for _, method := range []string{"GET", "HEAD", "POST", "DELETE", "PURGE", "OPTIONS"} {
					requests = append(requests, &gate.Request{Method: method, Path: path, Host: "shop", Scheme: "http", As: who})
				}
			}
		}
		s := settings(gate.App{Root: []string{"shop"}})
		s.Verifier = verifier
		d := decide(t, s, p, map[string]*routes.Table{"": table}, requests)
		if asked := d.compare(t); asked < 40 {
			t.Errorf("the policy was asked about %d requests, which are too few", asked)
		}
		reasons := map[gate.Reason]int{}
		for i := range d.answers {
			reasons[d.answers[i].Reason]++
		}
		for _, why := range []gate.Reason{gate.None, gate.Denied, gate.PolicyError, gate.NoDecision} {
			if reasons[why] == 0 {
				t.Errorf("no answer is %q", why)
			}
		}
		if (reasons[gate.NoCredential] > 0) != (verifier != nil) {
			t.Errorf("%d callers were told to log in", reasons[gate.NoCredential])
		}
	}
}
