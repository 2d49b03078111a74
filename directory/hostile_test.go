package directory_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/directory"
)

// TestAllocations: Check allocates nothing, whatever the answer. Not under the race detector, which allocates by itself.
func TestAllocations(t *testing.T) {
	relations := append([]string{}, drive...)
	for i := range 300 { // hubs
		relations = append(relations, fmt.Sprintf("group:hub#member@user:h%d", i), fmt.Sprintf("group:g%d#member@user:joiner", i))
	}
	relations = append(relations, "doc:hub#viewer@group:hub#member", "doc:last#viewer@group:g299#member")
	s := snapshot(t, topaz, directory.Limits{}, relations...)
	for text, want := range map[string]bool{
		"folder:a#viewer@user:alice": true, "folder:a#viewer@user:dora": false, "doc:7#can_read@user:carl": true, "doc:7#can_read@user:eve": false,
		"doc:7#can_share@user:olga": true, "doc:7#can_invite@user:alice": false, "doc:8#can_read@user:nobody": true, "doc:0#can_read@user:nobody": false,
		"doc:9#viewer@user:eve": true, "doc:10#viewer@user:yin": true, "doc:hub#can_read@user:h200": true, "doc:hub#can_read@user:joiner": false,
		"doc:last#can_read@user:joiner": true, "doc:7#can_edit@user:dora": true,
		"doc:11#can_read@user:eve": true, "doc:11#can_read@user:alice": false, // a circle of folders
	} {
		q := questionOf(t, text)
		if got, err := s.Check(q, epoch); got != want || err != nil {
			t.Errorf("%s: %v %v", text, got, err)
		}
		if n := testing.AllocsPerRun(100, func() { s.Check(q, epoch) }); n > 0 && !raceEnabled {
			t.Errorf("%s: %v allocations", text, n)
		}
	}
}

