package directory_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gatehouse/directory"
)

// model is a directory as plain maps.
type model struct {
	objects   map[directory.Ref]directory.Object
	relations map[string]directory.Relation // by its String
}

func newModel() *model {
	return &model{map[directory.Ref]directory.Object{}, map[string]directory.Relation{}}
}

func (m *model) clone() *model { return &model{maps.Clone(m.objects), maps.Clone(m.relations)} }

func (m *model) has(r directory.Ref) bool {
	_, ok := m.objects[r]
	return ok || r.ID == "*"
}

// apply says what should become of a change: false where it should be refused.
func (m *model) apply(c directory.Change) bool {
	switch {
	case c.SetObject != nil:
		m.objects[c.SetObject.Ref] = *c.SetObject
	case c.DeleteObject != nil:
		delete(m.objects, *c.DeleteObject)
		maps.DeleteFunc(m.relations, func(_ string, r directory.Relation) bool {
			return r.Object == *c.DeleteObject || r.Subject == *c.DeleteObject
		})
	case c.SetRelation != nil:
		if !m.has(c.SetRelation.Object) || !m.has(c.SetRelation.Subject) {
			return false
		}
		m.relations[c.SetRelation.String()] = *c.SetRelation
	case c.DeleteRelation != nil:
		delete(m.relations, c.DeleteRelation.String())
	}
	return true
}

