package routes

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/nearest"
	"gatehouse/yamltext"
)

// Bounds of a table. A larger file is rejected.
const (
	MaxBytes    = 8 << 20
	MaxRoutes   = 20000
	MaxTemplate = 4096
)

// settings are the keys of a table that are not routes.
type settings struct {
	framework        string
	server           string // django: wsgi or asgi
	mount            mount
	rootPath         string
	strictSlashes    bool
	mergeSlashes     bool
	redirectDefaults bool
	automaticOptions bool
	hostMatching     bool
	serverName       string
	redirectSlashes  bool
	appendSlash      bool
	custom           map[string]*converter
}

// tableSpec is the content of routes.yaml: Parse reads it, importers make it and YAML prints it.
type tableSpec struct {
	settings
	source     string // how the file was made
	converters []converterSpec
	routes     []routeSpec
}

type converterSpec struct {
	name, regex string
	weight      int  // flask; 100
	segment     bool // flask: part_isolating
	exact       bool // django: to_python accepts every match of regex
	line        int
}

// routeSpec is one entry under routes:, or a group of them.
type routeSpec struct {
	key      string // route, re_path; or for a group: include, re_include, mount, host_mount
	methods  []string
	template string
	line     int

	name, host, unsupported string
	tags                    []string
	allow                   Forms
	body                    string // parse, ignore or ""
	guess                   bool
	strictSlashes           *bool
	mergeSlashes            *bool
	automaticOptions        *bool
	appendSlash             *bool
	redirectSlashes         *bool
	redirects, exclusive    bool
	manual                  bool // added by the maintainer, not from the application
	fallback                bool
	unsure                  bool
	defaults                []defaultValue
	rootPath                string
	routes                  []routeSpec
}

func (s *routeSpec) isGroup() bool { return s.key != "route" && s.key != "re_path" }

func newTableSpec(framework string) *tableSpec {
	return &tableSpec{settings: settings{
		framework: framework, strictSlashes: true, mergeSlashes: true, redirectDefaults: true, automaticOptions: true,
		redirectSlashes: true, appendSlash: true, server: "wsgi",
	}}
}

// Notice is a warning to the maintainer of the table.
type Notice struct {
	File  string
	Line  int // 0 for a table not read from a file
	Other int // the line of the other route concerned, or 0
	Text  string
}

// String is "file:line: text", the format that editors recognize.
func (n Notice) String() string {
	switch {
	case n.File == "":
		return n.Text
	case n.Line == 0:
		return n.File + ": " + n.Text
	}
	return fmt.Sprintf("%s:%d: %s", n.File, n.Line, n.Text)
}

// Parse parses a routes.yaml; file is its name for messages. The error lists every mistake, each with its line. The
// notices are about unreachable routes, unsupported routes, and guesses.
func Parse(file string, data []byte) (*Table, []Notice, error) {
	spec, err := readSpec(file, data)
	if err != nil {
		return nil, nil, err
	}
	table, notices, err := compile(file, spec)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(data)
	table.digest = hex.EncodeToString(sum[:])
	return table, notices, nil
}

func readSpec(file string, data []byte) (*tableSpec, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("%s: larger than %d bytes", file, MaxBytes)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, yamltext.Error(file, err)
	}
	r := reader{file: file}
	spec := newTableSpec("")
	if len(doc.Content) == 0 {
		return nil, fmt.Errorf("%s:1: empty: it needs the keys framework and routes", file)
	}
	r.table(doc.Content[0], spec)
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	return spec, nil
}

// reader walks the nodes and collects every mistake.
type reader struct {
	file  string
	errs  []error
	count int
}

const maxErrors = 50

func (r *reader) fail(n *yaml.Node, format string, args ...any) {
	if len(r.errs) < maxErrors {
		r.errs = append(r.errs, fmt.Errorf("%s:%d: %w", r.file, n.Line, fmt.Errorf(format, args...)))
	}
}

// field is how a key is read, and the frameworks that support it ("" is all).
type field struct {
	frameworks string
	read       func(*yaml.Node)
}

