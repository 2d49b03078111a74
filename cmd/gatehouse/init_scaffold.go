package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"gatehouse/routes"
)

//go:embed scaffold
var scaffoldFiles embed.FS

// adminRole is the one role that the generated table has.
const adminRole = "admin"

// scaffold is everything that `gatehouse init` writes for one application.
type scaffold struct {
	ctx      context.Context // of the command: what it ends, ends the work
	name     string          // of the application, and of the policy's package
	table    *routes.Table
	perRoute bool
	files    []scaffoldFile
	notices  []routes.Notice
	rules    int // of the policy
	tests    int
	example  *scaffoldExample // nil where no request is known that reaches a route

	prefixes  []string          // below which all routes share a rule
	static    map[string]string // why a route serves static files, by its template
	stubFiles int
	rootTerms int // of a rule's path, 0 for one
	templates map[string]*template.Template
	front     where
	samples   map[*routes.Route]*sampled
	tried     int // requests that the table was asked about
}

// scaffoldExample is the request that the first allow is shown with.
type scaffoldExample struct {
	file, rule   string // to edit
	route        string // as the table of roles has it
	method, path string
	weight       int // the lowest is the plainest
}

// scaffoldRule is what decides about the routes that share it: those that differ in nothing but a closing slash, or all below a
// prefix.
type scaffoldRule struct {
	method string   // "" where one rule is for all methods
	path   []string // its package, below data
	name   string   // in the package
	routes []*routes.Route
	file   string
	open   string // why everybody may, "" for nobody
}

func newScaffold(ctx context.Context, name string, o *initOptions, table *routes.Table) (*scaffold, error) {
	s := &scaffold{ctx: ctx, name: name, perRoute: o.rules == perRoute, prefixes: o.prefixes}
	if err := s.withStatic(table); err != nil {
		return nil, err
	}
	s.front = whereOf(s.table)
	all, err := s.ruleList()
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("the application has no route that a policy could decide about: look at it with gatehouse routes import")
	}
	s.add("routes.yaml", s.table.YAML())
	if s.perRoute {
		err = s.stubs(all)
	} else {
		err = s.roleTable(all)
	}
	if err != nil {
		return nil, err
	}
	if err := s.testFile(all); err != nil {
		return nil, err
	}
	return s, s.configurations(table)
}

