package gate

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// Refusal names one form of a path that proxies, servers and frameworks read differently, so that a policy may decide
// about another resource than the one the application serves. Each is refused unless paths.allow names it.
type Refusal string

// The refusals. RFC 3986 sections 2.1, 3.3 and 6.2.2 leave these forms to each implementation.
const (
	DotSegments      Refusal = "dot_segments"      // a segment "." or "..", also when written %2e
	DoubleSlash      Refusal = "double_slash"      // an empty segment before the last
	EncodedSlash     Refusal = "encoded_slash"     // %2f
	Backslash        Refusal = "backslash"         // "\", or %5c
	ControlBytes     Refusal = "control_bytes"     // bytes below 0x20 and 0x7f, raw or encoded: NUL among them
	BadEscape        Refusal = "bad_escape"        // % without two hex digits behind it
	DoubleEncoding   Refusal = "double_encoding"   // decodes to another percent escape, as %252f does
	InvalidUTF8      Refusal = "invalid_utf8"      // not UTF-8 after decoding; overlong forms are not UTF-8
	Fragment         Refusal = "fragment"          // a raw "#", which never belongs on the wire
	NotAbsolute      Refusal = "not_absolute"      // does not begin with "/" ("*" of OPTIONS aside)
	EncodedQuestion  Refusal = "encoded_question"  // %3f: a path to one reader, a query to the next
	EncodedSemicolon Refusal = "encoded_semicolon" // %3b
)

var refusals = []Refusal{DotSegments, DoubleSlash, EncodedSlash, Backslash, ControlBytes, BadEscape, DoubleEncoding,
	InvalidUTF8, Fragment, NotAbsolute, EncodedQuestion, EncodedSemicolon}

// PathRules say which path forms get to the policy.
type PathRules struct {
	// Compat turns every refusal off, for policies that rely on opa-envoy-plugin's reading.
	Compat bool
	// Allow lists the refusals that are turned off one by one.
	Allow []Refusal
}

func (p PathRules) validate() error {
	var errs []error
	for _, name := range p.Allow {
		if !slices.Contains(refusals, name) {
			errs = append(errs, fmt.Errorf("paths.allow: unknown refusal %q: one of %v", name, refusals))
		}
	}
	return errors.Join(errs...)
}

func (p PathRules) allows(r Refusal) bool { return p.Compat || slices.Contains(p.Allow, r) }

// target is a request's path and query taken apart once, as contract's parsed_path and parsed_query.
type target struct {
	raw      string // the path as on the wire, without the query
	decoded  string
	segments []string
	rawQuery string
	query    url.Values
}

var errEscape = errors.New("a percent sign is not followed by two hexadecimal digits")

// parseTarget reads the path of a request line. A path that two readers could understand differently is refused; the
// error names the refusal, for the log.
func parseTarget(path string, rules PathRules) (target, error) {
	var t target
	t.raw, t.rawQuery, _ = strings.Cut(path, "?")
	if name := refuse(t.raw, rules); name != "" {
		return t, fmt.Errorf("path refused: %s (paths.allow: [%s] lets it through)", name, name)
	}
	var err error
	if t.decoded, err = unescape(t.raw); err != nil {
		return t, err
	}
	t.segments = strings.Split(strings.TrimLeft(t.decoded, "/"), "/")
	if t.rawQuery != "" {
		if t.query, err = url.ParseQuery(t.rawQuery); err != nil {
			return t, errors.New("malformed query")
		}
	}
	return t, nil
}

func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 {
		return s, nil
	}
	u, err := url.PathUnescape(s)
	if err != nil {
		return "", errEscape
	}
	return u, nil
}

// refuse returns the first refusal that applies to a raw path, or "".
func refuse(raw string, rules PathRules) Refusal {
	if rules.Compat {
		return ""
	}
	if !strings.HasPrefix(raw, "/") && raw != "*" && raw != "" && !rules.allows(NotAbsolute) {
		return NotAbsolute
	}
	plain := true
	for i := 0; i < len(raw); i++ {
		if !plainByte[raw[i]] {
			plain = false
			break
		}
	}
	if !plain {
		if name := refuseBytes(raw, rules); name != "" {
			return name
		}
	}
	return refuseSegments(raw, rules)
}

// plainByte marks the bytes that no refusal but the segment ones can be about.
var plainByte = func() (t [256]bool) {
	for c := 0x21; c < 0x7f; c++ {
		t[c] = !strings.ContainsRune(`%\#`, rune(c))
	}
	return t
}()

func refuseBytes(raw string, rules PathRules) Refusal {
	decoded := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c, escaped := raw[i], false
		if c == '%' {
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				if rules.allows(BadEscape) {
					decoded = append(decoded, c)
					continue
				}
				return BadEscape
			}
			c, escaped = unhex(raw[i+1])<<4|unhex(raw[i+2]), true
			i += 2
		}
		if name := refuseByte(c, escaped); name != "" && !rules.allows(name) {
			return name
		}
		decoded = append(decoded, c)
	}
	if !utf8.Valid(decoded) && !rules.allows(InvalidUTF8) {
		return InvalidUTF8
	}
	if hasEscape(decoded) && !rules.allows(DoubleEncoding) {
		return DoubleEncoding
	}
	return ""
}

func refuseByte(c byte, escaped bool) Refusal {
	switch {
	case c < 0x20 || c == 0x7f:
		return ControlBytes
	case c == '\\':
		return Backslash
	case c == '#' && !escaped:
		return Fragment
	case c == '/' && escaped:
		return EncodedSlash
	case c == '?' && escaped:
		return EncodedQuestion
	case c == ';' && escaped:
		return EncodedSemicolon
	}
	return ""
}

// hasEscape reports whether what is already decoded holds another percent escape: a second decoder down the line would
// see another path than we did.
func hasEscape(decoded []byte) bool {
	for i := 0; i+2 < len(decoded); i++ {
		if decoded[i] == '%' && isHex(decoded[i+1]) && isHex(decoded[i+2]) {
			return true
		}
	}
	return false
}

func refuseSegments(raw string, rules PathRules) Refusal {
	rest, more := strings.TrimPrefix(raw, "/"), true
	var segment string
	for more {
		segment, rest, more = strings.Cut(rest, "/")
		if segment == "" && more && !rules.allows(DoubleSlash) {
			return DoubleSlash
		}
		if isDots(segment) && !rules.allows(DotSegments) {
			return DotSegments
		}
	}
	return ""
}

// isDots reports whether a segment is "." or "..", with any of the dots escaped, also in front of ";": some servers cut
// path parameters off before they resolve dots.
func isDots(segment string) bool {
	segment, _, _ = strings.Cut(segment, ";")
	n := 0
	for segment != "" {
		switch {
		case segment[0] == '.':
			segment = segment[1:]
		case len(segment) >= 3 && strings.EqualFold(segment[:3], "%2e"):
			segment = segment[3:]
		default:
			return false
		}
		if n++; n > 2 {
			return false
		}
	}
	return n > 0
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	default:
		return c - 'a' + 10
	}
}
