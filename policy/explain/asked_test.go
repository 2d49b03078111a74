package explain_test

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/explain"
	"gatehouse/policy/rego"
)

// members is a directory in which ann is a member.
type members struct{}

func (members) Ask(_ string, args []rego.Value, _ time.Time) (rego.Value, error) {
	return rego.Bool(strings.Contains(args[len(args)-1].String(), "ann")), nil
}

func (members) Epoch(time.Time) uint64 { return 0 }

// TestExplainWhatWasAsked shows the directory queries, unless they may hold a secret.
func TestExplainWhatWasAsked(t *testing.T) {
	b, err := bundle.Read("app", fstest.MapFS{"a.rego": {Data: []byte("package authz\n\nallow if gatehouse.check(\"doc:7\", \"can_read\", input.user)\n")}}, bundle.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.Compile(t.Context(), policy.Config{Directory: true}, []*bundle.Bundle{b})
	if err != nil {
		t.Fatal(err)
	}
	entry, err := s.Entry([]string{"authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	why := func(q policy.Question) string { return "nearest: " + q.Builtin }
	for user, answer := range map[string]string{"user:ann": "true", "user:bob": "false"} {
		input := rego.Object(rego.Member{Key: "user", Value: rego.String(user)})
		found := explain.Of(t.Context(), entry, input, policy.Facts{Directory: members{}}, noon, explain.Options{Why: why, Hide: []string{"doc:7"}})
		want := []explain.Asked{{Question: `gatehouse.check("[redacted]", "can_read", "` + user + `")`, Answer: answer, Why: "nearest: gatehouse.check"}}
		if diff := cmp.Diff(want, found.Asked); diff != "" {
			t.Error(diff)
		}
		if text := found.Text(); !strings.Contains(text, "asked of the directory\n  gatehouse.check(") || !strings.Contains(text, "\n    nearest: gatehouse.check\n") {
			t.Error(text)
		}
		found = explain.Of(t.Context(), entry, input, policy.Facts{Directory: members{}}, noon, explain.Options{Secret: [][]string{{"user"}}})
		if len(found.Asked) > 0 || strings.Contains(found.Text(), "gatehouse.check(\"") && strings.Contains(found.Text(), "bob") || len(found.Notes) == 0 {
			t.Error(found.Text())
		}
	}
}
