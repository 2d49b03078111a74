package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// binary is a program of the modules that make test-k8s builds.
func binary(t *testing.T, name string) string {
	t.Helper()
	bin := os.Getenv("GATEHOUSE_K8S_BIN")
	if bin == "" {
		t.Fatalf("GATEHOUSE_K8S_BIN names no folder with %s: make test-k8s and make test-k8s-full build what they need", name)
	}
	return filepath.Join(bin, name)
}

// cluster is what Envoy Gateway needs besides the objects in question: its class, and the Services that a cluster would have. A Service's address stands for it
// in what is translated.
const gatewayClass = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: eg}\nspec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller%s}\n"

func service(name, namespace, ip string, port int) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\nspec: {clusterIP: %s, ports: [{name: http, port: %d}]}\n", name, namespace, ip, port)
}

// translate has Envoy Gateway's own translator, which egctl is, make Envoy's configuration: one dump for each Gateway, by its name.
func translate(t *testing.T, objects string) map[string][]any {
	t.Helper()
	file := filepath.Join(t.TempDir(), "objects.yaml")
	write(t, file, objects)
	c := exec.CommandContext(t.Context(), binary(t, "egctl"), "experimental", "translate", "--from", "gateway-api", "--to", "xds", "--type", "all", "--output", "json", "--file", file)
	var out, problems bytes.Buffer
	c.Stdout, c.Stderr = &out, &problems
	if err := c.Run(); err != nil {
		t.Fatalf("egctl: %v\n%s", err, &problems)
	}
	var result struct {
		XDS map[string]struct {
			Configs []any `json:"configs"`
		} `json:"xds"`
	}
	if err := json.Unmarshal(out.Bytes(), &result); err != nil {
		t.Fatalf("egctl: %v\n%.2000s", err, &out)
	}
	dumps := map[string][]any{}
	for gateway, x := range result.XDS {
		dumps[gateway] = x.Configs
	}
	return dumps
}

// withoutOwn are the listeners of Gateways, without those that each of Envoy Gateway's proxies has for itself.
func withoutOwn(m made) made {
	for name := range m.listeners {
		if strings.HasPrefix(name, "envoy-gateway-proxy-") {
			delete(m.listeners, name)
		}
	}
	return m
}

// examine runs gatehouse doctor.
func examine(t *testing.T, dir string, args ...string) (ids []string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), gatehouse, append([]string{"doctor", "-o", "json"}, args...)...)
	var out, problems bytes.Buffer
	c.Dir, c.Stdout, c.Stderr = dir, &out, &problems
	_ = c.Run() // 1 says that something was found
	var report struct {
		Findings []struct{ ID, Message string }
	}
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("gatehouse doctor %v: %v\n%s%s", args, err, &out, &problems)
	}
	for _, f := range report.Findings {
		ids = append(ids, f.ID)
	}
	return ids
}

// examineDump runs the doctor on what was translated.
func examineDump(t *testing.T, configs []any, args ...string) []string {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"configs": configs})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dump.json")
	write(t, file, string(raw))
	return examine(t, filepath.Dir(file), append(args, file)...)
}

// TestEnvoyGateway: with what is generated, Envoy Gateway's translation makes a real Envoy ask Gatehouse about an application that knows nothing of it. The
// doctor finds nothing, in the objects and in what becomes of them.
func TestEnvoyGateway(t *testing.T) {
	for _, mode := range []string{"service", "sidecar"} {
		t.Run(mode, func(t *testing.T) { testEnvoyGateway(t, mode) })
	}
}

