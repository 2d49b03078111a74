package images_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"gatehouse/images"
	"gatehouse/images/exchange"
)

// as is a credential from elsewhere than a file.
func as(user, password string) func(context.Context, string) (string, images.Password, error) {
	return func(context.Context, string) (string, images.Password, error) {
		return user, images.Password(password), nil
	}
}

// TestRegistry pushes to and pulls from the Distribution project's registry, in all the ways to reach one.
func TestRegistry(t *testing.T) {
	ca := newAuthority(t)
	trust := &tls.Config{RootCAs: ca.pool}
	for _, tt := range []struct {
		name   string
		server exchange.Options
		client images.Config
	}{
		{"plain HTTP on this machine", exchange.Options{}, images.Config{}},
		{"plain HTTP because told so", exchange.Options{}, images.Config{PlainHTTP: true}},
		{"TLS", exchange.Options{Cert: ca.cert, Key: ca.key}, images.Config{TLS: trust}},
		{"TLS and basic authentication", exchange.Options{Cert: ca.cert, Key: ca.key, User: "ci", Password: "s3cret"},
			images.Config{TLS: trust, Credentials: as("ci", "s3cret")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, c, i := registry(t, tt.server), client(t, tt.client), policyImage(t)
			ref := host + "/policies/app:1.4"
			if _, err := c.Resolve(t.Context(), ref); !errors.Is(err, images.ErrNotFound) {
				t.Errorf("before the push: %v, want not found", err)
			}
			must(t, c.Push(t.Context(), i, ref))
			must(t, c.Push(t.Context(), i, ref)) // again
			digest, err := c.Resolve(t.Context(), ref)
			must(t, err)
			if digest != i.Digest() {
				t.Errorf("the tag stands for %s, want %s", digest, i.Digest())
			}
			for _, name := range []string{ref, host + "/policies/app@" + digest, host + "/policies/app:gone@" + digest} {
				pulled, err := c.Pull(t.Context(), name)
				must(t, err)
				sameImage(t, pulled, i)
				if pulled.Resolved() != digest {
					t.Errorf("%s resolved to %s, want %s", name, pulled.Resolved(), digest)
				}
			}
			if _, err := c.Pull(t.Context(), host+"/policies/other:1.4"); !errors.Is(err, images.ErrNotFound) {
				t.Errorf("another repository: %v, want not found", err)
			}
			if err := c.Push(t.Context(), i, host+"/policies/app@sha256:"+strings.Repeat("0", 64)); err == nil || !strings.Contains(err.Error(), "its digest is") {
				t.Errorf("pushed under another digest: %v", err)
			}
		})
	}
}