// mapping reads a mapping with exactly these keys.
func (r *reader) mapping(n *yaml.Node, framework string, fields map[string]field) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "expected keys and values")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		f, known := fields[key.Value]
		switch {
		case !known:
			r.fail(key, "unknown key %q%s", key.Value, didYouMean(key.Value, keys(fields)))
		case seen[key.Value]:
			r.fail(key, "key %q twice", key.Value)
		case f.frameworks != "" && framework != "" && !slices.Contains(strings.Fields(f.frameworks), framework):
			r.fail(key, "key %q is not used by %s: it is for %s", key.Value, framework, strings.ReplaceAll(f.frameworks, " ", ", "))
		default:
			f.read(value)
		}
		seen[key.Value] = true
	}
}

func keys(fields map[string]field) []string {
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (r *reader) textInto(into *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Tag == "!!binary" {
			r.fail(n, "expected text")
			return
		}
		*into = n.Value
	}
}

func (r *reader) flag(into *bool) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if err := n.Decode(into); err != nil || n.Tag != "!!bool" {
			r.fail(n, "expected true or false")
		}
	}
}

func (r *reader) optional(into **bool) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var value bool
		r.flag(&value)(n)
		*into = &value
	}
}

func (r *reader) texts(into *[]string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.SequenceNode {
			r.fail(n, "expected a list")
			return
		}
		for _, item := range n.Content {
			var text string
			r.textInto(&text)(item)
			*into = append(*into, text)
		}
	}
}

func (r *reader) table(n *yaml.Node, spec *tableSpec) {
	if n.Kind == yaml.MappingNode { // read first: the framework determines the meaning of the other keys
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == "framework" {
				spec.framework = n.Content[i+1].Value
			}
		}
	}
	known := []string{Flask, Starlette, FastAPI, Django, OpenAPI}
	if !slices.Contains(known, spec.framework) {
		r.fail(n, "framework: %q is none of %s%s", spec.framework, strings.Join(known, ", "), didYouMean(spec.framework, known))
		return
	}
	asgi := Starlette + " " + FastAPI
	r.mapping(n, spec.framework, map[string]field{
		"framework":          {read: func(*yaml.Node) {}},
		"source":             {read: r.textInto(&spec.source)},
		"mount":              {read: func(n *yaml.Node) { r.mount(n, &spec.mount) }},
		"root_path":          {read: func(n *yaml.Node) { r.prefix(n, &spec.rootPath) }},
		"server":             {frameworks: Django, read: func(n *yaml.Node) { r.server(n, spec) }},
		"strict_slashes":     {frameworks: Flask, read: r.flag(&spec.strictSlashes)},
		"merge_slashes":      {frameworks: Flask, read: r.flag(&spec.mergeSlashes)},
		"redirect_defaults":  {frameworks: Flask, read: r.flag(&spec.redirectDefaults)},
		"automatic_options":  {frameworks: Flask, read: r.flag(&spec.automaticOptions)},
		"host_matching":      {frameworks: Flask, read: r.flag(&spec.hostMatching)},
		"subdomain_matching": {frameworks: Flask, read: r.textInto(&spec.serverName)},
		"redirect_slashes":   {frameworks: asgi, read: r.flag(&spec.redirectSlashes)},
		"append_slash":       {frameworks: Django, read: r.flag(&spec.appendSlash)},
		"converters": {frameworks: Flask + " " + Django + " " + asgi,
			read: func(n *yaml.Node) { r.converters(n, spec) }},
		"routes": {read: func(n *yaml.Node) { spec.routes = r.routes(n, spec.framework, 1) }},
	})
	spec.serverName = strings.ToLower(spec.serverName)
	if spec.hostMatching && spec.serverName != "" {
		r.fail(n, "host_matching and subdomain_matching exclude each other")
	}
}

func (r *reader) server(n *yaml.Node, spec *tableSpec) {
	r.textInto(&spec.server)(n)
	if spec.server != "wsgi" && spec.server != "asgi" {
		r.fail(n, "server: %q is neither wsgi nor asgi", spec.server)
	}
}

// prefix reads a path prefix without a trailing slash.
func (r *reader) prefix(n *yaml.Node, into *string) {
	r.textInto(into)(n)
	if *into = strings.TrimRight(*into, "/"); *into != "" && (*into)[0] != '/' {
		r.fail(n, "%q does not start with a slash", *into)
	}
}

