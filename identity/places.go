package identity

import (
	"cmp"
	"slices"
	"strings"

	"gatehouse/identity/credential"
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
		header := s.HeaderName()
		return header != "" && header != name && credential.FoldHeader(header) == folded
	})
}
