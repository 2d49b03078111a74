package identity

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	maxDepth  = 32 // objects and arrays within each other
	maxNumber = 64 // characters of one number
)

// jsonError is a place where JSON is valid but not strict, or not valid.
type jsonError struct {
	offset int
	what   error
}

func (e *jsonError) Error() string { return e.what.Error() }
func (e *jsonError) Unwrap() error { return e.what }

var (
	errJSONSyntax    = errors.New("is not valid json")
	errJSONUTF8      = errors.New("is not valid utf-8")
	errJSONObject    = errors.New("is not a json object")
	errJSONDuplicate = errors.New("has a json key twice")
	errJSONDepth     = errors.New("is nested too deeply")
	errJSONNumber    = errors.New("has a number out of range")
	errJSONSurrogate = errors.New("has half a utf-16 surrogate pair")
)

// decodeObject reads one JSON object strictly: RFC 8259 syntax, valid UTF-8 also after unescaping, no key twice in an object
// (compared after unescaping), depth and numbers bounded, nothing behind the object. Readers that disagree on any of these
// would see different claims in one token. It also estimates the bytes of memory that the result holds. The error is a
// *jsonError without any text of the input.
func decodeObject(raw []byte) (object map[string]any, memory int, err error) {
	s := string(raw) // the result's strings share this copy
	if !utf8.ValidString(s) {
		return nil, 0, &jsonError{0, errJSONUTF8}
	}
	if !json.Valid(raw) {
		var syntax *json.SyntaxError
		var ignored json.RawMessage
		offset := 0
		if errors.As(json.Unmarshal(raw, &ignored), &syntax) {
			offset = int(syntax.Offset)
		}
		return nil, 0, &jsonError{offset, errJSONSyntax}
	}
	r := jsonReader{s: s, memory: len(s)}
	if r.space(); r.s[r.i] != '{' {
		return nil, 0, &jsonError{r.i, errJSONObject}
	}
	value, what := r.value(1)
	if what != nil {
		return nil, 0, &jsonError{r.i, what}
	}
	return value.(map[string]any), r.memory, nil
}

// jsonReader walks over text that json.Valid has accepted, so it needs no checks of syntax.
type jsonReader struct {
	s      string
	i      int
	memory int // estimate
}

func (r *jsonReader) space() {
	for r.s[r.i] == ' ' || r.s[r.i] == '\t' || r.s[r.i] == '\n' || r.s[r.i] == '\r' {
		r.i++
	}
}

func (r *jsonReader) value(depth int) (any, error) {
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

func (r *jsonReader) object(depth int) (map[string]any, error) {
	if depth > maxDepth {
		return nil, errJSONDepth
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
			return nil, errJSONDuplicate
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

func (r *jsonReader) array(depth int) ([]any, error) {
	if depth > maxDepth {
		return nil, errJSONDepth
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
func (r *jsonReader) number() (json.Number, error) {
	start := r.i
	for r.i < len(r.s) && strings.IndexByte("+-.eE0123456789", r.s[r.i]) >= 0 {
		r.i++
	}
	text := r.s[start:r.i]
	r.memory += 16
	if len(text) > maxNumber {
		return "", errJSONNumber
	}
	if f, err := strconv.ParseFloat(text, 64); err != nil || math.IsInf(f, 0) {
		return "", errJSONNumber
	}
	return json.Number(text), nil
}

func (r *jsonReader) text() (string, error) {
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
		return "", errJSONSurrogate
	}
	var text string
	if json.Unmarshal([]byte(quoted), &text) != nil {
		return "", errJSONSyntax
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
