package identity_test

import (
	"context"
	"encoding/json"
	"math"
	"testing"
	"time"

	"gatehouse/identity"
	"gatehouse/identity/apikey"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"
)

// jwtAuthn is the metadata that Envoy's filter leaves: through the protobuf that it travels in, so numbers are float64.
func jwtAuthn(t testing.TB, name string, payload object) map[string]any {
	t.Helper()
	var plain object
	if err := json.Unmarshal([]byte(toJSON(payload)), &plain); err != nil {
		t.Fatal(err)
	}
	s, err := structpb.NewStruct(object{name: plain})
	if err != nil {
		t.Fatal(err)
	}
	return object{"filterMetadata": object{"envoy.filters.http.jwt_authn": s.AsMap(), "other": object{name: "x"}}}
}

// TestMetadataGivesWhatTheTokenGives verifies one token here, and takes its claims from Envoy: the two identities are equal.
func TestMetadataGivesWhatTheTokenGives(t *testing.T) {
	c := twoIssuers(t)
	c.Metadata = "payload"
	v := newVerifier(t, c)
	keys := load(t, v)
	changes := object{"realm_access": object{"roles": []string{"viewer"}}, "groups": []string{"/eu"}, "scope": "a b", "quota": 250, "big": 1 << 53,
		"minus": -17, "half": 0.5, "small": 1e-9, "deep": object{"list": []any{1, "x", true, nil, object{"n": 0}}}}
	direct, err := v.Identify(context.Background(), keys, identity.Request{Header: bearer(good(changes)).get})
	if err != nil {
		t.Fatal(err)
	}
	told, err := v.Identify(context.Background(), keys, identity.Request{Header: headers{}.get, Metadata: jwtAuthn(t, "payload", claims(changes))})
	if err != nil {
		t.Fatal(err)
	}
	type plain identity.Identity
	if diff := cmp.Diff(plain(direct), plain(told)); diff != "" {
		t.Error(diff)
	}
}

func TestMetadataOutcomes(t *testing.T) {
	c := twoIssuers(t)
	k := newKey(t, apikey.Entry{Subject: subject})
	c.APIKeys = identity.APIKeys{File: keyFile(t, k)}
	c.Metadata = "payload"
	v := newVerifier(t, c)
	keys := load(t, v)
	mine := func(changes object) map[string]any { return jwtAuthn(t, "payload", claims(changes)) }
	raw := func(payload any) map[string]any {
		return object{"filterMetadata": object{"envoy.filters.http.jwt_authn": object{"payload": payload}}}
	}
	const two = "bad credential: different credentials on one request"
	for name, tt := range map[string]struct {
		metadata map[string]any
		h        headers
		want     string
	}{
		"a payload":                       {mine(nil), headers{}, "ok"},
		"of an issuer that is not ours":   {mine(object{"iss": "https://c.example"}), headers{}, "ok"},
		"without an issuer":               {mine(object{"iss": nil}), headers{}, "ok"},
		"for another audience":            {mine(object{"aud": "x"}), headers{}, "ok"},
		"without exp":                     {mine(object{"exp": nil}), headers{}, "ok"},
		"nothing":                         {nil, headers{}, "anonymous"},
		"under another name":              {jwtAuthn(t, "other", claims(nil)), headers{}, "anonymous"},
		"of another filter":               {object{"filterMetadata": object{"x": object{"payload": claims(nil)}}}, headers{}, "anonymous"},
		"beside filterMetadata":           {object{"envoy.filters.http.jwt_authn": object{"payload": claims(nil)}}, headers{}, "anonymous"},
		"with the token it came from":     {mine(nil), bearer(good(nil)), "ok"},
		"with one of the same user":       {mine(nil), bearer(good(object{"jti": "2"})), "ok"},
		"with a token of another place":   {mine(nil), headers{"x-other": {"abc"}}, "ok"},
		"with another user's token":       {mine(nil), bearer(good(object{"sub": "u2"})), two},
		"with another issuer's token":     {mine(object{"iss": issuerB}), bearer(good(nil)), two},
		"no issuer beside a token":        {mine(object{"iss": nil}), bearer(good(nil)), two},
		"with an API key":                 {mine(nil), apiKey(k), two},
		"without issuer, with an API key": {mine(object{"iss": nil}), apiKey(k), two},
		"with a forged token":             {mine(nil), bearer(mint("RS256", keyRing().rsaOther, object{"alg": "RS256", "kid": "r1"}, claims(nil))), "bad credential: signature does not verify"},
		"expired":                         {mine(object{"exp": at(-time.Minute)}), headers{}, "bad credential: token expired"},
		"not yet valid":                   {mine(object{"nbf": at(time.Minute)}), headers{}, "bad credential: token is not valid yet"},
		"issued in the future":            {mine(object{"iat": at(time.Minute)}), headers{}, "bad credential: token was issued in the future"},
		"exp is a text":                   {mine(object{"exp": "1"}), headers{}, "bad credential: a time claim is not a number in range"},
		"without a subject":               {mine(object{"sub": nil}), headers{}, "bad credential: subject is missing or not a plain string"},
		"subject is a number":             {mine(object{"sub": 7}), headers{}, "bad credential: subject is missing or not a plain string"},
		"roles are numbers":               {mine(object{"realm_access": object{"roles": []int{1}}}), headers{}, "bad credential: roles claim is not a string or list of strings"},
		"issuer is a list":                {mine(object{"iss": []string{issuerA}}), headers{}, "bad credential: issuer of the payload in metadata is not a string"},
		"a text":                          {raw("x"), headers{}, "bad credential: payload in metadata is not an object of plain JSON"},
		"null":                            {raw(nil), headers{}, "bad credential: payload in metadata is not an object of plain JSON"},
		"an expired one beside a token":   {mine(object{"exp": at(-time.Minute)}), bearer(good(nil)), "bad credential: token expired"},
		"not a number":                    {raw(object{"sub": "a", "x": math.NaN()}), headers{}, "bad credential: payload in metadata is not an object of plain JSON"},
		"something that is not JSON":      {raw(object{"sub": "a", "x": struct{}{}}), headers{}, "bad credential: payload in metadata is not an object of plain JSON"},
	} {
		id, err := v.Identify(context.Background(), keys, identity.Request{Header: tt.h.get, Metadata: tt.metadata})
		got := "anonymous"
		switch {
		case err != nil:
			got = err.Error()
			refusesToLeak(t, got)
		case id.Authenticated:
			got = "ok"
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	plainVerifier := newVerifier(t, twoIssuers(t))
	if id, err := plainVerifier.Identify(context.Background(), nil, identity.Request{Header: headers{}.get, Metadata: mine(nil)}); err != nil || id.Authenticated {
		t.Errorf("metadata that no configuration names: %v, %v", id, err)
	}
	only := newVerifier(t, identity.Config{Metadata: "payload", Clock: func() time.Time { return noon }})
	if !only.Configured() || only.Ready(load(t, only)) != nil {
		t.Error("metadata alone is not configured, or waits for keys")
	}
	id, err := only.Identify(context.Background(), load(t, only), identity.Request{Header: bearer("of no place").get, Metadata: mine(object{"roles": "admin"})})
	if err != nil || !id.Authenticated || len(id.Roles) != 1 {
		t.Errorf("metadata alone, with the default names: %v, %v", id, err)
	}
}
