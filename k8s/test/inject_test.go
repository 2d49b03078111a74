package test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestHelmInjector: the chart renders the same injector for Helm, with what all containers of ours have.
func TestHelmInjector(t *testing.T) {
	dir := example(t)
	for name, more := range map[string]string{
		"":           "{}",
		"everything": "{injector: {namespaces: [shop, billing], exclude: [istio-system], annotations: [cpu, memory], sidecar: native, replicas: 3, priorityClassName: system-cluster-critical}, serviceMonitor: {enabled: true, labels: {a: b}}, image: {pullSecrets: [{name: r}]}, env: [{name: A, value: \"1\"}], nodeSelector: {disk: ssd}, tolerations: [{operator: Exists}], networkPolicy: {enabled: false}}",
	} {
		for _, whose := range []string{"envoy", "istio"} {
			t.Run(strings.TrimSpace(whose+" "+name), func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "more.yaml")
				write(t, file, more)
				args := []string{"k8s", "generate", "--injector", "--for", whose, "--app", "orders", "-n", "gatehouse", "--app-namespace", "shop", "-f", file}
				generated := objects(t, command(t, dir, args...))
				helm := render(t, command(t, dir, append(args, "-o", "values")...))
				if diff := cmp.Diff(byPlace(t, generated), byPlace(t, helm)); diff != "" {
					t.Errorf("-generated +Helm\n%s", diff)
				}
				for _, o := range generated {
					if o.kind() == "Deployment" {
						find(map[string]any(o), "containers", func(v any) { secure(t, o, v.([]any)) })
					}
				}
			})
		}
	}
}

// byPlace are objects by kind, namespace and name, with the YAML in ConfigMaps read: two writers quote and indent differently.
func byPlace(t *testing.T, all []object) map[string]any {
	t.Helper()
	out := map[string]any{}
	for _, o := range all {
		namespace, _ := o.meta()["namespace"].(string)
		key := namespace + "/" + o.name()
		if _, twice := out[key]; twice {
			t.Errorf("%s is there twice", key)
		}
		data, _ := o["data"].(map[string]any)
		for name, value := range data {
			if text, ok := value.(string); ok && (name == "gatehouse.yaml" || name == "injector.yaml") {
				var v any
				if err := yaml.Unmarshal([]byte(text), &v); err != nil {
					t.Fatal(err)
				}
				data[name] = v
			}
		}
		out[key] = map[string]any(o)
	}
	return out
}
