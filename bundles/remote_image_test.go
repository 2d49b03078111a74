package bundles_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/bundles"
	"gatehouse/images"
	"gatehouse/images/exchange"
)

// imageServer is a real registry with one repository.
type imageServer struct {
	t      testing.TB
	client *images.Client
	at     string // registry/repository
}

func newImageServer(t *testing.T, o exchange.Options, c images.Config) *imageServer {
	t.Helper()
	r, err := exchange.StartRegistry(t.Context(), o)
	must(t, err)
	t.Cleanup(func() { _ = r.Close() })
	if c.CredentialFile == "" {
		c.CredentialFile = filepath.Join(t.TempDir(), "config.json")
	}
	client, err := images.NewClient(c)
	must(t, err)
	t.Cleanup(client.Close)
	return &imageServer{t: t, client: client, at: r.Address + "/policies/app"}
}

// push pushes a bundle under a tag and returns its digest.
func (s *imageServer) push(tag string, files map[string]string) string {
	s.t.Helper()
	image, err := images.New(packed(s.t, files), nil)
	must(s.t, err)
	must(s.t, s.client.Push(context.Background(), image, s.at+":"+tag))
	return image.Digest()
}

func imaged(ref string, change ...func(*bundles.Remote)) []bundles.Source {
	r := &bundles.Remote{Image: ref, Interval: time.Second, CredentialFile: "/nonexistent/config.json"}
	for _, c := range change {
		c(r)
	}
	return []bundles.Source{{Name: "app", Remote: r}}
}

func TestImagesByTagAndDigest(t *testing.T) {
	t.Parallel()
	server := newImageServer(t, exchange.Options{}, images.Config{})
	first := server.push("1.4", answers(1))
	tagged := run(t, imaged(server.at+":1.4"))
	pinned := run(t, imaged(server.at+"@"+first))
	for _, r := range []*running{tagged, pinned} {
		if got := response(t, r.next()); got != "1" {
			t.Errorf("answer %s", got)
		}
		if s := r.manager.Status()[0]; s.Remote.Tag != first {
			t.Errorf("remote %+v, want the digest %s", *s.Remote, first)
		}
	}
	second := server.push("1.4", answers(2))
	if got := response(t, tagged.next()); got != "2" || tagged.manager.Status()[0].Remote.Tag != second {
		t.Errorf("answer %s, remote %+v", got, *tagged.manager.Status()[0].Remote)
	}
	at := time.Now()
	pinned.remote("a confirmation", func(s bundles.Status) bool { return s.Remote.LastAnswer.After(at) })
	pinned.none()
}

func TestImagesThatAreNot(t *testing.T) {
	t.Parallel()
	server := newImageServer(t, exchange.Options{}, images.Config{})
	server.push("broken", map[string]string{"a.rego": broken})
	for ref, want := range map[string]string{
		server.at + ":none": "not found",
		server.at + "@sha256:" + strings.Repeat("0", 64): "not found",
		server.at + ":broken":                            "a.rego:5",
		"127.0.0.1:1/policies/app:1":                     "connection refused",
		strings.Replace(server.at, "/app", "/other", 1):  "not found",
	} {
		r := run(t, imaged(ref))
		s := r.remote(want, func(s bundles.Status) bool { return strings.Contains(s.Error, want) })
		if !strings.HasPrefix(s.Source, strings.Split(ref, ":")[0]) {
			t.Errorf("source %s", s.Source)
		}
		r.none()
	}
}

// TestImagesBehindTLSAndPasswords uses what docker login writes: the file, and a credential helper.
func TestImagesBehindTLSAndPasswords(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue("registry")
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	server := newImageServer(t, exchange.Options{Cert: cert, Key: key, User: "reader", Password: "s3cret"},
		images.Config{TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			Credentials: func(context.Context, string) (string, images.Password, error) { return "reader", "s3cret", nil }})
	server.push("1", answers(1))
	host, _, _ := strings.Cut(server.at, "/")

	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	login := func(password string) string {
		return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("reader:"+password)))
	}
	must(t, os.Mkdir(filepath.Join(dir, "bin"), 0o700))
	helper := filepath.Join(dir, "bin", "docker-credential-test")
	must(t, os.WriteFile(helper, []byte("#!/bin/sh\necho '{\"ServerURL\":\"x\",\"Username\":\"reader\",\"Secret\":\"s3cret\"}'\n"), 0o700))
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))

	source := func(credentials, authority string) []bundles.Source {
		return imaged(server.at+":1", func(c *bundles.Remote) { c.CredentialFile, c.Service.CA = credentials, authority })
	}
	for name, credentials := range map[string]string{
		"file":   file("good.json", login("s3cret")),
		"helper": file("helper.json", fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, host)),
	} {
		if got := response(t, run(t, source(credentials, ca.file)).next()); got != "1" {
			t.Errorf("%s: answer %s", name, got)
		}
	}
	for want, r := range map[string]*running{
		"wants a credential":     run(t, source(file("none.json", "{}"), ca.file)),
		"refuses the credential": run(t, source(file("bad.json", login("wrong")), ca.file)),
		"certificate":            run(t, source(file("good2.json", login("s3cret")), "")),
	} {
		s := r.remote(want, func(s bundles.Status) bool { return strings.Contains(s.Error, want) })
		if strings.Contains(s.Error, "s3cret") {
			t.Errorf("the error shows a password: %s", s.Error)
		}
	}
	// A corrected credential is used at the next attempt.
	rotated := file("rotated.json", login("wrong"))
	r := run(t, source(rotated, ca.file))
	r.remote("the refusal", func(s bundles.Status) bool { return s.Error != "" })
	file("rotated.json", login("s3cret"))
	if got := response(t, r.next()); got != "1" {
		t.Errorf("answer %s", got)
	}
}

// If the registry is unreachable, the image on disk is used.
func TestImageOnDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := exchange.StartRegistry(t.Context(), exchange.Options{})
	must(t, err)
	client, err := images.NewClient(images.Config{CredentialFile: filepath.Join(dir, "config.json")})
	must(t, err)
	server := &imageServer{t: t, client: client, at: r.Address + "/policies/app"}
	digest := server.push("1", answers(1))
	client.Close()
	fill(t, dir, imaged(server.at+":1"))
	must(t, r.Close())
	second := run(t, imaged(server.at+":1"), keeping(dir))
	if got := response(t, second.next()); got != "1" {
		t.Errorf("answer %s", got)
	}
	second.remote("the failure", func(s bundles.Status) bool {
		return s.Remote.FromDisk && s.Remote.Tag == digest && strings.Contains(s.Remote.Unreachable, "refused")
	})
}
