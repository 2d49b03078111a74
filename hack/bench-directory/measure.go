package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"gatehouse/directory"
	"gatehouse/directory/format"
)

// bench is the run: each step measures with what the steps before it made.
type bench struct {
	world    *world
	full     bool // targets of size hold
	dir      string
	rows     []*row
	snapshot *directory.Snapshot
	direct   []directory.Question // owners
	deep     []directory.Question // through four groups
}

const questions = 50000

func (b *bench) build() error {
	start := time.Now()
	s, err := b.world.build()
	if err != nil {
		return err
	}
	b.snapshot = s
	b.add("build from objects and relations", "s", time.Since(start).Seconds(), 0)
	return nil
}

// target is a target that holds for all of the data alone.
func (b *bench) target(v float64) float64 {
	if !b.full {
		return 0
	}
	return v
}

func (b *bench) file() error {
	f, err := os.Create(b.path())
	if err != nil {
		return err
	}
	start := time.Now()
	n, err := b.snapshot.WriteTo(f)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	b.add("write the file", "s", time.Since(start).Seconds(), 0)
	b.add("the file", "MB", float64(n)/1e6, 0)
	l, err := b.load(b.path())
	if err != nil {
		return err
	}
	b.add("load the file", "s", l.Seconds, b.target(4))
	b.add("CPU of that, all cores", "s", l.CPU, 0)
	b.add("peak of the heap while loading", "MB", float64(l.PeakHeap)/1e6, b.target(1000))
	b.add("peak of the process while loading", "MB", float64(l.PeakRSS)/1e6, 0)
	b.add("heap", "MB", float64(l.Heap)/1e6, b.target(500)).atMost = 0.25
	b.add("one full GC", "ms", l.GC, b.target(50))
	return b.reload()
}

// load loads a file or a folder in a process of its own.
func (b *bench) load(path string) (l loaded, err error) {
	self, err := os.Executable()
	if err != nil {
		return l, err
	}
	cmd := exec.Command(self, "-load", path)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return l, fmt.Errorf("loading: %w", err)
	}
	return l, json.NewDecoder(bytes.NewReader(out)).Decode(&l)
}

// lines loads the same from JSON lines.
func (b *bench) lines() error {
	folder := filepath.Join(b.dir, "lines")
	defer os.RemoveAll(folder)
	if err := format.WriteFolder(folder, b.snapshot); err != nil {
		return err
	}
	size := int64(0)
	for _, name := range []string{format.ObjectsFile, format.RelationsFile} {
		info, err := os.Stat(filepath.Join(folder, name))
		if err != nil {
			return err
		}
		size += info.Size()
	}
	l, err := b.load(folder)
	if err != nil {
		return err
	}
	b.add("the same as JSON lines", "MB", float64(size)/1e6, 0)
	b.add("load the JSON lines", "s", l.Seconds, b.target(40))
	b.add("CPU of that, all cores", "s", l.CPU, 0)
	b.add("peak of the process while loading them", "MB", float64(l.PeakRSS)/1e6, 0)
	return nil
}

// reload takes what was loaded from the file from here on, as an edge has it. What building leaves behind would lie
// between its pages.
func (b *bench) reload() error {
	b.snapshot = nil
	debug.FreeOSMemory()
	f, err := os.Open(b.path())
	if err != nil {
		return err
	}
	defer f.Close()
	b.snapshot, err = directory.Read(f, directory.Limits{})
	debug.FreeOSMemory()
	return err
}

