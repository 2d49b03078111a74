package bundles_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"gatehouse/bundles"
	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/upstream"
)

// bundleServer is a bundle service: ETags, long polling, deltas for clients that accept them, and failures on demand.
type bundleServer struct {
	*httptest.Server
	mu       sync.Mutex
	body     []byte
	tag      string
	deltas   map[string][]byte // by the ETag that they apply to
	holds    bool
	changed  chan struct{}
	instead  http.HandlerFunc // replaces the response
	requests []*http.Request
}

func newBundleServer(t testing.TB, files map[string]string) *bundleServer {
	t.Helper()
	s := &bundleServer{changed: make(chan struct{}), deltas: map[string][]byte{}}
	s.set(packed(t, files))
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// set serves another bundle.
func (s *bundleServer) set(body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := sha256.Sum256(body)
	s.body, s.tag = body, `"`+hex.EncodeToString(sum[:8])+`"`
	close(s.changed)
	s.changed = make(chan struct{})
}

// setDelta serves a bundle that clients with the previous one get as a delta.
func (s *bundleServer) setDelta(full, delta []byte) {
	s.mu.Lock()
	s.deltas = map[string][]byte{s.tag: delta}
	s.mu.Unlock()
	s.set(full)
}

func (s *bundleServer) failing(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instead = h
}

// seen returns the number of requests and the last one.
func (s *bundleServer) seen() (int, *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) == 0 {
		return 0, nil
	}
	return len(s.requests), s.requests[len(s.requests)-1]
}

func (s *bundleServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	instead, holds, changed := s.instead, s.holds, s.changed
	s.requests = append(s.requests, r.Clone(context.Background()))
	s.mu.Unlock()
	if instead != nil {
		instead(w, r)
		return
	}
	if holds {
		w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
	}
	if holds && strings.Contains(r.Header.Get("Prefer"), "wait=") && r.Header.Get("If-None-Match") == s.current() {
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
	s.mu.Lock()
	body, tag, delta := s.body, s.tag, s.deltas[r.Header.Get("If-None-Match")]
	s.mu.Unlock()
	w.Header().Set("ETag", tag)
	switch {
	case r.Header.Get("If-None-Match") == tag:
		w.WriteHeader(http.StatusNotModified)
	case delta != nil && strings.Contains(r.Header.Get("Prefer"), "delta"):
		_, _ = w.Write(delta)
	default:
		_, _ = w.Write(body)
	}
}

func (s *bundleServer) current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tag
}

// answers returns a bundle whose decision carries a number.
func answers(n int) map[string]string { return map[string]string{"a.rego": answering(n)} }

// from returns a source at a URL that is polled every second.
func from(url string, change ...func(*bundles.Remote)) []bundles.Source {
	r := &bundles.Remote{URL: url, Interval: time.Second, LongPoll: -1}
	for _, c := range change {
		c(r)
	}
	return []bundles.Source{{Name: "app", Remote: r}}
}

func keeping(dir string) option { return func(c *bundles.Config) { c.Dir = dir } }

// remote waits for a status of the only source.
func (r *running) remote(what string, ok func(bundles.Status) bool) bundles.Status {
	r.t.Helper()
	for deadline := time.Now().Add(hangGuard); ; time.Sleep(5 * time.Millisecond) {
		s := r.manager.Status()[0]
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s did not come about: %+v, remote %+v", what, s, *s.Remote)
		}
	}
}

