package pyregex

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// Translate rewrites a regular expression of Python's re for Go's regexp, so that both match the same strings with
// the same groups. Go searches leftmost-first as Python does, in linear time; what it lacks (lookaround, back
// references, possessive and atomic groups, flags) or reads differently (\b) is an error, never an approximation.
//
// Lookaround, back references, possessive and atomic groups are translated for the backtracking engine alone.
//
// full says that the expression is used with re.fullmatch; otherwise "$" also matches before a newline at the end.
func Translate(src string, full bool) (Expression, []string, error) {
	return translate(pyParser{src: src, full: full})
}

// TranslateFlat is Translate for an expression inside another group: its own groups do not capture.
func TranslateFlat(src string) (Expression, error) {
	e, _, err := translate(pyParser{src: src, full: true, flat: true})
	return e, err
}

// translate returns the expression for both engines, with the names of its groups ("" for unnamed).
func translate(p pyParser) (e Expression, names []string, err error) {
	linear, back := p, p
	err = linear.parse()
	if err == nil {
		err = linearAlike(string(linear.out))
	}
	back.back = true
	if failed := back.parse(); failed != nil {
		return Expression{}, nil, failed
	}
	if _, failed := regexp2.Compile(string(back.out), regexp2.None); failed != nil {
		return Expression{}, nil, fmt.Errorf("regular expression %q can't be expressed: %w", p.src, failed)
	}
	e.Backtracking = string(back.out)
	if err == nil {
		e.RE2 = string(linear.out)
	}
	return e, back.names, nil
}

// linearAlike says why Go's engine does not support an expression, or would give groups another text than Python:
// where a possibly empty group is repeated, Python makes one more empty iteration.
func linearAlike(expr string) error {
	if _, err := regexp.Compile(expr); err != nil {
		return err
	}
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return err
	}
	if emptyLoop(tree) {
		return errors.New("a group that may be empty is repeated")
	}
	return nil
}

func emptyLoop(re *syntax.Regexp) bool {
	if (re.Op == syntax.OpStar || re.Op == syntax.OpPlus || re.Op == syntax.OpRepeat) && re.MaxCap() > 0 && mayBeEmpty(re.Sub[0]) {
		return true
	}
	return slices.ContainsFunc(re.Sub, emptyLoop)
}

func mayBeEmpty(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpLiteral, syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL, syntax.OpNoMatch:
		return false
	case syntax.OpConcat:
		return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !mayBeEmpty(sub) })
	case syntax.OpAlternate:
		return slices.ContainsFunc(re.Sub, mayBeEmpty)
	case syntax.OpPlus, syntax.OpCapture:
		return mayBeEmpty(re.Sub[0])
	case syntax.OpRepeat:
		return re.Min == 0 || mayBeEmpty(re.Sub[0])
	}
	return true
}

func (p *pyParser) parse() error {
	for p.pos < len(p.src) {
		if err := p.next(); err != nil {
			return err
		}
	}
	if len(p.open) > 0 {
		return p.refuse("an unclosed group")
	}
	return nil
}

type pyParser struct {
	src  string
	pos  int
	full bool
	flat bool
	back bool // for the backtracking engine
	out  []byte

	// For the backtracking engine alone.
	names []string // of the capturing groups, in order
	open  []pyOpen // the enclosing groups
	atom  int      // offset in out of the last item that a quantifier would repeat
}

// pyOpen is an open group.
type pyOpen struct {
	at     int // its offset in out
	look   bool
	behind bool // in a lookbehind
	atomic bool // in an atomic group
}

func (p *pyParser) refuse(what string) error {
	return fmt.Errorf("regular expression %q: %s at offset %d can't be expressed", p.src, what, p.pos)
}

// Python's Unicode classes, for use inside brackets.
const (
	pyDigit = `\p{Nd}`
	pyWord  = `\p{L}\p{N}_`
	pySpace = `\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}`

	pySpaceBack = `\t-\r\x1c-\x20\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000`
	pyBoundary  = `(?:(?<=[` + pyWord + `])(?![` + pyWord + `])|(?<![` + pyWord + `])(?=[` + pyWord + `]))`
)

