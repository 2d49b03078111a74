package store

import "testing"

// TestGuard: what is compared, and when there is too little for it.
func TestGuard(t *testing.T) {
	guard := Guard{}.OrDefault()
	good := Counts{Decisions: 1000, Denied: 10, Microseconds: 100_000}
	for name, test := range map[string]struct {
		now, before    Counts
		left, compares bool
	}{
		"as before":              {Counts{Decisions: 200, Denied: 2, Microseconds: 20_000}, good, false, true},
		"all fail":               {Counts{Decisions: 200, Denied: 200, Errors: 200}, good, true, true},
		"all denied":             {Counts{Decisions: 200, Denied: 200}, good, true, true},
		"slow":                   {Counts{Decisions: 200, Microseconds: 200_000}, good, true, true},
		"too few fail":           {Counts{Decisions: 60, Denied: 60, Errors: 60}, good, false, false},
		"nothing to compare":     {Counts{Decisions: 200, Denied: 200}, Counts{Decisions: 3}, false, false},
		"all fail, none before":  {Counts{Decisions: 200, Errors: 200}, Counts{}, true, false},
		"no decisions, not ever": {Counts{}, Counts{}, false, false},
	} {
		if left := guard.Left(test.now, test.before); (left != "") != test.left {
			t.Errorf("%s: %q", name, left)
		}
		if got := guard.Compares(test.now, test.before); got != test.compares {
			t.Errorf("%s: comparable is %v", name, got)
		}
	}
}
