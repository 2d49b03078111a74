package bundles_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/bundles"
	"gatehouse/bundles/signature"
	"gatehouse/policy"
)

// life is a sequence of processes or configurations on the same directory.
type life struct {
	t    *testing.T
	dir  string
	path string
	*running
	stop func()
}

func newLife(t *testing.T) *life {
	root := t.TempDir()
	return &life{t: t, dir: filepath.Join(root, "state"), path: filepath.Join(root, "app.tar.gz")}
}

func (l *life) put(files map[string]string) { atomically(l.t, l.path, packed(l.t, files)) }

func (l *life) source(v *signature.Verification) []bundles.Source {
	return []bundles.Source{{Name: "app", Path: l.path, Verification: v}}
}

// begin ends the current manager and runs another on the same directory, as after a restart or a reload.
func (l *life) begin(sources []bundles.Source, options ...option) {
	l.t.Helper()
	l.end()
	l.running = newRunning(l.t, sources, append([]option{keeping(l.dir)}, options...)...)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.manager.Run(ctx) }()
	l.stop = func() { stop(); must(l.t, <-done); l.stop = nil }
	l.t.Cleanup(l.end)
}

func (l *life) end() {
	if l.stop != nil {
		l.stop()
	}
}

func (l *life) active(revision string) {
	l.t.Helper()
	waitFor(l.t, func() bool { return l.manager.Status()[0].Revision == revision })
}

func (l *life) refused(stage, complaint string) bundles.Status {
	l.t.Helper()
	var s bundles.Status
	waitFor(l.t, func() bool {
		s = l.manager.Status()[0]
		return s.Stage == stage && strings.Contains(s.Error, complaint)
	})
	return s
}

// serial returns a bundle with a revision, a number and a serial.
func serial(n int) map[string]string {
	return map[string]string{"authz.rego": answering(n), ".manifest": fmt.Sprintf(`{"revision": "v%d", "metadata": {"serial": %d}}`, n, n)}
}

// pinnedAt1 leaves a process in which v2 was rolled back to v1, with a history of three.
func (l *life) pinnedAt1(first, second map[string]string, v *signature.Verification) {
	l.t.Helper()
	l.put(first)
	l.begin(l.source(v))
	l.active("v1")
	l.put(second)
	l.active("v2")
	_, err := l.manager.Rollback(context.Background(), "v1")
	must(l.t, err)
	l.active("v1")
}

// TestARollbackOutlivesARestart checks that pin, history and serials survive a restart and a reload, and that the pin ends as it would have.
func TestARollbackOutlivesARestart(t *testing.T) {
	for _, how := range []string{"restart", "reload", "restart without its source"} {
		t.Run(how, func(t *testing.T) {
			l := newLife(t)
			l.pinnedAt1(serial(1), serial(2), nil)
			before := l.manager
			if how == "restart without its source" {
				must(t, os.Rename(l.path, l.path+".away"))
				must(t, os.WriteFile(l.path, []byte("no bundle"), 0o600))
			}
			l.begin(l.source(nil), func(c *bundles.Config) {
				if how == "reload" {
					c.Succeeds = before
				}
			})
			if got := response(t, l.next()); got != "1" {
				t.Fatalf("answer %s", got)
			}
			l.active("v1")
			if how == "restart without its source" {
				must(t, os.Rename(l.path+".away", l.path))
				l.until2()
			}
			waitFor(t, func() bool { s := l.manager.Status()[0]; return s.Pinned && s.Error == "" && s.Held != "" })
			if got := (&archived{running: l.running}).history(); got != "v2 v1*" {
				t.Errorf("history %s", got)
			}
			must(t, l.manager.Unpin(context.Background()))
			l.active("v2")
			l.begin(l.source(nil))
			l.active("v2")
			if s := l.manager.Status()[0]; s.Pinned {
				t.Error("it is pinned again")
			}
			l.put(serial(3))
			l.active("v3")
		})
	}
}

// until2 polls the source once, where no event is expected.
func (l *life) until2() {
	l.t.Helper()
	atomically(l.t, l.path, packed(l.t, serial(2)))
	waitFor(l.t, func() bool { return l.manager.Status()[0].Error == "" })
}

