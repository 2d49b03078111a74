package decisionlog_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/decisionlog"
)

// TestDiscard: a log that never runs leaves the disk as it found it; what others have there stays.
func TestDiscard(t *testing.T) {
	for _, test := range []struct {
		name   string
		before []string // files, or folders where they end with a slash
		stays  string
	}{
		{"nothing was there", nil, ""},
		{"the folder above was there", []string{"state/"}, "state"},
		{"the folder was there", []string{"state/decisions/"}, "state/decisions"},
		{"a file was there", []string{"log"}, "log"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range test.before {
				path := filepath.Join(dir, name)
				err := os.MkdirAll(filepath.Dir(path), 0o700)
				if strings.HasSuffix(name, "/") {
					err = os.MkdirAll(path, 0o700)
				} else if err == nil {
					err = os.WriteFile(path, []byte("line\n"), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			cfg := decisionlog.Config{Dir: filepath.Join(dir, "state", "decisions"), File: filepath.Join(dir, "log")}
			l, err := decisionlog.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			l.Discard()
			var left []string
			_ = filepath.Walk(dir, func(path string, info os.FileInfo, _ error) error {
				if rel, _ := filepath.Rel(dir, path); rel != "." {
					left = append(left, rel)
				}
				return nil
			})
			if test.stays == "" && len(left) > 0 || test.stays != "" && (len(left) == 0 || !strings.Contains(strings.Join(left, " ")+" ", test.stays+" ")) {
				t.Errorf("left: %q, want %q", left, test.stays)
			}
			finish(t, run(open(t, cfg))) // and the next one may begin
		})
	}
}

// TestNewThatFailsLeavesNothing: what was made before the problem was found goes again.
func TestNewThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := decisionlog.New(decisionlog.Config{Dir: filepath.Join(dir, "file", "decisions"), File: filepath.Join(dir, "log")})
	if err == nil {
		t.Fatal("a spool below a file")
	}
	if _, err := os.Stat(filepath.Join(dir, "log")); err == nil {
		t.Error("the log's file was left behind")
	}
}
