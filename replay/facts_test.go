package replay_test

import (
	"strings"
	"testing"
	"time"

	"gatehouse/decisionlog/read"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/policy"
	"gatehouse/policy/rego"
	"gatehouse/replay"
)

// says is a directory with a fixed answer per question.
type says bool

func (s says) Ask(string, []rego.Value, time.Time) (rego.Value, error) {
	return rego.Bool(bool(s)), nil
}

func (s says) Epoch(time.Time) uint64 { return 0 }

// TestFactsAreThoseOnRecord replays decisions with a directory that has become another: what is on record counts, and only what was not asked then
// is asked now.
func TestFactsAreThoseOnRecord(t *testing.T) {
	const line = `{"decision_id":"d","timestamp":"2026-01-01T00:00:00Z","format":1,"path":"envoy/authz/allow","identity":{"authenticated":true},"outcome":"allow",` +
		`"facts":[{"answer":true,"question":{"ds.check":{"object_id":"doc"}}}],"input":{"attributes":{"request":{"http":{"method":"GET","path":"/"}}}}}` + "\n"
	for rego, want := range map[string][3]int64{ // changed, from the record, from today's
		`allow if ds.check({"object_id": "doc"})`:                                                         {0, 1, 0},
		`allow if not ds.check({"object_id": "doc"})`:                                                     {1, 1, 0},
		`allow if ds.check({"object_id": "other"})`:                                                       {1, 0, 1},
		"allow if {\n\tds.check({\"object_id\": \"doc\"})\n\tnot ds.check({\"object_id\": \"other\"})\n}": {0, 1, 1},
	} {
		candidate := replay.NewCandidate(&gate.View{Policy: gatetest.Policy(t, "package envoy.authz\n\ndefault allow := false\n\n"+rego), Facts: policy.Facts{Directory: says(false), Version: 1}})
		log, err := read.OpenReader("-", strings.NewReader(line))
		if err != nil {
			t.Fatal(err)
		}
		report, err := replay.New(replay.Config{Candidate: candidate}).Run(t.Context(), log)
		if err != nil {
			t.Fatal(err)
		}
		if got := [3]int64{report.Changed, report.FactsRecorded, report.FactsCurrent}; report.Replayed != 1 || got != want {
			t.Errorf("%s: %v, want %v; skipped %+v", rego, got, want, report.Skipped)
		}
	}
}