// TestTodaysRules rolls v2 back to v1, then changes the configuration by a reload or a restart. v1 was valid before; afterwards what is
// active is valid under the new configuration, or nothing is active.
func TestTodaysRules(t *testing.T) {
	private, public := keyPair(t, "main", "EdDSA", "")
	otherPrivate, otherPublic := keyPair(t, "main", "EdDSA", "") // with the same id
	_, ecPublic := keyPair(t, "main", "ES256", "")
	scoped := public
	scoped.Scope = "prod"
	verification := func(k signature.Key) *signature.Verification {
		return &signature.Verification{Keys: []signature.Key{k}}
	}
	signed := func(n int) map[string]string { return signedWith(t, private, serial(n)) }
	plainSerial := map[string]string{"authz.rego": answering(1), ".manifest": `{"revision": "v1"}`}
	calling := map[string]string{"authz.rego": strings.Replace(answering(1), "package authz\n", "package authz\n\nx := http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1:1\"})\n", 1), ".manifest": `{"revision": "v1"}`}
	tests := map[string]struct {
		first, second map[string]string
		before, now   *signature.Verification
		old           func(*bundles.Config)
		change        func(*bundles.Config)
		complaint     string
	}{
		"signing is switched on":   {first: serial(1), second: signed(2), now: verification(public), complaint: "is not signed"},
		"the key was replaced":     {first: signed(1), second: signedWith(t, otherPrivate, serial(2)), before: nil, now: verification(otherPublic), complaint: "verification error"},
		"the key was removed":      {first: signed(1), second: signed(2), before: verification(public), now: verification(func() signature.Key { k := otherPublic; k.ID = "other"; return k }()), complaint: `key "main", which is not configured`},
		"the algorithm is another": {first: signed(1), second: signed(2), before: verification(public), now: verification(ecPublic), complaint: "it was made with EdDSA"},
		"the scope is another":     {first: signed(1), second: signed(2), before: verification(public), now: verification(scoped), complaint: "scope"},
		"serials are asked for":    {first: signedWith(t, private, plainSerial), second: signed(2), before: verification(public), now: &signature.Verification{Keys: []signature.Key{public}, Serial: true}, complaint: "no serial"},
		"the limits are lower":     {first: map[string]string{"authz.rego": answering(1), ".manifest": `{"revision": "v1"}`, "x/data.json": `{"a": "` + strings.Repeat("a", 5000) + `"}`}, second: serial(2), change: func(c *bundles.Config) { c.Limits.File = 4000 }, complaint: "larger than 4000 bytes"},
		"a built-in is off": {first: calling, second: serial(2), old: func(c *bundles.Config) {
			c.Policy.Capabilities.HTTPSend, c.Policy.Capabilities.HTTPSendPrivate = []string{"127.0.0.1"}, true
		}, complaint: "off by default"},
		"the decision is another": {first: map[string]string{"authz.rego": answering(1), ".manifest": `{"revision": "v1"}`}, second: map[string]string{"authz.rego": answering(2) + "\nother := true\n", ".manifest": `{"revision": "v2"}`}, change: func(c *bundles.Config) { c.Policy.Decision = "authz/other" }, complaint: "is not defined"},
		"a smoke test is another": {first: serial(1), second: serial(2), change: func(c *bundles.Config) {
			c.Smoke = func(_ context.Context, s *policy.Snapshot) error { return not1(t, s) }
		}, complaint: "smoke.yaml:3"},
		"its tests are to be run": {first: map[string]string{"authz.rego": answering(1), ".manifest": `{"revision": "v1"}`, "a_test.rego": "package a_test\n\ntest_a if false\n"}, second: serial(2), old: func(c *bundles.Config) { c.SkipTests = true }, complaint: "test_a: it is not true"},
		"it does not fit what is here": {first: serial(1), second: serial(2), change: func(c *bundles.Config) {
			publish := c.Publish
			c.Publish = func(ctx context.Context, s *policy.Snapshot) error {
				return errors.Join(not1(t, s), errIf(not1(t, s) == nil, publish, ctx, s))
			}
		}, complaint: "smoke.yaml:3"},
	}
	for name, test := range tests {
		for _, reload := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, reload %v", name, reload), func(t *testing.T) {
				l := newLife(t)
				l.put(test.first)
				old := func(c *bundles.Config) {
					if test.old != nil {
						test.old(c)
					}
				}
				l.begin(l.source(test.before), old)
				l.active("v1")
				l.put(test.second)
				l.active("v2")
				_, err := l.manager.Rollback(context.Background(), "")
				must(t, err)
				l.active("v1")
				before := l.manager
				change := func(c *bundles.Config) {
					if reload {
						c.Succeeds = before
					}
					if test.change != nil {
						test.change(c)
					}
				}
				// Load reports it: serve then refuses the reload, and the running policy stays.
				checking := newRunning(t, l.source(test.now), keeping(l.dir), change)
				if _, err := checking.manager.Load(context.Background()); err == nil && !strings.Contains(name, "fit") || err != nil && !strings.Contains(err.Error(), test.complaint) {
					t.Errorf("loading: %v, want %q", err, test.complaint)
				}
				l.begin(l.source(test.now), change)
				stage := ""
				waitFor(t, func() bool {
					s := l.manager.Status()[0]
					stage = s.Stage
					return strings.Contains(s.Error, test.complaint) && s.Revision == ""
				})
				l.none()
				if list := l.manager.Degraded(); len(list) != 1 || !strings.Contains(list[0], `bundle "app" is refused since `) || !strings.Contains(list[0], stage) || !strings.Contains(list[0], "no policy of it is active") {
					t.Errorf("degraded %q", list)
				}
				// Only an operator's action resolves it.
				err = l.manager.Unpin(context.Background())
				switch good := test.before == nil && test.now == nil || strings.Contains(name, "switched on") || strings.Contains(name, "replaced") || strings.Contains(name, "serials"); {
				case good && err != nil:
					t.Errorf("unpinning: %v", err)
				case good:
					l.active("v2")
					// v1 in the history is refused as well.
					if _, err := l.manager.Rollback(context.Background(), "v1"); err == nil || !strings.Contains(err.Error(), test.complaint) {
						t.Errorf("rolling back again: %v", err)
					}
					if s := l.manager.Status()[0]; s.Revision != "v2" {
						t.Errorf("status %+v", s)
					}
				default:
					l.none()
				}
			})
		}
	}
}

