package attack

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func (s *Suite) accepted() []Case {
	k, plain := s.Keys, s.ofA(nil)
	return []Case{
		ok("RS256", s.a(nil)),
		ok("PS256", Mint("PS256", k.RSA, Object{"alg": "PS256", "kid": "r1"}, plain)),
		ok("ES256", Mint("ES256", k.P256, Object{"alg": "ES256", "kid": "e1"}, plain)),
		ok("ES384", Mint("ES384", k.P384, Object{"alg": "ES384", "kid": "e3"}, plain)),
		ok("EdDSA", Mint("EdDSA", k.Ed25519, Object{"alg": "EdDSA", "kid": "d1"}, plain)),
		ok("no kid, one key fits", Mint("ES256", k.P256, Object{"alg": "ES256"}, plain)),
		ok("typ missing", s.aHeader(Object{"typ": nil}, plain)),
		ok("typ at+jwt", s.aHeader(Object{"typ": "at+jwt"}, plain)),
		ok("typ application/AT+JWT", s.aHeader(Object{"typ": "application/AT+JWT"}, plain)),
		ok("b64 true says nothing", s.aHeader(Object{"b64": true}, plain)),
		ok("audience in a list", s.a(Object{"aud": []string{"else", "stock"}})),
		ok("exp with a fraction", s.a(Object{"exp": float64(s.at(time.Hour)) + 0.5})),
		ok("exp with an exponent", s.aHeader(nil, strings.Replace(toJSON(s.ofA(Object{"exp": nil})), "{", `{"exp":1.9e11,`, 1))),
		ok("escaped claim name", s.aHeader(nil, strings.Replace(toJSON(plain), `"aud"`, `"\u0061ud"`, 1))),
		ok("surrogate pair", s.aHeader(nil, strings.Replace(toJSON(plain), `{`, `{"x":"\ud83d\ude00",`, 1))),
		{Name: "issuer B", Headers: lines("x-token", s.b(nil)), Want: OK},
		ok("issuer C", s.c(nil)),
		ok("issuer D", s.d(nil)),
		// Both s and n-s verify (FIPS 186-5). It is the same statement by the same key, under other bytes.
		ok("ES256 with the other s", otherS(Mint("ES256", k.P256, Object{"alg": "ES256", "kid": "e1"}, plain))),
	}
}

