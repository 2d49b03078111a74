package routes

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// compiler builds a table from a spec. It collects all errors, as the reader does.
type compiler struct {
	lenient bool // for imports: an unsupported entry becomes one with the reason
	file    string
	table   *Table
	errs    []error
	notices []Notice
	mounted string // flask: the prefix of the mounted application
}

func compile(file string, spec *tableSpec) (*Table, []Notice, error) {
	c := &compiler{file: file}
	return c.compile(spec)
}

// compileLeniently is compile for imports.
func compileLeniently(file string, spec *tableSpec) (*Table, []Notice, error) {
	c := &compiler{file: file, lenient: true}
	return c.compile(spec)
}

func (c *compiler) compile(spec *tableSpec) (*Table, []Notice, error) {
	t := &Table{settings: spec.settings, spec: spec}
	c.table = t
	c.converters(spec)
	if spec.framework == Flask {
		c.flask(t, spec.routes)
	} else {
		t.list = c.list(spec.routes, groupContext{})
		if spec.framework == OpenAPI {
			t.list = c.openapi(t.list.entries)
		}
		t.list.redirect = spec.redirectSlashes
	}
	if len(c.errs) > 0 {
		return nil, nil, errors.Join(c.errs...)
	}
	c.unreachable()
	return t, c.notices, nil
}

func (c *compiler) fail(line int, format string, args ...any) {
	if len(c.errs) >= maxErrors {
		return
	}
	err := fmt.Errorf(format, args...)
	if line > 0 {
		err = fmt.Errorf("%s:%d: %w", c.file, line, err)
	}
	c.errs = append(c.errs, err)
}

func (c *compiler) note(line, other int, format string, args ...any) {
	c.notices = append(c.notices, Notice{File: c.file, Line: line, Other: other, Text: fmt.Sprintf(format, args...)})
}

func (c *compiler) converters(spec *tableSpec) {
	c.table.custom = map[string]*converter{}
	for _, s := range spec.converters {
		conv, err := customConverter(s.name, s.regex, s.weight, s.segment)
		if err == nil && c.table.framework == Django {
			conv.unsure = !s.exact
		}
		if err != nil && c.lenient {
			c.note(0, 0, "%v: its routes can't be expressed", err)
			continue
		}
		if err != nil {
			c.fail(s.line, "%w", err)
			continue
		}
		c.table.custom[s.name] = conv
	}
}

// route makes the Route of an entry and lists it.
func (c *compiler) route(s *routeSpec, template, host string) *Route {
	options := c.table.automaticOptions
	if s.automaticOptions != nil {
		options = *s.automaticOptions
	}
	r := &Route{
		Methods: s.methods, Template: template, Name: s.name, Host: host, Tags: s.tags, Allow: s.allow, IgnoreBody: s.body == "ignore", Guess: s.guess, Manual: s.manual,
		Unsupported: s.unsupported, Line: s.line, options: s.options(),
		effective:     c.table.effectiveMethods(s.methods, options),
		socket:        slices.Contains(s.methods, WebSocket),
		noAppendSlash: s.appendSlash != nil && !*s.appendSlash,
	}
	c.table.routes = append(c.table.routes, r)
	c.unknownMethods(s)
	if s.unsupported != "" {
		c.note(s.line, 0, "%s can't be expressed (%s): paths that begin like it are refused", describe(r), s.unsupported)
	}
	return r
}

// unknownMethods warns of methods that may be misspelt. Custom methods are valid, so they are no error; an import has
// them from the application itself.
func (c *compiler) unknownMethods(s *routeSpec) {
	if c.lenient {
		return
	}
	for _, m := range s.methods {
		if m != WebSocket && !slices.Contains(registeredMethods[:], m) {
			c.note(s.line, 0, "method %q is not a registered HTTP method%s", m, didYouMean(m, registeredMethods[:commonMethods]))
		}
	}
}

// commonMethods is how many of registeredMethods are commonly used.
const commonMethods = 7

// registeredMethods are from IANA's HTTP Method Registry.
var registeredMethods = [...]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS",
	"ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "CONNECT", "COPY", "LABEL", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL",
	"MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PRI", "PROPFIND", "PROPPATCH", "QUERY", "REBIND", "REPORT", "SEARCH", "TRACE", "UNBIND",
	"UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL"}

func describe(r *Route) string {
	methods := "ANY"
	if r.Methods != nil {
		methods = strings.Join(r.Methods, ", ")
	}
	return strings.TrimSpace(methods + " " + r.Template)
}