func not1(t *testing.T, s *policy.Snapshot) error {
	if response(t, s) == "1" {
		return errors.New("smoke.yaml:3: admins are locked out")
	}
	return nil
}

func errIf(cond bool, publish func(context.Context, *policy.Snapshot) error, ctx context.Context, s *policy.Snapshot) error {
	if cond {
		return publish(ctx, s)
	}
	return nil
}

// A key file replaced at run time applies to rollbacks from then on, and the active bundle is degraded until it is signed with the new key.
func TestAKeyThatIsReplacedCountsForTheHistory(t *testing.T) {
	private, public := keyPair(t, "main", "EdDSA", "")
	nextPrivate, next := keyPair(t, "main", "EdDSA", "")
	v := &signature.Verification{Keys: []signature.Key{public}, Serial: true}
	l := newLife(t)
	l.put(signedWith(t, private, serial(1)))
	l.begin(l.source(v), func(c *bundles.Config) { c.Poll = 20 * time.Millisecond })
	l.active("v1")
	l.put(signedWith(t, private, serial(2)))
	l.active("v2")
	content, err := os.ReadFile(next.File)
	must(t, err)
	atomically(t, public.File, content)
	l.refused("verifying", "verification error")
	if _, err := l.manager.Rollback(context.Background(), "v1"); err == nil || !strings.Contains(err.Error(), "it does not pass the current rules") {
		t.Errorf("rolled back: %v", err)
	}
	l.put(signedWith(t, nextPrivate, serial(2)))
	waitFor(t, func() bool { return l.manager.Status()[0].Error == "" })
	l.put(signedWith(t, nextPrivate, serial(3)))
	l.active("v3")
	_, err = l.manager.Rollback(context.Background(), "v2") // the bundle with the new signature is used
	must(t, err)
	l.active("v2")
}

// A remote bundle is verified with the current keys although its server answers "not modified".
func TestAKeyThatIsReplacedCountsForRemoteBundles(t *testing.T) {
	private, public := keyPair(t, "main", "EdDSA", "")
	_, next := keyPair(t, "main", "EdDSA", "")
	server := newBundleServer(t, answers(0))
	server.set(packed(t, signedWith(t, private, serial(1))))
	sources := from(server.URL)
	sources[0].Verification = &signature.Verification{Keys: []signature.Key{public}}
	dir := t.TempDir()
	r := run(t, sources, keeping(dir), func(c *bundles.Config) { c.Poll = 20 * time.Millisecond })
	r.next()
	good, err := os.ReadFile(public.File)
	must(t, err)
	bad, err := os.ReadFile(next.File)
	must(t, err)
	atomically(t, public.File, bad)
	r.remote("the refusal", func(s bundles.Status) bool { return s.Stage == "verifying" })
	// The copy on disk does not bypass it.
	server.failing(unavailable)
	again := run(t, sources, keeping(dir))
	again.remote("the refusal", func(s bundles.Status) bool { return s.Stage == "verifying" })
	again.none()
	server.failing(nil)
	atomically(t, public.File, good)
	r.remote("the return", func(s bundles.Status) bool { return s.Error == "" })
	if got := response(t, again.next()); got != "1" {
		t.Errorf("answer %s", got)
	}
}

