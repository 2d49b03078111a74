package bundles_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/bundles"
	"gatehouse/policy/bundle"
)

// keptArchive waits until the active bundle is archived, and reads it back.
func (r *running) keptArchive(dir string) *bundle.Bundle {
	r.t.Helper()
	status := r.manager.Status()[0]
	digest := status.Digest
	waitFor(r.t, func() bool { _, err := os.Stat(filepath.Join(dir, digest+".tar.gz")); return err == nil })
	b, err := bundles.ReadArchived(dir, "again", digest, bundle.Limits{})
	must(r.t, err)
	if b.Digest() != digest || b.Revision() != status.Revision {
		r.t.Errorf("kept with digest %s and revision %s: %+v", b.Digest(), b.Revision(), status)
	}
	return b
}

// atomicallyIn is atomically in a directory that it creates if missing.
func atomicallyIn(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	atomically(t, path, []byte(content))
}

// keptFiles returns the archived digests, in order.
func keptFiles(t *testing.T, dir string) (digests []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		digests = append(digests, strings.TrimSuffix(e.Name(), ".tar.gz"))
	}
	return digests
}

// TestArchiveHasTheDigestOfTheLog archives bundles of every kind of source: what is read back has the digest that decisions record.
func TestArchiveHasTheDigestOfTheLog(t *testing.T) {
	files := map[string]string{".manifest": `{"roots": ["authz", "lists"], "revision": "r1", "metadata": {"serial": 3}}`, "authz.rego": answering(1),
		"authz_test.rego": "package authz_test\n\ntest_a if true\n", "lists/a/data.json": `{"x": [1, 2.50]}`, "lists/b/data.yaml": "y: z\n",
		"lists/other.json": "{}", "README.md": "text", ".hidden": "text"}
	for name, set := range map[string]func(t *testing.T, path string) bundles.Source{
		"directory": func(t *testing.T, path string) bundles.Source {
			for name, content := range files {
				atomicallyIn(t, filepath.Join(path, name), content)
			}
			return bundles.Source{Name: "app", Path: path}
		},
		"tarball": func(t *testing.T, path string) bundles.Source {
			atomically(t, path+".tar.gz", packed(t, files))
			return bundles.Source{Name: "app", Path: path + ".tar.gz"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			source := set(t, filepath.Join(t.TempDir(), "policy"))
			dir := filepath.Join(t.TempDir(), "past")
			r := run(t, []bundles.Source{source}, func(c *bundles.Config) { c.Archive = bundles.Archive{Dir: dir, For: time.Hour} })
			r.next()
			waitFor(t, func() bool { return r.manager.Status()[0].Digest != "" })
			r.keptArchive(dir)
		})
	}
}

// TestArchiveOfDeltas archives each bundle made by a delta, and the bundles that it was made from.
func TestArchiveOfDeltas(t *testing.T) {
	t.Parallel()
	server, state := newBundleServer(t, withData(1)), t.TempDir()
	full := func(n int) []byte { return packed(t, withData(n)) }
	dir := filepath.Join(t.TempDir(), "past")
	server.holds = true
	r := newRunning(t, from(server.URL, func(c *bundles.Remote) { c.Interval, c.LongPoll = time.Hour, 20*time.Second }),
		func(c *bundles.Config) { c.Dir, c.Archive = state, bundles.Archive{Dir: dir, For: time.Hour} })
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.manager.Run(ctx) }()
	r.next()
	for n := 2; n <= 4; n++ {
		r.remote("a held question", func(bundles.Status) bool {
			_, last := server.seen()
			return last.Header.Get("If-None-Match") == server.current()
		})
		patch, _ := json.Marshal(map[string]any{"data": []any{map[string]any{"op": "upsert", "path": "/list/n", "value": n}}})
		server.setDelta(full(n), packed(t, map[string]string{"patch.json": string(patch)}))
		digest := r.next().Bundles()[0].Digest
		waitFor(t, func() bool { return r.manager.Status()[0].Digest == digest })
		waitFor(t, func() bool { return len(keptFiles(t, dir)) == n })
		r.keptArchive(dir)
	}
	if info, err := os.Stat(filepath.Join(dir, r.manager.Status()[0].Digest+".tar.gz")); err != nil || info.Size() > 1000 {
		t.Errorf("a delta takes %d bytes: %v", info.Size(), err)
	}
	// The same again, from the copy that a restart begins with.
	waitFor(t, func() bool {
		parts, err := bundles.LoadKept(state, "app", server.URL, 1<<20)
		return err == nil && len(parts) == 4
	})
	stop()
	must(t, <-done)
	server.failing(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	anew := filepath.Join(t.TempDir(), "past")
	again := run(t, from(server.URL, func(c *bundles.Remote) { c.Interval = time.Hour }),
		func(c *bundles.Config) { c.Dir, c.Archive = state, bundles.Archive{Dir: anew, For: time.Hour} })
	again.next()
	waitFor(t, func() bool { return again.manager.Status()[0].Digest != "" })
	again.keptArchive(anew)
	if got, want := keptFiles(t, anew), keptFiles(t, dir); !slices.Equal(got, want) {
		t.Errorf("kept after a restart are %v, want %v", got, want)
	}
}

