package bundles_test

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/compile"

	"gatehouse/bundles"
	"gatehouse/policy/bundle"
)

// built returns what opa build makes of a directory.
func built(t *testing.T, dir, target string, optimize int) []byte {
	t.Helper()
	var out bytes.Buffer
	c := compile.New().WithPaths(dir).WithAsBundle(true).WithTarget(target).WithOptimizationLevel(optimize).
		WithEntrypoints("authz/allow").WithOutput(&out)
	must(t, c.Build(context.Background()))
	return out.Bytes()
}

func TestBundlesThatOPABuilds(t *testing.T) {
	const ruled = "package authz\n\nimport data.numbers\n\ndefault number := \"0\"\n\nnumber := numbers.n if numbers.n\n\nallow := {\"allowed\": true, \"headers\": {\"x\": number}}\n"
	source := func(rules string) string {
		dir := t.TempDir()
		write(t, dir, map[string]string{"lib/authz.rego": rules, "numbers/data.json": `{"n": "5"}`, ".manifest": `{"revision": "v5", "roots": ["authz", "numbers", "partial"]}`})
		return dir
	}
	old := strings.ReplaceAll(ruled, " if numbers.n", " { numbers.n }")
	tests := []struct {
		name      string
		raw       []byte
		notice    string
		complaint string
	}{
		{"rego", built(t, source(ruled), "rego", 0), "", ""},
		{"optimised", built(t, source(ruled), "rego", 2), "", ""},
		{"with a plan", built(t, source(ruled), "plan", 0), `bundle "app": plan.json is not used: the bundle's Rego decides`, ""},
		{"with WebAssembly alone", built(t, source(ruled), "wasm", 0), "",
			`.manifest: the rules of "authz/allow" are there as WebAssembly only, in policy.wasm: build the bundle with the target rego or plan`},
		{"with WebAssembly and Rego", packed(t, map[string]string{"authz.rego": old, "numbers/data.json": `{"n": "5"}`, "policy.wasm": "\x00asm",
			".manifest": `{"rego_version": 0, "wasm": [{"entrypoint": "authz/allow", "module": "/policy.wasm"}]}`}), `bundle "app": policy.wasm is not used: the bundle's Rego decides`, ""},
		{"with a manifest in protobuf", packed(t, map[string]string{"authz.rego": ruled, ".manifest.pb": "\x0a\x02v5"}), "", ".manifest.pb: a manifest in this form is not read"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bundle.tar.gz")
			atomically(t, path, test.raw)
			s, err := load(t, bundle.Limits{}, bundles.Source{Name: "app", Path: path})
			if test.complaint != "" {
				if err == nil || !strings.Contains(err.Error(), test.complaint) {
					t.Fatalf("error %v", err)
				}
				return
			}
			must(t, err)
			if got := response(t, s); got != "5" {
				t.Errorf("answer %s", got)
			}
			if got := strings.Join(s.Notices(), "\n"); got != test.notice {
				t.Errorf("notices %q", got)
			}
		})
	}
}
