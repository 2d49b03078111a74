package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse/policy"
)

// TestCoverage has rules of every kind. Each rule's name says for which inputs it holds, even if another one would have sufficed.
func TestCoverage(t *testing.T) {
	s := compile(t, module(`
import data.authz.helpers

default allow := false

allow if input.n == 1

allow if input.n in {1, 2}

allow if helper

allow if { input.n == 9; never }

allow if check(input.n) == "three"

allow if choice == "c"

helper if input.n == 2

never if input.n == 1

check(n) := "three" if n == 3

check(n) := "four" if n == 4

choice := "a" if {
	input.n == 1
} else := "b" if {
	input.n == 2
} else := "c" if {
	input.n == 3
}

allow if "x" in set

set contains "x" if input.n == 4

set contains "y" if input.n == 5

unreachable if true
`))
	var c policy.Coverage
	entry, err := s.Entry([]string{"authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	c.Watch(entry)
	c.Watch(entry)
	replayer := entry.Replayer()
	for n := 1; n <= 4; n++ {
		held, unsure, err := c.Decide(t.Context(), replayer, value(t, fmt.Sprintf(`{"n": %d}`, n)), nil, policy.Facts{}, time.Now())
		if err != nil || unsure != "" {
			t.Fatal(err, unsure)
		}
		c.Add(held, 10)
	}
	var got []string
	for _, r := range c.Rules() {
		got = append(got, fmt.Sprintf("%d %s %d", r.Line, r.Rule, r.Held))
		if r.File != "app/authz.rego" {
			t.Errorf("%+v", r)
		}
	}
	want := "7 allow 10|9 allow 20|11 allow 10|13 allow 0|15 allow 10|17 allow 10|19 helper 10|21 never 0|23 check 10|25 check 10|" +
		"27 choice 10|29 choice 10|31 choice 10|35 allow 10|37 set 10|39 set 0"
	if strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "|"), want)
	}
}

// TestCoverageWithoutCalls checks that network calls are disabled, and that an evaluation error is not returned.
func TestCoverageWithoutCalls(t *testing.T) {
	s := compile(t, module(`
allow := 1 if input.n == 1
allow := 2 if input.m == 1
allow := rand.intn("x", 5) if input.n == 2
`))
	entry, err := s.Entry([]string{"authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	var c policy.Coverage
	c.Watch(entry)
	for input, want := range map[string]string{`{"n": 1, "m": 1}`: "", `{"n": 3}`: "", `{"n": 2}`: "rand.intn"} {
		held, unsure, err := c.Decide(t.Context(), entry.Replayer(), value(t, input), nil, policy.Facts{}, time.Now())
		if err != nil || unsure != want {
			t.Errorf("%s: %v %q %v", input, held, unsure, err)
		}
	}
}
