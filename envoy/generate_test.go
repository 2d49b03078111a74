package envoy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/doctor"
	"gatehouse/doctor/rules"
	"gatehouse/envoy/generate"
)

// TestGeneratedConfigurations holds that Envoy takes what is generated, and that the doctor finds nothing wrong with it.
func TestGeneratedConfigurations(t *testing.T) {
	dir := t.TempDir()
	certificate, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	selfSigned(t, certificate, key)
	for name, c := range map[string]generate.Config{
		"defaults": generate.Default("orders"),
		"everything over gRPC": {Name: "orders", Listen: ":18443", App: "app.internal:8000", Gatehouse: "gatehouse.internal:9191", Cert: certificate, Key: key,
			ClientCA: certificate, AppHTTP2: true, AppCA: certificate, GatehouseCA: certificate, GatehouseCert: certificate, GatehouseKey: key, Websockets: true,
			Streams: []generate.Stream{{Match: "prefix", Path: "/chat.Chat/"}, {Match: "path", Path: "/upload"}}, MaxBody: 1024, Timeout: time.Second,
			ContextApp: "orders", HealthChecks: true},
		"a socket": {Gatehouse: "unix:/run/gatehouse/gatehouse.sock", App: "[::1]:8000"},
		"over HTTP": {HTTP: &generate.HTTP{PathPrefix: "/authz"}, MaxBody: 65536, CredentialHeaders: []string{"authorization", "cookie"},
			GatehouseCA: certificate},
	} {
		text, err := c.YAML()
		if err != nil {
			t.Fatal(name, err)
		}
		file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".yaml")
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), envoyBinary, "--mode", "validate", "-c", file).CombinedOutput(); err != nil {
			t.Errorf("%s: envoy --mode validate: %v\n%s\n%s", name, err, out, text)
		}
		found, err := doctor.Examine([]doctor.Input{{Name: file, Text: text}}, rules.Default())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found.Findings {
			if f.Severity != rules.Note {
				t.Errorf("%s: line %d: %s: %s", name, f.Line, f.ID, f.Message)
			}
		}
	}
}
