package bundles_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"gatehouse/bundles"
	"gatehouse/bundles/signature"
	"gatehouse/policy"
)

// numbered returns a bundle whose revision and answer are a number.
func numbered(n int) map[string]string {
	return map[string]string{"authz.rego": answering(n), ".manifest": fmt.Sprintf(`{"revision": "v%d"}`, n)}
}

// archived is a manager on a tarball with a version number.
type archived struct {
	*running
	path string
}

func runArchive(t *testing.T, versions int, options ...option) *archived {
	t.Helper()
	a := &archived{path: filepath.Join(t.TempDir(), "app.tar.gz")}
	atomically(t, a.path, packed(t, numbered(1)))
	a.running = run(t, one(a.path), options...)
	a.until("1")
	for n := 2; n <= versions; n++ {
		a.put(n)
		a.until(fmt.Sprint(n))
	}
	a.settled(versions)
	return a
}

func (a *archived) put(n int) { atomically(a.t, a.path, packed(a.t, numbered(n))) }

// settled waits until the manager has recorded the publication of a version.
func (a *archived) settled(n int) {
	a.t.Helper()
	waitFor(a.t, func() bool { return a.manager.Status()[0].Revision == fmt.Sprintf("v%d", n) })
}

func (a *archived) rollback(to string) bundles.Activation {
	a.t.Helper()
	back, err := a.manager.Rollback(context.Background(), to)
	must(a.t, err)
	return back
}

func (a *archived) history() string {
	var list []string
	for _, h := range a.manager.History() {
		if h.Active {
			h.Revision += "*"
		}
		list = append(list, h.Revision)
	}
	return strings.Join(list, " ")
}

func TestRollback(t *testing.T) {
	a := runArchive(t, 3)
	before := a.manager.Status()[0].Digest
	if back := a.rollback(""); back.Revision != "v2" || !back.Active {
		t.Errorf("rolled back to %+v", back)
	}
	a.until("2")
	s := a.manager.Status()[0]
	if s.Revision != "v2" || !s.Pinned || s.Held != before || s.Error != "" || a.history() != "v3 v2* v1" {
		t.Errorf("status %+v, history %s", s, a.history())
	}
	attempt := a.manager.Status()[0].LastAttempt
	a.put(3) // the same contents, written again
	waitFor(t, func() bool { return a.manager.Status()[0].LastAttempt.After(attempt) })
	a.none()
	a.rollback("")
	a.until("1")
	a.put(4) // a new bundle ends the pin
	a.until("4")
	waitFor(t, func() bool { s := a.manager.Status()[0]; return s.Revision == "v4" && !s.Pinned && s.Held == "" })
	if a.rollback(""); a.history() != "v4 v3 v2 v1*" { // the version before v4, not the bad v3
		t.Errorf("history %s", a.history())
	}
	a.until("1")
}

