// Package query reads the query of a URL as the applications behind Gatehouse do: Werkzeug, Starlette and Django all take it
// apart with Python's urllib.parse.parse_qsl. So a semicolon and a percent sign that begins no escape are data, a plus sign is
// a space, and a parameter may be spelled in many ways ("%74enant" is "tenant").
//
// The three disagree on one thing: bytes that are not UTF-8. See Parse.
package query

import (
	"errors"
	"net/url"
	"strings"
	"unicode/utf8"
)

// maxParameters bounds one query. Django takes 1000 and refuses the rest.
const maxParameters = 10_000

var errTooMany = errors.New("the query has more than 10000 parameters")

// Values are a query's parameters, decoded. Unclear are the names of those that frameworks read differently, and the names that
// are so themselves: for bytes that are not UTF-8, Starlette and Django have U+FFFD (as is given here), Werkzeug keeps the
// escape; bytes beyond ASCII that are not escaped are Latin-1 to Starlette and UTF-8 to the others.
type Values struct {
	url.Values
	Unclear []string
}

// Parse takes a query apart, without its question mark. The only error is that there are too many parameters.
func Parse(raw string) (Values, error) {
	v := Values{}
	if raw == "" {
		return v, nil
	}
	if strings.Count(raw, "&") >= maxParameters {
		return v, errTooMany
	}
	v.Values = make(url.Values)
	for name, value := range Pairs(raw) {
		name, nameAgreed := Decode(name)
		value, valueAgreed := Decode(value)
		v.Values[name] = append(v.Values[name], value)
		if !nameAgreed || !valueAgreed {
			v.Unclear = append(v.Unclear, name)
		}
	}
	return v, nil
}

// Pairs are the parameters as they were sent, in their order. One without an equals sign has an empty value; empty ones, as between
// "&&", are left out.
func Pairs(raw string) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		for rest := raw; rest != ""; {
			var pair string
			pair, rest, _ = strings.Cut(rest, "&")
			if pair == "" {
				continue
			}
			name, value, _ := strings.Cut(pair, "=")
			if !yield(name, value) {
				return
			}
		}
	}
}

// Decode is a name or value as applications see it. agreed is false where they do not agree on it.
func Decode(s string) (text string, agreed bool) {
	if isUnescaped(s) {
		return s, true
	}
	raw := unescape(s)
	return replaceInvalid(raw), isASCII(s) && utf8.ValidString(raw)
}

// isUnescaped reports whether s stands for itself.
func isUnescaped(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c == '%' || c == '+' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// unescape decodes escapes and plus signs to bytes. A percent sign without two digits stands for itself.
func unescape(s string) string {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			out = append(out, ' ')
		case c == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0:
			out = append(out, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
			i += 2
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// Spells reports whether any of the frameworks reads a name, as it was sent, as name.
func Spells(sent, name string) bool {
	if isUnescaped(sent) {
		return sent == name
	}
	raw := unescape(sent)
	if raw == name || replaceInvalid(raw) == name {
		return true
	}
	if isASCII(sent) && utf8.ValidString(raw) {
		return false
	}
	return requote(raw) == name || unescapeLatin(sent) == name
}

// replaceInvalid is bytes.decode("utf-8", "replace") of Python: one U+FFFD for each maximal part of a character that does not
// become one (Unicode 16, section 3.9.6).
func replaceInvalid(s string) string { return decodeUTF8(s, func(string) string { return "\uFFFD" }) }

// requote is Werkzeug's: what is not UTF-8 stays an escape.
func requote(s string) string {
	const digits = "0123456789ABCDEF"
	return decodeUTF8(s, func(bad string) string {
		var b strings.Builder
		for i := 0; i < len(bad); i++ {
			b.WriteByte('%')
			b.WriteByte(digits[bad[i]>>4])
			b.WriteByte(digits[bad[i]&15])
		}
		return b.String()
	})
}

func decodeUTF8(s string, bad func(string) string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && size == 1 {
			size = invalid(s)
			b.WriteString(bad(s[:size]))
		} else {
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}

// invalid is how many bytes at the beginning of s begin one character and do not finish it: at least one.
func invalid(s string) int {
	low, high, more := byte(0x80), byte(0xbf), 0
	switch c := s[0]; {
	case 0xc2 <= c && c <= 0xdf:
		more = 1
	case 0xe0 <= c && c <= 0xef:
		more = 2
	case 0xf0 <= c && c <= 0xf4:
		more = 3
	}
	switch s[0] {
	case 0xe0:
		low = 0xa0
	case 0xed:
		high = 0x9f
	case 0xf0:
		low = 0x90
	case 0xf4:
		high = 0x8f
	}
	n := 1
	for n <= more && n < len(s) && low <= s[n] && s[n] <= high {
		low, high = 0x80, 0xbf
		n++
	}
	return n
}

// unescapeLatin is Starlette's reading of bytes that were not escaped: each is a character of Latin-1. Escapes are UTF-8.
func unescapeLatin(s string) string {
	var b, ascii strings.Builder
	flush := func() {
		b.WriteString(replaceInvalid(unescape(ascii.String())))
		ascii.Reset()
	}
	for i := 0; i < len(s); i++ {
		if s[i] < utf8.RuneSelf {
			ascii.WriteByte(s[i])
			continue
		}
		flush()
		b.WriteRune(rune(s[i]))
	}
	flush()
	return b.String()
}

// Escape writes a name or value so that every reader decodes it to s, and nothing in it ends a parameter or the query: all but
// the unreserved characters (RFC 3986 section 2.3) is escaped.
func Escape(s string) string {
	const digits = "0123456789ABCDEF"
	n := 0
	for i := 0; i < len(s); i++ {
		if !unreserved(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	out := make([]byte, 0, len(s)+2*n)
	for i := 0; i < len(s); i++ {
		if c := s[i]; unreserved(c) {
			out = append(out, c)
		} else {
			out = append(out, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(out)
}

// Bare reports whether a name or value has only what Envoy's validate_mutations takes in a parameter that is set: fewer characters than stand
// for themselves in a query, and no escapes.
func Bare(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c == '~' || !unreserved(c) {
			return false
		}
	}
	return true
}

// EscapeRest is Escape for what may be escaped already, as policies for opa-envoy-plugin have to: escapes and plus signs stay.
func EscapeRest(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+', c == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0:
			b.WriteByte(c)
		default:
			b.WriteString(Escape(s[i : i+1]))
		}
	}
	return b.String()
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}
