package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each piece of gatehouse.yaml in docs/identity.md is one: it has no key that does not exist.
func TestIdentityPage(t *testing.T) {
	text, err := os.ReadFile("../docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	pieces := 0
	for _, block := range strings.Split(string(text), "```yaml\n")[1:] {
		piece, _, _ := strings.Cut(block, "```")
		if strings.HasPrefix(piece, "groups:") {
			continue // Prometheus rules
		}
		file := filepath.Join(t.TempDir(), "gatehouse.yaml")
		if err := os.WriteFile(file, []byte(piece), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := (Source{File: file}).Read(); err != nil {
			t.Errorf("%s\n%v", piece, err)
		}
		pieces++
	}
	if pieces < 5 {
		t.Errorf("only %d pieces of gatehouse.yaml in docs/identity.md", pieces)
	}
}
