// Package credential finds the one credential of a request: in a header, a cookie, a query parameter or the websocket protocols. Two
// that differ, and everything that applications could read differently, are refused.
//
// It owns the syntax of these places, also for taking credentials out of what is forwarded. It is a part of package identity, whose refusals
// it imports; verifying a credential is for identity.
package credential

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gatehouse/identity/refusal"
	"gatehouse/query"
)

// Refusals that identity gives too.
var (
	ErrCookie         = refusal.Bad("credential cookie can be read in several ways")
	ErrJoined         = refusal.Bad("several credentials in one header")
	ErrTwoCredentials = refusal.Bad("different credentials on one request")
)

var (
	errRepeatedHeader = refusal.Bad("credential header is sent more than once")
	errRepeatedCookie = refusal.Bad("credential cookie is sent more than once")
	errChunks         = refusal.Bad("credential cookie is not in one piece, nor in consecutive ones")
	errProtocols      = refusal.Bad("credential in the websocket protocols is malformed")
	errRepeatedQuery  = refusal.Bad("credential parameter is sent more than once")
	errQuery          = refusal.Bad("credential parameter is malformed")
	errNotACredential = refusal.Bad("credential header is malformed")
	errEmpty          = refusal.Bad("credential is empty")
)

// Source is one place where a token may be. Exactly one of Header, Cookie, Query and WebsocketProtocol is set.
type Source struct {
	Header string // case does not matter
	Scheme string // of Header, such as Bearer; empty = the whole value is the token (for Authorization: Bearer)
	Cookie string // case matters (RFC 6265)
	Query  string // a query parameter: it ends up in logs and histories, so use it for what cannot send a header
	// WebsocketProtocol is the element of Sec-WebSocket-Protocol behind which the token stands, such as bearer; case does not matter.
	WebsocketProtocol string
	// Chunked says that the token may be spread over the cookies NAME_0, NAME_1 and so on, ten at most.
	Chunked bool
}

// Normalized is the source with its names in lower case where case does not matter, and the scheme that Authorization has without one. The
// error says what is wrong with it.
func (s Source) Normalized() (Source, error) {
	s.Header = strings.ToLower(s.Header)
	if s.Header == "authorization" && s.Scheme == "" {
		s.Scheme = "bearer"
	}
	s.Scheme = strings.ToLower(s.Scheme)
	places := 0
	for _, name := range []string{s.Header, s.Cookie, s.Query, s.WebsocketProtocol} {
		if name != "" {
			places++
		}
	}
	switch {
	case places != 1:
		return s, errors.New("exactly one of header, cookie and query is required, or websocket_protocol")
	case s.Chunked && s.Cookie == "":
		return s, errors.New("chunked: is for a cookie")
	case s.WebsocketProtocol != "" && !IsFieldToken(s.WebsocketProtocol):
		return s, fmt.Errorf("websocket_protocol %q is not the name of a protocol", s.WebsocketProtocol)
	case s.Header == "" && s.Scheme != "":
		return s, fmt.Errorf("%q: a scheme belongs to a header", s.Cookie+s.Query+s.WebsocketProtocol)
	case s.Cookie != "" && !IsFieldToken(s.Cookie):
		return s, fmt.Errorf("cookie %q is not a cookie name", s.Cookie)
	case s.Query != "" && !IsUnreserved(s.Query):
		return s, fmt.Errorf("query %q may have letters, digits and -._~ only", s.Query)
	case s.Header != "" && (!IsFieldToken(s.Header) || s.Header == "cookie"):
		return s, fmt.Errorf("header %q is not a header name for a token", s.Header)
	case s.Scheme != "" && !IsFieldToken(s.Scheme):
		return s, fmt.Errorf("scheme %q is not an authentication scheme", s.Scheme)
	}
	return s, nil
}

// HeaderName is the name of the header that holds the place, "" where none does but Cookie.
func (s Source) HeaderName() string {
	if s.WebsocketProtocol != "" {
		return WebsocketHeader
	}
	return s.Header
}

// FoldHeader is a header's name as CGI and WSGI have it, in lower case: everything but letters and digits is one and the same.
func FoldHeader(name string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
}

// InHeader reports whether these values of the place's header hold a credential that is looked for here, or something that is
// no single credential at all. Of a header with a scheme, one well-formed credential of another scheme is not ours.
func (s Source) InHeader(values []string) bool {
	raw, err := fromHeader(values, s.Scheme)
	return err != nil || raw != ""
}

// InQuery reports whether a query, as sent, has the place's parameter, in any spelling that some reader would take for it.
func (s Source) InQuery(raw string) bool {
	for name, value := range query.Pairs(raw) {
		if s.NamesQuery(name, value) {
			return true
		}
	}
	return false
}

// NamesQuery reports whether a query's parameter, as sent, is the place's in any spelling that some reader would take for it: also one
// behind a semicolon, which separates parameters for some.
func (s Source) NamesQuery(name, value string) bool {
	if s.Query == "" {
		return false
	}
	if query.Spells(name, s.Query) {
		return true
	}
	if strings.IndexByte(name, ';') < 0 && strings.IndexByte(value, ';') < 0 {
		return false
	}
	for part := range strings.SplitSeq(name+"="+value, ";") {
		if key, _, _ := strings.Cut(part, "="); query.Spells(key, s.Query) {
			return true
		}
	}
	return false
}

// InProtocols reports whether these values of Sec-WebSocket-Protocol hold the place's credential, or something malformed in its place.
func (s Source) InProtocols(lines []string) bool {
	if s.WebsocketProtocol == "" {
		return false
	}
	raw, err := fromProtocols(lines, s.WebsocketProtocol)
	return err != nil || raw != ""
}

// WithoutCookies gives a request's Cookie header, which may be on several lines (RFC 9113 section 8.2.3), without the cookies of
// these places and everything else byte for byte. It reports whether there was one of them. A cookie that some reader could take for one of
// them goes too.
func WithoutCookies(lines []string, places []Source) (rest string, found bool) {
	var kept []string
	for _, line := range lines {
		var pairs []string
		for pair := range strings.SplitSeq(line, ";") {
			if slices.ContainsFunc(places, func(s Source) bool { return s.inCookie(pair) }) {
				found = true
				continue
			}
			pairs = append(pairs, pair)
		}
		if line = strings.TrimLeft(strings.Join(pairs, ";"), " \t"); line != "" {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "; "), found
}

// inCookie reports whether a pair of a Cookie header is the place's.
func (s *Source) inCookie(pair string) bool {
	if s.Cookie == "" {
		return false
	}
	name, _, _ := strings.Cut(pair, "=")
	return s.CookiePart(strings.Trim(name, " \t")) >= 0 || s.resembles(pair)
}

// Describe names the place for people.
func (s Source) Describe() string {
	switch {
	case s.Cookie != "":
		return fmt.Sprintf("cookie %q", s.Cookie)
	case s.Query != "":
		return fmt.Sprintf("query parameter %q", s.Query)
	case s.WebsocketProtocol != "":
		return fmt.Sprintf("websocket protocol %q", s.WebsocketProtocol)
	case s.Scheme != "":
		return fmt.Sprintf("header %q with the scheme %q", s.Header, s.Scheme)
	}
	return fmt.Sprintf("header %q", s.Header)
}
