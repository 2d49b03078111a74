package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/cluster"
	"istio.io/istio/pkg/config/mesh"
)

// plain turns mTLS off, for which the node's agent would have the certificates.
const plain = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\nspec: {mtls: {mode: DISABLE}}\n"

// pilotMakes is what Istio's control plane makes of objects for the proxy of an orders pod.
func pilotMakes(t *testing.T, objects, meshConfig string) made {
	t.Helper()
	settings, err := mesh.ApplyMeshConfigDefaults("enableAutoMtls: false\n" + meshConfig)
	if err != nil {
		t.Fatalf("%v\n%s", err, meshConfig)
	}
	endpoints := `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: gatehouse-1, namespace: gatehouse, labels: {kubernetes.io/service-name: gatehouse}}
addressType: IPv4
ports: [{name: %s, port: 9191, protocol: TCP}]
endpoints: [{addresses: ["10.0.0.6"], conditions: {ready: true}}]
`
	var kube, istio []object
	port := "grpc"
	for _, o := range parsed(t, objects) {
		switch o.kind() {
		case "Service":
			kube = append(kube, o)
			if strings.Contains(text(t, []object{o}), "name: http") {
				port = "http"
			}
		case "AuthorizationPolicy", "Sidecar", "EnvoyFilter", "DestinationRule", "ServiceEntry":
			istio = append(istio, o)
		}
	}
	s := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{MeshConfig: settings, KubernetesObjectString: text(t, kube) + "---" + fmt.Sprintf(endpoints, port), ConfigString: text(t, istio) + plain})
	p := s.SetupProxy(&model.Proxy{ID: "orders-1.shop", ConfigNamespace: "shop", IPAddresses: []string{"10.0.0.9"}, Labels: map[string]string{"app": "orders"},
		Metadata: &model.NodeMetadata{Namespace: "shop", InterceptionMode: model.InterceptionNone, Labels: map[string]string{"app": "orders"}, ClusterID: cluster.ID("Kubernetes"), IstioVersion: "1.31.0"}})
	m := newMade()
	for _, l := range s.Listeners(p) {
		if l.GetTrafficDirection().String() == "INBOUND" {
			m.listeners[l.GetName()] = asJSON(t, l)
		}
	}
	for _, c := range s.Clusters(p) {
		if name := c.GetName(); strings.HasPrefix(name, "inbound|8080") || strings.Contains(name, "gatehouse.gatehouse") {
			m.clusters[name] = asJSON(t, c)
		}
	}
	for _, e := range s.Endpoints(p) {
		m.endpoints[e.GetClusterName()] = asJSON(t, e)
	}
	return m
}

func asJSON(t *testing.T, message proto.Message) map[string]any {
	t.Helper()
	raw, err := protojson.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// meshOf is the mesh's configuration in the ConfigMap that is among objects.
func meshOf(t *testing.T, text string) string {
	t.Helper()
	for _, o := range parsed(t, text) {
		if data, ok := o["data"].(map[string]any); ok && o.kind() == "ConfigMap" {
			return fmt.Sprint(data["mesh"])
		}
	}
	t.Fatalf("no mesh in\n%s", text)
	return ""
}

func parsed(t *testing.T, text string) []object { return objects(t, []byte(text)) }

// TestIstioHoles sees what the doctor finds in objects of Istio in a real Envoy with what Istio's control plane makes of them, and that each hole is closed once
// it is mended.
func TestIstioHoles(t *testing.T) {
	base, all := readHoles(t, "istio")
	grpc, overHTTP, bearer := strict(t)
	app := echo(t, "app")
	c := &carrier{}
	add := func(name, text string, gatehouse int) {
		c.add(t, name+" ", pilotMakes(t, text, meshOf(t, text)), at{"127.0.0.1:8000": app, "10.0.0.6:9191": gatehouse})
	}
	add("base", base, grpc)
	for i, h := range all {
		if h.Unproven != "" {
			continue
		}
		to := grpc
		if h.OverHTTP {
			to = overHTTP
		}
		if h.Down {
			to = 9
		}
		bad := edit(t, base, h.Edits)
		add(fmt.Sprint("bad-", i), bad, to)
		add(fmt.Sprint("good-", i), h.mend(t, bad), to)
	}
	c.start(t)
	name := func(which string) string {
		for listener := range c.doors {
			if strings.HasPrefix(listener, which+" ") && strings.Contains(listener, "8080") {
				return listener
			}
		}
		return ""
	}
	for request, want := range map[string]string{"GET /public": "app /public", "GET /admin": "403"} {
		if got := (hole{Request: request}).see(t, c.doors[name("base")], bearer); got != want {
			t.Errorf("the base: %s: %q, want %q", request, got, want)
		}
	}
	for i, h := range all {
		t.Run(fmt.Sprint(i, " ", h.ID), func(t *testing.T) {
			if h.Unproven == "" {
				h.compare(t, c, name(fmt.Sprint("bad-", i)), name(fmt.Sprint("good-", i)), bearer)
			}
		})
	}
	if t.Failed() {
		t.Log(c.names())
	}
}
