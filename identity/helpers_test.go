package identity_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/identity"
	"gatehouse/identity/attack"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	issuerA = "https://a.example"
	issuerB = "https://b.example"
	subject = "user-7f3c" // must never show in an error or a log line
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func at(offset time.Duration) int64 { return noon.Add(offset).Unix() }

// suite is made once for the whole test binary, because generating RSA keys takes long.
var suite = sync.OnceValue(func() *attack.Suite { return attack.New(noon) })

// ring is the suite's keys under short names.
type ring struct {
	rsa, rsaOther, rsaWeak *rsa.PrivateKey
	p256, p384, p521       *ecdsa.PrivateKey
	ed                     ed25519.PrivateKey
}

func keyRing() ring {
	k := suite().Keys
	return ring{k.RSA, k.RSAOther, k.RSAWeak, k.P256, k.P384, k.P521, k.Ed25519}
}

type object = attack.Object

func b64(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

func jwk(public crypto.PublicKey, extra object) object { return attack.JWK(public, extra) }

func jwks(keys ...object) string { return attack.JWKS(keys...) }

func mint(alg string, key any, header, claims any) string {
	return attack.Mint(alg, key, header, claims)
}

// claims are those of a good token of issuer A; changes replace, and nil removes.
func claims(changes object) object {
	c := object{"iss": issuerA, "aud": "orders", "sub": subject, "exp": at(time.Hour), "iat": at(-time.Minute)}
	for name, value := range changes {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	return c
}

func toJSON(v any) string {
	if text, ok := v.(string); ok {
		return text
	}
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// good is a token of issuer A signed with its RSA key.
func good(changes object) string {
	return mint("RS256", keyRing().rsa, object{"alg": "RS256", "kid": "r1", "typ": "JWT"}, claims(changes))
}

type headers map[string][]string

func (h headers) get(name string) []string { return h[name] }

func bearer(token string) headers { return headers{"authorization": {"Bearer " + token}} }

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func temp(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "jwks.json")
	writeFile(t, path, text)
	return path
}

// keysOfA are issuer A's keys, one of each kind.
func keysOfA() string {
	r := keyRing()
	return jwks(
		jwk(&r.rsa.PublicKey, object{"kid": "r1", "use": "sig"}),
		jwk(&r.p256.PublicKey, object{"kid": "e1", "alg": "ES256"}),
		jwk(&r.p384.PublicKey, object{"kid": "e3", "key_ops": []string{"verify"}}),
		jwk(r.ed.Public(), object{"kid": "d1", "alg": "EdDSA"}),
	)
}

// twoIssuers is a config in which issuer A takes its tokens from Authorization or a cookie, and B from x-token.
func twoIssuers(t testing.TB) identity.Config {
	r := keyRing()
	return identity.Config{
		Clock: func() time.Time { return noon },
		Issuers: []identity.Issuer{{
			Issuer:    issuerA,
			Audiences: []string{"orders", "stock"},
			Keys:      identity.KeySource{File: temp(t, keysOfA())},
			From:      []identity.TokenSource{{Header: "Authorization", Scheme: "Bearer"}, {Cookie: "access_token"}},
			Claims:    identity.ClaimPaths{Roles: "realm_access.roles"},
		}, {
			Issuer:     issuerB,
			Audiences:  []string{"orders"},
			Algorithms: []string{"RS256"},
			Keys:       identity.KeySource{File: temp(t, jwks(jwk(&r.rsaOther.PublicKey, object{"kid": "r1"})))},
			From:       []identity.TokenSource{{Header: "x-token"}},
		}},
	}
}

func newVerifier(t testing.TB, c identity.Config) *identity.Verifier {
	t.Helper()
	v, err := identity.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func load(t testing.TB, v *identity.Verifier) *identity.Keys {
	t.Helper()
	keys, err := v.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// outcome is "ok", "anonymous", or the error's text.
func outcome(t testing.TB, v *identity.Verifier, keys *identity.Keys, h headers) string {
	t.Helper()
	return answer(t, v, keys, identity.Request{Header: h.get})
}

func answer(t testing.TB, v *identity.Verifier, keys *identity.Keys, req identity.Request) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // of a caller that is in no hurry
	defer cancel()
	id, err := v.Identify(ctx, keys, req)
	switch {
	case err != nil:
		refusesToLeak(t, err.Error())
		if id.Authenticated || id.Type != "" || id.Subject != "" {
			t.Errorf("an identity beside the error %q", err)
		}
		return err.Error()
	case id.Authenticated:
		return "ok"
	case id.Type == identity.TypeNone:
		return "anonymous"
	}
	t.Errorf("neither an identity nor an error")
	return "?"
}

func refusesToLeak(t testing.TB, text string) {
	t.Helper()
	for _, secret := range []string{subject, "eyJ", b64([]byte(`{"alg`))} {
		if strings.Contains(text, secret) {
			t.Errorf("token or claim text in %q", text)
		}
	}
}