// signatures are tokens whose signature is not the key's over these bytes.
func (s *Suite) signatures() []Case {
	const verify, shape = "signature does not verify", "token is not three base64url segments"
	k := s.Keys
	g := s.a(nil)
	es := Mint("ES256", k.P256, Object{"alg": "ES256", "kid": "e1"}, s.ofA(nil))
	ed := Mint("EdDSA", k.Ed25519, Object{"alg": "EdDSA", "kid": "d1"}, s.ofA(nil))
	cut := strings.LastIndexByte(g, '.')
	resign := func(token string, signature []byte) string {
		return token[:strings.LastIndexByte(token, '.')+1] + b64(signature)
	}
	signature := func(token string) []byte { return unb64(token[strings.LastIndexByte(token, '.')+1:]) }
	order := k.P256.Curve.Params().N.Bytes()
	hash := sha256.Sum256([]byte(es[:strings.LastIndexByte(es, '.')]))
	der := must(ecdsa.SignASN1(rand.Reader, k.P256, hash[:]))
	half := signature(es)
	zeros := func(n int) []byte { return make([]byte, n) }
	longSalt := &jwt.SigningMethodRSAPSS{
		SigningMethodRSA: &jwt.SigningMethodRSA{Name: "PS256", Hash: crypto.SHA256},
		Options:          &rsa.PSSOptions{SaltLength: 64},
	}
	return []Case{
		bad("signed by another RSA key", Mint("RS256", k.RSAOther, Object{"alg": "RS256", "kid": "r1"}, s.ofA(nil)), verify),
		bad("signed by another EC key", Mint("ES256", k.P256Other, Object{"alg": "ES256", "kid": "e1"}, s.ofA(nil)), verify),
		bad("signed by another Ed25519 key", Mint("EdDSA", k.Ed25519Another, Object{"alg": "EdDSA", "kid": "d1"}, s.ofA(nil)), verify),
		bad("claims changed", strings.Split(g, ".")[0]+"."+b64([]byte(toJSON(s.ofA(Object{"sub": "admin"}))))+g[cut:], verify),
		bad("header changed", b64([]byte(`{"alg":"RS256","kid":"r1"}`))+g[strings.IndexByte(g, '.'):], verify),
		bad("RSA signature truncated", resign(g, signature(g)[:255]), verify),
		bad("RSA signature with a byte behind", resign(g, append(signature(g), 0)), verify),
		bad("RSA signature with a zero in front", resign(g, append([]byte{0}, signature(g)...)), verify),
		bad("RSA signature of zeros", resign(g, zeros(256)), verify),
		bad("RSA signature is one", resign(g, append(zeros(255), 1)), verify),
		bad("RSA signature is the modulus", resign(g, k.RSA.N.Bytes()), verify),
		bad("one byte of signature", resign(g, zeros(1)), verify),
		bad("no signature", g[:cut+1], shape),
		bad("signature of another token", resign(g, signature(s.a(Object{"jti": "2"}))), verify),
		bad("ES256 zeros (psychic)", resign(es, zeros(64)), verify),
		bad("ES256 r zero", resign(es, append(zeros(32), half[32:]...)), verify),
		bad("ES256 s zero", resign(es, append(half[:32:32], zeros(32)...)), verify),
		bad("ES256 r and s the group's order", resign(es, append(append([]byte{}, order...), order...)), verify),
		bad("ES256 r and s one", resign(es, append(append(zeros(31), 1), append(zeros(31), 1)...)), verify),
		bad("ES256 s above the order", resign(es, append(half[:32:32], aboveOrder(half[32:], k.P256.Curve.Params().N)...)), verify),
		bad("ES256 r and s swapped", resign(es, append(half[32:64:64], half[:32]...)), verify),
		bad("ES256 signature in DER", resign(es, der), verify),
		bad("ES256 truncated", resign(es, half[:63]), verify),
		bad("ES256 with a byte behind", resign(es, append(half[:64:64], 0)), verify),
		bad("ES256 stretched to 96 bytes", resign(es, append(append(zeros(16), half[:32]...), append(zeros(16), half[32:]...)...)), verify),
		bad("EdDSA s above the order", malleable(ed), verify),
		bad("EdDSA zeros", resign(ed, zeros(64)), verify),
		bad("EdDSA with R the identity", resign(ed, append(append([]byte{1}, zeros(31)...), zeros(32)...)), verify),
		bad("EdDSA truncated", resign(ed, signature(ed)[:63]), verify),
		bad("EdDSA with a byte behind", resign(ed, append(signature(ed), 0)), verify),
		bad("PS256 under RS256", Mint("PS256", k.RSA, Object{"alg": "RS256", "kid": "r1"}, s.ofA(nil)), verify),
		bad("RS256 under PS256", Mint("RS256", k.RSA, Object{"alg": "PS256", "kid": "r1"}, s.ofA(nil)), verify),
		bad("RS512 under RS256", Mint("RS512", k.RSA, Object{"alg": "RS256", "kid": "r1"}, s.ofA(nil)), verify),
		bad("PS256 with another salt length", mintWith(longSalt, k.RSA, Object{"alg": "PS256", "kid": "r1"}, s.ofA(nil)), verify),
		bad("ES256 name, P-384 signature", Mint("ES384", k.P384, Object{"alg": "ES256", "kid": "e1"}, s.ofA(nil)), verify),
		bad("ES256 name, P-521 signature", Mint("ES512", k.P521, Object{"alg": "ES256", "kid": "e1"}, s.ofA(nil)), verify),
		bad("ES384 name, P-256 signature", Mint("ES256", k.P256, Object{"alg": "ES384", "kid": "e3"}, s.ofA(nil)), verify),
		bad("EdDSA name, HMAC with the public key",
			Mint("HS256", []byte(k.Ed25519[32:]), Object{"alg": "EdDSA", "kid": "d1"}, s.ofA(nil)), verify),
		bad("RS256 name, HMAC with the public key",
			Mint("HS256", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkixOf(&k.RSA.PublicKey)}),
				Object{"alg": "RS256", "kid": "r1"}, s.ofA(nil)), verify),
	}
}

