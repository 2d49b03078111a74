package routes

import (
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// The frameworks that try patterns in order: Starlette, FastAPI, Django; and OpenAPI, after sorting. A list holds the
// entries of one router, include or mount.

// maxDepth bounds the nesting of mounts and includes.
const maxDepth = 8

// none means no entry; it is larger than any index, so that "the first" is a minimum.
const none = math.MaxInt32

// entry is one place in a list: a route, a group of routes below a prefix or a host, or an unsupported route.
type entry struct {
	pat       *pattern
	host      *pattern // a Host of Starlette instead of a path
	targets   []*Route // a leaf: one route, or OpenAPI's operations under one template
	group     *list
	exclusive bool // a path match is final, whatever the method
	opaque    bool // unsupported: a path with its prefix is refused
	plain     bool // pat has no parameters and is a prefix: comparing text is enough
	socket    bool // a WebSocket's: invisible to other requests
	unsure    bool // Django: the application may skip it for a reason unknown to the table
	line      int
}

// list is immutable once built.
type list struct {
	entries  []entry
	root     *node
	relative bool // below an include of Django: paths have no leading slash
	redirect bool // Starlette's redirect_slashes
	fallback *list
	rootPath string // a mounted application's own root_path
}

// node is a node of the tree over whole segments. It is an optimization: the result equals trying in order.
type node struct {
	first  int // the lowest entry at or below this node
	static map[string]*node
	params []edge
	ends   []int // entries whose last segment ends here
	tails  []int // entries that begin with the segments up to here and match the rest by themselves
}

type edge struct {
	conv *converter
	to   *node
}

func newList(entries []entry, relative bool) *list {
	l := &list{entries: entries, root: &node{first: none}, relative: relative}
	for i := range entries {
		l.insert(i)
	}
	return l
}

func (l *list) insert(i int) {
	e := &l.entries[i]
	if e.host != nil {
		n := l.descend(nil, i)
		n.tails = append(n.tails, i)
		return
	}
	if e.pat != nil && e.pat.segs != nil && e.group == nil && !e.opaque {
		segs := e.pat.segs
		if e.pat.isTail() {
			n := l.descend(segs[:len(segs)-1], i)
			n.tails = append(n.tails, i)
			return
		}
		n := l.descend(segs, i)
		n.ends = append(n.ends, i)
		return
	}
	fixed := e.pat.fixed
	if !l.relative {
		fixed = strings.TrimPrefix(fixed, "/")
	}
	var segs []seg
	for _, part := range strings.SplitAfter(fixed, "/") {
		if text, whole := strings.CutSuffix(part, "/"); whole {
			segs = append(segs, seg{text: text})
		}
	}
	n := l.descend(segs, i)
	n.tails = append(n.tails, i)
}

// descend walks to the node of segs, creating nodes, and lowers first to i on the way.
func (l *list) descend(segs []seg, i int) *node {
	n := l.root
	n.first = min(n.first, i)
	for _, s := range segs {
		n = n.child(s)
		n.first = min(n.first, i)
	}
	return n
}

func (n *node) child(s seg) *node {
	if s.conv == nil {
		if n.static == nil {
			n.static = map[string]*node{}
		}
		if n.static[s.text] == nil {
			n.static[s.text] = &node{first: none}
		}
		return n.static[s.text]
	}
	for _, e := range n.params {
		if e.conv.kind == s.conv.kind && e.conv.expr == s.conv.expr {
			return e.to
		}
	}
	n.params = append(n.params, edge{conv: s.conv, to: &node{first: none}})
	return n.params[len(n.params)-1].to
}

// search is one search in one list.
type search struct {
	list          *list
	rule          *settings
	method        string
	host          string
	path          string
	any           bool // ignore the method: Starlette's check of a redirect's target
	full          int  // the first entry that matches the request
	partial       int  // the first one that matches the path but not the method
	depth         int
	below         result // Django: the match inside entry full
	limitExceeded bool   // an expression exceeded its limits: other matches do not count
}

// applies reports whether an entry applies to the kind of request: a WebSocket upgrade sees only WebSocket routes and
// groups that may contain them.
func (s *search) applies(e *entry) bool {
	return e.socket == (s.method == WebSocket) || !e.socket && (e.group != nil || e.opaque)
}

// run finds the first match. The tree is used for ordinary paths only: Python's expressions treat a newline
// specially, and the tree needs a leading slash.
func (s *search) run() {
	s.full, s.partial = none, none
	start := 1
	if s.list.relative {
		start = 0
	} else if s.path == "" || s.path[0] != '/' {
		start = -1
	}
	if start < 0 || strings.IndexByte(s.path, '\n') >= 0 {
		for i := range s.list.entries {
			if s.full == none {
				s.matchEntry(i)
			}
		}
		return
	}
	s.walk(s.list.root, start)
}

// walk visits the nodes that the path can reach from pos on. Each node has one depth, so none is visited twice.
func (s *search) walk(n *node, pos int) {
	if n.first >= s.full {
		return
	}
	for _, i := range n.tails {
		if i < s.full {
			s.matchEntry(i)
		}
	}
	if len(n.static) == 0 && len(n.params) == 0 {
		return
	}
	part, end := s.path[pos:], strings.IndexByte(s.path[pos:], '/')
	if end >= 0 {
		part = part[:end]
	}
	if next := n.static[part]; next != nil {
		s.step(next, pos, end)
	}
	for i := range n.params {
		if e := &n.params[i]; e.to.first < s.full && e.conv.matchSegment(part) {
			if s.rule.framework == Django && !e.conv.accept(part) {
				continue
			}
			s.step(e.to, pos, end)
		}
	}
}

func (s *search) step(n *node, pos, end int) {
	if end >= 0 {
		s.walk(n, pos+end+1)
		return
	}
	for _, i := range n.ends {
		s.offer(i)
	}
}

// matchEntry matches one entry against the complete path.
func (s *search) matchEntry(i int) {
	e := &s.list.entries[i]
	switch {
	case !s.applies(e):
	case e.pat != nil && e.pat.re != nil && e.pat.re.Backtracks() && !strings.HasPrefix(s.path, e.pat.fixed): // what can't match is not tried
	case e.opaque:
		if strings.HasPrefix(s.path, e.pat.fixed) {
			s.offer(i)
		}
	case e.host != nil:
		if e.host.re.Match(s.host, &s.limitExceeded) {
			s.offer(i)
		}
	case e.group != nil && s.rule.framework == Django:
		s.include(i)
	case e.group != nil && e.plain:
		if strings.HasPrefix(s.path, e.pat.fixed) && strings.IndexByte(s.path, '\n') < 0 {
			s.offer(i)
		} else if strings.IndexByte(s.path, '\n') >= 0 && e.pat.re.Match(s.path, &s.limitExceeded) {
			s.offer(i)
		}
	case e.pat.isTail() && len(e.pat.segs) == 1 && strings.IndexByte(s.path, '\n') < 0:
		if e.pat.segs[0].conv.matchTail(s.path[min(1, len(s.path)):]) {
			s.offer(i)
		}
	case s.rule.framework == Django:
		scratch := captures{limitExceeded: s.limitExceeded}
		if _, ok := e.pat.capture(s.path, &scratch); ok {
			s.offer(i)
		}
		s.limitExceeded = scratch.limitExceeded
	case e.pat.matches(s.path, &s.limitExceeded):
		s.offer(i)
	}
}

// matches matches the expression alone, before converters reject values.
func (p *pattern) matches(path string, stuck *bool) bool {
	if p.segs == nil || strings.IndexByte(path, '\n') >= 0 || p.check {
		return p.re.Match(path, stuck)
	}
	var scratch captures
	_, ok := p.capture(path, &scratch)
	return ok
}

// offer records an entry whose path matches.
func (s *search) offer(i int) {
	e := &s.list.entries[i]
	if i >= s.full || !s.applies(e) {
		return
	}
	if s.raises(e) {
		s.full = i
		return
	}
	if s.any || e.exclusive || e.group != nil || e.opaque || e.target(s.method) != nil {
		s.full = i
		return
	}
	s.partial = min(s.partial, i)
}

// raises reports that Starlette's convert() raises here, which ends the search with a 500 even where the method does
// not match: int() with too many digits. finish and redirected treat such an entry as no match.
func (s *search) raises(e *entry) bool {
	if len(s.path) <= maxIntDigits || e.group != nil || e.opaque || s.rule.framework != Starlette && s.rule.framework != FastAPI {
		return false
	}
	scratch := captures{limitExceeded: s.limitExceeded}
	_, ok := e.pat.capture(s.path, &scratch)
	s.limitExceeded = scratch.limitExceeded
	return !ok
}

// target is the leaf's route for a method.
func (e *entry) target(method string) *Route {
	for _, r := range e.targets {
		if r.takes(method) {
			return r
		}
	}
	return nil
}

// level is one pattern on the way to a route, with its input path.
type level struct {
	pat  *pattern
	path string
}

// result is the result of a search. n counts the levels; 0 is a miss.
type result struct {
	outcome Outcome
	route   *Route
	levels  [maxDepth]level
	n       int
	unsure  bool // the result may be decided at a deeper level
}

// leaf decides by method at an entry whose path matches.
func (e *entry) leaf(method string) result {
	if e.opaque {
		return result{outcome: Refused, route: e.targets[0]}
	}
	if r := e.target(method); r != nil {
		return result{outcome: Matched, route: r}
	}
	return result{outcome: MethodNotAllowed, route: e.targets[0]}
}

// matchOpenAPI selects the most concrete template; its operations decide about the method.
func (t *Table) matchOpenAPI(method, path string) Match {
	path, ok := t.belowRoot(path)
	if !ok {
		return Match{}
	}
	s := search{list: t.list, rule: &t.settings, method: method, path: path}
	s.run()
	if s.full == none {
		return Match{}
	}
	e := &t.list.entries[s.full]
	found := e.leaf(method)
	if found.outcome != Matched {
		return Match{Outcome: found.outcome, Route: found.route}
	}
	var values captures
	pat := e.pat
	if own := found.route.pat; own != nil {
		pat = own // another operation may name the same parameters differently
	}
	pat.capture(path, &values)
	return Match{Outcome: Matched, Route: found.route, Params: values.params()}
}

// belowRoot removes OpenAPI's server path.
func (t *Table) belowRoot(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, t.rootPath)
	if !ok || rest != "" && t.rootPath != "" && rest[0] != '/' {
		return "", false
	}
	if rest == "" && t.rootPath != "" {
		rest = "/"
	}
	return rest, true
}

