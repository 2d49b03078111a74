package attack

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
)

// encodings are tokens spelled in another way than RFC 7515 section 3.1 has it.
func (s *Suite) encodings() []Case {
	const shape, long = "token is not three base64url segments", "token is too long"
	g := s.a(nil)
	p := strings.Split(g, ".")
	standard := func(segment string) string { return strings.NewReplacer("-", "+", "_", "/").Replace(segment) }
	flat := toJSON(Object{"payload": p[1], "protected": p[0], "signature": p[2]})
	return []Case{
		bad("not a token", "x", shape),
		bad("one dot", ".", shape),
		bad("two segments", p[0]+"."+p[1], shape),
		bad("four segments", g+".AA", shape),
		bad("five segments (JWE)", g+".AA.AA", shape),
		bad("a JWE", strings.Join([]string{b64([]byte(`{"alg":"RSA-OAEP","enc":"A256GCM","cty":"JWT"}`)), b64(random(256)), b64(random(12)),
			b64(random(64)), b64(random(16))}, "."), shape),
		bad("a JWE with a direct key", b64([]byte(`{"alg":"dir","enc":"A128GCM"}`))+".."+b64(random(12))+"."+b64(random(64))+"."+b64(random(16)), shape),
		bad("JSON serialization", flat, shape),
		bad("JSON serialization, encoded", b64([]byte(flat)), shape),
		bad("only dots", "..", shape),
		bad("empty header", "."+p[1]+"."+p[2], shape),
		bad("empty claims", p[0]+".."+p[2], shape),
		bad("empty segment in front", "."+g, shape),
		bad("padding", g+"=", shape),
		bad("padding twice", g+"==", shape),
		bad("padding within", p[0]+"=."+p[1]+"."+p[2], shape),
		bad("standard alphabet", p[0]+"."+p[1]+"."+"+/"+p[2][2:], shape),
		bad("standard alphabet and padding", p[0]+"."+p[1]+"."+standard(base64.StdEncoding.EncodeToString(append(unb64(p[2])[:255], 0xff))), shape),
		bad("hexadecimal signature", p[0]+"."+p[1]+"."+fmt.Sprintf("%x", unb64(p[2])[:255])+"=", shape),
		bad("line break within", p[0]+"."+p[1]+".\n"+p[2], shape),
		bad("line break at the end", g+"\n", shape),
		bad("carriage return within", p[0]+".\r"+p[1]+"."+p[2], shape),
		bad("space within", p[0]+" ."+p[1]+"."+p[2], shape),
		bad("space in a segment", p[0]+"."+p[1][:5]+" "+p[1][5:]+"."+p[2], shape),
		bad("tab within", p[0]+".\t"+p[1]+"."+p[2], shape),
		bad("NUL at the end", g+"\x00", shape),
		bad("NUL within", p[0]+"\x00."+p[1]+"."+p[2], shape),
		bad("percent encoding", strings.Replace(g, ".", "%2e", 1), shape),
		bad("a wide full stop", strings.Replace(g, ".", "．", 1), shape),
		bad("another character's byte", p[0]+"."+p[1]+"."+"\xff"+p[2], shape),
		bad("stray bits in the last character", strayBits(g), shape),
		bad("stray bits in the header", strayBits(b64([]byte(`{"alg":"RS256","kid":"r1"}`)))+"."+p[1]+"."+p[2], shape),
		bad("stray bits in the claims", p[0]+"."+strayBits(b64([]byte(oddLength(toJSON(s.ofA(nil))))))+"."+p[2], shape),
		bad("a single character too many", p[0]+"."+p[1]+"."+strings.Repeat("A", 5), shape),
		bad("too long", g+strings.Repeat("A", 16<<10), long),
		bad("a megabyte", strings.Repeat("A", 1<<20), long),
		bad("a megabyte of claims", s.a(Object{"x": strings.Repeat("A", 1<<20)}), long),
		bad("a megabyte of dots", strings.Repeat(".", 1<<20), long),
		bad("a megabyte of header", s.aHeader(Object{"x": strings.Repeat("A", 1<<20)}, s.ofA(nil)), long),
	}
}

