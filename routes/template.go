package routes

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"gatehouse/routes/pyregex"
)

// maxParams bounds the parameters of one match: they are collected on the stack.
const maxParams = 24

// piece is one part of a template: text, or a parameter.
type piece struct {
	text string
	name string
	conv *converter // nil for text
}

// pattern matches a path, or a prefix of one, for the frameworks that try patterns in order. If all parameters are
// whole segments it matches segment by segment, otherwise by a regular expression.
type pattern struct {
	pieces []piece
	names  []string // of the parameters, in order
	segs   []seg    // nil unless every parameter is a whole segment
	re     *pyregex.Matcher
	groups []int  // the groups of re for the parameters
	prefix bool   // an include or a mount: matches a prefix
	fixed  string // the literal prefix of every match
	check  bool   // a converter may reject a match of the expression
	unsure bool   // Django: a converter may reject a value by a rule unknown to the table

	relative  bool // below an include: paths have no leading slash
	skipSlash bool // re matches the path after its leading slash
}

// seg is a whole segment: text, or one parameter.
type seg struct {
	text string
	conv *converter
}

// captures collects the parameters of a match in fixed space.
type captures struct {
	names         [maxParams]string
	values        [maxParams]string
	n             int
	limitExceeded bool // the expression exceeded its limits
}

// set adds a parameter; an existing name gets the new value, as in Python's dict.update.
func (c *captures) set(name, value string) {
	for i := range c.n {
		if c.names[i] == name {
			c.values[i] = value
			return
		}
	}
	if c.n < maxParams {
		c.names[c.n], c.values[c.n] = name, value
		c.n++
	}
}

func (c *captures) params() []Param {
	if c.n == 0 {
		return nil
	}
	params := make([]Param, c.n)
	for i := range params {
		params[i] = Param{Name: c.names[i], Value: c.values[i]}
	}
	return params
}

// The syntax of parameters in templates. Anything else is text, as in the frameworks.
var (
	starletteParam = regexp.MustCompile(`\{([a-zA-Z_][a-zA-Z0-9_]*)(?::([a-zA-Z_][a-zA-Z0-9_]*))?\}`)
	djangoParam    = regexp.MustCompile(`<(?:([^>:]+):)?([^>]+)>`)
	openapiParam   = regexp.MustCompile(`\{([^{}/]+)\}`)
	identifier     = regexp.MustCompile(`^[\pL_][\pL\p{Nd}_]*$`)
)

// parseTemplate parses a template of Starlette, Django or OpenAPI.
func (s *settings) parseTemplate(template string) ([]piece, error) {
	expr, nameGroup, convGroup := starletteParam, 1, 2
	switch s.framework {
	case Django:
		expr, nameGroup, convGroup = djangoParam, 2, 1
	case OpenAPI:
		expr, convGroup = openapiParam, 0
	}
	var pieces []piece
	pos := 0
	for _, m := range expr.FindAllStringSubmatchIndex(template, -1) {
		if m[0] > pos {
			pieces = append(pieces, piece{text: template[pos:m[0]]})
		}
		pos = m[1]
		name, converter := template[m[2*nameGroup]:m[2*nameGroup+1]], ""
		if convGroup != 0 && m[2*convGroup] >= 0 {
			converter = template[m[2*convGroup]:m[2*convGroup+1]]
		}
		if s.framework == Django && !identifier.MatchString(name) {
			return nil, fmt.Errorf("parameter %q is not a Python identifier", name)
		}
		conv, err := s.converter(converter)
		if err != nil {
			return nil, err
		}
		pieces = append(pieces, piece{name: name, conv: conv})
	}
	if pos < len(template) {
		pieces = append(pieces, piece{text: template[pos:]})
	}
	if s.framework == OpenAPI {
		for _, p := range pieces {
			if p.conv == nil && strings.ContainsAny(p.text, "{}") {
				return nil, errors.New("unbalanced braces")
			}
		}
	}
	return pieces, nil
}

// converter finds a converter by name: the table's own first, because an application may override a built-in one.
func (s *settings) converter(name string) (*converter, error) {
	if name == "" {
		name = "str"
	}
	if c := s.custom[name]; c != nil {
		return c, nil
	}
	if c := builtinConverter(s.framework, name); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("unknown converter %q (one of the application's own belongs under converters:)", name)
}

