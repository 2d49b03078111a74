package upstream_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatehouse/upstream"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))
}

// TestCredentialsStayWithTheirHost: a redirect to another host takes no credential and no header of the service along, one within the host
// does.
func TestCredentialsStayWithTheirHost(t *testing.T) {
	token := file(t, "secret\n")
	var seen http.Header
	other := serve(t, func(w http.ResponseWriter, r *http.Request) { seen = r.Header.Clone() })
	first := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, other, http.StatusFound)
		case "/within":
			http.Redirect(w, r, "/here", http.StatusFound)
		default:
			seen = r.Header.Clone()
		}
	})
	service := upstream.Service{BearerFile: token, Headers: map[string]string{"X-Tenant": "blue"}}
	for path, carries := range map[string]bool{"/away": false, "/within": true, "/here": true} {
		c, err := upstream.NewClient(service, first+path, 0)
		must(t, err)
		c.Condition = upstream.Condition{Host: c.URL().Host, Tag: `"1"`}
		response, err := c.Do(t.Context(), http.MethodGet, http.Header{"Prefer": {"wait=1"}}, nil)
		must(t, err)
		response.Body.Close()
		c.Close()
		if got := seen.Get("Authorization") == "Bearer secret" && seen.Get("X-Tenant") == "blue" && seen.Get("If-None-Match") == `"1"`; got != carries {
			t.Errorf("%s: asked with %v", path, seen)
		}
		if seen.Get("Prefer") != "wait=1" || seen.Get("User-Agent") != "gatehouse" {
			t.Errorf("%s: asked with %v", path, seen)
		}
		if !carries && (seen.Get("Authorization") != "" || seen.Get("X-Tenant") != "" || seen.Get("If-None-Match") != "") {
			t.Errorf("%s: %v went to another host", path, seen)
		}
	}
}

func TestRedirectsAreFew(t *testing.T) {
	loop := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", http.StatusFound) })
	c, err := upstream.NewClient(upstream.Service{}, loop+"/", 0)
	must(t, err)
	defer c.Close()
	if _, err := c.Do(t.Context(), http.MethodGet, nil, nil); err == nil || !strings.Contains(err.Error(), "more than 5 redirects") {
		t.Errorf("got %v", err)
	}
}

// TestPosterReadsItsFilesAnew: a token that was refused is read again for the next request.
func TestPosterReadsItsFilesAnew(t *testing.T) {
	token := file(t, "old")
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer new" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	p, err := upstream.NewPoster(upstream.Service{BearerFile: token}, server+"/logs?secret=x")
	must(t, err)
	defer p.Close()
	if p.String() != server+"/logs" {
		t.Errorf("shown as %s", p)
	}
	for _, want := range []int{401, 200} {
		response, err := p.Post(t.Context(), nil, []byte("{}"))
		must(t, err)
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("status %d, not %d", response.StatusCode, want)
		}
		must(t, os.WriteFile(token, []byte("new"), 0o600))
	}
}

func TestRefusals(t *testing.T) {
	empty := file(t, " \n")
	for name, c := range map[string]struct {
		service  upstream.Service
		url, say string
	}{
		"plain http":       {upstream.Service{}, "http://a.example/x", "plain http is for this machine"},
		"another scheme":   {upstream.Service{}, "ftp://a.example/x", "the scheme is https"},
		"a user":           {upstream.Service{}, "https://u:p@a.example/x", "without user or fragment"},
		"an empty token":   {upstream.Service{BearerFile: empty}, "https://a.example/x", "empty"},
		"half a pair":      {upstream.Service{Cert: empty}, "https://a.example/x", "one of them is missing"},
		"two credentials":  {upstream.Service{BearerFile: file(t, "t"), GCP: &upstream.GCP{Audience: "x"}}, "https://a.example/x", "at most one"},
		"aws from nowhere": {upstream.Service{AWS: &upstream.AWS{From: "thin air"}}, "https://a.example/x", "thin air"},
	} {
		if _, err := upstream.NewClient(c.service, c.url, 0); err == nil || !strings.Contains(err.Error(), c.say) || strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadBody(t *testing.T) {
	for body, want := range map[string]string{"12345": "", "123456": "limit of 5", "": "without a body"} {
		for _, announced := range []int64{int64(len(body)), -1} {
			got, err := upstream.ReadBody(&http.Response{Body: io.NopCloser(strings.NewReader(body)), ContentLength: announced}, 5)
			if want == "" && (err != nil || string(got) != body) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%q: %q, %v", body, got, err)
			}
		}
	}
}

func TestBackoff(t *testing.T) {
	b := upstream.Backoff{First: time.Second, Most: time.Minute}
	for range 2 {
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			if got := b.Failed(); got < want*time.Second*8/10 || got > want*time.Second*12/10 {
				t.Errorf("%s, not about %ds", got, want)
			}
		}
		b.Reset()
	}
	for range 100 {
		if got := upstream.Shorten(time.Second); got < 900*time.Millisecond || got > time.Second {
			t.Errorf("early: %s", got)
		}
	}
}

// TestDirect: a redirect stays with its host, and where none is followed it is the answer.
func TestDirect(t *testing.T) {
	other := serve(t, func(http.ResponseWriter, *http.Request) {})
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, other, http.StatusFound)
		case "/within":
			http.Redirect(w, r, "/here", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/large":
			w.Header().Set("X-Large", strings.Repeat("x", 100_000))
		}
	})
	follows, _ := upstream.Direct{Header: 64 << 10, Redirects: 3}.New()
	for path, want := range map[string]string{"/here": "", "/within": "", "/away": "another host", "/loop": "too many", "/large": "header"} {
		if err := get(t.Context(), follows, server+path, 200); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	stays, ours := upstream.Direct{Header: 64 << 10, Idle: 2}.New()
	must(t, get(t.Context(), stays, server+"/within", 302))
	ours.CloseIdleConnections()
	if _, ours := (upstream.Direct{Client: &http.Client{}}).New(); ours != nil {
		t.Error("the transport of a client that was given is not ours to close")
	}
}

func get(ctx context.Context, c *http.Client, url string, status int) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := c.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != status {
		return errors.New(response.Status)
	}
	return nil
}

func serve(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return s.URL
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
