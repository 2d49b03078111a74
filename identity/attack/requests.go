package attack

import "strings"

// places are requests that are odd around the token.
func (s *Suite) places() []Case {
	g, other, d := s.a(nil), s.a(Object{"jti": "2"}), s.d(nil)
	const joined, repeated, two = "several credentials in one header", "credential header is sent more than once",
		"different credentials on one request"
	const severalWays = "credential cookie can be read in several ways"
	const cookieTwice, malformed = "credential cookie is sent more than once", "credential header is malformed"
	const shape, place = "token is not three base64url segments", "issuer does not accept tokens from this place"
	authorization := func(name, want string, values ...string) Case {
		return Case{Name: name, Headers: lines("authorization", values...), Want: want}
	}
	cookie := func(name, want string, values ...string) Case {
		return Case{Name: name, Headers: lines("cookie", values...), Want: want}
	}
	and := func(all ...[][2]string) (joined [][2]string) {
		for _, some := range all {
			joined = append(joined, some...)
		}
		return joined
	}
	return append(s.queries(),
		Case{Name: "nothing", Want: Anonymous},
		authorization("empty authorization", Anonymous, ""),
		authorization("another scheme", Anonymous, "Basic dXNlcjpwYXNz"),
		authorization("digest has commas of its own", Anonymous, `Digest username="a", realm = "b c", nonce="d"`),
		authorization("scheme in another case", OK, "bEARER "+g),
		authorization("several spaces", OK, "Bearer   "+g),
		authorization("spaces around", OK, " \tBearer "+g+" "),
		authorization("a tab", shape, "Bearer\t"+g),
		authorization("a no-break space", malformed, "Bearer\u00a0"+g),
		authorization("scheme only", "credential is empty", "Bearer"),
		authorization("scheme and spaces", "credential is empty", "Bearer  "),
		authorization("scheme twice", shape, "Bearer Bearer "+g),
		authorization("no scheme", Anonymous, g), // a scheme of that name, as far as HTTP goes
		authorization("another scheme with our token", Anonymous, "Token "+g),
		authorization("not a scheme", malformed, "Bea(rer "+g),
		authorization("token in quotes", shape, `Bearer "`+g+`"`),
		authorization("token as a parameter", shape, `Bearer token=`+g),
		authorization("header twice", repeated, "Bearer "+g, "Bearer "+g),
		authorization("header twice, once empty", repeated, "", "Bearer "+g),
		authorization("header twice, once of another scheme", repeated, "Basic dXNlcg==", "Bearer "+g),
		authorization("comma-joined", joined, "Bearer "+g+",Bearer "+other),
		authorization("comma-joined, the same", joined, "Bearer "+g+", Bearer "+g),
		authorization("comma and another scheme", joined, "Bearer "+g+", Basic dXNlcg=="),
		authorization("a comma at the end", joined, "Bearer "+g+","),
		authorization("comma-joined behind another scheme", joined, "Basic dXNlcg==, Bearer "+g),
		cookie("cookie", OK, "theme=dark; access_token="+g+"; lang=en"),
		cookie("cookie over two lines", OK, "theme=dark", "access_token="+g),
		cookie("cookie twice", cookieTwice, "access_token="+g+"; access_token="+g),
		cookie("cookie twice over lines", cookieTwice, "access_token="+g, "access_token="),
		cookie("cookie twice, once with a space", cookieTwice, "access_token ="+other+"; access_token="+g),
		cookie("cookie twice, once with a tab", cookieTwice, "access_token="+g+"; access_token\t="+other),
		cookie("cookie twice, once without a value", cookieTwice, "access_token; access_token="+g),
		cookie("cookie with spaces", OK, "access_token = "+g),
		cookie("cookie behind a comma", severalWays, "theme=dark,access_token="+other+"; access_token="+g),
		cookie("cookie with a no-break space", severalWays, "access_token\u00a0="+other+"; access_token="+g),
		cookie("cookie with a byte that is none of UTF-8", severalWays, "access_token!="+other+"; access_token="+g),
		cookie("cookie in quotes of another", severalWays, `theme="; access_token=`+g+`; x"`),
		cookie("cookie behind an open quote", OK, `theme="; access_token=`+g),
		cookie("empty cookie", Anonymous, "access_token="),
		cookie("cookie in another case", Anonymous, "Access_Token="+g),
		cookie("quoted cookie", shape, `access_token="`+g+`"`),
		cookie("cookie with an attribute", OK, "access_token="+g+"; $Path=/"),
		cookie("B's token in A's cookie", place, "access_token="+s.b(nil)),
		Case{Name: "same token in both places", Want: OK, Headers: and(bearer(g), lines("cookie", "access_token="+g))},
		Case{Name: "two tokens", Want: two, Headers: and(bearer(g), lines("cookie", "access_token="+other))},
		Case{Name: "two tokens of two issuers", Want: two, Headers: and(bearer(g), lines("x-token", s.b(nil)))},
		Case{Name: "garbage beside a token", Want: two, Headers: and(bearer(g), lines("x-token", "x"))},
		Case{Name: "A's token where only B's may be", Want: place, Headers: lines("x-token", g)},
		Case{Name: "header twice where the value is the token", Want: repeated, Headers: lines("x-token", s.b(nil), s.b(nil))},
		Case{Name: "comma-joined where the value is the token", Want: joined, Headers: lines("x-token", s.b(nil)+","+s.b(nil))},
		Case{Name: "scheme where the value is the token", Want: shape, Headers: lines("x-token", "Bearer "+s.b(nil))},
		Case{Name: "token in the query beside another in the header", Want: two, Headers: bearer(g), Query: "access_token=" + d},
		Case{Name: "same token in query and header", Want: OK, Headers: bearer(d), Query: "access_token=" + d},
	)
}

