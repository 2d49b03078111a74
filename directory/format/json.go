package format

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds of parsing. The directory has stricter ones; these limit memory before that.
const (
	maxRecord = 2 << 20 // bytes of one object or relation as text
	maxNested = 64      // objects and arrays within properties
	fewKeys   = 24      // of an object; more are looked up in a map
)

// syntaxError is a parse error with its byte offset.
type syntaxError struct {
	at   int
	what string
}

// jsonReader parses one text. It is strict: valid UTF-8 also in escapes, no NUL, no duplicate names in an object. A
// value's source is kept without white space, so that numbers keep their notation.
type jsonReader struct {
	s    string
	i    int
	err  *syntaxError
	keys []string // of the open objects, concatenated

	compact []byte // copy of the kept value, up to from; used where there was white space
	from    int
}

func (r *jsonReader) reset(s string) { *r = jsonReader{s: s, keys: r.keys[:0], compact: r.compact[:0]} }

func (r *jsonReader) fail(at int, format string, args ...any) bool {
	if r.err == nil {
		r.err = &syntaxError{at, fmt.Sprintf(format, args...)}
	}
	return false
}

func (r *jsonReader) unexpected(want string) bool {
	if r.i >= len(r.s) {
		return r.fail(len(r.s), "the JSON ends before it is complete (want %s)", want)
	}
	c, _ := utf8.DecodeRuneInString(r.s[r.i:])
	return r.fail(r.i, "not valid JSON: %q where %s should be", c, want)
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func (r *jsonReader) space() {
	for r.i < len(r.s) && isSpace(r.s[r.i]) {
		r.i++
	}
}

// gap skips white space within a kept value.
func (r *jsonReader) gap() {
	if r.i < len(r.s) && isSpace(r.s[r.i]) {
		r.compact = append(r.compact, r.s[r.from:r.i]...)
		r.space()
		r.from = r.i
	}
}

func (r *jsonReader) skip(c byte) bool {
	if r.i < len(r.s) && r.s[r.i] == c {
		r.i++
		return true
	}
	return false
}

func (r *jsonReader) peek() byte {
	if r.i < len(r.s) {
		return r.s[r.i]
	}
	return 0
}

// null consumes null, if it is next.
func (r *jsonReader) null() bool {
	if strings.HasPrefix(r.s[r.i:], "null") {
		r.i += len("null")
		return true
	}
	return false
}

// source parses a value and returns its source without white space. Valid until the next call.
func (r *jsonReader) source() (string, bool) {
	start := r.i
	r.compact, r.from = r.compact[:0], start
	if !r.value(0) {
		return "", false
	}
	if len(r.compact) == 0 {
		return r.s[start:r.i], true
	}
	r.compact = append(r.compact, r.s[r.from:r.i]...)
	return string(r.compact), true
}

func (r *jsonReader) value(depth int) bool {
	if depth > maxNested {
		return r.fail(r.i, "nested more than %d deep", maxNested)
	}
	switch c := r.peek(); {
	case c == '{':
		return r.object(depth)
	case c == '[':
		return r.array(depth)
	case c == '"':
		_, ok := r.str()
		return ok
	case c == '-' || c >= '0' && c <= '9':
		return r.number()
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if strings.HasPrefix(r.s[r.i:], word) {
			r.i += len(word)
			return true
		}
	}
	return r.unexpected("a value")
}

func (r *jsonReader) object(depth int) bool {
	base := len(r.keys)
	defer func() { r.keys = r.keys[:base] }()
	var many map[string]bool
	r.i++
	if r.gap(); r.skip('}') {
		return true
	}
	for {
		at := r.i
		if r.peek() != '"' {
			return r.unexpected("a name in quotes")
		}
		key, ok := r.str()
		if !ok {
			return false
		}
		if !addKey(&r.keys, base, &many, key) {
			return r.fail(at, "%q is there twice in one object: which of them counts is not defined; remove one", clip(key))
		}
		if r.gap(); !r.skip(':') {
			return r.unexpected(`":"`)
		}
		if r.gap(); !r.value(depth + 1) {
			return false
		}
		if r.gap(); r.skip('}') {
			return true
		}
		if !r.skip(',') {
			return r.unexpected(`"," or "}"`)
		}
		r.gap()
	}
}

// addKey adds a key to the object whose keys begin at base. It reports whether the key is new.
func addKey(keys *[]string, base int, many *map[string]bool, key string) bool {
	if *many != nil {
		if (*many)[key] {
			return false
		}
		(*many)[key] = true
		return true
	}
	for _, k := range (*keys)[base:] {
		if k == key {
			return false
		}
	}
	if *keys = append(*keys, key); len(*keys)-base > fewKeys {
		*many = map[string]bool{}
		for _, k := range (*keys)[base:] {
			(*many)[k] = true
		}
	}
	return true
}

func (r *jsonReader) array(depth int) bool {
	r.i++
	if r.gap(); r.skip(']') {
		return true
	}
	for {
		if !r.value(depth + 1) {
			return false
		}
		if r.gap(); r.skip(']') {
			return true
		}
		if !r.skip(',') {
			return r.unexpected(`"," or "]"`)
		}
		r.gap()
	}
}

func (r *jsonReader) number() bool {
	r.skip('-')
	if !r.skip('0') && !r.digits() {
		return r.unexpected("a digit")
	}
	if r.skip('.') && !r.digits() {
		return r.unexpected("a digit")
	}
	if c := r.peek(); c == 'e' || c == 'E' {
		r.i++
		if !r.skip('+') {
			r.skip('-')
		}
		if !r.digits() {
			return r.unexpected("a digit")
		}
	}
	return true
}

func (r *jsonReader) digits() bool {
	from := r.i
	for r.i < len(r.s) && r.s[r.i] >= '0' && r.s[r.i] <= '9' {
		r.i++
	}
	return r.i > from
}

// str parses a string and returns its value.
func (r *jsonReader) str() (string, bool) {
	start := r.i + 1
	for i := start; i < len(r.s); i++ {
		switch c := r.s[i]; {
		case c == '"':
			r.i = i + 1
			return r.s[start:i], true
		case c == '\\':
			return r.escaped(start, i)
		case c < ' ':
			r.i = i
			return "", r.fail(i, "not valid JSON: the control character 0x%02x in a string; write it as an escape, or remove it", c)
		}
	}
	r.i = len(r.s)
	return "", r.unexpected("the end of a string")
}

// escaped parses a string from its first escape on.
func (r *jsonReader) escaped(start, i int) (string, bool) {
	out := append(make([]byte, 0, i-start+32), r.s[start:i]...)
	for r.i = i; r.i < len(r.s); {
		switch c := r.s[r.i]; {
		case c == '"':
			r.i++
			return string(out), true
		case c < ' ':
			return "", r.fail(r.i, "not valid JSON: the control character 0x%02x in a string; write it as an escape, or remove it", c)
		case c != '\\':
			out = append(out, c)
			r.i++
		default:
			var ok bool
			if out, ok = r.escape(out); !ok {
				return "", false
			}
		}
	}
	return "", r.unexpected("the end of a string")
}

func (r *jsonReader) escape(out []byte) ([]byte, bool) {
	at := r.i
	if r.i+1 >= len(r.s) {
		r.i = len(r.s)
		return nil, r.unexpected("the end of a string")
	}
	c := r.s[r.i+1]
	r.i += 2
	if c != 'u' {
		p := strings.IndexByte(`"\/bfnrt`, c)
		if p < 0 {
			return nil, r.fail(at, `not valid JSON: the escape \%c does not exist`, c)
		}
		return append(out, "\"\\/\b\f\n\r\t"[p]), true
	}
	code, ok := r.hex(r.i)
	if !ok {
		return nil, r.fail(at, `not valid JSON: \u without four hexadecimal digits`)
	}
	r.i += 4
	switch {
	case code == 0:
		return nil, r.fail(at, `a NUL (\u0000): no text of a directory may have one; remove it`)
	case utf16.IsSurrogate(code):
		low, ok := rune(0), false
		if strings.HasPrefix(r.s[r.i:], `\u`) {
			low, ok = r.hex(r.i + 2)
		}
		pair := utf16.DecodeRune(code, low)
		if !ok || pair == utf8.RuneError {
			return nil, r.fail(at, `not valid Unicode: \u%04x is half a surrogate pair`, code)
		}
		r.i += 6
		return utf8.AppendRune(out, pair), true
	}
	return utf8.AppendRune(out, code), true
}

func (r *jsonReader) hex(at int) (rune, bool) {
	if at+4 > len(r.s) {
		return 0, false
	}
	n := rune(0)
	for _, c := range []byte(r.s[at : at+4]) {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			n = n<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return n, true
}
