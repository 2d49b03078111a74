package bundles_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse/bundles"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
)

// Each stage prevents an activation, in the order of the stages, and reports where the bundle is wrong.
func TestStagesOfAnActivation(t *testing.T) {
	const test = "package authz_test\n\ntest_number if data.authz.allow.headers[\"x-revision\"] != \"6\"\n"
	tests := []struct {
		name, stage, file string
		line              int
		files             map[string]string
		complaint         string
	}{
		{"a path limit", "reading", "a/b/c/d/x.rego", 0, map[string]string{"a/b/c/d/x.rego": "package x\n"}, "more than 3 folders deep"},
		{"a syntax error", "reading", "authz.rego", 5, map[string]string{"authz.rego": broken}, "unexpected }"},
		{"a broken test", "reading", "authz_test.rego", 1, map[string]string{"authz_test.rego": "pack age\n"}, "var cannot be used for rule name"},
		{"a type error", "compiling", "authz.rego", 3, map[string]string{"authz.rego": "package authz\n\nallow := 1 + \"a\"\n"}, "invalid argument"},
		{"a built-in that is off", "compiling", "authz.rego", 3, map[string]string{"authz.rego": "package authz\n\nallow := http.send({}).x\n"}, "off by default"},
		{"no decision", "compiling", "", 0, map[string]string{"authz.rego": "package other\n\nallow := true\n"}, `decision "authz/allow" is not defined`},
		{"a failing test", "testing", "authz_test.rego", 3, map[string]string{"authz.rego": answering(6)}, "data.authz_test.test_number: it is not true"},
		{"a test that does not compile", "testing", "authz_test.rego", 3,
			map[string]string{"authz.rego": answering(2), "authz_test.rego": "package authz_test\n\ntest_x if nowhere(1)\n"}, "no function or built-in nowhere"},
		{"a test that takes too long", "testing", "", 0, map[string]string{"authz.rego": answering(2), "authz_test.rego": endless}, "were not done after 300ms"},
		{"smoke", "smoke", "", 0, map[string]string{"authz.rego": answering(7)}, "smoke.yaml:3: admins are locked out"},
		{"publishing", "publishing", "", 0, map[string]string{"authz.rego": answering(8)}, "GET /orders has no rule"},
	}
	path := filepath.Join(t.TempDir(), "app.tar.gz")
	with := func(files map[string]string) map[string]string {
		all := map[string]string{"authz.rego": answering(1), "authz_test.rego": test}
		for name, text := range files {
			all[name] = text
		}
		return all
	}
	atomically(t, path, packed(t, with(nil)))
	var r *running
	r = run(t, one(path), func(c *bundles.Config) {
		c.TestTimeout = 300 * time.Millisecond
		c.Limits.Depth = 3
		c.Smoke = func(_ context.Context, s *policy.Snapshot) error {
			if response(t, s) == "7" {
				return errors.New("smoke.yaml:3: admins are locked out")
			}
			return nil
		}
		c.Publish = func(_ context.Context, s *policy.Snapshot) error {
			if response(t, s) == "8" {
				return errors.New("GET /orders has no rule")
			}
			r.published <- s
			return nil
		}
	})
	r.until("1")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r.t = t
			atomically(t, path, packed(t, with(test.files)))
			e := r.says(stays).ContextMap()
			if text := e["error"].(string); !strings.Contains(text, test.complaint) {
				t.Errorf("error %q, want %q in it", text, test.complaint)
			}
			if e["stage"] != test.stage || e["file"] != test.file || e["line"] != int64(test.line) {
				t.Errorf("logged stage %v, file %v, line %v", e["stage"], e["file"], e["line"])
			}
			waitFor(t, func() bool {
				s := r.manager.Status()[0]
				return s.Stage == test.stage && s.File == test.file && s.Line == test.line && strings.Contains(s.Error, test.complaint)
			})
			r.none()
		})
	}
	r.t = t
	atomically(t, path, packed(t, with(map[string]string{"authz.rego": answering(9)})))
	r.until("9")
}

// endless is a test whose evaluation exceeds any timeout.
const endless = "package authz_test\n\ntest_x if {\n\tsome a in numbers.range(1, 10000)\n\tsome b in numbers.range(1, 10000)\n\ta * b == -1\n}\n"

func TestTestsCanBeSkipped(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"authz.rego": answering(1), "authz_test.rego": "package x\n\ntest_x if false\n"})
	r := run(t, one(dir))
	r.says(never)
	r = run(t, one(dir), func(c *bundles.Config) { c.SkipTests = true })
	r.until("1")
}

// Correcting a failing test alone lets the bundle be activated.
func TestCorrectedTest(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"authz.rego": answering(1), "authz_test.rego": "package x\n\ntest_x if false\n"})
	r := run(t, one(dir))
	r.says(never)
	write(t, dir, map[string]string{"authz_test.rego": "package x\n\ntest_x if true\n"})
	r.until("1")
}

func TestLoadTakesEveryStage(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"authz.rego": answering(1), "authz_test.rego": "package x\n\ntest_x if false\n"})
	_, err := load(t, bundle.Limits{}, one(dir)...)
	if err == nil || !strings.Contains(err.Error(), `testing bundle "app": authz_test.rego:3: data.x.test_x: it is not true`) {
		t.Errorf("error %v", err)
	}
}

// Run publishes what Load compiled without compiling it again, unless it changed.
func TestRunBeginsWithWhatWasLoaded(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"authz.rego": answering(1)})
	for _, n := range []int{1, 2} {
		r := newRunning(t, one(dir))
		loaded, err := r.manager.Load(context.Background())
		must(t, err)
		write(t, dir, map[string]string{"authz.rego": answering(n)})
		r.start()
		if s := r.next(); (s == loaded) != (n == 1) || response(t, s) != fmt.Sprint(n) {
			t.Errorf("published %s, the one that was loaded: %v", response(t, s), s == loaded)
		}
	}
}

func TestOptionalBundle(t *testing.T) {
	code, data, sources := twoSources(t)
	write(t, code, map[string]string{"authz.rego": "package authz\n\ndefault n := \"none\"\n\nn := data.numbers.n\n\nallow := {\"allowed\": true, \"headers\": {\"x\": n}}\n"})
	sources[1].Path, sources[1].Optional = filepath.Join(data, "not", "yet"), true
	r := newRunning(t, sources)
	s, err := r.manager.Load(context.Background())
	must(t, err)
	if got := response(t, s); got != "none" {
		t.Errorf("answer %s", got)
	}
	r = run(t, sources, func(c *bundles.Config) { c.Poll = 20 * time.Millisecond })
	r.until("none")
	write(t, sources[1].Path, map[string]string{".manifest": `{"roots": ["numbers"]}`, "numbers/data.json": `{"n": "4"}`})
	r.until("4")
	waitFor(t, func() bool {
		return !slices.ContainsFunc(r.manager.Status(), func(s bundles.Status) bool { return s.Error != "" })
	})
}
