package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
)

func TestNoticesForFieldsThatNoInputHas(t *testing.T) {
	s := compile(t, tree{"authz.rego": `package authz

import input.attributes.request.http as req

allow if input.identty.subject == "alice"

allow if {
	input.attributes.request.http.metod == "GET"
	req.metod == "GET"
	req.method == "GET"
}

allow if input.user.nickname == "al"

allow if "admin" in input["identity"].rolles

allow if {
	input.identity.claims.anything.below
	input.attributes.request.http.headers["x-any"]
	input.attributes.metadataContext.filterMetadata.any
	input.attributes.contextExtensions.any
	input.attributes.source.address.socketAddress.portValue
	input.attributes.tlsSession.sni
	input.attributes.request.time
	input.route.params.id
	input.resource.any
	input.parsed_query.q[0]
	input.parsed_body.any.below
	input.user.properties.any
	input.policy.path
	input.version.ext_authz
	some name
	input[name]
	http := input.attributes.request.http
	http.anything
}

helper if allow with input.identty as {} with input as {"x": 1}

test_own if input.x
`, "authz_test.rego": "package authz_test\n\nimport data.authz\n\ntest_it if authz.allow with input.y as 1\n\nmine if input.y\n"})
	want := []string{
		"app/authz.rego:5: input.identty is not a field of the input; did you mean input.identity?",
		"app/authz.rego:8: input.attributes.request.http.metod is not a field of the input; did you mean input.attributes.request.http.method?",
		"app/authz.rego:9: input.attributes.request.http.metod is not a field of the input; did you mean input.attributes.request.http.method?",
		"app/authz.rego:15: input.identity.rolles is not a field of the input; did you mean input.identity.roles?",
	}
	if diff := cmp.Diff(want, s.Notices()); diff != "" {
		t.Error(diff)
	}
}

// TestNoNoticesForTheExamples includes the policies of the tests with a real Envoy.
func TestNoNoticesForTheExamples(t *testing.T) {
	for _, pattern := range []string{"../examples/*/policy", "../envoy/testdata/*/policy"} {
		folders, err := filepath.Glob(pattern)
		if err != nil || len(folders) == 0 {
			t.Fatalf("%s: %v, error %v", pattern, folders, err)
		}
		for _, folder := range folders {
			b, err := bundle.Read("app", os.DirFS(folder), bundle.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			s, err := policy.Compile(t.Context(), policy.Config{Directory: true}, []*bundle.Bundle{b})
			if err != nil {
				t.Fatalf("%s: %v", folder, err)
			}
			for _, notice := range s.Notices() {
				if strings.Contains(notice, "of the input") {
					t.Errorf("%s: %s", folder, notice)
				}
			}
		}
	}
}
