package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"gatehouse/config"
)

// controlPlane serves one bundle and takes status reports, to callers with the token "t". It can be down.
type controlPlane struct {
	*httptest.Server
	down    atomic.Bool
	reports chan string // the active revision in each report
}

func newControlPlane(t *testing.T) *controlPlane {
	t.Helper()
	var raw bytes.Buffer
	zipped := gzip.NewWriter(&raw)
	archive := tar.NewWriter(zipped)
	for _, err := range []error{
		archive.WriteHeader(&tar.Header{Name: "authz.rego", Mode: 0o644, Size: int64(len(allowAll))}),
		func() error { _, err := archive.Write([]byte(allowAll)); return err }(),
		archive.Close(), zipped.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c := &controlPlane{reports: make(chan string, 1000)}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case c.down.Load():
			http.Error(w, "", http.StatusServiceUnavailable)
		case r.Header.Get("Authorization") != "Bearer t":
			http.Error(w, "", http.StatusUnauthorized)
		case r.URL.Path == "/status":
			var body struct {
				Bundles map[string]struct {
					Revision string `json:"active_revision"`
				} `json:"bundles"`
			}
			_ = json.NewDecoder(r.Body).Decode(&body) // what is no report has no revision
			c.reports <- body.Bundles["app"].Revision
		case r.Header.Get("If-None-Match") == `"1"`:
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("ETag", `"1"`)
			_, _ = w.Write(raw.Bytes())
		}
	}))
	t.Cleanup(c.Close)
	return c
}

const fromControlPlane = `listen: {grpc: ["$GRPC"], admin: "$ADMIN"}
state_dir: state
services:
  - {name: control, bearer_file: token}
policy:
  bundles:
    - {url: "$URL/bundles/app.tar.gz", service: control, interval: 1s, long_poll: 0s, max_age: $AGE, after_max_age: deny}
status: {url: "$URL/status", service: control}
`

// TestServeFromAControlPlane goes through the life of a remote bundle: not there yet, there, its source gone for too long,
// back, and gone again over a restart.
func TestServeFromAControlPlane(t *testing.T) {
	t.Parallel()
	control := newControlPlane(t)
	config := func(age string) string {
		return strings.NewReplacer("$URL", control.URL, "$AGE", age).Replace(fromControlPlane)
	}
	p := newProcess(t, config("3s"))
	write(t, p.path("token"), "t\n")
	control.down.Store(true)
	p.start()
	eventually(t, "waiting for the admin port", func() error {
		if code, body := p.get("/readyz"); code != 503 {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	conn := dial(t, p.grpc, nil)
	decides := func(what string, want int32, health string) {
		t.Helper()
		eventually(t, what, func() error {
			code, _, err := check(t.Context(), conn)
			if got := healthOf(t, conn, authorization); err != nil || code != want || got != health {
				return fmt.Errorf("%d, health %s, %v", code, got, err)
			}
			return nil
		})
	}
	decides("without a bundle", 503, "NOT_SERVING")
	control.down.Store(false)
	decides("with the bundle", 200, "SERVING")
	for revision := ""; revision == ""; {
		revision = <-control.reports
	}
	control.down.Store(true)
	decides("after max_age", 503, "NOT_SERVING")
	if b := p.status().Bundles[0]; !b.Remote.Expired || b.Name != "app" {
		t.Errorf("status %+v, remote %+v", b, *b.Remote)
	}
	control.down.Store(false)
	decides("once it is back", 200, "SERVING")

	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.ended
	control.down.Store(true)
	p.ended = make(chan struct{})
	p.configure(config("1h"))
	p.ready()
	decides("from disk", 200, "SERVING")
	if b := p.status().Bundles[0]; !b.Remote.FromDisk || b.Remote.Unreachable == "" {
		t.Errorf("status %+v, remote %+v", b, *b.Remote)
	}
}

// TestRemoteExampleStarts holds that the page's example is refused for nothing but that its servers are not there.
func TestRemoteExampleStarts(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	cert, key := ca.issue(t, "gatehouse")
	for name, text := range map[string]string{"ca.crt": ca.pem(), "tls.crt": cert, "tls.key": key, "control.token": "t", "partner.secret": "s"} {
		write(t, filepath.Join(dir, name), text)
	}
	text := strings.NewReplacer("control.example.com:8443", "127.0.0.1:1", "control.example.com", "127.0.0.1:1", "registry.example.com", "127.0.0.1:1").Replace(config.RemoteExample)
	write(t, filepath.Join(dir, "gatehouse.yaml"), text)
	cfg, doc, err := config.Source{File: filepath.Join(dir, "gatehouse.yaml")}.Read()
	if err != nil || len(doc.Errs) > 0 {
		t.Fatal(err, doc.Errs)
	}
	// The configuration is good, and the policy cannot be loaded.
	if err := validated(t, cfg); err == nil || strings.Contains(err.Error(), "the configuration has") || strings.Count(err.Error(), "connection refused") != 2 {
		t.Errorf("error %v", err)
	}
}
