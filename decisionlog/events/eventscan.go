package events

import "bytes"

// jsonScan steps over JSON text without making anything of it. It checks no more than it needs to find its way.
type jsonScan struct {
	text []byte
	at   int
}

func (s *jsonScan) peek() byte {
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; c {
		case ' ', '\n', '\t', '\r':
		default:
			return c
		}
	}
	return 0
}

// members calls use with each member of the object at hand, and reports whether there is a whole one. A key has its escapes in it.
func (s *jsonScan) members(use func(key, value []byte)) bool {
	if s.peek() != '{' {
		return false
	}
	s.at++
	for first := true; ; first = false {
		switch c := s.peek(); {
		case c == '}':
			s.at++
			s.peek()
			return true
		case !first && c != ',':
			return false
		case !first:
			s.at++
		}
		key, ok := s.value()
		if !ok || key[0] != '"' || s.peek() != ':' {
			return false
		}
		s.at++
		value, ok := s.value()
		if !ok {
			return false
		}
		use(key[1:len(key)-1], value)
	}
}

// value returns the text of the value at hand.
func (s *jsonScan) value() ([]byte, bool) {
	c := s.peek()
	from := s.at
	switch c {
	case '{', '[':
		return s.nested(from)
	case '"':
		ok := s.quoted()
		return s.text[from:s.at], ok
	}
	for s.at < len(s.text) && bytes.IndexByte([]byte(",]}: \n\t\r\"[{"), s.text[s.at]) < 0 {
		s.at++
	}
	return s.text[from:s.at], s.at > from
}

// nested passes over an object or a list.
func (s *jsonScan) nested(from int) ([]byte, bool) {
	open := 0
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case '"':
			if !s.quoted() {
				return nil, false
			}
			continue
		case '{', '[':
			open++
		case '}', ']':
			open--
		}
		if s.at++; open == 0 {
			return s.text[from:s.at], true
		}
	}
	return nil, false
}

// quoted passes over a string.
func (s *jsonScan) quoted() bool {
	for s.at++; ; s.at++ {
		end := bytes.IndexByte(s.text[s.at:], '"')
		if end < 0 {
			s.at = len(s.text)
			return false
		}
		s.at += end
		before := s.text[:s.at]
		if (len(before)-len(bytes.TrimRight(before, `\`)))%2 == 0 {
			s.at++
			return true
		}
	}
}
