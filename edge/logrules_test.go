package edge

import (
	"errors"
	"testing"

	"gatehouse/policy"
)

// TestLogRulesThatDoNotCompile: an event of a log on disk is not shown unmasked where the rules about it could not be made.
func TestLogRulesThatDoNotCompile(t *testing.T) {
	broken := errors.New("rules do not compile")
	r := &logRules{snapshot: &policy.Snapshot{}, err: broken}
	if out := r.rule(t.Context(), []byte(`{"decision_id":"a"}`)); !errors.Is(out.MaskError, broken) {
		t.Errorf("the ruling is %+v, want the error", out)
	}
}
