package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/envoy/doctor"
)

// TestExamplesAreHealthy holds the configurations that people copy against the doctor.
func TestExamplesAreHealthy(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/envoy.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("the examples are gone: %v (%v)", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found, err := doctor.Examine(file, text)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := printDiagnosis(&out, found); err != nil {
			t.Errorf("%v:\n%s", err, out.String())
		}
	}
}