func (p *pyParser) space() string {
	if p.back {
		return pySpaceBack
	}
	return pySpace
}

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
	case ')':
		return p.close()
	case '}', ']':
		p.atom = len(p.out)
		p.out = append(p.out, `\`+string(c)...)
	default:
		if c < utf8.RuneSelf || utf8.RuneStart(c) {
			p.atom = len(p.out)
		}
		p.out = append(p.out, c)
	}
	p.pos++
	return nil
}

// afterQuantifier handles the "+" of a possessive quantifier: an atomic group around the repetition.
func (p *pyParser) afterQuantifier() error {
	switch {
	case p.pos >= len(p.src):
	case p.src[p.pos] == '?':
		p.out = append(p.out, '?')
		p.pos++
	case p.src[p.pos] == '+' && !p.back:
		return p.refuse("a possessive quantifier")
	case p.src[p.pos] == '+' && p.atomHasGroup():
		return p.refuse("a possessive quantifier on a group that captures")
	case p.src[p.pos] == '+':
		p.out = append(slices.Insert(p.out, p.atom, []byte("(?>")...), ')')
		p.pos++
	}
	if p.pos < len(p.src) && strings.IndexByte("*+?", p.src[p.pos]) >= 0 {
		return p.refuse("a quantifier behind a quantifier")
	}
	return nil
}

func (p *pyParser) dollar() error {
	if p.back { // "\Z" there is Python's "$"
		p.atom = len(p.out)
		p.out = append(p.out, `\Z`...)
		p.pos++
		return nil
	}
	if rest := p.src[p.pos+1:]; rest != "" && rest[0] != ')' && rest[0] != '|' {
		return p.refuse(`a "$" that is not at an end`)
	}
	if !p.full && len(p.open) > 0 {
		return p.refuse(`a "$" in a group`) // it would consume the newline
	}
	if p.full {
		p.out = append(p.out, `\z`...)
	} else {
		p.out = append(p.out, `(?:\n?\z)`...)
	}
	p.pos++
	return nil
}

// atomHasGroup reports whether the quantified item contains a capturing group.
func (p *pyParser) atomHasGroup() bool { return strings.Contains(string(p.out[p.atom:]), "(?<g") }

var pyRepeat = regexp.MustCompile(`^\{(\d*)(,?)(\d*)\}`)

func (p *pyParser) brace() error {
	m := pyRepeat.FindStringSubmatch(p.src[p.pos:])
	if m == nil || m[1] == "" && m[2] == "" && m[3] == "" {
		p.atom = len(p.out)
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
	if p.back {
		return p.groupBack(rest)
	}
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
	p.open = append(p.open, pyOpen{})
	p.out = append(p.out, open...)
	return nil
}

// groupBack opens a group for the backtracking engine. That engine numbers named groups after the others, so every
// group gets a name by its position.
func (p *pyParser) groupBack(rest string) error {
	group := pyOpen{at: len(p.out)}
	if n := len(p.open); n > 0 {
		group.behind, group.atomic = p.open[n-1].behind, p.open[n-1].atomic
	}
	if m := pyNamedReference.FindStringSubmatch(rest); m != nil {
		return p.reference(slices.Index(p.names, m[1])+1, len(m[0]))
	}
	name := pyGroup.FindString(rest)
	for _, open := range [...]string{"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"} {
		if !strings.HasPrefix(rest, open) {
			continue
		}
		group.look = open != "(?:" && open != "(?>"
		group.behind = group.behind || strings.HasPrefix(open, "(?<")
		group.atomic = group.atomic || open == "(?>"
		p.pos += len(open)
		p.open, p.out = append(p.open, group), append(p.out, open...)
		return nil
	}
	switch {
	case name == "" && strings.HasPrefix(rest, "(?"):
		return p.refuse("a flag, comment or conditional group")
	case p.flat:
		p.out = append(p.out, "(?:"...)
	case group.behind || group.atomic: // engines differ in what these groups capture
		return p.refuse("a group within a lookbehind or an atomic group")
	default:
		p.names = append(p.names, strings.TrimSuffix(strings.TrimPrefix(name, "(?P<"), ">"))
		p.out = fmt.Appendf(p.out, "(?<g%d>", len(p.names))
	}
	p.pos += max(len(name), 1)
	p.open = append(p.open, group)
	return nil
}

var (
	pyNamedReference = regexp.MustCompile(`^\(\?P=([A-Za-z_][A-Za-z0-9_]*)\)`)
	pyNumber         = regexp.MustCompile(`^\\([1-9][0-9]?)`)
)

// reference is a back reference to a group.
func (p *pyParser) reference(group, length int) error {
	if p.flat || !p.back || group < 1 || group > len(p.names) {
		return p.refuse("a reference")
	}
	p.atom = len(p.out)
	p.out = fmt.Appendf(p.out, `\k<g%d>`, group)
	p.pos += length
	return nil
}

func (p *pyParser) close() error {
	if len(p.open) == 0 {
		return p.refuse(`a ")" without a group`)
	}
	group := p.open[len(p.open)-1]
	p.open = p.open[:len(p.open)-1]
	p.atom = group.at
	p.out = append(p.out, ')')
	p.pos++
	if group.look && p.pos < len(p.src) && strings.IndexByte("*+?{", p.src[p.pos]) >= 0 {
		return p.refuse("a lookaround that is repeated")
	}
	return nil
}

func (p *pyParser) escape() error {
	if p.pos+1 >= len(p.src) {
		return p.refuse("a backslash at the end")
	}
	if p.back {
		if m := pyNumber.FindStringSubmatch(p.src[p.pos:]); m != nil {
			if rest := p.src[p.pos+1:]; len(rest) >= 3 && rest[2] >= '0' && rest[2] <= '9' {
				return p.refuse("a number of three digits")
			}
			number, _ := strconv.Atoi(m[1]) // two digits
			return p.reference(number, len(m[0]))
		}
	}
	p.atom = len(p.out)
	switch c := p.src[p.pos+1]; c {
	case 'b':
		if !p.back {
			return p.refuse(`"\b"`)
		}
		p.out = append(p.out, pyBoundary...)
	case 'd':
		p.out = append(p.out, pyDigit...)
	case 'D':
		p.out = append(p.out, `\P{Nd}`...)
	case 'w':
		p.out = append(p.out, "["+pyWord+"]"...)
	case 'W':
		p.out = append(p.out, "[^"+pyWord+"]"...)
	case 's':
		p.out = append(p.out, "["+p.space()+"]"...)
	case 'S':
		p.out = append(p.out, "[^"+p.space()+"]"...)
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

// pyEscapedLiteral is the text of an escaped punctuation character or control escape.
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

// class translates "[...]". Nested classes become ranges; "-" is a range only between two characters.
func (p *pyParser) class() error {
	p.pos++
	p.atom = len(p.out)
	p.out = append(p.out, '[')
	if p.pos < len(p.src) && p.src[p.pos] == '^' {
		p.out = append(p.out, '^')
		p.pos++
	}
	single := false // the previous item was one character, so "-" may follow
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
		return p.space(), false, nil
	}
	text, ok := pyEscapedLiteral(c)
	if !ok {
		return "", false, p.refuse(`"\` + string(c) + `" in brackets`)
	}
	return text, true, nil
}
