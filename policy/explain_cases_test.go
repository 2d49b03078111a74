package policy_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"gatehouse/policy"
	"gatehouse/policy/explain"
	"gatehouse/policy/rego"
)

// TestExplainOnOPAsOwnCases compares an explanation's outcome with Decide's, on OPA's conformance suite.
func TestExplainOnOPAsOwnCases(t *testing.T) {
	used, denied := 0, 0
	for _, c := range suite(t) {
		input := map[string]any{}
		if c.Input != nil {
			input, _ = (*c.Input).(map[string]any)
		}
		s := wrapped(c)
		if s == nil {
			continue
		}
		v, err := rego.FromJSON(input)
		if err != nil {
			continue
		}
		entry, err := s.Entry([]string{"gatehouse_wrapper", "allow"})
		if err != nil || entry == nil {
			t.Fatal(c.Note, err)
		}
		want, wantErr := entry.Decide(t.Context(), v, policy.Facts{}, noon)
		e := explain.Of(t.Context(), entry, v, policy.Facts{}, noon, explain.Options{Timeout: time.Minute})
		used++
		if e.Allowed != want.Allowed || errors.Is(e.Err, policy.ErrUndefined) != errors.Is(wantErr, policy.ErrUndefined) || (e.Err == nil) != (wantErr == nil) {
			t.Errorf("%s: explains allowed %v, %v; it is %v, %v", c.Note, e.Allowed, e.Err, want.Allowed, wantErr)
		}
		if strings.Contains(e.Text(), "the explanation failed") {
			t.Errorf("%s: %s", c.Note, e.Text())
		}
		if !e.Allowed {
			if denied++; len(e.WhyNot) == 0 && !errors.Is(e.Err, policy.ErrEvaluation) {
				t.Errorf("%s: denied, and nothing says why:\n%s", c.Note, e.Text())
			}
		}
		if len(e.Text()) > 200_000 {
			t.Errorf("%s: %d bytes of explanation", c.Note, len(e.Text()))
		}
	}
	t.Logf("%d cases, %d of them not allowed", used, denied)
	if used < 500 || denied < 100 {
		t.Errorf("only %d cases, %d of them not allowed", used, denied)
	}
}