func TestRegistryRefuses(t *testing.T) {
	ca := newAuthority(t)
	host := registry(t, exchange.Options{Cert: ca.cert, Key: ca.key, User: "ci", Password: "s3cret"})
	trust := &tls.Config{RootCAs: ca.pool}
	for _, tt := range []struct {
		name string
		cfg  images.Config
		want string
	}{
		{"no credential", images.Config{TLS: trust}, "gatehouse bundle login " + host},
		{"wrong password", images.Config{TLS: trust, Credentials: as("ci", "guess")}, "refuses the credential"},
		{"unknown authority", images.Config{Credentials: as("ci", "s3cret")}, "certificate signed by unknown authority"},
		{"plain HTTP to HTTPS", images.Config{PlainHTTP: true, Credentials: as("ci", "s3cret")}, "400"},
		{"credentials that cannot be read", images.Config{TLS: trust, Credentials: func(context.Context, string) (string, images.Password, error) {
			return "", "", errors.New("no such secret")
		}}, "no such secret"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := client(t, tt.cfg)
			_, err := c.Pull(t.Context(), host+"/app:1")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("pull: %v, want %q", err, tt.want)
			}
			if err := c.Push(t.Context(), policyImage(t), host+"/app:1"); err == nil {
				t.Error("push went through")
			}
			if strings.Contains(fmt.Sprint(err), "s3cret") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

func TestLogin(t *testing.T) {
	ca := newAuthority(t)
	host := registry(t, exchange.Options{Cert: ca.cert, Key: ca.key, User: "ci", Password: "s3cret"})
	file := filepath.Join(t.TempDir(), "docker", "config.json")
	c := client(t, images.Config{TLS: &tls.Config{RootCAs: ca.pool}, CredentialFile: file})
	if _, err := c.Login(t.Context(), host, "ci", "guess"); err == nil {
		t.Error("logged in with a wrong password")
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a wrong password was kept: %v", err)
	}
	where, err := c.Login(t.Context(), host, "ci", "s3cret")
	must(t, err)
	info, err := os.Stat(where)
	must(t, err)
	if where != file || info.Mode().Perm() != 0o600 {
		t.Errorf("kept in %s with mode %o, want %s with 600", where, info.Mode().Perm(), file)
	}
	must(t, c.Push(t.Context(), policyImage(t), host+"/app:1"))
	must(t, c.Logout(t.Context(), host))
	if err := client(t, images.Config{TLS: &tls.Config{RootCAs: ca.pool}, CredentialFile: file}).Push(t.Context(), policyImage(t), host+"/app:2"); err == nil {
		t.Error("pushed after logging out")
	}
	for _, host := range []string{"", "a/b", "https://" + host} {
		if _, err := c.Login(t.Context(), host, "ci", "s3cret"); err == nil {
			t.Errorf("logged in to %q", host)
		}
	}
}

// TestCredentialHelper asks a helper program in Docker's protocol.
func TestCredentialHelper(t *testing.T) {
	host := registry(t, exchange.Options{User: "ci", Password: "s3cret"})
	dir := t.TempDir()
	helper := "#!/bin/sh\n[ \"$1\" = get ] || exit 1\nread server\necho \"{\\\"ServerURL\\\":\\\"$server\\\",\\\"Username\\\":\\\"ci\\\",\\\"Secret\\\":\\\"s3cret\\\"}\"\n"
	must(t, os.WriteFile(filepath.Join(dir, "docker-credential-fortest"), []byte(helper), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("DOCKER_CONFIG", dir)
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"credHelpers": {%q: "fortest"}}`, host), 0o600))
	c, err := images.NewClient(images.Config{})
	must(t, err)
	t.Cleanup(c.Close)
	must(t, c.Push(t.Context(), policyImage(t), host+"/app:1"))
}

// blob is what a registry of ill will answers with.
type blob struct {
	mediaType string
	content   string
	length    int    // as announced; default: that of the content
	digest    string // as announced; default: that of the content
}

// hostile serves answers by the end of the path.
func hostile(t *testing.T, answers map[string]blob) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for path, b := range answers {
			if !strings.HasSuffix(r.URL.Path, path) {
				continue
			}
			w.Header().Set("Content-Type", b.mediaType)
			w.Header().Set("Docker-Content-Digest", b.digest)
			if b.length > 0 {
				w.Header().Set("Content-Length", strconv.Itoa(b.length))
			}
			if r.Method != http.MethodHead {
				_, _ = w.Write([]byte(b.content))
			}
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// TestHostileRegistry pulls from registries that lie. None gets anything into an image.
func TestHostileRegistry(t *testing.T) {
	const manifestType, indexType = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
	i := policyImage(t)
	zeros := "sha256:" + strings.Repeat("0", 64)
	manifest := func(text string) (string, string) { // its text and digest
		image, err := images.New(i.Tarball(), map[string]string{"text": text})
		must(t, err)
		return string(image.Manifest()), image.Digest()
	}
	good, digest := manifest("good")
	other, _ := manifest("evil")
	loop := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":300}]}`, indexType, indexType, zeros)
	layer := "/blobs/" + i.Layer()
	at := func(d string) string { return "/manifests/" + d }
	for _, tt := range []struct {
		name    string
		answers map[string]blob
		want    string
	}{
		{"another manifest than the tag's", map[string]blob{
			at("1"): {manifestType, good, len(good), digest}, at(digest): {manifestType, other, len(other), digest}}, "came for"},
		{"another layer of the same length", map[string]blob{
			at("1"): {manifestType, good, len(good), digest}, at(digest): {manifestType, good, len(good), digest},
			layer: {"application/octet-stream", strings.Repeat("x", len(i.Tarball())), 0, ""}}, "came for"},
		{"a layer that ends early", map[string]blob{
			at("1"): {manifestType, good, len(good), digest}, at(digest): {manifestType, good, len(good), digest},
			layer: {"application/octet-stream", string(i.Tarball()[:9]), 0, ""}}, "mismatch"},
		{"a manifest of 2 MB", map[string]blob{at("1"): {manifestType, "", 2_000_000, digest}}, "more than the limit"},
		{"no digest", map[string]blob{at("1"): {manifestType, good, len(good), "md5:" + strings.Repeat("0", 32)}}, "digest"},
		{"an index in itself", map[string]blob{
			at("1"): {indexType, loop, len(loop), zeros}, at(zeros): {indexType, loop, len(loop), zeros}}, "came for"},
		{"a web page", map[string]blob{at("1"): {"text/html", "<html>", 6, ""}}, "Docker-Content-Digest"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := client(t, images.Config{MaxTarball: 1 << 20})
			pulled, err := c.Pull(t.Context(), hostile(t, tt.answers)+"/app:1")
			if err == nil || pulled != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v; want an error with %q", pulled, err, tt.want)
			}
		})
	}
}

