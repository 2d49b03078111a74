package bundles

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

// imageTime bounds one request to a registry, download included.
const imageTime = 6 * time.Minute

// imageOrigin is a bundle in a registry. Its tag is the digest that the reference stands for.
type imageOrigin struct {
	cfg    Remote
	limit  int64
	client *images.Client // nil after a failure: the next one reads the files anew
}

func newImageOrigin(c Remote, limit int64) (*imageOrigin, error) {
	s := c.Service
	if s.BearerFile != "" || s.OAuth2 != nil || s.AWS != nil || s.GCP != nil || s.Azure != nil || len(s.Headers) > 0 {
		return nil, errors.New("a registry's credential is in Docker's credential file: of a service only ca, cert, key and plain_http are for images")
	}
	ref, err := images.ParseReference(c.Image)
	if err != nil {
		return nil, err
	}
	if ref.Registry == "" {
		return nil, fmt.Errorf("image %q names no registry, as in registry.example.com/policies/app:1.4", c.Image)
	}
	if err := c.Service.Resolve(); err != nil {
		return nil, err
	}
	o := &imageOrigin{cfg: c, limit: limit}
	o.client, err = o.connect()
	return o, err
}

func (o *imageOrigin) connect() (*images.Client, error) {
	s := o.cfg.Service
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
	return images.NewClient(images.Config{TLS: trust, PlainHTTP: s.PlainHTTP, CredentialFile: o.cfg.CredentialFile, MaxTarball: o.limit})
}

// fetch asks for the digest first, and pulls only what is new.
func (o *imageOrigin) fetch(ctx context.Context, q fetchRequest) (f fetched, err error) {
	if o.client == nil {
		if o.client, err = o.connect(); err != nil {
			return fetched{}, err
		}
	}
	ctx, stop := context.WithTimeout(ctx, imageTime)
	defer stop()
	defer func() {
		if err != nil {
			o.close()
			err = upstream.Brief(err)
		}
	}()
	digest, err := o.client.Resolve(ctx, o.cfg.Image)
	if err != nil {
		return fetched{}, err
	}
	if digest == q.tag {
		return fetched{tag: digest}, nil
	}
	image, err := o.client.Pull(ctx, o.cfg.Image)
	if err != nil {
		return fetched{}, err
	}
	return fetched{raw: image.Tarball(), tag: image.Resolved()}, nil
}

func (o *imageOrigin) close() {
	if o.client != nil {
		o.client.Close()
		o.client = nil
	}
}
