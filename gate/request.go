package gate

import (
	"gatehouse/input"
)

// The parts of a request are types of package input, so that the decision log takes them over as they are.
type (
	// Request is a request as a transport received it.
	Request = input.Request
	// Endpoint is one end of the connection that it came on.
	Endpoint = input.Endpoint
	// Address is where an Endpoint is.
	Address = input.Address
	// TLSSession is what the proxy tells of the client's TLS connection.
	TLSSession = input.TLSSession
	// Header is one header line.
	Header = input.Header
	// Headers are a request's header lines in the order received.
	Headers = input.Headers
)

// requestBytes is how much came with a request, from whatever transport.
func requestBytes(r *Request) int {
	if r.Bytes > 0 {
		return r.Bytes
	}
	n := len(r.Path) + len(r.Body)
	for i := range r.Headers {
		n += len(r.Headers[i].Name) + len(r.Headers[i].Value)
	}
	return n
}
