package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestEveryCheckIsThere holds the table up to date with the source, so that a change of it shows at once and not only when
// all of them are tried.
func TestEveryCheckIsThere(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range checks {
		text, err := os.ReadFile(filepath.Join("../..", pkg, c.file))
		if err != nil {
			t.Fatal(err)
		}
		if changed, err := c.without(string(text)); err != nil || changed == string(text) || len(c.edits)%2 != 0 {
			t.Errorf("%s: %s: %v", c.file, c.name, err)
		}
		if seen[c.name] {
			t.Errorf("two checks named %q", c.name)
		}
		seen[c.name] = true
	}
	if len(checks) < 80 {
		t.Errorf("only %d checks", len(checks))
	}
}
