package identity_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

type attack struct {
	name    string
	headers headers
	want    string // "ok", "anonymous" or the cause of a bad credential
}

func TestIdentify(t *testing.T) {
	var cases []attack
	cases = append(cases, acceptedTokens()...)
	cases = append(cases, places()...)
	cases = append(cases, forgedSignatures()...)
	cases = append(cases, forgedHeaders()...)
	cases = append(cases, encodings()...)
	cases = append(cases, badClaims()...)

	v := newVerifier(t, twoIssuers(t))
	keys := load(t, v)
	seen := map[string]bool{}
	for _, c := range cases {
		if seen[c.name] {
			t.Errorf("two cases named %q", c.name)
		}
		seen[c.name] = true
		want := c.want
		if want != "ok" && want != "anonymous" {
			want = "bad credential: " + want
		}
		for _, state := range []string{"first", "again"} { // the second may come from the cache
			if got := outcome(t, v, keys, c.headers); got != want {
				t.Errorf("%s, %s: got %q, want %q", c.name, state, got, want)
			}
		}
	}
	t.Logf("%d cases", len(cases))
}

func acceptedTokens() []attack {
	r := keyRing()
	ok := func(name, token string) attack { return attack{name, bearer(token), "ok"} }
	return []attack{
		ok("RS256", good(nil)),
		ok("PS256", mint("PS256", r.rsa, object{"alg": "PS256", "kid": "r1"}, claims(nil))),
		ok("ES256", mint("ES256", r.p256, object{"alg": "ES256", "kid": "e1"}, claims(nil))),
		ok("ES384", mint("ES384", r.p384, object{"alg": "ES384", "kid": "e3"}, claims(nil))),
		ok("EdDSA", mint("EdDSA", r.ed, object{"alg": "EdDSA", "kid": "d1"}, claims(nil))),
		ok("no kid, one key fits", mint("ES256", r.p256, object{"alg": "ES256"}, claims(nil))),
		ok("typ at+jwt", mint("RS256", r.rsa, object{"alg": "RS256", "kid": "r1", "typ": "at+jwt"}, claims(nil))),
		ok("typ application/AT+JWT", mint("RS256", r.rsa, object{"alg": "RS256", "kid": "r1", "typ": "application/AT+JWT"}, claims(nil))),
		ok("b64 true says nothing", mint("RS256", r.rsa, object{"alg": "RS256", "kid": "r1", "b64": true}, claims(nil))),
		ok("audience in a list", good(object{"aud": []string{"else", "stock"}})),
		ok("exp with a fraction", good(object{"exp": float64(at(time.Hour)) + 0.5})),
		ok("exp as a float", good(object{"exp": 1.9e9})),
		ok("escaped claim name", mint("RS256", r.rsa, object{"alg": "RS256", "kid": "r1"},
			strings.Replace(toJSON(claims(nil)), `"aud"`, `"\u0061ud"`, 1))),
		ok("surrogate pair", mint("RS256", r.rsa, object{"alg": "RS256", "kid": "r1"},
			strings.Replace(toJSON(claims(nil)), `{`, `{"x":"\ud83d\ude00",`, 1))),
		{"issuer B", headers{"x-token": {mint("RS256", r.rsaOther, object{"alg": "RS256", "kid": "r1"}, claims(object{"iss": issuerB}))}}, "ok"},
		ok("expired within the skew", good(object{"exp": at(-29 * time.Second)})),
		ok("not yet valid within the skew", good(object{"nbf": at(30 * time.Second)})),
	}
}

