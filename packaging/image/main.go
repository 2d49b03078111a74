// Command image adds to what goreleaser left in dist what it makes only with Docker or a registry: the image of both platforms as an
// OCI layout, and the provenance of everything. It is a module of its own, so that nothing of it is in the product's.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	log.SetFlags(0)
	var r release
	flag.StringVar(&r.dist, "dist", "dist", "folder of goreleaser")
	flag.StringVar(&r.version, "version", "", "version of the release")
	flag.StringVar(&r.commit, "commit", "", "commit that was built")
	flag.StringVar(&r.source, "source", "", "address of the repository, for the provenance")
	flag.StringVar(&r.authorities, "authorities", "/etc/ssl/certs/ca-certificates.crt", "PEM file of the public authorities that the image trusts")
	when := flag.Int64("time", 0, "time of the commit, in seconds: the image's, so that it can be built again")
	flag.Parse()
	r.created = time.Unix(*when, 0).UTC()
	if err := r.run(); err != nil {
		log.Fatalf("image: %v", err)
	}
}

type release struct {
	dist, version, commit, source, authorities string
	created                                    time.Time
}

func (r release) run() error {
	if r.version == "" || r.commit == "" {
		return errors.New("-version and -commit are needed")
	}
	digest, err := r.image()
	if err != nil {
		return fmt.Errorf("building the image: %w", err)
	}
	if err := os.WriteFile(filepath.Join(r.dist, "image.digest"), []byte(digest.String()+"\n"), 0o644); err != nil {
		return err
	}
	return r.provenance(digest)
}

// image writes dist/image, an OCI layout with one index of the platforms that were built, and returns the index's digest.
func (r release) image() (v1.Hash, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		binary, err := r.binary(arch)
		if err != nil {
			return v1.Hash{}, err
		}
		img, err := r.platform(arch, binary)
		if err != nil {
			return v1.Hash{}, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	folder := filepath.Join(r.dist, "image")
	if err := os.RemoveAll(folder); err != nil {
		return v1.Hash{}, err
	}
	to, err := layout.Write(folder, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return v1.Hash{}, err
	}
	if err := to.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": r.version})); err != nil {
		return v1.Hash{}, err
	}
	return index.Digest()
}

// binary is what goreleaser built for an architecture.
func (r release) binary(arch string) ([]byte, error) {
	found, err := filepath.Glob(filepath.Join(r.dist, "gatehouse_linux_"+arch+"_*", "gatehouse"))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("%s has %d binaries for %s, not one: run goreleaser first", r.dist, len(found), arch)
	}
	return os.ReadFile(found[0])
}

// platform is one image: no shell, no package manager, user 65532, the binary and what it needs of a system.
func (r release) platform(arch string, binary []byte) (v1.Image, error) {
	authorities, err := os.ReadFile(r.authorities)
	if err != nil {
		return nil, err
	}
	layer, err := r.layer([]file{
		{"etc/", 0o755, nil},
		{"etc/gatehouse/", 0o755, nil},
		{"etc/group", 0o644, []byte("root:x:0:\nnonroot:x:65532:\n")},
		{"etc/passwd", 0o644, []byte("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/var/lib/gatehouse:/sbin/nologin\n")},
		{"etc/ssl/", 0o755, nil},
		{"etc/ssl/certs/", 0o755, nil},
		{"etc/ssl/certs/ca-certificates.crt", 0o644, authorities},
		{"usr/", 0o755, nil},
		{"usr/bin/", 0o755, nil},
		{"usr/bin/gatehouse", 0o755, binary},
		{"var/", 0o755, nil},
		{"var/lib/", 0o755, nil},
		{"var/lib/gatehouse/", 0o700, nil}, // state_dir
	})
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{
		Created: v1.Time{Time: r.created}, CreatedBy: "gatehouse " + r.version}})
	if err != nil {
		return nil, err
	}
	is, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c := is.DeepCopy()
	c.Created, c.OS, c.Architecture = v1.Time{Time: r.created}, "linux", arch
	c.Config = v1.Config{
		Entrypoint: []string{"/usr/bin/gatehouse"}, Cmd: []string{"serve", "--config", "/etc/gatehouse/gatehouse.yaml", "--wait-for-policy"},
		User: "65532:65532", WorkingDir: "/etc/gatehouse", ExposedPorts: map[string]struct{}{"9191/tcp": {}, "9192/tcp": {}},
		Labels: map[string]string{"org.opencontainers.image.title": "gatehouse", "org.opencontainers.image.version": r.version,
			"org.opencontainers.image.revision": r.commit, "org.opencontainers.image.licenses": "Apache-2.0", "org.opencontainers.image.source": r.source},
	}
	return mutate.ConfigFile(img, c)
}

// file is one of a layer. The name of a folder ends with a slash.
type file struct {
	name string
	mode int64
	text []byte
}

func (r release) layer(files []file) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.text)), ModTime: r.created, Format: tar.FormatPAX, Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if f.name == "var/lib/gatehouse/" {
			h.Uid, h.Gid = 65532, 65532
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.text); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}

// subject is an artifact, as in-toto's Statement names it: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// provenance writes dist/provenance.json: an in-toto Statement with SLSA's provenance, version 1, about all files and the image.
func (r release) provenance(image v1.Hash) error {
	subjects := []subject{{"image", map[string]string{image.Algorithm: image.Hex}}}
	for _, pattern := range []string{"*.tar.gz", "*.deb", "*.rpm", "*.cdx.json"} {
		found, err := filepath.Glob(filepath.Join(r.dist, pattern))
		if err != nil || len(found) == 0 {
			return fmt.Errorf("%s has no %s", r.dist, pattern)
		}
		for _, path := range found {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(text)
			subjects = append(subjects, subject{filepath.Base(path), map[string]string{"sha256": hex.EncodeToString(sum[:])}})
		}
	}
	slices.SortFunc(subjects, func(a, b subject) int { return strings.Compare(a.Name, b.Name) })
	text, err := json.MarshalIndent(map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "subject": subjects, "predicateType": "https://slsa.dev/provenance/v1",
		"predicate": map[string]any{
			"buildDefinition": map[string]any{
				"buildType":          "make release",
				"externalParameters": map[string]any{"version": r.version},
				"resolvedDependencies": []any{
					map[string]any{"uri": "git+" + r.source, "digest": map[string]string{"gitCommit": r.commit}},
					map[string]any{"uri": "https://go.dev/dl", "name": runtime.Version()},
				},
			},
			"runDetails": map[string]any{"builder": map[string]any{"id": r.source + "#make-release"}},
		},
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dist, "provenance.json"), append(text, '\n'), 0o644)
}
