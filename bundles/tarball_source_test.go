package bundles_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"gatehouse/bundles"
)

// atomically replaces a file by a rename.
func atomically(t testing.TB, path string, content []byte) {
	t.Helper()
	temporary := path + ".new"
	must(t, os.WriteFile(temporary, content, 0o644))
	must(t, os.Rename(temporary, path))
}

func TestArchiveReplacedByRename(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.tar.gz")
	atomically(t, path, packed(t, map[string]string{"authz.rego": answering(0)}))
	r := run(t, one(path))
	r.until("0")
	for i := 1; i <= 5; i++ {
		atomically(t, path, packed(t, map[string]string{"authz.rego": answering(i)}))
		if got := response(t, r.next()); got != string(rune('0'+i)) {
			t.Fatalf("rename %d published %s", i, got)
		}
	}
	r.none()
	if r.logs.FilterMessage(stays).Len() > 0 {
		t.Error("a rename was seen half done")
	}
}

// While an archive is slowly written in place, the previous one stays active.
func TestArchiveWrittenInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.tar.gz")
	atomically(t, path, packed(t, map[string]string{"authz.rego": answering(1)}))
	r := run(t, one(path))
	r.until("1")
	raw := packed(t, map[string]string{"authz.rego": answering(2)})
	f, err := os.Create(path)
	must(t, err)
	for i, b := range raw {
		_, err := f.Write([]byte{b})
		must(t, err)
		if i == len(raw)/2 {
			r.says(stays) // it was read, and refused
		}
	}
	must(t, f.Close())
	if n := r.until("2"); n != 1 {
		t.Errorf("%d activations, want 1", n)
	}
	waitFor(t, func() bool { return r.manager.Status()[0].Error == "" })
}

func TestArchiveInAConfigMap(t *testing.T) {
	v := &volume{t: t, dir: t.TempDir()}
	v.swap(map[string]string{"app.tar.gz": string(packed(t, map[string]string{"authz.rego": answering(0)}))})
	r := run(t, one(filepath.Join(v.dir, "app.tar.gz")))
	r.until("0")
	for i := 1; i <= 5; i++ {
		v.swap(map[string]string{"app.tar.gz": string(packed(t, map[string]string{"authz.rego": answering(i)}))})
		if got := response(t, r.next()); got != string(rune('0'+i)) {
			t.Fatalf("swap %d published %s", i, got)
		}
	}
	r.none()
}

func TestArchiveWithoutEventsIsFoundByLooking(t *testing.T) {
	elsewhere, mounted := t.TempDir(), t.TempDir()
	path := filepath.Join(elsewhere, "app.tar.gz")
	atomically(t, path, packed(t, map[string]string{"authz.rego": answering(1)}))
	must(t, os.Symlink(path, filepath.Join(mounted, "app.tar.gz"))) // nothing happens in the watched directory
	r := run(t, one(filepath.Join(mounted, "app.tar.gz")), func(c *bundles.Config) { c.Poll = 20 * time.Millisecond })
	r.until("1")
	atomically(t, path, packed(t, map[string]string{"authz.rego": answering(2)}))
	r.until("2")
	must(t, os.WriteFile(path, packed(t, map[string]string{"authz.rego": answering(4)}), 0o644)) // the same inode, written in place
	r.until("4")
	must(t, os.Remove(path))
	r.says(stays)
	atomically(t, path, packed(t, map[string]string{"authz.rego": answering(3)}))
	r.until("3")
}
