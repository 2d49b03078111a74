package extauthz_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"gatehouse/gate"
	"gatehouse/gate/gatetest"
	"gatehouse/gate/recorded"
)

// echo is a policy that gives back its input.
const echo = "package envoy.authz\n\nallow := {\"allowed\": true, \"dynamic_metadata\": {\"input\": json.marshal(input)}}\n"

// TestRequestFromInputDecidesAlike makes requests again of what the policy was given for the corpus's, whole and without the
// body, as the decision log has it. Both must be decided as the request itself was.
func TestRequestFromInputDecidesAlike(t *testing.T) {
	rego, err := os.ReadFile("testdata/conformance/policy.rego")
	if err != nil {
		t.Fatal(err)
	}
	s := settings()
	s.Paths = gate.PathRules{Compat: true}
	conformance := compile(t, string(rego))
	direct, inputs := client(t, s, conformance), client(t, s, compile(t, echo))
	g := gatetest.Start(t, gate.Config{}, gatetest.With(t, s, conformance))
	tried := 0
	for _, r := range corpus(t) {
		var req authv3.CheckRequest
		if err := protojson.Unmarshal(r.Request, &req); err != nil {
			t.Fatal(err)
		}
		want, err := direct.Check(t.Context(), &req)
		if err != nil {
			t.Fatal(err)
		}
		shown, err := inputs.Check(t.Context(), &req)
		if err != nil {
			t.Fatal(err)
		}
		text, ok := shown.GetDynamicMetadata().AsMap()["input"].(string)
		if !ok {
			continue // never got to a policy
		}
		for _, erase := range []bool{false, true} {
			input := decode(t, text)
			if erase {
				http, _ := input["attributes"].(map[string]any)["request"].(map[string]any)["http"].(map[string]any)
				if delete(http, "body"); http["rawBody"] != nil || strings.HasPrefix(contentType(http), "application/grpc") {
					continue
				}
			}
			replayed, err := recorded.Request(input)
			if err != nil {
				t.Errorf("%s: %v", r.Name, err)
				continue
			}
			tried++
			compareAnswer(t, r.Name, erase, want, g.Check(t.Context(), replayed))
		}
	}
	t.Logf("%d requests made again", tried)
	if tried < 200 {
		t.Errorf("only %d requests were made again", tried)
	}
}

func contentType(http map[string]any) string {
	headers, _ := http["headers"].(map[string]any)
	text, _ := headers["content-type"].(string)
	return text
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var input map[string]any
	if err := d.Decode(&input); err != nil {
		t.Fatal(err)
	}
	return input
}

func compareAnswer(t *testing.T, name string, erased bool, want *authv3.CheckResponse, got gate.Answer) {
	t.Helper()
	if allowed := want.GetDeniedResponse() == nil; allowed != got.Allow {
		t.Errorf("%s (without body: %v): allowed %v, made again %v, %v", name, erased, allowed, got.Allow, got.Diagnostics.Cause)
		return
	}
	if !got.Allow {
		if status := int(want.GetDeniedResponse().GetStatus().GetCode()); status != got.Status {
			t.Errorf("%s: status %d, made again %d", name, status, got.Status)
		}
		return
	}
	var options []*corev3.HeaderValueOption
	for _, h := range got.Set {
		options = append(options, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: h.Name, Value: h.Value}})
	}
	drop := func(l line) bool { return erased && l.Name == "x-attributes" } // the body is in there
	a, b := slices.DeleteFunc(headers(want.GetOkResponse().GetHeaders()), drop), slices.DeleteFunc(headers(options), drop)
	if diff := gocmp.Diff(a, b); diff != "" {
		t.Errorf("%s (without body: %v), headers (-want +made again):\n%s", name, erased, diff)
	}
}