// newPattern compiles a template for the ordered frameworks.
func (s *settings) newPattern(template string, prefix bool) (*pattern, error) {
	pieces, err := s.parseTemplate(template)
	if err != nil {
		return nil, err
	}
	p := &pattern{pieces: pieces, prefix: prefix}
	if len(pieces) > 0 && pieces[0].conv == nil {
		p.fixed = pieces[0].text
	}
	var expr exprBuilder
	expr.raw(`\A`)
	for _, piece := range pieces {
		if piece.conv == nil {
			expr.raw(regexp.QuoteMeta(piece.text))
			continue
		}
		for _, name := range p.names {
			if name == piece.name {
				return nil, fmt.Errorf("parameter %q twice", name)
			}
		}
		expr.converter(piece.conv, len(p.names))
		p.names = append(p.names, piece.name)
		p.unsure = p.unsure || piece.conv.unsure
		p.check = p.check || piece.conv.kind == kindInt || piece.conv.kind == kindFloat
	}
	if len(p.names) > maxParams {
		return nil, fmt.Errorf("more than %d parameters", maxParams)
	}
	switch {
	case prefix:
	case s.framework == Starlette || s.framework == FastAPI:
		expr.raw(`(?:\n?\z)`) // Python's "$"
	default:
		expr.raw(`\z`)
	}
	if p.re, err = expr.compile(); err != nil {
		return nil, fmt.Errorf("can't be expressed: %w", err)
	}
	for i := range p.names {
		p.groups = append(p.groups, i+1)
	}
	if !prefix {
		p.segs = segments(pieces)
	}
	return p, nil
}

// segments splits a template at its slashes; nil when a parameter shares a segment, or a path parameter is not last.
func segments(pieces []piece) []seg {
	if len(pieces) == 0 || pieces[0].conv != nil || !strings.HasPrefix(pieces[0].text, "/") {
		return nil
	}
	var segs []seg
	current, open := seg{}, false
	for _, p := range pieces {
		if p.conv != nil {
			if open || current.text != "" {
				return nil
			}
			current, open = seg{conv: p.conv}, true
			continue
		}
		parts := strings.Split(p.text, "/")
		if open && parts[0] != "" {
			return nil
		}
		for i, part := range parts {
			if i > 0 {
				segs = append(segs, current)
				current, open = seg{}, false
			}
			if part != "" {
				current.text += part
			}
		}
	}
	segs = append(segs, current)[1:] // nothing comes before the leading slash
	for i, s := range segs {
		if s.conv != nil && s.conv.kind == kindPath && i < len(segs)-1 {
			return nil
		}
		if s.conv != nil && s.conv.kind == kindRegexp && !segmentOnly(s.conv) {
			return nil
		}
	}
	return segs
}

// segmentOnly reports whether an application's expression can be proven not to match "/" or a newline, so that it can
// be matched on one segment. Only plain positive classes and literals qualify.
func segmentOnly(c *converter) bool {
	return !c.backtracks && trustedClass.MatchString(c.py)
}

var trustedClass = regexp.MustCompile(`^(?:(?:\[[A-Za-z0-9_-]+\]|\\d|\\w|[A-Za-z0-9_-])(?:[*+?]|\{[0-9,]+\})?)+$`)

// isTail reports whether the pattern ends in a path parameter.
func (p *pattern) isTail() bool {
	last := len(p.segs) - 1
	return last >= 0 && p.segs[last].conv != nil && p.segs[last].conv.kind == kindPath
}

// matchTail matches a path parameter at the end; Python's "." does not match a newline.
func (c *converter) matchTail(s string) bool {
	return (c.empty || s != "") && (c.newlines || strings.IndexByte(s, '\n') < 0)
}

