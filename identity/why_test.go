package identity_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/identity"
	"gatehouse/identity/attack"
)

// TestExplainAgrees puts every case of the attack suite to Explain: its verdict is Identify's, exactly one check fails where that
// is a refusal, and nothing is shown but what the checks compare.
func TestExplainAgrees(t *testing.T) {
	s := suite()
	dir := t.TempDir()
	if err := s.WriteKeys(dir); err != nil {
		t.Fatal(err)
	}
	plain, explaining := newVerifier(t, s.Config(dir)), newVerifier(t, s.Config(dir))
	plainKeys, keys := load(t, plain), load(t, explaining)
	failures := map[string]int{}
	for _, c := range s.Cases {
		req := identity.Request{Header: c.Values, Query: c.Query}
		want, wantErr := plain.Identify(context.Background(), plainKeys, req)
		e := explaining.Explain(context.Background(), keys, req)
		if fmt.Sprint(e.Err) != fmt.Sprint(wantErr) || !reflect.DeepEqual(e.Identity, want) {
			t.Errorf("%s: explained as %v, identified as %v", c.Name, e.Err, wantErr)
		}
		failed := checkStates(t, c.Name, e)
		failures[failed]++
		if (failed == "") != (wantErr == nil) {
			t.Errorf("%s: %v, and the check that fails is %q", c.Name, wantErr, failed)
		}
		showsNoSecrets(t, c, e)
	}
	for _, name := range []string{"", "credential", "size", "form", "issuer", "place", "type", "algorithm", "key", "signature", "times", "audience", "client",
		"required", "subject", "claims"} {
		if failures[name] == 0 {
			t.Errorf("no case fails at %q", name)
		}
	}
	if failures["verification"] > 0 {
		t.Errorf("%d cases fail at no check that has a name", failures["verification"])
	}
}

// checkStates holds that the checks are passed up to one that failed, and gives its name.
func checkStates(t *testing.T, name string, e identity.Explanation) (failed string) {
	t.Helper()
	for _, c := range e.Checks {
		want := identity.Passed
		if failed != "" {
			want = identity.NotReached
		}
		if c.State == identity.Failed && failed == "" {
			failed = c.Name
			continue
		}
		if c.State == identity.NotReached && c.Found+c.Want != "" {
			t.Errorf("%s: %s was not looked at and shows %s %s", name, c.Name, c.Found, c.Want)
		}
		if c.State != want {
			t.Errorf("%s: %s is %s behind %q", name, c.Name, c.State, failed)
		}
	}
	return failed
}

func showsNoSecrets(t *testing.T, c attack.Case, e identity.Explanation) {
	t.Helper()
	text := fmt.Sprintf("%v %v %v", e.Err, e.Checks, e.Claims)
	refusesToLeak(t, text)
	for _, line := range append(slices.Clone(c.Headers), [2]string{"query", c.Query}) {
		for part := range strings.FieldsFuncSeq(line[1], func(r rune) bool { return strings.ContainsRune(" .,;=&\"", r) }) {
			if len(part) > 40 && strings.Contains(text, part) {
				t.Errorf("%s: %.20s... is shown", c.Name, part)
			}
		}
	}
}

// TestExplain shows found beside wanted, for the checks that operators meet.
func TestExplain(t *testing.T) {
	s := suite()
	dir := t.TempDir()
	if err := s.WriteKeys(dir); err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t, s.Config(dir))
	keys := load(t, v)
	claims := func(changes attack.Object) attack.Object {
		c := attack.Object{"iss": "https://a.example", "aud": "orders", "sub": "user-7f3c", "exp": s.Now.Add(time.Hour).Unix()}
		for name, value := range changes {
			c[name] = value
		}
		return c
	}
	of := func(header, changes attack.Object) string {
		h := attack.Object{"alg": "RS256", "kid": "r1"}
		for name, value := range header {
			h[name] = value
		}
		return attack.Mint("RS256", s.Keys.RSA, h, claims(changes))
	}
	for _, c := range []struct{ name, token, check, found, want string }{
		{"issuer", of(nil, attack.Object{"iss": "https://a.example/"}), "issuer", `"https://a.example/"`,
			`one of "https://a.example", "https://b.example", "https://c.example", "https://d.example"`},
		{"a terminal's escape in the issuer", of(nil, attack.Object{"iss": "a\x1b[31m\u202e"}), "issuer", `"a\x1b[31m\u202e"`, ""},
		{"audience", of(nil, attack.Object{"aud": []string{"order", "shop"}}), "audience", `"order", "shop"`, `one of "orders", "stock"`},
		{"algorithm", of(attack.Object{"alg": "HS256"}, nil), "algorithm", `"HS256"`, "one of ES256 ES384 EdDSA PS256 RS256"},
		{"type", of(attack.Object{"typ": "logout+jwt"}, nil), "type", `"logout+jwt"`, "none, JWT or at+jwt"},
		{"key", of(attack.Object{"kid": "../r1"}, nil), "key", `kid "../r1"`, `a key of the issuer for "RS256": "r1" (RS256 PS256), "e1" (ES256), "e3" (ES384), "d1" (EdDSA)`},
		{"place", attack.Mint("RS256", s.Keys.RSAOther, attack.Object{"alg": "RS256", "kid": "r1"}, claims(attack.Object{"iss": "https://b.example"})),
			"", "", ""}, // RequestWith puts it where its issuer looks
		{"expired", of(nil, attack.Object{"exp": s.Now.Add(-time.Hour).Unix()}), "times",
			"exp " + s.Now.Add(-time.Hour).UTC().Format(time.RFC3339) + " (1h0m0s ago), no nbf, no iat",
			"at " + s.Now.UTC().Format(time.RFC3339) + ": exp later, nbf and iat not later, each within 30s"},
		{"subject", of(nil, attack.Object{"sub": 7}), "subject", "sub is a number", "a string without control characters"},
		{"roles", of(nil, attack.Object{"realm_access": attack.Object{"roles": attack.Object{"a": 1}}}), "claims",
			`roles in "realm_access.roles": an object, groups in "groups": missing, scopes in "scope": missing, e-mail in "email": missing`, ""},
	} {
		e := v.Explain(context.Background(), keys, v.RequestWith(c.token))
		if failed := checkStates(t, c.name, e); failed != c.check {
			t.Errorf("%s: %q fails (%v), want %q", c.name, failed, e.Err, c.check)
		}
		i := slices.IndexFunc(e.Checks, func(k identity.Check) bool { return k.State == identity.Failed })
		if i < 0 {
			continue
		}
		if k := e.Checks[i]; k.Found != c.found || c.want != "" && k.Want != c.want {
			t.Errorf("%s: found %s, wanted %s", c.name, k.Found, k.Want)
		}
	}
	unloaded := v.Explain(context.Background(), nil, v.RequestWith(of(nil, nil)))
	if failed := checkStates(t, "no keys", unloaded); failed != "keys" {
		t.Errorf("without keys %q fails", failed)
	}
	e := newVerifier(t, identity.Config{}).Explain(context.Background(), nil, newVerifier(t, identity.Config{}).RequestWith("x"))
	if e.Err != nil || e.Identity.Authenticated || len(e.Checks) != 1 {
		t.Errorf("where no credential is looked for: %v %v", e.Err, e.Checks)
	}
}
