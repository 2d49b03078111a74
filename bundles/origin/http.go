// Package origin asks for bundles where they come from over the network: an HTTP server that speaks OPA's bundle protocol, or a registry of
// images. It knows bytes and tags, not bundles, and is a part of package bundles.
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

// longPollType is the media type with which a bundle service says that it holds requests open.
const longPollType = "application/vnd.openpolicyagent.bundles"

// bodyTime bounds the time from the answer's header to the end of its body.
const bodyTime = 5 * time.Minute

// Answer is an answer about a bundle.
type Answer struct {
	Raw   []byte // the tarball; nil: what was asked about is current
	Tag   string // what to ask with the next time: an ETag or a digest; may be empty
	Holds bool   // the server holds a request open until there is something new
}

// Request is what an Origin is asked for.
type Request struct {
	Tag    string // what is had already; empty: nothing
	Deltas bool   // a change to that can be used as well
	Hold   bool   // the answer has time until there is something new
}

// Origin is where a bundle comes from. One goroutine uses it.
type Origin interface {
	Fetch(context.Context, Request) (Answer, error)
	Close()
}

// HTTP is a bundle on an HTTP server: OPA's bundle protocol, which any server of files with ETags speaks too.
type HTTP struct {
	service upstream.Service
	url     string
	wait    time.Duration    // how long the server is asked to hold a request; 0: not at all
	limit   int64            // bytes of a tarball
	client  *upstream.Client // nil after a failure: the next one reads the files anew
}

// NewHTTP prepares a URL to be asked for. wait is how long the server is asked to hold a request, limit the bytes of a tarball.
func NewHTTP(s upstream.Service, url string, wait time.Duration, limit int64) (*HTTP, error) {
	if err := s.Resolve(); err != nil {
		return nil, err
	}
	o := &HTTP{service: s, url: url, wait: wait, limit: limit}
	var err error
	o.client, err = upstream.NewClient(s, url, wait)
	return o, err
}

// Fetch asks once.
func (o *HTTP) Fetch(ctx context.Context, q Request) (f Answer, err error) {
	if o.client == nil {
		if o.client, err = upstream.NewClient(o.service, o.url, o.wait); err != nil {
			return Answer{}, err
		}
	}
	ctx, stop := context.WithTimeout(ctx, o.wait+upstream.AnswerTime+2*upstream.DialTime+bodyTime)
	defer stop()
	if f, err = o.ask(ctx, q); err != nil {
		// A token, a certificate or an authority may have been replaced: begin anew.
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
	media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")) // what is no media type is not ours
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

// tagOf takes apart what textOf made. Without a host it is of the one that is asked first.
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

// statusError says what a refusal means here.
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

// Close ends the connections. The next Fetch opens others.
func (o *HTTP) Close() {
	if o.client != nil {
		o.client.Close()
		o.client = nil
	}
}

// URL is what is asked, after its service's has been put in front. It is there after NewHTTP.
func (o *HTTP) URL() *url.URL { return o.client.URL() }