// json are signed claims that readers of JSON disagree on.
func (s *Suite) json() []Case {
	const strict, twice, deep = "token is not strict json", "token has a json key twice", "token is nested too deeply"
	all := toJSON(s.ofA(nil))
	raw := func(name, claims, want string) Case { return bad(name, s.aHeader(nil, claims), want) }
	inside := func(name, member, want string) Case {
		return raw(name, strings.Replace(all, "{", "{"+member+",", 1), want)
	}
	wide := func(order func(uint16) (byte, byte)) string {
		var b strings.Builder
		for _, unit := range utf16.Encode([]rune(all)) {
			first, second := order(unit)
			b.WriteByte(first)
			b.WriteByte(second)
		}
		return b.String()
	}
	return []Case{
		raw("claims a string", `"x"`, strict),
		raw("claims a list", `[`+all+`]`, strict),
		raw("claims null", `null`, strict),
		raw("claims empty", ` `, strict),
		raw("claims not json", `{iss: 1}`, strict),
		raw("nested token", s.a(nil), strict),
		bad("nested token, said so", s.aHeader(Object{"cty": "JWT"}, s.a(nil)), strict),
		raw("nested token in quotes", `"`+s.a(nil)+`"`, strict),
		raw("something behind the claims", all+all, strict),
		raw("NUL behind the claims", all+"\x00", strict),
		raw("claims in utf-16", wide(func(u uint16) (byte, byte) { return byte(u >> 8), byte(u) }), strict),
		raw("claims in utf-16, little endian", wide(func(u uint16) (byte, byte) { return byte(u), byte(u >> 8) }), strict),
		raw("claims behind a byte order mark", "\ufeff"+all, strict),
		inside("claim twice", `"sub":"admin"`, twice),
		inside("issuer twice", `"iss":"`+issuerB+`"`, twice),
		inside("claim twice, once escaped", `"s\u0075b":"admin"`, twice),
		inside("key twice deep inside", `"x":[{"a":1,"a":2}]`, twice),
		inside("key twice in an object of roles", `"realm_access":{"roles":[],"roles":["admin"]}`, twice),
		inside("claims in another case are others", `"SUB":"admin","Exp":1`, OK),
		inside("invalid utf-8", "\"x\":\"\xff\"", strict),
		inside("invalid utf-8 in a name", "\"\xc3\x28\":1", strict),
		inside("overlong utf-8", "\"x\":\"\xc0\xaf\"", strict),
		inside("surrogate in utf-8", "\"x\":\"\xed\xa0\x80\"", strict),
		inside("half a surrogate pair", `"x":"\ud800"`, strict),
		inside("surrogates in the wrong order", `"x":"\ude00\ud83d"`, strict),
		inside("raw control character", "\"x\":\"\x01\"", strict),
		inside("bad escape", `"x":"\x41"`, strict),
		inside("number out of range", `"x":1e999`, strict),
		inside("number with a vast exponent", `"x":1e999999999`, strict),
		inside("number of a hundred digits", `"x":`+strings.Repeat("9", 100), strict),
		inside("NaN", `"x":NaN`, strict),
		inside("Infinity", `"x":-Infinity`, strict),
		inside("hexadecimal number", `"x":0x10`, strict),
		inside("leading zero", `"x":01`, strict),
		inside("plus sign", `"x":+1`, strict),
		raw("trailing comma", strings.Replace(all, "}", ",}", 1), strict),
		inside("32 levels", `"x":`+strings.Repeat("[", 31)+strings.Repeat("]", 31), OK),
		inside("33 levels", `"x":`+strings.Repeat("[", 32)+strings.Repeat("]", 32), deep),
		inside("five thousand levels", `"x":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000), deep),
		inside("objects too deep", `"x":`+strings.Repeat(`{"a":`, 40)+"1"+strings.Repeat("}", 40), deep),
		inside("objects and lists too deep", `"x":`+strings.Repeat(`[{"a":`, 20)+"1"+strings.Repeat("}]", 20), deep),
	}
}

// claims are well-signed tokens whose issuer, subject or mapped claims are not what they must be.
func (s *Suite) claims() []Case {
	const unknown, kind, sub = "unknown issuer", "issuer is missing or not a string", "subject is missing or not a plain string"
	const roles, groups, scopes = "roles claim is not a string or list of strings", "groups claim is not a string or list of strings",
		"scopes claim is not a string or list of strings"
	const email = "e-mail claim is not a plain string"
	c := func(name string, changes Object, want string) Case { return bad(name, s.a(changes), want) }
	in := func(value any) Object { return Object{"realm_access": Object{"roles": value}} }
	return []Case{
		c("unknown issuer", Object{"iss": "https://evil.example"}, unknown),
		c("issuer with a slash", Object{"iss": issuerA + "/"}, unknown),
		c("issuer with a path", Object{"iss": issuerA + "/../b.example"}, unknown),
		c("issuer with a port", Object{"iss": issuerA + ":443"}, unknown),
		c("issuer without https", Object{"iss": "a.example"}, unknown),
		c("issuer over http", Object{"iss": "http://a.example"}, unknown),
		c("issuer with a user", Object{"iss": "https://a.example@evil.example"}, unknown),
		c("issuer as a prefix", Object{"iss": issuerA + ".evil.example"}, unknown),
		c("issuer in another case", Object{"iss": strings.ToUpper(issuerA)}, unknown),
		c("issuer with a NUL", Object{"iss": issuerA + "\x00"}, unknown),
		c("issuer with a space", Object{"iss": issuerA + " "}, unknown),
		c("issuer empty", Object{"iss": ""}, unknown),
		c("no issuer", Object{"iss": nil}, kind),
		c("issuer a list", Object{"iss": []string{issuerA}}, kind),
		c("issuer an object", Object{"iss": Object{issuerA: true}}, kind),
		c("issuer null", Object{"iss": []any(nil)}, kind),
		c("no subject", Object{"sub": nil}, sub),
		c("subject empty", Object{"sub": ""}, sub),
		c("subject a number", Object{"sub": 7}, sub),
		c("subject a list", Object{"sub": []string{"a"}}, sub),
		c("subject an object", Object{"sub": Object{"id": "a"}}, sub),
		c("subject true", Object{"sub": true}, sub),
		c("subject with a line break", Object{"sub": "a\r\nx-admin: 1"}, sub),
		c("subject with a space at its end", Object{"sub": "admin "}, sub),
		c("subject with a space before it", Object{"sub": "\u00a0admin"}, sub),
		c("subject with a NUL", Object{"sub": "admin\x00"}, sub),
		c("roles an object", in(Object{"admin": true}), roles),
		c("roles with a number", in([]any{"a", 1}), roles),
		c("roles with a list", in([]any{[]string{"admin"}}), roles),
		c("roles true", in(true), roles),
		c("groups a number", Object{"groups": 1}, groups),
		c("groups with null", Object{"groups": []any{nil}}, groups),
		c("scope an object", Object{"scope": Object{}}, scopes),
		c("scope with a number", Object{"scope": []any{1}}, scopes),
		c("e-mail a list", Object{"email": []string{"a@b.example"}}, email),
		c("e-mail an object", Object{"email": Object{"address": "a@b.example"}, "email_verified": true}, email),
		c("e-mail with a line break", Object{"email": "a@b.example\r\nx-admin: 1", "email_verified": true}, email),
		c("e-mail not verified", Object{"email": "a@b.example"}, OK),
		bad("roles in two namespaces", s.d(Object{"https://a/roles": "a", "https://b/roles": "b"}), roles),
	}
}

// times are tokens at and beyond the edges of the clock.
func (s *Suite) times() []Case {
	const when, expired, notYet, future = "a time claim is not a number in range", "token expired", "token is not valid yet",
		"token was issued in the future"
	const old = "token was issued too long ago"
	c := func(name string, changes Object, want string) Case { return bad(name, s.a(changes), want) }
	exp := func(name, text, want string) Case {
		return bad(name, s.aHeader(nil, strings.Replace(toJSON(s.ofA(Object{"exp": nil})), "{", `{"exp":`+text+`,`, 1)), want)
	}
	return []Case{
		edge(c("expired within the skew", Object{"exp": s.at(-29 * time.Second)}, OK)),
		c("not yet valid within the skew", Object{"nbf": s.at(30 * time.Second)}, OK),
		c("issued in the future within the skew", Object{"iat": s.at(30 * time.Second)}, OK),
		c("expired", Object{"exp": s.at(-time.Hour)}, expired),
		c("expired at the skew's end", Object{"exp": s.at(-30 * time.Second)}, expired),
		c("exp's fraction does not count", Object{"exp": float64(s.at(-30*time.Second)) + 0.9}, expired),
		edge(c("nbf's fraction does", Object{"nbf": float64(s.at(30*time.Second)) + 0.1}, notYet)),
		edge(c("iat's fraction does", Object{"iat": float64(s.at(30*time.Second)) + 0.1}, future)),
		c("no exp", Object{"exp": nil}, "token has no expiry"),
		c("exp a string", Object{"exp": fmt.Sprint(s.at(time.Hour))}, when),
		c("exp null", Object{"exp": []any(nil)}, when),
		c("exp true", Object{"exp": true}, when),
		c("exp an object", Object{"exp": Object{}}, when),
		c("exp a list", Object{"exp": []int64{s.at(time.Hour)}}, when),
		exp("exp negative", "-1", when),
		exp("exp a negative fraction", "-0.5", when),
		exp("exp beyond the year 9999", "253402300800", when),
		exp("exp in milliseconds", fmt.Sprint(s.at(time.Hour)*1000), when),
		exp("exp beyond int64", "9223372036854775808", when),
		exp("exp beyond uint64", "18446744073709551616", when),
		exp("exp a huge float", "1e300", when),
		exp("exp a huge negative float", "-1e300", when),
		exp("exp beyond a float", "1e400", "token is not strict json"),
		exp("exp a tiny float", "1e-300", expired),
		exp("exp zero", "0", expired),
		exp("exp minus zero", "-0", expired),
		c("not yet valid", Object{"nbf": s.at(time.Hour)}, notYet),
		edge(c("not yet valid past the skew", Object{"nbf": s.at(31 * time.Second)}, notYet)),
		c("nbf a string", Object{"nbf": "0"}, when),
		c("nbf null", Object{"nbf": []any(nil)}, when),
		c("nbf beyond int64", Object{"nbf": 1e19}, when),
		c("issued in the future", Object{"iat": s.at(time.Hour)}, future),
		c("iat a bool", Object{"iat": true}, when),
		c("iat a list", Object{"iat": []int64{0}}, when),
		c("old, where age does not matter", Object{"iat": s.at(-1000 * time.Hour)}, OK),
		edge(bad("almost too old", s.d(Object{"iat": s.at(-time.Hour - 29*time.Second)}), OK)),
		bad("too old", s.d(Object{"iat": s.at(-time.Hour - 30*time.Second)}), old),
		bad("too old by a fraction", s.d(Object{"iat": float64(s.at(-time.Hour-30*time.Second)) + 0.9}), old),
		bad("age unknown", s.d(Object{"iat": nil}), "token does not say when it was issued"),
		bad("age of another type", s.d(Object{"iat": "0"}), when),
	}
}

// recipients are tokens that were made for somebody else.
func (s *Suite) recipients() []Case {
	const aud, kind = "audience does not match", "audience is missing or not a string or list of strings"
	const client, clientKind, party = "client does not match", "client is missing or not a string", "authorized party does not match"
	c := func(name string, changes Object, want string) Case { return bad(name, s.a(changes), want) }
	return []Case{
		c("another audience", Object{"aud": "billing"}, aud),
		c("audience as a prefix", Object{"aud": "orders-admin"}, aud),
		c("audience as a suffix", Object{"aud": "all-orders"}, aud),
		c("audience as a part", Object{"aud": "order"}, aud),
		c("audience in another case", Object{"aud": "Orders"}, aud),
		c("audience with a space", Object{"aud": "orders "}, aud),
		c("audience with a NUL", Object{"aud": "orders\x00"}, aud),
		c("audiences joined", Object{"aud": "orders stock"}, aud),
		c("audiences joined with a comma", Object{"aud": "orders,stock"}, aud),
		c("audience a wildcard", Object{"aud": "*"}, aud),
		c("audience empty", Object{"aud": ""}, aud),
		c("audience a list of others", Object{"aud": []string{"a", "order", "orders2"}}, aud),
		c("no audience", Object{"aud": nil}, kind),
		c("audience null", Object{"aud": []any(nil)}, kind),
		c("audience list empty", Object{"aud": []string{}}, kind),
		c("audience an object", Object{"aud": Object{"orders": true}}, kind),
		c("audience a number", Object{"aud": 1}, kind),
		c("audience list with a number", Object{"aud": []any{"orders", 1}}, kind),
		c("audience list within a list", Object{"aud": []any{[]string{"orders"}}}, kind),

		ok("client id, where a token has both", s.c(Object{"azp": "other"})),
		ok("azp in place of a client id", s.c(Object{"client_id": nil, "azp": "orders-web"})),
		bad("another client", s.c(Object{"client_id": "billing-web"}), client),
		bad("another client, azp ours", s.c(Object{"client_id": "billing-web", "azp": "orders-web"}), client),
		bad("another azp in place of a client id", s.c(Object{"client_id": nil, "azp": "billing-web"}), client),
		bad("client as a part", s.c(Object{"client_id": "orders-webs"}), client),
		bad("client empty", s.c(Object{"client_id": ""}), client),
		bad("no client", s.c(Object{"client_id": nil}), clientKind),
		bad("client a list", s.c(Object{"client_id": []string{"orders-web"}}), clientKind),
		bad("client null, azp ours", s.c(Object{"client_id": []any(nil), "azp": "orders-web"}), clientKind),
		bad("an audience where the issuer has none", s.c(Object{"aud": "billing"}), aud),
		bad("an audience that is the client", s.c(Object{"aud": "orders-web"}), aud),
		bad("client right, audience not", s.d(Object{"aud": "billing"}), aud),
		bad("audience right, client not", s.d(Object{"client_id": "tv"}), client),
		ok("no authorized party", s.d(Object{"azp": nil})),
		bad("another authorized party", s.d(Object{"azp": "phone"}), party),
		bad("authorized party a list", s.d(Object{"azp": []string{"shop"}}), party),
		bad("authorized party null", s.d(Object{"azp": []any(nil)}), party),
	}
}

// rules are tokens of the right issuer and of another kind than is wanted.
func (s *Suite) rules() []Case {
	const use, missing, other, typ = "token is for another use", "a required claim is missing", "a required claim has another value",
		"token is not of the issuer's type"
	d := func(name string, changes Object, want string) Case { return bad(name, s.d(changes), want) }
	return []Case{
		bad("id token where access tokens are wanted", s.c(Object{"token_use": "id"}), use),
		bad("use missing", s.c(Object{"token_use": nil}), use),
		bad("use in another case", s.c(Object{"token_use": "Access"}), use),
		bad("use a list", s.c(Object{"token_use": []string{"access"}}), use),
		ok("type with its prefix, in another case", s.dHeader(Object{"typ": "Application/AT+JWT"}, nil)),
		bad("type JWT where at+jwt is wanted", s.dHeader(Object{"typ": "JWT"}, nil), typ),
		bad("type missing where at+jwt is wanted", s.dHeader(Object{"typ": nil}, nil), typ),
		bad("type empty where at+jwt is wanted", s.dHeader(Object{"typ": ""}, nil), typ),
		bad("another type where at+jwt is wanted", s.dHeader(Object{"typ": "logout+jwt"}, nil), typ),
		bad("type with something behind", s.dHeader(Object{"typ": "at+jwtx"}, nil), typ),
		d("required claim of any value", Object{"department": false}, OK),
		d("required claim missing", Object{"department": nil}, missing),
		d("required claim null", Object{"department": []any(nil)}, missing),
		d("required claim in an object of another name", Object{"department": nil, "x": Object{"department": "y"}}, missing),
		d("required value a number", Object{"level": 3}, OK),
		d("required value true", Object{"level": true}, OK),
		d("required value in a list", Object{"level": []any{"tin", "gold"}}, OK),
		d("required value missing", Object{"level": nil}, missing),
		d("another value", Object{"level": "tin"}, other),
		d("value as a part", Object{"level": "golden"}, other),
		d("values joined", Object{"level": "gold tin"}, other),
		d("value in another case", Object{"level": "Gold"}, other),
		d("a number written otherwise", Object{"level": 3.5}, other),
		d("false", Object{"level": false}, other),
		d("value within an object", Object{"level": Object{"gold": true}}, other),
		d("value in a list within a list", Object{"level": []any{[]string{"gold"}}}, other),
		d("value list empty", Object{"level": []string{}}, other),
	}
}

// strayBits sets a bit of the last character that decodes to nothing: another spelling of the same bytes. The bytes' number
// is not a multiple of three.
func strayBits(segments string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, segments[len(segments)-1])
	return segments[:len(segments)-1] + string(alphabet[last|1])
}

// oddLength adds spaces until the last character of its base64 has bits to spare.
func oddLength(text string) string {
	for len(text)%3 == 0 {
		text += " "
	}
	return text
}
