package doctor_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/xeipuuv/gojsonschema"

	"gatehouse/doctor"
	"gatehouse/doctor/rules"
)

const authzFilter = `{name: a, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, `

// gatewayChain is how Envoy Gateway has it: the filter is off, and routes switch it on. PER is what its route says.
const gatewayChain = `
"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
use_remote_address: true
normalize_path: true
common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}
early_header_mutation_extensions: [{typed_config: {"@type": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation, mutations: [{remove: x-auth-subject}, {remove: x-auth-roles}]}}]
route_config: {virtual_hosts: [{name: a, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: a}, typed_per_filter_config: PER}, {match: {prefix: /b}, direct_response: {status: 200}}]}]}
http_filters: [{name: x, disabled: true, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, grpc_service: {}}}]`

// TestPieces are pieces of configurations, and what is wrong with them besides an unset status_on_error.
func TestPieces(t *testing.T) {
	for _, test := range []struct {
		text   string
		asking int
		found  []string
	}{
		{"a: 1", 0, []string{"no-ext-authz"}},
		{authzFilter + "grpc_service: {}}}", 1, nil},
		{authzFilter + "grpcService: {}}}", 1, nil},
		{authzFilter + "}}", 1, []string{"grpc-service-missing"}},
		{authzFilter + "grpc_service: {}, failure_mode_allow: true}}", 1, []string{"failure-mode-allow"}},
		{authzFilter + "grpc_service: {}, failureModeAllow: true}}", 1, []string{"failure-mode-allow"}},
		{authzFilter + "grpc_service: {}, with_request_body: {max_request_bytes: 1}}}", 1, []string{"body-as-text", "body-limit-rejects"}},
		{authzFilter + "grpc_service: {}, with_request_body: {max_request_bytes: 1, allow_partial_message: true, pack_as_bytes: true}}}", 1, nil},
		{authzFilter + "http_service: {}, with_request_body: {max_request_bytes: 1, allow_partial_message: true}}}", 1, []string{"http-mode-headers"}},
		{authzFilter + "grpc_service: {}, decoder_header_mutation_rules: {}}}", 1, []string{"header-mutations-dropped"}},
		{"a: &f " + authzFilter + "}}\nb: *f", 2, []string{"grpc-service-missing"}},
		{authzFilter + "grpc_service: {}}}\n---\n" + authzFilter + "grpc_service: {}}}", 2, nil},
		{authzFilter + "grpc_service: {}, a_field_of_tomorrow: {b: 1}}}", 1, nil},
		{"http_filters: [{name: x, typed_config: {'@type': type.googleapis.com/some.company.Filter, secret: {a: [1]}}}, " + authzFilter + "grpc_service: {}}}]", 1, nil},
		{"http_filters:\n- name: envoy.filters.http.ext_authz\n  typed_config: {'@type': type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, value: {grpc_service: {timeout: 0.05s}}}",
			1, []string{"timeout-below-policy"}},
		{strings.ReplaceAll(gatewayChain, "PER", `{x: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, check_settings: {}}}}`), 1, nil},
		// An ext_authz that is off does not make up for one that a matcher decides about.
		{"http_filters: [" + authzFilter[:len(authzFilter)-2] + ", grpc_service: {}}, disabled: true}, {name: m, typed_config: {'@type': type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher, extension_config: " +
			authzFilter + "grpc_service: {}}}}}]", 2, []string{"filter-conditional"}},
		{"name: m\ntyped_config: {'@type': type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher, extension_config: " + authzFilter + "grpc_service: {}}}}", 1, []string{"filter-conditional"}},
		{strings.ReplaceAll(gatewayChain, "PER", "{}"), 1, []string{"ext-authz-disabled"}},
	} {
		r := examine(t, []byte(test.text), rules.Default())
		found := slices.DeleteFunc(ids(r), func(id string) bool { return id == "status-on-error-unset" })
		if r.Asking != test.asking || !slices.Equal(found, test.found) {
			t.Errorf("%s: asked in %d places, %v", test.text, r.Asking, found)
		}
	}
}

// TestRefused are texts that cannot be looked at.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"a: [":                   "f.yaml:1: ",
		"a: 1\na: 2":             `f.yaml:2: the key "a" twice`,
		`{"a": 1, "a": 2}`:       `the key "a" twice`,
		"a: &a\n  b: *a":         "an alias that contains itself",
		"? [a]\n: b":             "a key that is not a string",
		strings.Repeat("[", 300): "f.yaml:1: ",
		strings.Repeat("[", 300) + strings.Repeat("]", 300): "deeper than 200 levels",
		"a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n" +
			"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]": "more than 2000000 values",
		"static_resources:\n  listeners:\n    - name: a\n      filter_chains: 7": "f.yaml:4: Envoy would not take this Listener",
	} {
		_, err := doctor.Examine([]doctor.Input{{Name: "f.yaml", Text: []byte(text)}}, rules.Default())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}

// TestEveryRuleHasARow holds the ids in the code against the table.
func TestEveryRuleHasARow(t *testing.T) {
	files, err := filepath.Glob("*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:Found|Of)\("([a-z0-9-]+)"`).FindAllStringSubmatch(string(text), -1) {
			used[m[1]] = true
		}
	}
	rows := map[string]bool{}
	for _, r := range rules.All() {
		if rows[r.ID] || r.Title == "" || r.Risk == "" || r.Mend == "" || strings.HasSuffix(r.Title, ".") {
			t.Errorf("the row of %s is not complete, or there twice", r.ID)
		}
		rows[r.ID] = true
		if !used[r.ID] {
			t.Errorf("nothing finds %s", r.ID)
		}
	}
	for id := range used {
		if !rows[id] {
			t.Errorf("%s is found and has no row", id)
		}
	}
}