// algorithms are tokens whose alg is none, symmetric, not the issuer's, or not a name.
func (s *Suite) algorithms() []Case {
	const alg, kind = "algorithm is not allowed", "token header has a value of the wrong type"
	k, plain := s.Keys, s.ofA(nil)
	unsigned := func(alg string) string {
		return Mint("none", jwt.UnsafeAllowNoneSignatureType, Object{"alg": alg, "kid": "r1"}, plain)
	}
	var cases []Case
	for spelling := range 16 {
		name := []byte("none")
		for i := range name {
			if spelling>>i&1 == 1 {
				name[i] -= 'a' - 'A'
			}
		}
		cases = append(cases, bad(fmt.Sprintf("alg %s", name), unsigned(string(name))+"AA", alg))
	}
	for _, odd := range []string{"none ", " none", "none\x00", "nonе", "", "null", "NULL", "rs256", "RS256 ", "RS256\x00", "RSA", "SHA256withRSA"} {
		cases = append(cases, bad(fmt.Sprintf("alg %q", odd), unsigned(odd)+"AA", alg))
	}
	pkcs1 := x509.MarshalPKCS1PublicKey(&k.RSA.PublicKey)
	pkix := pkixOf(&k.RSA.PublicKey)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	own := JWK(&k.RSA.PublicKey, Object{"kid": "r1", "use": "sig"})
	for _, secret := range []struct {
		name  string
		bytes []byte
	}{
		{"the PEM of the public key", block("PUBLIC KEY", pkix)},
		{"the PEM without its last line break", []byte(strings.TrimSpace(string(block("PUBLIC KEY", pkix))))},
		{"the PKCS #1 PEM", block("RSA PUBLIC KEY", pkcs1)},
		{"the certificate's PEM", block("CERTIFICATE", certificate(k.RSA))},
		{"the DER of the public key", pkix},
		{"the PKCS #1 DER", pkcs1},
		{"the JWK as published", []byte(toJSON(own))},
		{"the JWK set as published", []byte(s.keySets()["a.json"])},
		{"the JWK of the thumbprint", []byte(toJSON(JWK(&k.RSA.PublicKey, nil)))},
		{"the modulus", k.RSA.N.Bytes()},
		{"the modulus as text", []byte(own["n"].(string))},
		{"the EC key's PEM", block("PUBLIC KEY", pkixOf(&k.P256.PublicKey))},
		{"the Ed25519 key", k.Ed25519[32:]},
		{"the key id", []byte("r1")},
		{"nothing", []byte{}},
		{"a word", []byte("secret")},
	} {
		cases = append(cases, bad("HS256 with "+secret.name, Mint("HS256", secret.bytes, Object{"alg": "HS256", "kid": "r1"}, plain), alg))
	}
	pemKey := block("PUBLIC KEY", pkix)
	return append(cases,
		bad("HS384 with the PEM", Mint("HS384", pemKey, Object{"alg": "HS384", "kid": "r1"}, plain), alg),
		bad("HS512 with the PEM", Mint("HS512", pemKey, Object{"alg": "HS512", "kid": "r1"}, plain), alg),
		bad("HS256 with the PEM, without kid", Mint("HS256", pemKey, Object{"alg": "HS256"}, plain), alg),
		bad("RS512", Mint("RS512", k.RSA, Object{"alg": "RS512", "kid": "r1"}, plain), alg),
		bad("PS384", Mint("PS384", k.RSA, Object{"alg": "PS384", "kid": "r1"}, plain), alg),
		bad("ES512", Mint("ES512", k.P521, Object{"alg": "ES512", "kid": "e3"}, plain), alg),
		bad("ES256K", Mint("ES256", k.P256, Object{"alg": "ES256K", "kid": "e1"}, plain), alg),
		bad("Ed448", Mint("EdDSA", k.Ed25519, Object{"alg": "Ed448", "kid": "d1"}, plain), alg),
		bad("RSA-OAEP", Mint("RS256", k.RSA, Object{"alg": "RSA-OAEP", "kid": "r1"}, plain), alg),
		bad("dir", Mint("RS256", k.RSA, Object{"alg": "dir", "enc": "A256GCM"}, plain), alg),
		Case{Name: "alg not of this issuer", Want: alg,
			Headers: lines("x-token", Mint("PS256", k.RSAOther, Object{"alg": "PS256", "kid": "r1"}, s.ofA(Object{"iss": issuerB})))},
		bad("alg missing", s.aHeader(Object{"alg": nil}, plain), kind),
		bad("alg null", Mint("RS256", k.RSA, `{"alg":null,"kid":"r1"}`, plain), kind),
		bad("alg a list", s.aHeader(Object{"alg": []string{"RS256"}}, plain), kind),
		bad("alg an object", s.aHeader(Object{"alg": Object{"RS256": true}}, plain), kind),
		bad("alg a number", s.aHeader(Object{"alg": 256}, plain), kind),
		bad("none and no signature at all", unsigned("none"), "token is not three base64url segments"),
	)
}

