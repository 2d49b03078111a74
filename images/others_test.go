package images_test

import (
	"bytes"
	"context"
	"maps"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"

	"gatehouse/images"
	"gatehouse/images/exchange"
)

// TestImagesOfOthers pulls what other tools push, made with the library that they are made with.
func TestImagesOfOthers(t *testing.T) {
	host := registry(t, exchange.Options{})
	tarball := policyImage(t).Tarball()
	layer := content.NewDescriptorFromBytes("application/vnd.oci.image.layer.v1.tar+gzip", tarball)
	readme := content.NewDescriptorFromBytes("text/markdown", []byte("# A policy"))
	config := func(mediaType string) *ocispec.Descriptor {
		d := content.NewDescriptorFromBytes(mediaType, []byte("{}"))
		return &d
	}
	policyCLI := map[string]string{"org.opencontainers.image.title": host + "/policies/app", "org.openpolicyregistry.type": "policy",
		"org.opencontainers.image.created": "2026-03-01T12:00:00Z", "rego.version": "rego.V1"}
	policyLayer := layer
	policyLayer.Annotations = policyCLI
	for _, tt := range []struct {
		tag     string
		version oras.PackManifestVersion
		kind    string
		options oras.PackManifestOptions
		kept    bool // it can be put into a store, and pushed again
	}{
		{"oras-push-as-opa-says", oras.PackManifestVersion1_0, "",
			oras.PackManifestOptions{ConfigDescriptor: config("application/vnd.oci.image.config.v1+json"), Layers: []ocispec.Descriptor{layer}}, true},
		{"oras-push", oras.PackManifestVersion1_1, "application/vnd.unknown.artifact.v1", oras.PackManifestOptions{Layers: []ocispec.Descriptor{layer}}, true},
		{"policy-push", oras.PackManifestVersion1_1, ocispec.MediaTypeImageManifest,
			oras.PackManifestOptions{ConfigDescriptor: config(ocispec.MediaTypeEmptyJSON), Layers: []ocispec.Descriptor{policyLayer}, ManifestAnnotations: policyCLI}, true},
		{"with-something-before-it", oras.PackManifestVersion1_1, "application/x", oras.PackManifestOptions{Layers: []ocispec.Descriptor{readme, layer}}, false},
	} {
		t.Run(tt.tag, func(t *testing.T) {
			repository, err := remote.NewRepository(host + "/policies/app")
			must(t, err)
			repository.PlainHTTP = true
			for _, blob := range [][]byte{tarball, []byte("{}"), []byte("# A policy")} {
				must(t, push(t.Context(), repository, blob))
			}
			d, err := oras.PackManifest(t.Context(), repository, tt.version, tt.kind, tt.options)
			must(t, err)
			must(t, repository.Tag(t.Context(), d, tt.tag))

			c := client(t, images.Config{})
			pulled, err := c.Pull(t.Context(), host+"/policies/app:"+tt.tag)
			must(t, err)
			if pulled.Digest() != d.Digest.String() || !bytes.Equal(pulled.Tarball(), tarball) {
				t.Errorf("pulled %s with %d bytes, want %s with %d", pulled.Digest(), len(pulled.Tarball()), d.Digest, len(tarball))
			}
			if want := tt.options.ManifestAnnotations; want != nil && !maps.Equal(pulled.Annotations(), want) {
				t.Errorf("annotations %v, want %v", pulled.Annotations(), want)
			}
			s, _ := store(t)
			if err := s.Put(pulled, "app:1"); (err == nil) != tt.kept {
				t.Errorf("keeping it: %v", err)
			}
			if err := c.Push(t.Context(), pulled, host+"/elsewhere/app:"+tt.tag); (err == nil) != tt.kept {
				t.Errorf("pushing it on: %v", err)
			}
			if !tt.kept {
				return
			}
			again, err := c.Pull(t.Context(), host+"/elsewhere/app:"+tt.tag)
			must(t, err)
			sameImage(t, again, pulled)
		})
	}
}

func push(ctx context.Context, repository *remote.Repository, blob []byte) error {
	return repository.Blobs().Push(ctx, content.NewDescriptorFromBytes("application/octet-stream", blob), bytes.NewReader(blob))
}

// TestPolicyCLICanPullOurs holds our images to what the policy CLI allows itself to pull: these media types alone.
func TestPolicyCLICanPullOurs(t *testing.T) {
	allowed := map[string]bool{"application/vnd.oci.image.manifest.v1+json": true, "application/octet-stream": true,
		"application/vnd.oci.image.config.v1+json": true, "application/vnd.unknown.config.v1+json": true,
		"application/vnd.oci.image.layer.v1.tar+gzip": true, "application/vnd.oci.image.layer.v1.tar": true}
	host, i := registry(t, exchange.Options{}), policyImage(t)
	must(t, client(t, images.Config{}).Push(t.Context(), i, host+"/app:1"))
	repository, err := remote.NewRepository(host + "/app")
	must(t, err)
	repository.PlainHTTP = true
	top, err := repository.Resolve(t.Context(), "1")
	must(t, err)
	parts, err := content.Successors(t.Context(), repository, top)
	must(t, err)
	for _, d := range append(parts, top) {
		if !allowed[d.MediaType] {
			t.Errorf("%s is of the type %s", d.Digest, d.MediaType)
		}
	}
	if len(parts) != 2 {
		t.Errorf("the image has %d parts, want config and layer", len(parts))
	}
}