func TestTooLargeToPull(t *testing.T) {
	host, i := registry(t, exchange.Options{}), policyImage(t)
	must(t, client(t, images.Config{}).Push(t.Context(), i, host+"/app:1"))
	size := int64(len(i.Tarball()))
	if _, err := client(t, images.Config{MaxTarball: size - 1}).Pull(t.Context(), host+"/app:1"); err == nil || !strings.Contains(err.Error(), "more than the limit") {
		t.Errorf("one byte too many: %v", err)
	}
	_, err := client(t, images.Config{MaxTarball: size}).Pull(t.Context(), host+"/app:1")
	must(t, err)
}

// TestNothingLeavesUnencrypted has a registry send the client elsewhere, in the two ways that there are.
func TestNothingLeavesUnencrypted(t *testing.T) {
	ca := newAuthority(t)
	token := func(w http.ResponseWriter) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://tokens.example.com/token",service="registry"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	redirect := func(w http.ResponseWriter) {
		w.Header().Set("Location", "http://blobs.example.com/")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
	for _, tt := range []struct {
		name   string
		tls    bool
		answer func(http.ResponseWriter)
		want   string
	}{
		{"a token server, from HTTPS", true, token, "uses http but registry was contacted over https"},
		{"a token server, from this machine", false, token, "which only a registry on this machine may be"},
		{"a redirect, from HTTPS", true, redirect, "redirected from HTTPS to HTTP"},
		{"a redirect, from this machine", false, redirect, "blobs.example.com/ is not encrypted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { tt.answer(w) }))
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			if server.TLS = (&tls.Config{Certificates: []tls.Certificate{ca.pair}}); tt.tls {
				server.StartTLS()
			} else {
				server.Start()
			}
			t.Cleanup(server.Close)
			c := client(t, images.Config{TLS: &tls.Config{RootCAs: ca.pool}, Credentials: as("ci", "s3cret")})
			_, err := c.Pull(t.Context(), server.Listener.Addr().String()+"/app:1")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	// Nothing has this name. What counts is that it was looked up for HTTPS.
	_, err := client(t, images.Config{}).Pull(t.Context(), "registry.invalid/app:1")
	if err == nil || !strings.Contains(err.Error(), `"https://registry.invalid`) {
		t.Errorf("a registry elsewhere: %v, want a failure to reach it with HTTPS", err)
	}
}

func TestClientSettings(t *testing.T) {
	for name, cfg := range map[string]images.Config{
		"negative limit":      {MaxTarball: -1},
		"negative time":       {Timeout: -1},
		"unverified registry": {TLS: &tls.Config{InsecureSkipVerify: true}},
	} {
		if _, err := images.NewClient(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := client(t, images.Config{}).Pull(t.Context(), "app:1"); err == nil || !strings.Contains(err.Error(), "names no registry") {
		t.Errorf("a local name: %v", err)
	}
}

// TestIndex pulls what buildx pushes: an image index whose first entry is an attestation.
func TestIndex(t *testing.T) {
	host, i, c := registry(t, exchange.Options{}), policyImage(t), client(t, images.Config{})
	attestation := numbered(t, 1) // it could be taken for a policy
	must(t, c.Push(t.Context(), i, host+"/policies/app:1"))
	must(t, c.Push(t.Context(), attestation, host+"/policies/app:attestation"))
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[`+
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d,"platform":{"os":"unknown","architecture":"unknown"}},`+
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}]}`, attestation.Digest(), len(attestation.Manifest()), i.Digest(), len(i.Manifest()))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+host+"/v2/policies/app/manifests/all", bytes.NewReader([]byte(index)))
	must(t, err)
	request.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	answer, err := http.DefaultClient.Do(request)
	must(t, err)
	answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		t.Fatalf("putting the index: %s", answer.Status)
	}
	pulled, err := c.Pull(t.Context(), host+"/policies/app:all")
	must(t, err)
	sameImage(t, pulled, i)
	digest, err := c.Resolve(t.Context(), host+"/policies/app:all")
	must(t, err)
	if pulled.Resolved() != digest || digest == i.Digest() {
		t.Errorf("pulled %s, which resolved to %s", pulled.Resolved(), digest)
	}
	http.DefaultClient.CloseIdleConnections()
}
