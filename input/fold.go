package input

import "strings"

// folded are the bytes that Fold leaves as they are: every name is looked through, and most are clean.
var folded = func() (set [256]bool) {
	for c := range set {
		set[c] = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-'
	}
	return set
}()

// Fold gives the name under which an application may see a header: WSGI and CGI turn every byte that is no letter or
// digit into an underscore, so "x_auth-subject" and "X-Auth-Subject" are one name to a Flask app.
func Fold(name string) string {
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
