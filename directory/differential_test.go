package directory_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatehouse/directory"
)

// TestDifferential asks random questions about random data under random manifests twice: the package, and the evaluator of this test.
// GATEHOUSE_WORLDS says of how many worlds: make test-directory.
func TestDifferential(t *testing.T) {
	worlds := 100
	if n, err := strconv.Atoi(os.Getenv("GATEHOUSE_WORLDS")); err == nil {
		worlds = n
	}
	if testing.Short() {
		worlds /= 10
	}
	seed := uint64(1)
	if worlds > 100 {
		seed = uint64(time.Now().UnixNano())
	}
	total := tally{}
	for i := range worlds {
		d := &differ{T: t, r: rand.New(rand.NewPCG(seed, uint64(i))), tally: total, name: fmt.Sprintf("seed %d, world %d", seed, i)}
		if !d.run() {
			return
		}
	}
	keys := slices.Sorted(maps.Keys(total))
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, "  %s: %d", k, total[k])
	}
	t.Logf("%d worlds, seed %d:%s", worlds, seed, b.String())
	for _, k := range []string{"yes", "no", "circular", "path", "who", "what", "graph", "changes"} {
		if total[k] == 0 && worlds >= 100 {
			t.Errorf("no %s", k)
		}
	}
}

type tally map[string]int

