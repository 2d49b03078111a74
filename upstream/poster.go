package upstream

import (
	"context"
	"net/http"
)

// Poster sends requests to one URL of a service, such as the one that decisions are sent to. One goroutine uses it at a time.
type Poster struct {
	service Service
	url     string
	to      string  // the URL as people see it
	client  *Client // nil: the service's files are read again for the next request
	stale   bool    // the server did not like client's credential
}

// NewPoster checks the service and the URL. It connects to nothing.
func NewPoster(s Service, url string) (*Poster, error) {
	if err := s.Resolve(); err != nil {
		return nil, err
	}
	c, err := NewClient(s, url, 0)
	if err != nil {
		return nil, err
	}
	return &Poster{service: s, url: url, to: Redacted(c.url), client: c}, nil
}

// Post sends a body. After a failure, or where the credential was not good, it begins anew with what the service's files hold then.
func (p *Poster) Post(ctx context.Context, header http.Header, body []byte) (response *http.Response, err error) {
	if p.stale {
		p.Close()
	}
	if p.client == nil {
		if p.client, err = NewClient(p.service, p.url, 0); err != nil {
			return nil, err
		}
	}
	response, err = p.client.Do(ctx, http.MethodPost, header, body)
	if err != nil {
		p.Close()
		return nil, err
	}
	if response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden {
		p.stale = true // its connection is still in use for the answer
	}
	return response, nil
}

// Close closes idle connections. The poster can still be used.
func (p *Poster) Close() {
	if p.client != nil {
		p.client.Close()
		p.client, p.stale = nil, false
	}
}

// String is the URL without what may be secret in it.
func (p *Poster) String() string { return p.to }
