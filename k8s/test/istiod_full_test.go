//go:build full

package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// istiod is Istio's control plane as a process of its own, which reads a real API server. It gives the port of its xDS.
func istiod(t *testing.T, kubeconfig, meshConfig string) int {
	t.Helper()
	dir := t.TempDir()
	grpc, http, monitoring := free(t), free(t), free(t)
	meshFile, networks := filepath.Join(dir, "mesh.yaml"), filepath.Join(dir, "networks.yaml")
	write(t, meshFile, "enableAutoMtls: false\ningressControllerMode: \"OFF\"\n"+meshConfig)
	write(t, networks, "networks: {}\n")
	for name, value := range map[string]string{"POD_NAME": "istiod", "POD_NAMESPACE": "istio-system", "CLUSTER_ID": "Kubernetes",
		"PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false", "PILOT_ENABLE_TELEMETRY_LABEL": "false"} {
		t.Setenv(name, value)
	}
	process(t, dir, binary(t, "pilot-discovery"), "discovery", "--registries=Kubernetes", "--kubeconfig="+kubeconfig, "--meshConfig="+meshFile, "--networksConfig="+networks,
		fmt.Sprintf("--grpcAddr=127.0.0.1:%d", grpc), fmt.Sprintf("--httpAddr=127.0.0.1:%d", http), "--secureGRPCAddr=", "--httpsAddr=",
		fmt.Sprintf("--monitoringAddr=127.0.0.1:%d", monitoring), "--ctrlz_port=0")
	until(t, fmt.Sprintf("http://127.0.0.1:%d/ready", http), nil, 200)
	return grpc
}

// applyAll creates objects in an API server, or changes those that are there.
func applyAll(t *testing.T, c client.Client, all []object) {
	t.Helper()
	for _, o := range all {
		err := c.Patch(context.Background(), &unstructured.Unstructured{Object: map[string]any(o)}, client.Apply, client.FieldOwner("test"), client.ForceOwnership, //nolint:staticcheck // of unstructured objects
			&client.PatchOptions{Raw: &metav1.PatchOptions{FieldValidation: metav1.FieldValidationStrict}})
		if err != nil {
			t.Fatalf("%s: %v", o.name(), err)
		}
	}
}

func namespaces(t *testing.T, c client.Client, names ...string) {
	t.Helper()
	for _, name := range names {
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := c.Create(context.Background(), n); err != nil {
			t.Fatal(err)
		}
	}
}

