package bundles

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"gatehouse/upstream"
)

// longPollType is the media type with which a bundle service says that it holds requests open.
const longPollType = "application/vnd.openpolicyagent.bundles"

// bodyTime bounds the time from the answer's header to the end of its body.
const bodyTime = 5 * time.Minute

// fetched is an answer about a bundle.
type fetched struct {
	raw   []byte // the tarball; nil: what was asked about is current
	tag   string // what to ask with the next time: an ETag or a digest; may be empty
	holds bool   // the server holds a request open until there is something new
}

// fetchRequest is what an origin is asked for.
type fetchRequest struct {
	tag    string // what is had already; empty: nothing
	deltas bool   // a change to that can be used as well
	hold   bool   // the answer has time until there is something new
}

// origin is where a bundle comes from. One goroutine uses it.
type origin interface {
	fetch(context.Context, fetchRequest) (fetched, error)
	close()
}

// httpOrigin is a bundle on an HTTP server: OPA's bundle protocol, which any server of files with ETags speaks too.
type httpOrigin struct {
	service upstream.Service
	url     string
	wait    time.Duration    // how long the server is asked to hold a request; 0: not at all
	limit   int64            // bytes of a tarball
	client  *upstream.Client // nil after a failure: the next one reads the files anew
}

func newHTTPOrigin(s upstream.Service, url string, wait time.Duration, limit int64) (*httpOrigin, error) {
	if err := s.Resolve(); err != nil {
		return nil, err
	}
	o := &httpOrigin{service: s, url: url, wait: wait, limit: limit}
	var err error
	o.client, err = upstream.NewClient(s, url, wait)
	return o, err
}

func (o *httpOrigin) fetch(ctx context.Context, q fetchRequest) (f fetched, err error) {
	if o.client == nil {
		if o.client, err = upstream.NewClient(o.service, o.url, o.wait); err != nil {
			return fetched{}, err
		}
	}
	ctx, stop := context.WithTimeout(ctx, o.wait+upstream.AnswerTime+2*upstream.DialTime+bodyTime)
	defer stop()
	if f, err = o.ask(ctx, q); err != nil {
		// A token, a certificate or an authority may have been replaced: begin anew.
		o.close()
	}
	return f, err
}

func (o *httpOrigin) ask(ctx context.Context, q fetchRequest) (fetched, error) {
	header := http.Header{}
	prefer := "modes=snapshot"
	if q.deltas && q.tag != "" {
		prefer += ",delta"
	}
	if q.hold && o.wait > 0 {
		prefer += fmt.Sprintf(";wait=%d", int(o.wait.Seconds()))
	}
	header.Set("Prefer", prefer)
	o.client.Condition = tagOf(q.tag, o.client.URL().Host)
	response, err := o.client.Do(ctx, http.MethodGet, header, nil)
	if err != nil {
		return fetched{}, err
	}
	defer response.Body.Close()
	media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")) // what is no media type is not ours
	f := fetched{tag: response.Header.Get("ETag"), holds: o.wait > 0 && media == longPollType}
	switch {
	case response.StatusCode == http.StatusNotModified && response.Request.Header.Get("If-None-Match") == "":
		return fetched{}, errors.New("the server answered 304 Not Modified to a request without a condition")
	case response.StatusCode == http.StatusNotModified:
		f.tag = q.tag
		return f, nil
	case response.StatusCode != http.StatusOK:
		return fetched{}, statusError(response.StatusCode)
	case len(f.tag) > 1024:
		f.tag = ""
	}
	f.tag = textOf(upstream.Condition{Host: response.Request.URL.Host, Tag: f.tag}, o.client.URL().Host)
	f.raw, err = upstream.ReadBody(response, o.limit)
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

func (o *httpOrigin) close() {
	if o.client != nil {
		o.client.Close()
		o.client = nil
	}
}
