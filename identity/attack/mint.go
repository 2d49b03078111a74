package attack

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Object is JSON under construction.
type Object = map[string]any

// Keys holds private keys of each kind.
type Keys struct {
	RSA, RSAOther, RSAWeak  *rsa.PrivateKey // 2048, 2048 and 1024 bits
	P256, P256Other         *ecdsa.PrivateKey
	P384, P521              *ecdsa.PrivateKey
	Ed25519, Ed25519Another ed25519.PrivateKey
	Unnamed                 [5]*ecdsa.PrivateKey // of D, on P-256
}

func newKeys() *Keys {
	rsaKey := func(bits int) *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, bits)) }
	ecKey := func(c elliptic.Curve) *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(c, rand.Reader)) }
	edKey := func() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(random(ed25519.SeedSize)) }
	return &Keys{
		RSA: rsaKey(2048), RSAOther: rsaKey(2048), RSAWeak: rsaKey(1024),
		P256: ecKey(elliptic.P256()), P256Other: ecKey(elliptic.P256()), P384: ecKey(elliptic.P384()), P521: ecKey(elliptic.P521()),
		Ed25519: edKey(), Ed25519Another: edKey(),
		Unnamed: [5]*ecdsa.PrivateKey{ecKey(elliptic.P256()), ecKey(elliptic.P256()), ecKey(elliptic.P256()), ecKey(elliptic.P256()), ecKey(elliptic.P256())},
	}
}

// keySets are the issuers' public keys by file name. A has one of each kind; B has its own under the kid of A's; D has more
// without a kid than are tried.
func (s *Suite) keySets() map[string]string {
	k := s.Keys
	ofD := []Object{JWK(k.Ed25519Another.Public(), Object{"kid": "d1"})}
	for _, unnamed := range k.Unnamed {
		ofD = append(ofD, JWK(&unnamed.PublicKey, nil))
	}
	return map[string]string{
		"a.json": JWKS(
			JWK(&k.RSA.PublicKey, Object{"kid": "r1", "use": "sig"}),
			JWK(&k.P256.PublicKey, Object{"kid": "e1", "alg": "ES256"}),
			JWK(&k.P384.PublicKey, Object{"kid": "e3", "key_ops": []string{"verify"}}),
			JWK(k.Ed25519.Public(), Object{"kid": "d1", "alg": "EdDSA"}),
		),
		"b.json": JWKS(JWK(&k.RSAOther.PublicKey, Object{"kid": "r1"})),
		"c.json": JWKS(JWK(&k.P256Other.PublicKey, Object{"kid": "c1"})),
		"d.json": JWKS(ofD...),
	}
}

// JWK writes a public key out as a JWK (RFC 7517); extra members are added or replaced.
func JWK(public crypto.PublicKey, extra Object) Object {
	var k Object
	switch p := public.(type) {
	case *rsa.PublicKey:
		k = Object{"kty": "RSA", "n": b64(p.N.Bytes()), "e": b64(big.NewInt(int64(p.E)).Bytes())}
	case *ecdsa.PublicKey:
		size := (p.Curve.Params().BitSize + 7) / 8
		point := must(p.Bytes()) // 4, X, Y
		k = Object{"kty": "EC", "crv": p.Curve.Params().Name, "x": b64(point[1 : 1+size]), "y": b64(point[1+size:])}
	case ed25519.PublicKey:
		k = Object{"kty": "OKP", "crv": "Ed25519", "x": b64(p)}
	}
	maps.Copy(k, extra)
	return k
}

// JWKS writes out a JWK set.
func JWKS(keys ...Object) string { return toJSON(Object{"keys": keys}) }

// Mint signs header and claims, given as an Object or as raw JSON, with alg whatever the header says.
func Mint(alg string, key any, header, claims any) string {
	return mintWith(jwt.GetSigningMethod(alg), key, header, claims)
}

func mintWith(method jwt.SigningMethod, key any, header, claims any) string {
	signed := b64([]byte(toJSON(header))) + "." + b64([]byte(toJSON(claims)))
	return signed + "." + b64(must(method.Sign(signed, key)))
}

// with copies an object; changes replace its members, and nil removes them.
func with(object, changes Object) Object {
	changed := maps.Clone(object)
	for name, value := range changes {
		if changed[name] = value; value == nil {
			delete(changed, name)
		}
	}
	return changed
}

func (s *Suite) at(offset time.Duration) int64 { return s.Now.Add(offset).Unix() }

// ofA are the claims of a good token of issuer A, with changes.
func (s *Suite) ofA(changes Object) Object {
	return with(Object{"iss": issuerA, "aud": "orders", "sub": "user-7f3c", "exp": s.at(time.Hour), "iat": s.at(-time.Minute)}, changes)
}

// a is a token of issuer A with changed claims, signed by its RSA key.
func (s *Suite) a(changes Object) string { return s.aHeader(nil, s.ofA(changes)) }

// aHeader is a token of issuer A with a changed header and the claims given as an Object or as raw JSON.
func (s *Suite) aHeader(changes Object, claims any) string {
	return Mint("RS256", s.Keys.RSA, with(Object{"alg": "RS256", "kid": "r1", "typ": "JWT"}, changes), claims)
}

func (s *Suite) b(changes Object) string {
	return Mint("RS256", s.Keys.RSAOther, Object{"alg": "RS256", "kid": "r1"}, with(s.ofA(Object{"iss": issuerB}), changes))
}

func (s *Suite) c(changes Object) string {
	plain := s.ofA(Object{"iss": issuerC, "aud": nil, "client_id": "orders-web", "token_use": "access"})
	return Mint("ES256", s.Keys.P256Other, Object{"alg": "ES256", "kid": "c1"}, with(plain, changes))
}

func (s *Suite) d(changes Object) string { return s.dHeader(nil, changes) }

func (s *Suite) dHeader(header, changes Object) string {
	plain := s.ofA(Object{"iss": issuerD, "client_id": "shop", "azp": "shop", "department": "sales", "level": "gold"})
	return Mint("EdDSA", s.Keys.Ed25519Another, with(Object{"alg": "EdDSA", "kid": "d1", "typ": "at+jwt"}, header), with(plain, changes))
}

func lines(name string, values ...string) [][2]string {
	var all [][2]string
	for _, value := range values {
		all = append(all, [2]string{name, value})
	}
	return all
}

func bearer(token string) [][2]string { return lines("authorization", "Bearer "+token) }

func ok(name, token string) Case { return Case{Name: name, Headers: bearer(token), Want: OK} }

func bad(name, token, want string) Case { return Case{Name: name, Headers: bearer(token), Want: want} }

// edge marks a case that a running clock would change.
func edge(c Case) Case {
	c.Edge = true
	return c
}

func b64(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

func unb64(segment string) []byte { return must(base64.RawURLEncoding.DecodeString(segment)) }

func toJSON(v any) string {
	if text, ok := v.(string); ok {
		return text
	}
	return string(must(json.Marshal(v)))
}

func random(n int) []byte {
	raw := make([]byte, n)
	must(rand.Read(raw))
	return raw
}

// must is for what can only fail by a mistake in this package.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
