package replay

import (
	"strings"
	"testing"

	"gatehouse/gate"
	"gatehouse/policy"
)

func TestVerdictsOfExpectedChanges(t *testing.T) {
	denied, login := Verdict{Verdict: gate.VerdictOf(&policy.Decision{}, nil)}, Verdict{Verdict: gate.VerdictOf(&policy.Decision{}, nil).Anonymous()}
	for text, want := range map[string][3]bool{ // allow, denied, login
		"": {true, true, true}, "allow": {true, false, false}, "deny": {false, true, true}, "deny 403": {false, true, false},
		"deny no_credential": {false, false, true}, "deny 403 denied": {false, true, false}, "deny denied 403": {false, true, false},
	} {
		got := [3]bool{Verdict{Verdict: gate.Verdict{Allow: true}}.Matches(text), denied.Matches(text), login.Matches(text)}
		if !IsVerdict(text) || got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	for _, text := range []string{" ", "allow 200", "denied", "deny 4", "deny nothing", "deny 403 denied too"} {
		if IsVerdict(text) {
			t.Errorf("%q is taken for a verdict", text)
		}
	}
}

// TestPathsWithoutARoute: what looks like a number or an id is none of the route.
func TestPathsWithoutARoute(t *testing.T) {
	for path, want := range map[string]string{
		"/orders/17?page=2": "/orders/*", "/users/alice/orders": "/users/alice/orders", "/v1/x": "/v1/x",
		"/o/6f1c2c1e-0a0b-4b52-8e3f-0d6f7f0a9b11/items": "/o/*/items", "": "", "/" + strings.Repeat("a", 50): "/*",
	} {
		if got := generalised(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}
