package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// whoMayImport is the picture of our imports. docs/architecture.md shows the same.
func whoMayImport() (foundations []string, ours map[string][]string) {
	foundations = []string{ // all may import them, and they import nothing of ours
		"gatehouse/children",
		"gatehouse/durable",
		"gatehouse/input",
		"gatehouse/nearest",
		"gatehouse/panics",
		"gatehouse/query",
		"gatehouse/terminal",
		"gatehouse/upstream",
		"gatehouse/watch",
		"gatehouse/yamltext",
	}
	ours = map[string][]string{ // package -> those of ours that it may import besides, directly or not
		"gatehouse/config": {},
		"gatehouse/control": {"gatehouse/control/api", "gatehouse/control/authority", "gatehouse/control/decisions", "gatehouse/control/policies", "gatehouse/control/scim", "gatehouse/control/store", "gatehouse/control/wire", "gatehouse/directory",
			"gatehouse/bundles/signature", "gatehouse/bundles/tarball", "gatehouse/policy/builtins", "gatehouse/policy/bundle", "gatehouse/policy/rego", "gatehouse/policy/regoerror"},
		"gatehouse/control/judge": {"gatehouse/control/authority", "gatehouse/control/policies", "gatehouse/bundles", "gatehouse/config", "gatehouse/decisionlog", "gatehouse/gate", "gatehouse/identity", "gatehouse/images", "gatehouse/policy",
			"gatehouse/policy/explain", "gatehouse/routes", "gatehouse/trial"},
		"gatehouse/control/policies":    {"gatehouse/control/authority", "gatehouse/bundles/signature", "gatehouse/bundles/tarball", "gatehouse/policy/builtins", "gatehouse/policy/bundle", "gatehouse/policy/rego", "gatehouse/policy/regoerror"},
		"gatehouse/control/api":         {},
		"gatehouse/control/authority":   {},
		"gatehouse/control/cli":         {"gatehouse/control/api", "gatehouse/control/trust", "gatehouse/directory", "gatehouse/directory/format"},
		"gatehouse/control/decisions":   {},
		"gatehouse/control/follow":      {"gatehouse/control/api", "gatehouse/control/trust", "gatehouse/control/wire", "gatehouse/directory"},
		"gatehouse/control/scim":        {"gatehouse/control/api", "gatehouse/control/store", "gatehouse/control/wire", "gatehouse/directory"},
		"gatehouse/control/store":       {"gatehouse/control/api", "gatehouse/control/wire", "gatehouse/directory"},
		"gatehouse/control/trust":       {},
		"gatehouse/control/wire":        {"gatehouse/control/api", "gatehouse/directory"},
		"gatehouse/directory":           {},
		"gatehouse/directory/convert":   {"gatehouse/directory", "gatehouse/directory/format"},
		"gatehouse/directory/format":    {"gatehouse/directory"},
		"gatehouse/directory/journal":   {"gatehouse/directory"},
		"gatehouse/gate":                {"gatehouse/decisionlog", "gatehouse/identity", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/extauthz":            {"gatehouse/gate", "gatehouse/decisionlog", "gatehouse/identity", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/gate/body":           {"gatehouse/policy/rego"},
		"gatehouse/gate/facts":          {"gatehouse/directory", "gatehouse/policy"},
		"gatehouse/gate/recorded":       {"gatehouse/identity", "gatehouse/policy/rego"},                                                                                       // for tools, with the gate's other parts
		"gatehouse/gate/gatetest":       {"gatehouse/gate", "gatehouse/decisionlog", "gatehouse/identity", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"}, // for tests alone
		"gatehouse/bundles":             {"gatehouse/images", "gatehouse/policy"},
		"gatehouse/bundles/origin":      {"gatehouse/images"},
		"gatehouse/bundles/signature":   {"gatehouse/policy/builtins", "gatehouse/policy/bundle", "gatehouse/policy/rego", "gatehouse/policy/regoerror"},
		"gatehouse/bundles/tarball":     {"gatehouse/policy/builtins", "gatehouse/policy/bundle", "gatehouse/policy/rego", "gatehouse/policy/regoerror"},
		"gatehouse/identity":            {},
		"gatehouse/identity/apikey":     {"gatehouse/identity/credential", "gatehouse/identity/refusal", "gatehouse/identity/strictjson"},
		"gatehouse/identity/claims":     {"gatehouse/identity/credential", "gatehouse/identity/refusal"},
		"gatehouse/identity/credential": {"gatehouse/identity/refusal"},
		"gatehouse/identity/keyset":     {"gatehouse/identity/refusal", "gatehouse/identity/strictjson"},
		"gatehouse/identity/mint":       {"gatehouse/identity/refusal"},
		"gatehouse/identity/peer":       {"gatehouse/identity/credential", "gatehouse/identity/refusal"},
		"gatehouse/identity/strictjson": {},
		"gatehouse/identity/refusal":    {},
		"gatehouse/replay": {"gatehouse/config", "gatehouse/bundles", "gatehouse/decisionlog", "gatehouse/decisionlog/read", "gatehouse/gate", "gatehouse/identity", "gatehouse/images", "gatehouse/policy",
			"gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/replay/search": {"gatehouse/config", "gatehouse/bundles", "gatehouse/decisionlog", "gatehouse/decisionlog/read", "gatehouse/gate", "gatehouse/identity", "gatehouse/images", "gatehouse/policy",
			"gatehouse/policy/explain", "gatehouse/replay", "gatehouse/routes"},
		"gatehouse/doctor":              {"gatehouse/config", "gatehouse/doctor/cluster", "gatehouse/doctor/envoyconf", "gatehouse/doctor/envoygateway", "gatehouse/doctor/istio", "gatehouse/doctor/rules", "gatehouse/doctor/tree"},
		"gatehouse/doctor/cluster":      {},
		"gatehouse/doctor/envoyconf":    {"gatehouse/doctor/rules", "gatehouse/doctor/tree"},
		"gatehouse/doctor/envoygateway": {"gatehouse/doctor/envoyconf", "gatehouse/doctor/rules", "gatehouse/doctor/tree"},
		"gatehouse/doctor/istio":        {"gatehouse/doctor/envoyconf", "gatehouse/doctor/rules", "gatehouse/doctor/tree"},
		"gatehouse/doctor/rules":        {"gatehouse/doctor/tree"},
		"gatehouse/doctor/tree":         {},
		"gatehouse/edge": {"gatehouse/control/api", "gatehouse/control/follow", "gatehouse/control/trust", "gatehouse/control/wire", "gatehouse/bundles", "gatehouse/config", "gatehouse/decisionlog", "gatehouse/directory/format", "gatehouse/directory/journal", "gatehouse/gate", "gatehouse/identity", "gatehouse/images",
			"gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/server/conns": {"gatehouse/config"},
		"gatehouse/topaz":        {"gatehouse/directory/journal", "gatehouse/gate", "gatehouse/decisionlog", "gatehouse/identity", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/authzen":      {"gatehouse/gate", "gatehouse/decisionlog", "gatehouse/identity", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/server": {"gatehouse/control/api", "gatehouse/control/follow", "gatehouse/control/trust", "gatehouse/control/wire", "gatehouse/server/conns", "gatehouse/topaz", "gatehouse/authzen", "gatehouse/bundles", "gatehouse/config", "gatehouse/decisionlog", "gatehouse/edge", "gatehouse/extauthz", "gatehouse/directory/format", "gatehouse/directory/journal", "gatehouse/gate", "gatehouse/identity",
			"gatehouse/images", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/dynmod": {"gatehouse/server", "gatehouse/control/api", "gatehouse/control/follow", "gatehouse/control/trust", "gatehouse/control/wire", "gatehouse/server/conns", "gatehouse/topaz", "gatehouse/authzen", "gatehouse/bundles", "gatehouse/config", "gatehouse/decisionlog", "gatehouse/edge", "gatehouse/extauthz", "gatehouse/directory/format", "gatehouse/directory/journal", "gatehouse/gate", "gatehouse/identity",
			"gatehouse/images", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/identity/attack":    {"gatehouse/identity"}, // for tests alone
		"gatehouse/policy":             {},
		"gatehouse/policy/bounds":      {},
		"gatehouse/policy/builtins":    {},
		"gatehouse/policy/bundle":      {"gatehouse/policy/builtins", "gatehouse/policy/rego", "gatehouse/policy/regoerror"},
		"gatehouse/policy/regoerror":   {"gatehouse/policy/builtins", "gatehouse/policy/rego"},
		"gatehouse/policy/lint":        {"gatehouse/policy"}, // for tools
		"gatehouse/policy/reach":       {"gatehouse/policy/builtins", "gatehouse/policy/rego"},
		"gatehouse/policy/rego":        {},
		"gatehouse/policy/explain":     {"gatehouse/policy"}, // for tools
		"gatehouse/decisionlog":        {},                   // besides its parts: ofTheLog
		"gatehouse/decisionlog/events": {},
		"gatehouse/decisionlog/read":   {"gatehouse/decisionlog"},
		"gatehouse/decisionlog/record": {"gatehouse/decisionlog/events", "gatehouse/decisionlog/spool"},
		"gatehouse/decisionlog/remote": {"gatehouse/decisionlog/events"},
		"gatehouse/decisionlog/spool":  {},
		"gatehouse/routes/importer":    {"gatehouse/routes"},
		"gatehouse/routes/pyregex":     {},
		"gatehouse/routes":             {},
		"gatehouse/watch":              {"gatehouse/panics"},
		"gatehouse/project":            {"gatehouse/routes"},
		"gatehouse/devstack": {"gatehouse/control/api", "gatehouse/control/follow", "gatehouse/control/trust", "gatehouse/control/wire", "gatehouse/project", "gatehouse/server", "gatehouse/envoy/generate", "gatehouse/trial", "gatehouse/server/conns", "gatehouse/topaz", "gatehouse/authzen", "gatehouse/bundles", "gatehouse/config", "gatehouse/decisionlog", "gatehouse/edge", "gatehouse/extauthz",
			"gatehouse/directory/format", "gatehouse/directory/journal", "gatehouse/gate", "gatehouse/identity", "gatehouse/images", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/envoy/sandbox":   {"gatehouse/identity/mint", "gatehouse/identity/refusal"},
		"gatehouse/k8s":             {"gatehouse/config", "gatehouse/envoy/generate", "gatehouse/routes"},
		"gatehouse/k8s/inject":      {},
		"gatehouse/envoy/generate":  {"gatehouse/config", "gatehouse/routes"},
		"gatehouse/images":          {},
		"gatehouse/images/exchange": {},
		"gatehouse/trial": {"gatehouse/bundles", "gatehouse/config", "gatehouse/decisionlog", "gatehouse/gate", "gatehouse/identity", "gatehouse/images", "gatehouse/policy",
			"gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/report": {"gatehouse/bundles", "gatehouse/config", "gatehouse/decisionlog", "gatehouse/decisionlog/read", "gatehouse/gate", "gatehouse/identity", "gatehouse/images", "gatehouse/policy",
			"gatehouse/policy/explain", "gatehouse/routes", "gatehouse/replay", "gatehouse/replay/search", "gatehouse/trial", "gatehouse/trial/logged"},
		"gatehouse/trial/bench": {"gatehouse/gate", "gatehouse/decisionlog", "gatehouse/identity", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/trial/logged": {"gatehouse/bundles", "gatehouse/config", "gatehouse/decisionlog", "gatehouse/decisionlog/read", "gatehouse/gate", "gatehouse/identity", "gatehouse/images", "gatehouse/policy",
			"gatehouse/policy/explain", "gatehouse/routes", "gatehouse/replay", "gatehouse/trial"},
		"gatehouse/trial/node": {"gatehouse/control/api", "gatehouse/control/follow", "gatehouse/control/trust", "gatehouse/control/wire", "gatehouse/bundles", "gatehouse/config", "gatehouse/decisionlog", "gatehouse/decisionlog/read", "gatehouse/edge", "gatehouse/directory/format", "gatehouse/directory/journal", "gatehouse/gate", "gatehouse/identity", "gatehouse/images",
			"gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes", "gatehouse/replay", "gatehouse/trial", "gatehouse/trial/logged"},
		"gatehouse/bundler":         {"gatehouse/control/api", "gatehouse/control/follow", "gatehouse/control/trust", "gatehouse/control/wire", "gatehouse/edge", "gatehouse/bundles", "gatehouse/config", "gatehouse/decisionlog", "gatehouse/directory/format", "gatehouse/directory/journal", "gatehouse/gate", "gatehouse/identity", "gatehouse/images", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/trial/tokens":    {"gatehouse/control/api", "gatehouse/control/follow", "gatehouse/control/trust", "gatehouse/control/wire", "gatehouse/edge", "gatehouse/bundles", "gatehouse/config", "gatehouse/decisionlog", "gatehouse/directory/format", "gatehouse/directory/journal", "gatehouse/gate", "gatehouse/identity", "gatehouse/images", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/scaffold/tables": {"gatehouse/control/api", "gatehouse/control/follow", "gatehouse/control/trust", "gatehouse/control/wire", "gatehouse/envoy/generate", "gatehouse/project", "gatehouse/scaffold", "gatehouse/trial/node", "gatehouse/bundles", "gatehouse/config", "gatehouse/decisionlog", "gatehouse/decisionlog/read", "gatehouse/edge", "gatehouse/directory/format", "gatehouse/directory/journal", "gatehouse/gate", "gatehouse/identity", "gatehouse/images", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes", "gatehouse/replay", "gatehouse/trial", "gatehouse/trial/logged"},
		"gatehouse/scaffold":        {"gatehouse/config", "gatehouse/project", "gatehouse/envoy/generate", "gatehouse/gate", "gatehouse/decisionlog", "gatehouse/identity", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/routes"},
		"gatehouse/top":             {"gatehouse/authzen", "gatehouse/bundles", "gatehouse/config", "gatehouse/control/api", "gatehouse/control/follow", "gatehouse/control/trust", "gatehouse/control/wire", "gatehouse/decisionlog", "gatehouse/decisionlog/read", "gatehouse/directory/format", "gatehouse/directory/journal", "gatehouse/edge", "gatehouse/extauthz", "gatehouse/gate", "gatehouse/identity", "gatehouse/images", "gatehouse/policy", "gatehouse/policy/explain", "gatehouse/replay", "gatehouse/replay/search", "gatehouse/routes", "gatehouse/server", "gatehouse/server/conns", "gatehouse/topaz"},
		"gatehouse/migrate":         {"gatehouse/bundles", "gatehouse/decisionlog", "gatehouse/images", "gatehouse/policy"},
	}
	return foundations, ours
}

// messages is where the generated code of topaz is, which imports nothing else of ours.
const messages = "gatehouse/topaz/pb/"

// ofTheLog are the parts of the decision log, which come with it.
func ofTheLog() []string {
	return []string{"gatehouse/decisionlog/events", "gatehouse/decisionlog/record", "gatehouse/decisionlog/remote", "gatehouse/decisionlog/spool"}
}

// TestWhoMayImportWhom holds the direction of our imports, and that one package alone speaks each foreign language.
func TestWhoMayImportWhom(t *testing.T) {
	foundations, ours := whoMayImport()
	ofThePolicy := append([]string{"gatehouse/policy", "gatehouse/policy/explain"}, partsOf(ours, "gatehouse/policy")...)
	only := map[string][]string{ // prefix of a foreign import -> who may have it directly
		"github.com/open-policy-agent/opa/":                append([]string{"gatehouse/bundles", "gatehouse/bundles/signature", "gatehouse/upstream"}, ofThePolicy...),
		"github.com/open-policy-agent/opa/v1/ast":          ofThePolicy,
		"github.com/open-policy-agent/opa/v1/rego":         {"gatehouse/policy"},
		"github.com/open-policy-agent/opa/v1/storage":      {"gatehouse/policy"},
		"github.com/open-policy-agent/opa/v1/tester":       {"gatehouse/policy"},
		"github.com/open-policy-agent/opa/v1/topdown":      {"gatehouse/policy", "gatehouse/policy/bounds", "gatehouse/policy/explain"},
		"github.com/open-policy-agent/opa/v1/plugins/":     {"gatehouse/upstream"},
		"github.com/fsnotify/fsnotify":                     {"gatehouse/watch", "gatehouse/decisionlog/read"}, // the end of a file that grows
		"github.com/envoyproxy/go-control-plane/":          {"gatehouse/extauthz", "gatehouse/doctor/envoyconf", "gatehouse/hack/bench"},
		"github.com/go-ldap/":                              {"gatehouse/directory/convert"},
		"github.com/golang-jwt/":                           {"gatehouse/identity", "gatehouse/identity/keyset", "gatehouse/identity/mint", "gatehouse/identity/attack", "gatehouse/bundles/signature"},
		"github.com/MicahParks/jwkset":                     {"gatehouse/identity/keyset"},
		"github.com/spf13/cobra":                           {"gatehouse/cmd/gatehouse", "gatehouse/cmd/bundlecmd", "gatehouse/cmd/completing", "gatehouse/cmd/controlcmd", "gatehouse/cmd/grammar", "gatehouse/cmd/running"},
		"modernc.org/sqlite":                               {"gatehouse/control/store"},
		"github.com/parquet-go/":                           {"gatehouse/control/decisions"},
		"connectrpc.com/connect":                           {"gatehouse/control", "gatehouse/control/api", "gatehouse/control/cli", "gatehouse/control/follow"},
		"github.com/joho/godotenv":                         {"gatehouse/project"},
		"google.golang.org/grpc/health":                    {"gatehouse/server"},
		"gatehouse/decisionlog/record":                     {"gatehouse/decisionlog", "gatehouse/decisionlog/read"},
		"gatehouse/decisionlog/remote":                     {"gatehouse/decisionlog", "gatehouse/edge"},
		"gatehouse/decisionlog/spool":                      {"gatehouse/decisionlog", "gatehouse/decisionlog/read", "gatehouse/decisionlog/record"},
		"oras.land/":                                       {"gatehouse/images"},
		"go.opentelemetry.io/otel/sdk":                     {"gatehouse/server"},
		"github.com/prometheus/client_golang/prometheus/p": {"gatehouse/server", "gatehouse/k8s/inject"}, // promhttp
	}
	for _, p := range packages(t) {
		if strings.HasPrefix(p.ImportPath, "gatehouse/cmd/") || strings.HasPrefix(p.ImportPath, "gatehouse/hack/") || strings.HasPrefix(p.ImportPath, messages) {
			continue
		}
		allowed, known := ours[p.ImportPath]
		if known = known || slices.Contains(foundations, p.ImportPath); !slices.Contains(foundations, p.ImportPath) {
			allowed = slices.Concat(allowed, foundations)
		}
		if p.ImportPath == "gatehouse/gate" || slices.Contains(allowed, "gatehouse/gate") {
			allowed = append(allowed, "gatehouse/gate/body", "gatehouse/gate/facts", "gatehouse/gate/recorded", "gatehouse/directory") // parts of it, and one of the View
		}
		if p.ImportPath == "gatehouse/gate/recorded" {
			allowed = append(allowed, "gatehouse/gate/body")
		}
		if p.ImportPath == "gatehouse/decisionlog" || slices.Contains(allowed, "gatehouse/decisionlog") {
			allowed = append(allowed, ofTheLog()...)
		}
		if p.ImportPath == "gatehouse/routes" || slices.Contains(allowed, "gatehouse/routes") {
			allowed = append(allowed, "gatehouse/routes/pyregex") // a part of it
		}
		for _, whole := range withParts {
			if p.ImportPath == "gatehouse/"+whole || slices.Contains(allowed, "gatehouse/"+whole) {
				allowed = append(allowed, partsOf(ours, "gatehouse/"+whole)...)
			}
		}
		if !known && len(p.GoFiles) > 0 {
			t.Errorf("%s is not in this test's table: say what it may import", p.ImportPath)
		}
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, messages) && (p.ImportPath == "gatehouse/topaz" || slices.Contains(allowed, "gatehouse/topaz")) {
				continue
			}
			if strings.HasPrefix(dep, "gatehouse/") && !slices.Contains(allowed, dep) {
				t.Errorf("%s must not import %s", p.ImportPath, dep)
			}
		}
	}
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			for prefix, allowed := range only {
				if strings.HasPrefix(imported, prefix) && !slices.Contains(allowed, p.ImportPath) {
					t.Errorf("%s imports %s, which is for %v alone", p.ImportPath, imported, allowed)
				}
			}
		}
	}
}

// TestArchitecturePageShowsTheImports holds that docs/architecture.md has the packages of the table above, each with the same imports. The page
// names what a package imports itself; what that imports is in the other rows.
func TestArchitecturePageShowsTheImports(t *testing.T) {
	page, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`([a-z0-9/]+)`")
	direct := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9/]+)` \\|.*\\| ([^|]*) \\|$").FindAllStringSubmatch(string(page), -1) {
		direct[row[1]] = nil
		for _, imported := range name.FindAllStringSubmatch(row[2], -1) {
			direct[row[1]] = append(direct[row[1]], imported[1])
		}
	}
	var below func(p string, seen map[string]bool)
	below = func(p string, seen map[string]bool) {
		for _, imported := range direct[p] {
			if !seen[imported] {
				seen[imported] = true
				below(imported, seen)
			}
		}
	}
	foundations, ours := whoMayImport()
	for _, p := range foundations {
		ours[p] = slices.Clone(ours[p]) // also where it imports none
	}
	for p, allowed := range ours {
		p = strings.TrimPrefix(p, "gatehouse/")
		if _, ok := direct[p]; !ok {
			t.Errorf("docs/architecture.md has no row for %s", p)
			continue
		}
		shown := map[string]bool{}
		below(p, shown)
		delete(shown, "gate/body") // parts of gate
		delete(shown, "gate/facts")
		delete(shown, "gate/recorded")
		delete(shown, "routes/pyregex") // a part of routes
		if !slices.Contains(allowed, "gatehouse/directory") {
			delete(shown, "directory") // which comes with the gate
		}
		for _, part := range ofTheLog() {
			if !slices.Contains(allowed, part) {
				delete(shown, strings.TrimPrefix(part, "gatehouse/"))
			}
		}
		for _, whole := range withParts {
			if p == whole || shown[whole] {
				for _, part := range partsOf(ours, "gatehouse/"+whole) {
					delete(shown, strings.TrimPrefix(part, "gatehouse/"))
				}
			}
		}
		want := map[string]bool{}
		for _, imported := range allowed {
			want[strings.TrimPrefix(imported, "gatehouse/")] = true
		}
		if diff := cmp.Diff(want, shown); diff != "" {
			t.Errorf("docs/architecture.md, imports of %s: -table +page\n%s", p, diff)
		}
	}
	for p := range direct {
		if _, ok := ours["gatehouse/"+p]; !ok && !strings.HasPrefix(p, "cmd/") {
			t.Errorf("docs/architecture.md has a row for %s, which no table has", p)
		}
	}
}

// withParts are the packages whose parts come with them.
var withParts = []string{"bundles", "identity", "policy"}

// partsOf are the parts of a package: whoever may import it may import them too. What stands in a row of its own wherever it is used is none.
func partsOf(ours map[string][]string, whole string) []string {
	var parts []string
	for p := range ours {
		if strings.HasPrefix(p, whole+"/") && p != "gatehouse/identity/attack" && p != "gatehouse/policy/explain" {
			parts = append(parts, p)
		}
	}
	return parts
}

type goPackage struct {
	ImportPath             string
	GoFiles, Imports, Deps []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps=false", "-json=ImportPath,GoFiles,Imports,Deps", "gatehouse/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	if len(list) < 8 {
		t.Fatalf("go list found only %d packages", len(list))
	}
	return list
}
