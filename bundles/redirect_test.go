package bundles_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gatehouse/bundles"
	"gatehouse/upstream"
)

// storageHost is a file server with ETags that records its requests.
type storageHost struct {
	*httptest.Server
	mu         sync.Mutex
	body       []byte
	tag        string
	full, same int
	headers    []http.Header
}

func newStorageHost(t *testing.T, tag string, body []byte) *storageHost {
	s := &storageHost{tag: tag, body: body}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.headers = append(s.headers, r.Header.Clone())
		w.Header().Set("ETag", s.tag)
		if r.Header.Get("If-None-Match") == s.tag {
			s.same++
			w.WriteHeader(http.StatusNotModified)
			return
		}
		s.full++
		_, _ = w.Write(s.body)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *storageHost) counts() (full, same int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full, s.same
}

// TestConditionAcrossARedirect has a front end that redirects to another host, like control planes in front of object storage. An unmodified
// bundle is not downloaded again, not even after a restart; the ETag is sent to no other host, and neither are credentials.
func TestConditionAcrossARedirect(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(token, []byte("t"), 0o600))
	first, second := newStorageHost(t, `"1"`, packed(t, answers(1))), newStorageHost(t, `"1"`, packed(t, answers(2)))
	var to atomic.Pointer[string]
	to.Store(&first.URL)
	var leaked atomic.Bool
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") != "" || r.Header.Get("Authorization") != "Bearer t" {
			leaked.Store(true)
		}
		http.Redirect(w, r, *to.Load()+"/x?signature=s", http.StatusTemporaryRedirect)
	}))
	t.Cleanup(front.Close)
	dir := t.TempDir()
	sources := from(front.URL+"/bundle", with(upstream.Service{BearerFile: token, Headers: map[string]string{"X-Api-Key": "k"}}))
	ctx, stop := context.WithCancel(context.Background())
	r := newRunning(t, sources, keeping(dir))
	done := make(chan error)
	go func() { done <- r.manager.Run(ctx) }()
	if got := response(t, r.next()); got != "1" {
		t.Fatalf("answer %s", got)
	}
	waitFor(t, func() bool { _, same := first.counts(); return same >= 2 })
	r.remote("the file", func(bundles.Status) bool { return !modified(dir).IsZero() })
	stop()
	must(t, <-done)

	again := run(t, sources, keeping(dir))
	if got := response(t, again.next()); got != "1" {
		t.Fatalf("answer %s after a restart", got)
	}
	if full, _ := first.counts(); full != 1 {
		t.Errorf("the whole bundle was fetched %d times", full)
	}
	// Another host with the same ETag and another bundle.
	to.Store(&second.URL)
	if got := response(t, again.next()); got != "2" {
		t.Fatalf("answer %s of the other host", got)
	}
	waitFor(t, func() bool { _, same := second.counts(); return same >= 1 })
	if full, _ := second.counts(); full != 1 {
		t.Errorf("the whole bundle was fetched %d times from the other host", full)
	}
	if leaked.Load() {
		t.Error("the front got a condition of another host, or no credential")
	}
	for _, host := range []*storageHost{first, second} {
		host.mu.Lock()
		for _, h := range host.headers {
			for name := range h {
				if strings.Contains("Authorization X-Api-Key Referer Cookie", name) {
					t.Errorf("the other host got %s: %v", name, h[name])
				}
			}
		}
		host.mu.Unlock()
	}
}

// A 304 for a request without a condition is an error, also after a redirect.
func TestNotModifiedWithoutACondition(t *testing.T) {
	t.Parallel()
	var turned atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }))
	t.Cleanup(elsewhere.Close)
	storage := newStorageHost(t, `"1"`, packed(t, answers(1)))
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := storage.URL
		if turned.Load() {
			to = elsewhere.URL
		}
		http.Redirect(w, r, to, http.StatusFound)
	}))
	t.Cleanup(front.Close)
	r := run(t, from(front.URL))
	r.next()
	turned.Store(true)
	r.remote("the refusal", func(s bundles.Status) bool { return strings.Contains(s.Remote.Unreachable, "without a condition") })
	r.none()
}
