package directory

import "unicode/utf8"

// checkProperties holds properties to what is stored: a JSON object in valid UTF-8, without white space between its parts, at most 64 deep.
// It is stricter than encoding/json there and several times as fast, which a million objects at each start are worth.
func checkProperties(p []byte) error {
	if len(p) > maxProperties {
		return invalid("properties of %d bytes; %d are possible", len(p), maxProperties)
	}
	if !utf8.Valid(p) {
		return invalid("properties are not valid UTF-8")
	}
	if len(p) == 0 || p[0] != '{' {
		return invalid("properties are not a JSON object")
	}
	c := jsonChecker{text: p}
	if !c.value(0) || c.at != len(p) {
		if c.deep {
			return invalid("properties are more than %d deep", maxDepth)
		}
		return invalid("properties are not valid JSON at byte %d", c.at)
	}
	return nil
}

// jsonChecker reads one value. at is where it stopped.
type jsonChecker struct {
	text []byte
	at   int
	deep bool
}

// peek is the next byte; 0 at the end, which no text of JSON has.
func (c *jsonChecker) peek() byte {
	if c.at == len(c.text) {
		return 0
	}
	return c.text[c.at]
}

func (c *jsonChecker) skip(b byte) bool {
	if c.peek() != b {
		return false
	}
	c.at++
	return true
}

func (c *jsonChecker) value(depth int) bool {
	if depth > maxDepth {
		c.deep = true
		return false
	}
	switch b := c.peek(); b {
	case '{':
		return c.members('}', depth)
	case '[':
		return c.members(']', depth)
	case '"':
		return c.str()
	case 't':
		return c.word("true")
	case 'f':
		return c.word("false")
	case 'n':
		return c.word("null")
	default:
		return c.num()
	}
}

// members reads an object or an array, by how it ends.
func (c *jsonChecker) members(end byte, depth int) bool {
	c.at++
	if c.skip(end) {
		return true
	}
	for {
		if end == '}' && (c.peek() != '"' || !c.str() || !c.skip(':')) {
			return false
		}
		if !c.value(depth + 1) {
			return false
		}
		if !c.skip(',') {
			return c.skip(end)
		}
	}
}

func (c *jsonChecker) str() bool {
	for c.at++; c.at < len(c.text); c.at++ {
		switch b := c.text[c.at]; {
		case b == '"':
			c.at++
			return true
		case b < ' ':
			return false
		case b == '\\':
			if !c.escape() {
				return false
			}
		}
	}
	return false
}

// escape reads what follows a backslash, up to its last byte.
func (c *jsonChecker) escape() bool {
	c.at++
	switch c.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		for range 4 {
			c.at++
			if b := c.peek(); (b < '0' || b > '9') && (b|0x20 < 'a' || b|0x20 > 'f') {
				return false
			}
		}
		return true
	}
	return false
}

func (c *jsonChecker) word(w string) bool {
	for i := range len(w) {
		if !c.skip(w[i]) {
			return false
		}
	}
	return true
}

func (c *jsonChecker) num() bool {
	c.skip('-')
	if !c.skip('0') && !c.digits() {
		return false
	}
	if c.skip('.') && !c.digits() {
		return false
	}
	if b := c.peek(); b == 'e' || b == 'E' {
		c.at++
		if !c.skip('+') {
			c.skip('-')
		}
		return c.digits()
	}
	return true
}

func (c *jsonChecker) digits() bool {
	from := c.at
	for c.at < len(c.text) && c.text[c.at] >= '0' && c.text[c.at] <= '9' {
		c.at++
	}
	return c.at > from
}
