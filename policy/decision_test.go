package policy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
)

// The decision is the input.
const echo = "allow := input"

func decodeDecision(t testing.TB, s *policy.Snapshot, decision string) (policy.Decision, error) {
	t.Helper()
	return s.Decide(context.Background(), value(t, decision), noon)
}

// recorded is opa-envoy-plugin's response, as JSON of an Envoy CheckResponse; absent if it failed.
type recorded struct {
	OK *struct {
		Headers  []recordedHeader              `json:"headers"`
		Response []recordedHeader              `json:"responseHeadersToAdd"`
		Remove   []string                      `json:"headersToRemove"`
		SetQuery []struct{ Key, Value string } `json:"queryParametersToSet"`
	} `json:"okResponse"`
	Denied *struct {
		Headers []recordedHeader `json:"headers"`
		Body    string           `json:"body"`
		Status  struct{ Code string }
	} `json:"deniedResponse"`
	Metadata map[string]any `json:"dynamicMetadata"`
}

type recordedHeader struct{ Header struct{ Key, Value string } }

var statusNames = map[int]string{0: "Forbidden", 301: "MovedPermanently", 401: "Unauthorized", 503: "ServiceUnavailable"}

// expected converts a recorded response to a decision.
func (r recorded) expected() policy.Decision {
	headers := func(list []recordedHeader) []policy.Header {
		var out []policy.Header
		for _, h := range list {
			out = append(out, policy.Header{Name: h.Header.Key, Value: h.Header.Value})
		}
		return out
	}
	d := policy.Decision{Allowed: r.Denied == nil}
	if r.OK != nil {
		d.Headers, d.ResponseHeaders = headers(r.OK.Headers), headers(r.OK.Response)
		d.RemoveHeaders = r.OK.Remove
		for _, p := range r.OK.SetQuery {
			d.SetQuery = append(d.SetQuery, policy.QueryParameter{Name: p.Key, Value: p.Value})
		}
	}
	if r.Denied != nil {
		d.Headers, d.Body = headers(r.Denied.Headers), r.Denied.Body
		for code, name := range statusNames {
			if name == r.Denied.Status.Code {
				d.Status = code
			}
		}
	}
	delete(r.Metadata, "decision_id")
	if len(r.Metadata) > 0 {
		d.Metadata = r.Metadata
	}
	return d
}

