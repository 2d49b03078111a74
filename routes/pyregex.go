package routes

import (
	"fmt"
	"regexp"
	"strings"
)

// goRegexp rewrites a regular expression of Python's re for Go's regexp, so that both match the same strings with the
// same groups. Go searches leftmost-first as Python does, in linear time; what it lacks (lookaround, back references,
// possessive and atomic groups, flags) or reads differently (\b) is an error, never an approximation.
//
// full says that the expression is used with re.fullmatch; otherwise "$" also matches before a newline at the end.
func goRegexp(src string, full bool) (string, error) {
	return pyParser{src: src, full: full}.parse()
}

// goRegexpWithoutGroups is goRegexp for what stands inside another group: its own groups capture nothing.
func goRegexpWithoutGroups(src string) (string, error) {
	return pyParser{src: src, full: true, flat: true}.parse()
}

func (p pyParser) parse() (string, error) {
	for p.pos < len(p.src) {
		if err := p.next(); err != nil {
			return "", err
		}
	}
	if _, err := regexp.Compile(string(p.out)); err != nil {
		return "", fmt.Errorf("regular expression %q can't be expressed: %w", p.src, err)
	}
	return string(p.out), nil
}

type pyParser struct {
	src  string
	pos  int
	full bool
	flat bool
	out  []byte
}

func (p *pyParser) refuse(what string) error {
	return fmt.Errorf("regular expression %q: %s at offset %d can't be expressed", p.src, what, p.pos)
}

// What Python's Unicode classes hold, for use inside brackets.
const (
	pyDigit = `\p{Nd}`
	pyWord  = `\p{L}\p{N}_`
	pySpace = `\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}`
)

func (p *pyParser) next() error {
	switch c := p.src[p.pos]; c {
	case '\\':
		return p.escape()
	case '[':
		return p.class()
	case '(':
		return p.group()
	case '$':
		return p.dollar()
	case '{':
		return p.brace()
	case '*', '+', '?':
		p.out = append(p.out, c)
		p.pos++
		return p.afterQuantifier()
	case '}', ']':
		p.out = append(p.out, `\`+string(c)...)
	default:
		p.out = append(p.out, c)
	}
	p.pos++
	return nil
}

func (p *pyParser) afterQuantifier() error {
	if p.pos < len(p.src) && p.src[p.pos] == '+' {
		return p.refuse("a possessive quantifier")
	}
	return nil
}

func (p *pyParser) dollar() error {
	if rest := p.src[p.pos+1:]; rest != "" && rest[0] != ')' && rest[0] != '|' {
		return p.refuse(`a "$" that is not at an end`)
	}
	if p.full {
		p.out = append(p.out, `\z`...)
	} else {
		p.out = append(p.out, `(?:\n?\z)`...)
	}
	p.pos++
	return nil
}

var pyRepeat = regexp.MustCompile(`^\{(\d*)(,?)(\d*)\}`)

func (p *pyParser) brace() error {
	m := pyRepeat.FindStringSubmatch(p.src[p.pos:])
	if m == nil || m[1] == "" && m[3] == "" {
		p.out = append(p.out, `\{`...)
		p.pos++
		return nil
	}
	low := m[1]
	if low == "" {
		low = "0"
	}
	p.out = append(p.out, "{"+low+m[2]+m[3]+"}"...)
	p.pos += len(m[0])
	return p.afterQuantifier()
}

var pyGroup = regexp.MustCompile(`^\(\?P<[A-Za-z_][A-Za-z0-9_]*>`)

func (p *pyParser) group() error {
	rest := p.src[p.pos:]
	open := "("
	if strings.HasPrefix(rest, "(?") {
		if open = pyGroup.FindString(rest); open == "" && strings.HasPrefix(rest, "(?:") {
			open = "(?:"
		}
		if open == "" {
			return p.refuse("a lookaround, reference, flag or comment group")
		}
	}
	p.pos += len(open)
	if p.flat {
		open = "(?:"
	}
	p.out = append(p.out, open...)
	return nil
}

func (p *pyParser) escape() error {
	if p.pos+1 >= len(p.src) {
		return p.refuse("a backslash at the end")
	}
	switch c := p.src[p.pos+1]; c {
	case 'd':
		p.out = append(p.out, pyDigit...)
	case 'D':
		p.out = append(p.out, `\P{Nd}`...)
	case 'w':
		p.out = append(p.out, "["+pyWord+"]"...)
	case 'W':
		p.out = append(p.out, "[^"+pyWord+"]"...)
	case 's':
		p.out = append(p.out, "["+pySpace+"]"...)
	case 'S':
		p.out = append(p.out, "[^"+pySpace+"]"...)
	case 'A':
		p.out = append(p.out, `\A`...)
	case 'Z':
		p.out = append(p.out, `\z`...)
	default:
		literal, ok := pyEscapedLiteral(c)
		if !ok {
			return p.refuse(`"\` + string(c) + `"`)
		}
		p.out = append(p.out, literal...)
	}
	p.pos += 2
	return nil
}

// pyEscapedLiteral is the text for an escaped punctuation character or one of the control escapes.
func pyEscapedLiteral(c byte) (string, bool) {
	switch {
	case strings.IndexByte("tnrfv", c) >= 0:
		return `\` + string(c), true
	case c >= 0x80 || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z':
		return "", false
	case c < 0x20 || c == ' ':
		return string(c), true
	}
	return `\` + string(c), true
}

// class translates "[...]". Classes inside brackets become ranges; a "-" is a range only between two characters.
func (p *pyParser) class() error {
	p.pos++
	p.out = append(p.out, '[')
	if p.pos < len(p.src) && p.src[p.pos] == '^' {
		p.out = append(p.out, '^')
		p.pos++
	}
	single := false // the item before was one character, so "-" may follow it
	for first := true; p.pos < len(p.src); first = false {
		c := p.src[p.pos]
		switch {
		case c == ']' && !first:
			p.out = append(p.out, ']')
			p.pos++
			return nil
		case c == '-' && single && p.pos+1 < len(p.src) && p.src[p.pos+1] != ']':
			p.out = append(p.out, '-')
			p.pos++
			single = false
			continue
		case c == '\\':
			if p.pos+1 >= len(p.src) {
				return p.refuse("a backslash at the end")
			}
			text, one, err := p.classEscape(p.src[p.pos+1])
			if err != nil {
				return err
			}
			p.out = append(p.out, text...)
			p.pos += 2
			single = one
			continue
		case c < 0x80 && strings.IndexByte(`[]^-&~|`, c) >= 0:
			p.out = append(p.out, `\`+string(c)...)
		default:
			p.out = append(p.out, c)
		}
		p.pos++
		single = true
	}
	return p.refuse("an unclosed bracket")
}

func (p *pyParser) classEscape(c byte) (text string, single bool, err error) {
	switch c {
	case 'd':
		return pyDigit, false, nil
	case 'D':
		return `\P{Nd}`, false, nil
	case 'w':
		return pyWord, false, nil
	case 's':
		return pySpace, false, nil
	}
	text, ok := pyEscapedLiteral(c)
	if !ok {
		return "", false, p.refuse(`"\` + string(c) + `" in brackets`)
	}
	return text, true, nil
}
