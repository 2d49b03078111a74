package upstream

import (
	"crypto/tls"
	"errors"
	"net/http"
	"time"
)

// Direct is a client for servers that are shown no credential of a [Service]: those of public documents, or those whose credential is in
// the request. Its headers are small, and a redirect leads to no other host and never away from https.
type Direct struct {
	Client    *http.Client // to use instead of our own; redirects and cookies are ruled all the same. nil: our own
	Header    int64        // bytes of an answer's header that are read at most
	Idle      int          // connections kept open between requests; 0: none, and nothing is left when the last one has ended
	Redirects int          // that are followed; 0: a redirect is the answer
}

// New makes the client. ours is its transport, whose idle connections are the caller's to close; nil where the client was given.
func (d Direct) New() (client *http.Client, ours *http.Transport) {
	var c http.Client
	if d.Client != nil {
		c = *d.Client
	} else {
		ours = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DisableKeepAlives:      d.Idle == 0,
			MaxIdleConnsPerHost:    d.Idle,
			IdleConnTimeout:        30 * time.Second,
			ForceAttemptHTTP2:      true,
			MaxResponseHeaderBytes: d.Header,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		}
		c.Transport = ours
	}
	c.Jar = nil
	c.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		switch {
		case d.Redirects == 0:
			return http.ErrUseLastResponse
		case len(via) > d.Redirects:
			return errors.New("too many redirects")
		case req.URL.Host != via[0].URL.Host:
			return errors.New("redirect to another host")
		case req.URL.Scheme != via[0].URL.Scheme && req.URL.Scheme != "https":
			return errors.New("redirect away from https")
		}
		return nil
	}
	return &c, ours
}
