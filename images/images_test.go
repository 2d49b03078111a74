package images_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"strings"
	"testing"

	"gatehouse/images"
)

// TestFormat holds the manifest byte for byte: media types and annotations are what OPA, the policy CLI and oras look at.
func TestFormat(t *testing.T) {
	i := policyImage(t)
	want := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"%s","size":%d,`+
		`"annotations":{"org.opencontainers.image.title":"bundle.tar.gz","org.openpolicyregistry.type":"policy"}}],`+
		`"annotations":{"org.openpolicyregistry.type":"policy"}}`, i.Layer(), len(i.Tarball()))
	if got := string(i.Manifest()); got != want {
		t.Errorf("manifest\n%s\nwant\n%s", got, want)
	}
	if i.Digest() != i.Resolved() {
		t.Errorf("resolved %s, want %s", i.Resolved(), i.Digest())
	}
}

func TestImageOfAnythingElse(t *testing.T) {
	for _, content := range []string{"", "\x1f", "package a", `{"a": 1}`} {
		if _, err := images.New([]byte(content), nil); err == nil {
			t.Errorf("an image was made of %q", content)
		}
	}
	if _, err := images.New(policyImage(t).Tarball(), map[string]string{"long": strings.Repeat("x", 2<<20)}); err == nil {
		t.Error("an image has a manifest of 2 MiB")
	}
}

// TestSameInputSameDigest packs one bundle many times, and then one that differs in a single byte.
func TestSameInputSameDigest(t *testing.T) {
	first := policyImage(t)
	for range 20 {
		sameImage(t, policyImage(t), first)
	}
	changed := policyFiles()
	changed["limits/data.json"] = []byte(`{"method": "PUT"}`)
	tarball, err := images.Pack(changed)
	must(t, err)
	other, err := images.New(tarball, nil)
	must(t, err)
	if other.Digest() == first.Digest() || other.Layer() == first.Layer() {
		t.Error("another bundle has the same digest")
	}
}

// TestPackedTarball reads a tarball back: order, owners, times and modes say nothing about where it was made.
func TestPackedTarball(t *testing.T) {
	unzipped, err := gzip.NewReader(bytes.NewReader(policyImage(t).Tarball()))
	must(t, err)
	if !unzipped.ModTime.IsZero() || unzipped.Name != "" {
		t.Errorf("the gzip header names %q at %v", unzipped.Name, unzipped.ModTime)
	}
	var names []string
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		if want := policyFiles()[h.Name]; !bytes.Equal(content, want) {
			t.Errorf("%s holds %q, want %q", h.Name, content, want)
		}
		if h.Mode != 0o644 || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("%s: mode %o, owner %d:%d %q, time %v", h.Name, h.Mode, h.Uid, h.Gid, h.Uname, h.ModTime)
		}
		names = append(names, h.Name)
	}
	if got, want := strings.Join(names, " "), ".manifest envoy/authz.rego limits/data.json"; got != want {
		t.Errorf("entries %s, want %s", got, want)
	}
}

func TestPackRefusesPaths(t *testing.T) {
	for _, name := range []string{"", ".", "/etc/passwd", "../a.rego", "a/../b.rego", "a//b.rego", "./a.rego", "a/"} {
		files := maps.Clone(policyFiles())
		files[name] = []byte("package x")
		if _, err := images.Pack(files); err == nil {
			t.Errorf("%q was packed", name)
		}
	}
}

func TestReferences(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	for _, tt := range []struct{ in, registry, repository, tag, digest, full string }{
		{"app", "", "app", "latest", "", "app:latest"},
		{"policies/app:1.4", "", "policies/app", "1.4", "", "policies/app:1.4"},
		{"registry.example.com/app", "registry.example.com", "app", "latest", "", "registry.example.com/app:latest"},
		{"127.0.0.1:5000/policies/app:v1", "127.0.0.1:5000", "policies/app", "v1", "", "127.0.0.1:5000/policies/app:v1"},
		{"[::1]:5000/app:v1", "[::1]:5000", "app", "v1", "", "[::1]:5000/app:v1"},
		{"localhost/app:v1", "localhost", "app", "v1", "", "localhost/app:v1"},
		{"ghcr.io/acme/app@" + digest, "ghcr.io", "acme/app", "", digest, "ghcr.io/acme/app@" + digest},
		{"ghcr.io/acme/app:1.4@" + digest, "ghcr.io", "acme/app", "", digest, "ghcr.io/acme/app@" + digest},
	} {
		r, err := images.ParseReference(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if want := (images.Reference{Registry: tt.registry, Repository: tt.repository, Tag: tt.tag, Digest: tt.digest}); r != want || r.String() != tt.full {
			t.Errorf("%s: got %+v, %s; want %+v, %s", tt.in, r, r, want, tt.full)
		}
	}
	for _, in := range []string{"", ":", "@", "/", "App", "app:", "app:a b", "app@sha256:12", "app@md5:" + strings.Repeat("0", 32), "../app", "a/../b", "a//b", "oci://ghcr.io/app:1",
		"https://ghcr.io/app", "ghcr.io/", "ghcr.io/App:1", "user:pw@ghcr.io/app", "gh cr.io/app", "ghcr.io/app:1?x", "a.b/c#d", strings.Repeat("a", 513), "app:" + strings.Repeat("t", 129)} {
		if r, err := images.ParseReference(in); err == nil {
			t.Errorf("%q was read as %s", in, r)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, seed := range []string{"app", "a.b:5000/c/d:e", "localhost/x@sha256:" + strings.Repeat("0", 64), "oci://x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := images.ParseReference(s)
		if err != nil {
			return
		}
		if again, err := images.ParseReference(r.String()); err != nil || again != r {
			t.Errorf("%q is %+v, and its full form %q is %+v: %v", s, r, r, again, err)
		}
	})
}

func TestPasswordsDoNotPrint(t *testing.T) {
	secret := images.Password("hunter2")
	if text := fmt.Sprintf("%s %v %q %#v", secret, secret, secret, secret); strings.Contains(text, "hunter2") {
		t.Error(text)
	}
}

// FuzzParseManifest looks for manifests that are accepted although something in them could lead astray.
func FuzzParseManifest(f *testing.F) {
	tarball, err := images.Pack(policyFiles())
	must(f, err)
	i, err := images.New(tarball, nil)
	must(f, err)
	f.Add(i.Manifest())
	f.Add([]byte(`{"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:../../x","size":-1}]}`))
	digest := regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := images.ParseManifest(raw)
		if err != nil {
			return
		}
		if !digest.MatchString(m.Config.Digest.String()) || len(m.Layers) == 0 {
			t.Errorf("accepted %+v", m)
		}
	})
}