// configurations makes gatehouse.yaml and envoy.yaml.
func (s *scaffold) configurations(table *routes.Table) error {
	column := 23
	if !s.perRoute {
		column = 13
	}
	facts := table.Facts()
	settings := map[string]any{"Name": s.name, "PerRoute": s.perRoute, "Pad": strings.Repeat(" ", max(3, column-len(s.name))),
		"Redirects": table.Framework() != routes.OpenAPI && len(facts.Fallbacks) == 0, "CORS": s.preflights(facts)}
	if len(facts.Fallbacks) > 0 {
		s.note("%s may serve a page where no route does, so redirects are not decided by their target: routes.unmatched is deny", strings.Join(facts.Fallbacks, ", "))
	}
	for _, f := range []string{"gatehouse.yaml", "envoy.yaml"} {
		if err := s.render(f, f+".tmpl", settings); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(s.table.Routes(), func(r *routes.Route) bool { return slices.Contains(r.Methods, "WEBSOCKET") }) {
		last := &s.files[len(s.files)-1]
		last.text = bytes.Replace(last.text, []byte("# upgrade_configs: [{upgrade_type: websocket}]   # for an app with websockets: each"),
			[]byte("upgrade_configs: [{upgrade_type: websocket}]   # the app has websockets: each"), 1)
	}
	s.add(".gatehouse/.gitignore", []byte("# What gatehouse keeps for itself: state, its control socket, backups.\n*\n"))
	return nil
}

// preflights names what answers CORS preflights before any view runs, "" where not all of them are.
func (s *scaffold) preflights(facts routes.Facts) string {
	partly := facts.CORSPartly
	if facts.CORS == "flask-cors" { // it leaves the answer to Flask, which only has one for routes that do not take OPTIONS themselves
		for _, r := range s.table.Routes() {
			if r.Methods == nil || slices.Contains(r.Methods, "OPTIONS") {
				partly = fmt.Sprintf("%s answers OPTIONS by itself", r.Template)
			}
		}
	}
	if facts.CORS != "" && partly != "" {
		s.note("%s: CORS preflights are put to the policy, because %s; a rule for OPTIONS lets them through", facts.CORS, partly)
		return ""
	}
	return facts.CORS
}

func (s *scaffold) note(format string, args ...any) {
	s.notices = append(s.notices, routes.Notice{Text: fmt.Sprintf(format, args...)})
}

func (s *scaffold) add(path string, text []byte) { s.files = append(s.files, scaffoldFile{path, text}) }

func (s *scaffold) render(path, name string, values any) error {
	t := s.templates[name]
	if t == nil {
		var err error
		if t, err = template.ParseFS(scaffoldFiles, "scaffold/"+name); err != nil {
			return fmt.Errorf("making %s: %w", path, err)
		}
		if s.templates == nil {
			s.templates = map[string]*template.Template{}
		}
		s.templates[name] = t
	}
	var out bytes.Buffer
	if err := t.Execute(&out, values); err != nil {
		return fmt.Errorf("making %s: %w", path, err)
	}
	s.add(path, out.Bytes())
	return nil
}

// ruleList is what must be decided about: each method of each route, HEAD aside where GET's rule stands for it.
func (s *scaffold) ruleList() ([]*scaffoldRule, error) {
	if s.perRoute {
		if err := s.conflicts(); err != nil {
			return nil, err
		}
		return s.routeRules(func(*routes.Route, string) bool { return true }, nil)
	}
	var all []*scaffoldRule
	byName := map[string]*scaffoldRule{}
	for _, r := range s.table.Routes() {
		if r.Unsupported != "" {
			continue
		}
		for _, method := range r.RuleMethods() {
			name := method + " " + r.Template
			if byName[name] == nil {
				byName[name] = &scaffoldRule{method: method, open: s.openTo(method, r)}
				all = append(all, byName[name])
			}
			byName[name].routes = append(byName[name].routes, r)
		}
	}
	s.rules = len(all)
	return all, nil
}

// routeRules are the rules of those methods of the routes that wanted says. A route of one method has its rule in the package of
// that method, as policy.root's convention has it. One of several has a package with a rule for each, so that all of them are in one
// file; shared says of further packages that they are of this kind.
func (s *scaffold) routeRules(wanted func(*routes.Route, string) bool, shared map[string]bool) ([]*scaffoldRule, error) {
	var all []*scaffoldRule
	byName := map[string]*scaffoldRule{}
	plan, err := s.planRules(wanted, shared)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, r := range s.table.Routes() {
		if r.Unsupported != "" {
			continue
		}
		for _, method := range r.RuleMethods() {
			if !wanted(r, method) {
				continue
			}
			full, err := routes.RulePath([]string{s.name}, method, r.Template)
			if err != nil {
				return nil, err
			}
			rule := &scaffoldRule{method: method, path: full, name: "allowed", open: s.openTo(method, r)}
			if prefix := s.prefixOf(r, full[2:]); prefix != nil {
				used[strings.Join(prefix, "/")] = true
				rule = &scaffoldRule{path: slices.Concat([]string{s.name, "ANY"}, prefix, []string{"/**"}), name: "allowed"}
			} else if plan.together(method, full[2:]) {
				rule.path, rule.name = slices.Concat([]string{s.name, "ANY"}, full[2:]), method
			}
			name := strings.Join(append(slices.Clone(rule.path), rule.name), "\x00")
			if byName[name] == nil {
				byName[name] = rule
				all = append(all, rule)
			}
			if own := byName[name]; !slices.Contains(own.routes, r) {
				own.routes = append(own.routes, r)
			}
		}
	}
	for _, p := range s.prefixes {
		if !used[strings.Join(prefixTerms(p), "/")] && shared == nil {
			return nil, usageError{fmt.Errorf("--prefix %s: no route lies below it that no longer prefix has\ngatehouse routes list shows the templates", p)}
		}
	}
	s.rules = len(all)
	return all, nil
}

// rulePlan knows which routes have more than one method, and what stands where.
type rulePlan struct {
	methods map[string]map[string]bool // by the terms of a path: the methods that its routes need a rule for
	begins  map[string]bool            // the terms of every path and of what it begins with
	shared  map[string]bool
}

func (s *scaffold) planRules(wanted func(*routes.Route, string) bool, shared map[string]bool) (*rulePlan, error) {
	p := &rulePlan{methods: map[string]map[string]bool{}, begins: map[string]bool{}, shared: shared}
	for _, r := range s.table.Routes() {
		if r.Unsupported != "" {
			continue
		}
		full, err := routes.RulePath(nil, "", r.Template)
		if err != nil {
			return nil, err
		}
		for i := range full {
			p.begins[strings.Join(full[1:i+1], "\x00")] = true
		}
		methods := r.RuleMethods()
		if len(methods) < 2 { // @app.get and @app.post of one path are two routes, each with a file of its own
			continue
		}
		key := strings.Join(full[1:], "\x00")
		if p.methods[key] == nil {
			p.methods[key] = map[string]bool{}
		}
		for _, m := range methods {
			if wanted(r, m) {
				p.methods[key][m] = true
			}
		}
	}
	return p, nil
}

// together says whether a method's rule stands in the one package of its route.
func (p *rulePlan) together(method string, terms []string) bool {
	key := strings.Join(terms, "\x00")
	below := method
	if key != "" {
		below = key + "\x00" + method
	}
	if !plainTerm.MatchString(method) || p.begins[below] { // a rule cannot be called so, or is where another route's package is
		return false
	}
	return p.shared[key] || len(p.methods[key]) > 1
}

// prefixOf is the longest of the given prefixes that a route lies below, as terms; nil for none.
func (s *scaffold) prefixOf(r *routes.Route, terms []string) (longest []string) {
	if !routes.NamedByPath(r.Template) {
		return nil
	}
	for _, p := range s.prefixes {
		prefix := prefixTerms(p)
		if len(prefix) <= len(terms) && slices.Equal(prefix, terms[:len(prefix)]) && (longest == nil || len(prefix) > len(longest)) {
			longest = prefix
		}
	}
	return longest
}

// prefixTerms reads "/admin/", "admin/**" or "/orders/<int:id>" as terms of a rule.
func prefixTerms(prefix string) []string {
	terms, err := routes.RulePath(nil, "", strings.TrimSuffix(prefix, "**"))
	if err != nil {
		return []string{}
	}
	return append([]string{}, terms[1:]...)
}

// conflicts says why the routes cannot have one rule each.
func (s *scaffold) conflicts() error {
	var lines []string
	for _, c := range s.table.RuleConflicts([]string{s.name}, "allowed") {
		lines = append(lines, c.String())
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("there cannot be one rule for each route:\n  %s\n--rules rbac does without", strings.Join(lines, "\n  "))
}

// stubs writes a file for each package.
func (s *scaffold) stubs(all []*scaffoldRule) error {
	return s.stubsBeside(all, map[string]bool{})
}

// stubsBeside does so beside files that are there already, whose names are taken.
func (s *scaffold) stubsBeside(all []*scaffoldRule, taken map[string]bool) error {
	byPackage := map[string][]*scaffoldRule{}
	var order []string
	for _, r := range all {
		key := strings.Join(r.path, "\x00")
		if byPackage[key] == nil {
			order = append(order, key)
		}
		byPackage[key] = append(byPackage[key], r)
	}
	for _, key := range order {
		if err := s.ctx.Err(); err != nil {
			return errInterrupted
		}
		rules := byPackage[key]
		named := *rules[0]
		named.path = named.path[max(0, s.rootTerms-1):]
		file := ruleFile(&named, taken)
		for _, r := range rules {
			r.file = file
		}
		if err := s.render(file, "route.rego.tmpl", s.stubOf(rules)); err != nil {
			return err
		}
	}
	s.stubFiles = len(order)
	return nil
}

// stub is what the template of a rule's file is made with.
type stub struct {
	Routes         []string
	Package, Param string
	Rules, Open    []string // names of rules, and of those that hold for everybody
	First          string   // the rule that examples are shown with
	Why            string   // it is open
	Method, Prefix bool
}

func (s *scaffold) stubOf(rules []*scaffoldRule) stub {
	made := stub{Package: packageName(rules[0].path), First: rules[0].name}
	made.Method, made.Prefix = rules[0].name != "allowed", rules[0].method == ""
	var listed []*routes.Route
	for _, r := range rules {
		made.Rules = append(made.Rules, r.name)
		if r.open != "" {
			made.Open, made.Why = append(made.Open, r.name), r.open
		}
		for _, route := range r.routes {
			if slices.Contains(listed, route) {
				continue
			}
			listed = append(listed, route)
			line := strings.Join(route.RuleMethods(), ", ") + " " + route.Host + route.Template
			if route.Name != "" {
				line += "   (" + route.Name + ")"
			}
			made.Routes = append(made.Routes, oneLine(line))
		}
	}
	if made.Prefix {
		const most = 20
		if n := len(made.Routes); n > most {
			made.Routes = append(made.Routes[:most:most], fmt.Sprintf("... and %d more", n-most))
		}
		return made
	}
	if m := s.sampleOf(rules[0]).match; len(m.Params) > 0 {
		made.Param = term(m.Params[len(m.Params)-1].Name)
	}
	return made
}

// oneLine keeps a comment from ending early.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x2028 || r == 0x2029 || r == 0x85 {
			return ' '
		}
		return r
	}, text)
}

