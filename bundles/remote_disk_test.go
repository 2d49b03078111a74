package bundles_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/bundles"
	"gatehouse/bundles/signature"
	"gatehouse/policy"
)

func unavailable(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "", http.StatusServiceUnavailable)
}

// fill puts a server's bundle into a directory, by running a manager until it is written.
func fill(t *testing.T, dir string, sources []bundles.Source, options ...option) {
	t.Helper()
	before := modified(dir)
	t.Run("filling the disk", func(t *testing.T) {
		r := run(t, sources, append(options, keeping(dir))...)
		r.next()
		r.remote("the file", func(bundles.Status) bool { return modified(dir).After(before) })
	})
}

func modified(dir string) time.Time {
	info, err := os.Stat(filepath.Join(dir, "app.bundle"))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func TestDiskIsUsedWhenTheSourceIsGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := newBundleServer(t, answers(1))
	fill(t, dir, from(server.URL))
	server.failing(unavailable)
	r := run(t, from(server.URL), keeping(dir))
	if got := response(t, r.next()); got != "1" {
		t.Errorf("answer %s", got)
	}
	s := r.remote("the failure", func(s bundles.Status) bool { return s.Remote.Unreachable != "" && s.Revision != "" })
	if !s.Remote.FromDisk || s.Remote.Confirmed.IsZero() || s.Remote.Expired || s.Error != "" || s.Remote.Tag != server.current() {
		t.Errorf("status %+v, remote %+v", s, *s.Remote)
	}
	// The bundle on disk is revalidated, not downloaded again.
	server.failing(nil)
	s = r.remote("a confirmation", func(s bundles.Status) bool { return !s.Remote.FromDisk })
	if !s.Remote.Downloaded.IsZero() {
		t.Errorf("it was downloaded again: %+v", *s.Remote)
	}
	r.none()
	server.set(packed(t, answers(2)))
	if got := response(t, r.next()); got != "2" {
		t.Errorf("answer %s", got)
	}
}

// If the source is reachable, the copy is activated only if the source confirms it.
func TestDiskIsNotUsedWhenTheSourceIsThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := newBundleServer(t, answers(1))
	fill(t, dir, from(server.URL))
	t.Run("the same", func(t *testing.T) {
		r := run(t, from(server.URL), keeping(dir))
		if got := response(t, r.next()); got != "1" {
			t.Errorf("answer %s", got)
		}
		if s := r.manager.Status()[0]; s.Remote.FromDisk || !s.Remote.Downloaded.IsZero() {
			t.Errorf("remote %+v", *s.Remote)
		}
	})
	t.Run("a newer one", func(t *testing.T) {
		server.set(packed(t, answers(2)))
		if got := response(t, run(t, from(server.URL), keeping(dir)).next()); got != "2" {
			t.Errorf("answer %s", got)
		}
	})
}

// If the source's bundle cannot be activated, the last good one is, and Status keeps the error.
func TestDiskIsUsedWhenTheSourceIsBroken(t *testing.T) {
	t.Parallel()
	for name, body := range map[string][]byte{"rules": packed(t, map[string]string{"a.rego": broken}), "archive": []byte("garbage")} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			server := newBundleServer(t, answers(1))
			fill(t, dir, from(server.URL))
			server.set(body)
			r := run(t, from(server.URL), keeping(dir))
			if got := response(t, r.next()); got != "1" {
				t.Errorf("answer %s", got)
			}
			r.remote("the error", func(s bundles.Status) bool { return s.Stage == "reading" && s.Remote.FromDisk })
			server.set(packed(t, answers(3)))
			if got := response(t, r.next()); got != "3" {
				t.Errorf("answer %s", got)
			}
			r.remote("the new one on disk", func(s bundles.Status) bool {
				content, _ := os.ReadFile(filepath.Join(dir, "app.bundle"))
				return s.Error == "" && strings.Contains(string(content), strings.ReplaceAll(server.current(), `"`, `\"`))
			})
		})
	}
}

