package input_test

import (
	"strings"
	"testing"

	"gatehouse/input"
)

func text(*input.Input) *string { return nil }

// TestNewRefuses has tables that say something twice, or not enough.
func TestNewRefuses(t *testing.T) {
	for want, f := range map[string]input.Field{
		"has no number":              {Path: "account.id", Text: text},
		"must have a path of its":    {Path: "app", Text: text, Number: 901},
		"says nowhere":               {Path: "account.id", Number: 901},
		"has more than one kind":     {Path: "account.id", Text: text, Bool: func(*input.Input) *bool { return nil }, Number: 901},
		"must be one of text":        {Path: "account.id", Kind: input.KindHeaders, Number: 901},
		"there are others below":     {Path: "attributes.source", Text: text, Number: 901},
		"it is below another":        {Path: "app.name", Text: text, Number: 901},
		"must be above zero and its": {Path: "account.id", Text: text, Number: -1},
	} {
		if _, err := input.Standard().With(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %q", f.Path, err, want)
		}
	}
	one := input.Field{Path: "account.id", Text: text, Number: 901}
	two := one
	two.Path = "account.name"
	if _, err := input.Standard().With(one, two); err == nil || !strings.Contains(err.Error(), "its own") {
		t.Errorf("a number twice: %v", err)
	}
}

// TestVersion1Order is the order of the packed entry's fixed part. It is what earlier releases wrote, and never changes.
func TestVersion1Order(t *testing.T) {
	const head = "attributes.request.http.method attributes.request.http.host attributes.request.http.path policy.path " +
		"identity.type identity.identity identity.subject identity.issuer identity.roles identity.groups identity.scopes identity.claims"
	const in = "attributes.request.http.scheme attributes.request.http.protocol attributes.request.http.id attributes.request.http.query " +
		"attributes.request.http.fragment attributes.request.http.size attributes.request.time attributes.request.http.headers " +
		"attributes.source.address attributes.source.service attributes.source.labels attributes.source.principal attributes.source.certificate " +
		"attributes.destination.address attributes.destination.service attributes.destination.labels attributes.destination.principal " +
		"attributes.destination.certificate attributes.contextExtensions attributes.metadataContext attributes.routeMetadataContext " +
		"attributes.tlsSession.sni peer.spiffe_id peer.subject peer.sans app route.name route.template parsed_body"
	for want, fields := range map[string][]*input.Field{head: input.Standard().Head, in: input.Standard().Input} {
		var paths []string
		for _, f := range fields {
			paths = append(paths, f.Path)
		}
		if got := strings.Join(paths, " "); got != want {
			t.Errorf("the order is\n%s\nit must be\n%s", got, want)
		}
	}
}
