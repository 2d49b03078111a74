package identity_test

import (
	"testing"

	"gatehouse/identity"

	"github.com/google/go-cmp/cmp"
)

// TestPlaces lists every place where a credential is looked for, so that whoever takes credentials off misses none.
func TestPlaces(t *testing.T) {
	c := twoIssuers(t)
	c.APIKeys = identity.APIKeys{File: temp(t, ""), Header: "X-Api-Key", Scheme: "Key"}
	want := []identity.TokenSource{{Header: "authorization", Scheme: "bearer"}, {Cookie: "access_token"}, {Header: "x-token"}, {Header: "x-api-key", Scheme: "key"}}
	if diff := cmp.Diff(want, newVerifier(t, c).Places()); diff != "" {
		t.Error(diff)
	}
	var none *identity.Verifier
	if none.Places() != nil {
		t.Error("no verifier looks somewhere")
	}
}

func TestInQuery(t *testing.T) {
	place := identity.TokenSource{Query: "access_token"}
	for raw, want := range map[string]bool{
		"access_token=x": true, "a=1&access_token": true, "access%5Ftoken=x": true, "a=%zz&access_token=x": true, "a=1;access_token=x": true,
		"": false, "token=x": false, "Access_token=x": false, "a=access_token": false,
	} {
		if got := place.InQuery(raw); got != want {
			t.Errorf("%q: %v", raw, got)
		}
	}
}
