package wire

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"gatehouse/control/api"
	"gatehouse/directory"
)

func ref(typ, id string) directory.Ref { return directory.Ref{Type: typ, ID: id} }

// sample is one change of each kind.
func sample() []directory.Change {
	group := ref("group", "eng")
	member := directory.Relation{Object: group, Relation: "member", Subject: ref("user", "alice"), Expires: time.Unix(2e9, 0).UTC()}
	return []directory.Change{
		{SetObject: &directory.Object{Ref: ref("user", "alice"), DisplayName: "Alice", Properties: []byte(`{"a":1}`)}},
		{SetObject: &directory.Object{Ref: group}},
		{SetRelation: &member},
		{DeleteRelation: &directory.Relation{Object: group, Relation: "member", Subject: ref("user", "bob")}},
		{DeleteObject: new(ref("user", "carol"))},
	}
}

// TestApply: encoded changes lead to the directory that the changes themselves lead to, and all of them are applied or none.
func TestApply(t *testing.T) {
	s := directory.New(directory.DefaultManifest(), directory.Limits{})
	want, err := s.Apply(sample())
	if err != nil {
		t.Fatal(err)
	}
	b, err := Encode(sample())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Apply(s, [][]byte{b})
	if err != nil || got.Digest() != want.Digest() {
		t.Fatalf("%v, %v", got, err)
	}
	bad, _ := Encode([]directory.Change{{DeleteObject: new(ref("car", "1"))}})
	if _, err := Apply(s, [][]byte{b, bad}); err == nil {
		t.Error("an unknown type was applied")
	}
	strange, _ := proto.Marshal(&api.Ops{Ops: []*api.Op{{}}})
	if _, err := Apply(s, [][]byte{strange}); err == nil {
		t.Error("an operation of a newer release was skipped")
	}
	m, err := directory.ParseManifest("m", []byte("model: {version: 3}\ntypes:\n  user: {}\n"))
	if err != nil {
		t.Fatal(err)
	}
	gentle, _ := EncodeManifest(m, false)
	if _, err := Apply(s, [][]byte{b, gentle}); err == nil {
		t.Error("a manifest that does not allow the data was applied")
	}
	force, _ := EncodeManifest(m, true)
	if got, err = Apply(s, [][]byte{b, force}); err != nil || got.Stats().Objects != 1 {
		t.Errorf("%v, %v", got, err)
	}
	text, total, err := Describe(b, 2)
	if err != nil || total != 5 || len(text) != 2 || text[0] != "set user:alice" {
		t.Errorf("%v, %d, %v", text, total, err)
	}
}

// FuzzApply: no bytes from the wire do more than fail, and what is applied is what its own encoding leads to.
func FuzzApply(f *testing.F) {
	b, _ := Encode(sample())
	f.Add(b)
	m, _ := EncodeManifest(directory.DefaultManifest(), true)
	f.Add(m)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := directory.New(directory.DefaultManifest(), directory.Limits{})
		before := s.Digest()
		got, err := Apply(s, [][]byte{b})
		if s.Digest() != before {
			t.Fatal("the directory was changed in its place")
		}
		if _, _, err := Describe(b, 10); err != nil && got != nil && len(b) > 0 {
			t.Fatalf("it is applied and cannot be described: %v", err)
		}
		if err != nil {
			return
		}
		again, err := Apply(s, [][]byte{bytes.Clone(b)})
		if err != nil || again.Digest() != got.Digest() {
			t.Fatalf("applied again: %v", err)
		}
	})
}
