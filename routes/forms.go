package routes

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Forms is a set of path spellings that proxies, servers and frameworks read differently. A path with one is Refused
// unless the form is allowed, on the table (Allowing) or on the matched route (allow: in routes.yaml).
type Forms uint16

// The forms, as listed in contract.md, section "Paths". Configuration uses the same names (paths.allow in
// gatehouse.yaml, allow: in routes.yaml).
const (
	DotSegments      Forms = 1 << iota // a segment "." or "..", also encoded, also before ";" and between backslashes
	DoubleSlash                        // "//"
	EncodedSlash                       // "%2F"
	Backslash                          // "\" or "%5C"
	ControlBytes                       // a byte below 0x20 or 0x7F, encoded or not
	BadEscape                          // "%" without two hexadecimal digits after it
	DoubleEncoding                     // decodes to another escape: "%252F"
	InvalidUTF8                        // not UTF-8 after decoding
	Fragment                           // an unencoded "#": some servers cut there
	NotAbsolute                        // does not begin with "/" (except the empty path, and "*" of OPTIONS)
	EncodedQuestion                    // "%3F": path or query, depending on the parser
	EncodedSemicolon                   // "%3B"
	formsEnd
	allForms = formsEnd - 1
)

var formNames = [...]string{
	"dot_segments", "double_slash", "encoded_slash", "backslash", "control_bytes", "bad_escape", "double_encoding",
	"invalid_utf8", "fragment", "not_absolute", "encoded_question", "encoded_semicolon",
}

// AllForms is every form: the effect of `paths: {compat: true}`.
func AllForms() Forms { return allForms }

// Names returns the configuration names of the forms, in a fixed order.
func (f Forms) Names() []string {
	var names []string
	for i, name := range formNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// String joins the names with commas.
func (f Forms) String() string { return strings.Join(f.Names(), ",") }

// ParseForms is the inverse of Names. The error for an unknown name suggests the nearest known one.
func ParseForms(names []string) (Forms, error) {
	var f Forms
	for _, name := range names {
		i := slices.Index(formNames[:], name)
		if i < 0 {
			return 0, fmt.Errorf("unknown path form %q%s", name, didYouMean(name, formNames[:]))
		}
		f |= 1 << i
	}
	return f, nil
}

// Bytes that FormsOf has to examine.
const (
	classSlash = iota + 1
	classDot
	classPercent
	classBackslash
	classControl
	classHash
	classHigh
)

var byteClass = func() (class [256]uint8) {
	for b := range class {
		switch {
		case b == '/':
			class[b] = classSlash
		case b == '.':
			class[b] = classDot
		case b == '%':
			class[b] = classPercent
		case b == '\\':
			class[b] = classBackslash
		case b == '#':
			class[b] = classHash
		case b < 0x20 || b == 0x7f:
			class[b] = classControl
		case b > 0x7f:
			class[b] = classHigh
		}
	}
	return class
}()

// FormsOf detects the ambiguous forms in path: a request target as sent, cut before the first "?". It makes one pass,
// and allocates only where there is an escape.
func FormsOf(path string) Forms {
	var f Forms
	if path != "" && path != "*" && path[0] != '/' {
		f |= NotAbsolute
	}
	look := false // the decoded path must be examined too
	for i := 0; i < len(path); i++ {
		switch byteClass[path[i]] {
		case classSlash:
			if i > 0 && path[i-1] == '/' {
				f |= DoubleSlash
			}
		case classDot:
			look = look || i == 0 || path[i-1] == '/' || path[i-1] == '\\'
		case classPercent:
			look = true
			f |= formsOfEscape(path[i:])
		case classBackslash:
			f |= Backslash
		case classControl:
			f |= ControlBytes
		case classHash:
			f |= Fragment
		case classHigh:
			look = true
		}
	}
	if !look {
		return f
	}
	return f | formsOfDecoded(unescape(path))
}

// formsOfEscape examines one escape; s starts at its "%".
func formsOfEscape(s string) Forms {
	b, ok := escapedByte(s)
	switch {
	case !ok:
		return BadEscape
	case b == '/':
		return EncodedSlash
	case b == '\\':
		return Backslash
	case b == '?':
		return EncodedQuestion
	case b == ';':
		return EncodedSemicolon
	case b < 0x20 || b == 0x7f:
		return ControlBytes
	}
	return 0
}

// formsOfDecoded detects forms that are visible only after decoding.
func formsOfDecoded(path string) Forms {
	var f Forms
	if !utf8.ValidString(path) {
		f |= InvalidUTF8
	}
	for i, start := 0, 0; i <= len(path); i++ {
		if i < len(path) && path[i] == '%' {
			if _, ok := escapedByte(path[i:]); ok {
				f |= DoubleEncoding
			}
		}
		if i < len(path) && path[i] != '/' && path[i] != '\\' {
			continue
		}
		segment, _, _ := strings.Cut(path[start:i], ";")
		if segment == "." || segment == ".." {
			f |= DotSegments
		}
		start = i + 1
	}
	return f
}
