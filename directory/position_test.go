package directory_test

import (
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"gatehouse/directory"
)

// TestPositions goes through listings page by page, as long as pages are: it finds what a listing from the beginning finds, also in the long
// list of a hub, and of what has expired nothing.
func TestPositions(t *testing.T) {
	var changes []directory.Change
	set := func(o directory.Ref) {
		changes = append(changes, directory.Change{SetObject: &directory.Object{Ref: o}})
	}
	relate := func(group, relation, user string, expires time.Time) {
		changes = append(changes, directory.Change{SetRelation: &directory.Relation{Object: directory.Ref{Type: "group", ID: group}, Relation: relation,
			Subject: directory.Ref{Type: "user", ID: user}, Expires: expires}})
	}
	now := time.Unix(1000, 0)
	for i := range 1500 {
		set(directory.Ref{Type: "user", ID: fmt.Sprint(i)})
		if i%100 == 0 {
			set(directory.Ref{Type: "group", ID: fmt.Sprint(i)})
		}
	}
	for i := range 1500 {
		relate("0", "member", fmt.Sprint(i), time.Unix(int64(i%3)*900, 0).Add(time.Second*time.Duration(1-min(1, i%3))*1e6))
		relate(fmt.Sprint(i/100*100), "member", fmt.Sprint(i), time.Time{})
	}
	s, err := directory.New(directory.DefaultManifest(), directory.Limits{}).Apply(changes)
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []string{"", "user", "group", "other"} {
		paged(t, "objects "+typ, slices.Collect(s.Objects(typ)), func(from directory.Position) iter.Seq2[directory.Position, directory.Object] {
			return s.ObjectsFrom(typ, from)
		},
			func(o directory.Object) string { return o.String() })
	}
	for _, f := range []directory.RelationFilter{{}, {Object: directory.Ref{Type: "group", ID: "0"}}, {Subject: directory.Ref{Type: "user", ID: "7"}}, {Object: directory.Ref{Type: "group"}, Relation: "member"},
		{Object: directory.Ref{Type: "group", ID: "100"}, Subject: directory.Ref{Type: "user"}}, {Subject: directory.Ref{Type: "user"}}, {Relation: "none"}} {
		paged(t, fmt.Sprintf("%+v", f), slices.Collect(s.Relations(f, now)), func(from directory.Position) iter.Seq2[directory.Position, directory.Relation] {
			return s.RelationsFrom(f, from, now)
		}, directory.Relation.String)
	}
	for r := range s.Relations(directory.RelationFilter{}, now) {
		if got, found := s.Relation(r, now); !found || got != r {
			t.Fatalf("%v: found %v, %v", r, got, found)
		}
	}
	gone := directory.Relation{Object: directory.Ref{Type: "group", ID: "0"}, Relation: "member", Subject: directory.Ref{Type: "user", ID: "1"}}
	for what, r := range map[string]directory.Relation{"expired": {Object: gone.Object, Relation: "member", Subject: directory.Ref{Type: "user", ID: "301"}}, "unknown": {Object: gone.Object, Relation: "x", Subject: gone.Subject},
		"no object": {Object: directory.Ref{Type: "group", ID: "x"}, Relation: "member", Subject: gone.Subject}, "no subject": {Object: gone.Object, Relation: "member", Subject: directory.Ref{Type: "user", ID: "x"}}} {
		if got, found := s.Relation(r, now); found {
			t.Errorf("%s: %v", what, got)
		}
	}
	for text, want := range map[string]bool{"0.0": true, "1z141z3.3w5e11264sgsf": true, "1z141z4.0": false, "1.3w5e11264sgsg": false, "": false, "1": false, "a.": false, "-1.0": false} {
		p, ok := directory.ParsePosition(text)
		if ok != want {
			t.Errorf("%q: %v", text, ok)
		}
		if ok { // wherever it is, a listing may begin there
			for range s.ObjectsFrom("", p) {
				break
			}
			for range s.RelationsFrom(directory.RelationFilter{}, p, now) {
				break
			}
			for range s.RelationsFrom(directory.RelationFilter{Object: gone.Object}, p, now) {
				break
			}
		}
	}
}

// paged takes pages of several sizes, each from where the one before ended, by a token.
func paged[T any](t *testing.T, what string, want []T, list func(directory.Position) iter.Seq2[directory.Position, T], name func(T) string) {
	t.Helper()
	for _, size := range []int{1, 7, 100, 5000} {
		if size == 1 && len(want) > 200 {
			continue
		}
		var got []T
		for token := "0.0"; token != ""; {
			from, ok := directory.ParsePosition(token)
			if !ok {
				t.Fatalf("%s: token %q", what, token)
			}
			token = ""
			n := 0
			for at, x := range list(from) {
				if n++; n > size {
					token = at.String()
					break
				}
				got = append(got, x)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%s by %d: %d, want %d", what, size, len(got), len(want))
		}
		for i := range got {
			if name(got[i]) != name(want[i]) {
				t.Fatalf("%s by %d: %s at %d, want %s", what, size, name(got[i]), i, name(want[i]))
			}
		}
	}
}
