package policy_test

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
)

// TestAsertoPolicy loads an unchanged policy in Aserto's published style, Rego v0 with calls to the directory.
func TestAsertoPolicy(t *testing.T) {
	b, err := bundle.Read("todo", fstest.MapFS{"todos.rego": {Data: []byte(`package todoapp.GET.todos

default allowed = false

allowed {
  ds.check({"object_type": "tenant", "relation": "member", "subject_id": input.user.id})
}

allowed {
  input.user.roles[_] == "viewer"
}
`)}}, bundle.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.Compile(t.Context(), policy.Config{Decision: "todoapp/GET/todos/allowed"}, []*bundle.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	if notices := strings.Join(s.Notices(), "\n"); !strings.Contains(notices, "todo/todos.rego:6: ds.check is undefined: there is no directory") {
		t.Errorf("notices %q", notices)
	}
	if s, err := policy.Compile(t.Context(), policy.Config{Decision: "todoapp/GET/todos/allowed", Directory: true}, []*bundle.Bundle{b}); err != nil || len(s.Notices()) > 1 ||
		strings.Contains(strings.Join(s.Notices(), "\n"), "directory") {
		t.Errorf("with a directory: notices %q, error %v", s.Notices(), err)
	}
	for role, want := range map[string]bool{"viewer": true, "guest": false} {
		input, err := rego.FromJSON(map[string]any{"user": map[string]any{"id": "u1", "roles": []any{role}}})
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.Decide(t.Context(), input, time.Now())
		if err != nil || d.Allowed != want {
			t.Errorf("%s: %v, %v", role, d.Allowed, err)
		}
	}
}
