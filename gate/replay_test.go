package gate_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/gate"
	"gatehouse/gate/recorded"
)

const echo = "package envoy.authz\n\nallow := {\"allowed\": true, \"dynamic_metadata\": {\"input\": json.marshal(input)}}\n"

// FuzzRequestFromInput makes requests of arbitrary documents. Where one can be made and a policy is asked about it, the request
// that is made of what that policy was given gives the policy the same.
func FuzzRequestFromInput(f *testing.F) {
	for _, seed := range []string{
		`{"attributes": {"request": {"time": {"seconds": 1, "nanos": 2}, "http": {"method": "GET", "path": "/a?b=c", "host": "h", "size": 3,
			"headers": {":path": "/a", "cookie": "[redacted]"}}}, "source": {"address": {"socketAddress": {"address": "127.0.0.1", "portValue": 80}}},
			"tlsSession": {}, "contextExtensions": {"a": "b"}, "metadataContext": {"filterMetadata": {"x": {}}}}}`,
		`{"attributes": {"request": {"http": {"path": "/", "headers": {"content-type": "application/json", "content-length": "20"}}}}, "parsed_body": {"a": 1e3}}`,
		`{"attributes": {"request": {"http": {"path": "/", "headers": {"content-type": "application/x-www-form-urlencoded"}}}}, "parsed_body": {"a": ["1", "2"]}}`,
		`{"attributes": {"request": {"http": {"path": "/", "headers": {"content-type": "multipart/form-data; boundary=x"}}}}, "parsed_body": {"a": ["1", {"b": 2}]}}`,
		`{"attributes": {"request": {"http": {"path": "/", "rawBody": "e30=", "headerMap": {"headers": [{"key": "a", "rawValue": "YQ=="}]}}}}}`,
		`{"attributes": {"request": {"http": {"path": "/"}}}, "identity": {"type": "IDENTITY_TYPE_JWT", "subject": "a", "roles": ["b"], "authenticated": true}}`,
		`{"attributes": {"request": {"http": {"path": "/", "headers": {"content-length": "9999999999"}}}}, "truncated_body": true}`,
		`{"attributes": []}`, `{"attributes": {"request": {"http": {"size": 1.5}}}}`, `{}`,
	} {
		f.Add(seed)
	}
	s := settings()
	s.Paths = gate.PathRules{Compat: true}
	g := open(f, s, compile(f, echo))
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<16 {
			return
		}
		first := given(t, g, text)
		if first == "" || !strings.Contains(first, `"http":{`) { // nothing in it at all: no proxy sends that
			return
		}
		if diff := cmp.Diff(first, given(t, g, first)); diff != "" {
			t.Errorf("the policy is given something else (-first +second):\n%s", diff)
		}
	})
}

// given is what a policy gets of the request that is made of an input; "" where it was not asked.
func given(t *testing.T, g *gate.Gate, text string) string {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var input map[string]any
	if d.Decode(&input) != nil {
		return ""
	}
	req, err := recorded.Request(input)
	if err != nil {
		return ""
	}
	answer := g.Check(t.Context(), req)
	given, _ := answer.Metadata["input"].(string)
	return given
}

func TestRequestFromInputRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "it has no attributes.request.http",
		`{"attributes": {"request": {"http": {"path": 3}}}}`:                                  `"path" is not a string`,
		`{"attributes": {"request": {"http": {"path": "/", "size": 1.5}}}}`:                   `"size" is not a whole number`,
		`{"attributes": {"request": {"http": {"path": "/"}}}, "identity": {"roles": [3]}}`:    `"roles" is not a list of strings`,
		`{"attributes": {"request": {"http": {"path": "/", "rawBody": "?"}}}}`:                `"rawBody" is not base64`,
		`{"attributes": {"request": {"http": {"path": "/", "headers": []}}}}`:                 `"headers" is not an object`,
		`{"attributes": {"request": {"http": {"path": "/"}}, "contextExtensions": {"a": 1}}}`: `"a" is not a string`,
	} {
		var input map[string]any
		if err := json.Unmarshal([]byte(text), &input); err != nil {
			t.Fatal(err)
		}
		if _, err := recorded.Request(input); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

// TestExplain: a request that is denied before the policy has no explanation.
func TestExplain(t *testing.T) {
	g := open(t, settings(), compile(t, "package envoy.authz\n\nallow if input.attributes.request.http.method == \"GET\"\n"))
	for _, test := range []struct {
		req  gate.Request
		want string
	}{
		{gate.Request{Method: "GET", Path: "/"}, "allowed by\n"},
		{gate.Request{Method: "POST", Path: "/"}, "with method GET\n"},
		{gate.Request{Method: "GET", Path: "/a/../b"}, ""},
	} {
		found := g.Explain(t.Context(), &test.req, nil)
		if (found.Policy == nil) != (test.want == "") {
			t.Errorf("%s %s: %+v", test.req.Method, test.req.Path, found)
		} else if found.Policy != nil && !strings.Contains(found.Policy.Text(), test.want) {
			t.Errorf("%s %s: %s", test.req.Method, test.req.Path, found.Policy.Text())
		}
	}
}
