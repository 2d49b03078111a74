package origin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"gatehouse/images"
	"gatehouse/upstream"
)

// imageTime bounds one request to a registry, including the download.
const imageTime = 6 * time.Minute

// Image is a bundle in a registry. Its tag is the digest that the reference resolves to.
type Image struct {
	service        upstream.Service
	image          string
	credentialFile string
	limit          int64
	client         *images.Client // nil after a failure: the next one reads the credential files again
}

// NewImage prepares fetching an image. credentialFile is in Docker's format.
func NewImage(s upstream.Service, image, credentialFile string, limit int64) (*Image, error) {
	if s.BearerFile != "" || s.OAuth2 != nil || s.AWS != nil || s.GCP != nil || s.Azure != nil || len(s.Headers) > 0 {
		return nil, errors.New("only ca, cert, key and plain_http of a service are used for images: the registry's credential is read from Docker's credential file")
	}
	ref, err := images.ParseReference(image)
	if err != nil {
		return nil, err
	}
	if ref.Registry == "" {
		return nil, fmt.Errorf("image %q names no registry, as in registry.example.com/policies/app:1.4", image)
	}
	if err := s.Resolve(); err != nil {
		return nil, err
	}
	o := &Image{service: s, image: image, credentialFile: credentialFile, limit: limit}
	o.client, err = o.connect()
	return o, err
}

func (o *Image) connect() (*images.Client, error) {
	s := o.service
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		text, err := os.ReadFile(s.CA)
		if err != nil {
			return nil, err
		}
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", s.CA)
		}
	}
	if err := s.ShowCertificate(trust); err != nil {
		return nil, err
	}
	return images.NewClient(images.Config{TLS: trust, PlainHTTP: s.PlainHTTP, CredentialFile: o.credentialFile, MaxTarball: o.limit})
}

// Fetch resolves the digest first, and pulls only if it is new.
func (o *Image) Fetch(ctx context.Context, q Request) (f Answer, err error) {
	if o.client == nil {
		if o.client, err = o.connect(); err != nil {
			return Answer{}, err
		}
	}
	ctx, stop := context.WithTimeout(ctx, imageTime)
	defer stop()
	defer func() {
		if err != nil {
			o.Close()
			err = upstream.Truncate(err)
		}
	}()
	digest, err := o.client.Resolve(ctx, o.image)
	if err != nil {
		return Answer{}, err
	}
	if digest == q.Tag {
		return Answer{Tag: digest}, nil
	}
	image, err := o.client.Pull(ctx, o.image)
	if err != nil {
		return Answer{}, err
	}
	return Answer{Raw: image.Tarball(), Tag: image.Resolved()}, nil
}

// Close closes the connections. The next Fetch opens new ones.
func (o *Image) Close() {
	if o.client != nil {
		o.client.Close()
		o.client = nil
	}
}