// matchStarlette is Router.app, through mounts and hosts. scope["path"] stays complete; root_path grows.
func (t *Table) matchStarlette(method, host, path string) Match {
	s := search{list: t.list, rule: &t.settings, method: method, host: starletteHost(host)}
	root := t.rootPath
	var values captures
	for s.depth = 0; s.depth < maxDepth; s.depth++ {
		if s.list.rootPath != "" {
			root = s.list.rootPath
		}
		s.path = routePath(path, root)
		s.run()
		if s.limitExceeded {
			return Match{Outcome: Refused}
		}
		if s.full == none {
			return s.missed(path, root, &values)
		}
		e := &s.list.entries[s.full]
		if e.group == nil {
			return e.finish(&s, &values)
		}
		if e.host != nil {
			e.host.captureRegexp(s.host, &values)
		} else {
			below, ok := e.enter(s.path, &values)
			if values.limitExceeded {
				return Match{Outcome: Refused}
			}
			if !ok {
				return Match{}
			}
			root = joinRoot(path, root, below)
		}
		s.list = e.group
	}
	return Match{}
}

// finish handles a match of a route.
func (e *entry) finish(s *search, values *captures) Match {
	if s.raises(e) {
		return Match{} // the server answers 500 before any view runs
	}
	found := e.leaf(s.method)
	if found.outcome != Matched {
		return Match{Outcome: found.outcome, Route: found.route}
	}
	switch _, ok := e.pat.capture(s.path, values); {
	case values.limitExceeded:
		return Match{Outcome: Refused, Route: found.route}
	case !ok:
		return Match{}
	}
	return Match{Outcome: Matched, Route: found.route, Params: values.params()}
}