func TestDecisionsThatOPAEnvoyPluginAnswered(t *testing.T) {
	file, err := os.Open("testdata/decisions.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := compile(t, module(echo))
	rows := 0
	for lines := bufio.NewScanner(file); lines.Scan(); rows++ {
		var row struct {
			Decision string
			Response json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		t.Run(row.Decision, func(t *testing.T) {
			got, err := decodeDecision(t, s, row.Decision)
			if string(row.Response) == "null" {
				if !errors.Is(err, policy.ErrEvaluation) || got.Allowed {
					t.Fatalf("got %+v and %v, want ErrEvaluation", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var want recorded
			decoder := json.NewDecoder(strings.NewReader(string(row.Response)))
			decoder.UseNumber()
			if err := decoder.Decode(&want); err != nil {
				t.Fatal(err)
			}
			got.Result = nil
			if diff := cmp.Diff(want.expected(), got, equateEmpty); diff != "" {
				t.Errorf("decision (-recorded +ours):\n%s", diff)
			}
		})
	}
	if rows != 39 {
		t.Errorf("%d recorded decisions, want 39", rows)
	}
}

// Empty and absent lists mean the same.
var equateEmpty = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().Type().Kind().String() == "slice" },
	cmp.FilterValues(func(a, b any) bool { return empty(a) && empty(b) }, cmp.Ignore()))

func empty(x any) bool {
	switch x := x.(type) {
	case []string:
		return len(x) == 0
	case []policy.Header:
		return len(x) == 0
	case []policy.QueryParameter:
		return len(x) == 0
	}
	return false
}

func TestDecisionDecoded(t *testing.T) {
	s := compile(t, module(echo))
	tests := []struct {
		decision string
		want     policy.Decision
	}{
		{`{"allowed": false, "reason": "not yours", "http_status": 404}`,
			policy.Decision{Reason: "not yours", Status: 404}},
		{`{"allowed": true, "reason": 7, "body": [], "http_status": {}}`, policy.Decision{Allowed: true}},
		{`{"allowed": false, "request_headers_to_remove": 7, "query_parameters_to_remove": 7}`, policy.Decision{}},
		{`{"allowed": true, "query_parameters_to_remove": ["a", "b"]}`,
			policy.Decision{Allowed: true, RemoveQuery: []string{"a", "b"}}},
		{`{"allowed": true, "headers": {"B": "2", "a": "1", "c": {"value": ["x", "y"], "append_action": "ADD_IF_ABSENT"}}}`,
			policy.Decision{Allowed: true, Headers: []policy.Header{{Name: "B", Value: "2"}, {Name: "a", Value: "1"},
				{Name: "c", Value: "x", AppendAction: "ADD_IF_ABSENT"}, {Name: "c", Value: "y", AppendAction: "ADD_IF_ABSENT"}}}},
		{`{"allowed": true, "headers": {"c": {"value": "x", "append_action": "OVERWRITE_IF_EXISTS"}}}`,
			policy.Decision{Allowed: true, Headers: []policy.Header{{Name: "c", Value: "x", AppendAction: "OVERWRITE_IF_EXISTS"}}}},
		{`{"allowed": false, "headers": [{"set-cookie": ["a=1", "b=2"]}, {"x": "é"}]}`,
			policy.Decision{Headers: []policy.Header{{Name: "set-cookie", Value: "a=1"}, {Name: "set-cookie", Value: "b=2"},
				{Name: "x", Value: "é"}}}},
		{`{"allowed": false, "http_status": 200, "body": "two\nlines"}`, policy.Decision{Status: 200, Body: "two\nlines"}},
		{`{"allowed": false, "dynamic_metadata": ` + strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20) + `}`,
			policy.Decision{Metadata: nested(20)}},
		{`{"allowed": false, "http_status": 599}`, policy.Decision{Status: 599}},
		{`{"allowed": false, "dynamic_metadata": {"n": 12345678901234567890}}`,
			policy.Decision{Metadata: map[string]any{"n": json.Number("12345678901234567890")}}},
	}
	for _, test := range tests {
		got, err := decodeDecision(t, s, test.decision)
		if err != nil {
			t.Errorf("%s: %v", test.decision, err)
			continue
		}
		if got.Result == nil {
			t.Errorf("%s: the result is missing", test.decision)
		}
		got.Result = nil
		if diff := cmp.Diff(test.want, got, equateEmpty); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.decision, diff)
		}
	}
}

// nested returns 1 within this many objects.
func nested(levels int) map[string]any {
	if levels == 1 {
		return map[string]any{"a": json.Number("1")}
	}
	return map[string]any{"a": nested(levels - 1)}
}

