package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/images/exchange"
)

// TestOPARunsOurImage has a server of OPA's pull what gatehouse bundle push has pushed, through TLS and with a password, and
// decide with it.
func TestOPARunsOurImage(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca := newAuthority(t)
	cert, key := ca.issue(t, "localhost")
	config := func(registry string) string {
		return fmt.Sprintf(`
services:
  registry:
    url: https://%[1]s
    type: oci
    tls: {ca_cert: %[2]s}
    credentials: {bearer: {scheme: Basic, token: "ci:s3cret"}}
bundles:
  shop: {service: registry, resource: "%[1]s/policies/shop:1.4"}
`, registry, at("ca.crt"))
	}
	for name, text := range map[string]string{"ca.crt": ca.pem(), "tls.crt": cert, "tls.key": key, "password": "s3cret\n",
		"policy/shop.rego": "package shop\n\ndefault allow := false\n\nallow if input.method == data.method\n", "policy/data.json": `{"method": "GET"}`} {
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := exchange.StartRegistry(t.Context(), exchange.Options{Cert: at("tls.crt"), Key: at("tls.key"), User: "ci", Password: "s3cret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	registry := strings.Replace(r.Address, "127.0.0.1", "localhost", 1)
	t.Setenv("GATEHOUSE_IMAGES", at("images"))
	t.Setenv("DOCKER_CONFIG", at("docker"))
	for _, line := range [][]string{
		{"login", registry, "-u", "ci", "--password-file", at("password"), "--ca", at("ca.crt")},
		{"build", at("policy"), "-t", registry + "/policies/shop:1.4"},
		{"push", registry + "/policies/shop:1.4", "--ca", at("ca.crt")},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), append([]string{"bundle"}, line...), &out, &out); code != 0 {
			t.Fatalf("gatehouse bundle %s: %d\n%s", strings.Join(line, " "), code, out.String())
		}
	}
	if err := os.WriteFile(at("opa.yaml"), []byte(config(registry)), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := serveOPA(t, at("opa.yaml"), at("opa.sock"), io.Discard)
	for method, want := range map[string]bool{"GET": true, "PUT": false} {
		if got := ask("shop/allow", map[string]string{"method": method}); got != want {
			t.Errorf("OPA answers %v to %s, want %v", got, method, want)
		}
	}
}

// serveOPA starts a server and returns, once it has activated a bundle, what asks it for a decision. What it prints from then on goes to
// console.
func serveOPA(t *testing.T, config, socket string, console io.Writer) func(path string, input any) any {
	t.Helper()
	opa, err := exchange.OPA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(opa, "run", "--server", "--config-file", config, "--addr", "unix://"+socket, "--log-format", "json", "--disable-telemetry")
	logs, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait()
	})
	var seen strings.Builder
	active := false
	lines := bufio.NewReader(logs)
	for !active {
		line, err := lines.ReadString('\n')
		seen.WriteString(line)
		active = strings.Contains(line, "Bundle loaded and activated successfully")
		if err != nil || strings.Contains(line, "Bundle load failed") {
			break
		}
	}
	if !active {
		t.Fatalf("OPA activated nothing:\n%s", seen.String())
	}
	go func() { _, _ = io.Copy(console, lines) }() // ends with the process
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		for { // a bundle may be active before the server listens
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
			if err == nil || ctx.Err() != nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
				return conn, err
			}
			time.Sleep(10 * time.Millisecond)
		}
	}}}
	return func(path string, input any) any {
		body, err := json.Marshal(map[string]any{"input": input})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Post("http://opa/v1/data/"+path, "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var out struct{ Result any }
		if err := json.NewDecoder(answer.Body).Decode(&out); err != nil {
			t.Fatal(err)
		}
		return out.Result
	}
}
