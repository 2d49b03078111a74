package routes

import (
	"cmp"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gatehouse/routes/pyregex"
)

// Flask's matching: Werkzeug's state machine (werkzeug/routing/matcher.py) over the parts between slashes. Static parts
// come before dynamic ones, dynamic ones go by weight; a converter that refuses a value after its expression matched
// ends the search; a rule that lacks only its closing slash ends it with a redirect.

// state is a state between two parts.
type state struct {
	static  map[string]*state
	dynamic []transition
	rules   []*rule
}

// transition is a dynamic part. Rules share one when their parts are equal to Werkzeug: by expression and weight,
// without the limits that a converter checks later.
type transition struct {
	part part
	to   *state
}

// rule is a route in Werkzeug's form.
type rule struct {
	route        *Route
	names        []string
	pieces       []piece
	convs        []*converter
	strict       bool
	merge        bool
	redirects    bool // an alias or redirect_to: a match is answered by a redirect
	opaquePrefix string
	defaults     []defaultValue
	endpoint     string
	trace        string
}

// part is Werkzeug's RulePart.
type part struct {
	content  string // text, or the identity of an expression
	static   bool
	final    bool // matches the complete rest
	suffixed bool // ends in an optional slash
	weight   weight
	conv     *converter // the part consists of this converter
	re       *pyregex.Matcher
	params   int
}

// weight orders dynamic parts; it compares like Werkzeug's Weighting tuple.
type weight struct {
	static    []int // the lengths of the static pieces
	arguments []int
}

func (w weight) compare(v weight) int {
	if c := len(v.static) - len(w.static); c != 0 {
		return c
	}
	for i := range w.static { // both have the same length
		if c := v.static[i] - w.static[i]; c != 0 {
			return c
		}
	}
	if c := len(v.arguments) - len(w.arguments); c != 0 {
		return c
	}
	return slices.Compare(w.arguments, v.arguments)
}

// werkzeugPart is Werkzeug's grammar of a rule: a slash, text, or a parameter.
var werkzeugPart = regexp.MustCompile(
	`^(?:(/)|([^</]+)|<(?:([a-zA-Z_][a-zA-Z0-9_]*)(?:\((.*?)\))?:)?([a-zA-Z_][a-zA-Z0-9_]*)>)`)

// werkzeugParser splits one rule into parts.
type werkzeugParser struct {
	settings *settings
	parts    []part
	names    []string
	convs    []*converter
	pieces   []piece
	content  string             // of the current part: text, then Werkzeug's expression
	expr     pyregex.Expression // the same in Go's and the backtracking engine's syntax
	backs    bool               // a converter of the part needs the backtracking engine
	current  part
	lastConv *converter
	isolated bool // the current part is exactly one parameter
}

func (p *werkzeugParser) parse(text string) error {
	p.begin()
	for rest := text; rest != ""; {
		m := werkzeugPart.FindStringSubmatch(rest)
		if m == nil {
			return fmt.Errorf("malformed rule at %q", rest)
		}
		rest = rest[len(m[0]):]
		switch {
		case m[1] != "":
			p.pieces = append(p.pieces, piece{text: "/"})
			if p.current.final {
				p.content, p.expr, p.isolated = p.content+"/", p.expr.Append("/"), false
			} else if err := p.end(); err != nil {
				return err
			}
		case m[2] != "":
			p.literal(m[2])
		default:
			if err := p.param(m[5], m[3], m[4]); err != nil {
				return err
			}
		}
	}
	if p.current.final && strings.HasSuffix(p.content, "/") {
		p.current.suffixed = true
		p.content = p.content[:len(p.content)-1]
		p.expr = pyregex.Expression{RE2: p.expr.RE2[:len(p.expr.RE2)-1], Backtracking: p.expr.Backtracking[:len(p.expr.Backtracking)-1]}
		p.isolated = !p.backs && p.current.params == 1 && len(p.current.weight.static) == 0 && p.expr.RE2 == "("+p.lastConv.expr+")"
	}
	suffixed, weight := p.current.suffixed, p.current.weight
	if err := p.end(); err != nil {
		return err
	}
	if suffixed {
		p.parts = append(p.parts, part{static: true, weight: weight})
	}
	return nil
}

func (p *werkzeugParser) begin() {
	p.current, p.content, p.expr, p.backs, p.lastConv = part{static: true}, "", pyregex.Expression{}, false, nil
}