// enter goes into a mount: it stores the mount's parameters and returns the part of the path that it consumed.
func (e *entry) enter(path string, values *captures) (taken string, ok bool) {
	if e.plain && strings.IndexByte(path, '\n') < 0 {
		return e.pat.fixed[:len(e.pat.fixed)-1], true
	}
	var own captures
	_, ok = e.pat.captureRegexp(path, &own)
	if values.limitExceeded = own.limitExceeded; !ok {
		return "", false
	}
	last := own.n - 1 // the "{path:path}" that every mount ends in is not passed on
	for i := range last {
		values.set(own.names[i], own.values[i])
	}
	return dropRunes(path, utf8.RuneCountInString(own.values[last])+1), true
}

// missed handles a search without a match: 405, a redirect, a fallback, 404.
func (s *search) missed(path, root string, values *captures) Match {
	if s.partial != none {
		return Match{Outcome: MethodNotAllowed, Route: s.list.entries[s.partial].targets[0]}
	}
	if s.method == WebSocket {
		return Match{}
	}
	if s.list.redirect && s.path != "/" {
		other := path + "/"
		if strings.HasSuffix(s.path, "/") {
			other = strings.TrimRight(path, "/")
		}
		again := search{list: s.list, rule: s.rule, host: s.host, path: routePath(other, root), any: true}
		if again.run(); again.limitExceeded {
			return Match{Outcome: Refused}
		} else if again.full != none {
			return again.redirected()
		}
	}
	if s.list.fallback != nil {
		last := search{list: s.list.fallback, rule: s.rule, method: s.method, host: s.host, path: s.path}
		if last.run(); last.limitExceeded {
			return Match{Outcome: Refused}
		} else if last.full != none {
			return last.list.entries[last.full].finish(&last, values)
		} else if last.partial != none {
			return Match{Outcome: MethodNotAllowed, Route: last.list.entries[last.partial].targets[0]}
		}
	}
	return Match{}
}

