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
	if IsFolded(name) {
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

// IsFolded reports whether Fold leaves a name as it is. It looks at eight bytes at a time: taking one away from a byte with its high bit set
// leaves that bit where the byte is not less, and no other byte loses any.
func IsFolded(name string) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	if len(name) < 8 {
		for i := range len(name) {
			if !folded[name[i]] {
				return false
			}
		}
		return true
	}
	for i := 0; ; i += 8 {
		i = min(i, len(name)-8) // the last eight may overlap those before
		b := name[i:]
		w := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		h := w | highs
		in := (h-'a'*ones)&^(h-('z'+1)*ones) | (h-'0'*ones)&^(h-('9'+1)*ones) | (h-'-'*ones)&^(h-('-'+1)*ones)
		if in&highs&^w != highs {
			return false
		}
		if i == len(name)-8 {
			return true
		}
	}
}