func TestBundleServiceWithETags(t *testing.T) {
	t.Parallel()
	server := newBundleServer(t, answers(1))
	registry := prometheus.NewRegistry()
	r := run(t, from(server.URL+"/bundles/app?secret=1"), func(c *bundles.Config) { c.Registerer = registry })
	if got := response(t, r.next()); got != "1" {
		t.Fatalf("answer %s", got)
	}
	first := r.remote("a confirmation", func(s bundles.Status) bool {
		n, _ := server.seen()
		return n > 1 && s.Remote.LastAnswer.Sub(s.Remote.Downloaded) > 150*time.Millisecond
	})
	if first.Source != server.URL+"/bundles/app" || first.Remote.Tag != server.current() || first.Error != "" || first.Remote.Bytes == 0 {
		t.Errorf("status %+v, remote %+v", first, *first.Remote)
	}
	if _, last := server.seen(); last.Header.Get("If-None-Match") != server.current() || last.Header.Get("Prefer") != "modes=snapshot,delta" {
		t.Errorf("asked with %v", last.Header)
	}
	r.none()
	server.set(packed(t, answers(2)))
	if got := response(t, r.next()); got != "2" {
		t.Errorf("answer %s", got)
	}
	if n := testutil.ToFloat64(mustFind(t, registry, "gatehouse_bundle_requests_total", "new")); n != 2 {
		t.Errorf("%v new bundles counted", n)
	}
}

func mustFind(t *testing.T, registry *prometheus.Registry, name, result string) prometheus.Collector {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetValue() == result {
					c := prometheus.NewCounter(prometheus.CounterOpts{Name: "found"})
					c.Add(m.GetCounter().GetValue())
					return c
				}
			}
		}
	}
	t.Fatalf("no metric %s with %s", name, result)
	return nil
}

func TestLongPoll(t *testing.T) {
	t.Parallel()
	server := newBundleServer(t, answers(1))
	server.holds = true
	r := run(t, from(server.URL, func(c *bundles.Remote) { c.Interval, c.LongPoll = time.Hour, 20*time.Second }))
	r.next()
	for n := 2; n < 6; n++ {
		r.remote("a held question", func(bundles.Status) bool {
			_, last := server.seen()
			return last.Header.Get("Prefer") == "modes=snapshot,delta;wait=20" && last.Header.Get("If-None-Match") == server.current()
		})
		server.set(packed(t, answers(n)))
		if got := response(t, r.next()); got != fmt.Sprint(n) {
			t.Fatalf("answer %s, want %d", got, n)
		}
	}
}

// A server that announces long polling but does not hold requests must not be polled in a tight loop.
func TestLongPollThatIsNone(t *testing.T) {
	t.Parallel()
	server := newBundleServer(t, answers(1))
	server.failing(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
		w.Header().Set("ETag", `"x"`)
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(server.body)
	})
	r := run(t, from(server.URL, func(c *bundles.Remote) { c.Interval, c.LongPoll = time.Hour, time.Minute }))
	r.next()
	r.remote("a confirmation", func(s bundles.Status) bool {
		n, _ := server.seen()
		return n > 1 && s.Remote.LastAnswer.Sub(s.Remote.Downloaded) > 150*time.Millisecond
	})
	time.Sleep(time.Second) // five requests would fit, none may come
	if n, _ := server.seen(); n != 2 {
		t.Errorf("%d questions", n)
	}
}

