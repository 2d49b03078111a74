package bundles_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gatehouse/bundles"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
)

func TestNewReportsEveryProblemAtOnce(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	must(t, syscall.Mkfifo(pipe, 0o600))
	_, err := bundles.New(bundles.Config{Poll: -1, Sources: []bundles.Source{
		{Name: "a", Path: "/nowhere/at/all"}, {Name: "a", Path: t.TempDir()}, {Name: "b", Path: pipe}, {Name: "c/d", Path: "."},
	}})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`bundle "a": stat /nowhere/at/all: no such file or directory`, `two bundles are named "a"`,
		`bundle "b": ` + pipe + ` is neither a directory nor a file`, `bundle name "c/d"`, "poll interval -1ns is negative",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	if _, err := bundles.New(bundles.Config{}); err == nil || !strings.Contains(err.Error(), "no bundle is configured") {
		t.Errorf("without sources: %v", err)
	}
}

func load(t *testing.T, limits bundle.Limits, sources ...bundles.Source) (*policy.Snapshot, error) {
	t.Helper()
	m, err := bundles.New(bundles.Config{Sources: sources, Limits: limits, Policy: policy.Config{Decision: "authz/allow"}})
	must(t, err)
	return m.Load(context.Background())
}

func TestLoadRefuses(t *testing.T) {
	outside := t.TempDir()
	write(t, outside, map[string]string{"x.rego": "package x\n", "folder/y.rego": "package y\n"})
	tests := []struct {
		name      string
		make      func(dir string) error
		limits    bundle.Limits
		complaint string
	}{
		{"a link out", func(dir string) error {
			return os.Symlink(filepath.Join(outside, "x.rego"), filepath.Join(dir, "x.rego"))
		},
			bundle.Limits{}, `reading bundle "app": x.rego: path escapes from parent`},
		{"a relative link out", func(dir string) error {
			return os.Symlink("../../../../../../etc/passwd", filepath.Join(dir, "x.rego"))
		},
			bundle.Limits{}, `x.rego: path escapes`},
		{"a link to a folder", func(dir string) error { return os.Symlink("lib", filepath.Join(dir, "again")) },
			bundle.Limits{}, `again: a link to a folder is not followed`},
		{"a link to a folder outside", func(dir string) error { return os.Symlink(outside, filepath.Join(dir, "data.json")) },
			bundle.Limits{}, `data.json: path escapes`},
		{"a dangling link", func(dir string) error { return os.Symlink("gone.rego", filepath.Join(dir, "x.rego")) },
			bundle.Limits{}, `x.rego: no such file`},
		{"a volume that leads out", func(dir string) error { return os.Symlink(outside, filepath.Join(dir, "..data")) },
			bundle.Limits{}, `..data leads out of the directory`},
		{"a pipe", func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "x.rego"), 0o600) },
			bundle.Limits{}, `x.rego: not a regular file`},
		{"a large file", func(string) error { return nil }, bundle.Limits{File: 10}, `larger than 10 bytes`},
		{"large together", func(string) error { return nil }, bundle.Limits{Total: 80}, `together are larger than 80 bytes`},
		{"many files", func(string) error { return nil }, bundle.Limits{Files: 1}, `more than 1 files`},
		{"deep folders", func(dir string) error { return os.MkdirAll(filepath.Join(dir, "a/b/c/d"), 0o755) },
			bundle.Limits{Depth: 2}, `more than 2 folders deep`},
		{"a strange name", func(dir string) error { return os.WriteFile(filepath.Join(dir, "a\nb.rego"), nil, 0o644) },
			bundle.Limits{}, `the file name "a\nb.rego" is not printable text`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string]string{"authz.rego": answering(1), "lib/lib.rego": "package lib\n"})
			must(t, test.make(dir))
			_, err := load(t, test.limits, one(dir)...)
			var problems bundle.Problems
			if err == nil || !strings.Contains(err.Error(), test.complaint) || !errors.As(err, &problems) {
				t.Errorf("error %v, want bundle.Problems with %q", err, test.complaint)
			}
		})
	}
}

func TestLinkWithinTheDirectoryIsFollowed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"shared/authz.txt": answering(1)})
	must(t, os.Symlink("shared/authz.txt", filepath.Join(dir, "authz.rego")))
	s, err := load(t, bundle.Limits{}, one(dir)...)
	must(t, err)
	if got := response(t, s); got != "1" {
		t.Errorf("answer %s, want 1", got)
	}
}