func testEnvoyGateway(t *testing.T, mode string) {
	dir := example(t)
	appPort, admin, grpc, socket := free(t), free(t), free(t), filepath.Join(t.TempDir(), "g.sock")
	args := []string{"k8s", "generate", "--for", "envoy-gateway", "--mode", mode, "--app", "orders", "--app-port", "8000", "--namespace", "gatehouse", "--app-namespace", "shop"}
	if mode == "sidecar" {
		args[11] = "shop"
	}
	healthy := command(t, dir, args...)
	write(t, filepath.Join(dir, "k8s.yaml"), string(healthy))
	if found := examine(t, dir, "--config", "gatehouse.yaml", "k8s.yaml"); len(found) > 0 {
		t.Errorf("the doctor finds %v", found)
	}

	certificate, key := selfSigned(t, "gatehouse.gatehouse.svc")
	ca := "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: gatehouse-ca, namespace: gatehouse}\ndata:\n  ca.crt: |\n    " + strings.ReplaceAll(strings.TrimSpace(certificate), "\n", "\n    ") + "\n"
	around := func(generated string) string {
		// An API server gives each Service an address.
		generated = regexp.MustCompile(`(?m)^(kind: Service\n(?:.*\n)*?spec:\n)`).ReplaceAllString(generated, "${1}  clusterIP: 10.0.0.6\n")
		return fmt.Sprintf(gatewayClass, "") + service("orders", "shop", "10.0.0.7", 8000) + ca +
			"---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: eg, namespace: shop}\nspec: {gatewayClassName: eg, listeners: [{name: http, protocol: HTTP, port: 8080}]}\n---\n" + generated
	}
	if found := examineDump(t, translate(t, around(string(healthy)))["shop/eg"], "--config", filepath.Join(dir, "gatehouse.yaml")); len(found) > 0 {
		t.Errorf("in what Envoy Gateway makes of it the doctor finds %v", found)
	}

	// The application's policy reads bodies.
	write(t, filepath.Join(dir, "body.yaml"), "gateway: {body: true}\n")
	generated := command(t, dir, append(args, "-f", "body.yaml")...)
	change := map[string]any{"admin": fmt.Sprint("127.0.0.1:", admin)}
	if mode == "sidecar" {
		change["grpc"] = []string{"unix:" + socket}
	} else {
		change["grpc"] = []string{fmt.Sprint("127.0.0.1:", grpc)}
	}
	folder := t.TempDir()
	if mode == "service" {
		change["tls"] = map[string]any{"cert": filepath.Join(folder, "tls/tls.crt"), "key": filepath.Join(folder, "tls/tls.key")}
	}
	files := local(t, mounted(t, objects(t, generated)), change)
	files["tls/tls.crt"], files["tls/tls.key"] = certificate, key
	pod(t, folder, files)
	process(t, folder, gatehouse, "serve", "--config", filepath.Join(folder, "gatehouse.yaml"))
	until(t, fmt.Sprintf("http://127.0.0.1:%d/readyz", admin), nil, 200)
	process(t, dir, filepath.Join(venv, "bin/python"), "-m", "flask", "--app", "app", "run", "--port", fmt.Sprint(appPort))

	c, m := &carrier{}, withoutOwn(ofDump(t, translate(t, around(string(generated)))["shop/eg"]))
	m.secrets["gatehouse/gatehouse-ca"] = map[string]any{"name": "gatehouse/gatehouse-ca", "validationContext": map[string]any{"trustedCa": map[string]any{"inlineString": certificate}}} // egctl does not print it
	c.add(t, "", m, at{"10.0.0.7:8000": appPort, "10.0.0.6:9191": grpc, "/run/gatehouse/gatehouse.sock": socket})
	c.start(t)
	door := c.doors["shop/eg/http"]
	if door == "" {
		t.Fatalf("no listener: %v", c.names())
	}
	behind(t, dir, "http://"+door)
	order := func(amount string) int {
		got, err := post(t.Context(), "http://"+door+"/users/bob/orders", `{"item": "lamp", "amount": `+amount+`}`, map[string]string{"authorization": "Bearer " + token(t, dir, "carl", "clerk")})
		if err != nil {
			t.Fatal(err)
		}
		return got.status
	}
	if small, large := order("1000"), order("1000.01"); small != 201 || large != 403 {
		t.Errorf("orders by what is in the body: %d and %d, want 201 and 403", small, large)
	}
}