// TestBadAnswers checks that nothing becomes active, and the error.
func TestBadAnswers(t *testing.T) {
	t.Parallel()
	whole := packed(t, answers(2))
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", code) }
	}
	body := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }
	}
	tests := map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"server error":          {status(500), "the server answered 500 Internal Server Error"},
		"not found":             {status(404), "check the bundle's url"},
		"no credential":         {status(401), "it wants a credential"},
		"not allowed":           {status(403), "may not read this bundle"},
		"teapot":                {status(418), "418"},
		"nothing changed":       {status(304), "304 Not Modified to a request without a condition"},
		"empty":                 {body(nil), "without a body"},
		"no content":            {status(204), "204"},
		"a page":                {body([]byte(strings.Repeat("<html>please log in</html>", 30))), "not a bundle"},
		"half of it":            {body(whole[:len(whole)/2]), "cut off"},
		"less than announced":   {truncated(whole), "reading the answer after"},
		"more than allowed":     {body(make([]byte, 3<<20)), "more than the limit"},
		"more, and it says so":  {announcing(1 << 40), "announces 1099511627776 bytes, more than the limit"},
		"without an end":        {withoutEnd, "sends more than the limit"},
		"a bomb":                {body(zipped(t, tarball(t, item{name: "a/data.json", content: strings.Repeat(" ", 2<<20)}))), "larger than"},
		"climbing out":          {body(packed(t, map[string]string{"../a.rego": "package a"})), "not a plain path"},
		"rules that do not fit": {body(packed(t, map[string]string{"a.rego": broken})), "a.rego:5"},
		"a delta, unasked":      {body(packed(t, map[string]string{"patch.json": `{"data":[]}`})), "a whole bundle was asked for"},
		"round in circles":      {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, "more than 5 redirects"},
		"off to plain text": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/x?token=secret", http.StatusFound)
		}, "use https"},
		"off to a file": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}, "the scheme is https"},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newBundleServer(t, answers(1))
			server.failing(c.answer)
			r := run(t, from(server.URL), func(cfg *bundles.Config) { cfg.Limits = bundle.Limits{Total: 1 << 20, File: 1 << 20} })
			r.remote("the complaint", func(s bundles.Status) bool { // nothing is active, so there is also an error
				return strings.Contains(s.Error+s.Remote.Unreachable, c.want) && s.Error != "" && s.Stage != ""
			})
			for _, e := range r.logs.All() {
				if text := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(text, "secret") {
					t.Errorf("a secret is in the log: %s", text)
				}
			}
			r.none()
			server.failing(nil)
			if got := response(t, r.next()); got != "1" {
				t.Errorf("answer %s once the server had recovered", got)
			}
			r.remote("the end of it", func(s bundles.Status) bool { return s.Error == "" && s.Remote.Unreachable == "" })
		})
	}
}

// truncated promises the whole body and ends after half of it.
func truncated(body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body[:len(body)/2])
	}
}

func announcing(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", fmt.Sprint(n)) }
}

// withoutEnd writes until the client disconnects.
func withoutEnd(w http.ResponseWriter, _ *http.Request) {
	for block := make([]byte, 64<<10); ; {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// What is active stays, whatever the server does next.
func TestFailuresLeaveWhatIsActive(t *testing.T) {
	t.Parallel()
	server := newBundleServer(t, answers(1))
	r := run(t, from(server.URL))
	r.next()
	server.set(packed(t, map[string]string{"a.rego": broken}))
	if line := r.says(stays); line.ContextMap()["file"] != "a.rego" {
		t.Errorf("logged %v", line.ContextMap())
	}
	// The request has the broken bundle's ETag: it is not downloaded again.
	r.remote("a question with the broken one's tag", func(bundles.Status) bool {
		_, last := server.seen()
		return last.Header.Get("If-None-Match") == server.current()
	})
	s := r.remote("an answer", func(s bundles.Status) bool {
		n, _ := server.seen()
		return n > 1 && s.Remote.LastAnswer.Sub(s.Remote.Downloaded) > 150*time.Millisecond
	})
	if s.Error == "" || s.Stage != "reading" {
		t.Errorf("that nothing changed since made the status forget the error: %+v", s)
	}
	server.failing(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusServiceUnavailable) })
	s = r.remote("the failure", func(s bundles.Status) bool { return strings.Contains(s.Remote.Unreachable, "503") })
	if s.Stage != "reading" {
		t.Errorf("status %+v", s)
	}
	server.failing(nil)
	server.set(packed(t, answers(3)))
	if got := response(t, r.next()); got != "3" {
		t.Errorf("answer %s", got)
	}
}

