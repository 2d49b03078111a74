package facts_test

import (
	"strings"
	"testing"

	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
)

// TestExplain shows what a policy asked, with the way that led to each answer.
func TestExplain(t *testing.T) {
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, gatetest.Settings(), gatetest.Policy(t, `package envoy.authz

allow if gatehouse.check("doc:9", "can_read", concat(":", ["user", input.parsed_path[0]]))
`)), func(v *gate.View) { v.Directory = office(t, directory.Limits{}) })
	for path, want := range map[string]string{
		"/bob": `gatehouse.check("doc:9", "can_read", "user:bob"): true` + "\n    bob -> folder:top#owner -> doc:9#parent\n",
		"/eve": `gatehouse.check("doc:9", "can_read", "user:eve"): false` + "\n    not allowed: excluded by eve -> doc:9#banned\n",
	} {
		found := g.Explain(t.Context(), &gate.Request{Method: "GET", Path: path}, nil)
		if found.Policy == nil || !strings.Contains(found.Policy.Text(), want) {
			t.Errorf("%s: %+v\nshould have %s", path, found.Policy, want)
		}
	}
}
