// Package images keeps policy as images: a bundle's tarball in an OCI image manifest, which any registry stores next to
// container images, which `opa run -b oci://...` and Open Policy Containers' policy CLI read, and which this package reads
// from them.
//
// An Image is made by New or comes from a registry by Client.Pull. A Store keeps images on disk, in an OCI image layout. A
// Client speaks to registries.
//
// # The format
//
// A manifest of media type application/vnd.oci.image.manifest.v1+json with one layer,
// application/vnd.oci.image.layer.v1.tar+gzip, the bundle's tarball as it is, and a config,
// application/vnd.oci.image.config.v1+json, that holds {}. Manifest and layer carry the annotation
// org.openpolicyregistry.type=policy. What is read may be more than that: the first layer of the type counts, and of an
// image index the first image that has one.
//
// # Digests
//
// Nothing in an image depends on when or where it was made, so that one bundle is always one digest. Everything that comes
// from a registry or from disk is held against its digest before it is used. SHA-256 is the only algorithm.
package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// layerType is the one kind of layer that holds a bundle. OPA takes no other.
	layerType = ocispec.MediaTypeImageLayerGzip

	// typeAnnotation marks an image as a policy in registries that list them.
	typeAnnotation, typePolicy = "org.openpolicyregistry.type", "policy"

	// layerTitle is the file name under which `oras pull` saves the layer.
	layerTitle = "bundle.tar.gz"

	emptyConfig = "{}"

	maxManifest    = 1 << 20   // bytes of a manifest, an index or a config
	defaultTarball = 100 << 20 // bytes of a layer
)

// An Image is a bundle with the manifest around it. It is immutable.
type Image struct {
	digest   string
	raw      []byte // the manifest's own bytes
	manifest ocispec.Manifest
	config   []byte
	tarball  []byte
	resolved string
}

// New makes the image of a bundle's tarball. The annotations are added to the manifest's; nothing else about it varies.
func New(tarball []byte, annotations map[string]string) (*Image, error) {
	if len(tarball) < 2 || tarball[0] != 0x1f || tarball[1] != 0x8b {
		return nil, errors.New("making an image: a bundle is a tarball compressed with gzip")
	}
	config := []byte(emptyConfig)
	both := map[string]string{typeAnnotation: typePolicy}
	layer := ocispec.Descriptor{MediaType: layerType, Digest: digest.FromBytes(tarball), Size: int64(len(tarball)),
		Annotations: map[string]string{typeAnnotation: typePolicy, ocispec.AnnotationTitle: layerTitle}}
	maps.Copy(both, annotations)
	// The policy CLI pulls no config of the type that OCI gives to an empty one.
	m := ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Config:      ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers:      []ocispec.Descriptor{layer},
		Annotations: both,
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("making an image: %w", err)
	}
	if len(raw) > maxManifest {
		return nil, fmt.Errorf("making an image: its annotations make the manifest larger than %d bytes", maxManifest)
	}
	i := &Image{digest: sum(raw), raw: raw, manifest: m, config: config, tarball: tarball}
	i.resolved = i.digest
	return i, nil
}

// Digest is the digest of the image's manifest: sha256: and 64 hexadecimal digits.
func (i *Image) Digest() string { return i.digest }

// Resolved is the digest that the reference stood for when the image was pulled: Digest, or that of the image index in
// which the image was found. It is what Client.Resolve returns for the same reference.
func (i *Image) Resolved() string { return i.resolved }

// Layer is the digest of the tarball.
func (i *Image) Layer() string { return i.layer().Digest.String() }

// Tarball is the bundle, compressed with gzip. The caller must not change it.
func (i *Image) Tarball() []byte { return i.tarball }

// Manifest is the manifest's JSON, byte for byte. The caller must not change it.
func (i *Image) Manifest() []byte { return i.raw }

// Annotations returns those of the manifest. The map is the caller's.
func (i *Image) Annotations() map[string]string { return maps.Clone(i.manifest.Annotations) }

func (i *Image) layer() ocispec.Descriptor {
	layer, _ := bundleLayer(&i.manifest) // there is one in every image
	return layer
}

// blobs are the parts of the image that its manifest names. An image with further layers was not read in full, so it can be
// used but not passed on.
func (i *Image) blobs() (map[digest.Digest][]byte, error) {
	if len(i.manifest.Layers) != 1 {
		return nil, fmt.Errorf("image %s has %d layers: one with a bundle alone can be kept or pushed", i.digest, len(i.manifest.Layers))
	}
	if i.config == nil {
		return nil, fmt.Errorf("image %s came without its config %s: it can neither be kept nor pushed", i.digest, i.manifest.Config.Digest)
	}
	return map[digest.Digest][]byte{i.manifest.Config.Digest: i.config, i.layer().Digest: i.tarball}, nil
}

// parseManifest reads a manifest and finds the layer of the bundle in it.
func parseManifest(raw []byte) (m ocispec.Manifest, err error) {
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("its manifest: %w", err)
	}
	layer, ok := bundleLayer(&m)
	if !ok {
		return m, fmt.Errorf("it is not a policy: no layer of its manifest is of the type %s", layerType)
	}
	for _, d := range []ocispec.Descriptor{layer, m.Config} {
		if err := checkDigest(d.Digest.String()); err != nil {
			return m, fmt.Errorf("its manifest: %w", err)
		}
	}
	return m, nil
}

// bundleLayer is the layer that OPA would take.
func bundleLayer(m *ocispec.Manifest) (ocispec.Descriptor, bool) {
	for _, layer := range m.Layers {
		if layer.MediaType == layerType {
			return layer, true
		}
	}
	return ocispec.Descriptor{}, false
}

func sum(content []byte) string {
	hash := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(hash[:])
}

var sha256Digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// checkDigest keeps what is not a SHA-256 from becoming part of a path.
func checkDigest(d string) error {
	if !sha256Digest.MatchString(d) {
		return fmt.Errorf("digest %q is not sha256: with 64 hexadecimal digits", d)
	}
	return nil
}

// verify holds content against the descriptor under which it was asked for.
func verify(content []byte, d ocispec.Descriptor) error {
	switch {
	case int64(len(content)) != d.Size:
		return fmt.Errorf("%s is %d bytes, not the %d that were announced", d.Digest, len(content), d.Size)
	case sum(content) != d.Digest.String():
		return fmt.Errorf("content with digest %s came for %s", sum(content), d.Digest)
	}
	return nil
}

// isIndex reports whether a media type is that of a list of images.
func isIndex(mediaType string) bool {
	mediaType, _, _ = strings.Cut(mediaType, ";")
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}
