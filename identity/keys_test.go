package identity_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"gatehouse/identity"
)

func oneIssuer(source identity.KeySource) identity.Config {
	return identity.Config{
		Clock:   func() time.Time { return noon },
		Issuers: []identity.Issuer{{Issuer: issuerA, Audiences: []string{"orders"}, Keys: source}},
	}
}

func TestKeySets(t *testing.T) {
	r := keyRing()
	rsaKey := func(extra object) object { return jwk(&r.rsa.PublicKey, extra) }
	huge := jwk(&rsa.PublicKey{N: new(big.Int).SetBit(r.rsa.N, 9000, 1), E: 65537}, nil)
	many := make([]object, 101)
	for i := range many {
		many[i] = rsaKey(nil)
	}
	offCurve := jwk(&r.p256.PublicKey, nil)
	offCurve["y"] = offCurve["x"]
	cases := []struct{ name, file, want string }{
		{"one key", jwks(rsaKey(nil)), "1"},
		{"unknown members", jwks(rsaKey(object{"kid": "a", "x5t": "zzz", "issuer": "me"})), "1"},
		{"alg Ed25519", jwks(jwk(r.ed.Public(), object{"alg": "Ed25519"})), "1"},
		{"private key, public half used", jwks(rsaKey(object{"d": b64(r.rsa.D.Bytes())})), "1, notice: key 1: holds a private key"},
		{"oct beside a good one", jwks(object{"kty": "oct", "k": "c2VjcmV0"}, rsaKey(nil)), "1, notice: key 1: left out: it is symmetric"},
		{"oct alone", jwks(object{"kty": "oct", "k": "c2VjcmV0"}), "none of 1 keys is usable: key 1: left out: it is symmetric"},
		{"RSA of 1024 bits", jwks(jwk(&r.rsaWeak.PublicKey, nil)), "an RSA key of 1024 bits"},
		{"RSA of 9001 bits", jwks(huge), "an RSA key of 9001 bits"},
		{"RSA exponent 1", jwks(rsaKey(object{"e": "AQ"})), `parameter "e" is out of range`},
		{"RSA exponent even", jwks(rsaKey(object{"e": "AgAC"})), "not an RSA key"},
		{"RSA exponent beyond 64 bits", jwks(rsaKey(object{"e": "AQAAAAAAAAAAAQAB"})), "E in marshal does not match"},
		{"RSA without modulus", jwks(object{"kty": "RSA", "e": "AQAB"}), "left out"},
		{"RSA modulus not base64", jwks(rsaKey(object{"n": "***"})), "left out"},
		{"point off the curve", jwks(offCurve), "left out"},
		{"P-521", jwks(jwk(&r.p521.PublicKey, nil)), "curve P-521 is not supported"},
		{"secp256k1", jwks(object{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}), "left out"},
		{"X25519", jwks(object{"kty": "OKP", "crv": "X25519", "x": b64(make([]byte, 32))}), "is not supported"},
		{"short Ed25519", jwks(object{"kty": "OKP", "crv": "Ed25519", "x": "AA"}), "left out"},
		{"kty in upper-case name", `{"keys":[{"KTY":"RSA"}]}`, `kty "" is not supported`},
		{"use enc", jwks(rsaKey(object{"use": "enc"}), rsaKey(nil)), `1, notice: key 1: left out: use "enc" is not sig`},
		{"key_ops without verify", jwks(rsaKey(object{"key_ops": []string{"encrypt"}})), "key_ops does not list verify"},
		{"alg of another type", jwks(rsaKey(object{"alg": "ES256"})), `alg "ES256" is not one that fits`},
		{"alg RS512", jwks(rsaKey(object{"alg": "RS512"})), `alg "RS512" is not one that fits`},
		{"kid a number", jwks(rsaKey(object{"kid": 1})), `"kid" is not a string`},
		{"kid twice, types differ", jwks(rsaKey(object{"kid": "a"}), jwk(r.ed.Public(), object{"kid": "a"})), "2"},
		{"kid twice, alg differs", jwks(rsaKey(object{"kid": "a", "alg": "RS256"}), jwk(&r.rsaOther.PublicKey, object{"kid": "a", "alg": "PS256"})), "2"},
		{"kid twice, one without alg", jwks(rsaKey(object{"kid": "a", "alg": "RS256"}), jwk(&r.rsaOther.PublicKey, object{"kid": "a"})), "2"},
		{"the same key twice", jwks(rsaKey(object{"kid": "a"}), rsaKey(object{"kid": "a"})), "1"},
		{"kid twice, nothing differs", jwks(rsaKey(object{"kid": "a"}), jwk(&r.rsaOther.PublicKey, object{"kid": "a"}), jwk(r.ed.Public(), object{"kid": "b"})),
			`1, notice: key 1 ("a"): left out: key 2 ("a") has the same kid, type and algorithm, notice: key 2 ("a"): left out: key 1 ("a")`},
		{"kid twice, nothing else", jwks(rsaKey(object{"kid": "a"}), jwk(&r.rsaOther.PublicKey, object{"kid": "a"})), `none of 2 keys is usable: key 1 ("a"): left out`},
		{"kid shared with an encryption key", jwks(rsaKey(object{"kid": "a"}), rsaKey(object{"kid": "a", "use": "enc"})), "1, notice: key 2"},
		{"empty set", `{"keys":[]}`, "the set is empty"},
		{"no keys", `{}`, `"keys" is missing or not a list`},
		{"keys an object", `{"keys":{}}`, `"keys" is missing or not a list`},
		{"key a string", `{"keys":["a"]}`, "key 1 is not an object"},
		{"too many", jwks(many...), "101 keys, more than 100"},
		{"too long", strings.Repeat(" ", 1<<20) + jwks(rsaKey(nil)), "more than 1048576 bytes"},
		{"empty file", "", "jwks.json:1: is not valid json"},
		{"cut off", "{\n\n\"keys\": [", "jwks.json:3: is not valid json"},
		{"a member twice", "{\"keys\":\n[{\"kty\":\"RSA\",\n\"kty\":\"oct\"}]}", "jwks.json:3: has a json key twice"},
		{"something behind", jwks(rsaKey(nil)) + "\n{}", "jwks.json:2: is not valid json"},
		{"PEM public key", pemOf("PUBLIC KEY", &r.rsa.PublicKey), "1"},
		{"two PEM keys", pemOf("PUBLIC KEY", &r.rsa.PublicKey) + "\n" + pemOf("PUBLIC KEY", &r.p256.PublicKey), "2"},
		{"PKCS1", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&r.rsa.PublicKey)})), "1"},
		{"certificate", certificate(t), "1"},
		{"PEM weak", pemOf("PUBLIC KEY", &r.rsaWeak.PublicKey), "jwks.json:1: an RSA key of 1024 bits"},
		{"PEM private", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})), `a PEM block "PRIVATE KEY"; give the public key`},
		{"PEM and garbage", pemOf("PUBLIC KEY", &r.rsa.PublicKey) + "x", "not a PEM block"},
	}
	for _, c := range cases {
		v := newVerifier(t, oneIssuer(identity.KeySource{File: temp(t, c.file)}))
		keys, err := v.Load(context.Background())
		if err != nil {
			if !strings.Contains(err.Error(), c.want) || c.want[0] <= '9' && c.want[1:] == "" {
				t.Errorf("%s: got %v, want %q", c.name, err, c.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: more than one line: %v", c.name, err)
			}
			continue
		}
		status := keys.Status()[0]
		got := string(rune('0' + status.Keys))
		for _, notice := range status.Notices {
			got += ", notice: " + notice
		}
		if !strings.HasPrefix(got, c.want) || len(c.want) == 1 && got != c.want || !status.Loaded || !status.FetchedAt.Equal(noon) {
			t.Errorf("%s: got %s %+v, want %q", c.name, got, status, c.want)
		}
	}
}