// TestLimits: a question over its limits is an error, also where & and - could make another answer of it.
func TestLimits(t *testing.T) {
	const m = `model: {version: 3}
types:
  user: {}
  group:
    relations: {member: user | group#member}
  doc:
    relations: {viewer: user | group#member, banned: user | group#member, parent: doc}
    permissions:
      allowed: viewer - banned
      both: banned & viewer
      either: banned | viewer
      inherited: viewer | parent->inherited
      clean: viewer - parent->blocked
      blocked: banned | parent->blocked
`
	relations := []string{"doc:1#viewer@user:a", "doc:1#banned@group:0#member", "doc:1#parent@doc:c0", "doc:2#viewer@group:98#member", "doc:3#viewer@group:61#member",
		"doc:3#banned@group:60#member"}
	for i := range 100 {
		relations = append(relations, fmt.Sprintf("group:%d#member@group:%d#member", i, i+1), fmt.Sprintf("doc:c%d#parent@doc:c%d", i, i+1))
	}
	relations = append(relations, "group:100#member@user:deep", "group:100#member@user:a", "doc:c100#banned@user:a", "doc:c99#viewer@user:top")
	s := snapshot(t, m, directory.Limits{}, relations...)
	for text, want := range map[string]string{
		"doc:1#allowed@user:a":    "limit", // banned, but too deep to see
		"doc:1#both@user:a":       "limit",
		"doc:1#either@user:a":     "limit",
		"doc:1#viewer@user:a":     "yes",
		"doc:1#clean@user:a":      "limit",
		"doc:1#inherited@user:a":  "yes",
		"doc:1#inherited@user:b":  "limit",
		"doc:2#viewer@user:deep":  "yes", // near, though the user is in 100 groups
		"doc:3#viewer@user:deep":  "yes",
		"doc:3#banned@user:deep":  "yes",
		"doc:3#allowed@user:deep": "no",
		"doc:1#banned@user:deep":  "limit",
	} {
		got := verdictOf(s.Check(questionOf(t, text), epoch))
		if strings.Contains(got, "limits") {
			got = "limit"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	if got := verdictOf(s.WithLimits(directory.Limits{Depth: 200}).Check(questionOf(t, "doc:1#allowed@user:a"), epoch)); got != "no" {
		t.Error(got)
	}
	for _, l := range []directory.Limits{{Depth: 200, Work: 20}, {Depth: 1}} {
		if _, err := s.WithLimits(l).Check(questionOf(t, "doc:1#banned@user:a"), epoch); !errors.Is(err, directory.ErrLimit) {
			t.Error(l, err)
		}
	}
	if _, _, err := s.Who(ref("doc", "1"), "banned", "user", "", 0, epoch); !errors.Is(err, directory.ErrLimit) {
		t.Error(err)
	}
}

// within runs f, which must be done soon: what is asked of it is without end where a bound is missing.
func within(t *testing.T, what string, f func() error) {
	t.Helper()
	begin := time.Now()
	err := f()
	t.Logf("%s: %v, %v", what, time.Since(begin), err)
}

// TestHostile: data and manifests that are made to take long, or never to end.
func TestHostile(t *testing.T) {
	const groups = `model: {version: 3}
types:
  user: {}
  group:
    relations: {member: user | user:* | group#member}
  doc:
    relations: {viewer: user | group#member, parent: doc}
    permissions: {can_read: viewer | parent->can_read, deep: viewer & parent->deep, all: viewer - parent->all}
`
	deep := 200_000
	if raceEnabled {
		deep = 30_000
	}
	relations := make([]string, 0, 2*deep+10)
	for i := range deep {
		relations = append(relations, fmt.Sprintf("group:%d#member@group:%d#member", i+1, i))
	}
	relations = append(relations, "group:0#member@user:a", fmt.Sprintf("doc:1#viewer@group:%d#member", deep), "doc:2#viewer@group:5#member")
	s := snapshot(t, groups, directory.Limits{}, relations...)
	for _, l := range []directory.Limits{{}, {Depth: 1 << 30, Work: 1 << 40}} {
		s := s.WithLimits(l)
		within(t, "deep groups", func() error {
			_, err := s.Check(questionOf(t, "doc:1#can_read@user:a"), epoch)
			if !errors.Is(err, directory.ErrLimit) {
				t.Error(err)
			}
			return err
		})
		if yes, err := s.Check(questionOf(t, "doc:2#can_read@user:a"), epoch); !yes || err != nil {
			t.Error(yes, err)
		}
	}

	// Every document is the parent of every other.
	relations = relations[:0]
	for i := range 60 {
		for j := range 60 {
			relations = append(relations, fmt.Sprintf("doc:%d#parent@doc:%d", i, j))
		}
		relations = append(relations, fmt.Sprintf("doc:%d#viewer@user:all", i))
	}
	relations = append(relations, "doc:59#viewer@user:a", "group:g#member@user:*")
	s = snapshot(t, groups, directory.Limits{}, relations...)
	for text, want := range map[string]string{
		"doc:0#can_read@user:a": "yes", "doc:0#can_read@user:b": "no", "doc:0#deep@user:all": "no", "doc:0#all@user:all": "circular",
		"doc:0#all@user:b": "no", "doc:59#all@user:a": "circular", "group:g#member@user:nobody": "yes",
	} {
		within(t, text, func() error {
			if got := verdictOf(s.Check(questionOf(t, text), epoch)); got != want {
				t.Errorf("%s: %s, want %s", text, got, want)
			}
			_, err := s.Explain(questionOf(t, text), epoch)
			return err
		})
	}

	// Permissions that double with each level.
	var b strings.Builder
	b.WriteString("model: {version: 3}\ntypes:\n  user: {}\n  doc:\n    relations: {viewer: user, parent: doc}\n    permissions:\n      p0: viewer | parent->p0\n")
	for i := range 60 {
		fmt.Fprintf(&b, "      p%d: (p%d & p%d) | (p%d - (viewer - p%d))\n      q%d: parent->p%d & parent->p%d\n", i+1, i, i, i, i, i, i, i)
	}
	s = snapshot(t, b.String(), directory.Limits{}, relations[:60*61-1]...)
	for text, want := range map[string]string{"doc:0#p60@user:all": "yes", "doc:0#p60@user:b": "no", "doc:0#q59@user:all": "yes", "doc:0#q59@user:b": "no"} {
		within(t, text, func() error {
			got := verdictOf(s.WithLimits(directory.Limits{Work: 10_000_000}).Check(questionOf(t, text), epoch))
			if got != want {
				t.Errorf("%s: %s, want %s", text, got, want)
			}
			s.Explain(questionOf(t, text), epoch)
			s.What(ref("user", "all"), "p60", "doc", "", 0, epoch)
			_, _, err := s.Who(ref("doc", "0"), "p60", "user", "", 0, epoch)
			return err
		})
	}
}

// TestLargeGroups: a group of 100,000, and a user in as many groups.
func TestLargeGroups(t *testing.T) {
	n := 100_000
	if raceEnabled {
		n = 20_000
	}
	relations := make([]string, 0, 2*n+2)
	for i := range n {
		relations = append(relations, fmt.Sprintf("group:all#member@user:%d", i), fmt.Sprintf("group:%d#member@user:joiner", i))
	}
	relations = append(relations,
		"doc:1#viewer@group:all#member", fmt.Sprintf("doc:2#viewer@group:%d#member", n-1), "doc:1#viewer@group:a#member", "group:a#member@user:a")
	s := snapshot(t, topaz, directory.Limits{}, relations...)
	for text, want := range map[string]string{
		fmt.Sprintf("doc:1#can_read@user:%d", n-1): "yes", "doc:1#can_read@user:a": "yes", "doc:1#can_read@user:joiner": "no", "doc:2#can_read@user:joiner": "yes",
		"doc:2#can_read@user:a": "no",
	} {
		within(t, text, func() error {
			if got := verdictOf(s.Check(questionOf(t, text), epoch)); got != want {
				t.Errorf("%s: %s, want %s", text, got, want)
			}
			return nil
		})
	}
	found := 0
	for after := ""; ; {
		page, next, err := s.Who(ref("doc", "1"), "can_read", "user", after, 10_000, epoch)
		if err != nil {
			t.Fatal(err)
		}
		found += len(page)
		if after = next; next == "" {
			break
		}
	}
	if found != n+1 {
		t.Error(found)
	}
}

// TestLargeManifest: what is within the bounds compiles soon, and what would not is refused.
func TestLargeManifest(t *testing.T) {
	manifest := func(relations, permissions int) []byte {
		var b strings.Builder
		b.WriteString("model: {version: 3}\ntypes:\n  t:\n    relations:\n")
		for i := range relations {
			fmt.Fprintf(&b, "      r%d: t | t#r%d | t#r%d\n", i, (i+1)%relations, (i*7)%relations)
		}
		b.WriteString("    permissions:\n      p0: r0\n")
		for i := range permissions {
			fmt.Fprintf(&b, "      p%d: r%d->p%d | p%d | r1\n", i+1, i%relations, i, i)
		}
		return []byte(b.String())
	}
	for _, c := range []struct {
		relations, permissions int
		refused                bool
	}{{100, 0, false}, {10, 100, false}, {300, 100, true}, {100, 20, false}} {
		within(t, fmt.Sprint(c), func() error {
			m, err := directory.ParseManifest("m", manifest(c.relations, c.permissions))
			if (err != nil) != c.refused {
				t.Error(err)
			}
			if err == nil {
				directory.New(m, directory.Limits{})
			}
			return err
		})
	}
}

// TestConcurrentQuestions: snapshots are asked by many while others are made of them.
func TestConcurrentQuestions(t *testing.T) {
	s := snapshot(t, topaz, directory.Limits{}, drive...)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			s := s
			for i := range 60 {
				q := questionOf(t, []string{"doc:7#can_read@user:carl", "doc:11#can_read@user:eve", "doc:8#can_read@user:nobody"}[i%3])
				yes, err := s.Check(q, epoch)
				e, err2 := s.Explain(q, epoch)
				if !yes || err != nil || err2 != nil || !e.Allowed {
					t.Error(q, yes, err, err2)
				}
				r := relationOf(t, fmt.Sprintf("group:core#member@user:%s", []string{"alice", "dora"}[i%2]))
				if s, err = s.Apply([]directory.Change{{SetRelation: &r}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}
