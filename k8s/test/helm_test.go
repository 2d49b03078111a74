package test

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"sigs.k8s.io/yaml"
)

// variants are values beside those that follow from the example, by what they are about.
var variants = map[string]string{
	"":           "{}",
	"stateful":   "{state: {kind: pvc, storageClass: fast}, autoscaling: {enabled: false}, replicas: 3, serviceMonitor: {enabled: true, labels: {team: edge}}}",
	"everything": "{serviceMonitor: {enabled: true}, tls: {clientCA: true}, env: [{name: A, value: \"1\"}], podLabels: {a: b}, podAnnotations: {c: d}, priorityClassName: high, nodeSelector: {disk: ssd}, tolerations: [{operator: Exists}], image: {digest: \"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\", pullSecrets: [{name: r}]}, app: {gatehouseApp: \"\", image: \"orders:1.4\"}, networkPolicy: {egress: [{ports: [{port: 443}]}]}, gateway: {hostnames: [shop.example.com], namespace: edge}}",
	"plain text": "{tls: {secretName: \"\"}, networkPolicy: {enabled: false}}",
}

// each runs a test for each mode, each of those who ask and each variant, with the values and what gatehouse k8s generate makes of them.
func each(t *testing.T, f func(t *testing.T, values []byte, generated []object)) {
	dir := example(t)
	for _, mode := range []string{"service", "sidecar"} {
		for _, whose := range []string{"envoy", "istio", "envoy-gateway"} {
			for name, more := range variants {
				t.Run(strings.TrimSpace(mode+" "+whose+" "+name), func(t *testing.T) {
					file := filepath.Join(t.TempDir(), "more.yaml")
					write(t, file, more)
					args := []string{"k8s", "generate", "--mode", mode, "--for", whose, "--app", "orders", "-n", "gatehouse", "--app-namespace", "shop", "-f", file}
					f(t, command(t, dir, append(args, "-o", "values")...), objects(t, command(t, dir, args...)))
				})
			}
		}
	}
}

func render(t *testing.T, values []byte) []object {
	t.Helper()
	return renderIn(t, "gatehouse", "gatehouse", values)
}

func renderIn(t *testing.T, name, namespace string, values []byte) []object {
	t.Helper()
	c, err := loader.Load("../chart")
	if err != nil {
		t.Fatal(err)
	}
	in := action.NewInstall(&action.Configuration{})
	in.DryRun, in.ClientOnly, in.ReleaseName, in.Namespace = true, true, name, namespace
	if in.KubeVersion, err = chartutil.ParseKubeVersion("v1.36.3"); err != nil {
		t.Fatal(err)
	}
	v := map[string]any{}
	if err := yaml.Unmarshal(values, &v); err != nil {
		t.Fatal(err)
	}
	r, err := in.Run(c, v)
	if err != nil {
		t.Fatal(err)
	}
	return objects(t, []byte(r.Manifest))
}

// TestHelmMakesTheSame: the chart by Helm is what is generated, object by object.
func TestHelmMakesTheSame(t *testing.T) {
	each(t, func(t *testing.T, values []byte, generated []object) { same(t, generated, render(t, values)) })
}

func same(t *testing.T, generated, helm []object) {
	t.Helper()
	index := func(all []object) map[string]any {
		out := map[string]any{}
		for _, o := range all {
			if _, twice := out[o.name()]; twice {
				t.Errorf("%s is there twice", o.name())
			}
			o := copied(t, o)
			data, _ := o["data"].(map[string]any)
			for key, value := range data { // YAML within YAML: two writers quote differently
				var v any
				if text, ok := value.(string); ok && key == "gatehouse.yaml" {
					if err := yaml.Unmarshal([]byte(text), &v); err != nil {
						t.Fatal(err)
					}
					data[key] = v
				}
			}
			out[object(o).name()] = o
		}
		return out
	}
	if diff := cmp.Diff(index(generated), index(helm)); diff != "" {
		t.Errorf("-generated +Helm\n%s", diff)
	}
}

// TestHelmLint: no warning, but that the chart has no icon.
func TestHelmLint(t *testing.T) {
	v := map[string]any{"policy": map[string]any{"image": "ghcr.io/acme/policy:v1"}}
	for _, m := range lint.AllWithKubeVersion("../chart", v, "gatehouse", nil).Messages {
		if m.Severity >= support.WarningSev {
			t.Error(m)
		}
	}
}

// TestHelmRefuses: what the schema refuses for gatehouse k8s generate, it refuses for Helm.
func TestHelmRefuses(t *testing.T) {
	c, err := loader.Load("../chart")
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]any{"policy": map[string]any{"image": "ghcr.io/acme/policy:v1"}}
	for want, bad := range map[string]map[string]any{
		"mode":       {"mode": "daemonset"},
		"replica":    {"replica": 3},
		"replicas":   {"replicas": "two"},
		"no policy:": {"policy": map[string]any{"image": ""}},
	} {
		in := action.NewInstall(&action.Configuration{})
		in.DryRun, in.ClientOnly, in.ReleaseName, in.Namespace = true, true, "gatehouse", "gatehouse"
		in.KubeVersion, _ = chartutil.ParseKubeVersion("v1.36.3")
		v := maps.Clone(good)
		maps.Copy(v, bad)
		if _, err := in.Run(c, v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", bad, err, want)
		}
	}
}

// TestPods holds what every container that we make has, and that nobody gets a token of the API server's.
func TestPods(t *testing.T) {
	each(t, func(t *testing.T, _ []byte, generated []object) {
		for _, o := range generated {
			find(map[string]any(o), "initContainers", func(v any) { secure(t, o, v.([]any)) })
			if o.kind() == "Deployment" && o.meta()["name"] == "gatehouse" || o.kind() == "StatefulSet" {
				find(map[string]any(o), "containers", func(v any) { secure(t, o, v.([]any)) })
				find(map[string]any(o), "automountServiceAccountToken", func(v any) {
					if v != false {
						t.Error("a token is mounted")
					}
				})
			}
		}
	})
}

func secure(t *testing.T, o object, containers []any) {
	t.Helper()
	for _, c := range containers {
		c := c.(map[string]any)
		s, _ := c["securityContext"].(map[string]any)
		want := map[string]any{"allowPrivilegeEscalation": false, "capabilities": map[string]any{"drop": []any{"ALL"}}, "privileged": false, "readOnlyRootFilesystem": true,
			"runAsGroup": float64(65532), "runAsNonRoot": true, "runAsUser": float64(65532), "seccompProfile": map[string]any{"type": "RuntimeDefault"}}
		if diff := cmp.Diff(want, s); diff != "" {
			t.Errorf("%s, %v: %s", o.name(), c["name"], diff)
		}
		r, _ := c["resources"].(map[string]any)
		for _, key := range []string{"requests.cpu", "requests.memory", "limits.memory"} {
			kind, what, _ := strings.Cut(key, ".")
			if of, _ := r[kind].(map[string]any); of[what] == nil {
				t.Errorf("%s, %v: no %s", o.name(), c["name"], key)
			}
		}
		keys := slices.Collect(maps.Keys(c))
		for _, probe := range []string{"startupProbe", "readinessProbe"} {
			if !slices.Contains(keys, probe) {
				t.Errorf("%s, %v: no %s", o.name(), c["name"], probe)
			}
		}
		if image := fmt.Sprint(c["image"]); strings.HasSuffix(image, ":") || strings.HasSuffix(image, ":latest") {
			t.Errorf("%s: image %s", o.name(), image)
		}
	}
}
