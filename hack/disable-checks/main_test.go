package main

import (
	"path/filepath"
	"testing"
)

// TestEveryCheckIsThere holds the table up to date with the source, so that a change of it shows at once and not only when
// all of them are tried.
func TestEveryCheckIsThere(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range checks {
		if _, text, changed, err := c.without(filepath.Join("../..", pkg)); err != nil || changed == text || len(c.edits)%2 != 0 {
			t.Errorf("%s: %s: %v", c.function, c.name, err)
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
