package gate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/identity"
	"gatehouse/identity/mint"
	"gatehouse/policy"
	"gatehouse/routes"
)

// keySets are two key sets with different digests, and none.
func keySets(t testing.TB) []*identity.Keys {
	t.Helper()
	all := []*identity.Keys{nil}
	for range 2 {
		issuer, err := mint.OpenLocalIssuer(t.TempDir(), mint.LocalIssuerName)
		if err != nil {
			t.Fatal(err)
		}
		v, err := identity.New(identity.Config{Issuers: []identity.Issuer{{Issuer: mint.LocalIssuerName, Audiences: []string{"orders"},
			Keys: identity.KeySource{File: issuer.Set()}}}})
		if err != nil {
			t.Fatal(err)
		}
		keys, err := v.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, keys)
	}
	return all
}

// TestViewIsAsFromScratch publishes parts at random. Whatever a View took over from the one before, it is the View that would be made
// of the same parts alone, and a publication that fails is one that would fail from scratch as well.
func TestViewIsAsFromScratch(t *testing.T) {
	module := func(version int, packages ...string) *policy.Snapshot {
		var files []string
		for _, name := range packages {
			files = append(files, fmt.Sprintf("package %s\nallowed := {\"allowed\": true, \"headers\": {\"x-version\": \"%d\"}}", name, version))
		}
		return compileFiles(t, files...)
	}
	policies := []*policy.Snapshot{
		module(1, "shop.GET.a", "shop.GET.a.__id", "shop.ANY.b", "one", "other"),
		module(2, "shop.GET.a", "shop.GET.a.__id", "shop.ANY.b", "one", "other"),
		module(3, "shop.GET.a", "one"),
		module(4, "shop.ANY[\"/**\"]", "shop.GET.gone", "one", "other"),
	}
	tables := []map[string]*routes.Table{
		nil,
		{"": routeTable(t, "flask", "  - GET /a", "  - GET /a/<int:id>", "  - POST /b")},
		{"": routeTable(t, "flask", "  - GET /a", "  - GET /a/<id>"), "x": routeTable(t, "flask", "  - GET /a"), "y": routeTable(t, "flask", "  - GET /b")},
		{"": routeTable(t, "flask", "  - GET /a"), "x": routeTable(t, "flask", "  - POST /b", "  - GET /a/<int:id>")},
	}
	root, decision := []string{"shop"}, []string{"one", "allowed"}
	apps := [][]gate.App{
		{{Decision: decision}},
		{{Decision: []string{"other", "allowed"}}},
		{{Root: root}},
		{{Root: root, StrictRoutes: true}},
		{{Root: root, AllowUnmatched: true}},
		{{Name: "x", Hosts: []string{"X.test"}, Root: root}, {Name: "y", Hosts: []string{"y.test"}, Decision: decision}},
		{{Name: "y", Hosts: []string{"y.test"}, Decision: decision}, {Name: "x", Hosts: []string{"X.test"}, Root: root}},
		{{Name: "x", Hosts: []string{"x.test", "z.test"}, Root: root, Redirects: true}, {Name: "y", Decision: decision}},
	}
	keys := keySets(t)
	g := open(t, forApps(gate.App{Decision: decision}), policies[0])
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	published, failed, shared := 0, 0, 0
	for range 2000 {
		before := *g.View()
		var parts []gate.Part
		for range 1 + random.IntN(2) {
			switch kind, n := random.IntN(7), random.IntN(100); kind {
			case 0:
				parts = append(parts, func(v *gate.View) { v.Policy = policies[n%len(policies)] })
			case 1:
				parts = append(parts, func(v *gate.View) { v.Routes = tables[n%len(tables)] })
			case 2, 3:
				s := *before.Settings
				if kind == 2 {
					s.Apps = apps[n%len(apps)]
				}
				s.Timeout, s.Memo.Bytes, s.DryRun = time.Duration(1+n%3)*time.Second, int64(n%2)<<20, n%5 == 0
				s.Paths.Compat = n%7 == 0
				if s.Paths.Allow = 0; n%3 == 0 {
					s.Paths.Allow = routes.EncodedSlash
				}
				parts = append(parts, func(v *gate.View) { v.Settings = &s })
			default:
				parts = append(parts, func(v *gate.View) { v.Keys = keys[n%len(keys)] })
			}
		}
		fit, err := g.Validate(parts...), g.Publish(t.Context(), parts...)
		next := before
		for _, part := range parts {
			part(&next)
		}
		made, failure := next.FromScratch()
		if fmt.Sprint(err) != fmt.Sprint(failure) || fmt.Sprint(fit) != fmt.Sprint(err) {
			t.Fatalf("published with %v, Validate says %v, from scratch it is %v", err, fit, failure)
		}
		now := g.View()
		if err != nil {
			failed++
			if now.Serial != before.Serial || now.Dump() != before.Dump() {
				t.Fatal("a publication that failed changed the View")
			}
			continue
		}
		published++
		if got, want := now.Dump(), made.Dump(); got != want {
			t.Fatalf("the View is\n%s\nfrom scratch it is\n%s", got, want)
		}
		if now.Settings == before.Settings && now.Policy == before.Policy && fmt.Sprint(now.Routes) == fmt.Sprint(before.Routes) {
			shared++
			if !now.Shares(&before) || !now.SameMemo(&before) {
				t.Fatal("keys alone changed, and rules or memo are made anew")
			}
		}
		if sameMemo := now.Policy == before.Policy && now.Settings.Memo == before.Settings.Memo; !plain() && now.SameMemo(&before) != sameMemo {
			t.Fatalf("the memo is kept: %v, want %v", !sameMemo, sameMemo)
		}
	}
	t.Logf("%d published, %d of keys alone, %d refused", published, shared, failed)
	if published < 500 || failed < 100 || shared < 100 {
		t.Error("that is too few of one kind")
	}
}