// mount is a prefix to remove ("/shop"), or {prefix, rewrite}, a literal replacement.
func (r *reader) mount(n *yaml.Node, into *mount) {
	if n.Kind == yaml.ScalarNode {
		r.prefix(n, &into.prefix)
		return
	}
	r.mapping(n, "", map[string]field{"prefix": {read: r.textInto(&into.prefix)}, "rewrite": {read: r.textInto(&into.to)}})
	if !strings.HasPrefix(into.prefix, "/") || !strings.HasPrefix(into.to, "/") {
		r.fail(n, "mount: prefix and rewrite both start with a slash")
	}
}

func (r *reader) converters(n *yaml.Node, spec *tableSpec) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "expected names and their regex")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		c := converterSpec{name: n.Content[i].Value, weight: 100, segment: true, line: n.Content[i].Line}
		stated := false
		r.mapping(n.Content[i+1], spec.framework, map[string]field{
			"regex": {read: r.textInto(&c.regex)},
			"weight": {frameworks: Flask, read: func(n *yaml.Node) {
				if err := n.Decode(&c.weight); err != nil {
					r.fail(n, "weight: expected a number")
				}
			}},
			"exact":          {frameworks: Django, read: r.flag(&c.exact)},
			"part_isolating": {frameworks: Flask, read: func(n *yaml.Node) { stated = true; r.flag(&c.segment)(n) }},
		})
		if !stated {
			c.segment = !strings.Contains(c.regex, "/") // Werkzeug's default
		}
		if c.regex == "" {
			r.fail(n.Content[i], "converter %q has no regex", c.name)
		}
		spec.converters = append(spec.converters, c)
	}
}

func (r *reader) routes(n *yaml.Node, framework string, depth int) []routeSpec {
	if n.Kind != yaml.SequenceNode {
		r.fail(n, "routes: expected a list")
		return nil
	}
	if depth >= maxDepth {
		r.fail(n, "groups nest deeper than %d", maxDepth-1)
		return nil
	}
	specs := []routeSpec{} // a group may be empty
	for _, item := range n.Content {
		if r.count++; r.count > MaxRoutes {
			r.fail(item, "more than %d routes", MaxRoutes)
			return nil
		}
		specs = append(specs, r.route(item, framework, depth))
	}
	return specs
}

func (r *reader) route(n *yaml.Node, framework string, depth int) routeSpec {
	s := routeSpec{line: n.Line}
	if n.Kind == yaml.ScalarNode {
		r.methodsAndTemplate("route", &s)(n)
		return s
	}
	asgi := Starlette + " " + FastAPI
	r.mapping(n, framework, map[string]field{
		"route":             {read: r.methodsAndTemplate("route", &s)},
		"re_path":           {frameworks: Django, read: r.methodsAndTemplate("re_path", &s)},
		"include":           {frameworks: Django, read: r.group("include", &s)},
		"re_include":        {frameworks: Django, read: r.group("re_include", &s)},
		"mount":             {frameworks: asgi + " " + Flask, read: r.group("mount", &s)},
		"host_mount":        {frameworks: asgi, read: r.group("host_mount", &s)},
		"routes":            {read: func(n *yaml.Node) { s.routes = r.routes(n, framework, depth+1) }},
		"name":              {read: r.textInto(&s.name)},
		"host":              {frameworks: Flask, read: r.textInto(&s.host)},
		"tags":              {read: r.texts(&s.tags)},
		"allow":             {read: func(n *yaml.Node) { r.forms(n, &s.allow) }},
		"body":              {read: func(n *yaml.Node) { r.body(n, &s.body) }},
		"guess":             {read: r.flag(&s.guess)},
		"own":               {read: r.flag(&s.manual)},
		"unsupported":       {read: r.textInto(&s.unsupported)},
		"defaults":          {frameworks: Flask, read: func(n *yaml.Node) { r.defaults(n, &s) }},
		"redirects":         {frameworks: Flask, read: r.flag(&s.redirects)},
		"strict_slashes":    {frameworks: Flask, read: r.optional(&s.strictSlashes)},
		"merge_slashes":     {frameworks: Flask, read: r.optional(&s.mergeSlashes)},
		"automatic_options": {frameworks: Flask, read: r.optional(&s.automaticOptions)},
		"append_slash":      {frameworks: Django, read: r.optional(&s.appendSlash)},
		"exclusive":         {frameworks: asgi, read: r.flag(&s.exclusive)},
		"unsure":            {frameworks: Django, read: r.flag(&s.unsure)},
		"fallback":          {frameworks: asgi, read: r.flag(&s.fallback)},
		"redirect_slashes":  {frameworks: asgi, read: r.optional(&s.redirectSlashes)},
		"root_path":         {frameworks: asgi, read: func(n *yaml.Node) { r.prefix(n, &s.rootPath) }},
	})
	switch {
	case s.key == "":
		r.fail(n, "an entry needs route:, as in \"GET /orders\"")
	case s.isGroup() && s.routes == nil:
		r.fail(n, "%s: has no routes", s.key)
	case s.isGroup() && s.manual:
		r.fail(n, "own: belongs to each route of a group, not to the group")
	case !s.isGroup() && s.routes != nil:
		r.fail(n, "routes: belongs to a group, not to a route")
	case s.isGroup() && s.body != "":
		r.fail(n, "body: belongs to a route, not to a group")
	}
	return s
}

