package test

import (
	"fmt"
	"path/filepath"
	"slices"
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

// TestInjectedSidecar starts what the injector's template says, with the files that its ConfigMaps hold, and with a policy from elsewhere.
func TestInjectedSidecar(t *testing.T) {
	dir := example(t)
	all := objects(t, command(t, dir, "k8s", "generate", "--injector", "--for", "istio", "--app", "orders", "-n", "gatehouse", "--app-namespace", "shop"))
	var settings struct {
		Pod struct{ Containers []struct{ Args []string } }
	}
	for _, o := range only(all, "ConfigMap") {
		if data := o["data"].(map[string]any); data["injector.yaml"] != nil {
			if err := yaml.Unmarshal([]byte(data["injector.yaml"].(string)), &settings); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("GATEHOUSE_DRAIN_DELAY", "0s") // the injector's part
	for name, elsewhere := range map[string]bool{"as configured": false, "a ConfigMap with the policy": true} {
		t.Run(name, func(t *testing.T) {
			admin, folder, rules := free(t), t.TempDir(), t.TempDir()
			files := map[string]string{}
			for _, o := range only(all, "ConfigMap") {
				for key, value := range o["data"].(map[string]any) {
					if o.meta()["name"] == "gatehouse-policy" {
						key = "policy/" + key
					}
					files[strings.ReplaceAll(key, "__", "/")] = value.(string)
				}
			}
			pod(t, folder, local(t, files, map[string]any{"admin": fmt.Sprint("127.0.0.1:", admin), "grpc": []string{"unix:" + filepath.Join(t.TempDir(), "g.sock")}}))
			args := slices.Clone(settings.Pod.Containers[0].Args)
			for k, arg := range args {
				args[k] = strings.Replace(arg, "/etc/gatehouse", folder, 1)
			}
			if elsewhere {
				pod(t, rules, map[string]string{"orders.rego": "package envoy.authz\n\ndefault allow := false\n"})
				args = append(args, "--policy", rules)
			}
			process(t, folder, gatehouse, args...)
			until(t, fmt.Sprintf("http://127.0.0.1:%d/readyz", admin), nil, 200)
			if status := until(t, fmt.Sprintf("http://127.0.0.1:%d/status", admin), nil, 200); elsewhere != strings.Contains(status.body, rules) {
				t.Error(status.body)
			}
		})
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
