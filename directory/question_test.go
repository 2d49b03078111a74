package directory_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/directory"
)

// relationOf reads object#relation@subject, or with #relation after the subject.
func relationOf(t testing.TB, text string) (r directory.Relation) {
	t.Helper()
	object, subject, ok := strings.Cut(text, "@")
	name, rel, ok2 := strings.Cut(object, "#")
	sub, subRel, _ := strings.Cut(subject, "#")
	if !ok || !ok2 {
		t.Fatalf("%q is no relation", text)
	}
	r.Object, r.Relation, r.Subject, r.SubjectRelation = refOf(name), rel, refOf(sub), subRel
	return r
}

func refOf(text string) directory.Ref {
	typ, id, _ := strings.Cut(text, ":")
	return ref(typ, id)
}

func questionOf(t testing.TB, text string) directory.Question {
	t.Helper()
	r := relationOf(t, text)
	return directory.Question{Object: r.Object, Relation: r.Relation, Subject: r.Subject}
}

// snapshot builds a directory of relations; their objects come along.
func snapshot(t testing.TB, manifest string, l directory.Limits, relations ...string) *directory.Snapshot {
	t.Helper()
	m, err := directory.ParseManifest("manifest.yaml", []byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	b := directory.NewBuilder(m, l, 0, len(relations))
	seen := map[directory.Ref]bool{}
	all := make([]directory.Relation, len(relations))
	for i, text := range relations {
		text, expires, _ := strings.Cut(text, " until ")
		all[i] = relationOf(t, text)
		if expires != "" {
			if all[i].Expires, err = time.Parse(time.RFC3339, expires); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range []directory.Ref{all[i].Object, all[i].Subject} {
			if r.ID != "*" && !seen[r] {
				seen[r] = true
				if err := b.AddObject(directory.Object{Ref: r}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, r := range all {
		if err := b.AddRelation(r); err != nil {
			t.Fatalf("%v: %v", r, err)
		}
	}
	s, err := b.Finish(1)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// drive is data for the manifest topaz.
var drive = []string{
	"folder:root#owner@user:olga", "folder:a#parent@folder:root", "folder:b#parent@folder:a",
	"folder:a#viewer@group:eng#member", "group:eng#member@user:alice", "group:eng#member@group:core#member", "group:core#member@user:carl",
	"doc:7#parent@folder:b", "doc:7#owner@user:dora", "doc:7#viewer@user:alice",
	"doc:8#viewer@user:*", "doc:9#viewer@user:eve until 2026-01-01T00:00:01Z", "doc:9#auditor@user:carl#manager", "user:carl#manager@user:boss",
	"group:yin#member@group:yang#member", "group:yang#member@group:yin#member", "group:yin#member@user:yin", "doc:10#viewer@group:yang#member",
	"folder:c1#parent@folder:c2", "folder:c2#parent@folder:c1", "folder:c2#viewer@user:eve", "doc:11#parent@folder:c1",
}

func TestCheck(t *testing.T) {
	s := snapshot(t, topaz, directory.Limits{}, drive...)
	for _, c := range []struct {
		question string
		want     string
	}{
		{"folder:a#viewer@user:alice", "alice -> group:eng#member -> folder:a#viewer"},
		{"folder:a#viewer@user:carl", "carl -> group:core#member -> group:eng#member -> folder:a#viewer"},
		{"doc:7#can_read@user:carl", "carl -> group:core#member -> group:eng#member -> folder:a#viewer -> folder:b#parent -> doc:7#parent"},
		{"doc:7#can_read@user:olga", "olga -> folder:root#owner -> folder:a#parent -> folder:b#parent -> doc:7#parent"},
		{"doc:7#can_share@user:olga", "olga -> folder:root#owner -> folder:a#parent -> folder:b#parent -> doc:7#parent"},
		{"doc:7#can_share@user:dora", "not allowed: there is no group:eng#member@user:dora"},
		{"doc:7#can_read@user:eve", "not allowed: there is no group:eng#member@user:eve"},
		{"doc:7#can_write@user:eve", "not allowed: there is no doc:7#owner@user:eve"},
		{"doc:7#can_invite@user:carl", "carl -> group:core#member -> group:eng#member -> folder:a#viewer -> folder:b#parent -> doc:7#parent"},
		{"doc:7#can_invite@user:alice", "not allowed: excluded by alice -> doc:7#viewer"},
		{"doc:7#can_edit@user:dora", "dora -> doc:7#owner"},
		{"doc:8#can_read@user:alice", "user:* -> doc:8#viewer"},
		{"doc:8#can_read@user:nobody", "user:* -> doc:8#viewer; unknown: user:nobody"},
		{"doc:8#can_read@user:*", "* -> doc:8#viewer"},
		{"doc:8#can_read@group:eng", "not allowed"},
		{"doc:7#can_read@user:nobody", "not allowed: there is no group:eng#member@user:nobody; unknown: user:nobody"},
		{"doc:nothing#can_read@user:nobody", "not allowed; unknown: doc:nothing, user:nobody"},
		{"doc:9#viewer@user:eve", "eve -> doc:9#viewer"},
		{"doc:9#auditor@user:boss", "boss -> user:carl#manager -> doc:9#auditor"},
		{"doc:10#viewer@user:yin", "yin -> group:yin#member -> group:yang#member -> doc:10#viewer"},
		{"doc:10#viewer@user:eve", "not allowed: there is no group:yang#member@user:eve"},
		{"doc:11#can_read@user:eve", "eve -> folder:c2#viewer -> folder:c1#parent -> doc:11#parent"},
		{"doc:11#can_read@user:alice", "not allowed: there is no doc:11#viewer@user:alice"},
		{"doc:7#can_red@user:alice", `unknown relation or permission "can_red" of type "doc" (did you mean "can_read"?)`},
		{"dok:7#can_read@user:alice", `unknown type "dok" (did you mean "doc"?)`},
		{"doc:7#can_read@usr:alice", `unknown type "usr" (did you mean "user"?)`},
	} {
		q := questionOf(t, c.question)
		allowed, err := s.Check(q, epoch)
		e, err2 := s.Explain(q, epoch)
		if err != nil || err2 != nil {
			if fmt.Sprint(err) != c.want || fmt.Sprint(err2) != c.want {
				t.Errorf("%v: %v, %v, want %s", q, err, err2, c.want)
			}
			continue
		}
		if allowed == strings.HasPrefix(c.want, "not allowed") || e.Allowed != allowed || e.String() != c.want {
			t.Errorf("%v: %v, %s, want %s", q, allowed, e, c.want)
		}
	}
	if yes, _ := s.Check(questionOf(t, "doc:9#viewer@user:eve"), epoch.Add(time.Second)); yes {
		t.Error("a relation holds at the second it expires")
	}
	expired := epoch.Add(time.Second)
	if e, err := s.Explain(questionOf(t, "doc:9#viewer@user:eve"), expired); err != nil || e.String() != "not allowed: doc:9#viewer@user:eve expired at "+expired.UTC().Format(time.RFC3339) {
		t.Error(e, err)
	}
	if _, err := s.Check(questionOf(t, "doc:7#x@user:alice"), epoch); !errors.Is(err, directory.ErrUnknownRelation) {
		t.Error(err)
	}
	if _, err := s.Check(questionOf(t, "x:7#x@user:alice"), epoch); !errors.Is(err, directory.ErrUnknownType) {
		t.Error(err)
	}
}

func TestLists(t *testing.T) {
	s := snapshot(t, topaz, directory.Limits{}, drive...)
	ids := func(refs []directory.Ref, err error) string {
		if err != nil {
			return err.Error()
		}
		var out []string
		for _, r := range refs {
			out = append(out, r.ID)
		}
		return strings.Join(out, " ")
	}
	who := func(object, relation, typ, after string, limit int) string {
		found, next, err := s.Who(refOf(object), relation, typ, after, limit, epoch)
		return ids(found, err) + "|" + next
	}
	what := func(subject, relation, typ string) string {
		found, next, err := s.What(refOf(subject), relation, typ, "", 0, epoch)
		return ids(found, err) + "|" + next
	}
	graph := func(text string) string {
		r := relationOf(t, text)
		g, err := s.Graph(directory.GraphQuery{Object: r.Object, Relation: r.Relation, Subject: r.Subject, SubjectRelation: r.SubjectRelation}, epoch)
		if err != nil {
			return err.Error()
		}
		return ids(g.Results, nil)
	}
	for got, want := range map[string]string{
		who("doc:7", "can_read", "user", "", 0):      "alice carl dora olga|",
		who("doc:7", "can_read", "user", "", 2):      "alice carl|carl",
		who("doc:7", "can_read", "user", "carl", 2):  "dora olga|",
		who("doc:7", "can_read", "user", "cecil", 1): "dora|dora",
		who("doc:8", "viewer", "user", "", 0):        "* alice boss carl dora eve olga yin|",
		who("doc:no", "viewer", "user", "", 0):       "|",
		who("doc:7", "can_invite", "user", "", 0):    "carl olga|",
		who("doc:7", "parent", "folder", "", 0):      "b|",
		who("doc:7", "parnt", "folder", "", 0):       `unknown relation or permission "parnt" of type "doc" (did you mean "parent"?)|`,
		what("user:carl", "can_read", "doc"):         "7 8|",
		what("user:carl", "member", "group"):         "core eng|",
		what("user:nobody", "can_read", "doc"):       "8|",
		what("folder:c1", "parent", "folder"):        "c2|",
		graph("doc:#viewer@user:nobody"):             "8",
		graph("doc:8#viewer@user:"):                  "*",
		graph("group:#member@group:core#member"):     "eng",
		graph("group:#member@group:yang#member"):     "yang yin",
		graph("doc:#can_read@group:core#member"):     "7",
		graph("doc:7#can_read@group:#member"):        "core eng",
		graph("doc:7#can_read@group:core#member"):    "core",
		graph("doc:7#can_read@user:eve"):             "",
		graph("doc:#can_read@user:"):                 "one of the object's and the subject's id is needed",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	g, err := s.Graph(directory.GraphQuery{Object: ref("doc", ""), Relation: "can_read", Subject: ref("user", "carl"), Explain: true, Trace: true}, epoch)
	if err != nil || fmt.Sprint(g.Explanation) != "map[doc:7:[[doc:7#parent@folder:b folder:b#parent@folder:a folder:a#viewer@group:eng#member "+
		"group:eng#member@group:core#member group:core#member@user:carl]] doc:8:[[doc:8#viewer@user:*]]]" ||
		fmt.Sprint(g.Trace) != "[doc:7#can_read@user:carl = true doc:8#can_read@user:carl = true]" {
		t.Errorf("%v %v", g, err)
	}
	members, err := s.Members(ref("user", "carl"), "group", "member", epoch)
	if err != nil || !slices.Equal(members, []string{"core", "eng"}) {
		t.Error(members, err)
	}
}

func TestUser(t *testing.T) {
	s := snapshot(t, string(directory.DefaultManifest().Text()), directory.Limits{},
		"identity:a.example.com#identifier@user:alice", "user:bob#identifier@identity:b.example.com",
		"identity:both#identifier@user:alice", "user:alice#identifier@identity:both",
		"identity:two#identifier@user:alice", "user:bob#identifier@identity:two",
		"identity:old#identifier@user:alice until 2025-01-01T00:00:00Z")
	for identity, want := range map[string]string{
		"a.example.com": "alice", "b.example.com": "bob", "both": "alice", "old": "", "nobody": "", "*": "",
		"two": `the identity belongs to more than one user: "two"`,
	} {
		o, ok, err := s.User(identity, epoch)
		got := o.ID
		if err != nil {
			got = err.Error()
		}
		if got != want || ok != (err == nil && want != "") || errors.Is(err, directory.ErrAmbiguous) != (err != nil) {
			t.Errorf("%s: %v %v %v", identity, o, ok, err)
		}
	}
	if _, ok, err := snapshot(t, "model: {version: 3}\ntypes: {identity: , user: }", directory.Limits{}).User("a", epoch); ok || err != nil {
		t.Error(ok, err)
	}
}

// TestCircular: what a permission means that excludes itself through the objects' relations.
func TestCircular(t *testing.T) {
	const m = `model: {version: 3}
types:
  user: {}
  doc:
    relations: {parent: doc, owner: user, guest: user}
    permissions:
      can_read: owner - parent->can_read
      can_see: guest | can_read
      can_both: guest & can_read
      can_ever: owner | parent->can_ever
`
	s := snapshot(t, m, directory.Limits{}, "doc:1#parent@doc:2", "doc:2#parent@doc:3", "doc:1#owner@user:a", "doc:2#owner@user:a", "doc:3#owner@user:a",
		"doc:x#parent@doc:y", "doc:y#parent@doc:x", "doc:x#owner@user:a", "doc:y#owner@user:a", "doc:x#guest@user:a", "doc:y#owner@user:b", "doc:self#parent@doc:self", "doc:self#owner@user:a")
	for text, want := range map[string]string{
		"doc:3#can_read@user:a": "yes", "doc:2#can_read@user:a": "no", "doc:1#can_read@user:a": "yes", // from the top: in turn
		"doc:x#can_read@user:a": "circular", "doc:y#can_read@user:a": "circular", "doc:self#can_read@user:a": "circular",
		"doc:x#can_see@user:a": "yes", "doc:y#can_see@user:a": "circular", "doc:x#can_both@user:a": "circular", "doc:y#can_both@user:a": "no",
		"doc:x#can_read@user:b": "no", "doc:y#can_read@user:b": "yes", // x has no owner b: not excluded
		"doc:x#can_ever@user:b": "yes", "doc:x#can_ever@user:c": "no",
	} {
		if got := verdictOf(s.Check(questionOf(t, text), epoch)); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
