package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// made is what a control plane made of objects, as JSON of Envoy's messages by name.
type made struct {
	listeners, clusters, routes, endpoints, secrets map[string]any
}

func newMade() made {
	return made{map[string]any{}, map[string]any{}, map[string]any{}, map[string]any{}, map[string]any{}}
}

// ofDump takes a config_dump apart.
func ofDump(t *testing.T, configs []any) made {
	t.Helper()
	m := newMade()
	for _, c := range configs {
		c := c.(map[string]any)
		for key, kind := range map[string]struct {
			within string
			into   map[string]any
			named  string
		}{
			"dynamicListeners": {"activeState.listener", m.listeners, "name"}, "dynamicActiveClusters": {"cluster", m.clusters, "name"},
			"dynamicRouteConfigs": {"routeConfig", m.routes, "name"}, "dynamicEndpointConfigs": {"endpointConfig", m.endpoints, "clusterName"},
			"dynamicActiveSecrets": {"secret", m.secrets, "name"},
		} {
			list, _ := c[key].([]any)
			for _, entry := range list {
				value := entry.(map[string]any)
				for _, name := range strings.Split(kind.within, ".") {
					value, _ = value[name].(map[string]any)
				}
				kind.into[fmt.Sprint(value[kind.named])] = value
			}
		}
	}
	return m
}

// carrier is one Envoy that has the listeners of what was made of many sets of objects, each with names of its own. What a control plane would serve piece by
// piece stands in its bootstrap, and places of a cluster are those of this machine; nothing else is changed.
type carrier struct {
	listeners, clusters, secrets []any
	doors                        map[string]string // of listeners: where they are
}

// at says where something is here: a port of loopback, or a unix socket.
type at map[string]any

// add takes over what was made. places are addresses, host:port, and the ports of this machine that stand for them.
func (c *carrier) add(t *testing.T, prefix string, m made, places at) {
	t.Helper()
	a := adder{t, prefix, m, places}
	for name, l := range m.listeners {
		listener := copied(t, l)
		delete(listener, "@type")
		listener["name"] = prefix + name
		for _, key := range []string{"address", "listenerFilters", "bindToPort", "additionalAddresses", "useOriginalDst", "accessLog"} {
			delete(listener, key)
		}
		listener["address"] = map[string]any{"socketAddress": map[string]any{"address": "127.0.0.1", "portValue": 0}}
		address := listener["address"]
		listener = a.walk(listener).(map[string]any)
		listener["address"] = address
		c.listeners = append(c.listeners, listener)
	}
	for name, cl := range m.clusters {
		cluster := copied(t, cl)
		delete(cluster, "@type")
		if eds, ok := cluster["edsClusterConfig"].(map[string]any); ok {
			service := fmt.Sprint(eds["serviceName"])
			if eds["serviceName"] == nil {
				service = name
			}
			delete(cluster, "edsClusterConfig")
			cluster["loadAssignment"] = map[string]any{"clusterName": service}
			if ends, ok := m.endpoints[service]; ok {
				cluster["loadAssignment"] = copied(t, ends)
				delete(cluster["loadAssignment"].(map[string]any), "@type")
			}
		}
		if cluster["loadAssignment"] != nil { // every address is one of this machine
			delete(cluster, "clusterType")
			cluster["type"] = "STATIC"
		}
		c.clusters = append(c.clusters, a.walk(cluster))
	}
	for name, s := range m.secrets {
		secret := copied(t, s)
		delete(secret, "@type")
		secret["name"] = prefix + name
		c.secrets = append(c.secrets, secret)
	}
}

func copied(t *testing.T, v any) map[string]any {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

type adder struct {
	t      *testing.T
	prefix string
	made
	places at
}

// walk gives names of their own to clusters and secrets, and to addresses their place here.
func (a adder) walk(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = a.walk(v[i])
		}
	case map[string]any:
		if socket, ok := v["socketAddress"].(map[string]any); ok && len(v) == 1 {
			return a.place(fmt.Sprintf("%v:%v", socket["address"], socket["portValue"]))
		}
		if pipe, ok := v["pipe"].(map[string]any); ok && len(v) == 1 {
			return a.place(fmt.Sprint(pipe["path"]))
		}
		if rds, ok := v["rds"].(map[string]any); ok {
			routes, ok := a.routes[fmt.Sprint(rds["routeConfigName"])]
			if !ok {
				a.t.Errorf("%sno routes %v", a.prefix, rds["routeConfigName"])
			}
			delete(v, "rds")
			v["routeConfig"] = copied(a.t, routes)
			delete(v["routeConfig"].(map[string]any), "@type")
		}
		if chains, ok := v["filterChains"].([]any); ok && len(chains) == 1 {
			delete(chains[0].(map[string]any), "filterChainMatch") // by the port, which is another one here
		}
		if v["sdsConfig"] != nil {
			delete(v, "sdsConfig")
			v["name"] = a.prefix + fmt.Sprint(v["name"])
		}
		delete(v, "accessLog") // of the control plane's, which may be a file of another machine
		for key, value := range v {
			name, _ := value.(string)
			_, isCluster := a.clusters[name]
			switch {
			case isCluster && (key == "cluster" || key == "clusterName" || key == "name" && (v["weight"] != nil || v["connectTimeout"] != nil)):
				v[key] = a.prefix + name
			default:
				v[key] = a.walk(value)
			}
		}
	}
	return v
}

func (a adder) place(of string) map[string]any {
	switch here := a.places[of].(type) {
	case int:
		return map[string]any{"socketAddress": map[string]any{"address": "127.0.0.1", "portValue": here}}
	case string:
		return map[string]any{"pipe": map[string]any{"path": here}}
	}
	return map[string]any{"socketAddress": map[string]any{"address": "127.0.0.1", "portValue": 9}} // where nobody is
}

// start runs Envoy, and learns where its listeners are.
func (c *carrier) start(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	addresses := filepath.Join(dir, "admin")
	boot, err := json.MarshalIndent(map[string]any{
		"admin":           map[string]any{"address": map[string]any{"socketAddress": map[string]any{"address": "127.0.0.1", "portValue": 0}}},
		"staticResources": map[string]any{"listeners": c.listeners, "clusters": c.clusters, "secrets": c.secrets},
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "envoy.json"), string(boot))
	process(t, dir, filepath.Join(venv, "bin/envoy"), "-c", filepath.Join(dir, "envoy.json"), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning", "--admin-address-path", addresses)
	c.doors = map[string]string{}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("envoy is not ready")
		}
		admin, err := os.ReadFile(addresses)
		if err != nil || len(admin) == 0 {
			continue
		}
		var found struct {
			Statuses []struct {
				Name    string `json:"name"`
				Address struct {
					Socket struct {
						Port int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		if page(string(admin), "/ready") != "LIVE\n" || json.Unmarshal([]byte(page(string(admin), "/listeners?format=json")), &found) != nil {
			continue
		}
		for _, l := range found.Statuses {
			c.doors[l.Name] = fmt.Sprintf("127.0.0.1:%d", l.Address.Socket.Port)
		}
		return
	}
}

func page(admin, path string) string {
	res, err := http.Get("http://" + admin + path)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return string(text)
}

// names are the listeners, for messages.
func (c *carrier) names() []string {
	var all []string
	for name := range maps.Keys(c.doors) {
		all = append(all, name)
	}
	return all
}

// selfSigned is a certificate for a name, which is its own authority, and its key.
func selfSigned(t *testing.T, name string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