// ask draws questions, and holds that their answers are all what they should be.
func (b *bench) ask(name string, target float64, want bool, draw func(r *rand.Rand) directory.Question) ([]directory.Question, error) {
	r := rand.New(rand.NewPCG(1, 2))
	qs := make([]directory.Question, questions)
	for i := range qs {
		qs[i] = draw(r)
	}
	now := time.Now()
	check := func(i int) error {
		if got, err := b.snapshot.Check(qs[i], now); err != nil || got != want {
			return fmt.Errorf("%s: %v is %v, %v", name, qs[i], got, err)
		}
		return nil
	}
	if _, _, err := sample(len(qs)/10, check); err != nil { // warm
		return nil, err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	p50, p99, err := sample(len(qs), check)
	runtime.ReadMemStats(&after)
	if err != nil {
		return nil, err
	}
	row := b.add(name+", p50", "us", p50, target)
	if name == deepCheck {
		row.atMost = 0.3
	}
	b.add(name+", p99", "us", p99, 0)
	b.add(name+", allocations", "", float64((after.Mallocs-before.Mallocs)/questions), 0)
	return qs, nil
}

const (
	directCheck = "check, direct"
	deepCheck   = "check, through 4 levels"
)

func (b *bench) questions() (err error) {
	w := b.world
	if b.direct, err = b.ask(directCheck, 2, true, func(r *rand.Rand) directory.Question {
		i := r.IntN(w.resources)
		return directory.Question{Object: resource(i), Relation: "owner", Subject: user(w.owner(i))}
	}); err != nil {
		return err
	}
	through := func(relation string) func(r *rand.Rand) directory.Question {
		return func(r *rand.Rand) directory.Question {
			u := r.IntN(w.users)
			top := w.top(w.groupsOf(u)[0])
			for { // every fifth k or so is one that is not shown
				i := 2 * (top + w.levels[1]*r.IntN(w.resources/2/w.levels[1]))
				if w.shown(i) {
					return directory.Question{Object: resource(i), Relation: relation, Subject: user(u)}
				}
			}
		}
	}
	if b.deep, err = b.ask(deepCheck, 3, true, through("viewer")); err != nil {
		return err
	}
	for _, c := range []struct {
		name string
		want bool
		draw func(r *rand.Rand) directory.Question
	}{
		{"check, no", false, func(r *rand.Rand) directory.Question {
			i := r.IntN(w.resources)
			return directory.Question{Object: resource(i), Relation: "owner", Subject: user((w.owner(i) + 1) % w.users)}
		}},
		{"check, a permission with |", true, through("can_read")},
		{"check, a permission with ->", true, func(r *rand.Rand) directory.Question {
			i := r.IntN(w.resources/1000)*1000 + 979
			return directory.Question{Object: resource(i), Relation: "can_read", Subject: user(w.owner(i - 979))}
		}},
		{"check, a permission with &", true, func(r *rand.Rand) directory.Question {
			i := r.IntN(w.resources/100)*100 + 1
			return directory.Question{Object: resource(i), Relation: "can_edit", Subject: user(w.owner(i))}
		}},
		{"check, a permission with -", false, func(r *rand.Rand) directory.Question {
			i := r.IntN(w.resources/100)*100 + 1
			return directory.Question{Object: resource(i), Relation: "can_see", Subject: user(w.owner(i))}
		}},
		{"check, a relation that expires", true, func(r *rand.Rand) directory.Question {
			u := r.IntN(w.users/100) * 100
			return directory.Question{Object: group(w.groupsOf(u)[1]), Relation: "member", Subject: user(u)}
		}},
		{"check, in a hub", true, func(r *rand.Rand) directory.Question {
			return directory.Question{Object: everyone, Relation: "member", Subject: user(r.IntN(w.users/10) * 10)}
		}},
		{"check, not in a hub", false, func(r *rand.Rand) directory.Question {
			return directory.Question{Object: everyone, Relation: "member", Subject: user(r.IntN(w.users/10)*10 + 1)}
		}},
	} {
		if _, err := b.ask(c.name, 0, c.want, c.draw); err != nil {
			return err
		}
	}
	return nil
}

// change is one change of each kind in turn: relations and objects that come, change and go.
func (b *bench) change(i int, hub bool) directory.Change {
	w, k := b.world, i/6
	u := (k * 7919) % w.users
	r := relation(resource((k*31+3)%w.resources), "owner", user(u), "")
	if hub {
		r = relation(everyone, "member", user(u/10*10+1), "")
	}
	o := directory.Object{Ref: directory.Ref{Type: "user", ID: fmt.Sprintf("new-%d", k)}, DisplayName: "New", Properties: []byte(`{"status":"NEW"}`)}
	switch i % 6 {
	case 0:
		return directory.Change{SetRelation: &r}
	case 1:
		r.Expires = far
		return directory.Change{SetRelation: &r}
	case 2:
		return directory.Change{DeleteRelation: &r}
	case 3:
		return directory.Change{SetObject: &o}
	case 4:
		o.DisplayName = "Changed"
		return directory.Change{SetObject: &o}
	}
	return directory.Change{DeleteObject: &o.Ref}
}

func (b *bench) apply(s **directory.Snapshot, changes ...directory.Change) error {
	next, err := (*s).Apply(changes)
	if err == nil {
		*s = next
	}
	return err
}

func (b *bench) changes() error {
	s := b.snapshot
	p50, p99, err := sample(30000, func(i int) error { return b.apply(&s, b.change(i, false)) })
	if err != nil {
		return err
	}
	b.add(oneChange, "us", p50, 20)
	b.add("one change, p99", "us", p99, 200)
	var batches [][]directory.Change
	for n := range 40 {
		var batch []directory.Change
		for i := range 1000 {
			batch = append(batch, b.change(6*(997*n+i)+n%2*3, false))
		}
		batches = append(batches, batch)
	}
	before := s
	p50, p99, err = sample(len(batches), func(i int) error {
		before = s
		return b.apply(&s, batches[i]...)
	})
	if err != nil {
		return err
	}
	b.add("1,000 changes at once, p50", "ms", p50/1000, 20)
	b.add("1,000 changes at once, slowest", "ms", p99/1000, 0)
	n := 0
	start := time.Now()
	for range directory.Diff(before, s) {
		n++
	}
	b.add(fmt.Sprintf("%d differences found", n), "ms", time.Since(start).Seconds()*1000, 0)
	return nil
}

const oneChange = "one change, p50"

func (b *bench) hub() error {
	s := b.snapshot
	p50, p99, err := sample(3000, func(i int) error { return b.apply(&s, b.change(i/3*6+i%3, true)) })
	if err != nil {
		return err
	}
	b.add("one change of a hub, p50", "us", p50, 20)
	b.add("one change of a hub, p99", "us", p99, 200)
	start := time.Now()
	if err := b.apply(&s, directory.Change{DeleteObject: &everyone}); err != nil {
		return err
	}
	b.add(fmt.Sprintf("delete a hub of %d", b.world.hub), "ms", time.Since(start).Seconds()*1000, 0)
	return nil
}

// reuse deletes a tenth of the users with their relations and puts them back: their numbers are used again.
func (b *bench) reuse() error {
	digest := b.snapshot.Digest()
	before := b.snapshot.Stats().Bytes
	s := b.snapshot
	var objects, relations []directory.Change
	var gone []directory.Ref
	for u := 5; u < b.world.users; u += 10 {
		gone = append(gone, user(u))
	}
	for _, r := range gone {
		o, _ := s.Object(r)
		objects = append(objects, directory.Change{SetObject: &o})
		for r := range s.Relations(directory.RelationFilter{Object: r}, time.Now()) {
			relations = append(relations, directory.Change{SetRelation: &r})
		}
		for r := range s.Relations(directory.RelationFilter{Subject: r}, time.Now()) {
			relations = append(relations, directory.Change{SetRelation: &r})
		}
	}
	start := time.Now()
	for part := range slices.Chunk(gone, 10000) {
		var batch []directory.Change
		for _, r := range part {
			batch = append(batch, directory.Change{DeleteObject: &r})
		}
		if err := b.apply(&s, batch...); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(append(objects, relations...), 10000) {
		if err := b.apply(&s, part...); err != nil {
			return err
		}
	}
	changes := len(gone) + len(objects) + len(relations)
	b.add("a tenth of the users deleted and put back", "us each", time.Since(start).Seconds()*1e6/float64(changes), 0)
	if s.Digest() != digest {
		return fmt.Errorf("after that, the content is another")
	}
	b.add("memory after that", "of before", float64(s.Stats().Bytes)/float64(before), 1.2)
	b.snapshot = s
	_, err := b.ask("check, direct, after that", 2, true, func(r *rand.Rand) directory.Question { return b.direct[r.IntN(len(b.direct))] })
	return err
}

// peer measures the two kinds of questions that the peers answer too.
func (b *bench) peer(column int, check func(directory.Question) bool) error {
	for name, qs := range map[string][]directory.Question{directCheck: b.direct, deepCheck: b.deep} {
		qs = qs[:len(qs)/2]
		do := func(i int) error {
			if !check(qs[i]) {
				return fmt.Errorf("%v is false", qs[i])
			}
			return nil
		}
		if _, _, err := sample(len(qs)/10, do); err != nil {
			return err
		}
		p50, p99, err := sample(len(qs), do)
		if err != nil {
			return err
		}
		b.find(name + ", p50").peers[column], b.find(name + ", p99").peers[column] = p50, p99
	}
	return nil
}

func (b *bench) maps() error {
	before := heap()
	m := newMaps(b.world)
	b.find("heap").peers[0] = float64(heap()-before) / 1e6
	b.find("one full GC").peers[0] = collection()
	err := b.peer(0, m.check)
	runtime.KeepAlive(m)
	return err
}

func (b *bench) bolt() error {
	db, err := newBolt(b.world, b.dir)
	if err != nil {
		return err
	}
	defer db.db.Close()
	if err := b.peer(1, db.check); err != nil {
		return err
	}
	p50, p99, err := sample(200, func(i int) error {
		return db.change(relation(resource(i/2*31%b.world.resources), "owner", user(i/2), ""), i%2 == 0)
	})
	b.find(oneChange).peers[1], b.find("one change, p99").peers[1] = p50, p99
	return err
}
