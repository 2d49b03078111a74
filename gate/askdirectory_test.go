package gate_test

import (
	"context"
	"testing"

	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
	"gatehouse/policy"
)

// TestAskAboutSubject: whom a question names is found by id or as an identity, whatever directory.users says, and what it is about are
// members of the input.
func TestAskAboutSubject(t *testing.T) {
	snapshot := gatetest.Compile(t, policy.Config{Decision: gatetest.Decision}, "test", map[string]string{"policy.rego": gatetest.AllowAll,
		"app.rego": `package app
user := {"allowed": true, "dynamic_metadata": {"id": input.user.id, "roles": input.user.roles}}
spread := {"allowed": false, "reason": "so it is", "dynamic_metadata": {"subject": input.subject.id, "resource": input.resource.id, "context": object.get(input, "context", "none")}}`})
	s := gatetest.Settings()
	s.Users = &gate.Users{Email: true}
	s.Apps = append(s.Apps, gate.App{Name: "other", Hosts: []string{"other.example.com"}, Decision: []string{"envoy", "authz", "allow"}})
	s.Apps[0].Name = "one"
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, snapshot), withDirectory(people(t)))
	for _, test := range []struct {
		subject directory.Ref
		rule    string
		reason  gate.Reason
		user    any
	}{
		{directory.Ref{Type: "user", ID: "v1"}, "user", gate.None, "v1"},
		{directory.Ref{Type: "user", ID: "vera"}, "user", gate.None, "v1"},
		{directory.Ref{Type: "user", ID: "vera@example.com"}, "user", gate.None, "v1"},
		{directory.Ref{Type: "identity", ID: "vera"}, "user", gate.None, "v1"},
		{directory.Ref{Type: "identity", ID: "v1"}, "user", gate.NoDecision, nil},
		{directory.Ref{Type: "group", ID: "v1"}, "user", gate.NoDecision, nil},
		{directory.Ref{Type: "user", ID: "nobody"}, "user", gate.NoDecision, nil},
		{directory.Ref{Type: "user", ID: "twin"}, "user", gate.Unavailable, nil},
		{directory.Ref{Type: "user", ID: "v1"}, "spread", gate.Denied, nil},
	} {
		q := &gate.Question{Request: gate.QuestionRequest("/ask", gate.Endpoint{}), Rule: []string{"app", test.rule}, Subject: test.subject, Spread: true,
			About: map[string]any{"subject": map[string]any{"id": test.subject.ID}, "resource": map[string]any{"id": "7"}}}
		q.Request.As = &identity.Identity{Type: identity.TypeSub, Subject: test.subject.ID, Authenticated: true}
		a := g.Ask(context.Background(), q)
		if a.Reason != test.reason || a.Metadata["id"] != test.user {
			t.Errorf("%v: %q, user %v (%v)", test.subject, a.Reason, a.Metadata, a.Diagnostics.Cause)
		}
		if test.rule == "spread" && (a.Body != "so it is" || a.Metadata["subject"] != "v1" || a.Metadata["resource"] != "7" || a.Metadata["context"] != "none") {
			t.Errorf("%q, %v", a.Body, a.Metadata)
		}
	}
}

// TestAskDirectory: the directory decides without a policy, and not at all without a directory.
func TestAskDirectory(t *testing.T) {
	s := gatetest.Settings()
	dev := directory.Ref{Type: "group", ID: "eng"}
	q := &gate.Question{Request: gate.QuestionRequest("/ask", gate.Endpoint{}), Subject: directory.Ref{Type: "user", ID: "vera"}}
	for _, test := range []struct {
		part     gate.Part
		relation string
		want     gate.Reason
	}{
		{func(v *gate.View) {}, "member", gate.NotReady},
		{func(v *gate.View) { v.Settings = s }, "member", gate.NotReady},
		{func(v *gate.View) { v.Settings, v.Directory = s, people(t) }, "member", gate.None},
		{func(v *gate.View) { v.Settings, v.Directory = s, people(t) }, "owner", gate.NoDecision},
	} {
		g := gatetest.Start(t, gate.Config{}, test.part)
		if a := g.AskDirectory(context.Background(), q, dev, test.relation); a.Reason != test.want || a.Allow != (test.want == gate.None) || a.DecisionID == "" {
			t.Errorf("%s: allow %v, reason %q, want %q (%v)", test.relation, a.Allow, a.Reason, test.want, a.Diagnostics.Cause)
		}
	}
}

// TestQuestionAboutAnUnknownIdentity: a subject that the directory does not know has no user, also with users by id.
func TestQuestionAboutAnUnknownIdentity(t *testing.T) {
	s := gatetest.Settings()
	s.Users = &gate.Users{ByID: true}
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, compileFiles(t, "package q\n\nallow if input.user.id == \"v1\"\n", "package envoy.authz\n\nallow := false\n")), withDirectory(people(t)))
	for subject, want := range map[directory.Ref]bool{{Type: "user", ID: "v1"}: true, {Type: "identity", ID: "vera"}: true, {Type: "identity", ID: "v1"}: false, {Type: "user", ID: "nobody"}: false} {
		q := &gate.Question{Request: gate.QuestionRequest("/ask", gate.Endpoint{}), Rule: []string{"q", "allow"}, Subject: subject, Spread: true, About: map[string]any{}}
		q.Request.As = &identity.Identity{Type: identity.TypeSub, Subject: subject.ID, Identity: subject.ID, Authenticated: true}
		if a := g.Ask(t.Context(), q); a.Allow != want {
			t.Errorf("%v: allow %v, want %v (%v)", subject, a.Allow, want, a.Diagnostics.Cause)
		}
	}
}
