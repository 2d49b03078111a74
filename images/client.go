package images

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// Config says how registries are reached. The zero value is good: HTTPS, the system's certificate authorities, and the
// credentials that docker login left.
type Config struct {
	TLS *tls.Config // certificate authorities and client certificate; nil: the system's and none

	// PlainHTTP lets requests and credentials go unencrypted to any registry. Without it only a registry on this machine is
	// spoken to in plain HTTP, where it offers nothing else.
	PlainHTTP bool

	// Credentials returns the user name and password for a registry, both empty for none. nil: the Docker credential file
	// that CredentialFile names, with its credential helpers.
	Credentials func(ctx context.Context, registry string) (username string, password Password, err error)

	// CredentialFile is in the format of Docker's config.json. Empty: $DOCKER_CONFIG/config.json, else ~/.docker/config.json.
	CredentialFile string

	MaxTarball int64         // bytes of a bundle's tarball; default 100 MiB
	Timeout    time.Duration // for each request until the answer's header; default 30 s
}

// Client pulls from and pushes to registries. It is safe for concurrent use. NewClient makes it.
type Client struct {
	cfg       Config
	transport *http.Transport
	auth      *auth.Client

	mu    sync.Mutex
	plain map[string]bool // by registry on this machine: whether it speaks plain HTTP
}

// ErrNotFound is in the error of Resolve and Pull where the registry answered that there is no such image.
var ErrNotFound = errdef.ErrNotFound

// NewClient checks the configuration. It connects to nothing and reads no credentials.
func NewClient(cfg Config) (*Client, error) {
	if cfg.MaxTarball < 0 || cfg.Timeout < 0 {
		return nil, errors.New("registry client: limits are not negative")
	}
	if cfg.TLS != nil && cfg.TLS.InsecureSkipVerify {
		return nil, errors.New("registry client: a certificate that is not verified protects nothing: name its authority")
	}
	if cfg.MaxTarball == 0 {
		cfg.MaxTarball = defaultTarball
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	c := &Client{cfg: cfg, plain: map[string]bool{}}
	c.transport = http.DefaultTransport.(*http.Transport).Clone()
	c.transport.ResponseHeaderTimeout = cfg.Timeout
	if cfg.TLS != nil {
		c.transport.TLSClientConfig = cfg.TLS.Clone()
	}
	c.auth = &auth.Client{
		Client:     &http.Client{Transport: encrypted{c}, CheckRedirect: fewRedirects},
		Header:     http.Header{"User-Agent": {"gatehouse"}},
		Cache:      auth.NewCache(),
		Credential: c.credential,
	}
	return c, nil
}

// Close drops idle connections. The client can be used afterwards.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Resolve asks the registry for the digest that a reference stands for. It fetches no more than that.
func (c *Client) Resolve(ctx context.Context, ref string) (string, error) {
	repository, r, err := c.repository(ctx, ref)
	if err != nil {
		return "", err
	}
	top, err := repository.Resolve(ctx, r.within())
	if err != nil {
		return "", fmt.Errorf("resolving image %s: %w", r, registryError(r, err))
	}
	if err := checkDigest(top.Digest.String()); err != nil {
		return "", fmt.Errorf("resolving image %s: %w", r, err)
	}
	return top.Digest.String(), nil
}

// Pull fetches the image that a reference stands for, holds everything against its digests and the limit, and returns it
// whole or not at all.
func (c *Client) Pull(ctx context.Context, ref string) (*Image, error) {
	repository, r, err := c.repository(ctx, ref)
	if err != nil {
		return nil, err
	}
	i, err := c.pull(ctx, repository, r)
	if err != nil {
		return nil, fmt.Errorf("pulling image %s: %w", r, registryError(r, err))
	}
	return i, nil
}

func (c *Client) pull(ctx context.Context, repository *remote.Repository, r Reference) (*Image, error) {
	top, err := repository.Resolve(ctx, r.within())
	if err != nil {
		return nil, err
	}
	raw, m, err := c.manifest(ctx, repository, top, maxIndexDepth)
	if err != nil {
		return nil, err
	}
	i := &Image{digest: sum(raw), raw: raw, manifest: m, resolved: top.Digest.String()}
	if i.tarball, err = fetch(ctx, repository.Blobs(), i.layer(), c.cfg.MaxTarball); err != nil {
		return nil, err
	}
	// There are tools that do not push the empty config. Nobody needs its content to decide.
	if m.Config.Digest.String() == sum([]byte(emptyConfig)) {
		i.config = []byte(emptyConfig)
	} else if i.config, err = fetch(ctx, repository.Blobs(), m.Config, maxManifest); err != nil && !errors.Is(err, errdef.ErrNotFound) {
		return nil, err
	}
	return i, nil
}

const (
	maxIndexDepth = 3  // indexes within indexes
	maxIndexed    = 32 // images of one index that are looked at
)

// manifest fetches a manifest with a bundle's layer: the one described, or where that is an index, the first in it.
func (c *Client) manifest(ctx context.Context, repository *remote.Repository, d ocispec.Descriptor, depth int) ([]byte, ocispec.Manifest, error) {
	raw, err := fetch(ctx, repository.Manifests(), d, maxManifest)
	if err != nil {
		return nil, ocispec.Manifest{}, err
	}
	if !isIndex(d.MediaType) {
		m, err := parseManifest(raw)
		return raw, m, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, ocispec.Manifest{}, fmt.Errorf("its index: %w", err)
	}
	if depth == 0 || len(index.Manifests) > maxIndexed {
		return nil, ocispec.Manifest{}, fmt.Errorf("its index is more than %d deep or lists more than %d images", maxIndexDepth, maxIndexed)
	}
	reason := errors.New("its index lists no image")
	for _, entry := range index.Manifests {
		if p := entry.Platform; p != nil && p.OS == "unknown" && p.Architecture == "unknown" {
			continue // attestations
		}
		raw, m, err := c.manifest(ctx, repository, entry, depth-1)
		if err == nil || ctx.Err() != nil {
			return raw, m, err
		}
		reason = err
	}
	return nil, ocispec.Manifest{}, reason
}

// fetch reads one blob or manifest whole, bounded before the first byte, and verifies it.
func fetch(ctx context.Context, from interface {
	Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error)
}, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkDigest(d.Digest.String()); err != nil {
		return nil, err
	}
	if d.Size < 0 || d.Size > limit {
		return nil, fmt.Errorf("%s is %d bytes, more than the limit of %d", d.Digest, d.Size, limit)
	}
	body, err := from.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	content := bytes.NewBuffer(make([]byte, 0, min(d.Size, 1<<20)))
	if _, err := io.Copy(content, io.LimitReader(body, d.Size+1)); err != nil {
		return nil, fmt.Errorf("reading %s: %w", d.Digest, err)
	}
	return content.Bytes(), verify(content.Bytes(), d)
}

