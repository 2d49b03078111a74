package policy_test

import (
	"strings"
	"testing"
)

// TestErrorsQuoteNothing has built-ins fail on a secret: the error names the place and the built-in, not the value.
func TestErrorsQuoteNothing(t *testing.T) {
	for _, expr := range []string{
		`net.cidr_contains(s, "10.0.0.1")`, `net.cidr_contains("10.0.0.0/8", s)`, `net.cidr_intersects(s, s)`, `net.cidr_merge([s])`, `to_number(s)`,
		`regex.match(concat("", ["[", s]), "x")`, `regex.split(concat("", ["(", s]), "x")`, `regex.template_match(concat("", ["{", s]), "x", "{", "}")`,
		`regex.globs_match(concat("", ["[", s]), "x")`, `time.parse_ns("2006", s)`, `time.parse_rfc3339_ns(s)`, `time.parse_duration_ns(s)`,
		`time.clock([1, s])`, `time.format([1, s])`, `semver.compare(s, "1.0.0")`, `semver.compare("1.0.0", s)`, `json.unmarshal(s)`, `yaml.unmarshal(concat("", ["a: [", s]))`,
		`json.patch({}, [{"op": "remove", "path": s}])`, `json.patch({}, [{"op": s, "path": "/a"}])`, `units.parse(s)`, `units.parse_bytes(s)`,
		`units.parse_bytes(concat("", ["1", s]))`, `base64.decode(s)`, `base64url.decode(s)`, `hex.decode(s)`, `urlquery.decode(concat("", ["%zz", s]))`,
		`urlquery.decode_object(concat("", ["%zz", s]))`, `io.jwt.decode(s)`, `io.jwt.verify_hs256(s, "k")`, `io.jwt.decode_verify("a.b.c", {s: 1})`,
		`crypto.x509.parse_certificates(s)`, `crypto.x509.parse_keypair(s, s)`, `glob.match(concat("", ["[", s]), [], "x")`, `graphql.parse_query(s)`,
		`graphql.parse_schema(s)`, `json.match_schema({}, s)`, `json.verify_schema(s)`, `rego.parse_module("p.rego", s)`, `uuid.parse(s)`, `numbers.range_step(1, 2, to_number(count(s)) - 100)`,
		`object.get({}, s, "x") + 1`, `sprintf("%d", s)`, `indexof(s, "")`, `bits.lsh(1, s)`,
	} {
		t.Run(expr, func(t *testing.T) {
			const secret = "k3y-hunter2-Zq"
			_, err := decide(t, "s := input.key\n\nallow if count(["+expr+"]) == 7", `{"key": "`+secret+`"}`)
			if err == nil {
				t.Fatal("it is no error")
			}
			for _, part := range []string{secret, "hunter2", "k3y-"} {
				if strings.Contains(err.Error(), part) {
					t.Errorf("%v quotes the secret", err)
				}
			}
		})
	}
}