type differ struct {
	*testing.T
	r     *rand.Rand
	w     *world
	s     *directory.Snapshot
	now   time.Time
	tally tally
	name  string
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (d *differ) run() bool {
	d.world()
	for range 3 {
		d.now = epoch.Add(time.Duration(d.r.IntN(4)) * time.Hour)
		if !d.questions(d.randomSubject()) {
			d.Logf("%s\n%s", d.name, d.w.schema)
			for r, at := range d.w.relations {
				d.Log(r, at)
			}
			return false
		}
		d.change()
	}
	return true
}

// world begins with a random manifest and random data.
func (d *differ) world() {
	var m *directory.Manifest
	for m == nil {
		d.w = &world{schema: randomSchema(d.r), objects: map[directory.Ref]bool{}, relations: map[directory.Relation]time.Time{}}
		var err error
		if m, err = directory.ParseManifest("m", []byte(d.w.schema.String())); err != nil {
			if !strings.Contains(err.Error(), "circular") {
				d.Fatalf("%s: %v\n%s", d.name, err, d.w.schema)
			}
			d.tally["manifests refused"]++
		}
	}
	for _, t := range d.w.types {
		for i := range 1 + d.r.IntN(6) {
			d.w.objects[ref(t, fmt.Sprint("o", i))] = true
		}
	}
	d.build(m)
}

func sortedRefs(m map[directory.Ref]bool) []directory.Ref {
	return slices.SortedFunc(maps.Keys(m), func(a, b directory.Ref) int { return strings.Compare(a.String(), b.String()) })
}

func (d *differ) build(m *directory.Manifest) {
	b := directory.NewBuilder(m, directory.Limits{}, 0, 0)
	for _, o := range sortedRefs(d.w.objects) {
		if err := b.AddObject(directory.Object{Ref: o}); err != nil {
			d.Fatal(err)
		}
	}
	for range d.r.IntN(60) {
		r, ok := d.randomRelation()
		if _, twice := d.w.relations[plain(r)]; twice || !ok {
			continue
		}
		if err := b.AddRelation(r); err != nil {
			d.Fatalf("%s: %v: %v\n%s", d.name, r, err, d.w.schema)
		}
		d.w.relations[plain(r)] = r.Expires
	}
	var err error
	if d.s, err = b.Finish(1); err != nil {
		d.Fatal(err)
	}
}

func plain(r directory.Relation) directory.Relation {
	r.Expires = time.Time{}
	return r
}

func (d *differ) randomObject(typ string) (directory.Ref, bool) {
	all := sortedRefs(d.w.objects)
	all = slices.DeleteFunc(all, func(o directory.Ref) bool { return o.Type != typ })
	if len(all) == 0 {
		return directory.Ref{}, false
	}
	return pick(d.r, all), true
}

func (d *differ) randomRelation() (out directory.Relation, ok bool) {
	if out.Object, ok = d.randomObject(pick(d.r, d.w.types)); !ok {
		return out, false
	}
	out.Relation = pick(d.r, d.w.rels[out.Object.Type])
	a := pick(d.r, d.w.allow[[2]string{out.Object.Type, out.Relation}])
	out.SubjectRelation = a.rel
	if a.any {
		out.Subject = ref(a.typ, "*")
	} else if out.Subject, ok = d.randomObject(a.typ); !ok {
		return out, false
	}
	if d.r.IntN(5) == 0 {
		out.Expires = epoch.Add(time.Duration(1+d.r.IntN(4)) * time.Hour)
	}
	return out, true
}

// change applies a few changes to both.
func (d *differ) change() {
	var changes []directory.Change
	for range d.r.IntN(8) {
		switch n := d.r.IntN(10); {
		case n < 5:
			if r, ok := d.randomRelation(); ok {
				changes = append(changes, directory.Change{SetRelation: &r})
				d.w.relations[plain(r)] = r.Expires
			}
		case n < 8:
			all := slices.SortedFunc(maps.Keys(d.w.relations), func(a, b directory.Relation) int { return strings.Compare(a.String(), b.String()) })
			if len(all) > 0 {
				r := pick(d.r, all)
				changes = append(changes, directory.Change{DeleteRelation: &r})
				delete(d.w.relations, r)
			}
		case n < 9:
			if o, ok := d.randomObject(pick(d.r, d.w.types)); ok {
				changes = append(changes, directory.Change{DeleteObject: &o})
				delete(d.w.objects, o)
				maps.DeleteFunc(d.w.relations, func(r directory.Relation, _ time.Time) bool { return r.Object == o || r.Subject == o })
			}
		default:
			o := directory.Object{Ref: ref(pick(d.r, d.w.types), fmt.Sprint("n", d.r.IntN(3)))}
			changes = append(changes, directory.Change{SetObject: &o})
			d.w.objects[o.Ref] = true
		}
	}
	next, err := d.s.Apply(changes)
	if err != nil {
		d.Fatalf("%s: %v", d.name, err)
	}
	d.s = next
	d.tally["changes"] += len(changes)
}

func (d *differ) randomSubject() subject {
	t := pick(d.r, d.w.types)
	s := subject{Ref: ref(t, "nobody")}
	switch n := d.r.IntN(10); n {
	case 0:
	case 1:
		s.ID = "*"
	default:
		if o, ok := d.randomObject(t); ok {
			s.Ref = o
		}
		if n < 4 {
			s.rel = pick(d.r, d.w.rels[t])
		}
	}
	return s
}

// questions asks everything about one subject.
func (d *differ) questions(s subject) bool {
	a := d.w.answers(s, d.now)
	for _, t := range d.w.types {
		for _, name := range slices.Concat(d.w.rels[t], d.w.perms[t]) {
			var all []directory.Ref
			circular := false
			for _, o := range sortedRefs(d.w.objects) {
				if o.Type != t {
					continue
				}
				want := a.answer(o, name)
				d.tally[want]++
				if s.rel == "" && !d.check(directory.Question{Object: o, Relation: name, Subject: s.Ref}, want) {
					return false
				}
				circular = circular || want == "circular"
				if want == "yes" {
					all = append(all, o)
				}
			}
			if !d.what(s, name, t, all, circular) {
				return false
			}
		}
	}
	o, ok := d.randomObject(pick(d.r, d.w.types))
	return !ok || d.who(o, pick(d.r, slices.Concat(d.w.rels[o.Type], d.w.perms[o.Type])))
}

func verdictOf(yes bool, err error) string {
	switch {
	case errors.Is(err, directory.ErrCircular):
		return "circular"
	case err != nil:
		return err.Error()
	case yes:
		return "yes"
	}
	return "no"
}

func (d *differ) check(q directory.Question, want string) bool {
	if got := verdictOf(d.s.Check(q, d.now)); got != want {
		d.Errorf("%v: %s, want %s", q, got, want)
		return false
	}
	if d.r.IntN(4) > 0 {
		return true
	}
	e, err := d.s.Explain(q, d.now)
	if got := verdictOf(e != nil && e.Allowed, err); got != want {
		d.Errorf("explain %v: %s, want %s", q, got, want)
		return false
	}
	if want != "yes" {
		return err != nil || e.Path == nil
	}
	d.tally["path"]++
	if problem := d.path(q, e.Path); problem != "" {
		d.Errorf("explain %v: %s: %s", q, e, problem)
		return false
	}
	return true
}

// path says what is wrong with a path.
func (d *differ) path(q directory.Question, path []directory.Relation) string {
	if len(path) == 0 {
		return "no path"
	}
	for i, r := range path {
		at, ok := d.w.relations[plain(r)]
		switch {
		case !ok || !at.Equal(r.Expires) || !at.IsZero() && !d.now.Before(at):
			return fmt.Sprintf("%v is not there", r)
		case i == 0 && (r.SubjectRelation != "" || r.Subject != q.Subject && r.Subject != ref(q.Subject.Type, "*")):
			return fmt.Sprintf("begins with %v", r)
		case i > 0 && (r.Subject != path[i-1].Object || r.SubjectRelation != "" && r.SubjectRelation != path[i-1].Relation):
			return fmt.Sprintf("%v does not follow", r)
		}
	}
	if path[len(path)-1].Object != q.Object {
		return "does not lead to the object"
	}
	return ""
}

// pages reads all of a listing.
func (d *differ) pages(list func(after string, limit int) ([]directory.Ref, string, error)) (all []directory.Ref, err error) {
	limit := 1 + d.r.IntN(4)
	for after := ""; ; {
		found, next, err := list(after, limit)
		if err != nil {
			return nil, err
		}
		if all = append(all, found...); next == "" {
			return all, nil
		}
		after = next
	}
}

func (d *differ) same(what string, got []directory.Ref, err error, want []directory.Ref, circular bool) bool {
	if circular && errors.Is(err, directory.ErrCircular) || !circular && err == nil && slices.Equal(got, want) {
		return true
	}
	d.Errorf("%s: %v, %v, want %v, circular %v", what, got, err, want, circular)
	return false
}

func (d *differ) what(s subject, name, typ string, want []directory.Ref, circular bool) bool {
	d.tally["what"]++
	if s.rel != "" {
		d.tally["graph"]++
		g, err := d.s.Graph(directory.GraphQuery{Object: ref(typ, ""), Relation: name, Subject: s.Ref, SubjectRelation: s.rel, Explain: d.r.IntN(8) == 0}, d.now)
		if err != nil {
			g = &directory.GraphAnswer{}
		}
		return d.same(fmt.Sprintf("graph %s#%s@%v#%s", typ, name, s.Ref, s.rel), g.Results, err, want, circular)
	}
	got, err := d.pages(func(after string, limit int) ([]directory.Ref, string, error) {
		return d.s.What(s.Ref, name, typ, after, limit, d.now)
	})
	if !d.same(fmt.Sprintf("what %s#%s@%v", typ, name, s.Ref), got, err, want, circular) {
		return false
	}
	ids, err := d.s.Members(s.Ref, typ, name, d.now)
	got = nil
	for _, id := range ids {
		got = append(got, ref(typ, id))
	}
	return d.same(fmt.Sprintf("members %s#%s@%v", typ, name, s.Ref), got, err, want, circular)
}

func (d *differ) who(o directory.Ref, name string) bool {
	d.tally["who"]++
	t := pick(d.r, d.w.types)
	rel := ""
	if d.r.IntN(3) == 0 {
		rel = pick(d.r, d.w.rels[t])
	}
	var want []directory.Ref
	circular := false
	for _, s := range append([]directory.Ref{ref(t, "*")}, sortedRefs(d.w.objects)...) {
		if s.Type != t || s.ID == "*" && rel != "" {
			continue
		}
		switch d.w.answers(subject{s, rel}, d.now).answer(o, name) {
		case "yes":
			want = append(want, s)
		case "circular":
			circular = true
		}
	}
	if rel != "" {
		d.tally["graph"]++
		g, err := d.s.Graph(directory.GraphQuery{Object: o, Relation: name, Subject: ref(t, ""), SubjectRelation: rel}, d.now)
		if err != nil {
			g = &directory.GraphAnswer{}
		}
		return d.same(fmt.Sprintf("graph %v#%s@%s:?#%s", o, name, t, rel), g.Results, err, want, circular)
	}
	got, err := d.pages(func(after string, limit int) ([]directory.Ref, string, error) {
		return d.s.Who(o, name, t, after, limit, d.now)
	})
	return d.same(fmt.Sprintf("who %v#%s@%s", o, name, t), got, err, want, circular)
}
