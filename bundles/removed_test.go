package bundles_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/bundles"
	"gatehouse/bundles/signature"
)

// TestStateThatIsRemoved removes the state directory while it is in use. The active and pinned bundles are written again, and neither a
// reload nor a restart activates what was rolled back.
func TestStateThatIsRemoved(t *testing.T) {
	for name, remove := range map[string]func(*testing.T, *life){
		"folder":  func(t *testing.T, l *life) { removeAll(t, l.dir) },
		"history": func(t *testing.T, l *life) { must(t, os.Remove(filepath.Join(l.dir, "history.json"))) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLife(t)
			l.put(serial(1))
			look := func(c *bundles.Config) { c.Poll = 10 * time.Millisecond }
			l.begin(l.source(nil), look)
			l.active("v1")
			l.put(serial(2))
			l.active("v2")
			_, err := l.manager.Rollback(context.Background(), "")
			must(t, err)
			remove(t, l)
			waitFor(t, func() bool { _, err := os.Stat(filepath.Join(l.dir, "history.json")); return err == nil })
			before := l.manager
			l.begin(l.source(nil), look, func(c *bundles.Config) { c.Succeeds = before })
			l.active("v1")
			l.begin(l.source(nil), look)
			l.active("v1")
			if s := l.manager.Status()[0]; !s.Pinned {
				t.Errorf("status %+v", s)
			}
			l.put(serial(0)) // its serial does not matter here: it is another bundle, and ends the pin
			l.active("v0")
		})
	}
}

// TestKeptBundleThatIsRemoved checks that a remote source's bundle is fetched and written again.
func TestKeptBundleThatIsRemoved(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	server := newBundleServer(t, answers(1))
	r := run(t, from(server.URL), keeping(dir))
	r.next()
	kept := func() bool { return !modified(dir).IsZero() }
	waitFor(t, kept)
	removeAll(t, dir)
	waitFor(t, kept)
	r.none()
	r.remote("all well", func(s bundles.Status) bool { return !s.Remote.NotKept && s.Error == "" })
}

// TestOneBundleBeforeAndAfterSigning has a bundle whose digest changes once its signature is required. It is in the history once, so that a
// rollback goes to the bundle before it.
func TestOneBundleBeforeAndAfterSigning(t *testing.T) {
	private, public := keyPair(t, "main", "EdDSA", "")
	l := newLife(t)
	l.put(signedWith(t, private, serial(1)))
	l.begin(l.source(nil))
	l.active("v1")
	l.put(signedWith(t, private, serial(2)))
	l.active("v2")
	before := l.manager
	signing := &signature.Verification{Keys: []signature.Key{public}}
	l.begin(l.source(signing), func(c *bundles.Config) { c.Succeeds = before })
	l.active("v2")
	if got := (&archived{running: l.running}).history(); got != "v2* v1" {
		t.Errorf("history %s", got)
	}
	a, err := l.manager.Rollback(context.Background(), "")
	must(t, err)
	if a.Revision != "v1" {
		t.Errorf("rolled back to %s", a.Revision)
	}
}

// TestBusy checks that Busy is called for large bundles, and its result at the end, whatever the outcome.
func TestBusy(t *testing.T) {
	var began, ended atomic.Int64
	l := newLife(t)
	l.put(serial(1))
	l.begin(l.source(nil), func(c *bundles.Config) {
		c.Busy = func() func() { began.Add(1); return func() { ended.Add(1) } }
	})
	l.active("v1")
	if n := began.Load(); n != 0 {
		t.Errorf("a small bundle was %d times announced", n)
	}
	large := serial(2)
	large["authz.rego"] += "\n#" + strings.Repeat(" ", 100<<10) + "\n"
	l.put(large)
	l.active("v2")
	after := began.Load()
	large = serial(3)
	large["authz.rego"] += "\nnothing := nowhere\n#" + strings.Repeat(" ", 100<<10) + "\n"
	l.put(large)
	l.refused("compiling", "nowhere")
	if after == 0 || began.Load() == after || began.Load() != ended.Load() {
		t.Errorf("%d began before the bundle that does not compile, then %d in all, %d ended", after, began.Load(), ended.Load())
	}
}

// removeAll removes a directory that may still be written to.
func removeAll(t *testing.T, dir string) {
	t.Helper()
	waitFor(t, func() bool { return os.RemoveAll(dir) == nil })
}
