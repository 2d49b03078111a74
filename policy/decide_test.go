package policy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDecideOutcomes(t *testing.T) {
	tests := []struct {
		name, rules, input string
		allowed            bool
		failure            error
		complaint          string // in the error
	}{
		{"allow", "allow if input.user == \"ann\"", `{"user": "ann"}`, true, nil, ""},
		{"undefined", "allow if input.user == \"ann\"", `{"user": "bob"}`, false, policy.ErrUndefined, ""},
		{"a default", "default allow := false\n\nallow if input.user == \"ann\"", `{}`, false, nil, ""},
		{"conflicting rules", "allow := true if input.a\n\nallow := false if input.b", `{"a": true, "b": true}`, false,
			policy.ErrEvaluation, "app/authz.rego:4: eval_conflict_error"},
		{"a conflict in a function", "f(x) := 1 if x > 0\n\nf(x) := 2 if x > 1\n\nallow := f(2) == 1", `{}`, false,
			policy.ErrEvaluation, "app/authz.rego:"},
		{"a wrong type", `allow := "yes"`, `{}`, false, policy.ErrEvaluation, "type string"},
		{"a failed built-in and nothing else", `allow := to_number(input.n) > 1`, `{"n": "x"}`, false,
			policy.ErrEvaluation, "app/authz.rego:2: eval_builtin_error: to_number"},
		{"a failed built-in under not", "allow if not b\n\nb if to_number(input.n) > 1", `{"n": "x"}`, true, nil, ""},
		{"a failed built-in and a default", "default allow := false\n\nallow := to_number(input.n) > 1", `{"n": "x"}`, false, nil, ""},
		{"the time that was given", `allow := time.now_ns() == ` + fmt.Sprint(noon.UnixNano()), `{}`, true, nil, ""},
		{"print does nothing", "allow if {\n\tprint(\"x\")\n\ttrue\n}", `{}`, true, nil, ""},
		{"a schema from the network", `allow if json.match_schema({}, {"$ref": "http://127.0.0.1:1/x"})[0]`, `{}`, false,
			policy.ErrEvaluation, "remote reference loading disabled"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d, err := decide(t, test.rules, test.input)
			if d.Allowed != test.allowed || !errors.Is(err, test.failure) {
				t.Fatalf("got %+v and error %v, want allowed %v and error %v", d, err, test.allowed, test.failure)
			}
			if err != nil && !strings.Contains(err.Error(), test.complaint) {
				t.Errorf("error %q lacks %q", err, test.complaint)
			}
		})
	}
}

func TestDecideWithoutInput(t *testing.T) {
	d, err := compile(t, module("allow if not input")).Decide(context.Background(), nil, noon)
	if err != nil || !d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
}

// A policy that would run for hours ends with its context and leaks nothing.
func TestRunawayPolicyEndsWithItsContext(t *testing.T) {
	for name, rules := range map[string]string{
		"a product": "allow if {\n\tsome a in numbers.range(1, 5000)\n\tsome b in numbers.range(1, 5000)\n\tsome c in numbers.range(1, 5000)\n\ta * b * c == -1\n}",
		"a range":   "allow if count(numbers.range(1, 100000000000)) == 0",
	} {
		s := compile(t, module(rules))
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		began := time.Now()
		d, err := s.Decide(ctx, rego.Object(), noon)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, policy.ErrEvaluation) || d.Allowed {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("%s: ended after %v", name, took)
		}
	}
	s := compile(t, module("allow := true"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if d, err := s.Decide(ctx, nil, noon); !errors.Is(err, context.Canceled) || d.Allowed {
		t.Errorf("a context that has ended: %+v, %v", d, err)
	}
}

// bomb is a value whose every method panics.
type bomb struct{ rego.Value }

// A panic fails one decision, and the error names its place.
func TestPanicWhileEvaluatingIsAFailure(t *testing.T) {
	s := compile(t, module("default allow := true\n\nallow := false if count(input.x) == 1"))
	d, err := s.Decide(context.Background(), bomb{}, noon)
	if !errors.Is(err, policy.ErrEvaluation) || d.Allowed || !strings.Contains(err.Error(), "topdown") {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := s.Decide(context.Background(), nil, noon); err != nil || !d.Allowed {
		t.Errorf("after a panic: %+v, %v", d, err)
	}
}

func TestDecideConcurrently(t *testing.T) {
	s := compile(t, tree{
		"authz.rego": "package authz\n\nallow if {\n\tsome r in data.roles[input.user]\n\tglob.match(r, [\"/\"], input.path)\n" +
			"\tregex.match(input.pattern, input.path)\n\tsome k, _ in data.roles\n\tk == \"zed\"\n}\n",
		"data.json": `{"roles": {"zed": ["*"], "ann": ["orders/*"], "bob": ["x/*"]}}`,
	})
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for i := range 200 {
				user := []string{"ann", "bob"}[(g+i)%2]
				input := rego.Object(rego.Member{Key: "user", Value: rego.String(user)},
					rego.Member{Key: "path", Value: rego.String("orders/17")},
					rego.Member{Key: "pattern", Value: rego.String(fmt.Sprintf("^orders/(17|%d)$", i))})
				d, err := s.Decide(context.Background(), input, noon)
				if user == "ann" && (err != nil || !d.Allowed) || user == "bob" && !errors.Is(err, policy.ErrUndefined) {
					t.Errorf("%s: %+v, %v", user, d, err)
				}
			}
		})
	}
	group.Wait()
}

// A policy that would run on ends at its deadline, or with its caller.
func TestDecideWithin(t *testing.T) {
	waits := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-waits }))
	defer slow.Close()
	defer close(waits)
	for name, rules := range map[string]string{
		"expressions": "default allow := false\n\nn := numbers.range(1, 200)\n\nallow if {\n\tsome a in n\n\tsome b in n\n\tsome c in n\n\tsome d in n\n\ta + b + c + d < 0\n}",
		"a built-in":  `allow if count(numbers.range(1, 100000000)) == 1`,
		"the network": `allow if http.send({"method": "GET", "url": "` + slow.URL + `"}).status_code == 200`,
	} {
		t.Run(name, func(t *testing.T) {
			cfg := policy.Config{Decision: "authz/allow"}
			if name == "the network" {
				cfg.Capabilities = policy.Capabilities{HTTPSend: []string{"127.0.0.1"}, HTTPSendPrivate: true}
			}
			s, err := policy.Compile(t.Context(), cfg, []*bundle.Bundle{read(t, "app", module(rules))})
			if err != nil {
				t.Fatal(err)
			}
			e, err := s.Entry([]string{"authz", "allow"})
			if err != nil {
				t.Fatal(err)
			}
			if d, err := e.DecideWithin(t.Context(), 20*time.Millisecond, value(t, `{}`), policy.Facts{}, noon); !errors.Is(err, context.DeadlineExceeded) || d.Allowed {
				t.Errorf("its time is up: %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(20*time.Millisecond, cancel)
			if d, err := e.DecideWithin(ctx, time.Minute, value(t, `{}`), policy.Facts{}, noon); !errors.Is(err, context.Canceled) || d.Allowed {
				t.Errorf("its caller is gone: %v", err)
			}
		})
	}
}
