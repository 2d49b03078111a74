package policy_test

import (
	"testing"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/reach"
)

// What may differ next time prevents memoising, wherever it is reached from.
func TestMemoisable(t *testing.T) {
	impure := func(rules string) []reach.Use {
		b := read(t, "app", module(rules))
		s, err := policy.Compile(t.Context(), policy.Config{Decision: "authz/allow", Capabilities: policy.Capabilities{HTTPSend: []string{"h.example"},
			NetLookup: []string{"h.example"}, Runtime: true}}, []*bundle.Bundle{b})
		if err != nil {
			t.Fatalf("%s: %v", rules, err)
		}
		e, err := s.Entry([]string{"authz", "allow"})
		if err != nil {
			t.Fatal(err)
		}
		return e.Memoisable().Impure
	}
	const at = 2 // the first line with a rule
	for _, test := range []struct{ rules, what string }{
		{`allow if time.now_ns() > 0`, "time.now_ns"},
		{`allow if rand.intn("x", 2) == 1`, "rand.intn"},
		{`allow if uuid.rfc4122("x") != ""`, "uuid.rfc4122"},
		{`allow if http.send({"method": "get", "url": "http://h.example"}).status_code == 200`, "http.send"},
		{`allow if opa.runtime().x`, "opa.runtime"},
		{`allow if net.lookup_ip_addr("h.example")`, "net.lookup_ip_addr"},
		{`allow if io.jwt.decode_verify(input.t, {"secret": "s"})[0]`, "io.jwt.decode_verify"},
		{`allow if io.jwt.encode_sign({}, {}, {"kty": "oct", "k": "AA"}) != ""`, "io.jwt.encode_sign"},
		{`allow if crypto.x509.parse_and_verify_certificates(input.c)[0]`, "crypto.x509.parse_and_verify_certificates"},
		{`allow if json.match_schema(input.x, {})[0]`, "json.match_schema"},
		{`allow if trace("x")`, "trace"},
		{`allow if count([t | t := time.now_ns()]) == 1`, "time.now_ns"},
		{`allow if every i in [1] { rand.intn("x", i) == 0 }`, "rand.intn"},
		{"allow if b with time.now_ns as 1\n\nb if input.x", "time.now_ns"},
		{"allow if b with f as rand.intn\n\nf(x, y) := 1\n\nb if f(\"x\", 2) == 1", "rand.intn"},
		{"allow if data.authz.m[input.x]\n\nm.b if c == 1\n\nc := time.now_ns()", "time.now_ns"},
		{`allow := {"allowed": true, "headers": {"x": format_int(time.now_ns(), 10)}}`, "time.now_ns"},
		{"default allow := false\n\nallow if input.x\n\nelse := true if rand.intn(\"x\", 2) == 1", "rand.intn"},
	} {
		found := impure(test.rules)
		if len(found) == 0 || found[0].What != test.what || found[0].File != "app/authz.rego" || found[0].Line < at {
			t.Errorf("%s: %v, want %s", test.rules, found, test.what)
		}
	}
	for _, rules := range []string{`allow if input.x == "y"`, `allow if ds.check({"x": 1})`, `allow if not gatehouse.check("a:b", "c", input.u)`, `allow if glob.match("/a/*", ["/"], input.p)`, `allow if io.jwt.decode(input.t)[1].sub == "a"`,
		"allow if input.x\n\nb if time.now_ns() > 0", `allow if $"{input.a}" == "x"`, `allow if { regex.match("a", input.x); count(input.y) > 1; "a" in input.z }`,
		"# METADATA\n# title: x\nallow if rego.metadata.rule().title == input.x"} {
		if found := impure(rules); len(found) > 0 {
			t.Errorf("%s: %v", rules, found)
		}
	}
}

// Reads of input that differs in each request are reported with their place.
func TestMemoisableNamesWhatChanges(t *testing.T) {
	for _, test := range []struct{ rules, what string }{
		{`allow if input.attributes.request.http.headers["x-request-id"] != ""`, "input.attributes.request.http.headers.x-request-id"},
		{`allow if count(input.attributes.request.http.headers) < 9`, "input.attributes.request.http.headers"},
		{`allow if input.attributes.request.time.seconds > 1`, "input.attributes.request.time.seconds"},
		{`allow if object.get(input, "x", 1) == 1`, "input"},
		{`allow if input.attributes.request.http.headers.host == "a"`, ""},
		{`allow if input.parsed_path[0] == "a"`, ""},
	} {
		found := remember(t, compile(t, module(test.rules))).entry.Memoisable().Changing
		got := ""
		if len(found) > 0 {
			got = found[0].What
		}
		if got != test.what || got != "" && found[0].Line == 0 {
			t.Errorf("%s: %v, want %q", test.rules, found, test.what)
		}
	}
}
