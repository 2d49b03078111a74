package trial

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"

	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/nearest"
	"gatehouse/routes"
)

// Request is a request to try. Header names are in lower case.
type Request struct {
	Method, Path, Host string
	Headers            gate.Headers
	Body               string
	As                 *identity.Identity // who asks, without a credential; nil: the headers say it
}

// Typed reports whether the body says what it is. One that does not is taken for JSON.
func (a *Request) Typed() bool { return a.Body == "" || a.Headers.Get("content-type") != "" }

// Gate is what Envoy would hand over for the request.
func (a *Request) Gate() *gate.Request {
	host := a.Host
	if host == "" {
		host = "localhost"
	}
	method := a.Method
	if method == routes.WebSocket { // as a route table has it
		method = http.MethodGet
	}
	headers := gate.Headers{{Name: ":authority", Value: host}, {Name: ":method", Value: method}, {Name: ":path", Value: a.Path}, {Name: ":scheme", Value: "http"}}
	if method != a.Method {
		headers = append(headers, gate.Header{Name: "connection", Value: "Upgrade"}, gate.Header{Name: "upgrade", Value: "websocket"})
	}
	headers = append(headers, a.Headers...)
	if !a.Typed() {
		headers = append(headers, gate.Header{Name: "content-type", Value: "application/json"})
	}
	if a.Body != "" && headers.Get("content-length") == "" {
		headers = append(headers, gate.Header{Name: "content-length", Value: strconv.Itoa(len(a.Body))})
	}
	return &gate.Request{Method: method, Path: a.Path, Host: host, Scheme: "http", Protocol: "HTTP/1.1", Size: int64(len(a.Body)),
		Headers: headers, Body: a.Body, Time: time.Now(), As: a.As, Bytes: len(a.Body)}
}

// ClientReason is the reason that a denial's client reads, "" where the body is not one of ours.
func ClientReason(a *gate.Answer) string {
	var problem struct{ Reason string }
	if a.Allow || json.Unmarshal([]byte(a.Body), &problem) != nil {
		return ""
	}
	return problem.Reason
}

// methods are the usual ones: RFC 9110, RFC 5789, WebDAV and the like.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "PROPFIND", "PROPPATCH", "MKCOL", "COPY",
	"MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH", "PURGE", "LINK", "UNLINK"}

var methodName = regexp.MustCompile(`^[A-Z][A-Z-]{0,63}$`)

// IsMethod reports whether a word can stand for a method: a usual one, or one of an application's own. What is almost a
// usual one, which meant says, is a slip: a test that DELTE is denied would always pass.
func IsMethod(word string) (meant string, ok bool) {
	if slices.Contains(methods, word) {
		return "", true
	}
	if near := nearest.Word(word, methods, 3); near != "" {
		return near, false
	}
	return "", methodName.MatchString(word)
}
