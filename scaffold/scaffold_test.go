package scaffold

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse/envoy/generate"
)

// TestEnvoyTemplateIsTheExamples holds that a new application gets what the end-to-end tests run.
func TestEnvoyTemplateIsTheExamples(t *testing.T) {
	made, err := generate.Default("{{.Name}}").YAML()
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../examples/flask-orders/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ours := strings.NewReplacer("Envoy in front of {{.Name}}:", "Envoy in front of the orders API:", "name: {{.Name}}\n", "name: orders\n",
		"{idle_timeout: 1s}   # shorter than the keep-alive of gunicorn (2 s) and uvicorn (5 s)",
		"{idle_timeout: 5s}   # shorter than the app's keep-alive of 10 s").Replace(string(made))
	if diff := cmp.Diff(string(example), ours); diff != "" {
		t.Error(diff)
	}
}

func TestInitNames(t *testing.T) {
	for target, want := range map[string]string{
		"flask app:app": "app", "flask shop.web:create_app('x')": "shop", "django todo.settings": "todo", "fastapi 2fa:app": "app_2fa",
		"flask import:app": "app_import", "flask roles": "app_roles", "openapi https://api.example.com/v1/my-api.json?x=1": "my_api",
		"openapi /srv/pets.yaml": "pets", "openapi ...": "app", "flask système": "syst_me",
	} {
		kind, target, _ := strings.Cut(target, " ")
		if got := AppName(kind, target); got != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
}

// TestInitFileNames holds that every rule has a file that the policy's reader sees, on every file system.
func TestInitFileNames(t *testing.T) {
	taken := map[string]bool{}
	var got []string
	for _, path := range [][]string{
		{"r", "GET"}, {"r", "GET", "index"}, {"r", "GET", "orders"}, {"r", "GET", "Orders"}, {"r", "GET", "orders-2"}, {"r", "GET", "a.b", ".x"},
		{"r", "GET", "openapi.json"}, {"r", "GET", "speed_test"}, {"r", "GET", "..", "x"}, {"r", "GET", "ü/ä"}, {"r", "GET", strings.Repeat("x", 300)},
		append([]string{"r", "GET"}, strings.Split(strings.Repeat("d", 40), "")...),
	} {
		got = append(got, ruleFile(&rule{path: path}, taken))
	}
	want := []string{"policy/GET/index.rego", "policy/GET/index-2.rego", "policy/GET/orders.rego", "policy/GET/Orders-2.rego", "policy/GET/orders-2-2.rego",
		"policy/GET/a_b/_x.rego", "policy/GET/openapi.json.rego", "policy/GET/speed_test_.rego", "policy/GET/__/x.rego", "policy/GET/_.rego",
		"policy/GET/" + strings.Repeat("x", 60) + ".rego", "policy/GET/" + strings.Repeat("d/", 10) + strings.Repeat("d_", 29) + "d.rego"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(slices.Collect(maps.Keys(taken))) != len(got) {
		t.Error("two rules share a file")
	}
}
