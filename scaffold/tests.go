package scaffold

import (
	"bytes"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/routes"
)

// sample is a request that reaches a route.
type sample struct {
	host, path string
	match      routes.Match // its outcome is Matched where there is such a request
}

// sampled is what is known about the requests that reach a route.
type sampled struct {
	found    []sample // by different methods
	searched bool
}

// sampleOf looks for a request that takes a rule's route: the table itself says whether one does. A search is done once for a
// route; its other methods try what was found.
func (s *Scaffold) sampleOf(r *rule) sample {
	if s.samples == nil {
		s.samples = map[*routes.Route]*sampled{}
	}
	for _, route := range r.routes {
		known := s.samples[route]
		if known == nil {
			known = &sampled{}
			s.samples[route] = known
		}
		method := r.method
		if method == "" {
			method = route.RuleMethods()[0]
		}
		for _, before := range known.found {
			if m, ok := s.reaches(method, before.host, before.path, route); ok {
				return sample{before.host, before.path, m}
			}
		}
		if known.searched && len(known.found) == 0 {
			continue // the same would be tried again
		}
		known.searched = true
		if found, ok := s.search(method, route); ok {
			known.found = append(known.found, found)
			return found
		}
	}
	return sample{}
}

func (s *Scaffold) search(method string, route *routes.Route) (sample, bool) {
	for _, host := range s.sampleHosts(route) {
		for _, template := range s.sampleTemplates(route) {
			if path, m, ok := s.samplePath(method, host, template, route); ok {
				return sample{host, path, m}, true
			}
		}
	}
	return sample{}, false
}

// reaches asks the table.
func (s *Scaffold) reaches(method, host, path string, route *routes.Route) (routes.Match, bool) {
	s.tried++
	m := s.table.Match(method, host, path)
	return m, m.Outcome == routes.Matched && m.Route == route
}

// where holds what of a table's settings stands in front of its templates.
type where struct {
	RootPath   string `yaml:"root_path"`
	ServerName string `yaml:"subdomain_matching"`
}

// whereOf prints and parses the whole table: once is enough.
func whereOf(table *routes.Table) where {
	var w where
	_ = yaml.Unmarshal(table.YAML(), &w) // what the table prints is YAML
	return w
}

func (s *Scaffold) sampleHosts(r *routes.Route) []string {
	host := templateParam.ReplaceAllString(r.Host, "a")
	switch name := s.front.ServerName; {
	case name != "" && host == "":
		return []string{"", name}
	case name != "":
		return []string{host + "." + name, host}
	}
	return []string{host}
}

// sampleTemplates are a route's template as text and parameters, with what stands in front of it.
func (s *Scaffold) sampleTemplates(r *routes.Route) []string {
	templates := []string{r.Template}
	if path, err := routes.RulePath(nil, "", r.Template); err == nil && strings.ContainsAny(r.Template, `^$\(`) {
		text := ""
		for _, t := range path[1:] {
			if name, ok := strings.CutPrefix(t, "__"); ok {
				t = "<" + name + ">"
			}
			text += "/" + t
		}
		templates = []string{text + "/", text}
	}
	if root := s.front.RootPath; root != "" {
		for _, t := range slices.Clone(templates) {
			templates = append(templates, root+t)
		}
	}
	return templates
}

// templateParam is a parameter: converter before the name in angle brackets, behind it in braces.
var templateParam = regexp.MustCompile(`<(?:([^<>]*):)?([^<>:]+)>|\{([^{}:]+)(?::([^{}]*))?\}`)

// sampleValues are what parameters are tried with, besides what the converter's name suggests.
var sampleValues = []string{"1", "a", "a1", "abc", "2026", "1.5", "1/2", "00000000-0000-4000-8000-000000000001", "2026-01-31", "x-y", "10"}

// maxSamples bounds how many paths are tried for one route, and samplesEach how many for each on average: a table of routes that
// nothing reaches ends as well.
const (
	maxSamples  = 2000
	samplesEach = 40
)

func (s *Scaffold) samplePath(method, host, template string, route *routes.Route) (string, routes.Match, bool) {
	params := templateParam.FindAllStringSubmatchIndex(template, -1)
	choices := make([][]string, len(params))
	for i, p := range params {
		choices[i] = append(suggested(template, p), sampleValues...)
	}
	at := make([]int, len(params))
	for range maxSamples {
		if s.ctx.Err() != nil || s.tried > maxSamples+samplesEach*len(s.table.Routes()) {
			break
		}
		var path strings.Builder
		end := 0
		for i, p := range params {
			path.WriteString(template[end:p[0]] + choices[i][at[i]])
			end = p[1]
		}
		path.WriteString(template[end:])
		wire := (&url.URL{Path: path.String()}).EscapedPath()
		if m, ok := s.reaches(method, host, wire, route); ok {
			return wire, m, true
		}
		i := len(at) - 1
		for ; i >= 0; i-- { // the next combination
			if at[i]++; at[i] < len(choices[i]) {
				break
			}
			at[i] = 0
		}
		if i < 0 {
			break
		}
	}
	return "", routes.Match{}, false
}

