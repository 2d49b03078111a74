package directory_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gatehouse/directory"
)

// TestDependencies holds what bases say of other snapshots against the answers there: random questions, under changes, expiry and branches.
func TestDependencies(t *testing.T) {
	type asked struct {
		q     directory.Question
		basis *directory.Dependencies
		was   string
	}
	tally, held := tally{}, 0
	for i := range 150 {
		d := &differ{T: t, r: rand.New(rand.NewPCG(7, uint64(i))), tally: tally, name: fmt.Sprint("world ", i)}
		d.world()
		var snapshots []*directory.Snapshot
		var all []asked
		for range 8 {
			snapshots = append(snapshots, d.s)
			for range 12 {
				typ := pick(d.r, d.w.types)
				o, _ := d.randomObject(typ)
				if o.Type == "" || d.r.IntN(8) == 0 {
					o = ref(typ, pick(d.r, []string{"n0", "n1", "n2"}))
				}
				s := d.randomSubject()
				a := asked{directory.Question{Object: o, Relation: pick(d.r, slices.Concat(d.w.rels[typ], d.w.perms[typ])), Subject: s.Ref}, new(directory.Dependencies), ""}
				d.now = epoch.Add(time.Duration(d.r.IntN(4)) * time.Hour)
				a.was = verdictOf(d.s.CheckOn(a.basis, a.q, d.now))
				if got := verdictOf(d.s.Check(a.q, d.now)); got != a.was {
					t.Fatalf("%v: %s, want %s", a.q, a.was, got)
				}
				all = append(all, a)
			}
			before := d.s
			d.change()
			if r, ok := d.randomRelation(); ok && d.r.IntN(2) == 0 {
				if branch, err := before.Apply([]directory.Change{{SetRelation: &r}}); err == nil {
					snapshots = append(snapshots, branch)
				}
			}
			if d.r.IntN(20) == 0 {
				snapshots = append(snapshots, d.s.WithLimits(directory.Limits{Work: 1}), d.s.WithRevision(9))
			}
		}
		for _, s := range snapshots {
			for hour := range 5 {
				now := epoch.Add(time.Duration(hour) * time.Hour)
				for _, a := range all {
					if !a.basis.Holds(s, now) {
						continue
					}
					held++
					if got := verdictOf(s.Check(a.q, now)); got != a.was {
						t.Fatalf("%s: %v at %d h: %s, and the basis of %s holds\n%s", d.name, a.q, hour, got, a.was, d.w.schema)
					}
				}
			}
		}
	}
	t.Logf("%d held", held)
	if held < 20_000 {
		t.Errorf("only %d held", held)
	}
}

