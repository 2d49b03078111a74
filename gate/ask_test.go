package gate_test

import (
	"context"
	"testing"

	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
	"gatehouse/policy"
)

// TestAsk: a question is decided by the rule that it names, on its resource, and everything that goes wrong is a denial.
func TestAsk(t *testing.T) {
	snapshot := gatetest.Compile(t, policy.Config{Decision: gatetest.Decision}, "test", map[string]string{"policy.rego": gatetest.AllowAll,
		"app.rego": `package app.GET.orders.__id
default allowed := false
allowed if { input.resource.id == "7"; input.identity.identity == "alice" }
visible if input.policy.path == "app.GET.orders.__id"
broken if { x := {1: 2}; {1: 3}[1] == x[1] / 0 }
text := "yes"`})
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, gatetest.Settings(), snapshot))
	alice := &identity.Identity{Type: identity.TypeSub, Subject: "alice", Identity: "alice", Authenticated: true}
	for _, test := range []struct {
		rule  string
		id    any
		as    *identity.Identity
		token bool
		want  gate.Reason
	}{
		{rule: "allowed", id: "7", as: alice, want: gate.None},
		{rule: "allowed", id: "8", as: alice, want: gate.Denied},
		{rule: "allowed", id: "7", want: gate.Denied},
		{rule: "visible", want: gate.None},
		{rule: "other", want: gate.NoDecision},
		{rule: "text", want: gate.PolicyError},
		{rule: "visible", token: true, want: gate.BadCredential},
		{rule: "visible", id: func() {}, want: gate.BadRequest},
	} {
		q := &gate.Question{Request: gate.QuestionRequest("/aserto.authorizer.v2.Authorizer/Is", gate.Endpoint{}), Token: test.token,
			Rule: []string{"app", "GET", "orders", "__id", test.rule}, Name: "app.GET.orders.__id", About: map[string]any{"id": test.id}}
		q.Request.As = test.as
		a := g.Ask(context.Background(), q)
		if a.Reason != test.want || a.Allow != (test.want == gate.None) || a.DecisionID == "" {
			t.Errorf("%s %v: allow %v, reason %q, want %q (%v)", test.rule, test.id, a.Allow, a.Reason, test.want, a.Diagnostics.Cause)
		}
	}
	idle := gatetest.Start(t, gate.Config{})
	if a := idle.Ask(context.Background(), &gate.Question{Rule: []string{"a"}}); a.Allow || a.Reason != gate.NotReady {
		t.Errorf("without a policy: %+v", a)
	}
}
