//go:build full

package test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/cli"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// everything is what a cluster has, by kind, namespace and name, without what it keeps for itself and Helm's own records.
func everything(t *testing.T, s *server) map[string]bool {
	t.Helper()
	d, err := discovery.NewDiscoveryClientForConfig(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	lists, err := d.ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, list := range lists {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.APIResources {
			if !r.Namespaced || !slices.Contains(r.Verbs, "list") || r.Kind == "Event" || r.Kind == "Lease" {
				continue
			}
			all := &unstructured.UnstructuredList{}
			all.SetGroupVersionKind(group.WithKind(r.Kind + "List"))
			if err := s.List(context.Background(), all, &client.ListOptions{}); err != nil {
				t.Fatalf("%s: %v", r.Kind, err)
			}
			for _, o := range all.Items {
				if !strings.HasPrefix(o.GetName(), "sh.helm.release.") {
					found[fmt.Sprintf("%s %s/%s", r.Kind, o.GetNamespace(), o.GetName())] = true
				}
			}
		}
	}
	return found
}

// documented is what docs/kubernetes.md says that an installation of one kind makes, in the namespaces of its example.
func documented(t *testing.T, mode, whose string) (list []string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs/kubernetes.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "## What is made\n")
	if !ok {
		t.Fatal("docs/kubernetes.md does not say what is made")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+) ([\\w-]+/[\\w-]+)` \\| (.*?) \\| (.*?) \\|").FindAllStringSubmatch(table, -1) {
		if cell := map[string]string{"service": row[3], "sidecar": row[4]}[mode]; cell == "all" || slices.Contains(strings.Split(cell, ", "), whose) {
			list = append(list, row[1]+" "+row[2])
		}
	}
	slices.Sort(list)
	return list
}

// TestHelmInstall: the chart, installed by Helm into a real API server, makes exactly what the page says; the doctor, which reads the cluster, finds nothing, and
// a hole that is made there; an upgrade with the same values changes nothing, and uninstalling leaves nothing.
func TestHelmInstall(t *testing.T) {
	s := startServer(t)
	config := kubeconfig(t, s)
	namespaces(t, s.Client, "shop", "envoy-gateway-system", "istio-system")
	before := everything(t, s)
	dir := example(t)
	chart, err := loader.Load("../chart")
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"service", "sidecar"} {
		for _, whose := range []string{"envoy", "istio", "envoy-gateway"} {
			t.Run(mode+" "+whose, func(t *testing.T) {
				args := []string{"k8s", "generate", "--mode", mode, "--for", whose, "--app", "orders", "--namespace", "gatehouse", "--app-namespace", "shop"}
				if mode == "sidecar" && whose != "envoy-gateway" {
					args = append(args, "--app-image", "orders:1.4")
				}
				values := map[string]any{}
				if err := yaml.Unmarshal(command(t, dir, append(args, "-o", "values")...), &values); err != nil {
					t.Fatal(err)
				}
				settings := cli.New()
				settings.KubeConfig = config
				settings.SetNamespace("gatehouse")
				var helm action.Configuration
				if err := helm.Init(settings.RESTClientGetter(), "gatehouse", "secret", func(string, ...any) {}); err != nil {
					t.Fatal(err)
				}
				in := action.NewInstall(&helm)
				in.ReleaseName, in.Namespace, in.CreateNamespace = "gatehouse", "gatehouse", true
				if _, err := in.Run(chart, values); err != nil {
					t.Fatal(err)
				}
				made := everything(t, s)
				maps.DeleteFunc(made, func(name string, _ bool) bool { return before[name] })
				if got, want := slices.Sorted(maps.Keys(made)), documented(t, mode, whose); !slices.Equal(got, want) {
					t.Errorf("made:\n%s\ndocumented:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				lookAt(t, s, config, dir, whose, args)
				up := action.NewUpgrade(&helm)
				up.Namespace = "gatehouse"
				if _, err := up.Run("gatehouse", chart, values); err != nil {
					t.Error(err)
				}
				if _, err := action.NewUninstall(&helm).Run("gatehouse"); err != nil {
					t.Error(err)
				}
				left := everything(t, s)
				maps.DeleteFunc(left, func(name string, _ bool) bool { return before[name] })
				if len(left) > 0 {
					t.Errorf("left after uninstalling: %v", left)
				}
			})
		}
	}
}

// lookAt has the doctor read the cluster, healthy and with a hole.
func lookAt(t *testing.T, s *server, config, dir, whose string, args []string) {
	t.Helper()
	if whose == "envoy" {
		return // what it has of Envoy is in ConfigMaps, which the doctor does not read in a cluster
	}
	ctx := context.Background()
	if whose == "istio" {
		// Istio's own chart would make this of the values.
		mesh := object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "istio", "namespace": "istio-system"},
			"data": map[string]any{"mesh": meshAlone(string(command(t, dir, append(args, "-o", "mesh")...)))}}
		applyAll(t, s.Client, []object{mesh})
		defer func() {
			_ = s.Delete(ctx, &unstructured.Unstructured{Object: map[string]any(mesh)})
		}()
	}
	if found := examine(t, dir, "--config", "gatehouse.yaml", "--kubeconfig", config); len(found) > 0 {
		t.Errorf("in the cluster the doctor finds %v", found)
	}
	o := &unstructured.Unstructured{}
	want := "custom-policy-limited"
	change := `{"spec": {"rules": [{"to": [{"operation": {"paths": ["/admin"]}}]}]}}`
	o.SetGroupVersionKind(schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "AuthorizationPolicy"})
	if whose == "envoy-gateway" {
		want, change = "fail-open", `{"spec": {"extAuth": {"failOpen": true}}}`
		o.SetGroupVersionKind(schema.GroupVersionKind{Group: "gateway.envoyproxy.io", Version: "v1alpha1", Kind: "SecurityPolicy"})
	}
	o.SetNamespace("shop")
	o.SetName("gatehouse")
	if err := s.Patch(ctx, o, client.RawPatch("application/merge-patch+json", []byte(change))); err != nil {
		t.Fatal(err)
	}
	if found := examine(t, dir, "--config", "gatehouse.yaml", "--kubeconfig", config); !slices.Equal(found, []string{want}) {
		t.Errorf("in the cluster with a hole the doctor finds %v, want %s", found, want)
	}
}
