//go:build !race

package gate_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/hack/allocations"
	"gatehouse/identity"
	"gatehouse/identity/mint"
	"gatehouse/routes"
)

// TestAllocations is a decision with everything that it has in production, but for the transport: a token, a route table, a role policy,
// the decision log with its spool, metrics.
func TestAllocations(t *testing.T) {
	dir := t.TempDir()
	issuer, err := mint.OpenLocalIssuer(dir, mint.LocalIssuerName)
	if err != nil {
		t.Fatal(err)
	}
	token, err := issuer.Mint("", map[string]any{"aud": "orders", "sub": "ann", "roles": []string{"editor", "viewer"}}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	g := complete(t, dir, issuer.Set())
	repeated, denied := get("/orders/17"), get("/orders/17")
	for _, req := range []*gate.Request{repeated, denied} {
		for i := range 18 {
			req.Headers = append(req.Headers, gate.Header{Name: fmt.Sprintf("x-custom-%d", i), Value: "some value"})
		}
		req.Headers = append(req.Headers, gate.Header{Name: "authorization", Value: "Bearer " + token})
	}
	denied.Method = "DELETE"
	decide := func(req *gate.Request, allow bool) func() {
		return func() {
			if answer := g.Check(t.Context(), req); answer.Allow != allow {
				t.Fatal(answer.Reason)
			}
		}
	}
	allocations.Compare(t, map[string]func(){
		"repeated decision": decide(repeated, true),
		"repeated denial":   decide(denied, false),
	})
}

// complete is a gate with every part. Nobody empties its log, so that what the writer allocates is not counted.
func complete(t *testing.T, dir, keySet string) *gate.Gate {
	t.Helper()
	s := settings()
	var err error
	s.Verifier, err = identity.New(identity.Config{Issuers: []identity.Issuer{{Issuer: mint.LocalIssuerName, Audiences: []string{"orders"},
		Keys: identity.KeySource{File: keySet}}}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := s.Verifier.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Log, err = decisionlog.New(decisionlog.Config{File: "-", Stdout: t.Output(), Dir: filepath.Join(dir, "spool"), MaxWait: time.Minute}); err != nil {
		t.Fatal(err)
	}
	table, _, err := routes.Parse("routes.yaml", []byte("framework: flask\nroutes:\n  - {route: \"GET, DELETE /orders/<id>\", name: order}\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := compile(t, `package envoy.authz

default allow := {"allowed": false}

roles := {"viewer": [{"method": "GET", "route": "order"}], "editor": [{"method": "PUT", "route": "order"}]}

allow := {"allowed": true, "headers": {"x-tenant": "t1"}} if {
	some role in input.identity.roles
	some grant in roles[role]
	grant.method == input.attributes.request.http.method
	grant.route == input.route.name
}`)
	return gatetest.Start(t, gate.Config{Registerer: prometheus.NewRegistry()}, gatetest.With(t, s, p), func(v *gate.View) {
		v.Keys, v.Routes = keys, map[string]*routes.Table{"": table}
	})
}
