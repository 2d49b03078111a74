package extauthz

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"gatehouse/gate"
)

// fields are the headers in which a proxy describes the client's request. All are required, exactly once.
type fields struct{ method, uri, host, proto string }

var proxyFields = map[Proxy]fields{
	ProxyNginx:   {"X-Original-Method", "X-Original-Uri", "X-Original-Host", "X-Original-Proto"},
	ProxyTraefik: {"X-Forwarded-Method", "X-Forwarded-Uri", "X-Forwarded-Host", "X-Forwarded-Proto"},
}

// request parses what the proxy sent. On an error the Request is Malformed, for the gate to deny and to log.
func (h *HTTP) request(r *http.Request) *gate.Request {
	req := &gate.Request{Size: -1}
	f, forwarded := proxyFields[h.proxy]
	req.Headers = clientHeaders(r.Header, f)
	for _, line := range req.Headers {
		req.Bytes += len(line.Name) + len(line.Value) + len(": \r\n")
	}
	line := h.requestLine
	if forwarded {
		line = f.read
	}
	req.FixedHeaders, req.FixedQuery, req.OnlyVerdicts = forwarded, true, true
	req.Malformed = cmp.Or(line(r, req), h.body(r, req))
	req.Bytes += len(req.Method) + len(req.Path) + len(req.Host)
	if req.Malformed == nil && !utf8.ValidString(req.Path) {
		req.Malformed = errors.New("the path is not UTF-8")
	}
	return req
}

// read takes method, path, host and scheme from the headers that the proxy sets.
func (f fields) read(r *http.Request, req *gate.Request) error {
	for name, into := range map[string]*string{f.method: &req.Method, f.uri: &req.Path, f.host: &req.Host, f.proto: &req.Scheme} {
		values := r.Header[name]
		if len(values) != 1 || values[0] == "" {
			return fmt.Errorf("the proxy must set %s, once and not empty: it came %d times", name, len(values))
		}
		*into = values[0]
	}
	return nil
}

// requestLine parses the request line as Envoy sent it, not net/http's decoded form. CONNECT names an authority and
// has no path (RFC 9110 section 9.3.6).
func (h *HTTP) requestLine(r *http.Request, req *gate.Request) error {
	req.Method, req.Host, req.Path = r.Method, r.Host, r.RequestURI
	if r.Method == http.MethodConnect && !strings.HasPrefix(r.RequestURI, "/") {
		req.Path = ""
	}
	if h.prefix == "" {
		return nil
	}
	path, found := strings.CutPrefix(req.Path, h.prefix)
	if !found || path != "" && path != "*" && path[0] != '/' && path[0] != '?' {
		return fmt.Errorf("the path does not begin with path_prefix %q", h.prefix)
	}
	req.Path = path
	return nil
}

// hopHeaders belong to the connection between the proxy and us (RFC 9110 section 7.6.1), not to the client's request.
var hopHeaders = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// clientHeaders are the client's headers by name, without the proxy's own fields.
func clientHeaders(header http.Header, f fields) gate.Headers {
	own := []string{f.method, f.uri, f.host, f.proto}
	lines := 0
	names := make([]string, 0, len(header))
	for name, values := range header {
		if !slices.Contains(own, name) && !slices.Contains(hopHeaders, name) {
			names = append(names, name)
			lines += len(values)
		}
	}
	slices.Sort(names)
	out := make(gate.Headers, 0, lines)
	for _, name := range names {
		for _, value := range header[name] {
			out = append(out, gate.Header{Name: strings.ToLower(name), Value: validUTF8(value)})
		}
	}
	return out
}

// body reads at most one byte more than the gate's limit, which is enough for the gate to deny, and discards the
// rest: a proxy that is still writing when we respond may see a connection error instead of the response. The
// server's read timeout bounds it.
func (h *HTTP) body(r *http.Request, req *gate.Request) error {
	limit := 0
	if s := h.gate.View().Settings; s != nil {
		limit = s.Limits.Message
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	if err == nil {
		var rest int64
		rest, err = io.Copy(io.Discard, r.Body)
		req.Bytes += int(rest)
	}
	if err != nil {
		return fmt.Errorf("reading the body: %w", err)
	}
	req.Body = string(body)
	req.RawBody = !utf8.Valid(body)
	req.Bytes += len(body)
	if r.ContentLength > 0 || len(body) > 0 {
		req.Size = int64(len(body))
	}
	return nil
}

// identityHeaders are the configured identity headers.
func (h *HTTP) identityHeaders() gate.IdentityHeaders {
	if s := h.gate.View().Settings; s != nil {
		return s.Headers
	}
	return gate.IdentityHeaders{}
}