// TestDamagedDisk flips, truncates and extends the file everywhere: it is used completely or not at all.
func TestDamagedDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := newBundleServer(t, answers(1))
	fill(t, dir, from(server.URL))
	server.failing(unavailable)
	file := filepath.Join(dir, "app.bundle")
	good, err := os.ReadFile(file)
	must(t, err)
	damage := map[string][]byte{"empty": {}, "longer": append(bytes.Clone(good), 0), "twice": append(bytes.Clone(good), good...)}
	for i := 0; i < len(good); i += 7 {
		flipped := bytes.Clone(good)
		flipped[i] ^= 4
		damage[fmt.Sprintf("byte %d of %d", i, len(good))] = flipped
		damage[fmt.Sprintf("cut at %d", i)] = good[:i]
	}
	for name, content := range damage {
		must(t, os.WriteFile(file, content, 0o600))
		m, err := bundles.New(bundles.Config{Sources: from(server.URL), Policy: policy.Config{Decision: "authz/allow"}, Dir: dir})
		must(t, err)
		if _, err := m.Load(context.Background()); err == nil || !strings.Contains(err.Error(), "503") {
			t.Fatalf("%s: error %v", name, err)
		}
	}
	r := run(t, from(server.URL), keeping(dir))
	line := r.says("bundle kept on disk is not used")
	if !strings.Contains(fmt.Sprint(line.ContextMap()), "damaged") || line.ContextMap()["file"] != file {
		t.Errorf("logged %v", line.ContextMap())
	}
	r.none()
	must(t, os.WriteFile(file, good, 0o600))
	if got := response(t, run(t, from(server.URL), keeping(dir)).next()); got != "1" {
		t.Errorf("answer %s of the good file", got)
	}
}

func TestDiskOfAnotherSource(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := newBundleServer(t, answers(1))
	fill(t, dir, from(server.URL+"/a"))
	server.failing(unavailable)
	r := run(t, from(server.URL+"/b"), keeping(dir))
	line := r.says("bundle kept on disk is not used")
	if !strings.Contains(fmt.Sprint(line.ContextMap()), server.URL+"/a") {
		t.Errorf("logged %v", line.ContextMap())
	}
	r.none()
}

// A bundle stored while signatures were not required is not used once they are.
func TestDiskIsVerifiedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := newBundleServer(t, answers(1))
	fill(t, dir, from(server.URL))
	server.failing(unavailable)
	_, public := keyPair(t, "main", "ES256", "")
	sources := from(server.URL)
	sources[0].Verification = &signature.Verification{Keys: []signature.Key{public}}
	r := run(t, sources, keeping(dir))
	r.remote("the refusal", func(s bundles.Status) bool { return s.Stage == "verifying" })
	r.none()
}

// An old signed bundle does not come back after a restart.
func TestDiskRemembersTheSerial(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	private, public := keyPair(t, "main", "ES256", "")
	numbered := func(serial int) []byte {
		return packed(t, signedWith(t, private, map[string]string{"a.rego": answering(serial), ".manifest": fmt.Sprintf(`{"metadata":{"serial":%d}}`, serial)}))
	}
	server := newBundleServer(t, answers(0))
	server.set(numbered(5))
	sources := from(server.URL)
	sources[0].Verification = &signature.Verification{Keys: []signature.Key{public}, Serial: true}
	fill(t, dir, sources)
	server.set(numbered(4))
	r := run(t, sources, keeping(dir))
	if got := response(t, r.next()); got != "5" {
		t.Errorf("answer %s", got)
	}
	r.remote("the refusal", func(s bundles.Status) bool { return strings.Contains(s.Error, "serial 4 is older than 5") })
	server.set(numbered(6))
	if got := response(t, r.next()); got != "6" {
		t.Errorf("answer %s", got)
	}
}

func TestFolderThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(dir, nil, 0o600))
	server := newBundleServer(t, answers(1))
	r := run(t, from(server.URL), keeping(dir))
	if got := response(t, r.next()); got != "1" {
		t.Errorf("answer %s", got)
	}
	r.says("bundle is active and cannot be kept on disk: a restart without its source would use an older one, or none")
	must(t, os.Remove(dir))
	r.remote("the file, on a later try", func(bundles.Status) bool { return !modified(dir).IsZero() })
}

// clock is a settable clock.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time        { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) add(d time.Duration)   { c.ahead.Add(int64(d)) }
func (c *clock) set(b *bundles.Config) { b.Clock = c.now }

func aging(withdraw bool) func(*bundles.Remote) {
	return func(c *bundles.Remote) { c.MaxAge, c.Withdraw = time.Hour, withdraw }
}

