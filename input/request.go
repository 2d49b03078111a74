package input

import "time"

// Request is one HTTP request as a transport received it, in no transport's own types. Envoy's AttributeContext
// (envoy/service/auth/v3/attribute_context.proto) is the model: what Envoy says has a place here, and an empty field is
// one that was not said. A transport fills it in and does not touch it after Check was called, nor uses its memory again: an evaluation that
// was given up may still read it.
type Request struct {
	Method   string
	Path     string // as on the wire, with the query
	Host     string
	Scheme   string
	Protocol string
	Query    string // as Envoy states it, apart from Path; usually empty
	Fragment string
	ID       string
	Size     int64 // of the body in bytes, as Envoy states it; -1 unknown

	Headers   Headers
	RawHeader bool // the headers came as a header map (Envoy's encode_raw_headers), which the input shows as well

	Body    string
	RawBody bool // the body came as bytes (Envoy's pack_as_bytes)
	// LossyBody says that the proxy put an exclamation mark in the body for each byte that is not UTF-8, as Envoy does without pack_as_bytes:
	// what the application gets is not known for sure.
	LossyBody bool

	Time        time.Time // zero where the proxy did not say
	Source      Endpoint
	Destination Endpoint

	Extensions    map[string]string // Envoy's context extensions: from its configuration, never from the client
	Metadata      map[string]any    // metadata context as plain JSON
	RouteMetadata map[string]any    // route metadata context as plain JSON
	TLS           *TLSSession

	// FixedHeaders says that this proxy cannot take off what a client sent under another spelling of a header, FixedQuery that
	// it cannot change the query. What would need that is denied.
	FixedHeaders, FixedQuery bool
	// OnlyVerdicts says that this proxy takes every answer of success for an allow, so that it cannot be given one instead of the application's.
	OnlyVerdicts bool

	// As is who calls, where that is known without a credential: for tools that try a decision. No transport sets it.
	As *Identity

	// User is who calls as the directory had it when As was recorded; nil: the directory is asked.
	User *User

	// Bytes is how large the message was that brought this request; limits.message bounds it.
	Bytes int
	// Malformed is set by a transport that could not make sense of what came. Check denies such a request.
	Malformed error
}

// Endpoint is one end of the connection that a request came on (Envoy's AttributeContext.Peer).
type Endpoint struct {
	Address     Address
	Service     string
	Labels      map[string]string
	Principal   string // the authenticated identity of the peer: a SPIFFE id or a certificate's subject
	Certificate string // URL-encoded PEM
}

// Address is where an Endpoint is. Host and Port serve TCP; every other kind is in Other, as plain JSON by Envoy's names.
type Address struct {
	Host  string
	Port  uint32
	Other map[string]any
}

// TLSSession is what Envoy tells of the downstream TLS connection.
type TLSSession struct{ SNI string }

// Header is one header line: Name in lower case, Value as received.
type Header struct{ Name, Value string }

// Headers are a request's header lines in the order received. Names may repeat.
type Headers []Header

// Get returns the first value of the header with this lower-case name, or "".
func (h Headers) Get(name string) string {
	for i := range h {
		if h[i].Name == name {
			return h[i].Value
		}
	}
	return ""
}

// Values returns every value of the header with this lower-case name, one for each line.
func (h Headers) Values(name string) []string {
	var values []string
	for i := range h {
		if h[i].Name == name {
			values = append(values, h[i].Value)
		}
	}
	return values
}
