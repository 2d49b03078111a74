//go:build full

package test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// module is the folder of a module in the cache.
func module(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// server is a kube-apiserver with etcd, and the kinds of Istio, Envoy Gateway and the Gateway API.
type server struct {
	client.Client
	*envtest.Environment
}

func startServer(t *testing.T) *server {
	t.Helper()
	log.SetLogger(logr.Discard())
	bin := os.Getenv("GATEHOUSE_K8S_BIN")
	if bin == "" {
		t.Fatal("GATEHOUSE_K8S_BIN names no folder with kube-apiserver and etcd: make test-k8s-full builds them")
	}
	gateway, istio := module(t, "github.com/envoyproxy/gateway"), module(t, "istio.io/istio")
	env := &envtest.Environment{BinaryAssetsDirectory: bin, ErrorIfCRDPathMissing: true, CRDDirectoryPaths: []string{
		filepath.Join(gateway, "charts/gateway-helm/charts/crds/crds"), filepath.Join(gateway, "charts/gateway-helm/charts/crds/crds/generated"),
		filepath.Join(istio, "manifests/charts/base/files"),
	}}
	env.ControlPlane.GetAPIServer().Configure().Set("advertise-address", "192.0.2.1").Set("endpoint-reconciler-type", "none") // there may be no default route
	cfg, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &server{c, env}
}

// apiServer is a client of one.
func apiServer(t *testing.T) client.Client { return startServer(t).Client }

// TestAPIServer: a kube-apiserver takes every object strictly, and keeps it as it is written: no field is unknown or dropped. The
// namespaces hold pods to the restricted Pod Security Standard.
func TestAPIServer(t *testing.T) {
	c := apiServer(t)
	ctx := context.Background()
	for _, name := range []string{"gatehouse", "shop", "edge", "envoy-gateway-system"} {
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}}
		if err := c.Create(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	// The application's Deployment, which is there before Gatehouse.
	orders := &unstructured.Unstructured{Object: objects(t, []byte(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  template:
    metadata: {labels: {app: orders}}
    spec: {containers: [{name: web, image: "orders:1.4", ports: [{containerPort: 8000}]}]}
`))[0]}
	seen := map[string]bool{}
	each(t, func(t *testing.T, _ []byte, generated []object) {
		before := orders.DeepCopy()
		if err := c.Create(ctx, before); err != nil {
			t.Fatal(err)
		}
		var made []*unstructured.Unstructured
		for _, o := range generated {
			if strings.HasPrefix(o["apiVersion"].(string), "monitoring.coreos.com/") {
				continue // the operator's kinds are not in these modules
			}
			u := &unstructured.Unstructured{Object: map[string]any(o)}
			sent := u.DeepCopy()
			err := c.Patch(ctx, u, client.Apply, client.FieldOwner("kubectl"), client.ForceOwnership, //nolint:staticcheck // of unstructured objects
				&client.PatchOptions{Raw: &metav1.PatchOptions{FieldValidation: metav1.FieldValidationStrict}})
			if err != nil {
				t.Errorf("%s: %v", o.name(), err)
				continue
			}
			made = append(made, u)
			seen[o.kind()] = true
			if lost := missing(sent.Object["spec"], u.Object["spec"], "spec"); len(lost) > 0 {
				t.Errorf("%s: the API server has not %v", o.name(), lost)
			}
			if o.kind() == "Deployment" && o.meta()["name"] == "orders" {
				containers, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
				if !slices.ContainsFunc(containers, func(c any) bool { return c.(map[string]any)["name"] == "web" }) {
					t.Error("the application's own container is gone")
				}
			}
		}
		for _, u := range made {
			if err := c.Delete(ctx, u); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		}
		if err := c.Delete(ctx, before); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	for _, kind := range []string{"ConfigMap", "ServiceAccount", "Deployment", "StatefulSet", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy",
		"AuthorizationPolicy", "EnvoyFilter", "ServiceEntry", "DestinationRule", "PeerAuthentication",
		"HTTPRoute", "SecurityPolicy", "Backend", "BackendTLSPolicy", "ReferenceGrant", "EnvoyProxy", "ClientTrafficPolicy"} {
		if !seen[kind] {
			t.Errorf("no %s was tried", kind)
		}
	}
}

// missing are the places in what was sent that are not in what is there. The server adds defaults, and writes quantities in its own way.
func missing(sent, there any, at string) (lost []string) {
	switch s := sent.(type) {
	case map[string]any:
		m, _ := there.(map[string]any)
		for key, value := range s {
			if _, ok := m[key]; !ok && !empty(value) {
				lost = append(lost, at+"."+key)
			} else if ok {
				lost = append(lost, missing(value, m[key], at+"."+key)...)
			}
		}
	case []any:
		l, _ := there.([]any)
		if len(l) < len(s) {
			return []string{at + "[]"}
		}
	}
	return lost
}

func empty(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	case bool:
		return !v
	case string:
		return v == ""
	}
	return v == nil
}
