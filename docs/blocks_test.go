package docs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"gatehouse/config"
	"gatehouse/directory/format"
	"gatehouse/doctor"
	"gatehouse/gate/gatetest"
	"gatehouse/policy"
	"gatehouse/replay"
	"gatehouse/routes"
	"gatehouse/trial"
)

// elsewhere are the pages whose commands a test of another package runs, with the name of that test.
var elsewhere = map[string]string{
	"docs/bundles.md":             "TestBundleDocs in cmd/gatehouse",
	"docs/clients.md":             "TestWritingPage in cmd/gatehouse",
	"docs/control.md":             "TestControlPage in cmd/gatehouse",
	"docs/control-policies.md":    "TestControlPoliciesPage in cmd/gatehouse",
	"docs/envoy-gateway.md":       "TestPages in k8s/test",
	"docs/istio.md":               "TestPages in k8s/test",
	"docs/kubernetes.md":          "TestPages in k8s/test",
	"docs/kubernetes-injector.md": "TestPages in k8s/test",
}

// unrun are the blocks that nothing runs or reads, by page and the first words of the block, with the reason.
var unrun = map[string]map[string]string{
	"docs/bundles.md": {
		"name: policy\n": "TestBundleDocs in cmd/gatehouse runs the scripts of GitHub's recipe",
		"default:\n":     "TestBundleDocs in cmd/gatehouse runs the scripts of GitLab's recipe",
	},
	"docs/authzen.md": {
		"$ curl": "TestAuthZEN in cmd/gatehouse asks the same, without curl",
	},
	"docs/envoy-module.md": {
		"http_filters:\n": "make test-module-suite runs the example that has the same filter",
	},
	"docs/routes.md": {
		"$ gatehouse init": "it goes on for ever: TestFirstApp in envoy runs these commands",
	},
}

// shown are languages of blocks that are neither commands nor configuration.
var shown = []string{"", "html", "javascript", "ini", "text", "mermaid"}

// TestBlocks holds that whatever a page shows is run or read: commands by TestStories or a test of elsewhere, configurations by what reads them,
// Rego by the compiler. What is not has a reason in unrun.
func TestBlocks(t *testing.T) {
	known := map[string]bool{}
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if reason := p.unrun(b); reason != "" {
				known[p.name+reason] = true
				continue
			}
			switch {
			case b.language == "sh" || b.language == "console" || b.language == "python":
				if _, run := stories[p.name]; !run && elsewhere[p.name] == "" {
					t.Errorf("%s: no test runs this: give the page a story, or the block a reason in unrun\n%s", p.where(b), b.text)
				}
			case b.language == "yaml":
				p.readYAML(t, b)
			case b.language == "rego":
				p.compile(t, b)
			case b.language == "json":
				if decoder := json.NewDecoder(strings.NewReader(b.text)); decoder.Decode(new(any)) != nil {
					t.Errorf("%s: this is no JSON", p.where(b))
				}
			case !slices.Contains(shown, b.language):
				t.Errorf("%s: nothing is known about blocks of %q", p.where(b), b.language)
			}
		}
	}
	for name, blocks := range unrun {
		for _, reason := range blocks {
			if !known[name+reason] {
				t.Errorf("%s has no block that is not run because %s", name, reason)
			}
		}
	}
	for name := range elsewhere {
		if _, err := os.Stat(filepath.Join("..", name)); err != nil {
			t.Error(err)
		}
	}
}

// unrun is why nothing runs this block, if it is one of those.
func (p *page) unrun(b block) string {
	for begin, reason := range unrun[p.name] {
		if strings.HasPrefix(b.text, begin) {
			return reason
		}
	}
	return ""
}

// compile compiles Rego. What has no package gets one.
func (p *page) compile(t *testing.T, b block) {
	t.Run(p.where(b), func(t *testing.T) {
		text := b.text
		if !regexp.MustCompile(`(?m)^package `).MatchString(text) {
			text = "package page\n\n" + text
		}
		gatetest.Compile(t, policy.Config{Directory: true}, "page", map[string]string{"page.rego": text})
	})
}

