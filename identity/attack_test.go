package identity_test

import (
	"context"
	"testing"
	"time"

	"gatehouse/identity"
	"gatehouse/identity/attack"
)

// TestAttacks puts every case of the suite to a verifier, twice: the second answer may come from the cache.
func TestAttacks(t *testing.T) {
	s := suite()
	dir := t.TempDir()
	if err := s.WriteKeys(dir); err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t, s.Config(dir))
	keys := load(t, v)
	seen := map[string]bool{}
	for _, c := range s.Cases {
		if seen[c.Name] {
			t.Errorf("two cases named %q", c.Name)
		}
		seen[c.Name] = true
		want := c.Want
		if want != attack.OK && want != attack.Anonymous {
			want = "bad credential: " + want
		}
		for _, state := range []string{"first", "again"} {
			if got := answer(t, v, keys, identity.Request{Header: c.Values, Query: c.Query}); got != want {
				t.Errorf("%s, %s: got %q, want %q", c.Name, state, got, want)
			}
		}
	}
	t.Logf("%d cases", len(s.Cases))
}

// TestAttackWithARemovedKey replays tokens after the key that signed them has gone, and after its kid was given to another.
func TestAttackWithARemovedKey(t *testing.T) {
	r := keyRing()
	named, unnamed := object{"alg": "RS256", "kid": "r1"}, object{"alg": "RS256"}
	before := jwks(jwk(&r.rsa.PublicKey, object{"kid": "r1"}))
	const unknown, verify = "bad credential: unknown key id", "bad credential: signature does not verify"
	for _, c := range []struct {
		name   string
		header object
		after  string
		want   string
	}{
		{"key replaced", named, jwks(jwk(&r.rsaOther.PublicKey, object{"kid": "r2"})), unknown},
		{"kid given to another key", named, jwks(jwk(&r.rsaOther.PublicKey, object{"kid": "r1"})), verify},
		{"kid given to a key of another type", named, jwks(jwk(r.ed.Public(), object{"kid": "r1"})), "bad credential: algorithm does not fit the key"},
		{"token without kid", unnamed, jwks(jwk(&r.rsaOther.PublicKey, object{"kid": "r1"})), verify},
		{"token without kid, key of another type", unnamed, jwks(jwk(r.ed.Public(), nil)), "bad credential: token names no key and none fits"},
		{"key narrowed to another alg", named, jwks(jwk(&r.rsa.PublicKey, object{"kid": "r1", "alg": "PS256"})), "bad credential: algorithm does not fit the key"},
		{"key added", named, jwks(jwk(&r.rsa.PublicKey, object{"kid": "r1"}), jwk(r.ed.Public(), object{"kid": "d1"})), "ok"},
		{"key added, token without kid", unnamed, jwks(jwk(&r.rsaOther.PublicKey, nil), jwk(&r.rsa.PublicKey, nil)), "ok"},
		{"key gone, another added, token without kid", unnamed, jwks(jwk(&r.rsaOther.PublicKey, nil), jwk(&r.p256.PublicKey, nil)), verify},
	} {
		path := temp(t, before)
		config := oneIssuer(identity.KeySource{File: path})
		v := newVerifier(t, config)
		old := load(t, v)
		token := mint("RS256", r.rsa, c.header, claims(nil))
		writeFile(t, path, c.after)
		now := load(t, v)
		for _, step := range []struct {
			keys *identity.Keys
			want string
		}{{old, "ok"}, {now, c.want}, {now, c.want}, {old, "ok"}, {now, c.want}} {
			if got := outcome(t, v, step.keys, bearer(token)); got != step.want {
				t.Errorf("%s: got %q, want %q", c.name, got, step.want)
			}
		}
	}
}

// TestAttackByTime shows one token to a clock that runs and then goes back: nothing of an earlier answer may stay.
func TestAttackByTime(t *testing.T) {
	now := noon
	c := oneIssuer(identity.KeySource{File: temp(t, keysOfA())})
	c.Clock = func() time.Time { return now }
	c.Issuers[0].MaxAge = 10 * time.Minute
	v := newVerifier(t, c)
	keys := load(t, v)
	token := good(object{"nbf": at(time.Minute), "iat": at(0), "exp": at(5 * time.Minute)})
	long := good(object{"nbf": at(time.Minute), "iat": at(0)})
	const early, late, old = "bad credential: token is not valid yet", "bad credential: token expired", "bad credential: token was issued too long ago"
	for _, step := range []struct {
		offset      time.Duration
		token, long string
	}{
		{0, early, early}, {29 * time.Second, early, early}, {30 * time.Second, "ok", "ok"}, {330*time.Second - 1, "ok", "ok"},
		{330 * time.Second, late, "ok"}, {630*time.Second - 1, late, "ok"}, {630 * time.Second, late, old}, {2 * time.Hour, late, late},
		{640 * time.Second, late, old}, {300 * time.Second, "ok", "ok"}, {0, early, early},
	} {
		now = noon.Add(step.offset)
		for range 2 {
			if got := outcome(t, v, keys, bearer(token)); got != step.token {
				t.Errorf("after %s: got %q, want %q", step.offset, got, step.token)
			}
			if got := outcome(t, v, keys, bearer(long)); got != step.long {
				t.Errorf("after %s: got %q, want %q", step.offset, got, step.long)
			}
		}
	}
}

// TestAttackOnTheAddress sends e-mail addresses that the issuer does not vouch for: the token is as good, the address is not
// taken.
func TestAttackOnTheAddress(t *testing.T) {
	v := newVerifier(t, twoIssuers(t))
	keys := load(t, v)
	const address = "boss@example.com"
	for name, c := range map[string]struct {
		changes object
		want    string
	}{
		"verified":            {object{"email": address, "email_verified": true}, address},
		"nothing said":        {object{"email": address}, ""},
		"not verified":        {object{"email": address, "email_verified": false}, ""},
		"verified as text":    {object{"email": address, "email_verified": "true"}, ""},
		"verified as number":  {object{"email": address, "email_verified": 1}, ""},
		"verified in a list":  {object{"email": address, "email_verified": []bool{true}}, ""},
		"verified elsewhere":  {object{"email": address, "user": object{"email_verified": true}}, ""},
		"verified, no e-mail": {object{"email_verified": true}, ""},
	} {
		id, err := v.Identify(context.Background(), keys, identity.Request{Header: bearer(good(c.changes)).get})
		if err != nil || id.Email != c.want {
			t.Errorf("%s: got %q and %v, want %q", name, id.Email, err, c.want)
		}
	}
}
