package gate_test

import (
	"testing"

	"gatehouse/gate"
	"gatehouse/policy"
)

// TestFacts publishes facts, and other ones: each request is decided by those of its View, also where decisions are remembered.
func TestFacts(t *testing.T) {
	g := open(t, settings(), compile(t, "package envoy.authz\n\nallow if ds.check({\"path\": input.parsed_path})\n"))
	facts := func(allow bool) policy.Facts {
		return policy.Facts{Directory: func(string, policy.Value) (policy.Value, error) {
			if !allow {
				return nil, nil
			}
			return policy.Bool(true), nil
		}}
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