// TestAPinIsOfOnePlace checks that another path or URL is another bundle, and another name for the same source is not.
func TestAPinIsOfOnePlace(t *testing.T) {
	t.Run("another path", func(t *testing.T) {
		l := newLife(t)
		l.pinnedAt1(serial(1), serial(2), nil)
		other := filepath.Join(t.TempDir(), "other.tar.gz")
		atomically(t, other, packed(t, serial(7)))
		l.begin([]bundles.Source{{Name: "app", Path: other}})
		l.active("v7")
		if s := l.manager.Status()[0]; s.Pinned || len(l.manager.History()) != 1 {
			t.Errorf("status %+v, history %v", s, l.manager.History())
		}
	})
	t.Run("another path with the same bundle", func(t *testing.T) {
		l := newLife(t)
		l.pinnedAt1(serial(1), serial(2), nil)
		other := filepath.Join(t.TempDir(), "other.tar.gz")
		atomically(t, other, packed(t, serial(2)))
		l.begin([]bundles.Source{{Name: "app", Path: other}})
		l.active("v2")
	})
	t.Run("another name", func(t *testing.T) {
		l := newLife(t)
		l.pinnedAt1(serial(1), serial(2), nil)
		l.begin([]bundles.Source{{Name: "renamed", Path: l.path}})
		l.active("v1")
		if s := l.manager.Status()[0]; !s.Pinned {
			t.Errorf("status %+v", s)
		}
	})
	t.Run("a query of a URL", func(t *testing.T) {
		server, dir := newBundleServer(t, answers(1)), t.TempDir()
		fill(t, dir, from(server.URL+"/b?tenant=blue"))
		server.failing(unavailable)
		r := run(t, from(server.URL+"/b?tenant=green"), keeping(dir))
		line := r.says("bundle kept on disk is not used")
		if text := fmt.Sprint(line.ContextMap()); strings.Contains(text, "blue") {
			t.Errorf("the query is shown: %s", text)
		}
		r.none()
	})
	t.Run("names that were exchanged", func(t *testing.T) {
		dir := t.TempDir()
		a, b := filepath.Join(dir, "a.tar.gz"), filepath.Join(dir, "b.tar.gz")
		number := func(root string, n int) []byte {
			return packed(t, map[string]string{".manifest": fmt.Sprintf(`{"roots": [%q], "revision": "%s%d"}`, root, root, n), root + "/data.json": fmt.Sprintf(`{"n": %d}`, n)})
		}
		rule := filepath.Join(dir, "rule.tar.gz")
		atomically(t, rule, packed(t, map[string]string{".manifest": `{"roots": ["authz"]}`,
			"authz.rego": "package authz\n\nallow := {\"allowed\": true, \"headers\": {\"x\": sprintf(\"%d %d\", [data.a.n, data.b.n])}}\n"}))
		atomically(t, a, number("a", 1))
		atomically(t, b, number("b", 1))
		l := newLife(t)
		sources := func(first, second string) []bundles.Source {
			return []bundles.Source{{Name: "first", Path: first}, {Name: "second", Path: second}, {Name: "rule", Path: rule}}
		}
		l.begin(sources(a, b))
		l.until("1 1")
		atomically(t, a, number("a", 2))
		l.until("2 1")
		l.active("a2")
		_, err := l.manager.Rollback(context.Background(), "")
		must(t, err)
		l.until("1 1")
		l.begin(sources(b, a))
		l.until("1 1")
		waitFor(t, func() bool { s := l.manager.Status(); return !s[0].Pinned && s[1].Pinned && s[1].Revision == "a1" })
	})
}

