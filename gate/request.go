package gate

import (
	"strings"

	"gatehouse/input"
)

// What a request is made of, in package input: the decision log takes it over as it is.
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

// folded are the bytes that fold leaves as they are: every name is looked through, and most are clean.
var folded = func() (set [256]bool) {
	for c := range set {
		set[c] = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-'
	}
	return set
}()

// fold gives the name under which an application may see a header: WSGI and CGI turn every byte that is no letter or
// digit into an underscore, so "x_auth-subject" and "X-Auth-Subject" are one name to a Flask app.
func fold(name string) string {
	i := 0
	for i < len(name) && folded[name[i]] {
		i++
	}
	if i == len(name) {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		default:
			return '-'
		}
	}, name)
}
