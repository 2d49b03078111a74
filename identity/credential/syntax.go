package credential

import "strings"

// IsUnreserved reports whether s consists of characters that stand for themselves in a query (RFC 3986 section 2.3).
func IsUnreserved(s string) bool {
	reserved := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._~", r)
	}
	return s != "" && !strings.ContainsFunc(s, reserved)
}

// IsFieldToken reports whether s is a token of RFC 9110 section 5.6.2.
func IsFieldToken(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alphanumeric && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// ClosingQuote finds the quote that ends a quoted value. A backslash takes the character behind it along.
func ClosingQuote(text string) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

// IsControl reports whether a character is an ASCII control character.
func IsControl(r rune) bool { return r < ' ' || r == 0x7f }
