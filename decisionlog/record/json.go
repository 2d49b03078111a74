package record

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf8"
)

// encoder writes plain JSON without reflection, which is what an entry would spend most of its time on. Its output is that of
// encoding/json without the escapes for HTML; what is not plain JSON goes there.
type encoder struct{ keys []string } // a stack: those of the objects being written

// append writes map[string]any, []any, string, json.Number, bool, nil and Go's common numbers.
func (e *encoder) append(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case string:
		return appendString(dst, v), nil
	case json.Number:
		if text := string(v); text == "" || !json.Valid([]byte(text)) || text[0] > '9' {
			return nil, fmt.Errorf("encoding decision log entry: %q is not a number", text)
		}
		return append(dst, v...), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case []any:
		return e.array(dst, v)
	case map[string]any:
		return e.object(dst, v)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding decision log entry: %w", err)
	}
	return append(dst, text...), nil
}

func (e *encoder) array(dst []byte, list []any) (_ []byte, err error) {
	dst = append(dst, '[')
	for i, v := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = e.append(dst, v); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

// object writes the members in the order of their names, so that equal entries give equal lines.
func (e *encoder) object(dst []byte, members map[string]any) (_ []byte, err error) {
	base := len(e.keys)
	defer func() { e.keys = e.keys[:base] }()
	for key := range members {
		e.keys = append(e.keys, key)
	}
	end := len(e.keys)
	slices.Sort(e.keys[base:])
	dst = append(dst, '{')
	for i := base; i < end; i++ {
		if i > base {
			dst = append(dst, ',')
		}
		key := e.keys[i]
		dst = append(appendString(dst, key), ':')
		if dst, err = e.append(dst, members[key]); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

const hexDigits = "0123456789abcdef"

// appendString writes a JSON string (RFC 8259 section 7). Invalid UTF-8 becomes U+FFFD; the two line separators that JavaScript
// stumbles over are escaped.
func appendString(dst []byte, s string) []byte {
	return append(appendEscaped(append(dst, '"'), s), '"')
}

// appendBytes is appendString for bytes: most of a line is, and most of that is as it stands.
func appendBytes(dst, s []byte) []byte {
	dst = append(dst, '"')
	if n := unescaped(s); n < len(s) {
		dst = append(dst, s[:n]...)
		return append(appendEscaped(dst, s[n:]), '"')
	}
	return append(append(dst, s...), '"')
}

const (
	lowBits  = 0x0101010101010101
	highBits = 0x80 * lowBits
)

// unescaped counts the bytes before the first that a JSON string may have to escape. It looks at eight at a time: what is below a blank,
// what equals a quote or a backslash, and what is beyond ASCII sets the high bit of its byte, and perhaps of bytes behind it.
func unescaped(s []byte) int {
	i := 0
	for ; i+8 <= len(s); i += 8 {
		w := binary.LittleEndian.Uint64(s[i:])
		quote, slash := w^('"'*lowBits), w^('\\'*lowBits)
		if found := (w | (w-' '*lowBits)&^w | (quote-lowBits)&^quote | (slash-lowBits)&^slash) & highBits; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for ; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return i
		}
	}
	return i
}

// appendEscaped writes what stands between the quotes.
func appendEscaped[T string | []byte](dst []byte, s T) []byte {
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			dst = append(dst, s[from:i]...)
			dst = appendEscape(dst, c)
			i++
			from = i
			continue
		}
		r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(append(dst, s[from:i]...), `\ufffd`...)
			from = i + 1
		case r == '\u2028' || r == '\u2029':
			dst = append(append(dst, s[from:i]...), `\u202`...)
			dst = append(dst, hexDigits[r&0xf])
			from = i + size
		}
		i += size
	}
	return append(dst, s[from:]...)
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}