// readYAML has YAML read by what reads it: by the name of its file, else by its keys.
func (p *page) readYAML(t *testing.T, b block) {
	t.Run(p.where(b), func(t *testing.T) {
		var node yaml.Node
		if err := yaml.Unmarshal([]byte(b.text), &node); err != nil {
			t.Fatal(err)
		}
		keys := topKeys(&node)
		is := func(names ...string) bool {
			return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(keys, n) })
		}
		name := filepath.Base(b.title)
		switch {
		case name == "opa-config.yaml": // the page has gatehouse migrate read it
		case name == "routes.yaml" || is("framework"):
			_, _, err := routes.Parse("routes.yaml", []byte(b.text))
			fail(t, err)
		case is("tests") && !is("policy"):
			_, err := trial.Read("tests.yaml", []byte(b.text))
			fail(t, err)
		case is("expect"):
			_, err := replay.ParseExpected("expect.yaml", []byte(b.text))
			fail(t, err)
		case is("model") || is("types"):
			_, err := format.ReadManifest(file(t, "manifest.yaml", b.text))
			fail(t, err)
		case is("objects", "relations"):
			// By the default manifest, or by the one that the page shows.
			_, err := format.Load(t.Context(), file(t, "directory.yaml", b.text), format.Options{})
			if own := p.manifest(t); err != nil && own != "" {
				_, err = format.Load(t.Context(), file(t, "directory.yaml", b.text), format.Options{Manifest: own})
			}
			fail(t, err)
		case strings.HasPrefix(name, "envoy") || is("static_resources", "virtual_hosts", "access_log", "typed_config", "typed_per_filter_config", "http_filters", "filter_chains"):
			examineEnvoy(t, b)
		case is("groups") || is("apiVersion"): // Prometheus and Kubernetes, whose own tests read them
		default:
			for _, text := range strings.Split(b.text, "\n---\n") {
				doc, err := config.DecodeYAML("gatehouse.yaml", []byte(regexp.MustCompile(`\$\{[A-Z_]+\}`).ReplaceAllString(text, "value")), config.Default())
				fail(t, err)
				for _, err := range doc.Errs {
					t.Error(err)
				}
			}
		}
	})
}

// examineEnvoy has the doctor read a configuration of Envoy, or a piece of one. It may find something, unless it is a whole file.
func examineEnvoy(t *testing.T, b block) {
	inputs, err := doctor.Read(t.Context(), []string{file(t, "envoy.yaml", b.text)}, doctor.Cluster{})
	fail(t, err)
	cfg, _, err := config.Source{}.Read()
	fail(t, err)
	report, err := doctor.Examine(inputs, doctor.Gatehouse(cfg))
	fail(t, err)
	for _, f := range report.Findings {
		if b.title == "envoy.yaml" {
			t.Errorf("%s: %s", f.ID, f.Message)
		}
	}
}

// manifest is the file of the manifest that the page shows, if it shows one.
func (p *page) manifest(t *testing.T) string {
	for _, b := range p.blocks {
		if b.language == "yaml" && regexp.MustCompile(`(?m)^types:`).MatchString(b.text) {
			return file(t, "manifest.yaml", b.text)
		}
	}
	return ""
}

func topKeys(node *yaml.Node) (keys []string) {
	for len(node.Content) > 0 && (node.Kind == yaml.DocumentNode || node.Kind == yaml.SequenceNode) {
		node = node.Content[0]
	}
	if node.Kind == yaml.MappingNode {
		for i := 0; i < len(node.Content); i += 2 {
			keys = append(keys, node.Content[i].Value)
		}
	}
	return keys
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	fail(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

func fail(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wide are pages with longer lines of tables.
var wide = map[string]string{
	"docs/config.md":       "it is generated",
	"docs/builtins.md":     "it is generated",
	"docs/cli.md":          "it is generated",
	"docs/architecture.md": "a test compares the rows with the imports",

	// To be narrowed.
	"docs/control.md": "",
}

// TestTables holds that a line of a table is at most 140 characters long: longer ones cannot be read in a terminal or in a diff.
func TestTables(t *testing.T) {
	for _, p := range pages(t) {
		if _, ok := wide[p.name]; ok {
			continue
		}
		for i, line := range p.prose() {
			generated := strings.HasPrefix(line, "| `` ") // a path and what becomes of it: TestPaths in envoy writes them
			if strings.HasPrefix(line, "|") && !generated && len([]rune(line)) > 140 {
				t.Errorf("%s:%d: a line of a table with %d characters", p.name, i+1, len([]rune(line)))
			}
		}
	}
}