// ruleFile is where a rule is found by its route: policy/GET/orders/__id.rego. What files cannot be called, or what the
// policy's reader passes over, is changed; a name that is taken gets a number.
func ruleFile(r *scaffoldRule, taken map[string]bool) string {
	const deepest, longest = 12, 60
	terms := slices.Clone(r.path[1:]) // the root is the same everywhere
	if len(terms) > deepest {
		terms = append(terms[:deepest-1:deepest-1], strings.Join(terms[deepest-1:], "_"))
	}
	if len(terms) == 1 {
		terms = append(terms, "index")
	}
	for i, t := range terms {
		if t == "/**" {
			t = "all"
		}
		t = notInFile.ReplaceAllString(t, "_")
		if strings.HasPrefix(t, ".") || i < len(terms)-1 { // hidden files and editors' leftovers are passed over
			t = strings.ReplaceAll(t, ".", "_")
		}
		terms[i] = t[:min(len(t), longest)]
	}
	name := "policy/" + strings.Join(terms, "/")
	if strings.HasSuffix(name, "_test") {
		name += "_" // OPA takes the other for a file of tests
	}
	for base, n := name, 2; taken[strings.ToLower(name)]; n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	taken[strings.ToLower(name)] = true
	return name + ".rego"
}

var notInFile = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// packageName writes a path as a package: orders.GET["a-b"].__id. Words of the language are put in quotes as well.
func packageName(path []string) string {
	var out strings.Builder
	out.WriteString(path[0])
	for _, t := range path[1:] {
		out.WriteString(term(t))
	}
	return out.String()
}

// term is one step of a reference.
func term(name string) string {
	if plainTerm.MatchString(name) && !slices.Contains(keywords, name) {
		return "." + name
	}
	quoted, _ := json.Marshal(name) // a text always encodes
	return "[" + string(quoted) + "]"
}

var plainTerm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// roleTable writes the one table of roles and the rule that reads it.
func (s *scaffold) roleTable(all []*scaffoldRule) error {
	lines, anyone := []string{}, []string{}
	for _, r := range all {
		if line := r.method + " " + r.routes[0].Template; r.open != "" {
			anyone = append(anyone, line)
		} else {
			lines = append(lines, line)
		}
		r.file = "policy/data.json"
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(struct {
		Roles  map[string][]string `json:"roles"`
		Anyone []string            `json:"anyone"`
	}{map[string][]string{adminRole: lines}, anyone}); err != nil {
		return err
	}
	s.add("policy/data.json", out.Bytes())
	return s.render("policy/"+s.name+".rego", "rbac.rego.tmpl", map[string]any{"Name": s.name})
}