// Push uploads an image under a reference. A reference with a digest must be the image's. What the registry has already is
// not sent again; the manifest goes last, so that the tag never stands for half an image.
func (c *Client) Push(ctx context.Context, i *Image, ref string) error {
	repository, r, err := c.repository(ctx, ref)
	if err != nil {
		return err
	}
	if r.Digest != "" && r.Digest != i.digest {
		return fmt.Errorf("pushing image %s: its digest is %s", r, i.digest)
	}
	if err := c.push(ctx, repository, i, r); err != nil {
		return fmt.Errorf("pushing image %s: %w", r, registryError(r, err))
	}
	return nil
}

func (c *Client) push(ctx context.Context, repository *remote.Repository, i *Image, r Reference) error {
	blobs, err := i.blobs()
	if err != nil {
		return err
	}
	for d, content := range blobs {
		blob := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(content))}
		there, err := repository.Blobs().Exists(ctx, blob)
		if err != nil {
			return err
		}
		if there {
			continue
		}
		if err := repository.Blobs().Push(ctx, blob, bytes.NewReader(content)); err != nil {
			return err
		}
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(i.digest), Size: int64(len(i.raw))}
	return repository.PushReference(ctx, d, bytes.NewReader(i.raw), r.within())
}

// repository is the remote side of a reference.
func (c *Client) repository(ctx context.Context, ref string) (*remote.Repository, Reference, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return nil, r, err
	}
	if err := r.remote(); err != nil {
		return nil, r, err
	}
	plain, err := c.speaksPlain(ctx, r.Registry)
	if err != nil {
		return nil, r, fmt.Errorf("reaching registry %s: %w", r.Registry, err)
	}
	repository := &remote.Repository{
		Client:           c.auth,
		Reference:        registry.Reference{Registry: r.Registry, Repository: r.Repository, Reference: r.within()},
		PlainHTTP:        plain,
		MaxMetadataBytes: maxManifest,
		SkipReferrersGC:  true,
	}
	return repository, r, nil
}

// speaksPlain decides between HTTPS and HTTP. A registry on this machine is asked with HTTPS first, without a credential.
func (c *Client) speaksPlain(ctx context.Context, host string) (bool, error) {
	if c.cfg.PlainHTTP {
		return true, nil
	}
	if !loopback(host) {
		return false, nil
	}
	c.mu.Lock()
	plain, known := c.plain[host]
	c.mu.Unlock()
	if known {
		return plain, nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/v2/", nil)
	if err != nil {
		return false, err
	}
	response, err := c.transport.RoundTrip(request)
	if err == nil {
		response.Body.Close()
	}
	plain = plainAnswer(err)
	if err != nil && !plain {
		return false, err
	}
	c.mu.Lock()
	c.plain[host] = plain
	c.mu.Unlock()
	return plain, nil
}

// plainAnswer reports whether a TLS handshake was answered in HTTP. http.Transport says that in words alone.
func plainAnswer(err error) bool {
	var record tls.RecordHeaderError
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/"
}

// loopback reports whether a host, with or without a port, is this machine by name or address.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// encrypted is the transport that all requests go through, those after a redirect or to a token server that the registry
// named included: none leaves this machine unencrypted unless the configuration says so.
type encrypted struct{ client *Client }

func (e encrypted) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "https" && !e.client.cfg.PlainHTTP && !loopback(request.URL.Host) {
		return nil, fmt.Errorf("%s is not encrypted, which only a registry on this machine may be", request.URL.Redacted())
	}
	return e.client.transport.RoundTrip(request)
}

// fewRedirects bounds the way to a blob, and never lets it leave HTTPS.
func fewRedirects(request *http.Request, via []*http.Request) error {
	if len(via) > 4 {
		return errors.New("more than 4 redirects")
	}
	if via[0].URL.Scheme == "https" && request.URL.Scheme != "https" {
		return errors.New("redirected from HTTPS to HTTP")
	}
	return nil
}

// registryError adds what to do about a refusal.
func registryError(r Reference, err error) error {
	var answer *errcode.ErrorResponse
	switch {
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return fmt.Errorf("registry %s wants a credential: gatehouse bundle login %s", r.Registry, r.Registry)
	case !errors.As(err, &answer):
		return err
	case answer.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("registry %s refuses the credential, or wants one: gatehouse bundle login %s (%w)", r.Registry, r.Registry, err)
	case answer.StatusCode == http.StatusForbidden:
		return fmt.Errorf("registry %s: the credential may not do this (%w)", r.Registry, err)
	case answer.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %v", ErrNotFound, err)
	}
	return err
}
