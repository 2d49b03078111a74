package facts_test

import (
	"strings"
	"testing"

	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
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

// TestExplainFailed: a question that failed is neither false nor true, and a role of the directory comes by a relation.
func TestExplainFailed(t *testing.T) {
	check := `ds.check({"object_type": "doc", "object_id": "7", "relation": "can_fly", "subject_type": "user", "subject_id": input.user.id})`
	for _, test := range []struct {
		rule, want, never string
	}{
		{check, `: it failed: ds.check: unknown relation or permission "can_fly" of type "doc"`, "is false"},
		{"not " + check, `: it failed: ds.check: unknown relation or permission "can_fly" of type "doc"`, "holds"},
		{"x := " + check + "\n\tx", `: it failed: ds.check: unknown relation or permission "can_fly" of type "doc"`, "is false"},
		{`"all" in input.user.groups`, "with the relation group:all#member@user:bob in the directory", "with group"},
	} {
		g := gatetest.Start(t, gate.Config{}, gatetest.With(t, func() *gate.Settings { s := gatetest.Settings(); s.Users = &gate.Users{ByID: true}; return s }(),
			gatetest.Policy(t, "package envoy.authz\n\nallow if {\n\t"+test.rule+"\n}\n")), func(v *gate.View) { v.Directory = office(t, directory.Limits{}) })
		found := g.Explain(t.Context(), &gate.Request{Method: "GET", Path: "/", As: &identity.Identity{Type: identity.TypeJWT, Authenticated: true, Subject: "bob", Identity: "bob"}}, nil)
		if found.Policy == nil {
			t.Fatalf("%s: %+v", test.rule, found)
		}
		if text := found.Policy.Text(); !strings.Contains(text, test.want) || strings.Contains(text, test.never) {
			t.Errorf("%s\n%s\nshould have %q, and not %q", test.rule, text, test.want, test.never)
		}
	}
}
