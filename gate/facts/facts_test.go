package facts_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/gate/facts"
	"gatehouse/gate/gatetest"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

const manifest = `model: {version: 3}
types:
  user:
    relations: {manager: user}
  identity:
    relations: {identifier: user}
  group:
    relations: {member: user | group#member}
  folder:
    relations: {owner: user, parent: folder, viewer: "user | user:* | group#member"}
    permissions: {can_read: viewer | owner | parent->can_read}
  doc:
    relations: {owner: user, parent: folder, viewer: user | group#member, banned: user}
    permissions: {can_write: owner, can_read: (viewer | can_write | parent->can_read) - banned}
`

// now is before the relation that expires does.
var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func relation(text string) directory.Relation {
	object, rest, _ := strings.Cut(text, "#")
	name, rest, _ := strings.Cut(rest, "@")
	subject, subjectRelation, _ := strings.Cut(rest, "#")
	ref := func(s string) directory.Ref {
		typ, id, _ := strings.Cut(s, ":")
		return directory.Ref{Type: typ, ID: id}
	}
	return directory.Relation{Object: ref(object), Relation: name, Subject: ref(subject), SubjectRelation: subjectRelation}
}

// office is a small directory: alice is in eng, which may view doc:7; bob owns folder:top, in which doc:9 is.
func office(t testing.TB, limits directory.Limits, more ...directory.Change) *directory.Snapshot {
	t.Helper()
	m, err := directory.ParseManifest("manifest.yaml", []byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	var changes []directory.Change
	for _, name := range strings.Fields("user:alice user:bob user:eve user:carol identity:a@example.com identity:twin group:eng group:all folder:top folder:open doc:7 doc:9 doc:open") {
		typ, id, _ := strings.Cut(name, ":")
		o := &directory.Object{Ref: directory.Ref{Type: typ, ID: id}}
		if name == "user:alice" {
			o.DisplayName, o.Properties = "Alice", []byte(`{"department":"sales","level":3.0,"tags":["a"]}`)
		}
		changes = append(changes, directory.Change{SetObject: o})
	}
	for _, text := range strings.Fields(`group:eng#member@user:alice group:all#member@group:eng#member doc:7#viewer@group:eng#member doc:7#owner@user:bob
		folder:top#owner@user:bob doc:9#parent@folder:top doc:9#banned@user:eve folder:top#viewer@user:eve folder:open#viewer@user:* doc:open#parent@folder:open
		identity:a@example.com#identifier@user:alice identity:twin#identifier@user:alice identity:twin#identifier@user:bob user:alice#manager@user:bob`) {
		r := relation(strings.Replace(text, "identity:a@example.com#", "identity:a%#", 1))
		if r.Object.ID == "a%" {
			r.Object.ID = "a@example.com"
		}
		changes = append(changes, directory.Change{SetRelation: &r})
	}
	expiring := relation("doc:7#viewer@user:carol")
	expiring.Expires = now.Add(time.Hour)
	s, err := directory.New(m, limits).Apply(append(append(changes, directory.Change{SetRelation: &expiring}), more...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// evaluate is the value of an expression, as JSON; "undefined", or the error.
func evaluate(t testing.TB, s *directory.Snapshot, expression string, at time.Time) string {
	t.Helper()
	p := gatetest.Policy(t, "package envoy.authz\n\nallow := {\"allowed\": true, \"dynamic_metadata\": {\"x\": x}} if x := "+expression+"\n")
	entry, err := p.Entry([]string{"envoy", "authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := entry.Decide(context.Background(), rego.Object(), facts.Of(s, 1, nil), at)
	switch {
	case errors.Is(err, policy.ErrUndefined):
		return "undefined"
	case err != nil:
		return err.Error()
	}
	text, err := json.Marshal(d.Metadata["x"])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestAnswers asks each built-in in Rego.
func TestAnswers(t *testing.T) {
	s := office(t, directory.Limits{})
	const alice = `{"display_name":"Alice","id":"alice","properties":{"department":"sales","level":3.0,"tags":["a"]},"type":"user"}`
	const member = `{"object_id":"eng","object_type":"group","relation":"member","subject_id":"alice","subject_relation":"","subject_type":"user"}`
	for _, test := range []struct{ ask, want string }{
		{`ds.check({"object_type": "doc", "object_id": "7", "relation": "can_read", "subject_type": "user", "subject_id": "alice"})`, `true`},
		{`ds.check({"object_type": "doc", "object_id": "7", "relation": "can_write", "subject_type": "user", "subject_id": "alice", "trace": true})`, `false`},
		{`ds.check({"object_type": "doc", "object_id": "none", "relation": "can_read", "subject_type": "user", "subject_id": "alice"})`, `false`},
		{`ds.check({"object_type": "doc", "object_id": "7", "relation": "can_read", "subject_type": "user", "subject_id": "carol"})`, `true`},
		{`ds.check({"object_type": "doc", "object_id": "open", "relation": "can_read", "subject_type": "user", "subject_id": "nobody"})`, `true`},
		{`ds.check({"object_type": "doc", "object_id": "open", "relation": "can_read", "subject_type": "user", "subject_id": ""})`, `false`},
		{`ds.check_permission({"object_type": "doc", "object_id": "9", "permission": "can_read", "subject_type": "user", "subject_id": "bob"})`, `true`},
		{`ds.check_relation({"object_type": "doc", "object_id": "7", "relation": "owner", "subject_type": "user", "subject_id": "bob"})`, `true`},
		{`gatehouse.check("doc:9", "can_read", "user:eve")`, `false`},
		{`gatehouse.check("folder:top", "can_read", "user:eve")`, `true`},
		{`[c.check | some c in ds.checks({"default": {"object_type": "doc", "relation": "can_read", "subject_type": "user", "subject_id": "bob"},
			"checks": [{"object_id": "7"}, {"object_id": "open"}, {"object_id": "9", "subject_id": "eve"}, {"object_type": "folder", "object_id": "top"},
			{"object_id": "7", "subject_id": ""}]})]`, `[true,true,false,true,false]`},
		{`ds.checks({"checks": []})`, `[]`},
		{`ds.user({"id": "alice"})`, alice},
		{`ds.user({"id": "nobody"})`, `undefined`},
		{`ds.user({"id": ""})`, `undefined`},
		{`ds.object({"object_type": "user", "object_id": "alice"})`, strings.Replace(alice, `"type"`, `"relations":[],"type"`, 1)},
		{`{r.object_id | some r in ds.object({"object_type": "group", "object_id": "eng", "with_relations": true}).relations}`, `["7","all","eng"]`},
		{`count(ds.object({"object_type": "group", "object_id": "eng", "with_relations": true}).relations)`, `3`},
		{`ds.object({"object_type": "doc", "object_id": "none"})`, `undefined`},
		{`ds.identity({"id": "a@example.com"})`, `"alice"`},
		{`ds.user({"id": ds.identity({"id": "a@example.com"})}).properties.department`, `"sales"`},
		{`ds.identity({"id": "nobody"})`, `undefined`},
		{`ds.relation({"object_type": "group", "object_id": "eng", "relation": "member", "subject_type": "user", "subject_id": "alice"})`,
			`{"objects":{},"result":` + member + `}`},
		{`ds.relation({"object_type": "group", "object_id": "all", "relation": "member", "subject_type": "group", "subject_id": "eng"})`, `undefined`},
		{`ds.relation({"object_type": "group", "object_id": "all", "relation": "member", "subject_type": "group", "subject_id": "eng", "subject_relation": "member"}).result.subject_id`, `"eng"`},
		{`ds.relation({"object_type": "group", "object_id": "eng", "relation": "member", "subject_type": "user", "subject_id": ""})`, `undefined`},
		{`ds.relations({"object_type": "group", "object_id": "eng"})`, `{"objects":{},"results":[` + member + `]}`},
		{`ds.relations({"object_type": "group", "object_id": "eng", "with_objects": true}).objects["user:alice"]`, alice},
		{`{r.object_id | some r in ds.relations({"subject_type": "user", "subject_id": "bob", "relation": "owner"}).results}`, `["7","top"]`},
		{`count(ds.relations({"object_type": "doc", "object_id": "7", "relation": "viewer"}).results)`, `2`},
		{`count(ds.relations({"object_type": "doc", "object_id": "7", "relation": "viewer", "with_empty_subject_relation": true}).results)`, `1`},
		{`ds.relations({"object_type": "doc", "object_id": "none"})`, `{"objects":{},"results":[]}`},
		{`ds.graph({"object_type": "doc", "object_id": "", "relation": "can_read", "subject_type": "user", "subject_id": "bob"})`,
			`{"results":[{"object_id":"7","object_type":"doc"},{"object_id":"9","object_type":"doc"},{"object_id":"open","object_type":"doc"}],"trace":[]}`},
		{`ds.graph({"object_type": "doc", "object_id": "7", "relation": "viewer", "subject_type": "user", "explain": true}).explanation["user:alice"]`,
			`[["doc:7#viewer@group:eng#member","group:eng#member@user:alice"]]`},
		{`gatehouse.why("doc:7", "can_read", "user:alice")`, `{"allowed":true,"path":["group:eng#member@user:alice","doc:7#viewer@group:eng#member"]}`},
		{`gatehouse.why("doc:7", "can_write", "user:alice")`, `{"allowed":false,"missing":"doc:7#owner@user:alice","path":[]}`},
		{`gatehouse.who("doc:7", "can_read", "user")`, `["alice","bob","carol"]`},
		{`gatehouse.what("user:alice", "can_read", "doc")`, `["7","open"]`},
		{`gatehouse.what("user:", "can_read", "doc")`, `[]`},
	} {
		if got := evaluate(t, s, test.ask, now); got != test.want {
			t.Errorf("%s\n is %s\nnot %s", test.ask, got, test.want)
		}
	}
	if got := evaluate(t, s, `gatehouse.check("doc:7", "viewer", "user:carol")`, now.Add(time.Hour)); got != "false" {
		t.Errorf("a relation that expired: %s", got)
	}
}

// TestErrors asks what cannot be answered. The text names built-in and field; values are left out of it.
func TestErrors(t *testing.T) {
	large := strings.Repeat("x", 200<<10)
	var more []directory.Change
	for i := range 2 {
		more = append(more, directory.Change{SetObject: &directory.Object{Ref: directory.Ref{Type: "doc", ID: fmt.Sprint("large", i)}, Properties: []byte(`{"x":"` + large + `"}`)}})
		r := relation(fmt.Sprintf("doc:large%d#owner@user:eve", i))
		more = append(more, directory.Change{SetRelation: &r})
	}
	for i := range 1001 {
		more = append(more, directory.Change{SetObject: &directory.Object{Ref: directory.Ref{Type: "doc", ID: fmt.Sprint("many", i)}}})
		r := relation(fmt.Sprintf("doc:many%d#owner@user:carol", i))
		more = append(more, directory.Change{SetRelation: &r})
	}
	s := office(t, directory.Limits{}, more...)
	for _, test := range []struct{ ask, want string }{
		{`ds.check({"object_type": "doc", "object_id": "7", "relation": "can_read", "subject_type": "user"})`, "ds.check: field subject_id is missing"},
		{`ds.check({})`, "ds.check: field object_type is missing"},
		{`ds.check("doc:7")`, "ds.check: the argument is not an object"},
		{`ds.check({"object_type": "doc", "object_id": 7, "relation": "can_read", "subject_type": "user", "subject_id": "a"})`, "ds.check: field object_id is not a string"},
		{`ds.check({"object_type": "doc", "object_id": "7", "relation": "can_read", "subject_type": "user", "subject_id": "a", "trace": "yes"})`, "ds.check: field trace is not a boolean"},
		{`ds.check({"object_type": "doc", "object_id": "7", "relation": "can_read", "subject_type": "user", "subject_id": "a", "secret": 1})`, "ds.check: unknown field [redacted]"},
		{`ds.check({"object_type": "doc", "object_id": "7", "relation": "can_fly", "subject_type": "user", "subject_id": "a"})`, `ds.check: unknown relation or permission "can_fly" of type "doc" (known: banned, can_read, can_write, owner, parent, viewer)`},
		{`ds.check({"object_type": "doc", "object_id": "7", "relation": "can_red", "subject_type": "user", "subject_id": "a"})`, `unknown relation or permission "can_red" of type "doc" (did you mean "can_read"?)`},
		{`ds.check({"object_type": "doc", "object_id": "7", "relation": sprintf("%s-%d", ["s3cret", 1]), "subject_type": "user", "subject_id": "a"})`, `unknown relation or permission [redacted] of type "doc" (known: banned`},
		{`ds.checks({"default": {"object_type": "doc", "object_id": "7", "subject_type": "user", "subject_id": "a"}, "checks": [{"relation": "can_red"}]})`, `ds.checks: element 0: unknown relation or permission "can_red" of type "doc" (did you mean "can_read"?)`},
		{`ds.check({"object_type": "car", "object_id": "7", "relation": "can_read", "subject_type": "user", "subject_id": "a"})`, "ds.check: unknown type"},
		{`ds.check({"object_type": "doc", "object_id": "", "relation": "can_read", "subject_type": "car", "subject_id": "a"})`, "ds.check: unknown type"},
		{`ds.check_permission({"object_type": "doc", "object_id": "7", "relation": "can_read", "subject_type": "user", "subject_id": "a"})`, "ds.check_permission: field permission is missing"},
		{`ds.checks({"checks": {}})`, "ds.checks: field checks is missing, or is not an array"},
		{`ds.checks({"default": 1, "checks": []})`, "ds.checks: default: the argument is not an object"},
		{`ds.checks({"checks": [{"object_type": "doc", "object_id": "7"}]})`, "ds.checks: element 0: field relation is missing"},
		{`ds.checks({"checks": [{"id": "doc"}]})`, "ds.checks: element 0: the argument has a field of another question"},
		{`ds.checks({"default": {"object_type": "doc", "object_id": "7", "relation": "can_read", "subject_type": "user", "subject_id": "a"}, "checks": [{} | some i in numbers.range(0, 1000)]})`,
			"ds.checks: more than [redacted] results: limit exceeded"},
		{`ds.user({"name": "alice"})`, "ds.user: field id is missing"},
		{`ds.identity({"id": "twin"})`, "ds.identity: the identity belongs to more than one user"},
		{`ds.object({"object_type": "car", "object_id": "7"})`, "ds.object: unknown type"},
		{`ds.object({"object_type": "user", "object_id": "carol", "with_relations": true})`, "ds.object: more than [redacted] results: limit exceeded"},
		{`ds.relation({"object_type": "doc", "object_id": "7", "relation": "can_read", "subject_type": "user", "subject_id": "bob"})`, "ds.relation: unknown relation"},
		{`ds.relation({"object_type": "doc", "object_id": "7", "subject_type": "user", "subject_id": "bob"})`, "ds.relation: field relation is missing"},
		{`ds.relations({"object_type": "doc", "relation": "owner"})`, "ds.relations: object_type and object_id, or subject_type and subject_id, must be there"},
		{`ds.relations({"subject_type": "user", "subject_id": "carol"})`, "ds.relations: more than [redacted] results: limit exceeded"},
		{`ds.relations({"subject_type": "user", "subject_id": "eve", "with_objects": true})`, "ds.relations: the answer is larger than [redacted] bytes: limit exceeded"},
		{`ds.graph({"object_type": "doc", "relation": "can_read", "subject_type": "user"})`, "ds.graph: one of the object's and the subject's id is needed"},
		{`ds.graph({"object_type": "doc", "relation": "owner", "subject_type": "user", "subject_id": "carol"})`, "ds.graph: more than [redacted] results: limit exceeded"},
		{`gatehouse.check("doc", "can_read", "user:alice")`, "gatehouse.check: object is not a string type:id"},
		{`gatehouse.check("doc:7", "", "user:alice")`, "gatehouse.check: relation or permission is not a string, or is empty"},
		{`gatehouse.why("doc:7", "can_read", "alice")`, "gatehouse.why: subject is not a string type:id"},
		{`gatehouse.who("doc:7", "can_read", "car")`, "gatehouse.who: unknown type"},
		{`gatehouse.what("user:carol", "can_read", "doc")`, "gatehouse.what: more than [redacted] results: limit exceeded"},
	} {
		if got := evaluate(t, s, test.ask, now); !strings.Contains(got, test.want) {
			t.Errorf("%s\n is %s\nnot %s", test.ask, got, test.want)
		}
	}
}

// TestBeyondLimits: what the directory cannot answer within its limits is never "no".
func TestBeyondLimits(t *testing.T) {
	s := office(t, directory.Limits{Work: 2})
	for _, rule := range []string{
		`not ds.check({"object_type": "doc", "object_id": "9", "relation": "can_read", "subject_type": "user", "subject_id": "alice"})`,
		`ds.check({"object_type": "doc", "object_id": "9", "relation": "can_read", "subject_type": "user", "subject_id": "alice"}) == false`,
		`not gatehouse.why("doc:9", "can_read", "user:alice").allowed`,
		`count(gatehouse.who("doc:9", "can_read", "user")) == 0`,
		`every c in ds.checks({"checks": [{"object_type": "doc", "object_id": "9", "relation": "can_read", "subject_type": "user", "subject_id": "alice"}]}) { not c.check }`,
	} {
		g := gatetest.Start(t, gate.Config{}, gatetest.With(t, gatetest.Settings(), gatetest.Policy(t, "package envoy.authz\n\nallow if "+rule+"\n")),
			func(v *gate.View) { v.Directory = s })
		a := g.Check(t.Context(), &gate.Request{Method: "GET", Path: "/"})
		if a.Allow || a.Reason != gate.PolicyError {
			t.Errorf("%s: allowed %v, %v", rule, a.Allow, a.Reason)
		}
	}
}

// TestFailures counts questions without an answer, by reason.
func TestFailures(t *testing.T) {
	check := func(typ, id, relation, subject string) string {
		return fmt.Sprintf(`ds.check({"object_type": %q, "object_id": %q, "relation": %q, "subject_type": "user", "subject_id": %q})`, typ, id, relation, subject)
	}
	for _, test := range []struct{ ask, reason string }{
		{check("doc", "9", "can_read", "alice"), "limit"},
		{`ds.checks({"checks": [{"object_id": format_int(i, 10)} | some i in numbers.range(1, 1001)]})`, "limit"},
		{check("car", "9", "can_read", "alice"), "unknown_type"},
		{check("doc", "9", "can_fly", "alice"), "unknown_relation"},
		{`ds.identity({"id": "twin"})`, "ambiguous_identity"},
		{`ds.check({"object_type": "doc"})`, "invalid_argument"},
		{`gatehouse.check("doc", "can_read", "user:alice")`, "invalid_argument"},
		{check("loop", "a", "can", "alice"), "circular"},
	} {
		limits := directory.Limits{}
		if strings.Contains(test.ask, `"9", "relation": "can_read"`) {
			limits.Work = 2
		}
		registry := prometheus.NewPedanticRegistry()
		s := office(t, limits)
		if test.reason == "circular" {
			m, err := directory.ParseManifest("m", []byte("model: {version: 3}\ntypes: {user: {}, loop: {relations: {owner: user, next: loop}, permissions: {can: owner - next->can}}}\n"))
			if err != nil {
				t.Fatal(err)
			}
			loop := directory.Ref{Type: "loop", ID: "a"}
			if s, err = directory.New(m, limits).Apply([]directory.Change{{SetObject: &directory.Object{Ref: loop}}, {SetObject: &directory.Object{Ref: directory.Ref{Type: "user", ID: "alice"}}},
				{SetRelation: &directory.Relation{Object: loop, Relation: "owner", Subject: directory.Ref{Type: "user", ID: "alice"}}},
				{SetRelation: &directory.Relation{Object: loop, Relation: "next", Subject: loop}}}); err != nil {
				t.Fatal(err)
			}
		}
		g := gatetest.Start(t, gate.Config{Registerer: registry}, gatetest.With(t, gatetest.Settings(), gatetest.Policy(t, "package envoy.authz\n\nallow if "+test.ask+"\n")),
			func(v *gate.View) { v.Directory = s })
		if a := g.Check(t.Context(), &gate.Request{Method: "GET", Path: "/"}); a.Allow || a.Reason != gate.PolicyError {
			t.Errorf("%s: allowed %v, %v", test.ask, a.Allow, a.Reason)
		}
		found, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		counted := 0
		for _, family := range found {
			if family.GetName() != "gatehouse_directory_questions_failed_total" {
				continue
			}
			for _, m := range family.GetMetric() {
				counted++
				if reason, n := m.GetLabel()[0].GetValue(), m.GetCounter().GetValue(); (n > 0) != (reason == test.reason) {
					t.Errorf("%s: %s is %v, want %s", test.ask, reason, n, test.reason)
				}
			}
		}
		if counted != len(facts.FailureReasons) {
			t.Errorf("%d series", counted)
		}
	}
}

// TestRandomChecks holds checks in Rego against those of the directory.
func TestRandomChecks(t *testing.T) {
	p := gatetest.Policy(t, "package envoy.authz\n\nallow := [ds.check(input), gatehouse.check(sprintf(\"%s:%s\", [input.object_type, input.object_id]), input.relation, "+
		"sprintf(\"%s:%s\", [input.subject_type, input.subject_id]))] == [true, true]\n")
	entry, err := p.Entry([]string{"envoy", "authz", "allow"})
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(list string) string { all := strings.Fields(list); return all[random.IntN(len(all))] }
	s, yes := office(t, directory.Limits{}), 0
	for version := range uint64(2000) {
		if version%10 == 0 {
			r := relation(pick("group:eng#member group:all#member folder:top#viewer folder:open#owner doc:7#viewer doc:9#banned doc:9#owner") + "@" + pick("user:alice user:bob user:eve user:carol"))
			change := directory.Change{SetRelation: &r}
			if random.IntN(2) == 0 {
				change = directory.Change{DeleteRelation: &r}
			}
			if s, err = s.Apply([]directory.Change{change}); err != nil {
				t.Fatal(err)
			}
		}
		q := directory.Question{Object: directory.Ref{Type: pick("doc folder group user car"), ID: pick("7 9 open top eng all none")},
			Relation: pick("can_read can_write viewer owner member parent none"), Subject: directory.Ref{Type: pick("user user user group car"), ID: pick("alice bob eve carol nobody eng")}}
		text := func(key, value string) rego.Member { return rego.Member{Key: key, Value: rego.String(value)} }
		input := rego.Object(text("object_type", q.Object.Type), text("object_id", q.Object.ID), text("relation", q.Relation),
			text("subject_type", q.Subject.Type), text("subject_id", q.Subject.ID))
		want, wantErr := s.Check(q, now)
		got, err := entry.Decide(t.Context(), input, facts.Of(s, version+1, nil), now)
		if got.Allowed != want || (err != nil) != (wantErr != nil) {
			t.Fatalf("%s: %v, %v; the directory says %v, %v", q, got.Allowed, err, want, wantErr)
		}
		if want {
			yes++
		}
	}
	if yes < 30 {
		t.Errorf("only %d checks of 2000 were true", yes)
	}
}

// TestVersions publishes directories: each View has its own version and the facts of its own directory.
func TestVersions(t *testing.T) {
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, gatetest.Settings(), gatetest.Policy(t, `package envoy.authz

allow if ds.check({"object_type": "doc", "object_id": "7", "relation": "can_read", "subject_type": "user", "subject_id": "eve"})
`)))
	without := office(t, directory.Limits{})
	r := relation("doc:7#viewer@user:eve")
	with, err := without.Apply([]directory.Change{{SetRelation: &r}})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for _, s := range []*directory.Snapshot{nil, without, with, nil, with, without, with} {
		if err := g.Publish(t.Context(), func(v *gate.View) { v.Directory = s }); err != nil {
			t.Fatal(err)
		}
		f := g.View().Facts
		if (f.Directory == nil) != (s == nil) || (f.Version == 0) != (s == nil) || s != nil && seen[f.Version] {
			t.Errorf("facts of version %d, seen before: %v", f.Version, seen[f.Version])
		}
		seen[f.Version] = true
		for range 2 {
			if a := g.Check(t.Context(), &gate.Request{Method: "GET", Path: "/"}); a.Allow != (s == with) {
				t.Errorf("allowed: %v, want %v (%v)", a.Allow, s == with, a.Diagnostics.Cause)
			}
		}
	}
	before := g.View().Facts
	if err := g.Publish(t.Context(), func(*gate.View) {}); err != nil || g.View().Facts != before {
		t.Error("the same directory has other facts")
	}
}

// TestWhy checks the explanations of checks.
func TestWhy(t *testing.T) {
	s := office(t, directory.Limits{})
	texts := func(list ...string) (out []rego.Value) {
		for _, text := range list {
			out = append(out, rego.String(text))
		}
		return out
	}
	check, err := rego.ParseJSON(`{"object_type":"doc","object_id":"7","relation":"can_read","subject_type":"user","subject_id":"alice"}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		q    policy.Question
		want string
	}{
		{policy.Question{Builtin: "ds.check", Args: []rego.Value{check}}, "alice -> group:eng#member -> doc:7#viewer"},
		{policy.Question{Builtin: "gatehouse.check", Args: texts("doc:7", "can_write", "user:alice")}, "not allowed: there is no doc:7#owner@user:alice"},
		{policy.Question{Builtin: "gatehouse.why", Args: texts("doc:9", "can_read", "user:eve")}, "not allowed: excluded by eve -> doc:9#banned"},
		{policy.Question{Builtin: "gatehouse.check", Args: texts("doc:9", "can_read", "user:")}, "not allowed: an id is empty"},
		{policy.Question{Builtin: "gatehouse.check", Args: texts("doc:9", "can_fly", "user:eve")}, `unknown relation or permission "can_fly" of type "doc" (known: banned, can_read, can_write, owner, parent, viewer)`},
		{policy.Question{Builtin: "gatehouse.who", Args: texts("doc:9", "can_read", "user")}, ""},
		{policy.Question{Builtin: "ds.check", Args: texts("doc")}, ""},
	} {
		if got := facts.Why(s, test.q, now); got != test.want {
			t.Errorf("%s: %q, want %q", test.q.Builtin, got, test.want)
		}
	}
}

// BenchmarkDSCheck is the cost of one question in an evaluation, without the memo.
func BenchmarkDSCheck(b *testing.B) {
	s := office(b, directory.Limits{})
	input, err := rego.ParseJSON(`{"id": "alice", "doc": "7"}`)
	if err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct{ name, rule string }{
		{"none", `input.id == "alice"; input.doc == "7"`},
		{"ds.check", `ds.check({"object_type": "doc", "object_id": input.doc, "relation": "can_read", "subject_type": "user", "subject_id": input.id})`},
		{"gatehouse.check", `gatehouse.check(concat(":", ["doc", input.doc]), "can_read", concat(":", ["user", input.id]))`},
	} {
		b.Run(bench.name, func(b *testing.B) {
			entry, err := gatetest.Policy(b, "package envoy.authz\n\nallow if {\n\t"+bench.rule+"\n}\n").Entry([]string{"envoy", "authz", "allow"})
			if err != nil {
				b.Fatal(err)
			}
			f := facts.Of(s, 1, nil)
			b.ReportAllocs()
			for b.Loop() {
				if d, err := entry.Decide(b.Context(), input, f, now); !d.Allowed || err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	arg, err := rego.ParseJSON(`{"object_type":"doc","object_id":"7","relation":"can_read","subject_type":"user","subject_id":"alice"}`)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("the question alone", func(b *testing.B) {
		f, args := facts.Of(s, 1, nil), []rego.Value{arg}
		b.ReportAllocs()
		for b.Loop() {
			if v, err := f.Directory.Ask("ds.check", args, now); v != rego.Bool(true) || err != nil {
				b.Fatal(v, err)
			}
		}
	})
}
