package doctor

import (
	"slices"
	"strings"
	"testing"
)

const filter = `{name: a, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, `

func TestExamine(t *testing.T) {
	for _, test := range []struct {
		text    string
		filters int
		found   []string // how the mistakes begin
	}{
		{"a: 1", 0, nil},
		{filter + "grpc_service: {}}}", 1, nil},
		{filter + "grpcService: {}}}", 1, nil},
		{filter + "}}", 1, []string{"the ext_authz filter has no grpc_service"}},
		{filter + "grpc_service: {}, failure_mode_allow: true}}", 1, []string{"failure_mode_allow"}},
		{filter + "grpc_service: {}, failureModeAllow: true}}", 1, []string{"failure_mode_allow"}},
		{filter + "grpc_service: {}, with_request_body: {max_request_bytes: 1}}}", 1, []string{"with_request_body without pack_as_bytes"}},
		{filter + "grpc_service: {}, with_request_body: {pack_as_bytes: true}}}", 1, nil},
		{filter + "http_service: {}, with_request_body: {max_request_bytes: 1}}}", 1, nil},
		{filter + "grpc_service: {}, decoder_header_mutation_rules: {}}}", 1, []string{"decoder_header_mutation_rules"}},
		{"a: &f " + filter + "}}\nb: *f", 2, []string{"the ext_authz filter has no grpc_service"}}, // said once
		{filter + "grpc_service: {}}}\n---\n" + filter + "grpc_service: {}}}", 2, nil},
	} {
		d, err := Examine("envoy.yaml", []byte(test.text))
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		mistakes := slices.DeleteFunc(d.Symptoms, func(s Symptom) bool { return s.Note })
		if d.Filters != test.filters || len(mistakes) != len(test.found) {
			t.Errorf("%s: %d filters, %+v", test.text, d.Filters, mistakes)
			continue
		}
		for i, begins := range test.found {
			if !strings.HasPrefix(mistakes[i].Text, begins) {
				t.Errorf("%s: %q, want %q", test.text, mistakes[i].Text, begins)
			}
		}
	}
	if _, err := Examine("envoy.yaml", []byte("a: [")); err == nil {
		t.Error("what is no YAML is taken")
	}
}
