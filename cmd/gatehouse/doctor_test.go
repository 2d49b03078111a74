package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"gatehouse/doctor"
)

// TestExamplesAreHealthy holds the configurations that people copy against the doctor, each with the gatehouse.yaml beside it: nothing at all is found.
func TestExamplesAreHealthy(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/envoy.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("the examples are gone: %v (%v)", files, err)
	}
	for _, file := range files {
		expectHealthy(t, file, filepath.Join(filepath.Dir(file), "gatehouse.yaml"))
	}
}

// expectHealthy runs the command.
func expectHealthy(t *testing.T, envoy, gatehouse string) {
	t.Helper()
	var out, printed bytes.Buffer
	if code := run(t.Context(), []string{"doctor", "--config", gatehouse, envoy}, &out, &printed); code != 0 || !bytes.Contains(out.Bytes(), []byte(": nothing found; ")) {
		t.Errorf("%d: %s%s", code, out.String(), printed.String())
	}
}

func TestDoctorPageIsUpToDate(t *testing.T) {
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != doctor.Page() {
		t.Error("docs/doctor.md is not what the table of findings says: make docs")
	}
}

// TestGeneratedObjectsAreHealthy holds what gatehouse k8s generate prints against the doctor, with Istio's own values: nothing at all is found.
func TestGeneratedObjectsAreHealthy(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../examples/flask-orders")); err != nil {
		t.Fatal(err)
	}
	cfg := filepath.Join(dir, "gatehouse.yaml")
	write := func(name string, args ...string) string {
		var out, said bytes.Buffer
		if code := run(t.Context(), append(args, "--config", cfg), &out, &said); code != 0 {
			t.Fatalf("%v: %d: %s", args, code, said.String())
		}
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("token", "token", "mint", "--sub", "vera") // makes the keys that the configuration names
	for _, mode := range []string{"service", "sidecar"} {
		for _, whose := range []string{"envoy", "istio", "envoy-gateway"} {
			generate := []string{"k8s", "generate", "--mode", mode, "--for", whose, "--app", "orders", "--namespace", "gatehouse", "--app-namespace", "shop"}
			files := []string{write("k8s.yaml", generate...)}
			if whose == "istio" {
				files = append(files, write("mesh.yaml", append(generate, "-o", "mesh")...))
			}
			var out, said bytes.Buffer
			if code := run(t.Context(), append([]string{"doctor", "--config", cfg}, files...), &out, &said); code != 0 || !bytes.Contains(out.Bytes(), []byte(": nothing found; ")) {
				t.Errorf("%s, %s: %d: %s%s", mode, whose, code, out.String(), said.String())
			}
		}
	}
}