func TestDecisionRefused(t *testing.T) {
	s := compile(t, module(echo))
	tests := []struct{ decision, complaint string }{
		{`"yes"`, "type string"},
		{`{"allowed": "true"}`, "a boolean is required"},
		{`{"allowed": true, "headers": {"a b": "1"}}`, "not a header name"},
		{`{"allowed": true, "headers": {"": "1"}}`, "not a header name"},
		{`{"allowed": true, "headers": {":": "1"}}`, "not a header name"},
		{`{"allowed": true, "headers": {"a\r\nset-cookie": "1"}}`, "not a header name"},
		{`{"allowed": true, "headers": {"é": "1"}}`, "not a header name"},
		{`{"allowed": true, "headers": {"a": "1\r\nset-cookie: x=1"}}`, "control character"},
		{`{"allowed": true, "headers": {"a": "\u0000"}}`, "control character"},
		{`{"allowed": true, "headers": {"a": "\u007f"}}`, "control character"},
		{`{"allowed": true, "headers": {"a": ["ok", "\t"]}}`, "control character"},
		{`{"allowed": true, "response_headers_to_add": {"a": "1\nset-cookie: x=1"}}`, "control character"},
		{`{"allowed": false, "headers": {"a": "1\nset-cookie: x=1"}}`, "control character"},
		{`{"allowed": true, "headers": {":path": "/admin"}}`, `":path"`},
		{`{"allowed": true, "headers": {":Authority": "x"}}`, `":authority"`},
		{`{"allowed": true, "headers": {"Host": "x"}}`, `"host"`},
		{`{"allowed": true, "headers": {"Content-Length": "0"}}`, `"content-length"`},
		{`{"allowed": true, "headers": {"Transfer-Encoding": "chunked"}}`, `"transfer-encoding"`},
		{`{"allowed": true, "response_headers_to_add": {"connection": "close"}}`, `"connection"`},
		{`{"allowed": true, "request_headers_to_remove": ["te"]}`, `"te"`},
		{`{"allowed": true, "request_headers_to_remove": ["a", ":method"]}`, `":method"`},
		{`{"allowed": false, "headers": {"keep-alive": "1", "x": "1"}}`, `"keep-alive"`},
		{`{"allowed": false, "headers": {"proxy-connection": "1"}}`, `"proxy-connection"`},
		{`{"allowed": false, "headers": {"trailer": "1"}}`, `"trailer"`},
		{`{"allowed": false, "headers": {"upgrade": "1"}}`, `"upgrade"`},
		{`{"allowed": true, "headers": {"a": {"value": "1"}}}`, "append_action"},
		{`{"allowed": true, "headers": {"a": {"value": "1", "append_action": "APPEND"}}}`, "append_action"},
		{`{"allowed": true, "headers": {"a": {"append_action": "ADD_IF_ABSENT"}}}`, "value is missing"},
		{`{"allowed": true, "headers": {"a": {"value": {"value": "1", "append_action": "ADD_IF_ABSENT"}, "append_action": "ADD_IF_ABSENT"}}}`,
			"a string belongs"},
		{`{"allowed": true, "headers": {"a": [["1"]]}}`, "a string belongs"},
		{`{"allowed": true, "headers": [["a", "1"]]}`, "an object belongs"},
		{`{"allowed": true, "query_parameters_to_set": {"a": "1 HTTP/1.1\r\nx: y"}}`, "control character"},
		{`{"allowed": true, "query_parameters_to_set": {"a\n": "1"}}`, "control character"},
		{`{"allowed": true, "query_parameters_to_set": {"a": 1}}`, "a string belongs"},
		{`{"allowed": true, "query_parameters_to_remove": ["a\n"]}`, "control character"},
		{`{"allowed": false, "http_status": 199}`, "200 to 599"},
		{`{"allowed": false, "http_status": 600}`, "200 to 599"},
		{`{"allowed": false, "http_status": -403}`, "200 to 599"},
		{`{"allowed": false, "http_status": 4.03e2}`, "200 to 599"},
		{`{"allowed": false, "http_status": 18446744073709551819}`, "200 to 599"},
		{`{"allowed": false, "http_status": null}`, "a number belongs"},
		{`{"allowed": false, "body": 1}`, "a string belongs"},
		{`{"allowed": false, "reason": ["x"]}`, "a string belongs"},
		{`{"allowed": false, "dynamic_metadata": []}`, "an object belongs"},
		{`{"allowed": true, "dynamic_metadata": {"n": 1e400}}`, "out of range"},
		{`{"allowed": true, "dynamic_metadata": {"a": ` + strings.Repeat("[", 30) + strings.Repeat("]", 30) + `}}`, "nested deeper than 24"},
		{`{"allowed": true, "query_parameters_to_set": {"": "1"}}`, "without a name"},
		{`{"allowed": true, "headers": {"a": "` + strings.Repeat("x", 20000) + `"}}`, "longer than 16384"},
	}
	for _, test := range tests {
		got, err := decodeDecision(t, s, test.decision)
		if !errors.Is(err, policy.ErrEvaluation) || !strings.Contains(err.Error(), test.complaint) {
			t.Errorf("%s: error %v, want one about %s", test.decision, err, test.complaint)
		}
		if got.Allowed || got.Result != nil {
			t.Errorf("%s: got %+v next to the error, want the zero value", test.decision, got)
		}
	}
}

