package policy_test

import (
	"context"
	"fmt"
	"testing"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
)

const trivial = `default allow := false

allow if input.attributes.request.http.method == "GET"`

const rbac = `default allow := false

allow if {
	some role in data.users[input.identity.subject]
	some grant in data.roles[role]
	grant.method == input.attributes.request.http.method
	glob.match(grant.path, ["/"], input.attributes.request.http.path)
}`

const rbacData = `{
	"users": {"ann": ["viewer", "editor"], "bob": ["viewer"]},
	"roles": {
		"viewer": [{"method": "GET", "path": "/orders/*"}, {"method": "GET", "path": "/orders"}],
		"editor": [{"method": "PUT", "path": "/orders/*"}, {"method": "POST", "path": "/orders"}],
		"admin": [{"method": "DELETE", "path": "/orders/*"}]
	}
}`

// request builds what gate builds: twenty headers and the surrounding attributes.
func request(headers []rego.Member) rego.Value {
	http := rego.Object(
		rego.Member{Key: "method", Value: rego.String("PUT")},
		rego.Member{Key: "path", Value: rego.String("/orders/17")},
		rego.Member{Key: "host", Value: rego.String("orders.example.com")},
		rego.Member{Key: "headers", Value: rego.Object(headers...)})
	return rego.Object(
		rego.Member{Key: "attributes", Value: rego.Object(
			rego.Member{Key: "request", Value: rego.Object(rego.Member{Key: "http", Value: http})})},
		rego.Member{Key: "identity", Value: rego.Object(rego.Member{Key: "subject", Value: rego.String("ann")})})
}

func twentyHeaders() []rego.Member {
	headers := make([]rego.Member, 20)
	for i := range headers {
		headers[i] = rego.Member{Key: fmt.Sprintf("x-header-%d", i), Value: rego.String(fmt.Sprintf("value %d", i))}
	}
	return headers
}

func BenchmarkDecide(b *testing.B) {
	for name, files := range map[string]tree{
		"trivial": module(trivial),
		"rbac":    {"authz.rego": "package authz\n\n" + rbac, "data.json": rbacData},
		"object":  module(`allow := {"allowed": true, "headers": {"x-user": input.identity.subject}, "dynamic_metadata": {"n": 1}}`),
	} {
		s := compile(b, files)
		input := request(twentyHeaders())
		b.Run(name, func(b *testing.B) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Decide(ctx, input, noon); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkInputOfTwentyHeaders(b *testing.B) {
	headers := twentyHeaders()
	b.ReportAllocs()
	for b.Loop() {
		request(headers)
	}
}

func BenchmarkCompile(b *testing.B) {
	app := read(b, "app", tree{"authz.rego": "package authz\n\n" + rbac, "data.json": rbacData})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := policy.Compile(context.Background(), policy.Config{Decision: "authz/allow"}, []*bundle.Bundle{app}); err != nil {
			b.Fatal(err)
		}
	}
}