// body reads whether a route's bodies are parsed for the policy.
func (r *reader) body(n *yaml.Node, into *string) {
	if r.textInto(into)(n); *into != "" && *into != "parse" && *into != "ignore" {
		r.fail(n, "body: %q: parse or ignore", *into)
	}
}

func (r *reader) forms(n *yaml.Node, into *Forms) {
	var names []string
	r.texts(&names)(n)
	f, err := ParseForms(names)
	if err != nil {
		r.fail(n, "allow: %w", err)
	}
	*into = f
}

func (r *reader) defaults(n *yaml.Node, s *routeSpec) {
	if n.Kind != yaml.MappingNode {
		r.fail(n, "defaults: expected names and values")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		value := n.Content[i+1]
		if value.Kind != yaml.ScalarNode {
			r.fail(value, "defaults: expected a plain value")
			continue
		}
		s.defaults = append(s.defaults, defaultValue{name: n.Content[i].Value, text: value.Value, kind: value.ShortTag()})
	}
}

func (r *reader) group(key string, s *routeSpec) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if s.key != "" {
			r.fail(n, "both %s: and %s:", s.key, key)
		}
		s.key, s.line = key, n.Line
		r.textInto(&s.template)(n)
	}
}

// routeText is methods and a template. Methods are upper case: Flask and Django ignore case, the others do not.
var routeText = regexp.MustCompile(`^([A-Z][A-Z0-9_-]*(?:\s*,\s*[A-Z][A-Z0-9_-]*)*)(?:\s(.*))?$`)

// methodsAndTemplate parses "GET, POST /orders"; ANY is every method.
func (r *reader) methodsAndTemplate(key string, s *routeSpec) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var text string
		r.textInto(&text)(n)
		if s.key != "" {
			r.fail(n, "both %s: and %s:", s.key, key)
		}
		s.key, s.line = key, n.Line
		m := routeText.FindStringSubmatch(text)
		if m == nil {
			r.fail(n, "%q is not a route: write the methods in capitals, or ANY, and then the template, as in \"GET /orders\"", text)
			return
		}
		s.template = m[2]
		if len(s.template) > MaxTemplate {
			r.fail(n, "template longer than %d bytes", MaxTemplate)
		}
		for _, method := range strings.Split(m[1], ",") {
			s.methods = append(s.methods, strings.TrimSpace(method))
		}
		for _, alone := range [...]string{"ANY", WebSocket} {
			if slices.Contains(s.methods, alone) && len(s.methods) > 1 {
				r.fail(n, "%s: leave out the other methods", alone)
			}
		}
		if slices.Contains(s.methods, "ANY") {
			s.methods = nil
		}
	}
}

// didYouMean names the nearest known word, if one is near.
func didYouMean(word string, known []string) string {
	best := nearest.Word(word, known, 3)
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}
