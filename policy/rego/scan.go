package rego

import (
	"bytes"
	"unicode/utf8"
)

// Scanner reads JSON text token by token.
type Scanner struct {
	Text []byte
	At   int
}

// Peek skips white space and returns the next byte, 0 at the end.
func (s *Scanner) Peek() byte {
	for ; s.At < len(s.Text); s.At++ {
		switch c := s.Text[s.At]; c {
		case ' ', '\n', '\t', '\r':
		default:
			return c
		}
	}
	return 0
}

// Take consumes a byte if it is next.
func (s *Scanner) Take(c byte) bool {
	if s.Peek() != c {
		return false
	}
	s.At++
	return true
}

// Quoted returns a string with its quotes; plain means that it has no escapes and is valid UTF-8. It returns nil if the string is
// unterminated or holds a control character.
func (s *Scanner) Quoted() (raw []byte, plain bool) {
	plain = true
	ascii := true
	start := s.At
	for s.At++; s.At < len(s.Text); s.At++ {
		switch c := s.Text[s.At]; {
		case c == '"':
			s.At++
			raw = s.Text[start:s.At]
			return raw, plain && (ascii || utf8.Valid(raw))
		case c == '\\':
			plain = false
			s.At++
		case c < ' ':
			return nil, false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, false
}

// Bare returns the text of a number, true, false or null, up to the next delimiter.
func (s *Scanner) Bare() []byte {
	start := s.At
	for s.At < len(s.Text) && bytes.IndexByte([]byte(",]} \n\t\r"), s.Text[s.At]) < 0 {
		s.At++
	}
	return s.Text[start:s.At]
}
