// Package origin fetches bundles over the network: from an HTTP server that speaks OPA's bundle protocol, or from an image registry. It
// handles bytes and tags, not bundles, and is a part of package bundles.
package origin

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"gatehouse/upstream"
)

// longPollType is the media type that a bundle service sends if it supports long polling.
const longPollType = "application/vnd.openpolicyagent.bundles"

// bodyTime bounds the time from the response's header to the end of its body.
const bodyTime = 5 * time.Minute

// Answer is a response about a bundle.
type Answer struct {
	Raw   []byte // the tarball; nil: not modified
	Tag   string // for the next request: an ETag or a digest; may be empty
	Holds bool   // the server supports long polling
}

// Request is a request to an Origin.
type Request struct {
	Tag    string // of the current bundle; empty: none
	Deltas bool   // a delta bundle is acceptable
	Hold   bool   // long poll: wait until there is something new
}

// Origin is where a bundle comes from. Not safe for concurrent use.
type Origin interface {
	Fetch(context.Context, Request) (Answer, error)
	Close()
}

// HTTP is a bundle on an HTTP server: OPA's bundle protocol, or any file server with ETags.
type HTTP struct {
	service upstream.Service
	url     string
	wait    time.Duration    // long polling timeout; 0: none
	limit   int64            // bytes of a tarball
	client  *upstream.Client // nil after a failure: the next one reads the credential files again
}

// NewHTTP prepares fetching a URL. wait is the long polling timeout, limit the maximum bytes of a tarball.
func NewHTTP(s upstream.Service, url string, wait time.Duration, limit int64) (*HTTP, error) {
	if err := s.Resolve(); err != nil {
		return nil, err
	}
	o := &HTTP{service: s, url: url, wait: wait, limit: limit}
	var err error
	o.client, err = upstream.NewClient(s, url, wait)
	return o, err
}

// Fetch makes one request.
func (o *HTTP) Fetch(ctx context.Context, q Request) (f Answer, err error) {
	if o.client == nil {
		if o.client, err = upstream.NewClient(o.service, o.url, o.wait); err != nil {
			return Answer{}, err
		}
	}
	ctx, stop := context.WithTimeout(ctx, o.wait+upstream.AnswerTime+2*upstream.DialTime+bodyTime)
	defer stop()
	if f, err = o.ask(ctx, q); err != nil {
		// A token, certificate or CA may have been replaced: use a new client next time.
		o.Close()
	}
	return f, err
}

func (o *HTTP) ask(ctx context.Context, q Request) (Answer, error) {
	header := http.Header{}
	prefer := "modes=snapshot"
	if q.Deltas && q.Tag != "" {
		prefer += ",delta"
	}
	if q.Hold && o.wait > 0 {
		prefer += fmt.Sprintf(";wait=%d", int(o.wait.Seconds()))
	}
	header.Set("Prefer", prefer)
	o.client.Condition = tagOf(q.Tag, o.client.URL().Host)
	response, err := o.client.Do(ctx, http.MethodGet, header, nil)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")) // an invalid media type is not ours
	f := Answer{Tag: response.Header.Get("ETag"), Holds: o.wait > 0 && media == longPollType}
	switch {
	case response.StatusCode == http.StatusNotModified && response.Request.Header.Get("If-None-Match") == "":
		return Answer{}, errors.New("the server answered 304 Not Modified to a request without a condition")
	case response.StatusCode == http.StatusNotModified:
		f.Tag = q.Tag
		return f, nil
	case response.StatusCode != http.StatusOK:
		return Answer{}, statusError(response.StatusCode)
	case len(f.Tag) > 1024:
		f.Tag = ""
	}
	f.Tag = textOf(upstream.Condition{Host: response.Request.URL.Host, Tag: f.Tag}, o.client.URL().Host)
	f.Raw, err = upstream.ReadBody(response, o.limit)
	return f, err
}

// tagOf parses what textOf returned. Without a host it applies to the first host.
func tagOf(text, own string) upstream.Condition {
	if host, tag, ok := strings.Cut(text, "\n"); ok {
		return upstream.Condition{Host: host, Tag: tag}
	}
	return upstream.Condition{Host: own, Tag: text}
}

func textOf(c upstream.Condition, own string) string {
	if c.Tag == "" || c.Host == own {
		return c.Tag
	}
	return c.Host + "\n" + c.Tag
}

// statusError explains an error status.
func statusError(code int) error {
	text := fmt.Sprintf("the server answered %d %s", code, http.StatusText(code))
	switch code {
	case http.StatusUnauthorized:
		text += ": it wants a credential, or refuses the one that the service has"
	case http.StatusForbidden:
		text += ": the service's credential may not read this bundle"
	case http.StatusNotFound:
		text += ": check the bundle's url"
	}
	return errors.New(text)
}

// Close closes the connections. The next Fetch opens new ones.
func (o *HTTP) Close() {
	if o.client != nil {
		o.client.Close()
		o.client = nil
	}
}

// URL returns the full URL, including the service's. Available after NewHTTP.
func (o *HTTP) URL() *url.URL { return o.client.URL() }
