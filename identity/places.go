package identity

import (
	"cmp"
	"slices"
	"strings"

	"gatehouse/query"
)

// Places lists where credentials are looked for, names of headers in lower case. A nil Verifier looks nowhere.
func (v *Verifier) Places() []TokenSource {
	if v == nil {
		return nil
	}
	return slices.Clone(v.places)
}

// allPlaces are those of the tokens and that of the API keys.
func allPlaces(sources []TokenSource, keys APIKeys) []TokenSource {
	all := slices.Clone(sources)
	if keys.File != "" {
		place := TokenSource{Header: strings.ToLower(cmp.Or(keys.Header, "x-api-key")), Scheme: strings.ToLower(keys.Scheme)}
		if !slices.Contains(all, place) {
			all = append(all, place)
		}
	}
	return all
}

// Lookalike reports whether a header could be taken for one that credentials are looked for in, and is not that one: to WSGI "x_api_key" and
// "x-api-key" are one name. folded is the name with everything but letters and digits as "-".
func (v *Verifier) Lookalike(name, folded string) bool {
	return v != nil && (name != folded || v.oddPlaces) && v.lookalike(name, folded)
}

// lookalike is Lookalike for the few names that need a look.
func (v *Verifier) lookalike(name, folded string) bool {
	return slices.ContainsFunc(v.places, func(s TokenSource) bool {
		header := s.header()
		return header != "" && header != name && foldHeader(header) == folded
	})
}

// header is the name of the header that holds the place, "" where none does but Cookie.
func (s TokenSource) header() string {
	if s.WebsocketProtocol != "" {
		return websocketProtocol
	}
	return s.Header
}

// foldHeader is a header's name as CGI and WSGI have it, in lower case: everything but letters and digits is one and the same.
func foldHeader(name string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
}

// InHeader reports whether these values of the place's header hold a credential that is looked for here, or something that is
// no single credential at all. Of a header with a scheme, one well-formed credential of another scheme is not ours.
func (s TokenSource) InHeader(values []string) bool {
	raw, err := fromHeader(values, s.Scheme)
	return err != nil || raw != ""
}

// InQuery reports whether a query, as sent, has the place's parameter, in any spelling that some reader would take for it.
func (s TokenSource) InQuery(raw string) bool {
	for name, value := range query.Pairs(raw) {
		if s.NamesQuery(name, value) {
			return true
		}
	}
	return false
}

// NamesQuery reports whether a query's parameter, as sent, is the place's in any spelling that some reader would take for it: also one
// behind a semicolon, which separates parameters for some.
func (s TokenSource) NamesQuery(name, value string) bool {
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
func (s TokenSource) InProtocols(lines []string) bool {
	if s.WebsocketProtocol == "" {
		return false
	}
	raw, err := fromProtocols(lines, s.WebsocketProtocol)
	return err != nil || raw != ""
}

// WithoutCookies gives a request's Cookie header, which may be on several lines (RFC 9113 section 8.2.3), without the cookies of
// these places and everything else byte for byte. It reports whether there was one of them. A cookie that some reader could take for one of
// them goes too.
func WithoutCookies(lines []string, places []TokenSource) (rest string, found bool) {
	var kept []string
	for _, line := range lines {
		var pairs []string
		for pair := range strings.SplitSeq(line, ";") {
			if slices.ContainsFunc(places, func(s TokenSource) bool { return s.inCookie(pair) }) {
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
func (s *TokenSource) inCookie(pair string) bool {
	if s.Cookie == "" {
		return false
	}
	name, _, _ := strings.Cut(pair, "=")
	return s.cookiePart(strings.Trim(name, " \t")) >= 0 || s.resembles(pair)
}
