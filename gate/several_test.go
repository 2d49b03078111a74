package gate_test

import (
	"encoding/json"
	"testing"

	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/routes"
)

// TestAllowedBySeveralRoutesIsLoggedAsTheFirst: the entry of an allow that several routes had a say in is about the first one, in all of its parts.
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