// manyRoutes is a policy with a rule for each of n routes, and their table.
func manyRoutes(t testing.TB, n int) (*policy.Snapshot, *routes.Table) {
	t.Helper()
	var files, lines []string
	for i := range n {
		files = append(files, fmt.Sprintf("package shop.GET.r%d\nallowed if input.identity.subject == \"u%d\"", i, i))
		lines = append(lines, fmt.Sprintf("  - GET /r%d", i))
	}
	return compileFiles(t, files...), routeTable(t, "flask", lines...)
}

// BenchmarkPublishKeys publishes new keys where 10,000 routes have a rule each.
func BenchmarkPublishKeys(b *testing.B) {
	p, table := manyRoutes(b, 10_000)
	g := openApps(b, p, map[string]*routes.Table{"": table}, gate.App{Root: []string{"shop"}})
	keys := keySets(b)
	memo, n := g.Memo(), 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		if err := g.Publish(context.Background(), func(v *gate.View) { v.Keys = keys[n%len(keys)] }); err != nil {
			b.Fatal(err)
		}
	}
	if g.Memo() != memo {
		b.Error("the memo is another")
	}
}

// TestPublishSurvivesPanics: a panic in assembling a View or in OnPublish neither ends the gate nor blocks a caller.
func TestPublishSurvivesPanics(t *testing.T) {
	told := 0
	g := gatetest.Start(t, gate.Config{OnPublish: func(*gate.View) {
		if told++; told == 2 {
			panic("told")
		}
	}}, gatetest.With(t, settings(), compile(t, allowAll)))
	broken := func(v *gate.View) { v.Policy = new(policy.Snapshot) }
	serial := g.View().Serial
	if err := g.Publish(t.Context(), broken); err == nil || g.View().Serial != serial {
		t.Errorf("%v; serial %d, was %d", err, g.View().Serial, serial)
	}
	if err := g.Publish(t.Context(), func(*gate.View) {}); err != nil || g.View().Serial != serial+1 {
		t.Errorf("%v; serial %d, was %d", err, g.View().Serial, serial)
	}
	if err := g.Validate(func(*gate.View) { panic("part") }); err == nil {
		t.Error("a part that panics is valid")
	}
	if a := g.Check(t.Context(), get("/")); !a.Allow || told != 2 {
		t.Errorf("%v, told %d times", a.Reason, told)
	}
}
