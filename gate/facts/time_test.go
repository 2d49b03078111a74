package facts_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
)

// manifests are what the office's manifest is changed to and back: a permission and a relation that are gone, and permissions that mean something else.
var manifests = []string{
	manifest,
	strings.Replace(manifest, "can_write: owner, can_read: (viewer | can_write | parent->can_read) - banned", "can_write: owner", 1),
	strings.Replace(manifest, " - banned}", "}", 1),
	strings.Replace(manifest, "can_write: owner,", "can_write: owner | viewer,", 1),
	strings.Replace(strings.Replace(manifest, ", banned: user", "", 1), " - banned}", "}", 1),
	strings.Replace(manifest, "viewer: user | group#member, banned", "viewer: user, banned", 1),
}

// step makes the next directory of one of those before, in one of the ways in which a directory comes to be another one.
func step(t *testing.T, r *rand.Rand, past []*directory.Snapshot, at time.Time) *directory.Snapshot {
	is := past[len(past)-1]
	var err error
	var next *directory.Snapshot
	switch r.IntN(12) {
	case 0: // another manifest; force drops what it does not allow
		m, problem := directory.ParseManifest("manifest.yaml", []byte(manifests[r.IntN(len(manifests))]))
		if problem != nil {
			t.Fatal(problem)
		}
		next, err = is.SetManifest(m, true)
	case 1: // questions that fail, and that do not
		next = is.WithLimits(directory.Limits{Work: []int{0, 0, 1, 3}[r.IntN(4)], Depth: []int{0, 0, 1}[r.IntN(3)]})
	case 2: // back to one before, as it was
		next = past[r.IntN(len(past))]
	case 3: // a branch of one before
		next, err = past[r.IntN(len(past))].Apply([]directory.Change{timedChange(r, at)})
	case 4:
		next = is.WithRevision(uint64(r.IntN(9)))
	case 5: // a batch of more than is marked
		var batch []directory.Change
		for i := range 1100 {
			batch = append(batch, directory.Change{SetObject: &directory.Object{Ref: directory.Ref{Type: "user", ID: fmt.Sprint("extra", r.IntN(2000), i)}}})
		}
		next, err = is.Apply(append(batch, timedChange(r, at)))
	case 6: // gone, and there again by another number
		o := directory.Ref{Type: []string{"user", "doc", "group"}[r.IntN(3)], ID: []string{"alice", "bob", "7", "eng", "x"}[r.IntN(5)]}
		other := directory.Object{Ref: directory.Ref{Type: "doc", ID: "other" + fmt.Sprint(r.IntN(5))}}
		changes := []directory.Change{{DeleteObject: &o}, {SetObject: &other}}
		if r.IntN(2) == 0 {
			changes = append(changes, directory.Change{SetObject: &directory.Object{Ref: o}}, timedChange(r, at))
		}
		next, err = is.Apply(changes)
	default:
		next, err = is.Apply([]directory.Change{timedChange(r, at)})
	}
	if err != nil { // a relation that the manifest or the objects of that moment do not allow
		var refused *directory.ChangeError
		if !errors.As(err, &refused) {
			t.Fatal(err)
		}
		return is
	}
	return next
}

func timedChange(r *rand.Rand, at time.Time) directory.Change {
	c := randomChange(r)
	if c.SetRelation != nil && r.IntN(2) == 0 {
		c.SetRelation.Expires = at.Add(time.Duration(r.IntN(5)-1) * time.Second).Truncate(time.Second)
	} else if c.SetRelation != nil {
		c.SetRelation.Expires = time.Time{}
	}
	if r.IntN(10) == 0 {
		properties := []string{`{"disabled":true}`, `{}`, `{"disabled":"no"}`}[r.IntN(3)]
		return directory.Change{SetObject: &directory.Object{Ref: directory.Ref{Type: "user", ID: []string{"alice", "eve"}[r.IntN(2)]}, Properties: []byte(properties)}}
	}
	return c
}

// TestRememberedThroughTime compares a gate that remembers with one that does not, under a clock that stands on the boundaries of expiries and
// goes back, while the directory changes in every way it can: relations, manifests, limits, branches, the same ones again.
func TestRememberedThroughTime(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 5))
	hits, outcomes := uint64(0), map[string]int{}
	for range timeRounds {
		rego := randomPolicy(r)
		p := gatetest.Policy(t, rego)
		users := &gate.Users{ByID: r.IntN(2) == 0, DenyUnknown: r.IntN(4) == 0}
		remembering, plain := gatetest.Settings(), gatetest.Settings()
		remembering.Users, plain.Users, plain.Memo.Off = users, users, true
		var clock atomic.Int64 // nanoseconds
		clock.Store(now.UnixNano())
		cfg := gate.Config{Clock: func() time.Time { return time.Unix(0, clock.Load()) }}
		past := []*directory.Snapshot{office(t, directory.Limits{})}
		part := func(v *gate.View) { v.Directory = past[len(past)-1] }
		one := gatetest.Start(t, cfg, gatetest.With(t, remembering, p), part)
		two := gatetest.Start(t, cfg, gatetest.With(t, plain, p), part)
		for range 250 {
			switch r.IntN(6) {
			case 0:
				past = append(past, step(t, r, past, time.Unix(0, clock.Load())))
				if len(past) > 12 {
					past = past[1:]
				}
				for _, g := range []*gate.Gate{one, two} {
					if err := g.Publish(t.Context(), part); err != nil {
						t.Fatal(err)
					}
				}
			case 1: // to the last nanosecond before a boundary, onto it, on, and back
				to := time.Unix(0, clock.Load()).Truncate(time.Second)
				clock.Store(to.Add([]time.Duration{-1, 0, time.Second - 1, time.Second, -2 * time.Second, 3 * time.Second}[r.IntN(6)]).UnixNano())
			}
			id := &identity.Identity{Type: identity.TypeJWT, Authenticated: true, Subject: []string{"alice", "bob", "eve", "nobody", "*", "twin", "a@example.com"}[r.IntN(7)]}
			id.Identity = id.Subject
			path := "/" + []string{"7", "9", "open", "x", "*"}[r.IntN(5)] + "/" + []string{"alice", "viewer", "can_read", "nothing", "%2A"}[r.IntN(5)]
			ask := func(g *gate.Gate) string {
				a := g.Check(t.Context(), &gate.Request{Method: "GET", Path: path, Host: "h.example", As: id})
				return fmt.Sprint(a.Allow, a.Reason)
			}
			want := ask(two)
			outcomes[want]++
			for range 2 { // the second is remembered, if it may be
				if got := ask(one); got != want {
					t.Fatalf("%s for %s: remembered %s, want %s\n%s", path, id.Subject, got, want, rego)
				}
			}
		}
		hits += one.MemoStatus().Hits
	}
	t.Logf("%d remembered, %v", hits, outcomes)
	if hits < 100*timeRounds || len(outcomes) < 5 {
		t.Error("hardly anything was remembered, or came of it")
	}
}

const timeRounds = 12
