package gate_test

import (
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

// answers is a directory that asks a function.
type answers func() rego.Value

func (f answers) Ask(string, []rego.Value, time.Time) (rego.Value, error) { return f(), nil }

func (f answers) Epoch(time.Time) uint64 { return 0 }

// TestFacts: each request is decided by the facts of its View, also with the memo.
func TestFacts(t *testing.T) {
	g := open(t, settings(), compile(t, "package envoy.authz\n\nallow if ds.check({\"path\": input.parsed_path})\n"))
	var versions atomic.Uint64
	facts := func(allow bool) policy.Facts {
		return policy.Facts{Directory: answers(func() rego.Value {
			if !allow {
				return nil
			}
			return rego.Bool(true)
		}), Version: versions.Add(1)}
	}
	for _, step := range []struct {
		facts policy.Facts
		allow bool
	}{{policy.Facts{}, false}, {facts(true), true}, {facts(false), false}, {facts(true), true}, {policy.Facts{}, false}} {
		if err := g.Publish(t.Context(), func(v *gate.View) { v.Facts = step.facts }); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if a := g.Check(t.Context(), &gate.Request{Method: "GET", Path: "/a"}); (a.Reason == gate.None) != step.allow {
				t.Errorf("%v, want allowed: %v", a.Reason, step.allow)
			}
			if found := g.Explain(t.Context(), &gate.Request{Method: "GET", Path: "/a"}, nil); found.Policy == nil || found.Policy.Allowed != step.allow {
				t.Errorf("Explain: %+v, want allowed: %v", found.Policy, step.allow)
			}
		}
	}
}
