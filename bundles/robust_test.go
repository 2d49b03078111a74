package bundles_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/bundles"
)

// Thousands of consecutive events cause few reads, and the last state wins.
func TestThousandsOfEventsAreFewActivations(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{"authz.rego": answering(0)}
	for i := range 50 {
		files[fmt.Sprintf("lib/m%d.rego", i)] = fmt.Sprintf("package lib.m%d\n", i)
	}
	write(t, dir, files)
	r := run(t, one(dir))
	r.until("0")
	began := time.Now()
	for n := range 100 { // each write is at least two events
		for i := range 50 {
			write(t, dir, map[string]string{fmt.Sprintf("lib/m%d.rego", i): fmt.Sprintf("package lib.m%d\n\nn := %d\n", i, n)})
		}
	}
	write(t, dir, map[string]string{"authz.rego": answering(1)})
	took := time.Since(began)
	n := r.until("1")
	if most := 2 + int(took/(time.Second/2)); n > most {
		t.Errorf("%d activations in %v, want at most %d", n, took, most)
	}
	t.Logf("%d activations of 10,000 events in %v", n, took)
}

// A source that becomes unreadable, for example by a lost permission, is reported and changes nothing; once readable it is read again. A
// link to itself is unreadable for everyone, including root.
func TestUnreadableAndReadableAgain(t *testing.T) {
	base := t.TempDir()
	places := map[string]struct {
		source string            // of the bundle
		broken string            // what becomes unreadable
		put    func(path string) // writes the second version
	}{
		"the folder": {"folder", "folder", func(path string) { write(t, path, map[string]string{"authz.rego": answering(2)}) }},
		"a folder in it": {"outer", "outer/inner", func(path string) {
			write(t, path, map[string]string{"authz.rego": answering(2)})
		}},
		"a file in it": {"files", "files/authz.rego", func(path string) {
			write(t, filepath.Dir(path), map[string]string{"authz.rego": answering(2)})
		}},
		"the archive": {"app.tar.gz", "app.tar.gz", func(path string) {
			atomically(t, path, packed(t, map[string]string{"authz.rego": answering(2)}))
		}},
	}
	write(t, base, map[string]string{"folder/authz.rego": answering(1), "outer/inner/authz.rego": answering(1), "files/authz.rego": answering(1)})
	atomically(t, filepath.Join(base, "app.tar.gz"), packed(t, map[string]string{"authz.rego": answering(1)}))
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			r := run(t, one(filepath.Join(base, place.source)))
			r.until("1")
			path := filepath.Join(base, place.broken)
			must(t, os.Rename(path, filepath.Join(t.TempDir(), "aside")))
			must(t, os.Symlink(filepath.Base(path), path))
			waitFor(t, func() bool {
				s := r.manager.Status()[0]
				return s.Stage == "reading" && s.Revision != "" && !s.ActiveSince.IsZero() && strings.Contains(s.Error, "reading bundle \"app\"")
			})
			r.none()
			must(t, os.Remove(path))
			place.put(path)
			r.until("2")
			waitFor(t, func() bool { return r.manager.Status()[0].Error == "" })
		})
	}
}

// Other changes in an archive's directory do not cause a read.
func TestFilesBesideAnArchiveAreIgnored(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "app.tar.gz")
	atomically(t, path, packed(t, map[string]string{"authz.rego": answering(1)}))
	r := run(t, one(path))
	r.until("1")
	waitFor(t, func() bool { return !r.manager.Status()[0].ActiveSince.IsZero() })
	attempt := r.manager.Status()[0].LastAttempt
	for _, name := range []string{".app.tar.gz.swp", "app.tar.gz~", "app.tar.gz.part", "other.tar.gz", "4913", "sub/app.tar.gz"} {
		write(t, dir, map[string]string{name: "not a bundle"})
	}
	// A relevant event after all of those.
	time.AfterFunc(50*time.Millisecond, func() { _ = os.Chmod(path, 0o600) })
	waitFor(t, func() bool { return r.manager.Status()[0].LastAttempt.After(attempt) })
	if s := r.manager.Status()[0]; s.Error != "" {
		t.Errorf("status %+v", s)
	}
	if n := r.logs.FilterMessage(stays).Len(); n > 0 {
		t.Errorf("%d failures", n)
	}
	r.none()
}

func TestFolderOfAnArchiveRemovedAndCreatedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mounted")
	path := filepath.Join(dir, "app.tar.gz")
	write(t, dir, map[string]string{"app.tar.gz": string(packed(t, map[string]string{"authz.rego": answering(1)}))})
	r := run(t, one(path), func(c *bundles.Config) { c.Poll = 20 * time.Millisecond })
	r.until("1")
	must(t, os.RemoveAll(dir))
	r.says(stays)
	write(t, dir, map[string]string{"app.tar.gz": string(packed(t, map[string]string{"authz.rego": answering(2)}))})
	r.until("2")
}