// A pinned remote bundle is not downloaded again after a restart just because it may not become active: the copy on disk is intact.
func TestAPinnedRemoteBundleIsNotFetchedAgain(t *testing.T) {
	server := newBundleServer(t, answers(1))
	l := &life{t: t, dir: t.TempDir()}
	l.begin(from(server.URL))
	l.until("1")
	server.set(packed(t, answers(2)))
	l.until("2")
	second := packed(t, answers(2))
	waitFor(t, func() bool {
		parts, err := bundles.LoadKept(l.dir, "app", server.URL, 1<<20)
		return err == nil && bytes.Equal(parts[0], second)
	})
	_, err := l.manager.Rollback(context.Background(), "")
	must(t, err)
	l.begin(from(server.URL))
	l.until("1")
	n, _ := server.seen()
	waitFor(t, func() bool { now, _ := server.seen(); return now > n+1 })
	if s := l.manager.Status()[0]; !s.Pinned || !s.Remote.Downloaded.IsZero() {
		t.Errorf("status %+v, remote %+v", s, *s.Remote)
	}
	if l.logs.FilterMessage("bundle kept on disk is not used").Len() > 0 {
		t.Error("it says that something is wrong with the copy")
	}
}

// TestSerialsOutliveARestart, also of a source with a path, and also if an older bundle is pinned.
func TestSerialsOutliveARestart(t *testing.T) {
	private, public := keyPair(t, "main", "EdDSA", "")
	v := &signature.Verification{Keys: []signature.Key{public}, Serial: true}
	l := newLife(t)
	l.put(signedWith(t, private, serial(2)))
	l.begin(l.source(v))
	l.active("v2")
	l.end()
	l.put(signedWith(t, private, serial(1)))
	l.begin(l.source(v))
	l.refused("verifying", "serial 1 is older than 2")
	l.none()
	l.put(signedWith(t, private, serial(3)))
	l.active("v3")
	_, err := l.manager.Rollback(context.Background(), "v2")
	must(t, err)
	l.active("v2")
	l.begin(l.source(v))
	l.active("v2")
	l.put(signedWith(t, private, serial(2)))
	l.refused("verifying", "serial 2 is older than 3") // the source must not go back
	l.end()
	// The serial applies at another path too: the same keys sign it.
	other := filepath.Join(t.TempDir(), "moved.tar.gz")
	atomically(t, other, packed(t, signedWith(t, private, serial(2))))
	l.begin([]bundles.Source{{Name: "app", Path: other, Verification: v}})
	l.refused("verifying", "serial 2 is older than 3")
}

// TestDamagedHistory flips, truncates and extends the files: the process starts, reports it, and activates nothing unchecked.
func TestDamagedHistory(t *testing.T) {
	l := newLife(t)
	l.pinnedAt1(serial(1), serial(2), nil)
	l.end()
	file := filepath.Join(l.dir, "history.json")
	good, err := os.ReadFile(file)
	must(t, err)
	damage := map[string][]byte{"empty": {}, "a folder's worth": []byte(strings.Repeat("x", 5<<20)), "twice": append(good[:len(good):len(good)], good...),
		"cut": good[:len(good)/2], "another": []byte("gatehouse history 1\n{}\n"), "flipped": []byte(strings.Replace(string(good), `"held"`, `"hild"`, 1))}
	for name, content := range damage {
		t.Run(name, func(t *testing.T) {
			l := &life{t: t, dir: l.dir, path: l.path}
			must(t, os.WriteFile(file, content, 0o600))
			l.begin(l.source(nil))
			l.active("v2")
			if list := l.manager.Degraded(); len(list) != 1 || !strings.Contains(list[0], "rollbacks, pins and serials before the start is lost") {
				t.Errorf("degraded %q", list)
			}
			if kept, err := os.ReadFile(file + ".damaged"); err != nil || string(kept) != string(content) {
				t.Errorf("it was not set aside: %v", err)
			}
			l.end()
			l.begin(l.source(nil)) // and recovers
			l.active("v2")
			if list := l.manager.Degraded(); len(list) != 0 {
				t.Errorf("degraded %q", list)
			}
			l.end()
		})
	}
}

// A pin whose copy is damaged or replaced does not fall back to another bundle: nothing is active until an operator decides.
func TestDamagedCopies(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, file string){
		"cut":       func(t *testing.T, file string) { must(t, os.Truncate(file, 10)) },
		"gone":      func(t *testing.T, file string) { must(t, os.Remove(file)) },
		"exchanged": func(t *testing.T, file string) { must(t, os.WriteFile(file, packed(t, serial(9)), 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLife(t)
			l.pinnedAt1(serial(1), serial(2), nil)
			l.end()
			files, err := filepath.Glob(filepath.Join(l.dir, "history", "*.tar.gz"))
			must(t, err)
			if len(files) != 2 {
				t.Fatalf("copies %v", files)
			}
			for _, file := range files {
				change(t, file)
			}
			l.begin(l.source(nil))
			waitFor(t, func() bool { return strings.Contains(l.manager.Status()[0].Error, "unpin ends the pin") })
			l.none()
			must(t, l.manager.Unpin(context.Background()))
			l.active("v2")
		})
	}
}

