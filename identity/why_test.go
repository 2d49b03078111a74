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

// failuresOf are the failures that each check may give.
var failuresOf = map[string][]string{
	"": {"<nil>"},
	"credential": {
		"bad credential: credential header is sent more than once",
		"bad credential: credential cookie is sent more than once",
		"bad credential: credential cookie can be read in several ways",
		"bad credential: credential cookie is not in one piece, nor in consecutive ones",
		"bad credential: credential in the websocket protocols is malformed",
		"bad credential: credential parameter is sent more than once",
		"bad credential: credential parameter is malformed",
		"bad credential: different credentials on one request",
		"bad credential: credential header is malformed",
		"bad credential: credential is empty",
		"bad credential: several credentials in one header",
	},
	"form": {
		"bad credential: several credentials in one header",
		"bad credential: token is not three base64url segments",
		"bad credential: token is not strict json",
		"bad credential: token has a json key twice",
		"bad credential: token is nested too deeply",
		"bad credential: token asks for an extension",
		"bad credential: token header has a value of the wrong type",
		"bad credential: token is of another type",
	},
	"size": {
		"bad credential: token is too long",
	},
	"type": {
		"bad credential: token is of another type",
		"bad credential: token is not of the issuer's type",
	},
	"issuer": {
		"bad credential: issuer is missing or not a string",
		"bad credential: unknown issuer",
	},
	"place": {
		"bad credential: issuer does not accept tokens from this place",
	},
	"algorithm": {
		"bad credential: algorithm is not allowed",
	},
	"key": {
		"bad credential: unknown key id",
		"bad credential: algorithm does not fit the key",
		"bad credential: token names no key and none fits",
		"bad credential: token names no key and several fit",
		"identity unavailable: several keys of the issuer have the token's key id",
	},
	"signature": {
		"bad credential: signature does not verify",
	},
	"times": {
		"bad credential: a time claim is not a number in range",
		"bad credential: token has no expiry",
		"bad credential: token does not say when it was issued",
		"bad credential: token expired",
		"bad credential: token is not valid yet",
		"bad credential: token was issued in the future",
		"bad credential: token was issued too long ago",
	},
	"audience": {
		"bad credential: audience is missing or not a string or list of strings",
		"bad credential: audience does not match",
	},
	"client": {
		"bad credential: client is missing or not a string",
		"bad credential: client does not match",
		"bad credential: authorized party does not match",
	},
	"required": {
		"bad credential: token is for another use",
		"bad credential: a required claim is missing",
		"bad credential: a required claim has another value",
	},
	"subject": {
		"bad credential: subject is missing or not a plain string",
	},
	"claims": {
		"bad credential: roles claim is not a string or list of strings",
		"bad credential: groups claim is not a string or list of strings",
		"bad credential: scopes claim is not a string or list of strings",
		"bad credential: e-mail claim is not a plain string",
	},
	"keys": {
		"identity unavailable: keys of the issuer were never loaded",
		"identity unavailable: keys of the issuer could not be read for too long",
	},
}

// TestExplainFailsWhereIdentifyDoes puts every case of the attack suite to one Verifier, first to Identify: what Explain says of it then
// comes from no memory, takes the checks in the order of the package comment, and ends at a check that gives that failure.
func TestExplainFailsWhereIdentifyDoes(t *testing.T) {
	s := suite()
	dir := t.TempDir()
	if err := s.WriteKeys(dir); err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t, s.Config(dir))
	keys := load(t, v)
	var order []string
	for i, c := range s.Cases {
		req := identity.Request{Header: c.Values, Query: c.Query}
		_, err := v.Identify(context.Background(), keys, req)
		e := v.Explain(context.Background(), keys, req)
		if failed := checkStates(t, c.Name, e); !slices.Contains(failuresOf[failed], fmt.Sprint(err)) {
			t.Errorf("%s: explained to fail at %q, identified as %v", c.Name, failed, err)
		}
		var names []string
		for _, check := range e.Checks {
			names = append(names, check.Name)
		}
		if i == 0 {
			order = names
		}
		if !slices.Equal(names, order) && len(names) > 1 { // one: there is no credential
			t.Errorf("%s: checks in the order %v, before %v", c.Name, names, order)
		}
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
			"at " + s.Now.UTC().Format(time.RFC3339) + ": exp later, nbf and iat not later, within a clock skew of 30s (clock_skew)"},
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
