package identity

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
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

// InHeader reports whether these values of the place's header hold a credential that is looked for here, or something that is
// no single credential at all. Of a header with a scheme, one well-formed credential of another scheme is not ours.
func (s TokenSource) InHeader(values []string) bool {
	raw, err := fromHeader(values, s.Scheme)
	return err != nil || raw != ""
}

// InQuery reports whether a query, as sent, has the place's parameter, in any spelling that some reader would take for it.
func (s TokenSource) InQuery(raw string) bool {
	if s.Query == "" || raw == "" {
		return false
	}
	if _, err := fromQuery(raw, s.Query); err != nil {
		return true
	}
	query, _ := url.ParseQuery(raw) // what it can read, it gives
	return query.Has(s.Query)
}

// WithoutCookies gives a request's Cookie header, which may be on several lines (RFC 9113 section 8.2.3), without the cookies of
// these places and everything else byte for byte. It reports whether there was one of them. Names are compared without spaces
// around them, because applications strip these.
func WithoutCookies(lines []string, places []TokenSource) (rest string, found bool) {
	var kept []string
	for _, line := range lines {
		var pairs []string
		for pair := range strings.SplitSeq(line, ";") {
			name, _, _ := strings.Cut(pair, "=")
			name = strings.TrimSpace(name)
			if slices.ContainsFunc(places, func(s TokenSource) bool { return s.Cookie != "" && s.Cookie == name }) {
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
