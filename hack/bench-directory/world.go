package main

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"gatehouse/directory"
)

const model = `# What is measured.
model: {version: 3}
types:
  user: {relations: {identifier: identity}}
  identity: {}
  group: {relations: {member: user | group#member}}
  resource:
    relations:
      owner: user
      viewer: user | group#member
      parent: resource
      banned: user
    permissions:
      can_read: viewer | owner | parent->can_read
      can_edit: owner & viewer
      can_see: can_read - banned
`

// world is the data: a million users with an identity each, a hundred thousand groups nested four deep, a million resources, five million
// relations; or a part of it. It is the same each time.
type world struct {
	users, groups, resources int
	levels                   [5]int // where each level of groups begins
	hub                      int    // members of the last group
}

func newWorld(scale float64) *world {
	unit := max(int(scale*100), 1)
	w := &world{users: 10000 * unit, groups: 1000 * unit, resources: 10000 * unit, hub: 1000 * unit}
	w.levels = [5]int{0, unit, 11 * unit, 111 * unit, w.groups}
	return w
}

func user(i int) directory.Ref {
	return directory.Ref{Type: "user", ID: fmt.Sprintf("00u%017x", uint64(i)*0x9E3779B1)}
}
func identity(i int) directory.Ref {
	return directory.Ref{Type: "identity", ID: fmt.Sprintf("someone.%06d@example.com", i)}
}
func group(i int) directory.Ref {
	return directory.Ref{Type: "group", ID: fmt.Sprintf("team-%06d-europe", i)}
}
func resource(i int) directory.Ref {
	return directory.Ref{Type: "resource", ID: fmt.Sprintf("file-%08d", i)}
}

// everyone is the hub: a group of a tenth of the users.
var everyone = directory.Ref{Type: "group", ID: "everyone"}

func (w *world) objects() iter.Seq[directory.Object] {
	return func(yield func(directory.Object) bool) {
		for i := range w.users {
			properties := fmt.Appendf(nil, `{"email":"someone.%06d@example.com","department":"unit-%d","title":"Clerk %d","status":"ACTIVE","site":"emea"}`, i, i%200, i%40)
			if !yield(directory.Object{Ref: user(i), DisplayName: fmt.Sprintf("Given%d Family%d", i%5000, i%70000), Properties: properties}) ||
				!yield(directory.Object{Ref: identity(i), Properties: []byte(`{"kind":"email","provider":"okta","verified":true}`)}) {
				return
			}
		}
		for i := range w.groups {
			if !yield(directory.Object{Ref: group(i), DisplayName: fmt.Sprintf("Team %d", i), Properties: []byte(`{"source":"okta"}`)}) {
				return
			}
		}
		for i := range w.resources {
			if !yield(directory.Object{Ref: resource(i), Properties: []byte(`{"region":"eu"}`)}) {
				return
			}
		}
		yield(directory.Object{Ref: everyone})
	}
}

// parent is the group that a group is in; -1 for those on top.
func (w *world) parent(g int) int {
	for l := 1; l < 4; l++ {
		if g >= w.levels[l] && g < w.levels[l+1] {
			return w.levels[l-1] + (g-w.levels[l])%(w.levels[l]-w.levels[l-1])
		}
	}
	return -1
}

// top is the group on top of a group.
func (w *world) top(g int) int {
	for w.parent(g) >= 0 {
		g = w.parent(g)
	}
	return g
}

// groupsOf are the two groups of the lowest level that a user is in.
func (w *world) groupsOf(u int) [2]int {
	r := rand.New(rand.NewPCG(7, uint64(u)))
	leaves := w.levels[4] - w.levels[3]
	return [2]int{w.levels[3] + r.IntN(leaves), w.levels[3] + (r.IntN(leaves-1)+1+u)%leaves}
}

func (w *world) owner(r int) int { return int(uint64(r) * 7919 % uint64(w.users)) }

// shown says whether a group may see a resource.
func (w *world) shown(r int) bool { return r%1000 < 780 }

// viewers is that group: one on top, for every other.
func (w *world) viewers(r int) int {
	if r%2 == 0 {
		return r / 2 % w.levels[1]
	}
	return r * 31 % w.groups
}

func relation(o directory.Ref, name string, s directory.Ref, sub string) directory.Relation {
	return directory.Relation{Object: o, Relation: name, Subject: s, SubjectRelation: sub}
}

// far is when what expires in the data does.
var far = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *world) relations() iter.Seq[directory.Relation] {
	return func(yield func(directory.Relation) bool) {
		for u := range w.users {
			g := w.groupsOf(u)
			ok := yield(relation(user(u), "identifier", identity(u), "")) && yield(relation(group(g[0]), "member", user(u), ""))
			if ok && g[1] != g[0] {
				r := relation(group(g[1]), "member", user(u), "")
				if u%100 == 0 {
					r.Expires = far.Add(time.Duration(u) * time.Second)
				}
				ok = yield(r)
			}
			if ok && u%10 == 0 {
				ok = yield(relation(everyone, "member", user(u), ""))
			}
			if !ok {
				return
			}
		}
		for g := range w.groups {
			if p := w.parent(g); p >= 0 && !yield(relation(group(p), "member", group(g), "member")) {
				return
			}
		}
		for r := range w.resources {
			ok := yield(relation(resource(r), "owner", user(w.owner(r)), ""))
			if ok && w.shown(r) {
				ok = yield(relation(resource(r), "viewer", group(w.viewers(r)), "member"))
			}
			if ok && r%1000 == 979 { // in the resource before it, which the groups of that may see
				ok = yield(relation(resource(r), "parent", resource(r-979), ""))
			}
			if ok && r%100 == 1 {
				ok = yield(relation(resource(r), "banned", user(w.owner(r)), "")) && yield(relation(resource(r), "viewer", user(w.owner(r)), ""))
			}
			if !ok {
				return
			}
		}
	}
}

func (w *world) manifest() *directory.Manifest {
	m, err := directory.ParseManifest("manifest.yaml", []byte(model))
	if err != nil {
		panic(err) // it is written above
	}
	return m
}

func (w *world) build() (*directory.Snapshot, error) {
	b := directory.NewBuilder(w.manifest(), directory.Limits{}, 2*w.users+w.groups+w.resources, 5*w.users)
	for o := range w.objects() {
		if err := b.AddObject(o); err != nil {
			return nil, fmt.Errorf("%v: %w", o, err)
		}
	}
	for r := range w.relations() {
		if err := b.AddRelation(r); err != nil {
			return nil, fmt.Errorf("%v: %w", r, err)
		}
	}
	return b.Finish(1)
}
