package policy_test

import (
	"context"
	"fmt"
	"testing"

	"gatehouse/policy"
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

// request builds what gate builds: twenty headers and the attributes around them.
func request(headers []policy.Member) policy.Value {
	http := policy.Object(
		policy.Member{Key: "method", Value: policy.String("PUT")},
		policy.Member{Key: "path", Value: policy.String("/orders/17")},
		policy.Member{Key: "host", Value: policy.String("orders.example.com")},
		policy.Member{Key: "headers", Value: policy.Object(headers...)})
	return policy.Object(
		policy.Member{Key: "attributes", Value: policy.Object(
			policy.Member{Key: "request", Value: policy.Object(policy.Member{Key: "http", Value: http})})},
		policy.Member{Key: "identity", Value: policy.Object(policy.Member{Key: "subject", Value: policy.String("ann")})})
}

func twentyHeaders() []policy.Member {
	headers := make([]policy.Member, 20)
	for i := range headers {
		headers[i] = policy.Member{Key: fmt.Sprintf("x-header-%d", i), Value: policy.String(fmt.Sprintf("value %d", i))}
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
		if _, err := policy.Compile(context.Background(), policy.Config{Decision: "authz/allow"}, []*policy.Bundle{app}); err != nil {
			b.Fatal(err)
		}
	}
}
