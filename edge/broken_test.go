package edge

import (
	"strings"
	"testing"
)

// TestRefuseBroken: what only a change of files on this machine mends is refused, what may come by itself is waited for.
func TestRefuseBroken(t *testing.T) {
	tests := []struct {
		name    string
		files   map[string]string
		refused string // "": it is waited for, or fine
	}{
		{"fine", nil, ""},
		{"does not compile", map[string]string{"policy/authz.rego": "package envoy.authz\n\nallow if x\n"}, `compiling bundle "policy": authz.rego:3: `},
		{"does not parse", map[string]string{"policy/authz.rego": "package envoy.authz\n\nallow if )\n"}, `reading bundle "policy": authz.rego:3: `},
		{"a test fails", map[string]string{"policy/authz_test.rego": "package t\n\ntest_x if false\n"}, `testing bundle "policy": authz_test.rego:3: `},
		{"no decision", map[string]string{"policy/authz.rego": "package other\n"}, `decision "envoy/authz/allow" is not defined`},
		{"no rule for a route", map[string]string{"routes.yaml": "framework: flask\nroutes:\n  - {route: \"GET /a\", name: a}\n",
			"gatehouse.yaml": "policy: {bundles: [{path: policy}], root: routes, strict_routes: true}\nroutes: {file: routes.yaml}\n"}, "GET /a has no rule: define "},
		{"the directory does not parse", map[string]string{"people/objects.jsonl": "{\n"}, "objects.jsonl:1: "},
		{"policy and directory", map[string]string{"people/objects.jsonl": "{\n", "policy/authz.rego": "package envoy.authz\n\nallow if x\n"}, "directory.file: "},
		{"a bundle that cannot be fetched", map[string]string{"gatehouse.yaml": "policy: {bundles: [{url: \"http://127.0.0.1:1/b.tar.gz\", name: far}]}\n"}, ""},
		{"one that can be read beside it", map[string]string{"gatehouse.yaml": "policy: {bundles: [{path: policy}, {url: \"http://127.0.0.1:1/b.tar.gz\", name: far}]}\n",
			"policy/.manifest": `{"roots": ["envoy"]}`}, ""},
		{"one that cannot be used beside it", map[string]string{"gatehouse.yaml": "policy: {bundles: [{path: policy}, {url: \"http://127.0.0.1:1/b.tar.gz\", name: far}]}\n",
			"policy/.manifest": `{"roots": ["envoy"]}`, "policy/authz.rego": "package envoy.authz\n\nallow if )\n"}, `reading bundle "policy": authz.rego:3: `},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newPlace(t, "")
			for name, text := range test.files {
				p.write(name, text)
			}
			cfg, found := p.read()
			n, err := New(t.Context(), Config{Config: cfg, Found: found, RefuseBroken: true})
			switch {
			case test.refused == "" && err != nil:
				t.Fatal(err)
			case test.refused == "":
				n.Discard()
			case err == nil || !strings.Contains(err.Error(), test.refused):
				t.Errorf("error %v, want %q in it", err, test.refused)
			}
			cfg, found = p.read()
			if n, err = New(t.Context(), Config{Config: cfg, Found: found}); err != nil {
				t.Errorf("without RefuseBroken: %v", err)
			} else {
				n.Discard()
			}
		})
	}
}