func (p *werkzeugParser) literal(text string) {
	p.pieces = append(p.pieces, piece{text: text})
	p.current.weight.static = append(p.current.weight.static, len([]rune(text)))
	p.isolated = false
	if p.current.static {
		p.content += text
	} else {
		p.content += regexp.QuoteMeta(text)
	}
	p.expr = p.expr.Append(regexp.QuoteMeta(text))
}

func (p *werkzeugParser) param(name, converter, args string) error {
	conv, err := p.settings.werkzeugConverter(converter, args)
	if err != nil {
		return err
	}
	if slices.Contains(p.names, name) {
		return fmt.Errorf("parameter %q twice", name)
	}
	if p.current.static {
		p.isolated = p.content == ""
		p.content = regexp.QuoteMeta(p.content)
	} else {
		p.isolated = false
	}
	p.current.static = false
	p.current.final = p.current.final || !conv.isolating
	p.content += fmt.Sprintf("(%d:%s)", p.current.params, conv.py)
	p.expr.RE2 += "(" + conv.expr + ")"
	p.expr.Backtracking += "(" + cmp.Or(conv.back, conv.expr) + ")"
	if conv.backtracks {
		p.backs, p.isolated = true, false
	}
	p.current.params++
	p.current.weight.arguments = append(p.current.weight.arguments, conv.weight)
	p.names, p.convs, p.lastConv = append(p.names, name), append(p.convs, conv), conv
	p.pieces = append(p.pieces, piece{name: name, conv: conv})
	return nil
}

func (p *werkzeugParser) end() error {
	p.current.content = p.content
	if !p.current.static {
		if p.isolated {
			p.current.conv = p.lastConv
		}
		e := pyregex.Expression{RE2: `\A` + p.expr.RE2 + `\z`, Backtracking: `\A` + p.expr.Backtracking + `\z`}
		if p.backs {
			e.RE2 = ""
		}
		var err error
		if p.current.re, err = pyregex.Compile(e); err != nil {
			return fmt.Errorf("can't be expressed: %w", err)
		}
	}
	p.parts = append(p.parts, p.current)
	p.begin()
	return nil
}

// add adds a rule to the machine.
func (root *state) add(parts []part, r *rule) {
	s := root
	for _, p := range parts {
		if p.static {
			if s.static == nil {
				s.static = map[string]*state{}
			}
			if s.static[p.content] == nil {
				s.static[p.content] = &state{}
			}
			s = s.static[p.content]
			continue
		}
		i := slices.IndexFunc(s.dynamic, func(t transition) bool { return t.part.equal(p) })
		if i < 0 {
			i = len(s.dynamic)
			s.dynamic = append(s.dynamic, transition{part: p, to: &state{}})
		}
		s = s.dynamic[i].to
	}
	s.rules = append(s.rules, r)
}

func (p part) equal(q part) bool {
	return p.content == q.content && p.final == q.final && p.suffixed == q.suffixed && p.weight.compare(q.weight) == 0
}

// sort sorts the dynamic transitions in Werkzeug's order.
func (root *state) sort() {
	slices.SortStableFunc(root.dynamic, func(a, b transition) int { return a.part.weight.compare(b.part.weight) })
	for _, s := range root.static {
		s.sort()
	}
	for _, t := range root.dynamic {
		t.to.sort()
	}
}

// machine is one run of the state machine.
type machine struct {
	method        string
	values        [maxParams]string
	n             int
	notHere       *Route // the first route that matched the path but not the method
	slash         bool   // ended: the request lacks a trailing slash
	limitExceeded bool   // an expression exceeded its limits
	slashed       *Route
}

// run matches the rest of the path; done says that nothing is left. It mirrors _match in Werkzeug's matcher.
func (m *machine) run(s *state, rest string, done bool) *rule {
	if done {
		return m.accept(s)
	}
	head, tail, more := strings.Cut(rest, "/")
	if next := s.static[head]; next != nil {
		if r := m.run(next, tail, !more); r != nil || m.slash {
			return r
		}
	}
	for i := range s.dynamic {
		t := &s.dynamic[i]
		target, left, end := head, tail, !more
		if t.part.final {
			target, left, end = rest, "", true
		}
		before := m.n
		matched, slash := m.test(&t.part, target)
		if !matched {
			m.n = before
			continue
		}
		if slash {
			left, end = "", false
		}
		if r := m.run(t.to, left, end); r != nil || m.slash {
			return r
		}
		m.n = before
	}
	if rest == "" { // only a trailing slash is left: rules with strict_slashes off match
		for _, r := range s.rules {
			if !r.strict && m.allows(r) {
				return r
			}
		}
	}
	return nil
}