func places() []attack {
	g, other := good(nil), good(object{"jti": "2"})
	one := func(values ...string) headers { return headers{"authorization": values} }
	return []attack{
		{"nothing", headers{}, "anonymous"},
		{"empty authorization", one(""), "anonymous"},
		{"another scheme", one("Basic dXNlcjpwYXNz"), "anonymous"},
		{"digest has commas of its own", one(`Digest username="a", realm = "b c", nonce="d"`), "anonymous"},
		{"scheme in another case", one("bEARER " + g), "ok"},
		{"several spaces", one("Bearer   " + g), "ok"},
		{"spaces around", one(" \tBearer " + g + " "), "ok"},
		{"a tab", one("Bearer\t" + g), "token is not three base64url segments"},
		{"scheme only", one("Bearer"), "credential is empty"},
		{"scheme and spaces", one("Bearer  "), "credential is empty"},
		{"no scheme", one(g), "anonymous"}, // a scheme of that name, as far as HTTP goes
		{"not a scheme", one("Bea(rer " + g), "credential header is malformed"},
		{"header twice", one("Bearer "+g, "Bearer "+g), "credential header is sent more than once"},
		{"header twice, once empty", one("", "Bearer "+g), "credential header is sent more than once"},
		{"comma-joined", one("Bearer " + g + ",Bearer " + other), "several credentials in one header"},
		{"comma-joined behind another scheme", one("Basic dXNlcg==, Bearer " + g), "several credentials in one header"},
		{"cookie", headers{"cookie": {"theme=dark; access_token=" + g + "; lang=en"}}, "ok"},
		{"cookie over two lines", headers{"cookie": {"theme=dark", "access_token=" + g}}, "ok"},
		{"cookie twice", headers{"cookie": {"access_token=" + g + "; access_token=" + g}}, "credential cookie is sent more than once"},
		{"cookie twice over lines", headers{"cookie": {"access_token=" + g, "access_token="}}, "credential cookie is sent more than once"},
		{"empty cookie", headers{"cookie": {"access_token="}}, "anonymous"},
		{"cookie in another case", headers{"cookie": {"Access_Token=" + g}}, "anonymous"},
		{"quoted cookie", headers{"cookie": {`access_token="` + g + `"`}}, "token is not three base64url segments"},
		{"same token in both places", headers{"authorization": {"Bearer " + g}, "cookie": {"access_token=" + g}}, "ok"},
		{"two tokens", headers{"authorization": {"Bearer " + g}, "cookie": {"access_token=" + other}}, "different credentials on one request"},
		{"garbage beside a token", headers{"authorization": {"Bearer " + g}, "x-token": {"x"}}, "different credentials on one request"},
		{"A's token where only B's may be", headers{"x-token": {g}}, "issuer does not accept tokens from this place"},
	}
}

func forgedSignatures() []attack {
	r := keyRing()
	g := good(nil)
	cut := strings.LastIndexByte(g, '.')
	es := mint("ES256", r.p256, object{"alg": "ES256", "kid": "e1"}, claims(nil))
	esCut := strings.LastIndexByte(es, '.')
	esHeader := object{"alg": "ES256", "kid": "e1"}
	withSignature := func(raw []byte) headers {
		return bearer(b64([]byte(toJSON(esHeader))) + "." + b64([]byte(toJSON(claims(nil)))) + "." + b64(raw))
	}
	order := r.p256.Curve.Params().N.FillBytes(make([]byte, 32))
	der, err := r.p256.Sign(nil, make([]byte, 32), nil)
	if err != nil {
		der = make([]byte, 70)
	}
	saltless := &jwt.SigningMethodRSAPSS{SigningMethodRSA: jwt.SigningMethodPS256.SigningMethodRSA, Options: nil}
	const verify = "signature does not verify"
	return []attack{
		{"another's key", bearer(mint("RS256", r.rsaOther, object{"alg": "RS256", "kid": "r1"}, claims(nil))), verify},
		{"issuer B's key signs A's name", bearer(mint("RS256", r.rsaOther, object{"alg": "RS256", "kid": "r1"}, claims(nil))), verify},
		{"issuer A's key signs B's name", headers{"x-token": {mint("RS256", r.rsa, object{"alg": "RS256", "kid": "r1"}, claims(object{"iss": issuerB}))}}, verify},
		{"claims changed", bearer(strings.Split(g, ".")[0] + "." + b64([]byte(toJSON(claims(object{"sub": "admin"})))) + g[cut:]), verify},
		{"header changed", bearer(b64([]byte(`{"alg":"RS256","kid":"r1"}`)) + g[strings.IndexByte(g, '.'):]), verify},
		{"truncated signature", bearer(g[:cut+1] + b64(make([]byte, 255))), verify},
		{"signature of zeros", bearer(g[:cut+1] + b64(make([]byte, 256))), verify},
		{"trailing signature bytes", bearer(g[:cut+1] + b64(append(decode(g[cut+1:]), 0))), verify},
		{"one byte of signature", bearer(g[:cut+1] + "AA"), verify},
		{"no signature", bearer(g[:cut+1]), "token is not three base64url segments"},
		{"ES256 zeros (psychic)", withSignature(make([]byte, 64)), verify},
		{"ES256 r and s the group's order", withSignature(append(append([]byte{}, order...), order...)), verify},
		{"ES256 signature in DER", withSignature(der), verify},
		{"ES256 long signature", bearer(es[:esCut+1] + b64(append(decode(es[esCut+1:]), 0))), verify},
		{"EdDSA s above the order", bearer(malleable(mint("EdDSA", r.ed, object{"alg": "EdDSA", "kid": "d1"}, claims(nil)))), verify},
		{"PS256 under RS256", bearer(mint("PS256", r.rsa, object{"alg": "RS256", "kid": "r1"}, claims(nil))), verify},
		{"PS256 with another salt length", bearer(mintWith(saltless, r.rsa, object{"alg": "PS256", "kid": "r1"})), verify},
		{"ES256 name, P-384 signature", bearer(mint("ES384", r.p384, object{"alg": "ES256", "kid": "e1"}, claims(nil))), verify},
	}
}

