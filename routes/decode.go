package routes

import (
	"strings"
	"unicode/utf8"
)

// The path that a server passes to the framework. All three Python servers decode the complete path, so "%2F" becomes "/"
// before matching, and an invalid escape stays (urllib.parse.unquote).
//
// The three ways differ only in bytes that are not UTF-8:
//   - gunicorn passes them through PEP 3333's latin-1 strings, and Werkzeug decodes with errors=replace;
//   - uvicorn decodes with errors=replace before the scope is made: the same result;
//   - Django under WSGI puts such bytes back into escapes (RFC 3987 3.2).

// decodePath decodes percent-encoding and returns valid UTF-8. It allocates only where something changes.
func decodePath(path string, repercent bool) string {
	plain := true
	for i := 0; i < len(path) && plain; i++ {
		plain = path[i] != '%' && path[i] < utf8.RuneSelf
	}
	if plain {
		return path
	}
	path = unescape(path)
	if utf8.ValidString(path) {
		return path
	}
	return replaceInvalid(path, repercent)
}

// unescape replaces "%XX" by its byte; other "%" stay.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if b, ok := escapedByte(s[i:]); ok {
			out = append(out, b)
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

func escapedByte(s string) (b byte, ok bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	hi, ok1 := unhex(s[1])
	lo, ok2 := unhex(s[2])
	return hi<<4 | lo, ok1 && ok2
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// replaceInvalid replaces each ill-formed sequence as delimited by Python's decoder (the maximal subpart, Unicode
// table 3-7; Go's range loop would go byte by byte): by U+FFFD, or by upper-case escapes.
func replaceInvalid(s string, repercent bool) string {
	const hex = "0123456789ABCDEF"
	var out strings.Builder
	for len(s) > 0 {
		if r, n := utf8.DecodeRuneInString(s); r != utf8.RuneError || n > 1 {
			out.WriteString(s[:n])
			s = s[n:]
			continue
		}
		n := illFormed(s)
		if !repercent {
			out.WriteString("\uFFFD")
		} else {
			for i := range n {
				out.Write([]byte{'%', hex[s[i]>>4], hex[s[i]&15]})
			}
		}
		s = s[n:]
	}
	return out.String()
}

// illFormed is the length of the ill-formed sequence at the start of s: the longest prefix of a well-formed one, at
// least one byte.
func illFormed(s string) int {
	length, low, high := 0, byte(0x80), byte(0xBF)
	switch b := s[0]; {
	case 0xC2 <= b && b <= 0xDF:
		length = 2
	case b == 0xE0:
		length, low = 3, 0xA0
	case b == 0xED:
		length, high = 3, 0x9F
	case 0xE1 <= b && b <= 0xEF:
		length = 3
	case b == 0xF0:
		length, low = 4, 0x90
	case 0xF1 <= b && b <= 0xF3:
		length = 4
	case b == 0xF4:
		length, high = 4, 0x8F
	}
	n := 1
	for n < length && n < len(s) && low <= s[n] && s[n] <= high {
		n, low, high = n+1, 0x80, 0xBF
	}
	return n
}