// suggested are values for a parameter by its converter: any(en, de) takes en.
func suggested(template string, at []int) []string {
	converter := ""
	for _, group := range []int{1, 4} {
		if at[2*group] >= 0 {
			converter = template[at[2*group]:at[2*group+1]]
		}
	}
	name, arguments, _ := strings.Cut(strings.TrimSuffix(converter, ")"), "(")
	var values []string
	for _, a := range strings.Split(arguments, ",") {
		if _, value, named := strings.Cut(a, "="); named {
			a = value
		}
		if a = strings.Trim(a, `"' `); a != "" {
			values = append(values, a)
		}
		if n := len(a); n == 1 && a[0] >= '1' && a[0] <= '9' { // as many digits
			values = append(values, strings.Repeat("1", int(a[0]-'0')))
		}
	}
	switch name {
	case "uuid":
		return []string{"00000000-0000-4000-8000-000000000001"}
	case "float":
		return append(values, "1.5")
	}
	return values
}

// testFile writes requests with their expected results: all that a first policy answers with certainty.
func (s *Scaffold) testFile(all []*rule) error {
	var out bytes.Buffer
	out.WriteString("# Expected results of requests. Run them with: gatehouse test\n")
	if s.perRoute {
		nothing := "Nothing"
		if len(s.static) > 0 {
			nothing = "Nothing but static files"
		}
		out.WriteString("# " + nothing + " is allowed yet. When you let someone in, say so here, and keep the line about someone who is not:\n" +
			"#   - allow: {as: ann, roles: [viewer], GET: /orders/17}\n")
	}
	out.WriteString("tests:\n")
	unknown := map[string][]string{} // methods by template
	for _, r := range all {
		if s.ctx.Err() != nil {
			return ErrInterrupted
		}
		for _, one := range r.each() {
			s.testOf(one, &out, unknown)
		}
	}
	for _, template := range slices.Sorted(maps.Keys(unknown)) {
		s.notices = append(s.notices, routes.Notice{Text: fmt.Sprintf("%s %s: no request is known that reaches it, so tests.yaml has none",
			strings.Join(unknown[template], ", "), template)})
	}
	if s.tests == 0 {
		out.WriteString("  []\n")
	}
	s.add("tests.yaml", out.Bytes())
	return nil
}

// each takes a rule for a prefix apart, into one for each route and method.
func (r *rule) each() []*rule {
	if r.method != "" {
		return []*rule{r}
	}
	var out []*rule
	for _, route := range r.routes {
		for _, method := range route.RuleMethods() {
			out = append(out, &rule{method: method, path: r.path, name: r.name, file: r.file, routes: []*routes.Route{route}})
		}
	}
	return out
}

// testOf writes the lines about one rule.
func (s *Scaffold) testOf(r *rule, out *bytes.Buffer, unknown map[string][]string) {
	found := s.sampleOf(r)
	template := r.routes[0].Template
	if found.match.Outcome != routes.Matched {
		unknown[template] = append(unknown[template], r.method)
		fmt.Fprintf(out, "  # %s: add a request that reaches it\n", oneLine(r.method+" "+template))
		return
	}
	if r.open != "" {
		out.WriteString(testLine("allow", "", "", r.method, found))
		s.tests++
		return
	}
	s.consider(r, found)
	if !s.perRoute {
		out.WriteString(testLine("allow", "ann", adminRole, r.method, found))
		s.tests++
	}
	out.WriteString(testLine("deny", "", "", r.method, found))
	s.tests++
}

// consider takes the request as the example of a first allow where it is the plainest so far. What a framework serves by
// itself says little.
func (s *Scaffold) consider(r *rule, of sample) {
	own := []string{"static", "openapi", "swagger_ui_html", "swagger_ui_redirect", "redoc_html"}
	weight := len(of.match.Params)
	if r.method != "GET" {
		weight += 100
	}
	if slices.Contains(own, r.routes[0].Name) || of.host != "" || strings.HasPrefix(of.path, "/admin/") {
		weight += 1000
	}
	if s.example == nil || weight < s.example.weight {
		s.example = &Example{File: r.file, Rule: r.name, Route: r.method + " " + r.routes[0].Template, Method: r.method, Path: of.path, weight: weight}
	}
}

// testLine is one request of tests.yaml.
func testLine(verdict, as, role, method string, of sample) string {
	text := func(v string) *yaml.Node {
		n := &yaml.Node{}
		n.SetString(v)
		return n
	}
	request := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	if as != "" {
		roles := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle, Content: []*yaml.Node{text(role)}}
		request.Content = append(request.Content, text("as"), text(as), text("roles"), roles)
	}
	if of.host != "" {
		request.Content = append(request.Content, text("host"), text(of.host))
	}
	if method == "WEBSOCKET" { // a GET that asks for another protocol
		method = "GET"
		upgrade := []*yaml.Node{text("upgrade"), text("websocket"), text("connection"), text("upgrade")}
		request.Content = append(request.Content, text("headers"), &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle, Content: upgrade})
	}
	request.Content = append(request.Content, text(method), text(of.path))
	line, err := yaml.Marshal(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{text(verdict), request}})
	if err != nil {
		return "" // plain nodes always encode
	}
	return "  - " + string(line)
}