// flask builds the state machine of t: the complete table, or an application mounted in it.
func (c *compiler) flask(t *Table, specs []routeSpec) {
	t.machine, t.byEndpoint = &state{}, map[string][]*rule{}
	t.hosts = t.hostMatching || t.serverName != ""
	for i := range specs {
		s := &specs[i]
		if s.isGroup() {
			c.flaskMount(t, s)
			continue
		}
		if !strings.HasPrefix(s.template, "/") {
			c.fail(s.line, "template %q does not start with a slash", s.template)
			continue
		}
		r, parts, err := c.flaskRule(s)
		if err != nil && c.lenient {
			s.unsupported = err.Error()
			r, _, err = c.flaskRule(s)
		}
		if err != nil {
			c.fail(s.line, "template %q: %w", s.template, err)
			continue
		}
		r.route = c.route(s, c.mounted+s.template, s.host)
		r.route.pieces = joinTexts(append([]piece{{text: c.mounted}}, r.pieces...))
		if s.unsupported != "" {
			t.opaque = append(t.opaque, r)
			continue
		}
		t.machine.add(parts, r)
		if s.name != "" {
			t.byEndpoint[s.name] = append(t.byEndpoint[s.name], r)
		}
	}
	t.machine.sort()
	for _, rules := range t.byEndpoint { // Rule.build_compare_key, without aliases, which always redirect
		slices.SortStableFunc(rules, func(a, b *rule) int {
			if d := len(b.arguments()) - len(a.arguments()); d != 0 {
				return d
			}
			return len(b.defaults) - len(a.defaults)
		})
	}
}

// flaskMount is an application below a prefix of Werkzeug's DispatcherMiddleware.
func (c *compiler) flaskMount(t *Table, s *routeSpec) {
	if c.mounted != "" || !strings.HasPrefix(s.template, "/") || strings.HasSuffix(s.template, "/") {
		c.fail(s.line, "mount %q: starts with a slash, ends without one, and is no part of another mount", s.template)
		return
	}
	inner := &Table{settings: t.settings}
	c.mounted = s.template
	c.flask(inner, s.routes)
	c.mounted = ""
	t.mounts = append(t.mounts, flaskMount{prefix: s.template, table: inner})
}

func (c *compiler) flaskRule(s *routeSpec) (*rule, []part, error) {
	t := c.table
	r := &rule{strict: t.strictSlashes, merge: t.mergeSlashes, redirects: s.redirects, defaults: s.defaults, endpoint: s.name}
	if s.strictSlashes != nil {
		r.strict = *s.strictSlashes
	}
	if s.mergeSlashes != nil {
		r.merge = *s.mergeSlashes
	}
	if s.unsupported != "" {
		r.opaquePrefix, _, _ = strings.Cut(s.template, "<")
		return r, nil, nil
	}
	parts, err := c.flaskParts(s, r)
	return r, parts, err
}

func (c *compiler) flaskParts(s *routeSpec, rule *rule) ([]part, error) {
	p := werkzeugParser{settings: &c.table.settings}
	if s.host == "" {
		p.parts = []part{{static: true}}
	} else if err := p.parse(s.host); err != nil {
		return nil, fmt.Errorf("host %q: %w", s.host, err)
	} else if len(p.parts) != 1 || p.parts[0].final {
		return nil, fmt.Errorf("host %q: a slash, or a path converter", s.host)
	}
	text := s.template
	if rule.merge {
		text = mergeSlashes(text)
	}
	p.pieces = nil
	if err := p.parse(text); err != nil {
		return nil, err
	}
	rule.pieces = p.pieces
	if len(p.names) > maxParams {
		return nil, fmt.Errorf("more than %d parameters", maxParams)
	}
	rule.names, rule.convs = p.names, p.convs
	rule.trace = s.host + "|" + werkzeugTrace.ReplaceAllString(text, "<$1>")
	return p.parts, nil
}

// werkzeugTrace reduces a parameter to its name: Werkzeug compares rules by their traces.
var werkzeugTrace = regexp.MustCompile(`<(?:[^<>:]*:)?([a-zA-Z_][a-zA-Z0-9_]*)>`)

// groupContext is what an entry inherits from enclosing groups.
type groupContext struct {
	prefix, host string
	pieces       []piece // of the prefixes, to find unreachable routes
	noSample     bool    // a prefix is an expression or a host, so no sample path can be made
	relative     bool
	depth        int
}

// list builds the entries of one router, include or mount.
func (c *compiler) list(specs []routeSpec, in groupContext) *list {
	var entries, last []entry
	for i := range specs {
		s := &specs[i]
		e, err := c.entry(s, in)
		if err != nil && c.lenient {
			c.markUnsupported(s, err)
			e, err = c.entry(s, in)
		}
		if err != nil {
			c.fail(s.line, "%s %q: %w", s.key, s.template, err)
			continue
		}
		if e == nil {
			continue // its own errors are recorded
		}
		e.line = s.line
		if s.fallback {
			last = append(last, *e)
		} else {
			entries = append(entries, *e)
		}
	}
	l := newList(entries, in.relative)
	if len(last) > 0 {
		l.fallback = newList(last, in.relative)
	}
	return l
}

