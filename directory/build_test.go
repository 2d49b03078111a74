package directory_test

import (
	"slices"
	"testing"
	"time"

	"gatehouse/directory"
)

func ref(typ, id string) directory.Ref { return directory.Ref{Type: typ, ID: id} }

func TestBuild(t *testing.T) {
	b := directory.NewBuilder(directory.DefaultManifest(), directory.Limits{}, 0, 0)
	alice := directory.Object{Ref: ref("user", "alice"), DisplayName: "Alice", Properties: []byte(`{"a": 1}`)}
	for _, o := range []directory.Object{alice, {Ref: ref("group", "eng")}, {Ref: ref("resource", "7")}} {
		if err := b.AddObject(o); err != nil {
			t.Fatal(err)
		}
	}
	want := []directory.Relation{
		{Object: ref("group", "eng"), Relation: "member", Subject: ref("user", "alice")},
		{Object: ref("resource", "7"), Relation: "reader", Subject: ref("group", "eng"), SubjectRelation: "member"},
		{Object: ref("resource", "7"), Relation: "reader", Subject: ref("user", "*")},
	}
	for _, r := range want {
		if err := b.AddRelation(r); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.Finish(7)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := s.Object(alice.Ref); !ok || got.DisplayName != "Alice" || string(got.Properties) != `{"a":1}` {
		t.Errorf("%+v", got)
	}
	got := slices.Collect(s.Relations(directory.RelationFilter{}, time.Now()))
	if len(got) != 3 {
		t.Errorf("%v", got)
	}
	for _, r := range want {
		if !slices.Contains(got, r) {
			t.Errorf("no %v", r)
		}
	}
	if st := s.Stats(); st.Objects != 3 || st.Relations != 3 || s.Revision() != 7 {
		t.Errorf("%+v", st)
	}
}