func pemOf(kind string, public crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func certificate(t *testing.T) string {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: noon}
	der, err := x509.CreateCertificate(rand.Reader, template, template, keyRing().p256.Public(), keyRing().p256)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// Which of a set's keys may verify a token with this header.
func TestKeySelection(t *testing.T) {
	r := keyRing()
	rs := func(header object) string { return mint("RS256", r.rsa, header, claims(nil)) }
	one, two := jwk(&r.rsa.PublicKey, object{"kid": "1"}), jwk(&r.rsaOther.PublicKey, object{"kid": "2"})
	var more []object
	for range 3 {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		more = append(more, jwk(&k.PublicKey, nil))
	}
	two3, two4, two5 := more[0], more[1], more[2]
	cases := []struct{ name, file, token, want string }{
		{"kid names it", jwks(one, two), rs(object{"alg": "RS256", "kid": "1"}), "ok"},
		{"kid names the other", jwks(one, two), rs(object{"alg": "RS256", "kid": "2"}), "signature does not verify"},
		{"no kid, two fit", jwks(two, one), rs(object{"alg": "RS256"}), "ok"},
		{"no kid, others fit", jwks(two), rs(object{"alg": "RS256"}), "signature does not verify"},
		{"no kid, four fit, one in other algorithms", jwks(two, object{"kty": "oct", "k": "c2VjcmV0"}, two3, jwk(r.ed.Public(), nil), two4, one), rs(object{"alg": "RS256"}), "ok"},
		{"no kid, five fit", jwks(one, two, two3, two4, two5), rs(object{"alg": "RS256"}), "token names no key and several fit"},
		{"kid shared by types", jwks(jwk(r.ed.Public(), object{"kid": "1"}), jwk(&r.p256.PublicKey, object{"kid": "1"}), one), rs(object{"alg": "RS256", "kid": "1"}), "ok"},
		{"kid shared, alg names this one", jwks(jwk(&r.rsaOther.PublicKey, object{"kid": "1", "alg": "PS256"}), jwk(&r.rsa.PublicKey, object{"kid": "1", "alg": "RS256"})),
			rs(object{"alg": "RS256", "kid": "1"}), "ok"},
		{"kid shared, alg names the other", jwks(jwk(&r.rsaOther.PublicKey, object{"kid": "1", "alg": "RS256"}), jwk(&r.rsa.PublicKey, object{"kid": "1"})),
			rs(object{"alg": "RS256", "kid": "1"}), "signature does not verify"},
		{"kid shared, the other is for the rest", jwks(jwk(&r.rsaOther.PublicKey, object{"kid": "1"}), jwk(&r.rsa.PublicKey, object{"kid": "1", "alg": "RS256"})),
			rs(object{"alg": "RS256", "kid": "1"}), "ok"},
		{"kid shared, none fits", jwks(jwk(r.ed.Public(), object{"kid": "1"}), jwk(&r.p256.PublicKey, object{"kid": "1"})), rs(object{"alg": "RS256", "kid": "1"}),
			"algorithm does not fit the key"},
		{"kid unclear", jwks(one, jwk(&r.rsaOther.PublicKey, object{"kid": "1"}), jwk(r.ed.Public(), object{"kid": "d"})), rs(object{"alg": "RS256", "kid": "1"}),
			"identity unavailable: several keys of the issuer have the token's key id"},
		{"kid unclear for others", jwks(two, jwk(&r.rsa.PublicKey, object{"kid": "2"}), one), rs(object{"alg": "RS256", "kid": "1"}), "ok"},
		{"no kid, alg decides", jwks(one, jwk(&r.rsaOther.PublicKey, object{"alg": "PS256"})), rs(object{"alg": "RS256"}), "ok"},
		{"no kid, none fits", jwks(jwk(&r.p256.PublicKey, nil)), rs(object{"alg": "RS256"}), "token names no key and none fits"},
		{"key is for PS256 only", jwks(jwk(&r.rsa.PublicKey, object{"kid": "1", "alg": "PS256"})), rs(object{"alg": "RS256", "kid": "1"}), "algorithm does not fit the key"},
		{"left-out key by its kid", jwks(one, jwk(&r.rsaOther.PublicKey, object{"kid": "e", "use": "enc"})), rs(object{"alg": "RS256", "kid": "e"}), "unknown key id"},
		{"key without kid, token with", jwks(jwk(&r.rsa.PublicKey, nil)), rs(object{"alg": "RS256", "kid": "1"}), "unknown key id"},
		{"PEM ignores kid", pemOf("PUBLIC KEY", &r.rsa.PublicKey), rs(object{"alg": "RS256", "kid": "1"}), "ok"},
		{"PEM, two fit", pemOf("PUBLIC KEY", &r.rsa.PublicKey) + pemOf("PUBLIC KEY", &r.rsaOther.PublicKey), rs(object{"alg": "RS256", "kid": "1"}), "ok"},
	}
	for _, c := range cases {
		v := newVerifier(t, oneIssuer(identity.KeySource{File: temp(t, c.file)}))
		if got := strings.TrimPrefix(outcome(t, v, load(t, v), bearer(c.token)), "bad credential: "); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
