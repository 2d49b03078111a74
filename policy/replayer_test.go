package policy_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy"
	"gatehouse/policy/builtins"
	"gatehouse/policy/bundle"
	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
)

func TestProject(t *testing.T) {
	s := compile(t, module("allow if {\n\tinput.a.b == 1\n\tinput.list[0]\n\tinput[\"k\\\"é\"]\n}"))
	for text, want := range map[string]string{
		`{"a": {"b": 1, "c": 2}, "x": [1, {"y": "}"}]}`:      `{"a":{"b":1}}`,
		`{"x":"\\\"{","a":{"c":"\\"},"list":[ 1,{"z":[]} ]}`: `{"a":{},"list":[ 1,{"z":[]} ]}`,
		`{"a":[1,2]}`:                         `{"a":[1,2]}`,
		`{"a":"text","a":null}`:               `{"a":"text","a":null}`,
		`{"k\"\u00e9":true,"\u0061":{"b":3}}`: `{"k\"\u00e9":true,"\u0061":{"b":3}}`,
		`{}`:                                  `{}`,
		` [1] `:                               `[1]`,
		`{"a":{"b":1}`:                        "",
		`{"a":{"b":1}}}`:                      "",
		`{"a":{"b"}}`:                         "",
		`{"x":"abc`:                           "",
		``:                                    "",
		`{"x":}`:                              "",
	} {
		got, err := s.Reads().Project(nil, []byte(text))
		if err == nil != (want != "") || err == nil && string(got) != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	if got, err := (reach.Reads{}).Project([]byte("before "), []byte(`{"a": [1]}`)); err != nil || string(got) != `before {"a": [1]}` {
		t.Errorf("all of it: %s, %v", got, err)
	}
}

// FuzzProject compares the projection of a text with that of the parsed document.
func FuzzProject(f *testing.F) {
	s := compile(f, module("allow if {\n\tinput.a.b == 1\n\tinput.c[0].d\n\tinput.e.f.g\n}"))
	for _, seed := range []string{`{"a":{"b":1,"x":"\\"},"c":[{"d":2}],"y":{"z":[1,"]"]}}`, `{"e":{"f":{"g":{},"h":1}},"\u0061":{"b":1e3}}`, `{"a":`, `[]`, `"x"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := s.Reads().Project(nil, text)
		var document any
		if json.Unmarshal(text, &document) != nil {
			return // the result for invalid JSON does not matter, as long as it returns
		}
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		var taken any
		if err := json.Unmarshal(got, &taken); err != nil {
			t.Fatalf("%q became %q: %v", text, got, err)
		}
		if object, ok := document.(map[string]any); ok && repeated(text) {
			document = kept(object, s.Reads())
			if !reflect.DeepEqual(taken, document) {
				t.Errorf("%q became %q", text, got)
			}
		}
	})
}

// repeated reports that no object has a duplicate key, judging by length: encoding/json merges such objects.
func repeated(text []byte) bool {
	var document any
	_ = json.Unmarshal(text, &document)
	again, _ := json.Marshal(document)
	return strings.Count(string(again), ":") == strings.Count(string(text), ":")
}

// kept returns what Project keeps of an object: what is read, and the objects on the way there.
func kept(object map[string]any, reads reach.Reads) map[string]any {
	out := map[string]any{}
	for key, value := range object {
		if !reads.Any(key) {
			continue
		}
		if inner, ok := value.(map[string]any); ok {
			value = kept(inner, reads.Below(key))
		}
		out[key] = value
	}
	return out
}

func TestInputReader(t *testing.T) {
	var r rego.Reader
	for text, want := range map[string]string{
		`{"a":[1,2.50,"x",null,true],"b":{}}`: `{"a":[1,2.50,"x",null,true],"b":{}}`,
		`"a\u0062"`:                           `"ab"`,
		`{"a":1,"a":2}`:                       `{"a":2}`,
		`{"a":1} x`:                           "",
		`{"a":01}`:                            "",
		`{`:                                   "",
		``:                                    "",
	} {
		for range 2 { // the second time from the projection
			v, err := r.Read([]byte(text))
			if err != nil {
				if want != "" {
					t.Errorf("%s: %v", text, err)
				}
				continue
			}
			plain, err := rego.JSON(v)
			got, _ := json.Marshal(plain)
			if err != nil || string(got) != want {
				t.Errorf("%s: %s, %v", text, got, err)
			}
		}
	}
}

// TestReplayer checks what makes a replayed decision unsure, if it was called.
func TestReplayer(t *testing.T) {
	const then = 1_600_000_000_000_000_000
	for _, test := range []struct {
		name, rules string
		pure        bool
		unsure      string
		allowed     bool
		err         error
	}{
		{"plain", `allow if input.a == 1`, true, "", true, nil},
		{"undefined", `allow if input.a == 2`, true, "", false, policy.ErrUndefined},
		{"the time", "allow if time.now_ns() == 1600000000000000000", false, "", true, nil},
		{"chance", `allow if rand.intn("x", 2) < 5`, false, "rand.intn", false, nil},
		{"chance that was not asked", "allow if input.a == 1\n\nelse := true if rand.intn(\"x\", 2) < 5", false, "", true, nil},
		{"a call", `allow if http.send({"method": "GET", "url": "http://127.0.0.1:1/"}).status_code == 200`, false, "http.send", false, nil},
		{"a call whose failure is looked at", `allow if http.send({"method": "GET", "url": "http://127.0.0.1:1/", "raise_error": false}).status_code == 0`,
			false, "http.send", false, nil},
		{"a name", `allow if count(net.lookup_ip_addr("localhost")) > 0`, false, "net.lookup_ip_addr", false, nil},
		{"the directory", `allow if ds.check({"x": 1})`, false, "ds.check", false, nil},
		{"the directory, of which it is undefined", "default allow := false\n\nallow if ds.user({\"x\": 1}).admin", false, "ds.user", false, nil},
		{"the directory that was not asked", "allow if input.a == 1\n\nelse := true if ds.check({})", false, "", true, nil},
		{"what nobody judged", `allow if trace("x")`, false, "trace", false, nil},
		{"a signature", `allow if io.jwt.encode_sign({"alg": "HS256"}, {}, {"kty": "oct", "k": "AAAA"}) != ""`, false, "io.jwt.encode_sign", false, nil},
		{"in place of a function", "allow if f(\"x\", 2) < 5 with f as rand.intn\n\nf(_, _) := 9", false, "rand.intn", false, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, err := bundle.Read("app", module(test.rules).fs(), bundle.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			s, err := policy.Compile(t.Context(), policy.Config{Decision: "authz/allow",
				Capabilities: policy.Capabilities{HTTPSend: []string{"127.0.0.1"}, HTTPSendPrivate: true, NetLookup: []string{"localhost"}}}, []*bundle.Bundle{b})
			if err != nil {
				t.Fatal(err)
			}
			e, err := s.Entry([]string{"authz", "allow"})
			if err != nil {
				t.Fatal(err)
			}
			replayer := e.Replayer()
			input, _ := rego.FromJSON(map[string]any{"a": 1})
			d, unsure, err := replayer.Decide(t.Context(), input, policy.Facts{}, time.Unix(0, then))
			if replayer.Pure() != test.pure || unsure != test.unsure || d.Allowed != test.allowed || !errors.Is(err, test.err) {
				t.Errorf("pure %v, unsure %q, allowed %v, error %v", replayer.Pure(), unsure, d.Allowed, err)
			}
		})
	}
}

// TestOneListOfWhatIsPure checks that the memo and the Replayer agree on every built-in: what is certain at any time for one is so for the
// other.
func TestOneListOfWhatIsPure(t *testing.T) {
	names := []string{"no.such.builtin", "ds.check", "ds.check_permission", "ds.check_relation", "ds.checks", "ds.graph", "ds.identity", "ds.object",
		"ds.relation", "ds.relations", "ds.user"}
	for _, b := range ast.Builtins {
		names = append(names, b.Name)
	}
	classOf := func(name string) string {
		return []string{builtins.Unknown: "unknown", builtins.Pure: "pure", builtins.Timed: "timed", builtins.Asked: "asked", builtins.Observed: "observed",
			builtins.Changing: "observed", builtins.Calling: "unknown"}[builtins.Of(name)]
	}
	for _, name := range names {
		class := classOf(name)
		if never, unsure, timed := policy.Replayed(name); never != (class == "unknown") || unsure != (class == "observed") || timed != (class == "timed") {
			t.Errorf("%s is %s; the Replayer never repeats it %v, is unsure %v, takes it as timed %v", name, class, never, unsure, timed)
		}
	}
	for name, want := range map[string]string{"no.such.builtin": "unknown", "ds.check": "asked", "net.lookup_ip_addr": "unknown",
		"crypto.x509.parse_and_verify_certificates": "unknown", "http.send": "observed", "time.now_ns": "timed", "lower": "pure"} {
		if class := classOf(name); class != want {
			t.Errorf("%s is %s, want %s", name, class, want)
		}
	}
}