// capture stores the parameters of a matching path and returns the rest after the pattern. It reports false when the
// path does not match after all, or a converter rejects a value.
func (p *pattern) capture(path string, out *captures) (rest string, ok bool) {
	if p.segs == nil || strings.IndexByte(path, '\n') >= 0 {
		return p.captureRegexp(path, out)
	}
	if !p.relative {
		if path == "" || path[0] != '/' {
			return "", false
		}
		path = path[1:]
	}
	param := 0
	for i := range p.segs {
		s := &p.segs[i]
		if s.conv != nil && s.conv.kind == kindPath {
			out.set(p.names[param], path)
			return "", s.conv.matchTail(path)
		}
		end := strings.IndexByte(path, '/')
		if last := i == len(p.segs)-1; last != (end < 0) {
			return "", false
		}
		part := path
		if end >= 0 {
			part, path = path[:end], path[end+1:]
		}
		if s.conv == nil {
			if part != s.text {
				return "", false
			}
			continue
		}
		if !s.conv.matchSegment(part) || !s.conv.accept(part) {
			return "", false
		}
		out.set(p.names[param], part)
		param++
	}
	return "", true
}

func (p *pattern) captureRegexp(path string, out *captures) (rest string, ok bool) {
	if p.skipSlash {
		if path == "" || path[0] != '/' {
			return "", false
		}
		path = path[1:]
	}
	m := p.re.Find(path, &out.limitExceeded)
	if m == nil {
		return "", false
	}
	for i, g := range p.groups {
		if m[2*g] < 0 {
			continue // Django omits a named group that did not participate
		}
		value := path[m[2*g]:m[2*g+1]]
		if conv := p.converterOf(i); conv != nil && !conv.accept(value) {
			return "", false
		}
		out.set(p.names[i], value)
	}
	return path[m[1]:], true
}

func (p *pattern) converterOf(param int) *converter {
	for i := range p.pieces {
		if p.pieces[i].conv == nil {
			continue
		}
		if param == 0 {
			return p.pieces[i].conv
		}
		param--
	}
	return nil
}

// newRegexPattern compiles Django's re_path. Positional groups count only when there is no named one; they are named
// "0", "1" and so on.
func newRegexPattern(expr string, prefix bool) (*pattern, error) {
	full := !prefix && strings.HasSuffix(expr, "$")
	if prefix && strings.Contains(strings.ReplaceAll(expr, `\$`, ""), "$") {
		return nil, fmt.Errorf(`regular expression %q: an include with "$" can't be expressed`, expr)
	}
	translated, names, err := pyregex.Translate(expr, full)
	if err != nil {
		return nil, err
	}
	if full { // Django then uses fullmatch, else search
		for _, side := range [...]*string{&translated.RE2, &translated.Backtracking} {
			if *side != "" {
				*side = `\A(?:` + *side + `)\z`
			}
		}
	}
	p := &pattern{prefix: prefix}
	if p.re, err = pyregex.Compile(translated); err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", expr, err)
	}
	for i, name := range names {
		if name != "" {
			p.names, p.groups = append(p.names, name), append(p.groups, i+1)
		}
	}
	if len(p.names) == 0 {
		for i := range names {
			p.names, p.groups = append(p.names, fmt.Sprint(i)), append(p.groups, i+1)
		}
	}
	if len(p.names) > maxParams {
		return nil, fmt.Errorf("more than %d parameters", maxParams)
	}
	return p, nil
}

// makeRelative makes a pattern match the remainder after an include, which has no leading slash.
func (p *pattern) makeRelative() {
	p.relative = true
	pieces := append([]piece{{text: "/"}}, p.pieces...)
	if len(p.pieces) > 0 && p.pieces[0].conv == nil {
		pieces = append([]piece{{text: "/" + p.pieces[0].text}}, p.pieces[1:]...)
	}
	p.segs = segments(pieces)
}

// takeNewlines is for FastAPI's frontend(), which compares text where other routes use an expression: "." matches any
// byte, and a trailing newline belongs to the path.
func (p *pattern) takeNewlines() error {
	if len(p.pieces) != 2 || p.pieces[1].conv == nil || p.pieces[1].conv.kind != kindPath {
		if len(p.names) > 0 {
			return errors.New("a fallback ends in a path parameter and has no other")
		}
		p.re = pyregex.Linear(regexp.MustCompile(`\A` + regexp.QuoteMeta(p.fixed) + `\z`))
		return nil
	}
	every := *p.pieces[1].conv
	every.newlines = true
	p.pieces[1].conv = &every
	p.segs = segments(p.pieces)
	p.re = pyregex.Linear(regexp.MustCompile(`\A` + regexp.QuoteMeta(p.fixed) + `(?P<p0>(?s:.*))\z`))
	return nil
}
