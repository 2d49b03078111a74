package gate_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/policy"
)

func shadowed(p *policy.Snapshot, sample float64) gate.Part {
	return func(v *gate.View) { v.Shadow = &gate.Shadow{Policy: p, Sample: sample} }
}

// settles waits until the shadow has done with n requests of its sample.
func settles(t *testing.T, g *gate.Gate, n uint64) *gate.ShadowStatus {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if s := g.ShadowStatus(); s.Decided+s.Dropped+s.Skipped >= n {
			return s
		} else if time.Now().After(end) {
			t.Fatalf("%+v", s)
		}
	}
}

// TestShadow: the shadow changes no answer; what it would decide otherwise is counted, told and logged.
func TestShadow(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	registry := prometheus.NewRegistry()
	active := compile(t, "package envoy.authz\n\ndefault allow := false\n\nallow if input.attributes.request.http.method == \"GET\"\n\nallow := {\"allowed\": true, \"headers\": {\"x-a\": \"1\"}} if input.attributes.request.http.method == \"PUT\"\n")
	next := compile(t, "package envoy.authz\n\ndefault allow := false\n\nallow if input.parsed_path[0] == \"open\"\n\nallow if {\n\tinput.attributes.request.http.method == \"GET\"\n\tinput.parsed_path[0] != \"secret\"\n}\n\nallow := {\"allowed\": true, \"headers\": {\"x-a\": \"2\"}} if input.attributes.request.http.method == \"PUT\"\n")
	g := gatetest.Start(t, gate.Config{Logger: zap.New(core), Registerer: registry}, gatetest.With(t, settings(), active))
	if g.ShadowStatus() != nil {
		t.Error("there is a shadow before one is published")
	}
	if err := g.Publish(t.Context(), shadowed(next, 1)); err != nil {
		t.Fatal(err)
	}
	for i, row := range []struct {
		method, path string
		allow        bool
	}{{"GET", "/orders", true}, {"GET", "/secret/1", true}, {"POST", "/open", false}, {"PUT", "/x", true}, {"POST", "/x", false}} {
		r := get(row.path)
		r.Method = row.method
		if a := g.Check(t.Context(), r); a.Allow != row.allow {
			t.Errorf("%s %s: allow is %v", row.method, row.path, a.Allow)
		}
		settles(t, g, uint64(i+1)) // one after the other: none is dropped
	}
	s := g.ShadowStatus()
	if !s.On || s.Decided != 5 || s.Differences != 3 || s.Denies != 1 || s.Allows != 1 || s.Errors != 0 || len(s.Last) != 3 || s.Revision != next.Revision() {
		t.Errorf("%+v", s)
	}
	for i, want := range []string{"allow, deny denied", "deny denied, allow", "allow, allow, with other headers or query parameters"} {
		if d := s.Last[i]; d.Active+", "+d.Shadow != want || d.DecisionID == "" {
			t.Errorf("%d: %+v", i, d)
		}
	}
	if n := logs.FilterMessage("the shadow policy decides otherwise").Len(); n != 3 {
		t.Errorf("%d are logged", n)
	}
	want := "# HELP gatehouse_shadow_differences_total Of these, those that it decides otherwise.\n# TYPE gatehouse_shadow_differences_total counter\ngatehouse_shadow_differences_total 3\n"
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "gatehouse_shadow_differences_total"); err != nil {
		t.Error(err)
	}

	// Another one counts anew, a sample of none decides nothing, and without one there is nothing.
	if err := g.Publish(t.Context(), shadowed(active, 0)); err != nil {
		t.Fatal(err)
	}
	g.Check(t.Context(), get("/orders"))
	if s := g.ShadowStatus(); s.Decided != 0 || len(s.Last) != 0 {
		t.Errorf("%+v", s)
	}
	if err := g.Publish(t.Context(), func(v *gate.View) { v.Shadow = nil }); err != nil || g.ShadowStatus() != nil {
		t.Errorf("%v, %+v", err, g.ShadowStatus())
	}
}

// TestShadowThatDoesNotFit: a shadow without the rule that is asked is no reason against a publication.
func TestShadowThatDoesNotFit(t *testing.T) {
	other := gatetest.Compile(t, policy.Config{}, "test", map[string]string{"policy.rego": "package other\nallow := true"})
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, settings(), compile(t, allowAll)), shadowed(other, 1))
	if a := g.Check(t.Context(), get("/")); !a.Allow {
		t.Error(a.Reason)
	}
	if s := g.ShadowStatus(); s.On || !strings.Contains(s.Why, "not defined by any rule") {
		t.Errorf("%+v", s)
	}
}

// TestShadowThatLoops: a shadow that comes to no end is stopped, and what comes meanwhile is dropped; the active policy
// answers as ever.
func TestShadowThatLoops(t *testing.T) {
	set := settings()
	set.Timeout = 20 * time.Millisecond
	endless := compile(t, "package envoy.authz\n\nallow if count([1 | some i in numbers.range(1, 50000); some j in numbers.range(1, 50000); i + j < 0]) == 0\n")
	set.Timeout = 50 * time.Millisecond
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, set, compile(t, allowAll)), shadowed(endless, 1))
	n := 0
	for end := time.Now().Add(time.Minute); g.ShadowStatus().On; n++ {
		if time.Now().After(end) {
			t.Fatalf("%+v", g.ShadowStatus())
		}
		if a := g.Check(t.Context(), get(fmt.Sprint("/", n))); !a.Allow {
			t.Fatal(a.Reason)
		}
		if n > 200 {
			time.Sleep(time.Millisecond)
		}
	}
	s := g.ShadowStatus()
	if s.Dropped == 0 || s.Errors == 0 || !strings.Contains(s.Why, "came to no end (timeout)") {
		t.Errorf("%+v", s)
	}
	if a := g.Check(t.Context(), get("/after")); !a.Allow {
		t.Error(a.Reason)
	}
}
