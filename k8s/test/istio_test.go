package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/mesh"
)

// application is the workload as Istio sees it: a proxy in front of a port of this machine. There are no kubelet and no injector here.
const application = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: app, namespace: shop}
spec:
  hosts: [app.internal]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: %[1]d, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.2, labels: {app: orders}}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: app, namespace: shop}
spec:
  workloadSelector: {labels: {app: orders}}
  ingress:
  - {port: {number: %[1]d, name: http, protocol: HTTP}, bind: 127.0.0.1, captureMode: NONE, defaultEndpoint: "127.0.0.1:%[2]d"}
  egress:
  - {captureMode: NONE, bind: 127.0.0.1, port: {number: 9191, name: grpc, protocol: GRPC}, hosts: ["%[3]s"]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: DISABLE}}
`

const bootstrap = `
node:
  id: sidecar~127.0.0.2~orders-1.shop~shop.svc.cluster.local
  cluster: orders.shop
  metadata: {NAMESPACE: shop, INTERCEPTION_MODE: NONE, CLUSTER_ID: Kubernetes, ISTIO_VERSION: 1.31.0, LABELS: {app: orders}, WORKLOAD_NAME: orders, NAME: orders-1}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
dynamic_resources:
  lds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 5s}
  cds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 5s}
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services: [{envoy_grpc: {cluster_name: xds-grpc}}]
static_resources:
  clusters:
  - name: xds-grpc
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: xds-grpc
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]
`

// TestIstio: with what is generated, Istio makes a real Envoy ask Gatehouse about an application that knows nothing of it.
func TestIstio(t *testing.T) {
	for _, mode := range []string{"service", "sidecar"} {
		t.Run(mode, func(t *testing.T) { testIstio(t, mode) })
	}
}

func testIstio(t *testing.T, mode string) {
	dir := example(t)
	door, appPort, admin, grpc := free(t), free(t), free(t), free(t)
	args := []string{"k8s", "generate", "--for", "istio", "--mode", mode, "--app", "orders", "--namespace", "gatehouse", "--app-namespace", "shop"}
	generated := command(t, dir, args...)
	meshConfig := string(command(t, dir, append(args, "-o", "mesh")...))

	// The socket cannot be in /run/gatehouse here.
	socket := filepath.Join(t.TempDir(), "g.sock")
	all := objects(t, []byte(strings.ReplaceAll(string(generated), "/run/gatehouse/gatehouse.sock", socket)))
	change := map[string]any{"admin": fmt.Sprint("127.0.0.1:", admin)}
	hosts := "gatehouse/gatehouse.sidecar.internal"
	if mode == "service" {
		change["grpc"], hosts = []string{fmt.Sprint("127.0.0.1:", grpc)}, "gatehouse/gatehouse.gatehouse.svc.cluster.local"
	}
	folder := t.TempDir()
	files := local(t, mounted(t, all), change)
	pod(t, folder, files)
	process(t, folder, gatehouse, "serve", "--config", filepath.Join(folder, "gatehouse.yaml"))
	until(t, fmt.Sprintf("http://127.0.0.1:%d/readyz", admin), nil, 200)
	process(t, dir, filepath.Join(venv, "bin/python"), "-m", "flask", "--app", "app", "run", "--port", fmt.Sprint(appPort))

	m, err := mesh.ApplyMeshConfigDefaults("enableAutoMtls: false\n" + meshAlone(meshConfig))
	if err != nil {
		t.Fatalf("%v\n%s", err, meshConfig)
	}
	kube := text(t, only(all, "Service")) + fmt.Sprintf(`---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: gatehouse-1, namespace: gatehouse, labels: {kubernetes.io/service-name: gatehouse}}
addressType: IPv4
ports: [{name: grpc, port: %d, protocol: TCP}]
endpoints: [{addresses: ["127.0.0.1"], conditions: {ready: true}}]
`, grpc)
	if mode == "sidecar" {
		kube = ""
	}
	kube = strings.ReplaceAll(kube, "targetPort: grpc", fmt.Sprint("targetPort: ", grpc))
	// mTLS needs the node's agent, which is not here; PeerAuthentication is tried by the API server's tests alone.
	istio := text(t, only(all, "AuthorizationPolicy", "EnvoyFilter", "ServiceEntry", "DestinationRule")) + "---" + fmt.Sprintf(application, door, appPort, hosts)
	s := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{MeshConfig: m, KubernetesObjectString: kube, ConfigString: istio,
		ListenerBuilder: func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }})
	boot := filepath.Join(t.TempDir(), "envoy.yaml")
	envoyAdmin := free(t)
	if err := os.WriteFile(boot, fmt.Appendf(nil, bootstrap, envoyAdmin, s.Listener.Addr().(*net.TCPAddr).Port), 0o644); err != nil {
		t.Fatal(err)
	}
	process(t, folder, filepath.Join(venv, "bin/envoy"), "-c", boot, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning")

	behind(t, dir, fmt.Sprintf("http://127.0.0.1:%d", door))

	// A ConfigMap that changed is in force without a restart.
	viewer := map[string]string{"authorization": "Bearer " + token(t, dir, "vera", "viewer")}
	files["policy/orders_test.rego"] = "package envoy.authz\n"
	files["policy/orders.rego"] = "package envoy.authz\n\ndefault allow := false\n"
	pod(t, folder, files)
	until(t, fmt.Sprintf("http://127.0.0.1:%d/orders", door), viewer, 403)
}

// meshAlone is a mesh's configuration out of the values of Istio's chart.
func meshAlone(values string) string {
	var out strings.Builder
	for line := range strings.Lines(strings.TrimPrefix(values, "meshConfig:\n")) {
		out.WriteString(strings.TrimPrefix(line, "  "))
	}
	return out.String()
}

// behind is what clients see of the example behind an Envoy that asks Gatehouse.
func behind(t *testing.T, dir, url string) {
	t.Helper()
	viewer := map[string]string{"authorization": "Bearer " + token(t, dir, "vera", "viewer")}
	with := func(more map[string]string) map[string]string {
		out := map[string]string{"authorization": viewer["authorization"]}
		for name, value := range more {
			out[name] = value
		}
		return out
	}
	until(t, url+"/healthz", nil, 200)
	for _, tc := range []struct {
		name, method, path string
		header             map[string]string
		status             int
	}{
		{"nobody", "GET", "/orders", nil, 401},
		{"a viewer reads", "GET", "/orders", viewer, 200},
		{"and deletes nothing", "DELETE", "/orders/1", viewer, 403},
		{"a forged token", "GET", "/orders", map[string]string{"authorization": "Bearer x.y.z"}, 401},
		{"a route that the application does not have", "GET", "/nowhere", viewer, 403},
		{"headers that only Gatehouse sets", "GET", "/orders", map[string]string{"x-auth-subject": "ada", "x-auth-roles": "admin"}, 401},
		{"the same in WSGI's spelling", "GET", "/orders", with(map[string]string{"x_auth_roles": "admin"}), 400},
		{"an encoded slash", "GET", "/orders%2f1", viewer, 400},
		{"two slashes", "GET", "//orders", viewer, 400},
	} {
		got, err := call(t.Context(), tc.method, url+tc.path, tc.header)
		if err != nil || got.status != tc.status {
			t.Errorf("%s: %s %s: %v %d %s, want %d", tc.name, tc.method, tc.path, err, got.status, got.body, tc.status)
		}
	}
}
