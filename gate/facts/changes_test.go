package facts_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
)

// randomCondition asks the directory about the caller and what the path names, in one of the ways in which policies do.
func randomCondition(r *rand.Rand, deep int) string {
	subject := []string{"input.user.id", "input.identity.subject", `"bob"`, "input.parsed_path[1]"}[r.IntN(4)]
	doc := []string{"input.parsed_path[0]", `"7"`, `"9"`, `"open"`}[r.IntN(4)]
	can := []string{"can_read", "can_write", "viewer", "owner", "banned"}[r.IntN(5)]
	check := fmt.Sprintf(`ds.check({"object_type": "doc", "object_id": %s, "relation": %q, "subject_type": "user", "subject_id": %s})`, doc, can, subject)
	switch r.IntN(11) {
	case 0, 1:
		return "not " + check
	case 2:
		return fmt.Sprintf(`gatehouse.check(sprintf("doc:%%v", [%s]), %q, sprintf("user:%%v", [%s]))`, doc, can, subject)
	case 3:
		return fmt.Sprintf(`%s in gatehouse.who(sprintf("doc:%%v", [%s]), "can_read", "user")`, subject, doc)
	case 4:
		return fmt.Sprintf(`count(gatehouse.what(sprintf("user:%%v", [%s]), %q, "doc")) > %d`, subject, can, r.IntN(3))
	case 5:
		return fmt.Sprintf(`%q in input.user.groups`, []string{"eng", "all"}[r.IntN(2)])
	case 6:
		if r.IntN(2) == 0 {
			return fmt.Sprintf(`ds.user({"id": %s}).properties.level == 3`, subject)
		}
		return fmt.Sprintf(`ds.object({"object_type": "user", "object_id": %s}).properties.level == 3`, subject)
	case 7:
		if deep > 0 {
			return fmt.Sprintf(`count([1 | %s]) == %d`, randomCondition(r, deep-1), r.IntN(2))
		}
	case 8:
		return fmt.Sprintf(`every d in gatehouse.what(sprintf("user:%%v", [%s]), "can_read", "doc") { gatehouse.check(sprintf("doc:%%v", [d]), "can_read", "user:bob") }`, subject)
	case 9:
		return `ds.checks({"default": {"object_type": "doc", "relation": "can_read", "subject_type": "user", "subject_id": ` + subject +
			`}, "checks": [{"object_id": "7"}, {"object_id": "9"}]})[0].check`
	case 10:
		return fmt.Sprintf(`ds.check({"object_type": "doc", "object_id": %s, "relation": input.parsed_path[1], "subject_type": "user", "subject_id": %s})`, doc, subject)
	}
	return check
}

func randomPolicy(r *rand.Rand) string {
	var b strings.Builder
	b.WriteString("package envoy.authz\n")
	for range 1 + r.IntN(3) {
		var conditions []string
		for range 1 + r.IntN(2) {
			conditions = append(conditions, "\t"+randomCondition(r, 1))
		}
		fmt.Fprintf(&b, "allow if {\n%s\n}\n", strings.Join(conditions, "\n"))
	}
	return b.String()
}

// randomChange sets or deletes something that the policies ask about, for ever or until soon.
func randomChange(r *rand.Rand) directory.Change {
	relations := strings.Fields(`group:eng#member@user:alice group:eng#member@user:bob group:all#member@group:eng#member doc:7#viewer@group:eng#member doc:7#viewer@group:all#member
		doc:7#owner@user:bob doc:7#banned@user:alice doc:9#banned@user:eve doc:9#viewer@user:eve folder:top#viewer@group:eng#member doc:9#parent@folder:top doc:7#parent@folder:open
		folder:top#parent@folder:open folder:open#viewer@user:* doc:open#owner@user:carol`)
	rel := relation(relations[r.IntN(len(relations))])
	switch r.IntN(8) {
	case 0, 1, 2:
		return directory.Change{DeleteRelation: &rel}
	case 3:
		rel.Expires = time.Now().Add(time.Duration(1+r.IntN(2)) * time.Second).Truncate(time.Second)
	case 4:
		level := []string{`{"level":3}`, `{"level":3.0}`, `{"level":4}`}[r.IntN(3)]
		return directory.Change{SetObject: &directory.Object{Ref: directory.Ref{Type: "user", ID: "alice"}, Properties: []byte(level)}}
	}
	return directory.Change{SetRelation: &rel}
}

// TestRememberedUnderChanges publishes successive directories to two gates, one with a memo: both give the same answers.
func TestRememberedUnderChanges(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 17))
	hits := uint64(0)
	for range changesRounds {
		rego := randomPolicy(r)
		p := gatetest.Policy(t, rego)
		users := &gate.Users{ByID: true}
		remembering, plain := gatetest.Settings(), gatetest.Settings()
		remembering.Users, plain.Users, plain.Memo.Off = users, users, true
		s := office(t, directory.Limits{})
		part := func(v *gate.View) { v.Directory = s }
		one := gatetest.Start(t, gate.Config{}, gatetest.With(t, remembering, p), part)
		two := gatetest.Start(t, gate.Config{}, gatetest.With(t, plain, p), part)
		for step := range 120 {
			if step%4 == 3 {
				next, err := s.Apply([]directory.Change{randomChange(r)})
				if err != nil {
					t.Fatal(err)
				}
				s = next
				for _, g := range []*gate.Gate{one, two} {
					if err := g.Publish(t.Context(), part); err != nil {
						t.Fatal(err)
					}
				}
			}
			id := &identity.Identity{Type: identity.TypeJWT, Authenticated: true, Subject: []string{"alice", "bob", "eve", "nobody"}[r.IntN(4)]}
			id.Identity = id.Subject
			path := "/" + []string{"7", "9", "open", "x"}[r.IntN(4)] + "/" + []string{"alice", "viewer", "can_read", "nothing"}[r.IntN(4)]
			ask := func(g *gate.Gate) string {
				a := g.Check(t.Context(), &gate.Request{Method: "GET", Path: path, Host: "h.example", As: id})
				return fmt.Sprint(a.Allow, a.Reason)
			}
			// What expires between the two questions may differ: then they are asked again.
			for try := 0; ; try++ {
				got, want := ask(one), ask(two)
				if got == want {
					break
				}
				if try == 2 {
					t.Fatalf("%s for %s: remembered %s, want %s\n%s", path, id.Subject, got, want, rego)
				}
			}
		}
		hits += one.MemoStatus().Hits
	}
	t.Logf("%d remembered", hits)
	if hits < 10*changesRounds {
		t.Error("hardly anything was remembered")
	}
}

const changesRounds = 40