// queries are tokens in the query, which issuer D alone takes there.
func (s *Suite) queries() []Case {
	d := s.d(nil)
	const twice, malformed = "credential parameter is sent more than once", "credential parameter is malformed"
	const shape = "token is not three base64url segments"
	query := func(name, want, text string) Case { return Case{Name: name, Query: text, Want: want} }
	return []Case{
		query("query", OK, "a=1&access_token="+d+"&b=2"),
		query("query with an escaped dot", OK, "access_token="+strings.Replace(d, ".", "%2E", 1)),
		query("query with an escaped name", OK, "%61ccess%5ftoken="+d),
		query("query empty", Anonymous, "access_token="),
		query("query without a value", Anonymous, "access_token"),
		query("query in another case", Anonymous, "Access_token="+d),
		query("query name with something behind", Anonymous, "access_token[]="+d),
		query("query name with a bad escape", Anonymous, "access%_token="+d),
		query("query twice", twice, "access_token="+d+"&access_token="+d),
		query("query twice, once escaped", twice, "access_token="+d+"&access%5Ftoken="+d),
		query("query twice, once empty", twice, "access_token&access_token="+d),
		query("query with a semicolon in front", malformed, "a=1;access_token="+d),
		query("query with a semicolon behind", malformed, "access_token="+d+";a=1"),
		query("query with a second behind a semicolon", malformed, "access_token="+d+"&b=1;access_token=x"),
		query("query with a semicolon elsewhere", OK, "a=1;b=2&access_token="+d),
		query("query with a plus", malformed, "access_token=+"+d),
		query("query with a bad escape", malformed, "access_token="+d+"%zz"),
		query("query escaped twice", shape, "access_token="+strings.Replace(d, ".", "%252E", 1)),
		query("query with a line break", shape, "access_token="+d+"%0A"),
		query("query with a NUL", shape, "access_token="+d+"%00"),
		query("query with a comma", "several credentials in one header", "access_token="+d+","+d),
		query("A's token in the query", "issuer does not accept tokens from this place", "access_token="+s.a(nil)),
	}
}

