package decisions

import (
	"encoding/json"
	"unicode/utf8"
)

// maxNesting bounds how deep an entry is nested.
const maxNesting = 64

// scanner steps over JSON text and checks all of it (RFC 8259), in one pass and without a stack of its own.
type scanner struct {
	text []byte
	at   int
}

// peek is the next byte that is no space; 0 at the end.
func (s *scanner) peek() byte {
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; c {
		case ' ', '\n', '\t', '\r':
		default:
			return c
		}
	}
	return 0
}

// take steps over a byte that must come next.
func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.at++
	return true
}

// members calls use with each member of the object that comes next, and reports whether there is a well-formed one. A key
// has its escapes in it. depth is how deep the object is.
func (s *scanner) members(depth int, use func(key, value []byte) bool) bool {
	if !s.take('{') {
		return false
	}
	if s.take('}') {
		return true
	}
	for {
		if s.peek() != '"' {
			return false
		}
		from := s.at + 1
		if !s.quoted() {
			return false
		}
		key := s.text[from : s.at-1]
		if !s.take(':') {
			return false
		}
		s.peek()
		from = s.at
		if !s.value(depth+1) || use != nil && !use(key, s.text[from:s.at]) {
			return false
		}
		if !s.take(',') {
			return s.take('}')
		}
	}
}

// elements calls use with each element of the list that comes next.
func (s *scanner) elements(depth int, use func() bool) bool {
	if !s.take('[') {
		return false
	}
	if s.take(']') {
		return true
	}
	for {
		s.peek()
		if use != nil && !use() || use == nil && !s.value(depth+1) {
			return false
		}
		if !s.take(',') {
			return s.take(']')
		}
	}
}

// value steps over the value that comes next.
func (s *scanner) value(depth int) bool {
	if depth > maxNesting {
		return false
	}
	switch c := s.peek(); c {
	case '{':
		return s.members(depth, nil)
	case '[':
		return s.elements(depth, nil)
	case '"':
		return s.quoted()
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *scanner) word(w string) bool {
	if len(s.text)-s.at < len(w) || string(s.text[s.at:s.at+len(w)]) != w {
		return false
	}
	s.at += len(w)
	return true
}

// quoted steps over a string.
func (s *scanner) quoted() bool {
	from, ascii := s.at+1, true
	for i := from; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '"':
			s.at = i + 1
			return ascii || utf8.Valid(s.text[from:i])
		case c == '\\':
			i++
			if i >= len(s.text) {
				return false
			}
			switch s.text[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; i >= len(s.text) || !isHex(s.text[i]) {
						return false
					}
				}
			default:
				return false
			}
		case c < ' ':
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return false
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// digits steps over digits, and reports whether there was one.
func (s *scanner) digits() bool {
	from := s.at
	for s.at < len(s.text) && '0' <= s.text[s.at] && s.text[s.at] <= '9' {
		s.at++
	}
	return s.at > from
}

func (s *scanner) is(c byte) bool { return s.at < len(s.text) && s.text[s.at] == c }

func (s *scanner) number() bool {
	if s.is('-') {
		s.at++
	}
	if s.is('0') {
		s.at++
	} else if !s.digits() {
		return false
	}
	if s.is('.') {
		if s.at++; !s.digits() {
			return false
		}
	}
	if s.is('e') || s.is('E') {
		if s.at++; s.is('+') || s.is('-') {
			s.at++
		}
		return s.digits()
	}
	return true
}

// text is what a JSON string means; ok is false where the value is none.
func text(value []byte) (out []byte, ok bool) {
	if len(value) < 2 || value[0] != '"' {
		return nil, false
	}
	inside := value[1 : len(value)-1]
	for _, c := range inside {
		if c == '\\' {
			var s string
			if json.Unmarshal(value, &s) != nil {
				return nil, false
			}
			return []byte(s), true
		}
	}
	return inside, true
}

// appendText appends a string as JSON.
func appendText(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf || c == 0x7f {
			quoted, _ := json.Marshal(s) // a string can be
			return append(dst, quoted...)
		}
	}
	return append(append(append(dst, '"'), s...), '"')
}
