package edge

import (
	"context"
	"strings"
	"testing"
	"time"

	"gatehouse/config"
	"gatehouse/identity"
)

// TestIdentityIsNamedByItsKeys: errors in identity.Config name the keys of gatehouse.yaml.
func TestIdentityIsNamedByItsKeys(t *testing.T) {
	url := identity.KeySource{URL: "http://x/keys", Refresh: time.Millisecond, MaxStale: time.Millisecond}
	file := identity.KeySource{File: "nowhere.json"}
	_, found := identity.New(identity.Config{
		Issuers: []identity.Issuer{
			{Keys: file, Audiences: []string{"a"}},
			{Issuer: "https://bad", Parties: []string{""}, Type: "at jwt", TokenUse: "\n", MaxAge: -1, ClockSkew: time.Hour, Algorithms: []string{"none"}, Keys: url,
				Require: map[string][]string{"": nil}, Claims: identity.ClaimPaths{Roles: "*/"}, From: []identity.TokenSource{{}}},
			{Preset: "auth0", Audiences: []string{"a"}},
			{Issuer: "https://x", Domain: "x"},
		},
		Introspection: []identity.Introspection{{URL: "http://x/", KeyID: "k", AssertionAudience: "a", Audiences: []string{""}, Timeout: 1, CacheFor: 25 * time.Hour,
			Claims: identity.ClaimPaths{Email: "*/"}, From: []identity.TokenSource{{Header: "x-in"}}}},
		APIKeys: identity.APIKeys{File: "k", Header: "x-in"},
		Peer:    []string{"mtls"},
	})
	text := "\n" + WithKeys(found).Error() + "\n"
	for _, want := range []string{
		"identity: issuer number 1: issuer: must be the non-empty", `identity: issuer "https://bad": audiences: at least one`, `identity: issuer "https://bad": authorized_parties: an empty entry`,
		`identity: issuer "https://bad": type: "at jwt" is`, `identity: issuer "https://bad": token_use: "\n" is not`, `identity: issuer "https://bad": max_age: "-1ns" is not`,
		`identity: issuer "https://bad": clock_skew: "1h0m0s" is`, `identity: issuer "https://bad": algorithms: "none" would`, `identity: issuer "https://bad": keys.url: "http://x/keys" must`,
		`identity: issuer "https://bad": keys.refresh: "1ms" is`, `identity: issuer "https://bad": keys.max_stale: "1ms" is`, `identity: issuer "https://bad": require: "" is`,
		`identity: issuer "https://bad": claims.roles: "*/" is`, `identity: issuer "https://bad": from: exactly one of`, "identity: issuer number 3 auth0: domain: auth0's is required",
		`identity: issuer "https://x": domain, tenant: belong to`,
		`identity.introspection[0].url: "http://x/" must`, "identity.introspection[0].client_id: is required", "identity.introspection[0].client_secret_file: exactly one",
		"identity.introspection[0].key_id: belongs", "identity.introspection[0].assertion_audience: belongs", "identity.introspection[0].audiences: an empty",
		`identity.introspection[0].timeout: "1ns" is`, `identity.introspection[0].cache_for: "25h0m0s" is`, `identity.introspection[0].claims.email: "*/" is`,
		`identity.api_keys.header: from: header "x-in" is the place`, `identity.peer.from: "mtls" is neither`,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("nothing says %q", want)
		}
	}
	v, err := identity.New(identity.Config{Issuers: []identity.Issuer{{Issuer: "https://a", Audiences: []string{"a"}, Keys: file}}, APIKeys: identity.APIKeys{File: "nowhere.yaml"},
		Introspection: []identity.Introspection{{URL: "https://x/", ClientID: "a", KeyFile: "nowhere.pem", From: []identity.TokenSource{{Header: "x-in"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	_, found = v.Load(context.Background())
	doc := &config.Document{File: "g.yaml", Lines: map[string]int{"identity": 2, "identity.api_keys.file": 7}}
	problems := doc.Problems()
	problems.Add("identity", WithKeys(found))
	for i, want := range []string{"g.yaml:2: identity.introspection[0].private_key_file: ", "g.yaml:7: identity.api_keys.file: ", `g.yaml:2: identity: issuer "https://a": keys.file: `} {
		if len(problems.Errs) != 3 || !strings.HasPrefix(problems.Errs[i].Error(), want) {
			t.Errorf("%v, want %s", problems.Errs, want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
