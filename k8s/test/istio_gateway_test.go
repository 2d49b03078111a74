package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/cluster"
	"istio.io/istio/pkg/config/mesh"
)

// ingress is a gateway of Istio's with an application behind it, without the policy.
const ingress = `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: ingress, namespace: edge}
spec: {selector: {istio: ingress}, servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: edge}
spec:
  hosts: ["*"]
  gateways: [ingress]
  http: [{match: [{uri: {prefix: /shop}}], rewrite: {uri: /}, route: [{destination: {host: orders.internal, port: {number: 8000}}}]}, {route: [{destination: {host: orders.internal, port: {number: 8000}}}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: orders, namespace: edge}
spec: {hosts: [orders.internal, gatehouse.internal], location: MESH_EXTERNAL, resolution: STATIC, ports: [{number: 8000, name: http, protocol: HTTP}, {number: 9191, name: grpc, protocol: GRPC}], endpoints: [{address: 10.0.0.7}]}
`

const ingressPolicy = `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ingress, namespace: edge}
spec: {selector: {matchLabels: {istio: ingress}}, action: CUSTOM, provider: {name: gatehouse}, rules: [{}]}
`

// TestIstioGateway: the doctor looks at the gateways of a mesh, whose listeners Istio says to be outbound, as those are of a sidecar that nobody need look at. What it
// finds there is so in a real Envoy.
func TestIstioGateway(t *testing.T) {
	grpc, _, bearer := strict(t)
	app := echo(t, "app")
	settings, err := mesh.ApplyMeshConfigDefaults("enableAutoMtls: false\nextensionProviders: [{name: gatehouse, envoyExtAuthzGrpc: {service: gatehouse.internal, port: 9191, timeout: 5s, statusOnError: \"503\"}}]\n")
	if err != nil {
		t.Fatal(err)
	}
	c := &carrier{}
	found := map[string][]string{}
	for name, objects := range map[string]string{"open": ingress, "asks": ingress + ingressPolicy} {
		s := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{MeshConfig: settings, ConfigString: objects})
		p := s.SetupProxy(&model.Proxy{Type: model.Router, ID: "ingress-1.edge", ConfigNamespace: "edge", IPAddresses: []string{"10.0.0.9"}, Labels: map[string]string{"istio": "ingress"},
			Metadata: &model.NodeMetadata{Namespace: "edge", Labels: map[string]string{"istio": "ingress"}, ClusterID: cluster.ID("Kubernetes"), IstioVersion: "1.31.0"}})
		m := newMade()
		var listeners, routes, clusters []any
		admin := func(kind string) string { return "type.googleapis.com/envoy.admin.v3." + kind + "ConfigDump" }
		typed := func(kind string, o map[string]any) map[string]any {
			o["@type"] = "type.googleapis.com/envoy.config." + kind
			return o
		}
		for _, l := range s.Listeners(p) {
			if l.GetTrafficDirection().String() != "OUTBOUND" {
				t.Errorf("%s is %s", l.GetName(), l.GetTrafficDirection())
			}
			m.listeners[l.GetName()] = asJSON(t, l)
			listeners = append(listeners, map[string]any{"name": l.GetName(), "activeState": map[string]any{"listener": typed("listener.v3.Listener", asJSON(t, l))}})
		}
		for _, r := range s.Routes(p) {
			m.routes[r.GetName()] = asJSON(t, r)
			routes = append(routes, map[string]any{"routeConfig": typed("route.v3.RouteConfiguration", asJSON(t, r))})
		}
		for _, cl := range s.Clusters(p) {
			if strings.Contains(cl.GetName(), ".internal") {
				m.clusters[cl.GetName()] = asJSON(t, cl)
			}
			clusters = append(clusters, map[string]any{"cluster": typed("cluster.v3.Cluster", asJSON(t, cl))})
		}
		for _, e := range s.Endpoints(p) {
			m.endpoints[e.GetClusterName()] = asJSON(t, e)
		}
		found[name] = examineDump(t, []any{map[string]any{"@type": admin("Clusters"), "dynamicActiveClusters": clusters}, map[string]any{"@type": admin("Listeners"), "dynamicListeners": listeners},
			map[string]any{"@type": admin("Routes"), "dynamicRouteConfigs": routes}})
		c.add(t, name+" ", m, at{"10.0.0.7:8000": app, "10.0.0.7:9191": grpc})
	}
	c.start(t)
	door := func(which string) string {
		for listener, at := range c.doors {
			if strings.HasPrefix(listener, which+" ") {
				return at
			}
		}
		return ""
	}
	for _, tc := range []struct{ door, request, want string }{
		{"open", "GET /admin", "app /admin"}, {"asks", "GET /admin", "403"}, {"asks", "GET /public", "app /public"},
		{"asks", "GET /shopadmin", "403"},
	} {
		if got := (hole{Request: tc.request}).see(t, door(tc.door), bearer); got != tc.want {
			t.Errorf("%s: %s: %q, want %q", tc.door, tc.request, got, tc.want)
		}
	}
	if !slices.Equal(found["open"], []string{"no-ext-authz"}) {
		t.Errorf("without a policy the doctor finds %v", found["open"])
	}
	for _, id := range []string{"underscore-headers", "client-identity-headers", "prefix-rewrite-joins", "path-rewritten"} {
		if !slices.Contains(found["asks"], id) {
			t.Errorf("the doctor does not find %s in a gateway, but %v", id, found["asks"])
		}
	}
	if slices.Contains(found["asks"], "listener-without-ext-authz") {
		t.Error(fmt.Sprint("found: ", found["asks"]))
	}
}