func forgedHeaders() []attack {
	r := keyRing()
	with := func(extra object) headers {
		h := object{"alg": "RS256", "kid": "r1"}
		for k, v := range extra {
			if h[k] = v; v == nil {
				delete(h, k)
			}
		}
		return bearer(mint("RS256", r.rsa, h, claims(nil)))
	}
	der, err := x509.MarshalPKIXPublicKey(&r.rsa.PublicKey)
	if err != nil {
		panic(err)
	}
	hmac := func(secret []byte) headers {
		return bearer(mint("HS256", secret, object{"alg": "HS256", "kid": "r1"}, claims(nil)))
	}
	ownKey := jwk(&r.rsaOther.PublicKey, object{"kid": "evil"})
	foreign := func(extra object) headers {
		h := object{"alg": "RS256", "kid": "evil"}
		for k, v := range extra {
			h[k] = v
		}
		return bearer(mint("RS256", r.rsaOther, h, claims(nil)))
	}
	none := func(alg string) headers {
		return bearer(mint("none", jwt.UnsafeAllowNoneSignatureType, object{"alg": alg}, claims(nil)) + "AA")
	}
	const alg = "algorithm is not allowed"
	cases := []attack{
		{"HS256 with the PEM of the public key", hmac(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), alg},
		{"HS256 with the DER of the public key", hmac(der), alg},
		{"HS256 with the JWK of the public key", hmac([]byte(toJSON(jwk(&r.rsa.PublicKey, nil)))), alg},
		{"HS256 with nothing", hmac([]byte{}), alg},
		{"RS512", bearer(mint("RS512", r.rsa, object{"alg": "RS512", "kid": "r1"}, claims(nil))), alg},
		{"alg in lower case", with(object{"alg": "rs256"}), alg},
		{"alg with a space", with(object{"alg": "RS256 "}), alg},
		{"alg not of this issuer", headers{"x-token": {mint("PS256", r.rsaOther, object{"alg": "PS256"}, claims(object{"iss": issuerB}))}}, alg},
		{"alg missing", with(object{"alg": nil}), "token header has a value of the wrong type"},
		{"alg a list", with(object{"alg": []string{"RS256"}}), "token header has a value of the wrong type"},
		{"embedded jwk", foreign(object{"jwk": ownKey}), "unknown key id"},
		{"jku", foreign(object{"jku": "http://127.0.0.1:1/keys"}), "unknown key id"},
		{"x5u", foreign(object{"x5u": "http://127.0.0.1:1/cert"}), "unknown key id"},
		{"x5c", foreign(object{"x5c": []string{base64.StdEncoding.EncodeToString(der)}}), "unknown key id"},
		{"kid walks the file system", with(object{"kid": "../../../dev/null"}), "unknown key id"},
		{"kid with sql", with(object{"kid": "r1' OR '1'='1"}), "unknown key id"},
		{"kid with NUL", with(object{"kid": "r1\x00"}), "unknown key id"},
		{"kid in another case", with(object{"kid": "R1"}), "unknown key id"},
		{"kid empty", with(object{"kid": ""}), "token header has a value of the wrong type"},
		{"kid a number", with(object{"kid": 1}), "token header has a value of the wrong type"},
		{"kid null", bearer(mint("RS256", r.rsa, `{"alg":"RS256","kid":null}`, claims(nil))), "token header has a value of the wrong type"},
		{"kid of a key of another type", with(object{"kid": "e1"}), "algorithm does not fit the key"},
		{"ES256 with the P-384 key", bearer(mint("ES256", r.p256, object{"alg": "ES256", "kid": "e3"}, claims(nil))), "algorithm does not fit the key"},
		{"EdDSA with the RSA key", bearer(mint("EdDSA", r.ed, object{"alg": "EdDSA", "kid": "r1"}, claims(nil))), "algorithm does not fit the key"},
		{"crit", with(object{"crit": []string{"exp"}}), "token asks for an extension"},
		{"crit empty", with(object{"crit": []string{}}), "token asks for an extension"},
		{"b64 false", with(object{"b64": false}), "token asks for an extension"},
		{"b64 of another type", with(object{"b64": "true"}), "token asks for an extension"},
		{"logout token", with(object{"typ": "logout+jwt"}), "token is of another type"},
		{"typ a number", with(object{"typ": 1}), "token is of another type"},
		{"alg twice", bearer(mint("RS256", r.rsa, `{"alg":"none","kid":"r1","alg":"RS256"}`, claims(nil))), "token has a json key twice"},
		{"alg twice, once escaped", bearer(mint("RS256", r.rsa, `{"alg":"RS256","kid":"r1","\u0061lg":"RS256"}`, claims(nil))), "token has a json key twice"},
		{"header a list", bearer(mint("RS256", r.rsa, `["RS256"]`, claims(nil))), "token is not strict json"},
		{"header null", bearer(mint("RS256", r.rsa, `null`, claims(nil))), "token is not strict json"},
		{"header with something behind", bearer(mint("RS256", r.rsa, `{"alg":"RS256","kid":"r1"} {}`, claims(nil))), "token is not strict json"},
		{"header with a comment", bearer(mint("RS256", r.rsa, `{"alg":"RS256"/**/,"kid":"r1"}`, claims(nil))), "token is not strict json"},
		{"byte order mark", bearer(mint("RS256", r.rsa, "\ufeff"+`{"alg":"RS256","kid":"r1"}`, claims(nil))), "token is not strict json"},
		{"signed with an empty none", bearer(mint("none", jwt.UnsafeAllowNoneSignatureType, object{"alg": "none"}, claims(nil))), "token is not three base64url segments"},
	}
	for _, spelling := range []string{"none", "None", "NONE", "nOnE", "none ", ""} {
		cases = append(cases, attack{fmt.Sprintf("alg %q", spelling), none(spelling), alg})
	}
	return cases
}

