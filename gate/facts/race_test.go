package facts_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gatehouse/directory"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
)

// TestOneRevision has many callers ask, with a memo, while the directory counts: user:alice has the number in her properties, and doc:9 has her as
// owner where it is even. Each answer is of one number alone, and of none that was gone when its request came.
func TestOneRevision(t *testing.T) {
	p := gatetest.Policy(t, `package envoy.authz

even := ds.check({"object_type": "doc", "object_id": "9", "relation": "owner", "subject_type": "user", "subject_id": "alice"})

default odd := false

odd if not ds.check({"object_type": "doc", "object_id": "9", "relation": "can_write", "subject_type": "user", "subject_id": "alice"})

counted := ds.user({"id": "alice"}).properties.n if input.parsed_path[0] == "traced"

else := ds.object({"object_type": "user", "object_id": "alice"}).properties.n

allow := {"allowed": true, "headers": {"x-n": sprintf("%v %v %v", [counted, even, odd])}}
`)
	s := office(t, directory.Limits{})
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, gatetest.Settings(), p), func(v *gate.View) { v.Directory = s })
	owner := relation("doc:9#owner@user:alice")
	var inForce atomic.Int64
	count := func(n int64) {
		t.Helper()
		changes := []directory.Change{{SetObject: &directory.Object{Ref: owner.Subject, Properties: fmt.Appendf(nil, `{"n":%d}`, n)}}, {DeleteRelation: &owner}}
		if n%2 == 0 {
			changes[1] = directory.Change{SetRelation: &owner}
		}
		next, err := s.Apply(changes)
		if err != nil {
			t.Fatal(err)
		}
		s = next
		if err := g.Publish(t.Context(), func(v *gate.View) { v.Directory = next }); err != nil {
			t.Fatal(err)
		}
		inForce.Store(n)
	}
	count(0)
	var wait sync.WaitGroup
	var stop atomic.Bool
	for worker := range 4 {
		wait.Go(func() {
			for i := 0; !stop.Load(); i++ {
				least := inForce.Load()
				path := []string{"/traced", "/asked"}[(worker+i)%2]
				a := g.Check(t.Context(), &gate.Request{Method: "GET", Path: path, Host: "h.example", As: &identity.Identity{}})
				i := slices.IndexFunc(a.Set, func(h gate.HeaderOption) bool { return h.Name == "x-n" })
				if i < 0 {
					t.Errorf("%v %v", a.Reason, a.Diagnostics.Cause)
					return
				}
				said := strings.Fields(a.Set[i].Value)
				n, err := strconv.ParseInt(said[0], 10, 64)
				if even := n%2 == 0; err != nil || n < least || said[1] != fmt.Sprint(even) || said[2] != fmt.Sprint(!even) {
					t.Errorf("%q; at its begin %d was in force", said, least)
					return
				}
			}
		})
	}
	for n := range int64(400) {
		count(n + 1)
	}
	stop.Store(true)
	wait.Wait()
	if hits := g.MemoStatus().Hits; hits == 0 {
		t.Error("nothing was remembered")
	}
}
