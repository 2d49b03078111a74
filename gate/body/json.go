package body

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"gatehouse/policy/rego"
)

// maxNesting bounds the depth of arrays and objects.
const maxNesting = 500

// parseJSON parses one value of RFC 8259. encoding/json accepts more than Python does, and repairs it: invalid UTF-8
// and lone surrogates become U+FFFD, so that two members become one. Here they are errors, as are numbers that
// overflow or underflow a float. Of duplicate members the last counts, as in Python.
//
// In a lossy text an exclamation mark may have been any byte: in a member name it is an error, because distinct names
// could look the same.
func parseJSON(text string, lossy bool) (rego.Value, error) {
	if !utf8.ValidString(text) {
		return rego.Null(), withReason(errBodyJSON, "it is not UTF-8")
	}
	r := jsonReader{rest: text, lossy: lossy}
	r.space()
	v, err := r.value(0)
	if err != nil {
		return rego.Null(), err
	}
	if r.space(); r.rest != "" {
		return rego.Null(), withReason(errBodyJSON, "it goes on after the first value")
	}
	return v, nil
}

// jsonReader consumes rest from the front.
type jsonReader struct {
	rest  string
	lossy bool
}

func (r *jsonReader) space() { r.rest = strings.TrimLeft(r.rest, " \t\r\n") }

// take consumes a byte and the space behind it, if it is next.
func (r *jsonReader) take(c byte) bool {
	if r.rest == "" || r.rest[0] != c {
		return false
	}
	r.rest = r.rest[1:]
	r.space()
	return true
}

func (r *jsonReader) value(depth int) (rego.Value, error) {
	if depth > maxNesting {
		return nil, withReason(errBodyJSON, "it is nested too deeply")
	}
	if r.rest == "" {
		return nil, errBodyJSON
	}
	switch r.rest[0] {
	case '{':
		return r.object(depth)
	case '[':
		return r.array(depth)
	case '"':
		s, err := r.string()
		return rego.String(s), err
	case 't':
		return r.literal("true", rego.Bool(true))
	case 'f':
		return r.literal("false", rego.Bool(false))
	case 'n':
		return r.literal("null", rego.Null())
	}
	return r.number()
}

func (r *jsonReader) literal(name string, v rego.Value) (rego.Value, error) {
	rest, found := strings.CutPrefix(r.rest, name)
	if !found {
		return nil, errBodyJSON
	}
	r.rest = rest
	return v, nil
}

func (r *jsonReader) object(depth int) (rego.Value, error) {
	var members []rego.Member
	r.take('{')
	if r.take('}') {
		return rego.Object(), nil
	}
	for {
		key, err := r.string()
		if err != nil {
			return nil, err
		}
		if r.lossy && strings.IndexByte(key, '!') >= 0 {
			return nil, errBodyText
		}
		if r.space(); !r.take(':') {
			return nil, errBodyJSON
		}
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		members = append(members, rego.Member{Key: key, Value: v})
		if r.space(); r.take(',') {
			continue
		}
		if !r.take('}') {
			return nil, errBodyJSON
		}
		return rego.Object(members...), nil
	}
}

func (r *jsonReader) array(depth int) (rego.Value, error) {
	var list []rego.Value
	r.take('[')
	if r.take(']') {
		return rego.Array(), nil
	}
	for {
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		if r.space(); r.take(',') {
			continue
		}
		if !r.take(']') {
			return nil, errBodyJSON
		}
		return rego.Array(list...), nil
	}
}

// string parses a string. One without escapes shares the body's memory.
func (r *jsonReader) string() (string, error) {
	if r.rest == "" || r.rest[0] != '"' {
		return "", errBodyJSON
	}
	for i := 1; i < len(r.rest); i++ {
		switch c := r.rest[i]; {
		case c == '"':
			s := r.rest[1:i]
			r.rest = r.rest[i+1:]
			return s, nil
		case c == '\\':
			return r.escaped(i)
		case c < 0x20:
			return "", errBodyJSON
		}
	}
	return "", errBodyJSON
}

// escaped parses a string whose first escape is at i.
func (r *jsonReader) escaped(i int) (string, error) {
	out := append(make([]byte, 0, 2*i), r.rest[1:i]...)
	for s := r.rest; i < len(s); {
		switch c := s[i]; {
		case c == '"':
			r.rest = s[i+1:]
			return string(out), nil
		case c < 0x20:
			return "", errBodyJSON
		case c != '\\':
			out = append(out, c)
			i++
		default:
			char, n := unescape(s[i:])
			if n == 0 {
				return "", withReason(errBodyJSON, "a string has an escape that is none, or half of a surrogate pair")
			}
			out = utf8.AppendRune(out, char)
			i += n
		}
	}
	return "", errBodyJSON
}

// unescape decodes the escape at the front of s and returns its length, 0 where it is invalid or half of a surrogate
// pair.
func unescape(s string) (char rune, n int) {
	if len(s) < 2 {
		return 0, 0
	}
	if at := strings.IndexByte(`"\/bfnrt`, s[1]); at >= 0 {
		return rune("\"\\/\b\f\n\r\t"[at]), 2
	}
	char, ok := hex4(s)
	switch {
	case !ok:
		return 0, 0
	case !utf16.IsSurrogate(char):
		return char, 6
	}
	low, ok := hex4(s[6:])
	if char = utf16.DecodeRune(char, low); !ok || char == utf8.RuneError {
		return 0, 0
	}
	return char, 12
}

// hex4 parses \u and four digits.
func hex4(s string) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[2:6], 16, 16) // base 16 accepts digits only
	return rune(n), err == nil
}

func (r *jsonReader) number() (rego.Value, error) {
	end := 0
	for end < len(r.rest) && strings.IndexByte("0123456789+-.eE", r.rest[end]) >= 0 {
		end++
	}
	text := r.rest[:end]
	r.rest = r.rest[end:]
	v, err := rego.FromJSON(json.Number(text)) // checks the grammar
	switch {
	case err != nil:
		return nil, errBodyJSON
	case !inRange(text):
		return nil, withReason(errBodyJSON, "a number is beyond the range of a float")
	}
	return v, nil
}

// inRange reports whether a float holds a number without overflow to infinity or underflow to zero. Python's integers
// have no limit.
func inRange(text string) bool {
	mantissa := text
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		mantissa = text[:i]
	} else if strings.IndexByte(text, '.') < 0 {
		return true
	}
	f, _ := strconv.ParseFloat(text, 64) // a range error shows in the value
	return !math.IsInf(f, 0) && (f != 0 || strings.Trim(mantissa, "-0.") == "")
}
