package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"gatehouse/config"
	"gatehouse/images/exchange"
)

// docsProject is the project that docs/bundles.md speaks of.
var docsProject = map[string]string{
	"gatehouse.yaml": "policy: {bundles: [{name: app, path: ./policy}]}\n",
	"tests.yaml":     "tests:\n  - allow: {GET: /orders}\n  - deny: {DELETE: /orders}\n",
	"policy/.manifest": `{"roots": ["envoy", "limits"]}
`,
	"policy/envoy/authz.rego": `package envoy.authz

default allow := false

allow if input.attributes.request.http.method in data.limits.methods
`,
	"policy/envoy/authz_test.rego": `package envoy.authz_test

test_get if data.envoy.authz.allow with input.attributes.request.http.method as "GET"
`,
	"policy/limits/data.json": `{"methods": ["GET", "HEAD"]}`,
	"registry-password":       "s3cret\n",
}

// TestBundleDocs runs the commands of docs/bundles.md in their order, then what the CI recipes run, all of it against a
// registry, and reads its configuration. Lines with openssl are left out: the keys are there.
func TestBundleDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/bundles.md")
	if err != nil {
		t.Fatal(err)
	}
	r, err := exchange.StartRegistry(t.Context(), exchange.Options{User: "ci", Password: "s3cret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	dir := docsFolder(t)
	sh := func(t *testing.T, script string, env ...string) {
		t.Helper()
		script = strings.NewReplacer("registry.example.com", r.Address, "ghcr.io", r.Address).Replace(script)
		c := exec.CommandContext(t.Context(), "sh", "-euc", script)
		c.Dir = dir
		c.Env = append(os.Environ(), "HOME="+dir, "DOCKER_CONFIG="+dir+"/docker", "GATEHOUSE_IMAGES="+dir+"/images", "TMPDIR="+dir)
		c.Env = append(c.Env, env...)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s\n%v\n%s", script, err, out)
		}
	}
	// What is there before: a version in production, and the one before it.
	sh(t, `gatehouse bundle login registry.example.com -u ci --password-file registry-password
for tag in prod 1.3; do gatehouse bundle build ./policy -t registry.example.com/policies/app:$tag
gatehouse bundle push registry.example.com/policies/app:$tag; done`)

	commands, recipes := 0, 0
	for _, block := range regexp.MustCompile("(?ms)^```(sh|yaml)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		if block[1] == "sh" {
			script := regexp.MustCompile(`(?m)^openssl .*$`).ReplaceAllString(block[2], "")
			commands += strings.Count(script, "gatehouse ")
			sh(t, script)
			continue
		}
		if strings.Contains(block[2], "\npolicy:\n") {
			if doc, err := config.DecodeYAML("docs/bundles.md", []byte(block[2]), config.Default()); err != nil || len(doc.Errs) > 0 {
				t.Errorf("%v, %v in\n%s", err, doc.Errs, block[2])
			}
			continue
		}
		for _, script := range recipeScripts(t, block[2]) {
			recipes++
			sh(t, strings.ReplaceAll(script, "/tmp/", dir+"/"), "GITHUB_ACTOR=ci", "TOKEN=s3cret", "GITHUB_SHA=4b825dc6", "IMAGE="+r.Address+"/acme/app", "SIGNING_KEY="+recipeKey(t, dir, script),
				"CI_REGISTRY="+r.Address, "CI_REGISTRY_USER=ci", "CI_REGISTRY_PASSWORD=s3cret", "CI_COMMIT_SHA=5c936ed7")
		}
	}
	if commands < 20 || recipes < 8 {
		t.Errorf("only %d commands and %d scripts of recipes were found", commands, recipes)
	}
}

// docsFolder is the project on disk, with keys.
func docsFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	files := maps.Clone(docsProject)
	keys := signingKeys(t)
	files["signing.pem"], files["verify.pem"] = keys["ed25519.pem"], keys["ed25519.pub"]
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// recipeKey is the signing key as the recipe wants it: GitHub's secret is the key, GitLab's variable is a file.
func recipeKey(t *testing.T, dir, script string) string {
	t.Helper()
	file := filepath.Join(dir, "signing.pem")
	if !strings.Contains(script, "printf") {
		return file
	}
	key, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(key), "\n")
}

// recipeScripts are the scripts of a CI recipe. What compares with the last release comes last, because it needs one.
func recipeScripts(t *testing.T, text string) (scripts []string) {
	t.Helper()
	type step struct{ Run string }
	type job struct {
		Steps        []step
		Script       []string
		BeforeScript []string `yaml:"before_script"`
	}
	var document map[string]yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var jobs []job
	read := func(n yaml.Node, into any) {
		if err := n.Decode(into); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
	}
	if n, ok := document["jobs"]; ok {
		named := map[string]job{}
		read(n, &named)
		jobs = slices.Collect(maps.Values(named))
	}
	for _, name := range []string{"default", "test", "release", "diff"} {
		if n, ok := document[name]; ok {
			var j job
			read(n, &j)
			jobs = append(jobs, j)
		}
	}
	var last []string
	for _, j := range jobs {
		for _, s := range j.Steps {
			j.Script = append(j.Script, s.Run)
		}
		for _, script := range append(j.BeforeScript, j.Script...) {
			switch {
			case script == "":
			case strings.Contains(script, "bundle diff"):
				last = append(last, script)
			default:
				scripts = append(scripts, script)
			}
		}
	}
	return append(scripts, last...)
}
