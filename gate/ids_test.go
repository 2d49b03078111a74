package gate_test

import (
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/identity"
)

// TestDecisionIDs: ids of two gates are unique and unordered.
func TestDecisionIDs(t *testing.T) {
	const each = 20000
	shape := regexp.MustCompile(`^[A-Z2-7]{26}$`)
	var ids []string
	for range 2 {
		g, err := gate.New(gate.Config{})
		if err != nil {
			t.Fatal(err)
		}
		for range each {
			id := g.Check(t.Context(), get("/")).DecisionID
			if !shape.MatchString(id) {
				t.Fatalf("%q", id)
			}
			ids = append(ids, id)
		}
	}
	rising := 0
	for i := range ids[1:] {
		if ids[i] < ids[i+1] {
			rising++
		}
	}
	if rising < each*9/10 || rising > each*11/10 {
		t.Errorf("%d of %d ids are above the one before", rising, len(ids))
	}
	slices.Sort(ids)
	if unique := len(slices.Compact(ids)); unique != 2*each {
		t.Errorf("%d of %d ids are unique", unique, 2*each)
	}
}

// TestAnswersKeepTheirMemory has many requests decided at once, with a spool, so that the memory of one serves the next: every answer stays
// what it was.
func TestAnswersKeepTheirMemory(t *testing.T) {
	s := settings()
	s.Headers = gate.IdentityHeaders{Subject: "x-subject"}
	var err error
	if s.Log, err = decisionlog.New(decisionlog.Config{File: "-", Stdout: io.Discard, Dir: filepath.Join(t.TempDir(), "spool")}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Log.Run(t.Context()) }()
	t.Cleanup(func() { <-ended })
	g := open(t, s, compile(t, `package envoy.authz

allow := {"allowed": true, "headers": {"x-path": input.attributes.request.http.path}, "dynamic_metadata": {"path": input.parsed_path[0]}}`))
	const callers, each = 8, 300
	var wait sync.WaitGroup
	answers := make([][]gate.Answer, callers)
	for n := range callers {
		wait.Go(func() {
			for i := range each {
				req := get(fmt.Sprintf("/%d-%d", n, i%50))
				req.As = &identity.Identity{Type: "t", Subject: fmt.Sprintf("subject-%d-%d", n, i%50), Authenticated: true}
				answers[n] = append(answers[n], g.Check(t.Context(), req))
			}
		})
	}
	wait.Wait()
	for n := range callers {
		for i, a := range answers[n] {
			path, subject := fmt.Sprintf("%d-%d", n, i%50), fmt.Sprintf("subject-%d-%d", n, i%50)
			if got := fmt.Sprint(a.Set, a.Metadata); !strings.Contains(got, "x-path /"+path+" ") || !strings.Contains(got, subject+" ") || a.Metadata["path"] != path {
				t.Fatalf("request %d of caller %d was answered %s", i, n, got)
			}
		}
	}
}