func TestMaxAge(t *testing.T) {
	t.Parallel()
	for _, withdraw := range []bool{false, true} {
		t.Run(fmt.Sprintf("withdraw %v", withdraw), func(t *testing.T) {
			t.Parallel()
			var now clock
			server := newBundleServer(t, answers(1))
			r := run(t, from(server.URL, aging(withdraw)), now.set)
			r.next()
			for range 4 { // it still responds
				now.add(50 * time.Minute)
				r.remote("an answer", func(s bundles.Status) bool { return s.Remote.AgeSeconds < 60 })
			}
			server.set(packed(t, answers(2)))
			if got := response(t, r.next()); got != "2" {
				t.Errorf("answer %s", got)
			}
			server.failing(unavailable)
			r.remote("the failure", func(s bundles.Status) bool { return s.Remote.Unreachable != "" })
			now.add(59 * time.Minute)
			r.none()
			now.add(2 * time.Minute)
			r.remote("the end of its time", func(s bundles.Status) bool { return s.Remote.Expired && s.Remote.AgeSeconds > 3600 })
			if withdraw {
				if s := r.next(); s != nil {
					t.Fatal("it was not withdrawn")
				}
			}
			server.failing(nil)
			if withdraw {
				if got := response(t, r.next()); got != "2" {
					t.Errorf("answer %s once it was back", got)
				}
			}
			r.remote("its return", func(s bundles.Status) bool { return !s.Remote.Expired && s.Remote.Unreachable == "" })
			r.none()
		})
	}
}

// After a restart the age counts from the last confirmation, not from the start.
func TestMaxAgeOfTheDisk(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ahead    time.Duration
		withdraw bool
		decides  bool
	}{
		"young":                      {30 * time.Minute, true, true},
		"old":                        {2 * time.Hour, false, true},
		"old, and that counts":       {2 * time.Hour, true, false},
		"from the future":            {-2 * time.Hour, false, true},
		"from the future, it counts": {-2 * time.Hour, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			server := newBundleServer(t, answers(1))
			var now clock
			fill(t, dir, from(server.URL, aging(c.withdraw)), now.set)
			now.add(c.ahead)
			server.failing(unavailable)
			r := run(t, from(server.URL, aging(c.withdraw)), now.set, keeping(dir))
			s := r.remote("the failure", func(s bundles.Status) bool { return s.Remote.Unreachable != "" && (s.Revision != "" || s.Error != "") })
			if decides := s.Revision != ""; decides != c.decides {
				t.Errorf("decides: %v, status %+v, remote %+v", decides, s, *s.Remote)
			}
			if old := c.ahead != 30*time.Minute; s.Remote.Expired != old {
				t.Errorf("expired: %v", s.Remote.Expired)
			}
			server.failing(nil)
			r.remote("its return", func(s bundles.Status) bool { return s.Revision != "" && !s.Remote.Expired })
			if got := response(t, r.next()); got != "1" {
				t.Errorf("answer %s", got)
			}
		})
	}
}

// A withdrawn policy must not be published again because another bundle arrives.
func TestMaxAgeWithSeveralBundles(t *testing.T) {
	t.Parallel()
	var now clock
	server := newBundleServer(t, map[string]string{".manifest": `{"roots":["authz"]}`, "a.rego": "package authz\n\nallow := {\"allowed\": true, \"headers\": {\"x\": data.other.n}}\n"})
	dir := t.TempDir()
	number := func(n int) map[string]string {
		return map[string]string{".manifest": `{"roots":["other"]}`, "data.json": fmt.Sprintf(`{"other":{"n":"%d"}}`, n)}
	}
	write(t, dir, number(1))
	sources := append(from(server.URL, aging(true)), bundles.Source{Name: "other", Path: dir})
	r := run(t, sources, now.set)
	r.until("1")
	server.failing(unavailable)
	r.remote("the failure", func(s bundles.Status) bool { return s.Remote.Unreachable != "" })
	now.add(2 * time.Hour)
	if s := r.next(); s != nil {
		t.Fatal("it was not withdrawn")
	}
	write(t, dir, number(2))
	r.says(stays)
	r.none()
	server.failing(nil)
	r.until("2")
}

// users returns a bundle whose decision shows who has a role.
func users(data string) map[string]string {
	return map[string]string{"data.json": data,
		"a.rego": "package authz\n\nallow := {\"allowed\": true, \"headers\": {\"x\": concat(\",\", sort([u | data.roles[u]]))}}\n"}
}

func delta(t testing.TB, ops string) []byte {
	return packed(t, map[string]string{".manifest": `{"revision":"delta"}`, "patch.json": `{"data":[` + ops + `]}`})
}