// Rego can make strings that are not valid UTF-8; no message can hold them.
func TestDecisionWithInvalidUTF8Refused(t *testing.T) {
	for _, rules := range []string{
		`allow := {"allowed": false, "body": base64.decode("/w==")}`,
		`allow := {"allowed": false, "reason": base64.decode("/w==")}`,
		`allow := {"allowed": false, "headers": {"a": base64.decode("/w==")}}`,
		`allow := {"allowed": false, "dynamic_metadata": {"a": [base64.decode("/w==")]}}`,
		`allow := {"allowed": true, "dynamic_metadata": {base64.decode("/w=="): 1}}`,
		`allow := {"allowed": true, "query_parameters_to_set": {"a": base64.decode("/w==")}}`,
	} {
		if d, err := decide(t, rules, `{}`); !errors.Is(err, policy.ErrEvaluation) || d.Allowed {
			t.Errorf("%s: got %v, want ErrEvaluation", rules, err)
		}
	}
}

// A set is an array in JSON, so policies use sets for lists.
func TestDecisionWithSets(t *testing.T) {
	got, err := decide(t, `allow := {"allowed": true, "request_headers_to_remove": {"b", "a"},
		"headers": {"x": {"2", "1"}}, "dynamic_metadata": {"s": {3, 1, 2}}}`, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	got.Result = nil
	want := policy.Decision{Allowed: true, RemoveHeaders: []string{"a", "b"},
		Headers:  []policy.Header{{Name: "x", Value: "1"}, {Name: "x", Value: "2"}},
		Metadata: map[string]any{"s": []any{json.Number("1"), json.Number("2"), json.Number("3")}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decision (-want +got):\n%s", diff)
	}
}

func TestHeadersAllowedByName(t *testing.T) {
	cfg := policy.Config{Decision: "authz/allow", AllowHeaders: []string{"Host", ":path"}}
	s, err := policy.Compile(context.Background(), cfg, []*bundle.Bundle{read(t, "app", module(echo))})
	if err != nil {
		t.Fatal(err)
	}
	d, err := decodeDecision(t, s, `{"allowed": true, "headers": {":path": "/x", "HOST": "y"}}`)
	if err != nil || len(d.Headers) != 2 {
		t.Errorf("got %+v and %v, want both headers", d.Headers, err)
	}
	if _, err := decodeDecision(t, s, `{"allowed": true, "headers": {":method": "GET"}}`); err == nil {
		t.Error(":method passed although it is not allowed by name")
	}
	cfg.AllowHeaders = []string{"not a name"}
	if _, err := policy.Compile(context.Background(), cfg, []*bundle.Bundle{read(t, "app", module(echo))}); err == nil {
		t.Error("an allowed header that is no header name was accepted")
	}
}

func FuzzDecision(f *testing.F) {
	for _, seed := range []string{
		`true`, `{"allowed":true,"headers":{"x":["1","2"]}}`, `{"allowed":false,"http_status":301,"body":"x"}`,
		`{"allowed":true,"headers":[{"x":{"value":"1","append_action":"ADD_IF_ABSENT"}}],"dynamic_metadata":{"a":[1,null]}}`,
	} {
		f.Add(seed)
	}
	s := compile(f, module(echo))
	f.Fuzz(func(t *testing.T, text string) {
		var x any
		if json.Unmarshal([]byte(text), &x) != nil {
			return
		}
		v, err := rego.FromJSON(x)
		if err != nil {
			return
		}
		d, err := s.Decide(context.Background(), v, noon)
		if err != nil {
			if d.Allowed || !errors.Is(err, policy.ErrEvaluation) {
				t.Fatalf("%s: %+v, %v", text, d, err)
			}
			return
		}
		object, _ := x.(map[string]any)
		if d.Allowed && x != true && object["allowed"] != true {
			t.Fatalf("%s was read as an allow", text)
		}
		for _, h := range append(d.Headers, d.ResponseHeaders...) {
			if strings.ContainsAny(h.Name+h.Value, "\r\n\x00") || strings.HasPrefix(h.Name, ":") {
				t.Fatalf("%s put out the header %q: %q", text, h.Name, h.Value)
			}
		}
	})
}