// markUnsupported marks an entry as unsupported. A group becomes one such entry, with notices for its routes.
func (c *compiler) markUnsupported(s *routeSpec, err error) {
	for _, inner := range s.routes {
		c.note(0, 0, "%s %s below %q is left out: %v", inner.key, inner.template, s.template, err)
	}
	if s.key != "route" {
		s.key = map[string]string{"re_path": "re_path", "re_include": "re_path"}[s.key]
	}
	if s.key == "" {
		s.key = "route"
	}
	s.routes, s.unsupported = nil, err.Error()
}

func (c *compiler) entry(s *routeSpec, in groupContext) (*entry, error) {
	if s.isGroup() {
		return c.group(s, in)
	}
	if !in.relative && s.key != "re_path" && !strings.HasPrefix(s.template, "/") {
		return nil, errors.New("a template starts with a slash")
	}
	e := &entry{unsure: s.unsure, socket: slices.Contains(s.methods, WebSocket), exclusive: s.exclusive || c.table.framework == Django || c.table.framework == OpenAPI}
	if s.unsupported != "" {
		e.opaque, e.pat = true, &pattern{fixed: c.opaquePrefix(s, in)}
		e.targets = []*Route{c.route(s, joinTemplate(in.prefix, s), in.host)}
		return e, nil
	}
	var err error
	if s.key == "re_path" {
		e.pat, err = c.regexPattern(s.template, false, in)
	} else {
		e.pat, err = c.table.newPattern(s.template, false)
		switch {
		case err == nil && in.relative:
			e.pat.makeRelative()
		case err == nil && s.fallback:
			err = e.pat.takeNewlines()
		}
	}
	if err != nil {
		return nil, err
	}
	route := c.route(s, joinTemplate(in.prefix, s), in.host)
	e.targets = []*Route{route}
	if !in.noSample && s.key == "route" {
		route.pieces = joinTexts(slices.Concat(in.pieces, e.pat.pieces))
	}
	return e, nil
}

// regexPattern compiles re_path; at the top level Django has removed the leading slash.
func (c *compiler) regexPattern(expr string, prefix bool, in groupContext) (*pattern, error) {
	p, err := newRegexPattern(expr, prefix)
	if err != nil {
		return nil, err
	}
	p.fixed = literalPrefix(expr)
	if !in.relative {
		p.fixed, p.skipSlash = "/"+p.fixed, true
	}
	return p, nil
}

// literalPrefix is the literal text that every match of an anchored expression starts with.
func literalPrefix(expr string) string {
	rest, anchored := strings.CutPrefix(expr, "^")
	if !anchored || strings.Contains(expr, "|") {
		return ""
	}
	text := leadingLiteral.FindString(rest)
	if next := rest[len(text):]; next != "" && strings.IndexByte("*?{", next[0]) >= 0 && text != "" {
		text = text[:len(text)-1]
	}
	return text
}

var leadingLiteral = regexp.MustCompile(`^[A-Za-z0-9_/~@:;,=!-]*`)

// opaquePrefix is the required path prefix for an unsupported route.
func (c *compiler) opaquePrefix(s *routeSpec, in groupContext) string {
	if s.key == "re_path" {
		prefix := literalPrefix(s.template)
		if !in.relative {
			prefix = "/" + prefix
		}
		return prefix
	}
	return s.template[:len(s.template)-len(strings.TrimLeft(s.template, "/"))] + leadingText(strings.TrimLeft(s.template, "/"))
}

func leadingText(template string) string {
	if i := strings.IndexAny(template, "<{("); i >= 0 {
		return template[:i]
	}
	return template
}

// joinTemplate is the full template of a route in groups: the prefixes and its own.
func joinTemplate(prefix string, s *routeSpec) string {
	own := s.template
	if s.key == "re_path" {
		own = strings.TrimPrefix(own, "^")
		if prefix == "" {
			prefix = "/"
		}
	}
	return prefix + own
}