func TestRollbackByName(t *testing.T) {
	a := runArchive(t, 4)
	list := a.manager.History()
	digest := list[2].Bundles[0].Digest
	for _, name := range []string{"v1", digest, "v4", digest[:8], "v1", "sha256:" + digest, "v3"} {
		a.rollback(name)
		a.next()
	}
	if got := a.history(); got != "v4 v3* v2 v1" {
		t.Errorf("history %s", got)
	}
	for name, complaint := range map[string]string{"v3": `"v3" is active already`, "v9": `no snapshot of "v9" is kept`, digest[:5]: "is kept"} {
		if _, err := a.manager.Rollback(context.Background(), name); err == nil || !strings.Contains(err.Error(), complaint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if a.rollback("v4"); a.manager.Status()[0].Pinned {
		t.Error("pinned to what the source offers")
	}
	a.next()
	a.none()
}

func TestUnpin(t *testing.T) {
	a := runArchive(t, 2)
	a.rollback("")
	a.until("1")
	must(t, a.manager.Unpin(context.Background()))
	a.until("2")
	if s := a.manager.Status()[0]; s.Pinned || s.Revision != "v2" {
		t.Errorf("status %+v", s)
	}
	must(t, a.manager.Unpin(context.Background())) // nothing is pinned
	a.none()
}

// A broken bundle that arrives during a pin changes nothing, and the pin stays.
func TestPinOutlivesABadBundle(t *testing.T) {
	a := runArchive(t, 2)
	a.rollback("")
	a.until("1")
	atomically(t, a.path, packed(t, map[string]string{"authz.rego": broken}))
	a.says(stays)
	a.put(2)
	waitFor(t, func() bool { s := a.manager.Status()[0]; return s.Error == "" && s.Pinned && s.Revision == "v1" })
	a.none()
}

// One of two bundles is rolled back; the other is still updated.
func TestPinIsOfOneBundle(t *testing.T) {
	code, data, sources := twoSources(t)
	r := run(t, sources)
	r.until("1")
	write(t, code, map[string]string{"authz.rego": "package authz\n\nallow := {\"allowed\": true, \"headers\": {\"x\": concat(\"\", [\"bad\", data.numbers.n])}}\n"})
	r.until("bad1")
	waitFor(t, func() bool { return len(r.manager.History()) == 2 })
	_, err := r.manager.Rollback(context.Background(), "")
	must(t, err)
	r.until("1")
	write(t, data, map[string]string{"numbers/data.json": `{"n": "2"}`})
	r.until("2")
	s := r.manager.Status()
	if !s[0].Pinned || s[1].Pinned {
		t.Errorf("status %+v", s)
	}
	must(t, r.manager.Unpin(context.Background()))
	r.until("bad2")
}

func TestHistoryIsBounded(t *testing.T) {
	if a := runArchive(t, 6, func(c *bundles.Config) { c.Keep = 2 }); a.history() != "v6* v5 v4" {
		t.Errorf("by number: %s", a.history())
	}
	if a := runArchive(t, 6, func(c *bundles.Config) { c.KeepBytes = 220 }); a.history() != "v6* v5 v4" {
		t.Errorf("by size: %s", a.history())
	}
	if a := runArchive(t, 3, func(c *bundles.Config) { c.KeepBytes = 1 }); a.history() != "v3* v2" {
		t.Errorf("by size, the last one: %s", a.history())
	}
	a := runArchive(t, 3, func(c *bundles.Config) { c.Keep = -1 })
	if _, err := a.manager.Rollback(context.Background(), ""); err == nil || a.history() != "v3*" {
		t.Errorf("none: %s, error %v", a.history(), err)
	}
}

func TestRollbackThatDoesNotFit(t *testing.T) {
	var refuse atomic.Bool
	published := make(chan *policy.Snapshot, 100)
	a := &archived{path: filepath.Join(t.TempDir(), "app.tar.gz")}
	atomically(t, a.path, packed(t, numbered(1)))
	a.running = run(t, one(a.path), func(c *bundles.Config) {
		c.Publish = func(_ context.Context, s *policy.Snapshot) error {
			if refuse.Load() {
				return errors.New("GET /orders has no rule")
			}
			published <- s
			return nil
		}
	})
	a.running.published = published
	a.until("1")
	a.put(2)
	a.until("2")
	a.settled(2)
	refuse.Store(true)
	if _, err := a.manager.Rollback(context.Background(), ""); err == nil || !strings.Contains(err.Error(), "it does not fit the rest of the configuration any more: GET /orders has no rule") {
		t.Errorf("error %v", err)
	}
	if s := a.manager.Status()[0]; s.Revision != "v2" || s.Pinned {
		t.Errorf("status %+v", s)
	}
}

// A manager that succeeds another, as at a reload, keeps its pins.
func TestPinOutlivesAReload(t *testing.T) {
	private, public := keyPair(t, "main", "EdDSA", "")
	version := func(n int) []byte {
		return packed(t, signedWith(t, private, map[string]string{"authz.rego": answering(n),
			".manifest": fmt.Sprintf(`{"revision": "v%d", "metadata": {"serial": %d}}`, n, n)}))
	}
	path := filepath.Join(t.TempDir(), "app.tar.gz")
	atomically(t, path, version(2))
	sources := []bundles.Source{{Name: "app", Path: path, Verification: &signature.Verification{Keys: []signature.Key{public}, Serial: true}}}
	a := &archived{running: run(t, sources), path: path}
	a.until("2")
	atomically(t, path, version(3))
	a.until("3")
	a.settled(3)
	a.rollback("")
	waitFor(t, func() bool { return a.manager.Status()[0].Pinned })

	next := newRunning(t, sources, func(c *bundles.Config) { c.Succeeds = a.manager })
	s, err := next.manager.Load(context.Background())
	must(t, err)
	if got := response(t, s); got != "2" {
		t.Errorf("loaded %s", got)
	}
	next.start()
	next.until("2")
	waitFor(t, func() bool { s := next.manager.Status()[0]; return s.Pinned && s.Revision == "v2" && s.Error == "" })
	atomically(t, path, version(1))
	if e := next.says(stays); !strings.Contains(e.ContextMap()["error"].(string), "serial 1 is older than 3") {
		t.Errorf("logged %v", e.ContextMap())
	}
	atomically(t, path, version(3))
	waitFor(t, func() bool { return next.manager.Status()[0].Error == "" })
	next.none()
	must(t, next.manager.Unpin(context.Background()))
	next.until("3")
}

// Rollback and Unpin do not block for ever if Run is not running.
func TestRollbackWithoutRun(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, numbered(1))
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if _, err := newRunning(t, one(dir)).manager.Rollback(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