func (m *machine) accept(s *state) *rule {
	for _, r := range s.rules {
		if m.allows(r) {
			return r
		}
	}
	if next := s.static[""]; next != nil {
		for _, r := range next.rules {
			if !r.route.takes(m.method) {
				continue
			}
			if r.strict {
				m.slash, m.slashed = true, r.route
				return nil
			}
			return r
		}
	}
	return nil
}

func (m *machine) allows(r *rule) bool {
	if r.route.takes(m.method) {
		return true
	}
	if r.route.socket && slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, m.method) || m.method == WebSocket && r.route.takes("GET") {
		return false // WebsocketMismatch: 400
	}
	if m.notHere == nil {
		m.notHere = r.route
	}
	return false
}

// test matches a dynamic part and pushes its values. slash says that a suffixed part consumed its trailing slash.
func (m *machine) test(p *part, target string) (matched, slash bool) {
	if p.suffixed {
		if slash = strings.HasSuffix(target, "/"); slash {
			target = target[:len(target)-1]
		}
		if strings.HasSuffix(target, "/") {
			return false, false // (?<!/)
		}
	}
	if p.conv != nil {
		if !p.conv.matchPart(target) {
			return false, false
		}
		m.push(target)
		return true, slash
	}
	groups := p.re.Find(target, &m.limitExceeded)
	if groups == nil {
		return false, false
	}
	for i := 1; i <= p.params; i++ {
		m.push(target[groups[2*i]:groups[2*i+1]])
	}
	return true, slash
}

func (m *machine) push(value string) {
	if m.n < maxParams {
		m.values[m.n] = value
		m.n++
	}
}

// matchPart matches a converter that is a complete part. Werkzeug's path converter matches neither a leading slash,
// nor a newline after the first character.
func (c *converter) matchPart(s string) bool {
	if c.kind != kindPath {
		return c.matchSegment(s)
	}
	return s != "" && s[0] != '/' && strings.IndexByte(s[1:], '\n') < 0
}

// flaskMount is an application below a prefix.
type flaskMount struct {
	prefix string
	table  *Table
}

// dispatchFlask is Werkzeug's DispatcherMiddleware: the longest mounted prefix of whole segments.
func (t *Table) dispatchFlask(method, host, path string) Match {
	if len(t.mounts) == 0 {
		return t.matchFlask(method, host, path)
	}
	for end := len(path); end > 0; end = strings.LastIndexByte(path[:end], '/') {
		for _, m := range t.mounts {
			if m.prefix == path[:end] {
				return m.table.matchFlask(method, host, path[end:])
			}
		}
	}
	return t.matchFlask(method, host, path)
}

// matchFlask is MapAdapter.match.
func (t *Table) matchFlask(method, host, path string) Match {
	for _, r := range t.opaque {
		if strings.HasPrefix(strings.TrimLeft(path, "/"), strings.TrimLeft(r.opaquePrefix, "/")) {
			return Match{Outcome: Refused, Route: r.route}
		}
	}
	start := t.machine.static[""]
	m := machine{method: upper(method)}
	switch {
	case path == "":
	case len(path) > 1 && path[1] == '/' || path[0] != '/':
		path = "/" + strings.TrimLeft(path, "/")
	}
	r := t.runFlask(&m, start, host, path)
	merged := false
	if r == nil && !m.slash && t.mergeSlashes && strings.Contains(path, "//") {
		merged = true
		path = mergeSlashes(path)
		m.n = 0
		r = t.runFlask(&m, start, host, path)
	}
	switch {
	case m.limitExceeded:
		return Match{Outcome: Refused}
	case m.slash:
		return Match{Outcome: Redirect, Route: m.slashed, slashes: true}
	case r != nil && merged && r.merge:
		return Match{Outcome: Redirect, Route: r.route}
	case r != nil && !merged && m.accepted(r):
		return t.arrived(&m, r)
	case m.notHere != nil:
		return Match{Outcome: MethodNotAllowed, Route: m.notHere}
	}
	return Match{}
}

// runFlask runs the domain part, then the path.
func (t *Table) runFlask(m *machine, start *state, host, path string) *rule {
	if !t.hosts {
		if start == nil {
			return nil
		}
		return m.run(start, path, false)
	}
	domain := t.domain(host)
	if next := t.machine.static[domain]; next != nil {
		if r := m.run(next, path, false); r != nil || m.slash {
			return r
		}
	}
	for i := range t.machine.dynamic {
		tr := &t.machine.dynamic[i]
		if tr.part.final {
			continue // a path converter in a host would match the path too; rejected by compile
		}
		if matched, _ := m.test(&tr.part, domain); matched {
			if r := m.run(tr.to, path, false); r != nil || m.slash {
				return r
			}
		}
		m.n = 0
	}
	return nil
}