func withData(n int) map[string]string {
	return map[string]string{"authz.rego": "package authz\n\nallow := {\"allowed\": true, \"reason\": data.list.n}\n",
		"data.json": fmt.Sprintf(`{"list": {"n": %d, "more": %q}}`, n, strings.Repeat("x", 1<<16))}
}

// TestArchiveIsBounded in time and in bytes, except for active bundles.
func TestArchiveIsBounded(t *testing.T) {
	for name, test := range map[string]struct {
		archive bundles.Archive
		passes  time.Duration // between two activations
		waitFor int           // files
	}{
		"nothing is too old":         {bundles.Archive{For: 10 * time.Hour}, time.Hour, 4},
		"the older ones are too old": {bundles.Archive{For: 90 * time.Minute}, time.Hour, 3},
		"too large all together":     {bundles.Archive{For: 100 * time.Hour, Bytes: 1}, time.Hour, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var passed atomic.Int64
			test.archive.Dir = filepath.Join(t.TempDir(), "past")
			start := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
			a := runArchive(t, 1, func(c *bundles.Config) {
				c.Archive, c.Keep = test.archive, -1
				c.Clock = func() time.Time { return start.Add(time.Duration(passed.Load())) }
			})
			var digests []string
			for n := 1; n <= 4; n++ {
				if n > 1 {
					passed.Add(int64(test.passes))
					a.put(n)
					a.until(fmt.Sprint(n))
				}
				a.settled(n)
				a.keptArchive(test.archive.Dir)
				digests = append(digests, a.manager.Status()[0].Digest)
			}
			waitFor(t, func() bool { return len(keptFiles(t, test.archive.Dir)) == test.waitFor })
			want := slices.Sorted(slices.Values(digests[4-test.waitFor:]))
			if got := keptFiles(t, test.archive.Dir); !slices.Equal(got, want) {
				t.Errorf("kept are %v, want %v of %v", got, want, digests)
			}
		})
	}
}

// TestReadArchive refuses contents with another digest than the file's name.
func TestReadArchive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "past")
	left := filepath.Join(dir, strings.Repeat("0", 64)+".tar.gz.new")
	atomicallyIn(t, left, "half")
	a := runArchive(t, 1, func(c *bundles.Config) { c.Archive = bundles.Archive{Dir: dir, For: time.Hour} })
	a.keptArchive(dir)
	digest := a.manager.Status()[0].Digest
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a crash left behind is still there: %v", err)
	}
	for _, name := range []string{"", "..", "/etc/passwd", strings.ToUpper(digest), digest[:40], strings.Repeat("1", 64)} {
		if _, err := bundles.ReadArchived(dir, "app", name, bundle.Limits{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", name, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, digest+".tar.gz"))
	must(t, err)
	other := strings.Repeat("1", 64)
	for what, content := range map[string][]byte{"another": text, "half": text[:len(text)/2], "nothing": nil,
		"a circle": packed(t, map[string]string{".before": other, "patch.json": `{"data":[]}`})} {
		must(t, os.WriteFile(filepath.Join(dir, other+".tar.gz"), content, 0o600))
		if _, err := bundles.ReadArchived(dir, "app", other, bundle.Limits{}); err == nil {
			t.Errorf("%s: it was read", what)
		}
	}
}