func TestDeltas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := newBundleServer(t, users(`{"roles":{"alice":1}}`))
	t.Run("running", func(t *testing.T) {
		r := run(t, from(server.URL), keeping(dir))
		if got := response(t, r.next()); got != "alice" {
			t.Fatalf("answer %s", got)
		}
		server.setDelta(packed(t, users(`{"roles":{"alice":1,"bob":1}}`)), delta(t, `{"op":"upsert","path":"/roles/bob","value":1}`))
		if got := response(t, r.next()); got != "alice,bob" {
			t.Fatalf("answer %s", got)
		}
		r.remote("the delta's revision", func(s bundles.Status) bool { return s.Remote.Delta && s.Revision == "delta" })
		server.setDelta(packed(t, users(`{"roles":{"bob":1}}`)), delta(t, `{"op":"remove","path":"/roles/alice"}`))
		if got := response(t, r.next()); got != "bob" {
			t.Fatalf("answer %s", got)
		}
		r.remote("the file", func(bundles.Status) bool {
			content, _ := os.ReadFile(filepath.Join(dir, "app.bundle"))
			return strings.Contains(string(content), strings.ReplaceAll(server.current(), `"`, `\"`))
		})
	})
	t.Run("after a restart", func(t *testing.T) {
		server.failing(unavailable)
		r := run(t, from(server.URL), keeping(dir))
		if got := response(t, r.next()); got != "bob" {
			t.Errorf("answer %s", got)
		}
		server.setDelta(packed(t, users(`{"roles":{"eve":1}}`)), delta(t, `{"op":"replace","path":"/roles","value":{"eve":1}}`))
		server.failing(nil)
		if got := response(t, r.next()); got != "eve" || !r.manager.Status()[0].Remote.Delta {
			t.Errorf("answer %s, remote %+v", got, *r.manager.Status()[0].Remote)
		}
	})
}

// TestBrokenDeltas checks that the whole bundle is fetched instead, and nothing is published in between.
func TestBrokenDeltas(t *testing.T) {
	t.Parallel()
	for name, d := range map[string][]byte{
		"does not fit":          delta(t, `{"op":"remove","path":"/roles/nobody"}`),
		"not JSON":              packed(t, map[string]string{"patch.json": "{"}),
		"with rules in it":      packed(t, map[string]string{"patch.json": `{"data":[]}`, "b.rego": "package b"}),
		"over a rule":           delta(t, `{"op":"upsert","path":"/authz/allow","value":true}`),
		"with roots of its own": packed(t, map[string]string{".manifest": `{"roots":["roles"]}`, "patch.json": `{"data":[]}`}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newBundleServer(t, users(`{"roles":{"alice":1}}`))
			r := run(t, from(server.URL))
			r.next()
			server.setDelta(packed(t, users(`{"roles":{"bob":1}}`)), d)
			r.says("delta bundle cannot be used: fetching the whole bundle")
			if got := response(t, r.next()); got != "bob" {
				t.Errorf("answer %s", got)
			}
			s := r.remote("the end of it", func(s bundles.Status) bool { return s.Error == "" })
			if s.Remote.Delta {
				t.Errorf("remote %+v", *s.Remote)
			}
		})
	}
}

// If signatures are verified, deltas are neither requested nor accepted.
func TestDeltasOfSignedBundles(t *testing.T) {
	t.Parallel()
	server := newBundleServer(t, answers(1))
	private, public := keyPair(t, "main", "ES256", "")
	server.set(packed(t, signedWith(t, private, answers(1))))
	sources := from(server.URL)
	sources[0].Verification = &signature.Verification{Keys: []signature.Key{public}}
	r := run(t, sources)
	if got := response(t, r.next()); got != "1" {
		t.Fatalf("answer %s", got)
	}
	if _, last := server.seen(); strings.Contains(last.Header.Get("Prefer"), "delta") {
		t.Errorf("asked with %v", last.Header)
	}
	d := delta(t, `{"op":"upsert","path":"/x","value":1}`)
	server.failing(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(d) })
	r.remote("the refusal", func(s bundles.Status) bool { return strings.Contains(s.Error, "where signatures are verified") })
	r.none()
}

func FuzzKeptBundle(f *testing.F) {
	head := func(json string) string { return "gatehouse bundle 1\n" + json + "\n" }
	for _, text := range []string{"", head(""), head(`{"source":"s","sizes":[3]}`) + "abc", head(`{"source":"s","sizes":[1,9223372036854775807]}`) + "a"} {
		sum := sha256.Sum256([]byte(text))
		f.Add([]byte(text))
		f.Add(append([]byte(text), sum[:]...))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		must(t, os.WriteFile(filepath.Join(dir, "app.bundle"), content, 0o600))
		parts, err := bundles.LoadKept(dir, "app", "s", 1000)
		if err != nil {
			return
		}
		total := 0
		for _, part := range parts {
			total += len(part)
		}
		if len(parts) == 0 || total > 2000 || total+sha256.Size > len(content) {
			t.Errorf("%d tarballs of %d bytes out of %d", len(parts), total, len(content))
		}
	})
}
