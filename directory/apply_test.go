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

func set(objects ...directory.Object) (out []directory.Change) {
	for _, o := range objects {
		out = append(out, directory.Change{SetObject: &o})
	}
	return out
}

func relate(relations ...directory.Relation) (out []directory.Change) {
	for _, r := range relations {
		out = append(out, directory.Change{SetRelation: &r})
	}
	return out
}

func apply(t testing.TB, s *directory.Snapshot, changes ...[]directory.Change) *directory.Snapshot {
	t.Helper()
	for _, c := range changes {
		var err error
		if s, err = s.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func manifest(t testing.TB, text string) *directory.Manifest {
	t.Helper()
	m, err := directory.ParseManifest("manifest.yaml", []byte("model: {version: 3}\ntypes:\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestChangesRefused(t *testing.T) {
	s := apply(t, directory.New(directory.DefaultManifest(), directory.Limits{}), set(
		directory.Object{Ref: ref("user", "alice")}, directory.Object{Ref: ref("group", "eng")}, directory.Object{Ref: ref("resource", "7")}))
	member := directory.Relation{Object: ref("group", "eng"), Relation: "member", Subject: ref("user", "alice")}
	with := func(f func(r *directory.Relation)) []directory.Change {
		r := member
		f(&r)
		return relate(r)
	}
	properties := func(p string) []directory.Change {
		return set(directory.Object{Ref: ref("user", "bob"), Properties: []byte(p)})
	}
	for name, c := range map[string]struct {
		changes []directory.Change
		err     error
		text    string
	}{
		"nothing":        {[]directory.Change{{}}, directory.ErrInvalid, "change 1 (nothing): invalid: a change sets or deletes one thing, not 0"},
		"two things":     {[]directory.Change{{SetRelation: &member, DeleteRelation: &member}}, directory.ErrInvalid, "not 2"},
		"type":           {set(directory.Object{Ref: ref("robot", "r2")}), directory.ErrUnknownType, `change 1 (set robot:r2): unknown type "robot"`},
		"type, deleted":  {[]directory.Change{{DeleteObject: &directory.Ref{Type: "robot", ID: "r2"}}}, directory.ErrUnknownType, "robot"},
		"empty id":       {set(directory.Object{Ref: ref("user", "")}), directory.ErrInvalid, "id of 0 bytes"},
		"long id":        {set(directory.Object{Ref: ref("user", strings.Repeat("x", 1025))}), directory.ErrInvalid, "id of 1025 bytes"},
		"id":             {set(directory.Object{Ref: ref("user", "a\xffb")}), directory.ErrInvalid, "UTF-8"},
		"line in an id":  {set(directory.Object{Ref: ref("user", "a\nb")}), directory.ErrInvalid, "control character"},
		"everybody":      {set(directory.Object{Ref: ref("user", "*")}), directory.ErrInvalid, "every object"},
		"display name":   {set(directory.Object{Ref: ref("user", "u"), DisplayName: strings.Repeat("x", 5000)}), directory.ErrInvalid, "display name of 5000"},
		"no object":      {properties(`[1]`), directory.ErrInvalid, "not a JSON object"},
		"no JSON":        {properties(`{"a":}`), directory.ErrInvalid, "not valid JSON at byte 5"},
		"large":          {properties(`{"a":"` + strings.Repeat("x", 10<<20) + `"}`), directory.ErrInvalid, "properties of 1048"},
		"deep":           {properties(`{"a":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`), directory.ErrInvalid, "more than 64 deep"},
		"very deep":      {properties(`{"a":` + strings.Repeat("[", 200000)), directory.ErrInvalid, "more than 64 deep"},
		"not UTF-8":      {properties("{\"a\":\"\xff\"}"), directory.ErrInvalid, "UTF-8"},
		"no such object": {with(func(r *directory.Relation) { r.Object.ID = "ops" }), directory.ErrNotFound, "change 1 (set group:ops#member@user:alice): group:ops does not exist"},
		"no such user":   {with(func(r *directory.Relation) { r.Subject.ID = "bob" }), directory.ErrNotFound, "user:bob does not exist"},
		"relation":       {with(func(r *directory.Relation) { r.Relation = "boss" }), directory.ErrUnknownRelation, `"boss" of type "group"`},
		"permission":     {with(func(r *directory.Relation) { r.Object, r.Relation = ref("resource", "7"), "can_read" }), directory.ErrUnknownRelation, "can_read"},
		"subject type":   {with(func(r *directory.Relation) { r.Subject = ref("resource", "7") }), directory.ErrNotAllowed, "does not allow"},
		"group itself":   {with(func(r *directory.Relation) { r.Subject = ref("group", "eng") }), directory.ErrNotAllowed, "does not allow"},
		"subject rel":    {with(func(r *directory.Relation) { r.Subject, r.SubjectRelation = ref("group", "eng"), "boss" }), directory.ErrUnknownRelation, "boss"},
		"all users":      {with(func(r *directory.Relation) { r.Subject.ID = "*" }), directory.ErrNotAllowed, "does not allow"},
		"of all":         {with(func(r *directory.Relation) { r.Object.ID = "*" }), directory.ErrInvalid, "cannot be"},
		"time":           {with(func(r *directory.Relation) { r.Expires = time.Unix(-5, 0) }), directory.ErrInvalid, "expires at"},
		"far time":       {with(func(r *directory.Relation) { r.Expires = time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC) }), directory.ErrInvalid, "expires at"},
		"the second":     {append(relate(member), with(func(r *directory.Relation) { r.Subject.ID = "bob" })...), directory.ErrNotFound, "change 2 "},
		"deleted before": {append([]directory.Change{{DeleteObject: &member.Subject}}, relate(member)...), directory.ErrNotFound, "change 2 "},
	} {
		got, err := s.Apply(c.changes)
		var change *directory.ChangeError
		if got != nil || !errors.As(err, &change) || !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %.200v", name, err)
		}
	}
	if n := s.Stats().Relations; n != 0 {
		t.Error("relations from batches that were refused:", n)
	}
}

// TestHub grows a group over the border of hubs and back, in both directions, one by one and at once.
func TestHub(t *testing.T) {
	const n = 1500
	var users []directory.Object
	var members []directory.Relation
	for i := range n {
		users = append(users, directory.Object{Ref: ref("user", fmt.Sprint(i))})
		r := directory.Relation{Object: ref("group", "all"), Relation: "member", Subject: users[i].Ref}
		if i%7 == 0 {
			r.Expires = time.Unix(int64(1000+i), 0).UTC()
		}
		members = append(members, r)
	}
	s := apply(t, directory.New(directory.DefaultManifest(), directory.Limits{}), set(users...), set(directory.Object{Ref: ref("group", "all")}))
	empty := s.Digest()
	large := apply(t, s, relate(members...))
	for i, r := range members {
		s = apply(t, s, relate(r))
		if i%500 != 0 {
			continue
		}
		if got := len(all(s, directory.RelationFilter{Object: r.Object}, past)); got != i+1 {
			t.Fatalf("%d members, not %d", got, i+1)
		}
	}
	if s.Digest() != large.Digest() {
		t.Error("one by one it is another directory than at once")
	}
	if got, want := s.Epoch(time.Unix(1350, 0)), uint64(51); got != want {
		t.Errorf("%d have expired, not %d", got, want)
	}
	if got := len(all(s, directory.RelationFilter{Object: ref("group", "all")}, time.Unix(1350, 0))); got != n-51 {
		t.Errorf("%d members left", got)
	}
	for i, r := range members {
		s = apply(t, s, []directory.Change{{DeleteRelation: &r}})
		if got := len(all(s, directory.RelationFilter{Subject: r.Subject}, past)); got != 0 {
			t.Fatalf("%v has relations", r.Subject)
		}
		if i%500 != 0 {
			continue
		}
		if got := len(all(s, directory.RelationFilter{Object: r.Object}, past)); got != n-i-1 {
			t.Fatalf("%d members, not %d", got, n-i-1)
		}
	}
	if s.Digest() != empty || s.Stats().Expiring != 0 {
		t.Error("without members it is not what it was")
	}
	s = apply(t, large, []directory.Change{{DeleteObject: &directory.Ref{Type: "group", ID: "all"}}}, set(directory.Object{Ref: ref("group", "all")}))
	if s.Digest() != empty {
		t.Error("a hub that was deleted left something")
	}
	if got := len(all(large, directory.RelationFilter{Object: ref("group", "all")}, past)); got != n {
		t.Errorf("the snapshot before has %d members", got)
	}
}

func TestSetManifest(t *testing.T) {
	wide := manifest(t, `
  user: {}
  team: {relations: {member: user | user:* | team#member}}
  doc: {relations: {owner: user | team, reader: user}}
`)
	team, doc := ref("team", "a"), ref("doc", "1")
	s := apply(t, directory.New(wide, directory.Limits{}),
		set(directory.Object{Ref: ref("user", "u")}, directory.Object{Ref: team}, directory.Object{Ref: doc}),
		relate(directory.Relation{Object: team, Relation: "member", Subject: ref("user", "*")},
			directory.Relation{Object: team, Relation: "member", Subject: ref("user", "u")},
			directory.Relation{Object: team, Relation: "member", Subject: team, SubjectRelation: "member"},
			directory.Relation{Object: doc, Relation: "owner", Subject: team},
			directory.Relation{Object: doc, Relation: "owner", Subject: ref("user", "u")}))
	for name, c := range map[string]struct {
		manifest  string
		orphans   []string
		objects   int
		relations int
	}{
		"more":        {"  user: {}\n  team: {relations: {member: user | user:* | team#member}}\n  doc: {relations: {owner: user | team, reader: user | team#member}}\n  more: {}\n", nil, 3, 5},
		"unused gone": {"  user: {}\n  team: {relations: {member: user | user:* | team#member}}\n  doc: {relations: {owner: user | team}}\n", nil, 3, 5},
		"subject":     {"  user: {}\n  team: {relations: {member: user | user:* | team#member}}\n  doc: {relations: {owner: user}}\n", []string{"doc:1#owner@team:a"}, 3, 4},
		"everybody":   {"  user: {}\n  team: {relations: {member: user | team#member}}\n  doc: {relations: {owner: user | team}}\n", []string{"team:a#member@user:*"}, 3, 4},
		"relation":    {"  user: {}\n  team: {relations: {member: user | user:* | team#member}}\n  doc: {}\n", []string{"doc:1#owner@team:a", "doc:1#owner@user:u"}, 3, 3},
		"type":        {"  user: {}\n  doc: {relations: {owner: user}}\n", []string{"doc:1#owner@team:a", "team:a", "team:a#member@team:a#member", "team:a#member@user:*", "team:a#member@user:u"}, 2, 1},
		"users":       {"  team: {}\n  doc: {}\n", []string{"doc:1#owner@team:a", "doc:1#owner@user:u", "team:a#member@team:a#member", "team:a#member@user:*", "team:a#member@user:u", "user:u"}, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			next := manifest(t, c.manifest)
			got, err := s.SetManifest(next, false)
			var orphans *directory.OrphanError
			if errors.As(err, &orphans) {
				var names []string
				for _, o := range orphans.Objects {
					names = append(names, o.String())
				}
				for _, r := range orphans.Relations {
					names = append(names, r.String())
				}
				slices.Sort(names)
				if got != nil || !slices.Equal(names, c.orphans) || orphans.Total != len(names) {
					t.Errorf("%q of %d", names, orphans.Total)
				}
			} else if err != nil || c.orphans != nil {
				t.Error(err)
			}
			if got, err = s.SetManifest(next, true); err != nil {
				t.Fatal(err)
			}
			st := got.Stats()
			if st.Objects != c.objects || st.Relations != c.relations || got.Revision() != s.Revision()+1 || got.Manifest() != next {
				t.Errorf("%+v", st)
			}
			// The same content, made at once, is the same; and it is written and read under the new names.
			b := directory.NewBuilder(next, directory.Limits{}, 0, 0)
			for o := range got.Objects("") {
				if err := b.AddObject(o); err != nil {
					t.Error(err)
				}
			}
			for r := range got.Relations(directory.RelationFilter{}, past) {
				if err := b.AddRelation(r); err != nil {
					t.Error(err)
				}
			}
			fresh, err := b.Finish(1)
			if err != nil || fresh.Digest() != got.Digest() {
				t.Error("another digest than that of the same content", err)
			}
			if again, err := read(write(t, got)); err != nil || again.Digest() != got.Digest() {
				t.Error(err)
			}
			// Back again, the names have the numbers that they had.
			back, err := got.SetManifest(wide, false)
			if err != nil {
				t.Fatal(err)
			}
			diff(t, back, s)
		})
	}
}

func TestBuilderRefuses(t *testing.T) {
	b := directory.NewBuilder(directory.DefaultManifest(), directory.Limits{}, 0, 0)
	for _, c := range []struct {
		object directory.Object
		err    error
	}{
		{directory.Object{Ref: ref("user", "alice")}, nil},
		{directory.Object{Ref: ref("user", "bob")}, nil},
		{directory.Object{Ref: ref("user", "alice")}, directory.ErrDuplicate},
		{directory.Object{Ref: ref("robot", "alice")}, directory.ErrUnknownType},
		{directory.Object{Ref: ref("group", "eng"), Properties: []byte(" { } ")}, nil},
	} {
		if err := b.AddObject(c.object); !errors.Is(err, c.err) {
			t.Errorf("%v: %v", c.object, err)
		}
	}
	member := func(id string) directory.Relation {
		return directory.Relation{Object: ref("group", "eng"), Relation: "member", Subject: ref("user", id)}
	}
	for id, want := range map[string]error{"carol": directory.ErrNotFound, "*": directory.ErrNotAllowed} {
		if err := b.AddRelation(member(id)); !errors.Is(err, want) {
			t.Errorf("%s: %v", id, err)
		}
	}
	for _, id := range []string{"alice", "bob", "alice"} {
		if err := b.AddRelation(member(id)); err != nil {
			t.Error(err)
		}
	}
	_, err := b.Finish(1)
	var change *directory.ChangeError
	if !errors.As(err, &change) || change.Index != 2 || !errors.Is(err, directory.ErrDuplicate) {
		t.Error(err)
	}
}