// TestCopiesAreBounded checks that unreferenced copies are removed, and nothing else.
func TestCopiesAreBounded(t *testing.T) {
	l := newLife(t)
	l.put(serial(1))
	l.begin(l.source(nil), func(c *bundles.Config) { c.Keep = 2 })
	l.active("v1")
	waitFor(t, func() bool { _, err := os.Stat(filepath.Join(l.dir, "history")); return err == nil }) // written after the activation
	must(t, os.WriteFile(filepath.Join(l.dir, "history", strings.Repeat("a", 64)+".tar.gz.new"), []byte("half"), 0o600))
	for n := 2; n <= 6; n++ {
		l.put(serial(n))
		l.active(fmt.Sprintf("v%d", n))
	}
	waitFor(t, func() bool { entries, _ := os.ReadDir(filepath.Join(l.dir, "history")); return len(entries) == 3 })
}

// A history that cannot be written is reported, and written as soon as possible.
func TestAHistoryThatCannotBeWritten(t *testing.T) {
	l := newLife(t)
	must(t, os.WriteFile(l.dir, nil, 0o600))
	l.put(serial(1))
	l.begin(l.source(nil))
	l.active("v1")
	waitFor(t, func() bool {
		return strings.Contains(strings.Join(l.manager.Degraded(), ";"), "cannot be kept on disk")
	})
	must(t, os.Remove(l.dir))
	l.put(serial(2))
	l.active("v2")
	waitFor(t, func() bool { return len(l.manager.Degraded()) == 0 })
	l.begin(l.source(nil))
	l.active("v2")
	if _, err := l.manager.Rollback(context.Background(), "v1"); err != nil {
		t.Error(err)
	}
}

// A rollback between New and Run of the next manager is not lost.
func TestARollbackDuringAReload(t *testing.T) {
	l := newLife(t)
	l.put(serial(1))
	l.begin(l.source(nil))
	l.active("v1")
	l.put(serial(2))
	l.active("v2")
	before := l.manager
	next := newRunning(t, l.source(nil), keeping(l.dir), func(c *bundles.Config) { c.Succeeds = before })
	_, err := next.manager.Load(context.Background())
	must(t, err)
	_, err = before.Rollback(context.Background(), "")
	must(t, err)
	l.end()
	next.start()
	next.until("1")
	waitFor(t, func() bool { return next.manager.Status()[0].Pinned })
}

// TestDeltasInTheHistory checks rollbacks to bundles made by deltas, also after a restart, but not once signatures are required.
func TestDeltasInTheHistory(t *testing.T) {
	dir := t.TempDir()
	l := &life{t: t, dir: dir}
	server := newBundleServer(t, users(`{"roles":{"alice":1}}`))
	l.begin(from(server.URL))
	l.until("alice")
	step := func(want, full, ops string) {
		t.Helper()
		server.setDelta(packed(t, users(full)), delta(t, ops))
		l.until(want)
	}
	step("alice,bob", `{"roles":{"alice":1,"bob":1}}`, `{"op":"upsert","path":"/roles/bob","value":1}`)
	step("alice,bob,eve", `{"roles":{"alice":1,"bob":1,"eve":1}}`, `{"op":"upsert","path":"/roles/eve","value":1}`)
	waitFor(t, func() bool { return len(l.manager.History()) == 3 })
	target := l.manager.History()[1].Bundles[0].Digest
	rollback := func() {
		t.Helper()
		_, err := l.manager.Rollback(context.Background(), target)
		must(t, err)
		l.until("alice,bob")
	}
	rollback()
	must(t, l.manager.Unpin(context.Background()))
	l.until("alice,bob,eve")
	rollback()
	l.begin(from(server.URL))
	l.until("alice,bob")
	server.failing(unavailable)
	l.begin(from(server.URL)) // the source is unreachable: the pin is still known
	l.until("alice,bob")
	_, public := keyPair(t, "main", "EdDSA", "")
	sources := from(server.URL)
	sources[0].Verification = &signature.Verification{Keys: []signature.Key{public}}
	l.begin(sources)
	waitFor(t, func() bool { return strings.Contains(l.manager.Status()[0].Error, "no signature covers") })
	l.none()
}
