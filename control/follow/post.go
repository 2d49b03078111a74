package follow

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Poster sends requests to control as this edge, with the certificate that the follower keeps in the same folder. It is good
// for one goroutine at a time.
type Poster struct {
	with Config
	url  string

	mu        sync.Mutex
	transport *http.Transport // nil: none yet; guarded by mu
}

// NewPoster makes a Poster that posts to a path. Of the configuration URL, CA, Pin, Dir and Clock count. It opens no connection.
func NewPoster(with Config, path string) *Poster {
	if with.Clock == nil {
		with.Clock = time.Now
	}
	return &Poster{with: with, url: strings.TrimSuffix(with.URL, "/") + path}
}

// String is the URL.
func (p *Poster) String() string { return p.url }

// Post sends a request. Each connection is made with the certificate of that moment; where control refuses it, the next request makes a new
// one.
func (p *Poster) Post(ctx context.Context, header http.Header, body []byte) (*http.Response, error) {
	transport, err := p.connect()
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = header
	response, err := transport.RoundTrip(r)
	if err != nil || response.StatusCode == http.StatusForbidden {
		transport.CloseIdleConnections()
	}
	if err == nil && response.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1000)) // it is for people
		_ = response.Body.Close()
		response.Body = io.NopCloser(bytes.NewReader(text))
	}
	return response, err
}

func (p *Poster) connect() (*http.Transport, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.transport != nil {
		return p.transport, nil
	}
	if id, err := readIdentity(p.with.Dir); err != nil || id == nil {
		return nil, errors.Join(err, errNotEnrolled)
	}
	f := &Follower{with: p.with}
	t, err := f.transport(nil)
	if err != nil {
		return nil, err
	}
	t.TLSClientConfig.ClientSessionCache = nil // a resumed connection has the certificate of the first
	t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		id, err := readIdentity(p.with.Dir)
		if err != nil {
			return nil, err
		}
		if id == nil {
			return nil, errors.New(filepath.Join(p.with.Dir, identityFile) + " is gone: enroll this edge anew")
		}
		return &tls.Certificate{Certificate: [][]byte{id.Certificate}, PrivateKey: id.key, Leaf: id.leaf}, nil
	}
	p.transport = t
	return t, nil
}

// Close ends the connections.
func (p *Poster) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
}
