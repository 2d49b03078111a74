package gate_test

import (
	"fmt"
	"testing"
)

// BenchmarkCheck is a decision without transport, credential and log: 20 headers and an RBAC policy.
func BenchmarkCheck(b *testing.B) {
	g := open(b, settings(), compile(b, `package envoy.authz

default allow := {"allowed": false}

roles := {"viewer": [{"method": "GET", "path": "/orders/*"}], "editor": [{"method": "PUT", "path": "/orders/*"}]}

allow := {"allowed": true, "headers": {"x-tenant": "t1"}} if {
	some role in ["editor", "viewer"]
	some grant in roles[role]
	grant.method == input.attributes.request.http.method
	glob.match(grant.path, ["/"], input.attributes.request.http.path)
}`))
	req := get("/orders/17")
	for i := range 20 {
		req.Headers = append(req.Headers, struct{ Name, Value string }{fmt.Sprintf("x-custom-%d", i), "some value"})
	}
	b.ReportAllocs()
	for b.Loop() {
		if answer := g.Check(b.Context(), req); !answer.Allow {
			b.Fatal(answer.Reason)
		}
	}
}
