// Package strictjson reads JSON objects that no two readers understand differently: no name twice, valid UTF-8, bounded depth and numbers.
// Tokens, key sets and the answers of identity providers come through it. It imports nothing of ours.
package strictjson

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth bounds how deep objects and arrays may be nested.
const MaxDepth = 32

const maxNumber = 64 // characters of one number

// Error says that text is not JSON, or is not strict.
type Error struct {
	Offset int // in bytes
	what   error
}

func (e *Error) Error() string { return e.what.Error() }

// Unwrap gives one of this package's errors.
func (e *Error) Unwrap() error { return e.what }

// What callers tell apart.
var (
	ErrDuplicate = errors.New("has a json key twice")
	ErrDepth     = errors.New("is nested too deeply")
)

var (
	errSyntax    = errors.New("is not valid json")
	errUTF8      = errors.New("is not valid utf-8")
	errObject    = errors.New("is not a json object")
	errNumber    = errors.New("has a number out of range")
	errSurrogate = errors.New("has half a utf-16 surrogate pair")
)

// Object reads one JSON object strictly: RFC 8259 syntax, valid UTF-8 also after unescaping, no key twice in an object
// (compared after unescaping), depth and numbers bounded, nothing behind the object. Readers that disagree on any of these
// would see different claims in one token. It also estimates the bytes of memory that the result holds. The error is a
// *Error without any text of the input.
func Object(raw []byte) (object map[string]any, memory int, err error) {
	s := string(raw) // the result's strings share this copy
	if !utf8.ValidString(s) {
		return nil, 0, &Error{0, errUTF8}
	}
	if !json.Valid(raw) {
		var syntax *json.SyntaxError
		var ignored json.RawMessage
		offset := 0
		if errors.As(json.Unmarshal(raw, &ignored), &syntax) {
			offset = int(syntax.Offset)
		}
		return nil, 0, &Error{offset, errSyntax}
	}
	r := reader{s: s, memory: len(s)}
	if r.space(); r.s[r.i] != '{' {
		return nil, 0, &Error{r.i, errObject}
	}
	value, what := r.value(1)
	if what != nil {
		return nil, 0, &Error{r.i, what}
	}
	return value.(map[string]any), r.memory, nil
}

// reader walks over text that json.Valid has accepted, so it needs no checks of syntax.
type reader struct {
	s      string
	i      int
	memory int // estimate
}

func (r *reader) space() {
	for r.s[r.i] == ' ' || r.s[r.i] == '\t' || r.s[r.i] == '\n' || r.s[r.i] == '\r' {
		r.i++
	}
}

func (r *reader) value(depth int) (any, error) {
	r.space()
	switch r.s[r.i] {
	case '{':
		return r.object(depth)
	case '[':
		return r.array(depth)
	case '"':
		r.memory += 16
		return r.text()
	case 't':
		r.i += len("true")
		return true, nil
	case 'f':
		r.i += len("false")
		return false, nil
	case 'n':
		r.i += len("null")
		return nil, nil
	}
	return r.number()
}

func (r *reader) object(depth int) (map[string]any, error) {
	if depth > MaxDepth {
		return nil, ErrDepth
	}
	r.memory += 320 // an empty map's first group
	object := make(map[string]any)
	r.i++
	for r.space(); r.s[r.i] != '}'; r.space() {
		if r.s[r.i] == ',' {
			r.i++
			r.space()
		}
		key, err := r.text()
		if err != nil {
			return nil, err
		}
		if _, twice := object[key]; twice {
			return nil, ErrDuplicate
		}
		r.space()
		r.i++ // the colon
		if object[key], err = r.value(depth + 1); err != nil {
			return nil, err
		}
		r.memory += 64
	}
	r.i++
	return object, nil
}

func (r *reader) array(depth int) ([]any, error) {
	if depth > MaxDepth {
		return nil, ErrDepth
	}
	r.memory += 24
	array := []any{}
	r.i++
	for r.space(); r.s[r.i] != ']'; r.space() {
		if r.s[r.i] == ',' {
			r.i++
		}
		element, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		r.memory += 32
		array = append(array, element)
	}
	r.i++
	return array, nil
}

// number keeps the text, so that no digit is lost, but only of numbers that every reader can hold: some would spend
// gigabytes on 1e999999999.
func (r *reader) number() (json.Number, error) {
	start := r.i
	for r.i < len(r.s) && strings.IndexByte("+-.eE0123456789", r.s[r.i]) >= 0 {
		r.i++
	}
	text := r.s[start:r.i]
	r.memory += 16
	if len(text) > maxNumber {
		return "", errNumber
	}
	if f, err := strconv.ParseFloat(text, 64); err != nil || math.IsInf(f, 0) {
		return "", errNumber
	}
	return json.Number(text), nil
}

func (r *reader) text() (string, error) {
	start := r.i
	r.i++
	escaped := false
	for r.s[r.i] != '"' {
		if r.s[r.i] == '\\' {
			escaped = true
			r.i++
		}
		r.i++
	}
	r.i++
	quoted := r.s[start:r.i]
	if !escaped {
		return quoted[1 : len(quoted)-1], nil
	}
	if !surrogatesPaired(quoted) {
		return "", errSurrogate
	}
	var text string
	if json.Unmarshal([]byte(quoted), &text) != nil {
		return "", errSyntax
	}
	r.memory += len(text)
	return text, nil
}

// surrogatesPaired reports whether each \uD800-\uDBFF is followed by a \uDC00-\uDFFF and none of those stands alone.
// encoding/json would replace them with U+FFFD, and two different names would become one.
func surrogatesPaired(quoted string) bool {
	var high rune
	for i := 0; i < len(quoted); {
		var unit rune
		switch {
		case quoted[i] != '\\':
			i++
		case quoted[i+1] != 'u':
			i += 2
		default:
			n, _ := strconv.ParseUint(quoted[i+2:i+6], 16, 16)
			unit = rune(n)
			i += 6
		}
		if high != 0 {
			if utf16.DecodeRune(high, unit) == utf8.RuneError {
				return false
			}
			high = 0
		} else if utf16.IsSurrogate(unit) {
			high = unit
		}
	}
	return high == 0
}