// domain is what Werkzeug matches with a rule's host or subdomain.
func (t *Table) domain(host string) string {
	host = strings.ToLower(host)
	for _, port := range [...]string{":80", ":443"} {
		host = strings.TrimSuffix(host, port)
	}
	if t.serverName == "" {
		return host
	}
	if host == t.serverName {
		return ""
	}
	if sub, ok := strings.CutSuffix(host, "."+t.serverName); ok {
		return sub
	}
	return "<invalid>"
}

func (m *machine) accepted(r *rule) bool {
	for i, c := range r.convs {
		if i < m.n && !c.accept(m.values[i]) {
			return false
		}
	}
	return true
}

// arrived handles a match of a rule: with its parameters, or its redirect.
func (t *Table) arrived(m *machine, r *rule) Match {
	if r.redirects || t.redirectDefaults && t.defaultsElsewhere(m, r) {
		return Match{Outcome: Redirect, Route: r.route}
	}
	if len(r.names) == 0 {
		return Match{Outcome: Matched, Route: r.route}
	}
	params := make([]Param, 0, len(r.names))
	for i, name := range r.names {
		if i < m.n {
			params = append(params, Param{Name: name, Value: m.values[i]})
		}
	}
	return Match{Outcome: Matched, Route: r.route, Params: params}
}

// mergeSlashes replaces every run of slashes by one.
func mergeSlashes(path string) string {
	if !strings.Contains(path, "//") {
		return path
	}
	out := make([]byte, 0, len(path))
	for i := range len(path) {
		if path[i] != '/' || i == 0 || path[i-1] != '/' {
			out = append(out, path[i])
		}
	}
	return string(out)
}

// defaultValue is an entry of a rule's defaults: a value that is not in the URL.
type defaultValue struct {
	name string
	text string
	kind string // yaml's tag: !!str, !!int, !!float, !!bool, !!null
}

// defaultsElsewhere is get_default_redirect: another rule of the same endpoint has this rule's values as defaults.
func (t *Table) defaultsElsewhere(m *machine, r *rule) bool {
	for _, other := range t.byEndpoint[r.endpoint] {
		if other == r {
			return false
		}
		if len(other.defaults) > 0 && other.trace != r.trace && sameArguments(other, r) &&
			other.route.takes(m.method) && m.suits(other, r) {
			return true
		}
	}
	return false
}

func sameArguments(a, b *rule) bool {
	return slices.Equal(a.arguments(), b.arguments())
}

func (r *rule) arguments() []string {
	names := slices.Clone(r.names)
	for _, d := range r.defaults {
		names = append(names, d.name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// suits is Rule.suitable_for: each default of other for which this match has a value must equal it.
func (m *machine) suits(other, r *rule) bool {
	for _, d := range other.defaults {
		if i := slices.Index(r.names, d.name); i >= 0 {
			if !d.equals(r.convs[i], m.values[i]) {
				return false
			}
		}
		for _, own := range r.defaults {
			if own.name == d.name && own != d {
				return false
			}
		}
	}
	return true
}

// equals compares like Python compares the converted value with the default.
func (d defaultValue) equals(c *converter, value string) bool {
	if c.kind != kindInt && c.kind != kindFloat {
		return c.kind != kindUUID && d.kind == "!!str" && d.text == value
	}
	number, ok := c.number(value)
	if !ok {
		return false
	}
	switch d.kind {
	case "!!int", "!!float":
		want, ok := new(big.Rat).SetString(d.text)
		if d.kind == "!!float" {
			if f, err := strconv.ParseFloat(d.text, 64); err == nil {
				want, ok = new(big.Rat).SetFloat64(f), true
			}
		}
		return ok && want != nil && number.Cmp(want) == 0
	case "!!bool":
		is := int64(0)
		if d.text == "true" {
			is = 1
		}
		return number.Cmp(big.NewRat(is, 1)) == 0
	}
	return false
}

// werkzeugArgument is one argument of a converter; the expression is Werkzeug's _converter_args_re, which defines
// what is valid.
var werkzeugArgument = regexp.MustCompile(
	`^\s*(?:([\pL\pN_]+)\s*=\s*)?(True|False|\p{Nd}+.\p{Nd}+|\p{Nd}+.|\p{Nd}+|[\pL\pN_.]+|[urUR]?("[^"]*?"|'[^']*'))\s*,`)