// group compiles the entries of a mount, a host or an include.
func (c *compiler) group(s *routeSpec, in groupContext) (*entry, error) {
	e := &entry{unsure: s.unsure}
	inner := in
	inner.depth++
	var err error
	switch s.key {
	case "include", "re_include":
		if s.key == "include" {
			if !in.relative && !strings.HasPrefix(s.template, "/") {
				return nil, errors.New("a template starts with a slash")
			}
			e.pat, err = c.table.newPattern(s.template, true)
		} else {
			e.pat, err = c.regexPattern(s.template, true, in)
		}
		inner.relative, inner.noSample = true, in.noSample || s.key == "re_include"
		if err == nil {
			inner.pieces = slices.Concat(in.pieces, e.pat.pieces)
		}
		inner.prefix = joinTemplate(in.prefix, &routeSpec{key: strings.Replace(s.key, "re_include", "re_path", 1), template: s.template})
	case "mount":
		prefix := strings.TrimRight(s.template, "/")
		if s.template != "" && !strings.HasPrefix(s.template, "/") {
			return nil, errors.New("a mount starts with a slash")
		}
		e.pat, err = c.table.newPattern(prefix+"/{path:path}", false)
		inner.prefix = in.prefix + prefix
		if err == nil {
			mounted, _ := c.table.parseTemplate(prefix)
			inner.pieces = slices.Concat(in.pieces, mounted)
		}
	case "host_mount":
		e.host, err = c.table.newHostPattern(s.template)
		inner.host, inner.noSample = s.template, true
	}
	if err != nil {
		return nil, err
	}
	if e.pat != nil {
		e.plain = len(e.pat.names) == 0 && s.key == "include" || s.key == "mount" && len(e.pat.names) == 1
	}
	e.group = c.list(s.routes, inner)
	e.group.redirect = s.redirectSlashes == nil || *s.redirectSlashes
	e.group.rootPath = s.rootPath
	return e, nil
}

// newHostPattern compiles a Starlette host: case-insensitive, port ignored.
func (s *settings) newHostPattern(host string) (*pattern, error) {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexAny(host, "]}") {
		host = host[:i]
	}
	pieces, err := s.parseTemplate(host)
	if err != nil {
		return nil, err
	}
	for i := range pieces {
		pieces[i].text = strings.ToLower(pieces[i].text)
	}
	p := &pattern{pieces: pieces}
	var expr exprBuilder
	expr.raw(`\A`)
	for _, piece := range pieces {
		if piece.conv == nil {
			expr.raw(regexp.QuoteMeta(piece.text))
			continue
		}
		expr.converter(piece.conv, len(p.names))
		p.names, p.groups = append(p.names, piece.name), append(p.groups, len(p.names)+1)
	}
	expr.raw(`\z`)
	if p.re, err = expr.compile(); err != nil {
		return nil, err
	}
	return p, nil
}

// openapi sorts templates from the most concrete to the least and merges the operations of each template.
func (c *compiler) openapi(entries []entry) *list {
	slices.SortStableFunc(entries, func(a, b entry) int { return compareConcrete(a.pat.pieces, b.pat.pieces) })
	var merged []entry
	for _, e := range entries {
		if n := len(merged); n > 0 && !e.opaque && !merged[n-1].opaque && e.socket == merged[n-1].socket && shape(e.pat.pieces) == shape(merged[n-1].pat.pieces) {
			e.targets[0].pat = e.pat
			merged[n-1].targets = append(merged[n-1].targets, e.targets...)
			continue
		}
		merged = append(merged, e)
	}
	return newList(merged, false)
}

// shape is a template without parameter names.
func shape(pieces []piece) string {
	text := ""
	for _, p := range pieces {
		if p.conv != nil {
			text += "{}"
		} else {
			text += p.text
		}
	}
	return text
}

// compareConcrete orders by the first difference in kind: text before a parameter. If one template is a prefix of the
// other, the longer comes first; otherwise alphabetically, so that equal shapes are adjacent.
func compareConcrete(a, b []piece) int {
	as, bs := strings.Split(shape(a), "/"), strings.Split(shape(b), "/")
	for i := 0; i < len(as) && i < len(bs); i++ {
		if d := vagueness(as[i]) - vagueness(bs[i]); d != 0 {
			return d
		}
	}
	if d := len(bs) - len(as); d != 0 {
		return d
	}
	return strings.Compare(shape(a), shape(b))
}

// vagueness ranks a segment: none for text, more for a parameter with text around it, most for a bare parameter.
func vagueness(segment string) int {
	switch {
	case segment == "{}":
		return 1 << 20
	case strings.Contains(segment, "{}"):
		return 1<<19 - len(segment)
	}
	return 0
}

// options encodes the keys that affect matching besides methods and template.
func (s *routeSpec) options() string {
	var out []string
	flag := func(name string, value *bool) {
		if value != nil {
			out = append(out, fmt.Sprintf("%s=%t", name, *value))
		}
	}
	flag("strict_slashes", s.strictSlashes)
	flag("merge_slashes", s.mergeSlashes)
	flag("append_slash", s.appendSlash)
	for name, value := range map[string]bool{"redirects": s.redirects, "exclusive": s.exclusive, "fallback": s.fallback, "unsure": s.unsure} {
		if value {
			out = append(out, name)
		}
	}
	for _, d := range s.defaults {
		out = append(out, fmt.Sprintf("%s=%q", d.name, d.text))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
