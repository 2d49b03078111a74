package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins/rest"
)

// How long a server may take.
const (
	DialTime   = 10 * time.Second // to connect, and as long again for TLS
	AnswerTime = 30 * time.Second // until the answer's header, on top of what the server was asked to wait
)

const maxRedirects = 5

// Condition is the ETag of what is had already, with the host that gave it: it means nothing to another, whose "1" may be something else.
type Condition struct{ Host, Tag string }

// Client speaks to one URL of a service. One goroutine uses it.
type Client struct {
	url      *url.URL
	headers  map[string]string
	http     *http.Client
	auth     rest.HTTPAuthPlugin
	wait     time.Duration // how long the server may hold a request before it answers
	identity bool          // a client certificate is sent to any server that asks
	// Condition goes to the host that it is of, whether that is asked first or redirected to.
	Condition Condition
	plain     bool
}

// NewClient reads what the service's files hold now.
func NewClient(s Service, target string, wait time.Duration) (*Client, error) {
	c := &Client{headers: s.Headers, wait: wait, identity: s.Cert != "", plain: s.PlainHTTP}
	var err error
	if c.url, err = url.Parse(target); err != nil {
		return nil, errors.New("url: not a URL") // the parser's error would repeat it, with what may be secret in it
	}
	if c.url.Host == "" || c.url.User != nil || c.url.Fragment != "" {
		return nil, fmt.Errorf("url %q: give https://host/path, without user or fragment", Redacted(c.url))
	}
	if err := c.encrypted(c.url); err != nil {
		return nil, err
	}
	raw, err := s.rest(c.url)
	if err != nil {
		return nil, err
	}
	made, err := rest.New(raw, nil, rest.Logger(logging.NewNoOpLogger()))
	if err != nil {
		return nil, err
	}
	if c.auth, err = made.Config().AuthPlugin(nil); err != nil {
		return nil, err
	}
	// OPA's own client follows redirects with all headers and waits for a body without end. Its parts are good.
	if c.http, err = c.auth.NewClient(*made.Config()); err != nil {
		return nil, err
	}
	transport, ok := c.http.Transport.(*http.Transport)
	if !ok {
		return nil, fmt.Errorf("the transport is a %T", c.http.Transport)
	}
	transport.DialContext = (&net.Dialer{Timeout: DialTime}).DialContext
	transport.TLSHandshakeTimeout = DialTime
	transport.ResponseHeaderTimeout = wait + AnswerTime
	transport.MaxResponseHeaderBytes = 1 << 20
	transport.MaxIdleConnsPerHost = 1
	if err := s.ShowCertificate(transport.TLSClientConfig); err != nil {
		return nil, err
	}
	c.http.CheckRedirect = c.redirect
	return c, nil
}

// encrypted refuses a URL that would send requests in clear text beyond this machine.
func (c *Client) encrypted(u *url.URL) error {
	switch {
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && (c.plain || IsLoopback(u.Hostname())):
		return nil
	case u.Scheme == "http":
		return fmt.Errorf("url %q: use https; plain http is for this machine, or with plain_http: true", Redacted(u))
	}
	return fmt.Errorf("url %q: the scheme is https", Redacted(u))
}

// IsLoopback reports whether a host, without a port, is this machine by name or address.
func IsLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Do sends a request with the service's headers and credential.
func (c *Client) Do(ctx context.Context, method string, header http.Header, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.url.String(), bodyReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "gatehouse")
	for name, value := range c.headers {
		request.Header.Set(name, value)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	if c.Condition.Tag != "" && c.Condition.Host == c.url.Host {
		request.Header.Set("If-None-Match", c.Condition.Tag)
	}
	if err := c.auth.Prepare(request); err != nil {
		return nil, fmt.Errorf("getting a credential: %w", Truncate(bare(err)))
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, Truncate(bare(err))
	}
	return response, nil
}

// redirect follows a few redirects. To another host goes nothing but the request itself and how it is to be answered: no credential,
// no header of the service, and a condition only to the host whose ETag it is.
func (c *Client) redirect(request *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if err := c.encrypted(request.URL); err != nil {
		return fmt.Errorf("redirected: %w", err)
	}
	first := via[0].URL
	if first.Scheme == "https" && request.URL.Scheme != "https" {
		return errors.New("redirected from https to http")
	}
	if request.URL.Host == first.Host {
		return nil
	}
	if c.identity {
		return fmt.Errorf("redirected to %s, which must not see the client certificate", request.URL.Host)
	}
	header := http.Header{"User-Agent": {"gatehouse"}}
	if prefer := via[0].Header["Prefer"]; prefer != nil {
		header["Prefer"] = prefer
	}
	if c.Condition.Tag != "" && c.Condition.Host == request.URL.Host {
		header.Set("If-None-Match", c.Condition.Tag)
	}
	request.Header = header
	return nil
}

// bare takes the URL off an error of the HTTP client: after a redirect it may hold a token.
func bare(err error) error {
	var with *url.Error
	if errors.As(err, &with) {
		return with.Err
	}
	return err
}

// Redacted is a URL without what may be secret in it.
func Redacted(u *url.URL) string { return u.Scheme + "://" + u.Host + u.EscapedPath() }

// URL is what the client speaks to.
func (c *Client) URL() *url.URL { return c.url }

// Close closes idle connections. The client can still be used.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Truncate bounds the text of an error that may quote a server. It keeps the cause.
func Truncate(err error) error {
	const limit = 500
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return &briefError{text: text, cause: err}
}

type briefError struct {
	text  string
	cause error
}

func (e *briefError) Error() string { return e.text }
func (e *briefError) Unwrap() error { return e.cause }

// ReadBody reads an answer's body whole, or not at all.
func ReadBody(response *http.Response, limit int64) ([]byte, error) {
	if response.ContentLength > limit {
		return nil, fmt.Errorf("the server announces %d bytes, more than the limit of %d", response.ContentLength, limit)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer after %d bytes: %w", len(body), Truncate(err))
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("the server sends more than the limit of %d bytes", limit)
	case len(body) == 0:
		return nil, errors.New("the server answered 200 OK without a body")
	}
	return body, nil
}

// bodyReader keeps a nil body nil.
func bodyReader(body []byte) io.Reader {
	if body == nil {
		return nil
	}
	return bytes.NewReader(body)
}
