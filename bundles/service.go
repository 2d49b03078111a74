package bundles

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins/rest"
)

// Service says what an HTTP server must show and what it wants to see. The zero value is good for one without
// credentials whose certificate the system trusts. Secrets are named by file and read when they are used.
type Service struct {
	CA        string            // PEM file of the authorities that are trusted; empty: the system's
	Cert, Key string            // PEM files of a client certificate (mTLS); read anew for each connection
	Headers   map[string]string // sent with each request; not for secrets
	PlainHTTP bool              // lets requests and credentials go unencrypted to hosts other than this one

	// At most one of these:
	BearerFile string // a file with a token for the Authorization header, read anew for each request
	OAuth2     *OAuth2
	AWS        *AWS
	GCP        *GCP
	Azure      *Azure
}

// OAuth2 is the client credentials grant (RFC 6749 section 4.4).
type OAuth2 struct {
	TokenURL   string // https
	ClientID   string
	SecretFile string
	Scopes     []string
}

// AWS signs requests (Signature Version 4).
type AWS struct {
	From    string // environment, metadata, web_identity or profile
	Region  string // environment has it from AWS_REGION
	Service string // default: s3
	Profile string // of From profile
}

// GCP uses tokens of the metadata server: an identity token for Audience, or an access token for Scopes.
type GCP struct {
	Audience string
	Scopes   []string
	Endpoint string // default: the metadata server
}

// Azure uses tokens of a managed identity.
type Azure struct {
	Resource string
	ClientID string // of a user-assigned identity
	Endpoint string // default: the metadata server
}

const (
	dialTime     = 10 * time.Second // to connect, and as long again for TLS
	answerTime   = 30 * time.Second // until the answer's header, on top of what the server was asked to wait
	maxRedirects = 5
)

// client speaks to one URL of a service. One goroutine uses it.
type client struct {
	url      *url.URL
	headers  map[string]string
	http     *http.Client
	auth     rest.HTTPAuthPlugin
	wait     time.Duration // how long the server may hold a request before it answers
	identity bool          // a client certificate is shown to whoever asks
	// condition goes to the host that it is of, whether that is asked first or redirected to.
	condition entityTag
	plain     bool
}

