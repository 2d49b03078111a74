package identity_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/identity"
)

// clock is a time that tests set.
type clock struct{ atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.Store(noon.UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.Add(int64(d)) }

const neverLoaded = "identity unavailable: keys of the issuer were never loaded"

func (p *provider) fail() {
	p.handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
}

// kept is a config with a folder for copies, in which one Run has left the provider's set.
func kept(t *testing.T, p *provider) (identity.Config, string) {
	t.Helper()
	c := oneIssuer(identity.KeySource{URL: p.URL + "/keys?tenant=hidden", Refresh: time.Second})
	c.Dir = filepath.Join(t.TempDir(), "state", "keys")
	r := run(t, c)
	r.next("the set", isGood)
	r.stop()
	files, err := filepath.Glob(filepath.Join(c.Dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v in the folder, %v", files, err)
	}
	return c, files[0]
}

// TestRestartWithoutTheProvider verifies with the copy until the provider is back.
func TestRestartWithoutTheProvider(t *testing.T) {
	p := serveKeys(t, oldSet())
	c, file := kept(t, p)
	for path, want := range map[string]os.FileMode{c.Dir: 0o700, file: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if text := read(t, file); strings.Contains(text, "hidden") {
		t.Errorf("the query of the url is in the copy: %s", text)
	}
	p.fail()

	v := newVerifier(t, c)
	keys := load(t, v)
	if s := keys.Status()[0]; !s.Loaded || !s.Stale || !s.Copy || s.Keys != 1 || !s.FetchedAt.Equal(noon) || !strings.Contains(s.Error, "status 503") {
		t.Errorf("Load: %+v", s)
	}
	if got := outcome(t, v, keys, bearer(good(nil))); got != "ok" {
		t.Errorf("Load: got %q", got)
	}

	r := run(t, c)
	first := <-r.published
	if s := first.Status()[0]; !s.Loaded || !s.Stale || !s.Copy || s.Error != "" {
		t.Errorf("Run begins with %+v", s)
	}
	r.decides(first, good(nil), "ok")
	r.decides(r.next("the failure", isBroken), good(nil), "ok")
	p.serve(oldSet())
	again := r.next("the provider is back", func(s identity.KeyStatus) bool { return isGood(s) && !s.Stale })
	if again.Status()[0].Copy || again.Generation() != first.Generation() {
		t.Errorf("the same set again: %+v, generations %d and %d", again.Status(), first.Generation(), again.Generation())
	}
	p.serve(newSet())
	r.decides(r.next("a new set", func(identity.KeyStatus) bool { return r.view.Load().Generation() > first.Generation() }), good(nil), noSignature)
}

// TestCopyIsReplacedByGoodSetsOnly follows what the provider serves.
func TestCopyIsReplacedByGoodSetsOnly(t *testing.T) {
	p := serveKeys(t, oldSet())
	c, file := kept(t, p)
	before := read(t, file)
	for _, broken := range []string{`{"keys":[]}`, "{", jwks(jwk(&keyRing().rsaWeak.PublicKey, nil))} {
		p.serve(broken)
		r := run(t, c)
		r.next("the broken set", isBroken)
		r.stop()
		if read(t, file) != before {
			t.Errorf("a copy of %s", broken)
		}
	}
	p.serve(newSet())
	r := run(t, c)
	r.next("the new set", func(s identity.KeyStatus) bool { return isGood(s) && !s.Stale })
	r.stop()
	if !strings.HasSuffix(read(t, file), newSet()) {
		t.Error("no copy of the new set")
	}
	r = run(t, c) // and within one run
	r.next("the new set", func(s identity.KeyStatus) bool { return isGood(s) && !s.Stale })
	p.serve(oldSet())
	before = read(t, file)
	r.next("the old set", func(identity.KeyStatus) bool { return outcome(t, r.v, r.view.Load(), bearer(good(nil))) == "ok" })
	r.stop()
	if !strings.HasSuffix(read(t, file), oldSet()) {
		t.Errorf("no copy of the old set: %s, was %s", read(t, file), before)
	}
	if files, _ := os.ReadDir(c.Dir); len(files) != 1 {
		t.Errorf("left in the folder: %v", files)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// summed gives a copy's text the checksum that it needs.
func summed(rest string) string {
	sum := sha256.Sum256([]byte(rest))
	return hex.EncodeToString(sum[:]) + "\n" + rest
}

// TestCopiesThatAreNotUsed holds that a copy which is not whole, young and ours is no copy, and that the log says why.
func TestCopiesThatAreNotUsed(t *testing.T) {
	p := serveKeys(t, oldSet())
	c, file := kept(t, p)
	p.fail()
	text := read(t, file)
	_, rest, _ := strings.Cut(text, "\n")
	header, set, _ := strings.Cut(rest, "\n")
	replaced := func(old, new string) func(*testing.T) {
		return func(t *testing.T) { writeFile(t, file, summed(strings.Replace(header, old, new, 1)+"\n"+set)) }
	}
	write := func(text string) func(*testing.T) { return func(t *testing.T) { writeFile(t, file, text) } }
	other := c
	other.Issuers = []identity.Issuer{c.Issuers[0]}
	other.Issuers[0].Issuer = issuerB
	elsewhere := c
	elsewhere.Issuers = []identity.Issuer{c.Issuers[0]}
	elsewhere.Issuers[0].Keys.URL += "2"
	cases := []struct {
		name, want string
		spoil      func(*testing.T)
		age        time.Duration
	}{
		{"as it was", "", write(text), 0},
		{"just young enough", "", write(text), 24*time.Hour - time.Second},
		{"too old", "it is 24h0m0s old, and keys.max_stale is 24h0m0s", write(text), 24 * time.Hour},
		{"clock a bit behind", "", write(text), -5 * time.Minute},
		{"from the future", "it is from the future", write(text), -5*time.Minute - time.Second},
		{"empty", "the checksum is wrong", write(""), 0},
		{"cut off", "the checksum is wrong", write(text[:len(text)-1]), 0},
		{"one bit", "the checksum is wrong", write(text[:len(text)-9] + string(text[len(text)-9]^1) + text[len(text)-8:]), 0},
		{"older time", "the checksum is wrong", write(strings.Replace(text, "2026", "2027", 1)), 0},
		{"checksum in upper case", "the checksum is wrong", write(strings.ToUpper(text[:64]) + text[64:]), 0},
		{"too long", "more than 1114112 bytes", write(text + strings.Repeat(" ", 2<<20)), 0},
		{"other format", `the format is "gatehouse key set 2"`, replaced("set 1", "set 2"), 0},
		{"other issuer", "or of another url", replaced(`"id":"`, `"id":"0`), 0},
		{"header is no json", "invalid character", replaced("{", "("), 0},
		{"weak key", "an RSA key of 1024 bits", write(summed(header + "\n" + jwks(jwk(&keyRing().rsaWeak.PublicKey, nil)))), 0},
		{"no keys", "the set is empty", write(summed(header + "\n" + `{"keys":[]}`)), 0},
		{"everybody may write to the file", "chmod o-w", func(t *testing.T) { write(text)(t); must(t, os.Chmod(file, 0o602)) }, 0},
		{"everybody may write to the folder", "chmod o-w", func(t *testing.T) { write(text)(t); must(t, os.Chmod(c.Dir, 0o702)) }, 0},
		{"a link", "not a regular file", func(t *testing.T) {
			write(text)(t)
			must(t, os.Rename(file, c.Dir+"/other"))
			must(t, os.Symlink(c.Dir+"/other", file))
		}, 0},
		{"a folder", "not a regular file", func(t *testing.T) { must(t, os.Mkdir(file, 0o700)) }, 0},
	}
	for _, tt := range cases {
		must(t, os.RemoveAll(c.Dir))
		must(t, os.Mkdir(c.Dir, 0o700))
		tt.spoil(t)
		for name, config := range map[string]identity.Config{"": c, "of another issuer": other, "of another url": elsewhere} {
			config.Clock = func() time.Time { return noon.Add(tt.age) }
			log := &logBuffer{}
			config.Logger = log.logger()
			want := name == "" && tt.want == ""
			if s := load(t, newVerifier(t, config)).Status()[0]; s.Loaded != want || s.Copy != want {
				t.Errorf("%s %s: %+v", tt.name, name, s)
			}
			if name == "" && tt.want != "" && !(strings.Contains(log.String(), "is not used") && strings.Contains(log.String(), strings.ReplaceAll(tt.want, `"`, `\"`))) {
				t.Errorf("%s: the log does not say %q: %s", tt.name, tt.want, log)
			}
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCopyOfAnotherIssuerUnderOurName is a file that was moved: its content says whose it is.
func TestCopyOfAnotherIssuerUnderOurName(t *testing.T) {
	p := serveKeys(t, oldSet())
	c, ours := kept(t, p)
	_, theirs := kept(t, serveKeys(t, newSet()))
	p.fail()
	writeFile(t, ours, read(t, theirs))
	if s := load(t, newVerifier(t, c)).Status()[0]; s.Loaded {
		t.Errorf("got %+v", s)
	}
}

// TestNoFolderForCopies goes on without, and says so.
func TestNoFolderForCopies(t *testing.T) {
	c := oneIssuer(identity.KeySource{URL: serveKeys(t, oldSet()).URL})
	c.Dir = filepath.Join(temp(t, "a file"), "keys")
	r := run(t, c)
	r.decides(r.next("the set", isGood), good(nil), "ok")
	r.stop()
	if !strings.Contains(r.log.String(), "no copy of the keys is kept") {
		t.Errorf("the log: %s", r.log)
	}
}

// TestMaxStale lets older keys serve for a day without the provider, and no longer; cached tokens are no exception.
func TestMaxStale(t *testing.T) {
	p, now := serveKeys(t, oldSet()), newClock()
	c := oneIssuer(identity.KeySource{URL: p.URL, Refresh: time.Second})
	c.Clock, c.Dir = now.now, t.TempDir()
	token := good(object{"exp": at(100 * time.Hour)})
	r := run(t, c)
	first := r.next("the set", isGood)
	r.decides(first, token, "ok")

	p.fail()
	now.advance(24*time.Hour - time.Millisecond)
	stale := r.next("the failure", isBroken)
	if s := stale.Status()[0]; !s.Loaded || !s.Stale || s.Withdrawn || s.FetchedAt.After(noon.Add(24*time.Hour)) {
		t.Errorf("a day without the provider: %+v", s)
	}
	now.advance(24 * time.Hour) // a fetch may have come between the advance and the failure
	gone := r.next("the withdrawal", func(s identity.KeyStatus) bool { return s.Withdrawn })
	if s := gone.Status()[0]; s.Loaded || s.Stale || s.Keys != 0 || s.Error == "" || gone.Generation() <= first.Generation() {
		t.Errorf("withdrawn: %+v", s)
	}
	r.decides(gone, token, "identity unavailable: keys of the issuer could not be read for too long")
	r.decides(gone, withKid("new"), "identity unavailable: keys of the issuer could not be read for too long")
	r.stop()

	restarted := run(t, c) // the copy is as old as the keys
	restarted.decides(<-restarted.published, token, neverLoaded)
	p.serve(oldSet())
	restarted.decides(restarted.next("the provider is back", isGood), token, "ok")
}

// TestMaxStaleCountsFromTheFetch counts a copy's age over a restart.
func TestMaxStaleCountsFromTheFetch(t *testing.T) {
	p, now := serveKeys(t, oldSet()), newClock()
	c, _ := kept(t, p)
	c.Clock = now.now
	p.fail()
	now.advance(23 * time.Hour)
	token := good(object{"exp": at(100 * time.Hour)})
	r := run(t, c)
	r.decides(<-r.published, token, "ok")
	now.advance(time.Hour)
	r.decides(r.next("the withdrawal", func(s identity.KeyStatus) bool { return s.Withdrawn }), token, "identity unavailable: keys of the issuer could not be read for too long")
}

// TestCopyKeepsUp writes the time of the last fetch although the set is the same, and what Load fetched.
func TestCopyKeepsUp(t *testing.T) {
	p, now := serveKeys(t, oldSet()), newClock()
	c := oneIssuer(identity.KeySource{URL: p.URL})
	c.Clock, c.Dir = now.now, t.TempDir()
	r := &running{t: t, published: make(chan *identity.Keys, 1000), log: &logBuffer{}, v: newVerifier(t, c)}
	load(t, r.v)
	r.start()
	r.decides(<-r.published, good(nil), "ok")
	now.advance(time.Minute)
	r.decides(r.view.Load(), withKid("new"), unknownKey) // which fetches
	r.stop()
	files, err := filepath.Glob(filepath.Join(c.Dir, "*.keys"))
	if err != nil || len(files) != 1 || !strings.Contains(read(t, files[0]), `"fetched_at":"2026-06-01T12:01:00Z"`) {
		t.Fatalf("%v, %v", files, err)
	}

	must(t, os.Remove(files[0]))
	r = &running{t: t, published: make(chan *identity.Keys, 1000), log: &logBuffer{}, v: newVerifier(t, c)}
	load(t, r.v)
	fetches := p.fetches.Load()
	r.start()
	<-r.published
	r.stop()
	if n := p.fetches.Load(); n != fetches || !strings.Contains(read(t, files[0]), `"fetched_at":"2026-06-01T12:01:00Z"`) {
		t.Errorf("%d fetches, %s", n-fetches, read(t, files[0]))
	}
}

// TestInheritLeavesANewerCopy prefers what was fetched last.
func TestInheritLeavesANewerCopy(t *testing.T) {
	p, now := serveKeys(t, oldSet()), newClock()
	c := oneIssuer(identity.KeySource{URL: p.URL})
	c.Clock, c.Dir = now.now, t.TempDir()
	old := newVerifier(t, c)
	load(t, old)
	now.advance(time.Minute)
	p.serve(newSet())
	r := run(t, c)
	r.next("the new set", isGood)
	r.stop()
	p.fail()
	c.Succeeds = old
	v := newVerifier(t, c)
	keys := load(t, v)
	if got := outcome(t, v, keys, bearer(good(nil))); got != noSignature || !keys.Status()[0].Copy {
		t.Errorf("got %q, %+v", got, keys.Status())
	}
}

// FuzzKeyCopy holds that of all files the one that was written is the only copy, be they ever so like it.
func FuzzKeyCopy(f *testing.F) {
	dir := f.TempDir()
	c := oneIssuer(identity.KeySource{URL: "http://127.0.0.1:0/"})
	c.Dir, c.Client = dir, &http.Client{Transport: onlyTo("nobody")}
	v, err := identity.New(c)
	if err != nil {
		f.Fatal(err)
	}
	sum := sha256.Sum256([]byte(issuerA + "\x00http://127.0.0.1:0/"))
	id := hex.EncodeToString(sum[:])
	path := filepath.Join(dir, id[:32]+".keys")
	header := `{"format":"gatehouse key set 1","id":"` + id + `","issuer":"x","source":"y","fetched_at":"2026-06-01T12:00:00Z"}`
	f.Add([]byte(header+"\n"+oldSet()), true)
	f.Add([]byte(summed(header+"\n"+oldSet())), false)
	f.Add([]byte(header), true)
	f.Add([]byte("\n\n"), false)
	f.Fuzz(func(t *testing.T, text []byte, correct bool) {
		if correct {
			text = []byte(summed(string(text)))
		}
		writeFile(t, path, string(text))
		keys, err := v.Load(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		first, rest, _ := bytes.Cut(text, []byte("\n"))
		if keys.Status()[0].Loaded && (!strings.HasPrefix(summed(string(rest)), string(first)+"\n") || !bytes.Contains(rest, []byte(id))) {
			t.Errorf("keys from %q", text)
		}
	})
}