func encodings() []attack {
	g := good(nil)
	s := strings.Split(g, ".")
	const shape, strict = "token is not three base64url segments", "token is not strict json"
	r := keyRing()
	raw := func(claims string) headers {
		return bearer(mint("RS256", r.rsa, object{"alg": "RS256", "kid": "r1"}, claims))
	}
	all := toJSON(claims(nil))
	inside := func(member string) headers { return raw(strings.Replace(all, "{", "{"+member+",", 1)) }
	cases := []attack{
		{"not a token", bearer("x"), shape},
		{"two segments", bearer(s[0] + "." + s[1]), shape},
		{"four segments", bearer(g + ".AA"), shape},
		{"five segments (JWE)", bearer(g + ".AA.AA"), shape},
		{"only dots", bearer(".."), shape},
		{"empty header", bearer("." + s[1] + "." + s[2]), shape},
		{"empty claims", bearer(s[0] + ".." + s[2]), shape},
		{"padding", bearer(g + "="), shape},
		{"standard alphabet", bearer(s[0] + "." + s[1] + "." + "+/" + s[2][2:]), shape},
		{"line break within", bearer(s[0] + "." + s[1] + ".\n" + s[2]), shape},
		{"carriage return within", bearer(s[0] + ".\r" + s[1] + "." + s[2]), shape},
		{"space within", bearer(s[0] + " ." + s[1] + "." + s[2]), shape},
		{"NUL at the end", bearer(g + "\x00"), shape},
		{"percent encoding", bearer(strings.Replace(g, ".", "%2e", 1)), shape},
		{"stray bits in the last character", bearer(strayBits(g)), shape},
		{"a single character too many", bearer(s[0] + "." + s[1] + "." + "A" + strings.Repeat("A", 4)), shape},
		{"too long", bearer(g + strings.Repeat("A", 16<<10)), "token is too long"},
		{"a megabyte", bearer(strings.Repeat("A", 1<<20)), "token is too long"},
		{"claims a string", raw(`"x"`), strict},
		{"claims empty", raw(` `), strict},
		{"claims not json", raw(`{iss: 1}`), strict},
		{"nested token", raw(good(nil)), strict},
		{"something behind the claims", raw(all + all), strict},
		{"NUL behind the claims", raw(all + "\x00"), strict},
		{"claim twice", inside(`"sub":"admin"`), "token has a json key twice"},
		{"claim twice, once escaped", inside(`"s\u0075b":"admin"`), "token has a json key twice"},
		{"key twice deep inside", inside(`"x":[{"a":1,"a":2}]`), "token has a json key twice"},
		{"invalid utf-8", inside("\"x\":\"\xff\""), strict},
		{"overlong utf-8", inside("\"x\":\"\xc0\xaf\""), strict},
		{"half a surrogate pair", inside(`"x":"\ud800"`), strict},
		{"surrogates in the wrong order", inside(`"x":"\ude00\ud83d"`), strict},
		{"raw control character", inside("\"x\":\"\x01\""), strict},
		{"number out of range", inside(`"x":1e999`), strict},
		{"number with a vast exponent", inside(`"x":1e999999999`), strict},
		{"number of a hundred digits", inside(`"x":` + strings.Repeat("9", 100)), strict},
		{"NaN", inside(`"x":NaN`), strict},
		{"leading zero", inside(`"x":01`), strict},
		{"trailing comma", raw(strings.Replace(all, "}", ",}", 1)), strict},
		{"32 levels", inside(`"x":` + strings.Repeat("[", 31) + strings.Repeat("]", 31)), "ok"},
		{"33 levels", inside(`"x":` + strings.Repeat("[", 32) + strings.Repeat("]", 32)), "token is nested too deeply"},
		{"five thousand levels", inside(`"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000)), "token is nested too deeply"},
		{"objects too deep", inside(`"x":` + strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)), "token is nested too deeply"},
	}
	return cases
}

func badClaims() []attack {
	c := func(name string, changes object, want string) attack {
		return attack{name, bearer(good(changes)), want}
	}
	rawNumber := func(text string) headers {
		r := keyRing()
		return bearer(mint("RS256", r.rsa, object{"alg": "RS256", "kid": "r1"}, strings.Replace(
			toJSON(claims(object{"exp": nil})), "{", `{"exp":`+text+`,`, 1)))
	}
	const aud, sub, when = "audience does not match", "subject is missing or not a plain string", "a time claim is not a number in range"
	return []attack{
		c("unknown issuer", object{"iss": "https://evil.example"}, "unknown issuer"),
		c("issuer with a slash", object{"iss": issuerA + "/"}, "unknown issuer"),
		c("issuer in another case", object{"iss": strings.ToUpper(issuerA)}, "unknown issuer"),
		c("issuer with a NUL", object{"iss": issuerA + "\x00"}, "unknown issuer"),
		c("issuer empty", object{"iss": ""}, "unknown issuer"),
		c("no issuer", object{"iss": nil}, "issuer is missing or not a string"),
		c("issuer a list", object{"iss": []string{issuerA}}, "issuer is missing or not a string"),
		c("another audience", object{"aud": "billing"}, aud),
		c("audience as a prefix", object{"aud": "orders-admin"}, aud),
		c("audience as a part", object{"aud": "order"}, aud),
		c("audience in another case", object{"aud": "Orders"}, aud),
		c("audiences joined", object{"aud": "orders stock"}, aud),
		c("audience empty", object{"aud": ""}, aud),
		c("no audience", object{"aud": nil}, "audience is missing or not a string or list of strings"),
		c("audience list empty", object{"aud": []string{}}, "audience is missing or not a string or list of strings"),
		c("audience an object", object{"aud": object{"orders": true}}, "audience is missing or not a string or list of strings"),
		c("audience list with a number", object{"aud": []any{"orders", 1}}, "audience is missing or not a string or list of strings"),
		c("expired", object{"exp": at(-time.Hour)}, "token expired"),
		c("expired at the skew's end", object{"exp": at(-30 * time.Second)}, "token expired"),
		c("exp's fraction does not count", object{"exp": float64(at(-30*time.Second)) + 0.9}, "token expired"),
		c("nbf's fraction does", object{"nbf": float64(at(30*time.Second)) + 0.1}, "token is not valid yet"),
		c("no exp", object{"exp": nil}, "token has no expiry"),
		c("exp a string", object{"exp": fmt.Sprint(at(time.Hour))}, when),
		c("exp null", object{"exp": []any(nil)}, when),
		c("exp an object", object{"exp": object{}}, when),
		{"exp negative", rawNumber("-1"), when},
		{"exp beyond the year 9999", rawNumber("253402300800"), when},
		{"exp beyond int64", rawNumber("9223372036854775808"), when},
		{"exp a huge float", rawNumber("1e300"), when},
		{"exp zero", rawNumber("0"), "token expired"},
		{"exp minus zero", rawNumber("-0"), "token expired"},
		c("not yet valid", object{"nbf": at(time.Hour)}, "token is not valid yet"),
		c("not yet valid past the skew", object{"nbf": at(31 * time.Second)}, "token is not valid yet"),
		c("nbf a string", object{"nbf": "0"}, when),
		c("issued in the future", object{"iat": at(time.Hour)}, "token was issued in the future"),
		c("iat a bool", object{"iat": true}, when),
		c("no subject", object{"sub": nil}, sub),
		c("subject empty", object{"sub": ""}, sub),
		c("subject a number", object{"sub": 7}, sub),
		c("subject a list", object{"sub": []string{"a"}}, sub),
		c("subject with a line break", object{"sub": "a\r\nx-admin: 1"}, sub),
		c("roles an object", object{"realm_access": object{"roles": object{"admin": true}}}, "roles claim is not a string or list of strings"),
		c("roles with a number", object{"realm_access": object{"roles": []any{"a", 1}}}, "roles claim is not a string or list of strings"),
		c("groups a number", object{"groups": 1}, "groups claim is not a string or list of strings"),
		c("scope an object", object{"scope": object{}}, "scopes claim is not a string or list of strings"),
	}
}

func decode(segment string) []byte {
	raw, err := base64.RawURLEncoding.DecodeString(segment)
	if err != nil {
		panic(err)
	}
	return raw
}

// strayBits sets a bit of the last character that decodes to nothing: another spelling of the same bytes. A signature of 256
// bytes leaves four such bits.
func strayBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + string(alphabet[last|1])
}

// malleable adds the group's order to an Ed25519 signature's s, which a lax verifier takes for the same signature.
func malleable(token string) string {
	cut := strings.LastIndexByte(token, '.')
	signature := decode(token[cut+1:])
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

func mintWith(method jwt.SigningMethod, key any, header object) string {
	signed := b64([]byte(toJSON(header))) + "." + b64([]byte(toJSON(claims(nil))))
	signature, err := method.Sign(signed, key)
	if err != nil {
		panic(err)
	}
	return signed + "." + b64(signature)
}
