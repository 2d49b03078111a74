package images_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"oras.land/oras-go/v2/content/oci"

	"gatehouse/images"
)

func store(t *testing.T) (*images.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "images")
	s, err := images.NewStore(dir)
	must(t, err)
	return s, dir
}

// numbered is an image like no other.
func numbered(t *testing.T, n int) *images.Image {
	t.Helper()
	tarball, err := images.Pack(map[string][]byte{"n/data.json": fmt.Appendf(nil, `{"n": %d}`, n)})
	must(t, err)
	i, err := images.New(tarball, map[string]string{"n": fmt.Sprint(n)})
	must(t, err)
	return i
}

func names(t *testing.T, s *images.Store) string {
	t.Helper()
	list, err := s.List()
	must(t, err)
	var all []string
	for _, entry := range list {
		all = append(all, entry.Reference)
	}
	return strings.Join(all, " ")
}

func blobs(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	must(t, err)
	return len(entries)
}

func TestStore(t *testing.T) {
	s, dir := store(t)
	if got := names(t, s); got != "" {
		t.Errorf("a store that does not exist holds %s", got)
	}
	if _, err := s.Get("app:1"); !errors.Is(err, images.ErrNotFound) || !strings.Contains(err.Error(), "gatehouse bundle images") {
		t.Errorf("got %v, want not found with a hint", err)
	}
	one, two := numbered(t, 1), numbered(t, 2)
	must(t, s.Put(one, "app:1"))
	must(t, s.Put(two, "ghcr.io/acme/app"))
	must(t, s.Tag("app:1", "app:stable"))
	if got, want := names(t, s), "app:1 app:stable ghcr.io/acme/app:latest"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for name, want := range map[string]*images.Image{"app:1": one, "app:stable": one, "ghcr.io/acme/app": two, two.Digest(): two, "app@" + one.Digest(): one} {
		got, err := s.Get(name)
		must(t, err)
		sameImage(t, got, want)
	}
	if got := blobs(t, dir); got != 5 {
		t.Errorf("%d blobs, want two manifests, two layers and a config", got)
	}
	must(t, s.Put(two, "app:1")) // one has another name still
	if got := blobs(t, dir); got != 5 {
		t.Errorf("%d blobs, want 5", got)
	}
	must(t, s.Remove("app:stable"))
	if got := blobs(t, dir); got != 3 {
		t.Errorf("%d blobs, want those of one image", got)
	}
	must(t, s.Remove(two.Digest()))
	if got, left := names(t, s), blobs(t, dir); got != "" || left != 0 {
		t.Errorf("%s and %d blobs are left", got, left)
	}
	if err := s.Remove("app:1"); !errors.Is(err, images.ErrNotFound) {
		t.Errorf("got %v, want not found", err)
	}
	if err := s.Put(one, "app@"+one.Digest()); err == nil {
		t.Error("a digest became a name")
	}
}

// TestStoreIsAnOCILayout reads a store with oras-go, and reads with ours what oras-go has written over it.
func TestStoreIsAnOCILayout(t *testing.T) {
	s, dir := store(t)
	i := numbered(t, 1)
	must(t, s.Put(i, "ghcr.io/acme/app:1"))
	theirs, err := oci.New(dir)
	must(t, err)
	d, err := theirs.Resolve(t.Context(), "ghcr.io/acme/app:1")
	must(t, err)
	body, err := theirs.Fetch(t.Context(), d)
	must(t, err)
	manifest, err := io.ReadAll(body)
	must(t, err)
	must(t, body.Close())
	if string(manifest) != string(i.Manifest()) {
		t.Errorf("oras-go reads %s", manifest)
	}
	must(t, theirs.Tag(context.Background(), d, "ghcr.io/acme/app:2"))
	got, err := s.Get("ghcr.io/acme/app:2")
	must(t, err)
	sameImage(t, got, i)
}

// TestDamagedStore finds what was changed on disk.
func TestDamagedStore(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string, i *images.Image)
	}{
		{"another tarball", func(t *testing.T, dir string, i *images.Image) {
			overwrite(t, dir, i.Layer(), numbered(t, 2).Tarball())
		}},
		{"another manifest", func(t *testing.T, dir string, i *images.Image) {
			overwrite(t, dir, i.Digest(), numbered(t, 2).Manifest())
		}},
		{"an empty index", func(t *testing.T, dir string, _ *images.Image) {
			must(t, os.WriteFile(filepath.Join(dir, "index.json"), nil, 0o644))
		}},
		{"a digest that climbs", func(t *testing.T, dir string, i *images.Image) {
			index, err := os.ReadFile(filepath.Join(dir, "index.json"))
			must(t, err)
			evil := strings.ReplaceAll(string(index), i.Digest(), "sha256:../../../../etc/passwd")
			must(t, os.WriteFile(filepath.Join(dir, "index.json"), []byte(evil), 0o644))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, dir := store(t)
			i := numbered(t, 1)
			must(t, s.Put(i, "app:1"))
			tt.damage(t, dir, i)
			if got, err := s.Get("app:1"); err == nil || got != nil {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func overwrite(t *testing.T, dir, digest string, content []byte) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:")), content, 0o644))
}

// TestStoreSharedByMany has changes made at once, each through a store of its own as processes would.
func TestStoreSharedByMany(t *testing.T) {
	_, dir := store(t)
	var wait sync.WaitGroup
	const many = 16
	for n := range many {
		i := numbered(t, n%4)
		wait.Go(func() {
			s, err := images.NewStore(dir)
			if err == nil {
				err = errors.Join(s.Put(i, fmt.Sprintf("app:%d", n)), s.Put(i, "app:last"))
			}
			if err == nil && n%2 == 1 {
				err = s.Remove(fmt.Sprintf("app:%d", n))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	s, err := images.NewStore(dir)
	must(t, err)
	list, err := s.List()
	must(t, err)
	if len(list) != many/2+1 {
		t.Errorf("%d names, want %d", len(list), many/2+1)
	}
	for _, entry := range list {
		_, err := s.Get(entry.Reference)
		must(t, err)
	}
	index, err := os.ReadFile(filepath.Join(dir, "index.json"))
	must(t, err)
	if !json.Valid(index) {
		t.Errorf("index.json is %s", index)
	}
}
