package gate

import (
	"gatehouse/input"
)

// Request and the types below are what a request is made of, in package input: the decision log takes it over as it is.
type (
	Request    = input.Request
	Endpoint   = input.Endpoint
	Address    = input.Address
	TLSSession = input.TLSSession
	Header     = input.Header
	Headers    = input.Headers
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
