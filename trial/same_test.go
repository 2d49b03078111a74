package trial

import (
	"testing"

	"gatehouse/gate"
)

func TestSameAnswer(t *testing.T) {
	denied := gate.Answer{DecisionID: "A", Status: 403, Body: "denied (A)", Set: []gate.HeaderOption{{Name: "x-decision-id", Value: "A"}}}
	for _, test := range []struct {
		name   string
		change func(*gate.Answer)
		same   bool
	}{
		{"another number of the decision", func(a *gate.Answer) {
			a.DecisionID, a.Body = "B", "denied (B)"
			a.Set = []gate.HeaderOption{{Name: "x-decision-id", Value: "B"}}
		}, true},
		{"another cause", func(a *gate.Answer) { a.Diagnostics.App = "shop" }, true},
		{"another status", func(a *gate.Answer) { a.Status = 401 }, false},
		{"another body", func(a *gate.Answer) { a.Body = "no" }, false},
		{"another header", func(a *gate.Answer) { a.Set = nil }, false},
		{"another verdict", func(a *gate.Answer) { a.Allow = true }, false},
	} {
		other := denied
		test.change(&other)
		if got := SameAnswer(&denied, &other); got != test.same {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
