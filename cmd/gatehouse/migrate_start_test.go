package main

import (
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
)

// opaOfAControlPlane is an OPA's configuration that has something of all that is fetched and sent. The fetched bundle must be signed.
const opaOfAControlPlane = `services:
  control:
    url: $URL/v1
    credentials: {bearer: {token_path: $DIR/token}}
    headers: {x-tenant: acme}
labels: {app: orders}
keys:
  release:
    algorithm: ES256
    key: |
      $KEY
bundles:
  authz:
    service: control
    resource: bundles/authz.tar.gz
    persist: true
    polling: {min_delay_seconds: 1, max_delay_seconds: 1, long_polling_timeout_seconds: 2}
    signing: {keyid: release, scope: write}
persistence_directory: $DIR/opa
decision_logs:
  service: control
  console: true
  reporting: {min_delay_seconds: 1, upload_size_limit_bytes: 65536}
status: {service: control}
plugins:
  envoy_ext_authz_grpc: {addr: "$GRPC", path: envoy/authz/allow}
`

// TestMigratedServes starts what migrate made of an OPA's configuration, and has it fetch, verify, decide, and tell.
func TestMigratedServes(t *testing.T) {
	t.Parallel()
	private, public := signingPair(t)
	p := newProcess(t, "")
	write(t, p.path("token"), "t\n")
	write(t, p.path("private.pem"), private)
	for _, args := range [][]string{{"bundle", "build", p.path("policy"), "--out", p.path("plain.tar.gz")},
		{"bundle", "sign", p.path("plain.tar.gz"), "--key", p.path("private.pem"), "--key-id", "release", "--scope", "write", "--out", p.path("signed.tar.gz")}} {
		if code, _, stderr := command(t, args...); code != 0 {
			t.Fatalf("%v: %s", args, stderr)
		}
	}
	var served atomic.Pointer[[]byte]
	signed, err := os.ReadFile(p.path("signed.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	served.Store(&signed)
	reported := make(chan string, 1000)
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t" || r.Header.Get("X-Tenant") != "acme" {
			http.Error(w, "", http.StatusUnauthorized)
			return
		}
		switch r.URL.Path {
		case "/v1/bundles/authz.tar.gz":
			_, _ = w.Write(*served.Load())
		case "/v1/status":
			reported <- "status"
		case "/v1/logs":
			body, _ := gzip.NewReader(r.Body)
			var events []struct {
				Outcome string
				Labels  map[string]string
			}
			if json.NewDecoder(body).Decode(&events) == nil && len(events) > 0 {
				reported <- "decision " + events[0].Outcome + " of " + events[0].Labels["app"]
			}
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(control.Close)

	opa := strings.NewReplacer("$URL", control.URL, "$DIR", p.dir, "$GRPC", p.grpc, "$KEY", strings.ReplaceAll(strings.TrimSpace(public), "\n", "\n      ")).Replace(opaOfAControlPlane)
	write(t, p.path("opa.yaml"), opa)
	if err := os.Remove(p.path("gatehouse.yaml")); err != nil {
		t.Fatal(err)
	}
	code, _, messages := command(t, "migrate", p.path("opa.yaml"), "--out", p.path("gatehouse.yaml"), "--strict")
	if code != 0 {
		t.Fatalf("%d: %s", code, messages)
	}
	text, err := os.ReadFile(p.path("gatehouse.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, p.path("gatehouse.yaml"), strings.Replace(string(text), "127.0.0.1:9192", p.admin, 1)) // nothing of OPA's configuration says where

	p.ready()
	conn := dial(t, p.grpc, nil)
	if code, headers, err := check(t.Context(), conn); err != nil || code != 200 {
		t.Fatalf("%d %v %v\n%s", code, headers, err, text)
	}
	missing := map[string]bool{"status": true, "decision allow of orders": true}
	for len(missing) > 0 {
		select {
		case what := <-reported:
			delete(missing, what)
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-p.ended:
			t.Fatalf("it has ended; not told: %v", missing)
		}
	}
	if _, err := os.Stat(p.path("opa", "gatehouse")); err != nil {
		t.Errorf("nothing is kept: %v", err)
	}

	// A bundle that is not signed does not become active.
	unsigned, err := os.ReadFile(p.path("plain.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	before := p.status()
	served.Store(&unsigned)
	eventually(t, "waiting for the refusal", func() error {
		if _, metrics := p.get("/metrics"); !strings.Contains(metrics, `gatehouse_bundle_failing{bundle="authz"} 1`) {
			return fmt.Errorf("no refusal in %s", metrics)
		}
		return nil
	})
	if after := p.status(); after.Revision != before.Revision {
		t.Errorf("revision %q became %q", before.Revision, after.Revision)
	}
}

func signingPair(t *testing.T) (private, public string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	private = encode("PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
	return private, encode("PUBLIC KEY", der, err)
}
