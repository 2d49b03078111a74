package decisionlog

import (
	"net/url"
	"strings"
	"time"

	"gatehouse/query"
)

// Header is one header line as it was received.
type Header struct{ Name, Value string }

// Param is a parameter of a route and what the request's path has in its place.
type Param struct{ Name, Value string }

// Input is what the policy's input was made of, beyond what the entry says itself (method, host, path, identity): by reference,
// nothing of it is copied before Append. What can be worked out of it (parsed_path, parsed_query) is not part of it.
type Input struct {
	Scheme, Protocol, Query, Fragment, ID string
	Size                                  int64 // of the body in bytes, as the proxy states it

	Headers   []Header
	HeaderMap bool // the input shows the header lines one by one as well

	Time                time.Time // when the proxy says that the request began; zero: it did not
	Source, Destination Endpoint
	Extensions          map[string]string
	Metadata            map[string]any // plain JSON; read only
	RouteMetadata       map[string]any // likewise
	TLS                 bool           // the proxy told of a TLS session, with this name of the server
	SNI                 string

	HasBody   bool // a body came; its text is never recorded
	RawBody   bool // it came as bytes
	Truncated bool
	Body      Document // as the policy could read it; nil is null

	Peer Peer
	App  string // name of the application where there are several

	Matched                  bool // a route did
	WebSocket                bool // it is one of WebSockets: its method is WEBSOCKET, whatever the request's is
	Redirect                 bool // it is that of the path which the application redirects to
	RouteName, RouteTemplate string
}

// Endpoint is one end of the connection that the request came on.
type Endpoint struct {
	Host        string
	Port        uint32
	Other       map[string]any // an address that is not host and port, as plain JSON; read only
	Service     string
	Labels      map[string]string
	Principal   string
	Certificate string
}

// Peer is who connected by mTLS.
type Peer struct {
	SPIFFEID, Subject string
	SANs              []string
}

// parsedPath is the input's parsed_path: the decoded segments. A percent sign that begins no escape stands for itself; where
// that is refused there is no input.
func parsedPath(path string) []string {
	raw, _, _ := strings.Cut(path, "?")
	decoded, err := url.PathUnescape(raw)
	if err != nil {
		decoded = lenientUnescape(raw)
	}
	return strings.Split(strings.TrimLeft(decoded, "/"), "/")
}

func lenientUnescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := url.PathUnescape(s[i : i+3]); err == nil {
				out.WriteString(c)
				i += 2
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// parsedQuery is the input's parsed_query.
func parsedQuery(path string) url.Values {
	_, raw, _ := strings.Cut(path, "?")
	values, _ := query.Parse(raw) // where it has an error there is no input
	return values.Values
}
