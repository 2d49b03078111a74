package policy_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
)

// backend counts its requests.
func backend(t *testing.T, answer http.HandlerFunc) (url string, asked *atomic.Int64) {
	asked = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, asked
}

func sends(t *testing.T, rules string, limit int64) *policy.Snapshot {
	t.Helper()
	s, err := policy.Compile(t.Context(), policy.Config{Decision: "authz/allow", Capabilities: policy.Capabilities{
		HTTPSend: []string{"127.0.0.1"}, HTTPSendPrivate: true, HTTPSendCache: limit}}, []*bundle.Bundle{read(t, "app", module(rules))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestAnswersAreKept checks that with cache and force_cache a response serves other requests, while it is fresh and there is room.
func TestAnswersAreKept(t *testing.T) {
	body := `{"ok": true}`
	url, asked := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fresh" {
			w.Header().Set("Cache-Control", "max-age=3600")
			w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
		}
		_, _ = w.Write([]byte(body))
	})
	for name, c := range map[string]struct {
		options string
		path    string
		limit   int64
		padding int
		want    int64 // backend requests for five decisions
	}{
		"without":                         {``, "/fresh", 0, 0, 5},
		"cache":                           {`, "cache": true`, "/fresh", 0, 0, 1},
		"cache, and no word of freshness": {`, "cache": true`, "/", 0, 0, 5},
		"force_cache":                     {`, "force_cache": true, "force_cache_duration_seconds": 3600`, "/", 0, 0, 1},
		"an answer that is too large":     {`, "force_cache": true, "force_cache_duration_seconds": 3600`, "/", 100, 0, 5},
		"a request that is too large":     {`, "force_cache": true, "force_cache_duration_seconds": 3600`, "/", 64 << 10, 64 << 10, 5},
	} {
		asked.Store(0)
		s := sends(t, fmt.Sprintf(`allow := http.send({"method": "GET", "url": "%s%s", "headers": {"x": "%s"}, "force_json_decode": true%s}).body.ok`,
			url, c.path, strings.Repeat("x", c.padding), c.options), c.limit)
		for range 5 {
			if d, err := s.Decide(t.Context(), rego.Object(), time.Now()); err != nil || !d.Allowed {
				t.Fatalf("%s: %+v, %v", name, d, err)
			}
		}
		if got := asked.Load(); got != c.want {
			t.Errorf("%s: asked %d times, want %d", name, got, c.want)
		}
	}
}

// TestAnswersOfManyRequests has clients vary the http.send request: old responses are evicted, and memory does not grow.
func TestAnswersOfManyRequests(t *testing.T) {
	url, asked := backend(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"ok": true}`)) })
	s := sends(t, `allow := http.send({"method": "POST", "url": "`+url+`", "body": input.x, "force_json_decode": true, "force_cache": true, "force_cache_duration_seconds": 3600}).body.ok`, 64<<10)
	ask := func(i int) {
		t.Helper()
		x := rego.Object(rego.Member{Key: "x", Value: rego.String(fmt.Sprint(strings.Repeat("x", 4096), i))})
		if d, err := s.Decide(t.Context(), x, time.Now()); err != nil || !d.Allowed {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	for i := range 50 {
		ask(i)
	}
	ask(49)
	if asked.Load() != 50 {
		t.Errorf("the last one was asked again: %d", asked.Load())
	}
	ask(0)
	if asked.Load() != 51 {
		t.Errorf("fifty requests of 4 KiB are kept in 64 KiB: %d", asked.Load())
	}
}

// TestAnswersAreBounded checks that an endless response is not read into memory.
func TestAnswersAreBounded(t *testing.T) {
	url, _ := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		piece := make([]byte, 1<<20)
		for range 64 {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	})
	s := sends(t, `allow := count(http.send({"method": "GET", "url": "`+url+`"}).raw_body) > 0`, 0)
	if d, err := s.Decide(context.Background(), rego.Object(), time.Now()); d.Allowed || err == nil || !strings.Contains(err.Error(), "http.send: the answer has more than") {
		t.Errorf("%+v, %v", d, err)
	}
}
