package gate_test

import (
	"encoding/json"
	"testing"

	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/policy"
	"gatehouse/policy/rego"
	"gatehouse/routes"
)

// TestAllowedBySeveralRoutesIsLoggedAsTheFirst: if several routes allowed, all parts of the entry describe the first one.
func TestAllowedBySeveralRoutesIsLoggedAsTheFirst(t *testing.T) {
	table, _, err := routes.Parse("routes.yaml", []byte("framework: django\nconverters: {y: {regex: '[0-9]{4}'}}\nroutes:\n  - GET /a/<y:year>/\n  - GET /a/<str:name>/\n"))
	if err != nil {
		t.Fatal(err)
	}
	log, written := gatetest.Log(t)
	p := compileFiles(t, "package shop.GET.a.__year\nallowed := true if input.resource.year", "package shop.GET.a.__name\nallowed := true if input.resource.name")
	s := forApps(gate.App{Root: []string{"shop"}})
	s.Log = log
	g := open(t, settings(), compile(t, allowAll))
	if err := g.Publish(t.Context(), func(v *gate.View) { v.Settings, v.Policy, v.Routes = s, p, map[string]*routes.Table{"": table} }); err != nil {
		t.Fatal(err)
	}
	a := g.Check(t.Context(), get("/a/2024/"))
	if !a.Allow {
		t.Fatalf("%+v", a)
	}
	text := written()
	var e struct {
		Path, Route string
		Parameters  map[string]string
		Input       struct {
			Resource map[string]string
			Route    struct{ Template string }
			Policy   struct{ Path string }
		}
	}
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Fatal(err)
	}
	if e.Route != e.Input.Route.Template || e.Path != "shop.GET.a.__year" || e.Input.Policy.Path != e.Path || e.Parameters["year"] == "" || e.Input.Resource["year"] == "" {
		t.Errorf("the entry is about two routes: %+v", e)
	}
}

// TestSeveralRoutesMayAskDifferently: allowing decisions are alike if they have the same effect on the request, even
// with different directory queries and different forms of no effect.
func TestSeveralRoutesMayAskDifferently(t *testing.T) {
	table, _, err := routes.Parse("routes.yaml", []byte("framework: django\nconverters: {y: {regex: '[0-9]{4}'}}\nroutes:\n  - GET /a/<y:year>/\n  - GET /a/<str:name>/\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := compileFiles(t, "package shop.GET.a.__year\nallowed := {\"allowed\": true, \"request_headers_to_remove\": []} if ds.check({\"year\": input.resource.year})",
		"package shop.GET.a.__name\nallowed := true if ds.check({\"name\": input.resource.name})")
	g := open(t, settings(), compile(t, allowAll))
	if err := g.Publish(t.Context(), func(v *gate.View) {
		v.Settings, v.Policy, v.Routes = forApps(gate.App{Root: []string{"shop"}}), p, map[string]*routes.Table{"": table}
		v.Facts = policy.Facts{Directory: answers(func() rego.Value { return rego.Bool(true) }), Version: 1}
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second is remembered
		if a := g.Check(t.Context(), get("/a/2024/")); !a.Allow {
			t.Errorf("%v: %v", a.Reason, a.Diagnostics.Cause)
		}
	}
}