func (m *model) build(t testing.TB) *directory.Snapshot {
	t.Helper()
	b := directory.NewBuilder(directory.DefaultManifest(), directory.Limits{}, 0, 0)
	for _, o := range m.objects {
		if err := b.AddObject(o); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range m.relations {
		if err := b.AddRelation(r); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.Finish(1)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// dice makes changes. Few groups have many members, so that there are hubs.
type dice struct{ *rand.Rand }

func (d dice) user() directory.Ref  { return ref("user", fmt.Sprint("u", d.IntN(900))) }
func (d dice) group() directory.Ref { return ref("group", fmt.Sprint("g", d.IntN(20))) }
func (d dice) doc() directory.Ref   { return ref("resource", fmt.Sprint("r", d.IntN(100))) }

func (d dice) object() directory.Ref {
	switch d.IntN(12) {
	case 0:
		return d.group()
	case 1, 2:
		return d.doc()
	}
	return d.user()
}

func (d dice) relation() directory.Relation {
	r := directory.Relation{Object: d.group(), Relation: "member", Subject: d.user()}
	switch d.IntN(8) {
	case 0:
		r.Subject, r.SubjectRelation = d.group(), "member"
	case 1:
		r = directory.Relation{Object: d.doc(), Relation: "reader", Subject: d.group(), SubjectRelation: "member"}
	case 2:
		r = directory.Relation{Object: d.doc(), Relation: "owner", Subject: d.user()}
	case 3:
		r = directory.Relation{Object: d.doc(), Relation: "reader", Subject: ref("user", "*")}
	case 4, 5, 6:
		r.Object.ID = "g0"
	}
	if d.IntN(5) == 0 {
		r.Expires = time.Unix(int64(1000+d.IntN(50)), 0).UTC()
	}
	return r
}

func (d dice) change() directory.Change {
	switch d.IntN(20) {
	case 0:
		o := d.object()
		return directory.Change{DeleteObject: &o}
	case 1, 2, 3:
		r := d.relation()
		return directory.Change{DeleteRelation: &r}
	case 4, 5, 6, 7, 8:
		o := directory.Object{Ref: d.object()}
		if d.IntN(2) == 0 {
			o.DisplayName, o.Properties = fmt.Sprint("Name ", d.IntN(9)), fmt.Appendf(nil, `{"n":%d}`, d.IntN(1000))
		}
		return directory.Change{SetObject: &o}
	}
	r := d.relation()
	return directory.Change{SetRelation: &r}
}

var past = time.Unix(1, 0)

func all(s *directory.Snapshot, f directory.RelationFilter, now time.Time) map[string]directory.Relation {
	out := map[string]directory.Relation{}
	for r := range s.Relations(f, now) {
		out[r.String()] = r
	}
	return out
}

// same holds a snapshot against the model, in everything that can be read.
func (m *model) same(t *testing.T, s *directory.Snapshot) {
	t.Helper()
	objects := map[directory.Ref]directory.Object{}
	for o := range s.Objects("") {
		objects[o.Ref] = o
	}
	equal := func(a, b directory.Object) bool {
		return a.DisplayName == b.DisplayName && string(a.Properties) == string(b.Properties)
	}
	if !maps.EqualFunc(objects, m.objects, equal) {
		t.Fatalf("%d objects, not the %d of the model", len(objects), len(m.objects))
	}
	for ref, want := range m.objects {
		if got, ok := s.Object(ref); !ok || !equal(got, want) {
			t.Fatalf("%v is %+v, not %+v", ref, got, want)
		}
	}
	now := time.Unix(1025, 0)
	epoch := uint64(0)
	byObject, bySubject := map[directory.Ref]map[string]directory.Relation{}, map[directory.Ref]map[string]directory.Relation{}
	put := func(in map[directory.Ref]map[string]directory.Relation, at directory.Ref, r directory.Relation) {
		if in[at] == nil {
			in[at] = map[string]directory.Relation{}
		}
		in[at][r.String()] = r
	}
	for _, r := range m.relations {
		if !r.Expires.IsZero() && !r.Expires.After(now) {
			epoch++
			continue
		}
		put(byObject, r.Object, r)
		put(bySubject, r.Subject, r)
	}
	if got := all(s, directory.RelationFilter{}, past); !maps.Equal(got, m.relations) {
		t.Fatalf("%d relations, not the %d of the model", len(got), len(m.relations))
	}
	if got := s.Epoch(now); got != epoch {
		t.Fatalf("epoch %d, not %d", got, epoch)
	}
	for o := range m.objects {
		if got := all(s, directory.RelationFilter{Object: o}, now); !maps.Equal(got, byObject[o]) {
			t.Fatalf("relations of %v: %v, not %v", o, got, byObject[o])
		}
		if got := all(s, directory.RelationFilter{Subject: o}, now); !maps.Equal(got, bySubject[o]) {
			t.Fatalf("relations to %v: %v, not %v", o, got, bySubject[o])
		}
	}
	if got := all(s, directory.RelationFilter{Subject: ref("user", "*")}, now); !maps.Equal(got, bySubject[ref("user", "*")]) {
		t.Fatalf("relations to everybody: %v", got)
	}
	fresh := m.build(t)
	if s.Digest() != fresh.Digest() {
		t.Fatal("another digest than that of the same content built at once")
	}
	a, b := s.Stats(), fresh.Stats()
	if a.Objects != b.Objects || a.Relations != b.Relations || a.Expiring != b.Expiring || !maps.Equal(a.ByType, b.ByType) || !maps.Equal(a.ByRelation, b.ByRelation) {
		t.Fatalf("stats are %+v, not %+v", a, b)
	}
}

// differences is how many changes turn m into to.
func (m *model) differences(to *model) (n int) {
	for ref, o := range m.objects {
		if got, ok := to.objects[ref]; !ok || got.DisplayName != o.DisplayName || string(got.Properties) != string(o.Properties) {
			n++
		}
	}
	for ref := range to.objects {
		if _, ok := m.objects[ref]; !ok {
			n++
		}
	}
	for name, r := range m.relations {
		if got, ok := to.relations[name]; !ok && to.has(r.Object) && to.has(r.Subject) || ok && got != r {
			n++
		}
	}
	for name := range to.relations {
		if _, ok := m.relations[name]; !ok {
			n++
		}
	}
	return n
}

// diff says how many differences two snapshots have, and that the one becomes the other by them.
func diff(t *testing.T, from, to *directory.Snapshot) int {
	t.Helper()
	changes := slices.Collect(directory.Diff(from, to))
	s, err := from.Apply(changes)
	if err != nil {
		t.Fatal(err)
	}
	if s.Digest() != to.Digest() {
		t.Fatal("what is made of the differences has another digest")
	}
	d, ok := directory.Compare(from, to, len(changes))
	if !ok || len(d.Changes) != len(changes) {
		t.Fatalf("%d differences, not %d", len(d.Changes), len(changes))
	}
	a, b := from.Stats(), to.Stats()
	if a.Objects+d.Objects.Added-d.Objects.Deleted != b.Objects || a.Relations+d.Relations.Added-d.Relations.Deleted != b.Relations {
		t.Fatalf("%v from %+v to %+v", &d, a, b)
	}
	if _, ok := directory.Compare(from, to, len(changes)-1); ok && len(changes) > 0 {
		t.Fatal("more differences than are wanted")
	}
	return len(changes)
}

// TestChangesAgainstModel: whatever was changed in whatever order, a snapshot is what plain maps say, and those before it stay what they were.
func TestChangesAgainstModel(t *testing.T) {
	for seed := range uint64(histories) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			d := dice{rand.New(rand.NewPCG(seed, 0))}
			m, s := newModel(), directory.New(directory.DefaultManifest(), directory.Limits{})
			type kept struct {
				m *model
				s *directory.Snapshot
			}
			var before []kept
			for step := range batches {
				next, batch := m.clone(), []directory.Change{}
				for range 1 + d.IntN(1+d.IntN(600)) {
					c := d.change()
					if next.apply(c) {
						batch = append(batch, c)
					} else if _, err := s.Apply(append(slices.Clone(batch), c)); !errors.Is(err, directory.ErrNotFound) {
						t.Fatalf("dangling %v: %v", c, err)
					}
				}
				var err error
				was := s
				if s, err = s.Apply(batch); err != nil {
					t.Fatal(err)
				}
				if s.Revision() != was.Revision()+1 {
					t.Fatal("revision", s.Revision())
				}
				if n, want := diff(t, was, s), m.differences(next); n != want {
					t.Fatalf("%d differences, not %d", n, want)
				}
				m = next
				if step%4 == 0 {
					m.same(t, s)
				}
				if step%12 == 0 {
					before = append(before, kept{m, s})
				}
			}
			m.same(t, s)
			for _, k := range before {
				k.m.same(t, k.s)
				diff(t, s, k.s)
				diff(t, k.s, s)
				diff(t, k.m.build(t), s)
				diff(t, s, k.m.build(t))
				loaded, err := read(write(t, k.s))
				if err != nil {
					t.Fatal(err)
				}
				if n := diff(t, k.s, loaded) + diff(t, loaded, k.s); n != 0 {
					t.Fatalf("%d differences of the same content, loaded", n)
				}
				diff(t, loaded, s)
				diff(t, s, loaded)
				next := k.m.clone() // two loads that differ a little
				var batch []directory.Change
				for range 1 + d.IntN(9) {
					if c := d.change(); next.apply(c) {
						batch = append(batch, c)
					}
				}
				changed, err := loaded.Apply(batch)
				if err != nil {
					t.Fatal(err)
				}
				if n, want := diff(t, k.s, changed), k.m.differences(next); n != want {
					t.Fatalf("%d differences, not %d", n, want)
				}
				if changed, err = read(write(t, changed)); err != nil {
					t.Fatal(err)
				}
				if n, want := diff(t, loaded, changed)+diff(t, k.s, changed), 2*k.m.differences(next); n != want {
					t.Fatalf("%d differences, not %d, loaded", n, want)
				}
			}
			if n := diff(t, s, m.build(t)); n != 0 {
				t.Fatalf("%d differences of the same content", n)
			}
		})
	}
}
