package identity_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/identity"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// running is a Verifier under Run, with what it publishes.
type running struct {
	t         *testing.T
	v         *identity.Verifier
	published chan *identity.Keys
	view      atomic.Pointer[identity.Keys] // what was published last
	log       *logBuffer
	stop      func() // ends Run and waits for it
}

// run starts Run; stop or else the test's end stops it, waits for it, and looks through its log.
func run(t *testing.T, c identity.Config) *running {
	t.Helper()
	r := &running{t: t, published: make(chan *identity.Keys, 1000), log: &logBuffer{}}
	c.Logger = r.log.logger()
	r.v = newVerifier(t, c)
	r.start()
	return r
}

// start is run for a Verifier that exists.
func (r *running) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- r.v.Run(ctx, func(k *identity.Keys) {
			r.view.Store(k)
			r.published <- k
		})
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("Run: %v", err)
		}
		refusesToLeak(r.t, r.log.String())
	})
	r.t.Cleanup(r.stop)
}

// next waits for the first published keys whose only issuer's status pleases.
func (r *running) next(what string, pleases func(identity.KeyStatus) bool) *identity.Keys {
	r.t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case keys := <-r.published:
			if pleases(keys.Status()[0]) {
				return keys
			}
		case <-timeout:
			r.t.Fatalf("nothing published: %s\n%s", what, r.log)
		}
	}
}

func (r *running) decides(keys *identity.Keys, token, want string) {
	r.t.Helper()
	if got := outcome(r.t, r.v, keys, bearer(token)); got != want {
		r.t.Errorf("got %q, want %q", got, want)
	}
}

type logBuffer struct {
	mu  sync.Mutex // buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}
func (l *logBuffer) Sync() error { return nil }
func (l *logBuffer) logger() *zap.Logger {
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), l, zap.DebugLevel))
}
func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

const noSignature = "bad credential: signature does not verify"

func isGood(s identity.KeyStatus) bool   { return s.Loaded && s.Error == "" }
func isBroken(s identity.KeyStatus) bool { return s.Error != "" }

// oldSet and newSet hold different keys under the same kid.
func oldSet() string { return jwks(jwk(&keyRing().rsa.PublicKey, object{"kid": "r1"})) }
func newSet() string { return jwks(jwk(&keyRing().rsaOther.PublicKey, object{"kid": "r1"})) }

func TestKeyFileRotation(t *testing.T) {
	rename := func(t *testing.T, path, text string) {
		writeFile(t, path+".new", text)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	inPlace := func(t *testing.T, path, text string) { writeFile(t, path, text) }
	// A ConfigMap mount: jwks.json -> ..data/jwks.json, ..data -> ..<time>, and an update renames a new ..data into place.
	configMap := func(t *testing.T, path, text string) {
		dir := filepath.Dir(path)
		versions, err := filepath.Glob(filepath.Join(dir, "..v*"))
		if err != nil {
			t.Fatal(err)
		}
		version := "..v" + strings.Repeat("i", len(versions)+1)
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, version, "jwks.json"), text)
		if err := os.Symlink(version, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); err != nil {
			if err := os.Symlink("..data/jwks.json", path); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, replace := range map[string]func(*testing.T, string, string){"rename": rename, "in place": inPlace, "ConfigMap": configMap} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "jwks.json")
			replace(t, path, oldSet())
			r := run(t, oneIssuer(identity.KeySource{File: path}))
			first := r.next("the first set", isGood)
			r.decides(first, good(nil), "ok")

			replace(t, path, newSet())
			second := r.next("the new set", func(s identity.KeyStatus) bool { return isGood(s) })
			r.decides(second, good(nil), noSignature)
			r.decides(first, good(nil), "ok") // a request that pinned the older keys

			replace(t, path, `{"keys":[]}`)
			third := r.next("the empty set", isBroken)
			if s := third.Status()[0]; !s.Loaded || s.Keys != 1 || !strings.Contains(s.Error, "jwks.json: the set is empty") {
				t.Errorf("status %+v", s)
			}
			if third.Generation() != second.Generation() || second.Generation() <= first.Generation() {
				t.Errorf("generations %d, %d, %d", first.Generation(), second.Generation(), third.Generation())
			}
			r.decides(third, good(nil), noSignature)

			replace(t, path, oldSet())
			r.decides(r.next("the old set again", isGood), good(nil), "ok")
		})
	}
}

func TestKeyFileThroughASymlinkElsewhere(t *testing.T) {
	target := temp(t, oldSet())
	path := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	r := run(t, oneIssuer(identity.KeySource{File: path}))
	r.next("the first set", isGood)
	writeFile(t, target, newSet())
	r.decides(r.next("the new set", isGood), good(nil), noSignature)
}

func TestKeyFileComesLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jwks.json")
	r := run(t, oneIssuer(identity.KeySource{File: path}))
	missing := r.next("the missing file", isBroken)
	r.decides(missing, good(nil), "identity unavailable: keys of the issuer were never loaded")
	writeFile(t, path, oldSet())
	r.decides(r.next("the file", isGood), good(nil), "ok")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r.decides(r.next("the removal", isBroken), good(nil), "ok")
}

func TestRunNeedsTheDirectory(t *testing.T) {
	v := newVerifier(t, oneIssuer(identity.KeySource{File: "/nonexistent/jwks.json"}))
	if err := v.Run(context.Background(), func(*identity.Keys) {}); err == nil || !strings.Contains(err.Error(), `/nonexistent`) {
		t.Errorf("got %v", err)
	}
}

// provider serves a key set that tests change.
type provider struct {
	*httptest.Server
	answer  atomic.Pointer[http.HandlerFunc]
	fetches atomic.Int64
}

func serveKeys(t *testing.T, set string) *provider {
	p := &provider{}
	p.serve(set)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p.fetches.Add(1)
		(*p.answer.Load())(w, req)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) serve(set string) {
	p.handle(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(set)) })
}

func (p *provider) handle(answer http.HandlerFunc) { p.answer.Store(&answer) }

func TestKeysFromURL(t *testing.T) {
	p := serveKeys(t, oldSet())
	r := run(t, oneIssuer(identity.KeySource{URL: p.URL + "/keys?tenant=hidden"}))
	if s := (<-r.published).Status()[0]; s.Loaded || s.Source != p.URL+"/keys" {
		t.Errorf("the first status is %+v", s)
	}
	keys := r.next("the first set", isGood)
	r.decides(keys, good(nil), "ok")

	p.serve(keysOfA())
	r1 := keyRing()
	r.decides(keys, mint("ES256", r1.p256, object{"alg": "ES256", "kid": "e1"}, claims(nil)), "ok") // and so for a View that is older
	keys = r.next("the rotated set", func(s identity.KeyStatus) bool { return s.Keys == 4 })
	r.decides(keys, good(nil), "ok")
	for range 100 {
		r.decides(keys, mint("ES256", r1.p256, object{"alg": "ES256", "kid": "e2"}, claims(nil)), "bad credential: unknown key id")
	}
	if n := p.fetches.Load(); n != 3 {
		t.Errorf("%d fetches, want the first and one for each unknown key", n)
	}
}

func TestKeysFromURLRecover(t *testing.T) {
	p := serveKeys(t, "")
	p.handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	r := run(t, oneIssuer(identity.KeySource{URL: p.URL, Refresh: time.Second}))
	broken := r.next("the failure", isBroken)
	if s := broken.Status()[0]; s.Loaded || s.Error != "fetching "+p.URL+": status 502" {
		t.Errorf("status %+v", s)
	}
	r.decides(broken, good(nil), "identity unavailable: keys of the issuer were never loaded")
	p.serve(oldSet())
	first := r.next("the retry", isGood)
	r.decides(first, good(nil), "ok")
	again := r.next("the regular refresh", isGood)
	if again.Generation() != first.Generation() {
		t.Error("the same set made a new generation")
	}
	p.serve(`{"keys":[]}`)
	kept := r.next("the empty set", isBroken)
	r.decides(kept, good(nil), "ok")
	if s := kept.Status()[0]; !s.Loaded || s.Keys != 1 {
		t.Errorf("status %+v", s)
	}
}

// TestSucceeds changes the configuration while the provider is down: the keys stay, with their age.
func TestSucceeds(t *testing.T) {
	p, now := serveKeys(t, oldSet()), newClock()
	c := oneIssuer(identity.KeySource{URL: p.URL, Refresh: time.Second})
	c.Clock = now.now
	token := good(object{"exp": at(100 * time.Hour)})
	after := c
	after.Succeeds = newVerifier(t, c)
	load(t, after.Succeeds)

	p.serve(newSet())
	v := newVerifier(t, after)
	if got := outcome(t, v, load(t, v), bearer(token)); got != noSignature {
		t.Errorf("older keys replaced newer ones: %q", got)
	}
	now.advance(time.Hour)
	p.fail()
	elsewhere := after
	elsewhere.Issuers = []identity.Issuer{c.Issuers[0]}
	elsewhere.Issuers[0].Keys.URL += "/elsewhere"
	v = newVerifier(t, elsewhere)
	if got := outcome(t, v, load(t, v), bearer(token)); got != neverLoaded {
		t.Errorf("keys of another url: %q", got)
	}

	r := &running{t: t, published: make(chan *identity.Keys, 1000), log: &logBuffer{}}
	r.v = newVerifier(t, c)
	r.decides(load(t, r.v), token, neverLoaded)
	r.v = newVerifier(t, after)
	keys := load(t, r.v)
	r.decides(keys, token, "ok")
	if s := keys.Status()[0]; !s.Loaded || !s.Stale || !s.FetchedAt.Equal(noon) || !strings.Contains(s.Error, "status 503") {
		t.Errorf("status %+v", s)
	}
	r.start()
	r.decides(<-r.published, token, "ok")
	now.advance(23 * time.Hour)
	withdrawn := r.next("the withdrawal", func(s identity.KeyStatus) bool { return s.Withdrawn })
	r.decides(withdrawn, token, "identity unavailable: keys of the issuer could not be read for too long")
	if err := r.v.Ready(withdrawn); err != nil {
		t.Errorf("withdrawn keys make the process unready: %v", err)
	}
	if got := r.v.Degraded(withdrawn); len(got) != 1 || !strings.Contains(got[0], "older than max_stale") {
		t.Errorf("degraded: %q", got)
	}
	after.Succeeds = r.v
	v = newVerifier(t, after)
	if err := v.Ready(load(t, v)); err != nil {
		t.Errorf("and after a reload: %v", err)
	}
	p.serve(oldSet())
	r.decides(r.next("the provider is back", isGood), token, "ok")
}

