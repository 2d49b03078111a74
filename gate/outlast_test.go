package gate_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/policy/bounds"
)

// TestNothingOutlastsTheDeadline: a request whose evaluation would never end, or end the process, is denied with a specific reason.
func TestNothingOutlastsTheDeadline(t *testing.T) {
	body := func(text string) *gate.Request {
		r := get("/orders", "content-type", "application/json")
		r.Method, r.Body = "POST", text
		return r
	}
	defer func() { // what was given up ends some time
		for policy.CountAbandoned().Running > 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}()
	long := strings.Repeat("a?", 20_000)
	for name, c := range map[string]struct {
		rule, body string
		occupied   bool
		want       []gate.Reason
	}{
		"it takes too long":         {`regex.match(input.parsed_body.a, input.parsed_body.a)`, `{"a": "` + long + `"}`, false, []gate.Reason{gate.Timeout}},
		"too many take too long":    {`regex.match(input.parsed_body.a, input.parsed_body.a)`, `{"a": "` + long + `"}`, true, []gate.Reason{gate.Overloaded}},
		"it would recurse":          {`json.match_schema({}, input.parsed_body)[0]`, `{"$ref": "#"}`, false, []gate.Reason{gate.PolicyError}},
		"it would nest too deep":    {`graphql.is_valid(input.parsed_body.a, "type Query {a: String}")`, `{"a": "` + strings.Repeat("{a", 200_000) + `"}`, false, []gate.Reason{gate.PolicyError}},
		"it would take memory":      {`bits.lsh(1, input.parsed_body.a) > 1`, `{"a": 1000000000000}`, false, []gate.Reason{gate.PolicyError}},
		"a rule that denies":        {`not graph.reachable_paths(input.parsed_body, ["a"]) == set()`, `{"a": ["b"], "b": []}`, false, []gate.Reason{gate.None}},
		"the body is too deep":      {`input.parsed_body == []`, strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000), false, []gate.Reason{gate.BadRequest}},
		"a number is too long":      {`input.parsed_body > 1`, strings.Repeat("9", 100_000), false, []gate.Reason{gate.BadRequest}},
		"a number is out of bounds": {`input.parsed_body > 1`, `1e999999999`, false, []gate.Reason{gate.BadRequest}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.occupied {
				defer bounds.Occupy()()
			}
			s := settings()
			s.Timeout = time.Minute // of a busy machine
			if slices.Contains(c.want, gate.Timeout) {
				s.Timeout = 2 * time.Millisecond // of what takes some tens
			}
			g := open(t, s, compile(t, "package envoy.authz\nallow if { "+c.rule+" }"))
			answer := g.Check(context.Background(), body(c.body))
			for _, reason := range c.want {
				if answer.Reason == reason {
					return
				}
			}
			t.Errorf("%v: %v, want %v", answer.Reason, answer.Diagnostics.Cause, c.want)
		})
	}
}

// TestLargeRequestsAreDecidedApart: what a policy itself does with a large request, without any built-in, can be given up; past the bound of
// what was given up it is not begun. Small requests go on.
func TestLargeRequestsAreDecidedApart(t *testing.T) {
	g := open(t, settings(), compile(t, "package envoy.authz\nimport rego.v1\nallow if { some x in input.parsed_body.b; x != 1 }"))
	ask := func(padding int) gate.Reason {
		r := get("/orders", "content-type", "application/json")
		r.Method, r.Body = "POST", `{"b": ["`+strings.Repeat("x", padding)+`"]}`
		return g.Check(context.Background(), r).Reason
	}
	if large := ask(100_000); large != gate.None {
		t.Errorf("a large request: %v", large)
	}
	defer bounds.Occupy()()
	if small, large := ask(10), ask(100_000); small != gate.None || large != gate.Overloaded {
		t.Errorf("with the bound reached a small request is %v, a large one %v", small, large)
	}
}
