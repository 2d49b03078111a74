package directory_test

import (
	"fmt"
	"testing"

	"gatehouse/directory"
)

// TestHubEmptied: a batch takes everything out of a long list and goes on with it.
func TestHubEmptied(t *testing.T) {
	var set, gone []directory.Change
	for i := range 300 {
		u := ref("user", fmt.Sprint(i))
		r := directory.Relation{Object: ref("group", "g"), Relation: "member", Subject: u}
		set = append(set, directory.Change{SetObject: &directory.Object{Ref: u}}, directory.Change{SetRelation: &r})
		gone = append(gone, directory.Change{DeleteRelation: &r})
	}
	set = append([]directory.Change{{SetObject: &directory.Object{Ref: ref("group", "g")}}}, set...)
	s, err := directory.New(directory.DefaultManifest(), directory.Limits{}).Apply(set)
	if err != nil {
		t.Fatal(err)
	}
	r := set[2].SetRelation
	for name, more := range map[string][]directory.Change{
		"set":           {{SetRelation: r}},
		"deleted again": {{DeleteRelation: r}, {SetRelation: r}},
		"object":        {{DeleteObject: &r.Object}, {SetObject: &directory.Object{Ref: r.Object}}, {SetRelation: r}},
	} {
		next, err := s.Apply(append(gone[:len(gone):len(gone)], more...))
		if err != nil {
			t.Fatal(name, err)
		}
		if n := next.Stats().Relations; n != 1 {
			t.Errorf("%s: %d relations", name, n)
		}
		if again, err := read(write(t, next)); err != nil || again.Digest() != next.Digest() {
			t.Error(name, err)
		}
	}
}