func TestLoadReportsEverySource(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	write(t, a, map[string]string{"authz.rego": broken})
	write(t, b, map[string]string{"data.json": "[]"})
	_, err := load(t, bundle.Limits{}, bundles.Source{Name: "a", Path: a}, bundles.Source{Name: "b", Path: b})
	if err == nil || !strings.Contains(err.Error(), `reading bundle "a": authz.rego:5`) ||
		!strings.Contains(err.Error(), `reading bundle "b": data.json`) {
		t.Errorf("error %v, want one about each bundle", err)
	}
}

// twoSources returns a policy and the data that it uses, each owning its root.
func twoSources(t *testing.T) (code, data string, sources []bundles.Source) {
	code, data = t.TempDir(), t.TempDir()
	write(t, code, map[string]string{".manifest": `{"roots": ["authz"]}`,
		"authz.rego": "package authz\n\nallow := {\"allowed\": true, \"headers\": {\"x\": data.numbers.n}}\n"})
	write(t, data, map[string]string{".manifest": `{"roots": ["numbers"]}`, "numbers/data.json": `{"n": "1"}`})
	return code, data, []bundles.Source{{Name: "code", Path: code}, {Name: "data", Path: data}}
}

func TestOneSourceBrokenDoesNotHoldUpAnother(t *testing.T) {
	code, data, sources := twoSources(t)
	content, err := os.ReadFile(filepath.Join(code, "authz.rego"))
	must(t, err)
	good := string(content)
	r := run(t, sources)
	r.until("1")
	write(t, code, map[string]string{"authz.rego": "package authz\n\nallow := nothing\n"}) // does not compile
	r.says(stays)
	write(t, data, map[string]string{"numbers/data.json": `{"n": "2"}`})
	r.until("2")
	waitFor(t, func() bool {
		s := r.manager.Status()
		return s[0].Stage == "compiling" && s[1].Stage == "" && s[1].Revision != ""
	})
	write(t, code, map[string]string{"authz.rego": good})
	waitFor(t, func() bool { return r.manager.Status()[0].Stage == "" })
	write(t, code, map[string]string{"authz.rego": broken}) // does not parse
	r.says(stays)
	write(t, data, map[string]string{"numbers/data.json": `{"n": "3"}`})
	r.until("3")
	waitFor(t, func() bool { s := r.manager.Status(); return s[0].Stage == "reading" && s[1].Stage == "" })
}

// Two sources, each invalid without the other, are activated together.
func TestTwoSourcesThatOnlyFitTogether(t *testing.T) {
	code, data, sources := twoSources(t)
	r := run(t, sources)
	r.until("1")
	write(t, code, map[string]string{"authz.rego": "package authz\n\nimport rego.v1\n\nallow := data.numbers.answer(2)\n"})
	e := r.says(stays)
	if !strings.Contains(e.ContextMap()["error"].(string), "no function or built-in data.numbers.answer") {
		t.Errorf("logged %v", e.ContextMap())
	}
	write(t, data, map[string]string{"numbers.rego": "package numbers\n\n" +
		"answer(x) := {\"allowed\": true, \"headers\": {\"x\": format_int(x, 10)}}\n"})
	r.until("2")
	waitFor(t, func() bool { s := r.manager.Status(); return s[0].Error == "" && s[1].Error == "" })
}

func TestNothingIsPublishedBeforeEverySourceIsThere(t *testing.T) {
	code, data, sources := twoSources(t)
	must(t, os.Remove(filepath.Join(data, "numbers/data.json")))
	write(t, data, map[string]string{"numbers/data.json": "{"})
	r := run(t, sources)
	r.says(never)
	waitFor(t, func() bool { s := r.manager.Status(); return s[0].Stage == "waiting" && s[1].Stage == "reading" })
	r.none()
	_ = code
	write(t, data, map[string]string{"numbers/data.json": `{"n": "7"}`})
	r.until("7")
	waitFor(t, func() bool { s := r.manager.Status(); return s[0].Error == "" && s[1].Error == "" })
}