func TestURLFailures(t *testing.T) {
	elsewhere := serveKeys(t, oldSet())
	hang := make(chan struct{})
	defer close(hang)
	cases := []struct {
		name, want string
		answer     http.HandlerFunc
	}{
		{"redirect to another host", "redirect to another host", func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, elsewhere.URL, http.StatusFound)
		}},
		{"redirects for ever", "too many redirects", func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "/x", http.StatusFound)
		}},
		{"redirect within the host", "", func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/" {
				http.Redirect(w, req, "/keys", http.StatusFound)
				return
			}
			_, _ = w.Write([]byte(oldSet()))
		}},
		{"too long", "more than 1048576 bytes", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(bytes.Repeat([]byte(" "), 2<<20))
		}},
		{"vast headers", "exceeded", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("x", strings.Repeat("x", 128<<10))
		}},
		{"PEM", "is not valid json", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(pemOf("PUBLIC KEY", &keyRing().rsa.PublicKey)))
		}},
		{"status 204", "status 204", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }},
		{"cut off", "unexpected EOF", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("{"))
		}},
		{"caller gives up", "context deadline exceeded", func(_ http.ResponseWriter, req *http.Request) {
			select {
			case <-hang:
			case <-req.Context().Done():
			}
		}},
	}
	for _, c := range cases {
		p := serveKeys(t, "")
		p.handle(c.answer)
		v := newVerifier(t, oneIssuer(identity.KeySource{URL: p.URL + "/?key=hidden"}))
		limit := time.Minute
		if c.name == "caller gives up" {
			limit = 500 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		keys, err := v.Load(ctx)
		cancel()
		if err != nil {
			t.Errorf("%s: a URL is an error: %v", c.name, err)
			continue
		}
		s := keys.Status()[0]
		if !strings.Contains(s.Error, c.want) || (s.Error == "") != (c.want == "") || strings.Contains(s.Error, "hidden") {
			t.Errorf("%s: got %q, want %q", c.name, s.Error, c.want)
		}
	}
	if elsewhere.fetches.Load() != 0 {
		t.Error("the other host was asked")
	}
}

func TestRedirectAwayFromHTTPS(t *testing.T) {
	downgrade := true
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if downgrade {
			http.Redirect(w, req, "http://"+req.Host+"/keys", http.StatusFound)
			return
		}
		_, _ = w.Write([]byte(oldSet()))
	}))
	defer server.Close()
	c := oneIssuer(identity.KeySource{URL: server.URL})
	c.Client = server.Client()
	v := newVerifier(t, c)
	if s := load(t, v).Status()[0]; !strings.Contains(s.Error, "redirect away from https") {
		t.Errorf("got %+v", s)
	}
	downgrade = false
	if s := load(t, v).Status()[0]; !isGood(s) {
		t.Errorf("without redirect: %+v", s)
	}
}

// TestRunRace identifies on many goroutines while files change; the race detector looks on.
func TestRunRace(t *testing.T) {
	path := temp(t, oldSet())
	r := run(t, oneIssuer(identity.KeySource{File: path}))
	var current atomic.Pointer[identity.Keys]
	current.Store(r.next("the first set", isGood))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if got := outcome(t, r.v, current.Load(), bearer(good(nil))); got != "ok" && got != noSignature {
					t.Errorf("got %q", got)
				}
			}
		})
	}
	for i := range 6 {
		set := []string{newSet(), oldSet()}[i%2]
		writeFile(t, path, set)
		current.Store(r.next("the next set", isGood))
	}
	close(stop)
	wg.Wait()
}