// headers are tokens whose header leads elsewhere: to a key of the forger's, to a file, to an extension, to another type.
func (s *Suite) headers() []Case {
	const unknown, verify, kind = "unknown key id", "signature does not verify", "token header has a value of the wrong type"
	const critical, typ, fit = "token asks for an extension", "token is of another type", "algorithm does not fit the key"
	const twice, strict = "token has a json key twice", "token is not strict json"
	k, plain := s.Keys, s.ofA(nil)
	header := func(name string, changes Object, want string) Case { return bad(name, s.aHeader(changes, plain), want) }
	raw := func(name, header, want string) Case { return bad(name, Mint("RS256", k.RSA, header, plain), want) }
	// A forger's own key, brought along in each of the ways that a header knows, under its own kid and under ours.
	var cases []Case
	evil := JWK(&k.RSAOther.PublicKey, Object{"kid": "evil", "alg": "RS256", "use": "sig"})
	for name, extra := range map[string]Object{
		"jwk":                  {"jwk": evil},
		"jku":                  {"jku": "http://127.0.0.1:1/keys"},
		"jku of the issuer":    {"jku": issuerA + "/../evil/keys"},
		"x5u":                  {"x5u": "http://127.0.0.1:1/cert"},
		"x5c":                  {"x5c": x5c(k.RSAOther)},
		"x5t":                  {"x5t": b64([]byte("01234567890123456789"))},
		"iss in the header":    {"iss": issuerB},
		"jwk, jku and x5c all": {"jwk": evil, "jku": "http://127.0.0.1:1/keys", "x5c": x5c(k.RSAOther)},
	} {
		forged := func(kid string) string {
			return Mint("RS256", k.RSAOther, with(Object{"alg": "RS256", "kid": kid}, extra), plain)
		}
		cases = append(cases,
			bad("embedded "+name, forged("evil"), unknown),
			bad("embedded "+name+" under our kid", forged("r1"), verify),
			bad("embedded "+name+" without kid", Mint("RS256", k.RSAOther, with(Object{"alg": "RS256"}, extra), plain), verify))
	}
	for name, kid := range map[string]string{
		"walks the file system": "../../../../../../dev/null",
		"walks encoded":         "..%2f..%2fdev%2fnull",
		"is a path":             "/dev/null",
		"is a file url":         "file:///etc/passwd",
		"is a url":              "http://127.0.0.1:1/key",
		"with sql":              "r1' OR '1'='1",
		"with sql union":        "x' UNION SELECT 'key'--",
		"with a command":        "r1|id",
		"with a template":       "${jndi:ldap://127.0.0.1/a}",
		"with NUL":              "r1\x00",
		"with a line break":     "r1\r\nx: y",
		"with a space":          "r1 ",
		"in another case":       "R1",
		"as a prefix":           "r",
		"with more behind":      "r1x",
		"of a member's name":    "__proto__",
		"of four kilobytes":     strings.Repeat("k", 4096),
		"in wide letters":       "ｒ１",
	} {
		cases = append(cases, header("kid "+name, Object{"kid": kid}, unknown))
	}
	return append(cases,
		header("kid empty", Object{"kid": ""}, kind),
		header("kid a number", Object{"kid": 1}, kind),
		header("kid a list", Object{"kid": []string{"r1"}}, kind),
		header("kid an object", Object{"kid": Object{"r1": 1}}, kind),
		raw("kid null", `{"alg":"RS256","kid":null}`, kind),
		header("kid of a key of another type", Object{"kid": "e1"}, fit),
		bad("ES256 with the P-384 key", Mint("ES256", k.P256, Object{"alg": "ES256", "kid": "e3"}, plain), fit),
		bad("ES384 with the P-256 key", Mint("ES384", k.P384, Object{"alg": "ES384", "kid": "e1"}, plain), fit),
		bad("EdDSA with the RSA key", Mint("EdDSA", k.Ed25519, Object{"alg": "EdDSA", "kid": "r1"}, plain), fit),
		bad("ES256 with the Ed25519 key", Mint("ES256", k.P256, Object{"alg": "ES256", "kid": "d1"}, plain), fit),
		bad("without kid, of a type that the issuer has none of",
			Mint("RS256", k.RSA, Object{"alg": "RS256"}, s.ofA(Object{"iss": issuerC})), "token names no key and none fits"),
		header("crit", Object{"crit": []string{"exp"}}, critical),
		header("crit empty", Object{"crit": []string{}}, critical),
		raw("crit null", `{"alg":"RS256","kid":"r1","crit":null}`, critical),
		header("crit with what it names", Object{"crit": []string{"http://x/y"}, "http://x/y": 1}, critical),
		header("b64 false", Object{"b64": false}, critical),
		header("b64 false and crit", Object{"b64": false, "crit": []string{"b64"}}, critical),
		header("b64 of another type", Object{"b64": "true"}, critical),
		header("logout token", Object{"typ": "logout+jwt"}, typ),
		header("security event", Object{"typ": "secevent+jwt"}, typ),
		header("introspection answer", Object{"typ": "token-introspection+jwt"}, typ),
		header("proof of possession", Object{"typ": "dpop+jwt"}, typ),
		header("typ JOSE", Object{"typ": "JOSE"}, typ),
		header("typ empty", Object{"typ": ""}, typ),
		header("typ only a prefix", Object{"typ": "application/"}, typ),
		header("typ with a parameter", Object{"typ": "JWT;x=y"}, typ),
		header("typ a number", Object{"typ": 1}, typ),
		header("typ a list", Object{"typ": []string{"JWT"}}, typ),
		raw("typ null", `{"alg":"RS256","kid":"r1","typ":null}`, typ),
		raw("alg twice", `{"alg":"none","kid":"r1","alg":"RS256"}`, twice),
		raw("alg twice, once escaped", `{"alg":"RS256","kid":"r1","\u0061lg":"RS256"}`, twice),
		raw("kid twice", `{"alg":"RS256","kid":"evil","kid":"r1"}`, twice),
		raw("jwk with a key twice", `{"alg":"RS256","kid":"r1","jwk":{"n":"a","n":"b"}}`, twice),
		raw("header a list", `["RS256"]`, strict),
		raw("header null", `null`, strict),
		raw("header a string", `"RS256"`, strict),
		raw("header with something behind", `{"alg":"RS256","kid":"r1"} {}`, strict),
		raw("header with a comment", `{"alg":"RS256"/**/,"kid":"r1"}`, strict),
		raw("header in single quotes", `{'alg':'RS256','kid':'r1'}`, strict),
		raw("header with invalid utf-8", "{\"alg\":\"RS256\",\"kid\":\"r1\",\"x\":\"\xff\"}", strict),
		raw("header too deep", `{"alg":"RS256","kid":"r1","x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`}`, "token is nested too deeply"),
		raw("byte order mark", "\ufeff"+`{"alg":"RS256","kid":"r1"}`, strict),
	)
}