func TestMetrics(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"authz.rego": answering(1), ".manifest": `{"revision": "v1"}`})
	registry := prometheus.NewPedanticRegistry()
	at := time.Unix(1_700_000_000, 0)
	r := run(t, one(dir), func(c *bundles.Config) {
		c.Registerer = registry
		c.Clock = func() time.Time { return at }
	})
	// page returns the bundle metrics.
	page := func() string {
		w := httptest.NewRecorder()
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		var lines []string
		for line := range strings.Lines(w.Body.String()) {
			if name, ok := strings.CutPrefix(line, "gatehouse_bundle_"); ok {
				lines = append(lines, strings.TrimSpace(name))
			}
		}
		return strings.Join(lines, "; ")
	}
	expect := func(want ...string) {
		t.Helper()
		waitFor(t, func() bool { return page() == strings.Join(want, "; ") })
	}
	const success = `last_success_timestamp_seconds{bundle="app"} 1.7e+09`
	r.until("1")
	expect(`failing{bundle="app"} 0`, `info{bundle="app",revision="v1"} 1`, success,
		`pinned{bundle="app"} 0`, `reloads_total{bundle="app",result="ok"} 1`)
	write(t, dir, map[string]string{"authz.rego": broken})
	r.says(stays)
	expect(`failing{bundle="app"} 1`, `failures_total{bundle="app",stage="reading"} 1`, `info{bundle="app",revision="v1"} 1`, success,
		`pinned{bundle="app"} 0`,
		`reloads_total{bundle="app",result="error"} 1`, `reloads_total{bundle="app",result="ok"} 1`)
	write(t, dir, map[string]string{"authz.rego": answering(2), ".manifest": `{"revision": "v2"}`})
	r.until("2")
	expect(`failing{bundle="app"} 0`, `failures_total{bundle="app",stage="reading"} 1`, `info{bundle="app",revision="v2"} 1`, success,
		`pinned{bundle="app"} 0`,
		`reloads_total{bundle="app",result="error"} 1`, `reloads_total{bundle="app",result="ok"} 2`)
}

// A snapshot that Publish refuses leaves the previous one active, and Status says so.
func TestASnapshotThatIsNotTaken(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"authz.rego": answering(1)})
	var refuse atomic.Bool
	offered := make(chan bool, 10)
	m := run(t, one(dir), func(c *bundles.Config) {
		c.Publish = func(context.Context, *policy.Snapshot) error {
			defer func() { offered <- refuse.Load() }()
			if refuse.Load() {
				return errors.New("GET /orders has no rule")
			}
			return nil
		}
	}).manager
	<-offered
	waitFor(t, func() bool { return m.Status()[0].Revision != "" })
	before := m.Status()[0].Digest
	refuse.Store(true)
	write(t, dir, map[string]string{"authz.rego": answering(2)})
	<-offered
	waitFor(t, func() bool {
		s := m.Status()[0]
		return s.Stage == "publishing" && s.Error == "GET /orders has no rule" && s.Digest == before
	})
}

// The policy is swapped 50 times while requests are decided. No decision fails or mixes two versions.
func TestDecisionsDuringSwaps(t *testing.T) {
	v := &volume{t: t, dir: t.TempDir()}
	v.swap(paired(0))
	var active atomic.Pointer[policy.Snapshot]
	seen := make(chan string, 100)
	publish := func(_ context.Context, s *policy.Snapshot) error { active.Store(s); seen <- pair(t, s); return nil }
	run(t, one(v.dir), func(c *bundles.Config) { c.Publish = publish })
	if got := <-seen; got != "0" {
		t.Fatalf("published %s, want 0", got)
	}
	stop := make(chan struct{})
	var deciding sync.WaitGroup
	var decisions atomic.Int64
	for range 4 {
		deciding.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					pair(t, active.Load())
					decisions.Add(1)
				}
			}
		})
	}
	for i := 1; i <= 50; i++ {
		v.swap(paired(i))
		select {
		case got := <-seen:
			if got != strconv.Itoa(i) {
				t.Errorf("swap %d published %s", i, got)
			}
		case <-time.After(hangGuard):
			t.Fatalf("swap %d was not published", i)
		}
	}
	close(stop)
	deciding.Wait()
	if len(seen) > 0 {
		t.Errorf("%d activations more than swaps", len(seen))
	}
	t.Logf("%d decisions during 50 swaps", decisions.Load())
}