func (s *search) redirected() Match {
	e := &s.list.entries[s.full]
	if e.opaque {
		return Match{Outcome: Refused, Route: e.targets[0]}
	}
	var scratch captures
	if e.group == nil {
		if _, ok := e.pat.capture(s.path, &scratch); !ok {
			return Match{} // or exceeded its limits: no route is reached either way
		}
		return Match{Outcome: Redirect, Route: e.targets[0], slashes: true}
	}
	return Match{Outcome: Redirect, slashes: true}
}

// routePath is starlette._utils.get_route_path.
func routePath(path, root string) string {
	switch {
	case root == "" || !strings.HasPrefix(path, root):
		return path
	case path == root:
		return ""
	case path[len(root)] == '/':
		return path[len(root):]
	}
	return path
}

// joinRoot is root + below, without an allocation where both are the beginning of path.
func joinRoot(path, root, below string) string {
	if strings.HasPrefix(path, root) && strings.HasPrefix(path[len(root):], below) {
		return path[:len(root)+len(below)]
	}
	return root + below
}

func dropRunes(s string, n int) string {
	for ; n > 0 && s != ""; n-- {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// starletteHost is the host without port, in lower case; "" for one that parse_host_header rejects.
func starletteHost(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host = host[:i]
	}
	for i := range len(host) {
		c := host[i]
		if isSlug(rune(c)) || strings.IndexByte(".~%!$&'()*+,;=", c) >= 0 || host[0] == '[' && strings.IndexByte("[]:", c) >= 0 {
			continue
		}
		return ""
	}
	return strings.ToLower(host)
}

func (r *Route) takes(method string) bool {
	if r.socket || method == WebSocket {
		return r.socket && method == WebSocket
	}
	return r.effective == nil || slices.Contains(r.effective, method)
}

// upper is ToUpper, fast where nothing changes.
func upper(s string) string {
	for i := range len(s) {
		if 'a' <= s[i] && s[i] <= 'z' || s[i] >= utf8.RuneSelf {
			return strings.ToUpper(s)
		}
	}
	return s
}