// TestDependenciesOfPaths is TestDependencies where most changes are in the middle of a path: groups in groups, folders in folders, also in circles, and limits
// that end some searches.
func TestDependenciesOfPaths(t *testing.T) {
	m, err := directory.ParseManifest("m", []byte(`model: {version: 3}
types:
  user: {}
  group: {relations: {member: user | user:* | group#member}}
  folder:
    relations: {parent: folder, viewer: user | group#member, banned: user | group#member}
    permissions: {can_read: (viewer | parent->can_read) - banned, can_list: parent->can_list | parent->viewer, can_up: parent->can_over, can_over: parent->viewer}
`))
	if err != nil {
		t.Fatal(err)
	}
	held, changed := 0, 0
	for world := range 40 {
		r := rand.New(rand.NewPCG(9, uint64(world)))
		one := func(typ string) directory.Ref { return ref(typ, fmt.Sprint("o", r.IntN(8))) }
		s := directory.New(m, directory.Limits{Work: []int{0, 0, 40, 12}[r.IntN(4)], Depth: []int{0, 5}[r.IntN(2)]})
		var first []directory.Change
		for i := range 8 {
			for _, typ := range []string{"user", "group", "folder"} {
				if i%4 > 0 || r.IntN(2) == 0 {
					first = append(first, directory.Change{SetObject: &directory.Object{Ref: ref(typ, fmt.Sprint("o", i))}})
				}
			}
		}
		if s, err = s.Apply(first); err != nil {
			t.Fatal(err)
		}
		type asked struct {
			q     directory.Question
			basis directory.Dependencies
			was   string
		}
		var all []*asked
		for range 150 {
			for range 10 {
				a := &asked{q: directory.Question{Object: one("folder"), Relation: pick(r, []string{"can_read", "can_read", "can_list", "can_up"}), Subject: one("user")}}
				a.was = verdictOf(s.CheckOn(&a.basis, a.q, epoch))
				all = append(all, a)
			}
			rel := pick(r, []directory.Relation{{Object: one("group"), Relation: "member", Subject: one("user")}, {Object: one("group"), Relation: "member", Subject: one("group"), SubjectRelation: "member"},
				{Object: one("folder"), Relation: "parent", Subject: one("folder")}, {Object: one("folder"), Relation: "viewer", Subject: one("group"), SubjectRelation: "member"},
				{Object: one("folder"), Relation: "banned", Subject: one("group"), SubjectRelation: "member"}, {Object: one("group"), Relation: "member", Subject: ref("user", "*")}})
			change := directory.Change{SetRelation: &rel}
			switch r.IntN(12) {
			case 0, 1, 2, 3:
				change = directory.Change{DeleteRelation: &rel}
			case 4:
				change = directory.Change{DeleteObject: &rel.Object}
			case 5, 6:
				change = directory.Change{SetObject: &directory.Object{Ref: rel.Object}}
			}
			next, err := s.Apply([]directory.Change{change})
			if err != nil {
				continue
			}
			s = next
			for _, a := range all[max(0, len(all)-200):] {
				got := verdictOf(s.Check(a.q, epoch))
				if got != a.was {
					changed++
				}
				if !a.basis.Holds(s, epoch) {
					continue
				}
				if held++; got != a.was {
					t.Fatalf("world %d, after %v: %v is %s, and the basis of %s holds", world, change, a.q, got, a.was)
				}
			}
		}
	}
	t.Logf("%d held, %d answers were other ones", held, changed)
	if held < 100_000 || changed < 10_000 {
		t.Errorf("only %d held, %d answers were other ones", held, changed)
	}
}

// TestDependenciesAreBounded: what read more than a basis has room for is asked again.
func TestDependenciesAreBounded(t *testing.T) {
	m, err := directory.ParseManifest("m", []byte("model: {version: 3}\ntypes:\n  user: {}\n  group: {relations: {member: user | group#member}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := directory.New(m, directory.Limits{})
	apply := func(changes ...directory.Change) {
		t.Helper()
		if s, err = s.Apply(changes); err != nil {
			t.Fatal(err)
		}
	}
	group := func(i int) directory.Ref { return ref("group", fmt.Sprint("g", i)) }
	apply(directory.Change{SetObject: &directory.Object{Ref: ref("user", "u")}}, directory.Change{SetObject: &directory.Object{Ref: group(0)}})
	apply(directory.Change{SetRelation: &directory.Relation{Object: group(0), Relation: "member", Subject: ref("user", "u")}})
	holds := func(group directory.Ref) bool {
		t.Helper()
		var b directory.Dependencies
		yes, err := s.CheckOn(&b, directory.Question{Object: group, Relation: "member", Subject: ref("user", "u")}, epoch)
		if !yes || err != nil {
			t.Fatal(yes, err)
		}
		return b.Holds(s, epoch)
	}
	for i := 1; i <= 100; i++ {
		apply(directory.Change{SetObject: &directory.Object{Ref: group(i)}},
			directory.Change{SetRelation: &directory.Relation{Object: group(i), Relation: "member", Subject: group(i - 1), SubjectRelation: "member"}})
	}
	if !holds(group(0)) {
		t.Error("the basis of one relation does not hold")
	}
	s = s.WithLimits(directory.Limits{Depth: 200})
	apply(directory.Change{SetObject: &directory.Object{Ref: ref("user", "v")}})
	if holds(group(100)) {
		t.Error("the basis of a hundred relations holds")
	}
	if (&directory.Dependencies{}).Holds(s, epoch) {
		t.Error("the basis of nothing holds")
	}
}
