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