// kubeconfig is a file for programs that read the API server.
func kubeconfig(t *testing.T, s *server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, s.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestIstiod: a real istiod that reads a real API server makes a real Envoy ask Gatehouse, by the objects and the mesh's values that are generated.
func TestIstiod(t *testing.T) {
	s := startServer(t)
	config := kubeconfig(t, s)
	namespaces(t, s.Client, "gatehouse", "shop", "istio-system")
	for _, mode := range []string{"service", "sidecar"} {
		t.Run(mode, func(t *testing.T) { testIstiod(t, s.Client, config, mode) })
	}
}

func testIstiod(t *testing.T, c client.Client, config, mode string) {
	dir := example(t)
	door, appPort, admin, grpc, socket := free(t), free(t), free(t), free(t), filepath.Join(t.TempDir(), "g.sock")
	args := []string{"k8s", "generate", "--for", "istio", "--mode", mode, "--app", "orders", "--namespace", "gatehouse", "--app-namespace", "shop"}
	meshConfig := meshAlone(string(command(t, dir, append(args, "-o", "mesh")...)))
	all := objects(t, []byte(strings.ReplaceAll(string(command(t, dir, args...)), "/run/gatehouse/gatehouse.sock", socket)))
	change := map[string]any{"admin": fmt.Sprint("127.0.0.1:", admin)}
	hosts, ip := "gatehouse/gatehouse.sidecar.internal", ""
	if mode == "service" {
		if ip = ofThisMachine(t); ip == "" {
			t.Skip("this machine has no address but loopback's, which an API server refuses as an endpoint")
		}
		change["grpc"], hosts = []string{fmt.Sprintf("%s:%d", ip, grpc)}, "gatehouse/gatehouse.gatehouse.svc.cluster.local"
	}
	folder := t.TempDir()
	pod(t, folder, local(t, mounted(t, all), change))
	process(t, folder, gatehouse, "serve", "--config", filepath.Join(folder, "gatehouse.yaml"))
	until(t, fmt.Sprintf("http://127.0.0.1:%d/readyz", admin), nil, 200)
	process(t, dir, filepath.Join(venv, "bin/python"), "-m", "flask", "--app", "app", "run", "--port", fmt.Sprint(appPort))

	// All but the pods, which nobody runs here, and mTLS, for which the node's agent would have the certificates.
	applyAll(t, c, without(all, "Deployment", "StatefulSet", "HorizontalPodAutoscaler", "PeerAuthentication"))
	applyAll(t, c, parsed(t, fmt.Sprintf(application, door, appPort, hosts)))
	if mode == "service" {
		applyAll(t, c, parsed(t, fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: gatehouse-1, namespace: gatehouse, labels: {kubernetes.io/service-name: gatehouse}}
addressType: IPv4
ports: [{name: grpc, port: %d, protocol: TCP}]
endpoints: [{addresses: ["%s"], conditions: {ready: true}}]
`, grpc, ip)))
	}
	boot := filepath.Join(t.TempDir(), "envoy.yaml")
	write(t, boot, fmt.Sprintf(bootstrap, free(t), istiod(t, config, meshConfig)))
	process(t, folder, filepath.Join(venv, "bin/envoy"), "-c", boot, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning")
	behind(t, dir, fmt.Sprintf("http://127.0.0.1:%d", door))
}

// ofThisMachine is an address of this machine that others could reach; "" where there is none.
func ofThisMachine(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return ""
}

// TestEnvoyGatewayStandalone: Envoy Gateway itself, which reads the generated objects from a file and runs a real Envoy, has it ask Gatehouse over the socket.
func TestEnvoyGatewayStandalone(t *testing.T) {
	dir := example(t)
	door, appPort, admin, socket := free(t), free(t), free(t), filepath.Join(t.TempDir(), "g.sock")
	write(t, filepath.Join(dir, "body.yaml"), "gateway: {body: true}\n")
	generated := strings.ReplaceAll(string(command(t, dir, "k8s", "generate", "--mode", "sidecar", "--for", "envoy-gateway", "--app", "orders", "--namespace", "shop", "-f", "body.yaml")),
		"/run/gatehouse/gatehouse.sock", socket)
	folder := t.TempDir()
	pod(t, folder, local(t, mounted(t, parsed(t, generated)), map[string]any{"admin": fmt.Sprint("127.0.0.1:", admin), "grpc": []string{"unix:" + socket}}))
	process(t, folder, gatehouse, "serve", "--config", filepath.Join(folder, "gatehouse.yaml"))
	until(t, fmt.Sprintf("http://127.0.0.1:%d/readyz", admin), nil, 200)
	process(t, dir, filepath.Join(venv, "bin/python"), "-m", "flask", "--app", "app", "run", "--port", fmt.Sprint(appPort))

	// The application's Service has no endpoints without a cluster: a Backend stands for it.
	all := only(parsed(t, generated), "HTTPRoute", "SecurityPolicy", "Backend", "ClientTrafficPolicy")
	for _, o := range only(all, "HTTPRoute") {
		find(map[string]any(o), "backendRefs", func(v any) {
			v.([]any)[0] = map[string]any{"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "orders"}
		})
	}
	home := t.TempDir()
	resources := filepath.Join(home, "resources")
	for _, d := range []string{resources, filepath.Join(home, "config"), filepath.Join(home, "data/envoy-versions/1.40.0/bin")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(resources, "all.yaml"), text(t, all)+"---\n"+fmt.Sprintf(gatewayClass, "")+fmt.Sprintf(`---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: orders, namespace: shop}
spec: {endpoints: [{ip: {address: 127.0.0.1, port: %d}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg, namespace: shop}
spec: {gatewayClassName: eg, listeners: [{name: http, protocol: HTTP, port: %d}]}
`, appPort, door))
	// Where it would keep an Envoy that it fetched.
	write(t, filepath.Join(home, "config/envoy-version"), "1.40.0\n")
	if err := os.Symlink(filepath.Join(venv, "bin/envoy"), filepath.Join(home, "data/envoy-versions/1.40.0/bin/envoy")); err != nil {
		t.Fatal(err)
	}
	gateway := binary(t, "envoy-gateway")
	settings := filepath.Join(home, "envoy-gateway.yaml")
	write(t, settings, fmt.Sprintf(`apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
gateway: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
provider:
  type: Custom
  custom:
    resource: {type: File, file: {paths: [%[1]q]}}
    infrastructure: {type: Host, host: {configHome: %[2]q, dataHome: %[3]q, stateHome: %[4]q, runtimeDir: %[5]q}}
logging: {level: {default: info}}
extensionApis: {enableBackend: true}
`, resources, filepath.Join(home, "config"), filepath.Join(home, "data"), filepath.Join(home, "state"), filepath.Join(home, "run")))
	if out, err := exec.CommandContext(t.Context(), gateway, "certgen", "--local", "--config-home", filepath.Join(home, "config")).CombinedOutput(); err != nil {
		t.Fatalf("certgen: %v\n%s", err, out)
	}
	process(t, home, gateway, "server", "--config-path", settings)
	behind(t, dir, fmt.Sprintf("http://127.0.0.1:%d", door))
	got, err := post(t.Context(), fmt.Sprintf("http://127.0.0.1:%d/users/bob/orders", door), `{"item": "lamp", "amount": 1000.01}`, map[string]string{"authorization": "Bearer " + token(t, dir, "carl", "clerk")})
	if err != nil || got.status != 403 {
		t.Errorf("an order above the clerk's limit: %v %d", err, got.status)
	}
}