// newClient reads what the service's files hold now.
func newClient(s Service, target string, wait time.Duration) (*client, error) {
	c := &client{headers: s.Headers, wait: wait, identity: s.Cert != "", plain: s.PlainHTTP}
	var err error
	if c.url, err = url.Parse(target); err != nil {
		return nil, errors.New("url: not a URL") // the parser's error would repeat it, with what may be secret in it
	}
	if c.url.Host == "" || c.url.User != nil || c.url.Fragment != "" {
		return nil, fmt.Errorf("url %q: give https://host/path, without user or fragment", shown(c.url))
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
	transport.DialContext = (&net.Dialer{Timeout: dialTime}).DialContext
	transport.TLSHandshakeTimeout = dialTime
	transport.ResponseHeaderTimeout = wait + answerTime
	transport.MaxResponseHeaderBytes = 1 << 20
	transport.MaxIdleConnsPerHost = 1
	if err := s.showCertificate(transport.TLSClientConfig); err != nil {
		return nil, err
	}
	c.http.CheckRedirect = c.redirect
	return c, nil
}

// showCertificate sets the client certificate, which is read for each connection so that it can be rotated.
func (s Service) showCertificate(config *tls.Config) error {
	if s.Cert == "" && s.Key == "" {
		return nil
	}
	if s.Cert == "" || s.Key == "" {
		return errors.New("a client certificate is cert and key: one of them is missing")
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		return &pair, err
	}
	if _, err := load(); err != nil {
		return fmt.Errorf("client certificate: %w", err)
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return nil
}

// rest is the service in the form of OPA's configuration, with the secrets in it.
func (s Service) rest(target *url.URL) ([]byte, error) {
	credentials := map[string]any{}
	if s.BearerFile != "" {
		if _, err := readSecret(s.BearerFile); err != nil {
			return nil, fmt.Errorf("bearer token: %w", err)
		}
		credentials["bearer"] = map[string]any{"token_path": s.BearerFile}
	}
	if o := s.OAuth2; o != nil {
		secret, err := readSecret(o.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("oauth2 client secret: %w", err)
		}
		credentials["oauth2"] = map[string]any{"token_url": o.TokenURL, "client_id": o.ClientID, "client_secret": secret, "scopes": o.Scopes}
	}
	if s.AWS != nil {
		signing, err := s.AWS.rest()
		if err != nil {
			return nil, err
		}
		credentials["s3_signing"] = signing
	}
	if g := s.GCP; g != nil {
		credentials["gcp_metadata"] = map[string]any{"audience": g.Audience, "scopes": g.Scopes, "endpoint": g.Endpoint}
	}
	if a := s.Azure; a != nil {
		credentials["azure_managed_identity"] = map[string]any{"resource": a.Resource, "client_id": a.ClientID, "endpoint": a.Endpoint}
	}
	if len(credentials) > 1 {
		return nil, errors.New("at most one of bearer_file, oauth2, aws, gcp and azure can be used")
	}
	config := map[string]any{"url": target.Scheme + "://" + target.Host, "credentials": credentials}
	if s.CA != "" {
		config["tls"] = map[string]any{"ca_cert": s.CA}
	}
	return json.Marshal(config)
}

func (a *AWS) rest() (map[string]any, error) {
	signing := map[string]any{"service": a.Service}
	switch a.From {
	case "environment":
		signing["environment_credentials"] = map[string]any{}
	case "metadata":
		signing["metadata_credentials"] = map[string]any{"aws_region": a.Region}
	case "web_identity":
		signing["web_identity_credentials"] = map[string]any{"aws_region": a.Region}
	case "profile":
		signing["profile_credentials"] = map[string]any{"aws_region": a.Region, "profile": a.Profile}
	default:
		return nil, fmt.Errorf("aws.from: %q is none of environment, metadata, web_identity and profile", a.From)
	}
	return signing, nil
}

// readSecret returns a file's text without the white space around it.
func readSecret(file string) (string, error) {
	const limit = 64 << 10
	if file == "" {
		return "", errors.New("no file is named")
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return "", fmt.Errorf("%s: not a file of at most %d bytes", file, limit)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fmt.Errorf("%s: empty", file)
	}
	return secret, nil
}

// encrypted refuses a URL that would send requests in clear text beyond this machine.
func (c *client) encrypted(u *url.URL) error {
	switch {
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && (c.plain || loopback(u.Hostname())):
		return nil
	case u.Scheme == "http":
		return fmt.Errorf("url %q: use https; plain http is for this machine, or with plain_http: true", shown(u))
	}
	return fmt.Errorf("url %q: the scheme is https", shown(u))
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// do sends a request with the service's headers and credential.
func (c *client) do(ctx context.Context, method string, header http.Header, body []byte) (*http.Response, error) {
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
	if c.condition.tag != "" && c.condition.host == c.url.Host {
		request.Header.Set("If-None-Match", c.condition.tag)
	}
	if err := c.auth.Prepare(request); err != nil {
		return nil, fmt.Errorf("getting a credential: %w", brief(bare(err)))
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, brief(bare(err))
	}
	return response, nil
}

// redirect follows a few redirects. To another host goes nothing but the request itself and how it is to be answered: no credential,
// no header of the service, and a condition only to the host whose ETag it is.
func (c *client) redirect(request *http.Request, via []*http.Request) error {
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
		return fmt.Errorf("redirected to %s, which is not to see the client certificate", request.URL.Host)
	}
	header := http.Header{"User-Agent": {"gatehouse"}}
	if prefer := via[0].Header["Prefer"]; prefer != nil {
		header["Prefer"] = prefer
	}
	if c.condition.tag != "" && c.condition.host == request.URL.Host {
		header.Set("If-None-Match", c.condition.tag)
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

// shown is a URL without what may be secret in it.
func shown(u *url.URL) string { return u.Scheme + "://" + u.Host + u.EscapedPath() }

func (c *client) close() { c.http.CloseIdleConnections() }

// brief bounds the text of an error that may quote a server. It keeps the cause.
func brief(err error) error {
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

// resolve makes the service's files absolute, so that a later change of the working directory moves nothing.
func (s *Service) resolve() error {
	files := []*string{&s.CA, &s.Cert, &s.Key, &s.BearerFile}
	if s.OAuth2 != nil {
		o := *s.OAuth2
		s.OAuth2 = &o
		files = append(files, &o.SecretFile)
	}
	for _, file := range files {
		if *file == "" {
			continue
		}
		abs, err := filepath.Abs(*file)
		if err != nil {
			return err
		}
		*file = abs
	}
	return nil
}
