package dynmod

import (
	"maps"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"gatehouse/gate"
)

// Raw is a request as Envoy has it. Its strings are Envoy's memory and hold until the call that brings them returns.
type Raw struct {
	Headers  gate.Headers // with the pseudo-headers, names in lower case, names may repeat
	Protocol string       // HTTP/1.1
	// Source and Destination are the ends of the connection, as "host:port".
	Source, Destination string
	TLS                 *RawTLS // nil: no TLS
	// Body is what was buffered of the body, in pieces; Buffered says that it was to be. Received is how many bytes of it have come.
	Body     []string
	Buffered bool
	Received uint64
	Route    *Route // the route's settings; nil: none
}

// RawTLS is what Envoy tells of the downstream TLS connection. The principals are the first name of each kind in a certificate.
type RawTLS struct {
	SNI         string
	Peer, Local Names
}

// Names are the names in a certificate: an URI, a DNS name, and the subject.
type Names struct{ URI, DNS, Subject string }

// principal is the name by which ext_authz tells of a certificate.
func (n *Names) principal() string {
	switch {
	case n.URI != "":
		return n.URI
	case n.DNS != "":
		return n.DNS
	}
	return n.Subject
}

// partialBody is the header in which Envoy says whether a body is complete. What a client says in it is not passed on.
const partialBody = "x-envoy-auth-partial-body"

// request makes of a Raw what the gate decides about, as Envoy's ext_authz filter and package extauthz do together. Nothing in it is Envoy's
// memory. path is the path as Envoy has it, byte for byte.
func (f *Filter) request(raw *Raw) (req *gate.Request, path string) {
	c := newCopier(raw)
	req = &gate.Request{Time: time.Now(), Headers: make(gate.Headers, 0, len(raw.Headers)+1)}
	var index map[string]int
	if len(raw.Headers) > linear {
		index = make(map[string]int, len(raw.Headers))
	}
	for i := range raw.Headers {
		line := &raw.Headers[i]
		if line.Name == partialBody {
			continue
		}
		name, value := line.Name, c.text(line.Value)
		if at := find(req.Headers, index, name); at >= 0 { // as in ext_authz' map of headers
			req.Headers[at].Value += "," + value
			continue
		}
		name = c.text(name)
		switch name {
		case ":method":
			req.Method = value
		case ":path":
			req.Path, path = value, value
			if !utf8.ValidString(line.Value) {
				path = strings.Clone(line.Value)
			}
		case ":authority":
			req.Host = value
		case ":scheme":
			req.Scheme = value
		case "x-envoy-downstream-service-cluster":
			req.Source.Service = value
		}
		if index != nil {
			index[name] = len(req.Headers)
		}
		req.Headers = append(req.Headers, gate.Header{Name: name, Value: value})
	}
	req.Protocol = c.text(raw.Protocol)
	req.Source.Address, req.Destination.Address = c.address(raw.Source), c.address(raw.Destination)
	if t := raw.TLS; t != nil {
		req.Source.Principal, req.Destination.Principal = c.text(t.Peer.principal()), c.text(t.Local.principal())
	}
	if f.settings.IncludeTLSSession {
		req.TLS = &gate.TLSSession{}
		if t := raw.TLS; t != nil {
			req.TLS.SNI = c.text(t.SNI)
		}
	}
	req.Size = int64(raw.Received)
	if raw.Buffered {
		f.body(raw, req)
	}
	req.Extensions = f.extensions(raw.Route)
	req.Bytes = len(c.buf) + len(req.Body) + perHeader*len(req.Headers)
	return req, path
}

const (
	// linear is up to how many headers looking through all of them is faster than a map.
	linear = 64
	// perHeader is about what a header line takes in ext_authz' message, besides its name and its value: limits.message bounds the same.
	perHeader = 8
)

func find(headers gate.Headers, index map[string]int, name string) int {
	if index != nil {
		if at, found := index[name]; found {
			return at
		}
		return -1
	}
	for i := range headers {
		if headers[i].Name == name {
			return i
		}
	}
	return -1
}

// body gives the request what was buffered, up to the bound, and says whether that is all.
func (f *Filter) body(raw *Raw, req *gate.Request) {
	settings := f.settings.WithRequestBody
	total := 0
	for _, piece := range raw.Body {
		total += len(piece)
	}
	text := make([]byte, 0, min(total, int(settings.MaxRequestBytes)))
	for _, piece := range raw.Body {
		text = append(text, piece[:min(len(piece), cap(text)-len(text))]...)
	}
	req.Body = unsafe.String(unsafe.SliceData(text), len(text))
	if settings.PackAsBytes {
		req.RawBody = len(text) > 0
	} else {
		req.Body = sanitize(req.Body)
		req.LossyBody = len(text) > 0
	}
	req.Headers = append(req.Headers, gate.Header{Name: partialBody, Value: strconv.FormatBool(len(text) < total)})
}

// extensions are those of the filter and of the route, whose own win. The filter's map is never written to.
func (f *Filter) extensions(r *Route) map[string]string {
	if r == nil || len(r.ContextExtensions) == 0 {
		return f.settings.ContextExtensions
	}
	all := maps.Clone(f.settings.ContextExtensions)
	if all == nil {
		all = make(map[string]string, len(r.ContextExtensions))
	}
	maps.Copy(all, r.ContextExtensions)
	return all
}

// copier copies texts of Envoy's into one piece of memory.
type copier struct{ buf []byte }

func newCopier(raw *Raw) *copier {
	n := len(raw.Protocol) + len(raw.Source) + len(raw.Destination)
	for i := range raw.Headers {
		n += len(raw.Headers[i].Name) + len(raw.Headers[i].Value)
	}
	if t := raw.TLS; t != nil {
		n += len(t.SNI) + len(t.Peer.principal()) + len(t.Local.principal())
	}
	return &copier{buf: make([]byte, 0, n)}
}

// text copies one, and puts an exclamation mark for each byte that is not UTF-8, as Envoy does where it writes it into a message.
func (c *copier) text(s string) string {
	if s == "" {
		return ""
	}
	at := len(c.buf)
	c.buf = append(c.buf, s...)
	own := c.buf[at:]
	return sanitize(unsafe.String(unsafe.SliceData(own), len(own)))
}

// sanitize puts an exclamation mark for each byte that is not UTF-8.
func sanitize(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	out := make([]byte, 0, len(s))
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			out = append(out, '!')
		} else {
			out = append(out, s[:n]...)
		}
		s = s[n:]
	}
	return string(out)
}

// address reads one as Envoy prints it: of TCP, or a socket's path.
func (c *copier) address(s string) gate.Address {
	if s == "" {
		return gate.Address{}
	}
	host, port, err := net.SplitHostPort(s)
	if n, wrong := strconv.ParseUint(port, 10, 16); err == nil && wrong == nil && !strings.HasPrefix(s, "/") {
		return gate.Address{Host: c.text(host), Port: uint32(n)}
	}
	return gate.Address{Other: map[string]any{"pipe": map[string]any{"path": strings.Clone(s)}}}
}