// A server that accepts connections but never responds must not block the start.
func TestStartIsBounded(t *testing.T) {
	t.Parallel()
	silent := newBundleServer(t, answers(1))
	silent.failing(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	m, err := bundles.New(bundles.Config{Sources: from(silent.URL), Policy: policy.Config{Decision: "authz/allow"}})
	must(t, err)
	began := time.Now()
	_, err = m.Load(context.Background())
	var problems bundle.Problems
	if !errors.As(err, &problems) || problems[0].Stage != "downloading" || !strings.Contains(err.Error(), "no answer for 5s") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > hangGuard {
		t.Errorf("it took %v", took)
	}
}

// Run uses what Load has fetched, and fetches nothing twice.
func TestLoadThenRun(t *testing.T) {
	t.Parallel()
	server := newBundleServer(t, answers(1))
	published := make(chan *policy.Snapshot, 10)
	m, err := bundles.New(bundles.Config{Sources: from(server.URL), Policy: policy.Config{Decision: "authz/allow"}, Dir: t.TempDir(),
		Publish: func(_ context.Context, s *policy.Snapshot) error { published <- s; return nil }})
	must(t, err)
	s, err := m.Load(context.Background())
	must(t, err)
	if response(t, s) != "1" {
		t.Error("Load got another policy")
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	if response(t, <-published) != "1" {
		t.Error("Run published another policy")
	}
	for n := 0; n < 2; n, _ = server.seen() {
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	must(t, <-done)
	if _, last := server.seen(); last.Header.Get("If-None-Match") != server.current() {
		t.Error("the bundle was fetched twice")
	}
}

func TestSourcesThatAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, map[string]string{"token": "t", "empty": "\n", "ca.pem": "no certificate"})
	file := func(name string) string { return filepath.Join(dir, name) }
	tests := map[string]struct {
		remote bundles.Remote
		want   string
	}{
		"nothing":                 {bundles.Remote{}, "one of path, url and image"},
		"two of them":             {bundles.Remote{URL: "https://a.example/x", Image: "a.example/x"}, "one of path, url and image"},
		"in clear text":           {bundles.Remote{URL: "http://control.example.com/x"}, "use https"},
		"a file":                  {bundles.Remote{URL: "file:///etc/passwd"}, "give https://host/path"},
		"another scheme":          {bundles.Remote{URL: "ftp://a.example/x"}, "the scheme is https"},
		"a password in the url":   {bundles.Remote{URL: "https://u:hunter2@a.example/x"}, "without user"},
		"no url at all":           {bundles.Remote{URL: "https://a.example/%zz hunter2"}, "not a URL"},
		"too often":               {bundles.Remote{URL: "https://a.example/x", Interval: time.Millisecond}, "at least 1s"},
		"max_age below interval":  {bundles.Remote{URL: "https://a.example/x", MaxAge: time.Minute}, "more than the time between two questions"},
		"withdraw without an age": {bundles.Remote{URL: "https://a.example/x", Withdraw: true}, "without it there is nothing to withdraw"},
		"a token file missing":    {bundles.Remote{URL: "https://a.example/x", Service: upstream.Service{BearerFile: file("none")}}, "none: no such file"},
		"an empty token":          {bundles.Remote{URL: "https://a.example/x", Service: upstream.Service{BearerFile: file("empty")}}, "empty: empty"},
		"an authority of nothing": {bundles.Remote{URL: "https://a.example/x", Service: upstream.Service{CA: file("ca.pem")}}, "CA certificate"},
		"a certificate alone":     {bundles.Remote{URL: "https://a.example/x", Service: upstream.Service{Cert: file("token")}}, "one of them is missing"},
		"two credentials":         {bundles.Remote{URL: "https://a.example/x", Service: upstream.Service{BearerFile: file("token"), GCP: &upstream.GCP{Audience: "x"}}}, "at most one"},
		"oauth2 in clear text":    {bundles.Remote{URL: "https://a.example/x", Service: upstream.Service{OAuth2: &upstream.OAuth2{TokenURL: "http://a.example", ClientID: "c", SecretFile: file("token")}}}, "https"},
		"aws from nowhere":        {bundles.Remote{URL: "https://a.example/x", Service: upstream.Service{AWS: &upstream.AWS{From: "thin air"}}}, "thin air"},
		"an image's name":         {bundles.Remote{Image: "a.example/APP"}, "lower-case"},
		"an image without a host": {bundles.Remote{Image: "app:1"}, "names no registry"},
		"an image with a token":   {bundles.Remote{Image: "a.example/app", Service: upstream.Service{BearerFile: file("token")}}, "Docker's credential file"},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := bundles.New(bundles.Config{Sources: []bundles.Source{{Name: "app", Remote: &c.remote}}})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), `bundle "app": `) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
	if _, err := os.Stat(file("token")); err != nil {
		t.Fatal(err)
	}
}
