package gate_test

import (
	"fmt"
	"strconv"
	"testing"

	"gatehouse/gate"
	"gatehouse/identity"
)

// roleBased is an RBAC policy with a rule for the caller's own objects.
const roleBased = `package envoy.authz

import input.attributes.request.http as request

default allow := {"allowed": false}

roles := {"viewer": [{"method": "GET", "path": "/orders/*"}], "editor": [{"method": "PUT", "path": "/orders/*"}]}

allow := {"allowed": true, "headers": {"x-tenant": "t1"}} if granted

allow := {"allowed": true, "headers": {"x-tenant": "t1"}} if {
	input.parsed_path[0] == "users"
	input.parsed_path[1] == input.identity.subject
}

granted if {
	some role in input.identity.roles
	some grant in roles[role]
	grant.method == request.method
	glob.match(grant.path, ["/"], request.path)
}
`

// BenchmarkCheck is a decision without transport, credential and log: 20 headers, RBAC and an ownership rule.
func BenchmarkCheck(b *testing.B) {
	p := compile(b, roleBased)
	who := identity.Identity{Type: "jwt", Subject: "u1", Roles: []string{"viewer"}, Authenticated: true, Claims: map[string]any{"sub": "u1", "exp": "1"}}
	req := get("/orders/17")
	for i := range 20 {
		req.Headers = append(req.Headers, gate.Header{Name: fmt.Sprintf("x-custom-%d", i), Value: "some value"})
	}
	req.As = &who
	plain := settings()
	plain.Plain = true
	off := settings()
	off.Memo.Off = true
	for _, bench := range []struct {
		name  string
		s     *gate.Settings
		fresh bool
	}{{"repeated", settings(), false}, {"new", settings(), true}, {"new, memo off", off, true}, {"plain", plain, false}} {
		b.Run(bench.name, func(b *testing.B) {
			g := open(b, bench.s, p)
			path := make([]byte, 0, 32)
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				if bench.fresh {
					n++
					path = strconv.AppendInt(append(path[:0], "/users/u1/"...), int64(n), 10)
					req.Path = string(path)
				}
				if answer := g.Check(b.Context(), req); !answer.Allow {
					b.Fatal(answer.Reason)
				}
			}
		})
	}
}

// BenchmarkKey is a memo hit: the key of method, path and roles, and the lookup.
func BenchmarkKey(b *testing.B) {
	s := settings()
	p := compile(b, roleBased)
	g := open(b, s, p)
	req := get("/orders/17")
	req.As = &identity.Identity{Type: "jwt", Subject: "u1", Roles: []string{"viewer"}, Authenticated: true}
	again := g.Again(b.Context(), req)
	b.ReportAllocs()
	for b.Loop() {
		if !again() {
			b.Fatal("not remembered")
		}
	}
}