// keyReuse are tokens that one issuer's key signed in the name of another.
func (s *Suite) keyReuse() []Case {
	const verify, unknown = "signature does not verify", "unknown key id"
	k := s.Keys
	named := func(issuer string) Object {
		return s.ofA(Object{"iss": issuer, "client_id": "shop", "azp": "shop", "token_use": "access", "department": "x", "level": "3"})
	}
	at := Object{"alg": "RS256", "kid": "r1", "typ": "at+jwt"}
	fit := "algorithm does not fit the key"
	return []Case{
		bad("B's key in A's name", Mint("RS256", k.RSAOther, Object{"alg": "RS256", "kid": "r1"}, named(issuerA)), verify),
		{Name: "A's key in B's name", Want: verify, Headers: lines("x-token", Mint("RS256", k.RSA, Object{"alg": "RS256", "kid": "r1"}, named(issuerB)))},
		bad("A's key in C's name", Mint("RS256", k.RSA, at, named(issuerC)), unknown),
		bad("A's key in C's name, without kid", Mint("ES256", k.P256, Object{"alg": "ES256"}, named(issuerC)), verify),
		bad("A's key in D's name", Mint("RS256", k.RSA, at, named(issuerD)), unknown),
		bad("A's key in D's name, kid of both", Mint("EdDSA", k.Ed25519, Object{"alg": "EdDSA", "kid": "d1", "typ": "at+jwt"}, named(issuerD)), verify),
		bad("A's RSA key in D's name, kid of both", Mint("RS256", k.RSA, Object{"alg": "RS256", "kid": "d1", "typ": "at+jwt"}, named(issuerD)), fit),
		bad("D's key in A's name, kid of both", Mint("EdDSA", k.Ed25519Another, Object{"alg": "EdDSA", "kid": "d1"}, named(issuerA)), verify),
		bad("no kid, more keys fit than are tried", Mint("ES256", k.Unnamed[0], Object{"alg": "ES256", "typ": "at+jwt"}, named(issuerD)), "token names no key and several fit"),
		bad("C's key in A's name, C's kid", Mint("ES256", k.P256Other, Object{"alg": "ES256", "kid": "c1"}, named(issuerA)), unknown),
	}
}

func pkixOf(public crypto.PublicKey) []byte { return must(x509.MarshalPKIXPublicKey(public)) }

// certificate is a self-signed one.
func certificate(key *rsa.PrivateKey) []byte {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a.example"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	return must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
}

func x5c(key *rsa.PrivateKey) []string {
	return []string{base64.StdEncoding.EncodeToString(certificate(key))}
}

// otherS replaces s of an ES256 signature with n-s, which verifies as well.
func otherS(token string) string {
	cut := strings.LastIndexByte(token, '.')
	signature := unb64(token[cut+1:])
	n, _ := new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
	new(big.Int).Sub(n, new(big.Int).SetBytes(signature[32:])).FillBytes(signature[32:])
	return token[:cut+1] + b64(signature)
}

// aboveOrder adds the group's order to s where 32 bytes hold that, and otherwise gives the largest number of 32 bytes: s is
// out of range in both.
func aboveOrder(s []byte, n *big.Int) []byte {
	sum := new(big.Int).Add(new(big.Int).SetBytes(s), n)
	if sum.BitLen() > 256 {
		sum.Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1))
	}
	return sum.FillBytes(make([]byte, 32))
}

// malleable adds the group's order to an Ed25519 signature's s, which a lax verifier takes for the same signature.
func malleable(token string) string {
	cut := strings.LastIndexByte(token, '.')
	signature := unb64(token[cut+1:])
	s := make([]byte, 32)
	for i := range s {
		s[i] = signature[63-i]
	}
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	sum := new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	for i := range sum {
		signature[63-i] = sum[i]
	}
	return token[:cut+1] + b64(signature)
}