// TestEveryRuleOfEnvoyIsProven holds the proofs against the table.
func TestEveryRuleOfEnvoyIsProven(t *testing.T) {
	proven := map[string]bool{"admin-reachable": true, "grpc-service-missing": true, // tests of their own
		"routes-not-seen": true} // what is not there does nothing
	for _, p := range proofs() {
		proven[p.id] = true
	}
	for _, part := range rules.Parts()[:2] {
		for _, r := range part.Rules {
			if !proven[r.ID] {
				t.Errorf("%s is not proven", r.ID)
			}
		}
	}
}

func busted(t *testing.T) []byte {
	t.Helper()
	return []byte(edit(t, base(t), []string{"HERE filter", "failure_mode_allow: true", "merge_slashes: false", "merge_slashes: true", "allow_partial_message: true, ", ""}))
}

func TestOutputs(t *testing.T) {
	r := examine(t, busted(t), rules.Default())
	var text, out, log bytes.Buffer
	r.Text(&text)
	for _, want := range []string{"envoy.yaml:15: warning: merge_slashes: true", "[failure-mode-allow]", "    mend: Set failure_mode_allow: false", "envoy.yaml: 1 error, 1 warning, 1 note; docs/doctor.md"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in %s", want, text.String())
		}
	}
	if err := r.JSON(&out); err != nil {
		t.Fatal(err)
	}
	var read struct {
		Findings []struct {
			ID, Page, File, Path string
			Line                 int
			Fixable              bool
		}
	}
	if err := json.Unmarshal(out.Bytes(), &read); err != nil || len(read.Findings) != 3 || read.Findings[0].ID != "merge-slashes" || !read.Findings[0].Fixable || read.Findings[0].Page != "docs/doctor.md#merge-slashes" ||
		read.Findings[0].Path != "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.merge_slashes" {
		t.Errorf("%v: %s", err, out.String())
	}
	if err := r.SARIF(&log, "v1"); err != nil {
		t.Fatal(err)
	}
	schema, err := os.ReadFile(filepath.Join("testdata", "sarif-2.1.0.json")) // of the standard, without its descriptions
	if err != nil {
		t.Fatal(err)
	}
	result, err := gojsonschema.Validate(gojsonschema.NewBytesLoader(schema), gojsonschema.NewBytesLoader(log.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if !result.Valid() {
		t.Errorf("not SARIF 2.1.0: %v", result.Errors())
	}
	if !strings.Contains(log.String(), `"ruleId": "merge-slashes"`) {
		t.Errorf("SARIF: %s", log.String())
	}
	if left := r.AtLeast(rules.Error); len(left.Findings) != 1 || !left.Wrong() {
		t.Errorf("errors alone: %v", ids(left))
	}
}

// TestDump looks at what a running Envoy says about itself, by its admin port and saved.
func TestDump(t *testing.T) {
	s := withEnvoy(t)
	s.ports[8000], s.ports[9191] = 9, 9
	h := s.newHouse()
	h.add(t, "", busted(t))
	h.open(t)
	inputs, err := doctor.Read(t.Context(), []string{"http://" + h.admin}, doctor.Cluster{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := doctor.Examine(inputs, rules.Default())
	if err != nil {
		t.Fatal(err)
	}
	if found := ids(r); !slices.Equal(slices.Sorted(slices.Values(found)), []string{"body-limit-rejects", "failure-mode-allow", "merge-slashes"}) {
		t.Errorf("found %v", found)
	}
	for _, f := range r.Findings {
		if f.Line < 2 || !strings.Contains(f.Path, "listener") {
			t.Errorf("%s is at %s:%d %s", f.ID, f.File, f.Line, f.Path)
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.yaml": "a: 1", "b/c.yml": "b: 1", ".hidden.yaml": "c: 1", ".git/d.yaml": "d: 1", "e.txt": "e", "f.json": "{}"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	inputs, err := doctor.Read(t.Context(), []string{dir}, doctor.Cluster{})
	if err != nil || len(inputs) != 3 {
		t.Errorf("%v: %v", err, inputs)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) }))
	defer server.Close()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := doctor.Read(t.Context(), []string{fifo}, doctor.Cluster{}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a FIFO: %v", err)
	}
	for _, name := range []string{filepath.Join(dir, "nowhere"), filepath.Join(dir, ".git", "nothing"), server.URL, "http://user@host/"} {
		if _, err := doctor.Read(t.Context(), []string{name}, doctor.Cluster{}); err == nil {
			t.Errorf("%s is read", name)
		}
	}
}

// FuzzExamine holds that no text ends the reader, and that mending ends in a text that is read again.
func FuzzExamine(f *testing.F) {
	text, err := os.ReadFile(filepath.Join("testdata", "envoy", "base.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(authzFilter + "grpc_service: {}}}"))
	f.Add([]byte(`{"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "static_listeners": [{"listener": {"@type": "type.googleapis.com/envoy.config.listener.v3.Listener"}}]}]}`))
	files, _ := filepath.Glob(filepath.Join("testdata", "*", "*.yaml"))
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		in := []doctor.Input{{Name: "f", Text: text}}
		r, err := doctor.Examine(in, rules.Default())
		if err != nil {
			return
		}
		r.Text(&bytes.Buffer{})
		for _, finding := range r.Findings {
			if rules.Of(finding.ID).Title == "" {
				t.Errorf("%s has no row", finding.ID)
			}
		}
		mended, err := doctor.Mend(in, rules.Default())
		if err != nil {
			t.Fatalf("%v after mending", err)
		}
		if _, err := doctor.Examine(mended, rules.Default()); err != nil {
			t.Fatal(fmt.Errorf("%w in %s", err, mended[0].Text))
		}
	})
}
