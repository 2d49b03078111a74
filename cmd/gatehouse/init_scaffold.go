package main

import (
	"bytes"
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
	name     string // of the application, and of the policy's package
	table    *routes.Table
	perRoute bool
	files    []scaffoldFile
	notices  []routes.Notice
	rules    int // of the policy
	tests    int
	example  *scaffoldExample // nil where no request is known that reaches a route
}

// scaffoldExample is the request that the first allow is shown with.
type scaffoldExample struct {
	file         string // to edit
	route        string // as the table of roles has it
	method, path string
	weight       int // the lowest is the plainest
}

// scaffoldRule is what decides about the routes that share it: those that differ in nothing but a closing slash.
type scaffoldRule struct {
	method string
	path   []string // below data
	routes []*routes.Route
	file   string
}

func newScaffold(name, rules string, table *routes.Table) (*scaffold, error) {
	s := &scaffold{name: name, table: table, perRoute: rules == perRoute}
	all, err := s.ruleList()
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("the application has no route that a policy could decide about: look at it with gatehouse routes import")
	}
	s.add("routes.yaml", table.YAML())
	if s.perRoute {
		err = s.stubs(all)
	} else {
		err = s.roleTable(all)
	}
	if err != nil {
		return nil, err
	}
	s.testFile(all)
	column := 23
	if !s.perRoute {
		column = 13
	}
	settings := map[string]any{"Name": name, "PerRoute": s.perRoute, "Pad": strings.Repeat(" ", max(3, column-len(name)))}
	for _, f := range []string{"gatehouse.yaml", "envoy.yaml"} {
		if err := s.render(f, f+".tmpl", settings); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *scaffold) add(path string, text []byte) { s.files = append(s.files, scaffoldFile{path, text}) }

func (s *scaffold) render(path, name string, values any) error {
	t, err := template.ParseFS(scaffoldFiles, "scaffold/"+name)
	if err != nil {
		return fmt.Errorf("making %s: %w", path, err)
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
	var all []*scaffoldRule
	if s.perRoute {
		if err := s.conflicts(); err != nil {
			return nil, err
		}
	}
	byName := map[string]*scaffoldRule{}
	for _, r := range s.table.Routes() {
		if r.Unsupported != "" {
			continue
		}
		for _, method := range r.RuleMethods() {
			path, name := []string(nil), method+" "+r.Template
			if s.perRoute {
				var err error
				if path, err = routes.RulePath([]string{s.name}, method, r.Template); err != nil {
					return nil, err
				}
				name = strings.Join(path, "\x00")
			}
			if byName[name] == nil {
				byName[name] = &scaffoldRule{method: method, path: path}
				all = append(all, byName[name])
			}
			byName[name].routes = append(byName[name].routes, r)
		}
	}
	s.rules = len(all)
	return all, nil
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

// stubs writes a file for each rule.
func (s *scaffold) stubs(all []*scaffoldRule) error {
	taken := map[string]bool{}
	for _, r := range all {
		r.file = ruleFile(r, taken)
		stub := struct {
			Routes         []string
			Package, Param string
		}{Package: packageName(r.path)}
		for _, route := range r.routes {
			line := r.method + " " + route.Host + route.Template
			if route.Name != "" {
				line += "   (" + route.Name + ")"
			}
			stub.Routes = append(stub.Routes, oneLine(line))
		}
		if m := s.sampleOf(r).match; len(m.Params) > 0 {
			stub.Param = term(m.Params[len(m.Params)-1].Name)
		}
		if err := s.render(r.file, "route.rego.tmpl", stub); err != nil {
			return err
		}
	}
	return nil
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
	lines := []string{}
	for _, r := range all {
		lines = append(lines, r.method+" "+r.routes[0].Template)
		r.file = "policy/data.json"
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(struct {
		Roles  map[string][]string `json:"roles"`
		Anyone []string            `json:"anyone"`
	}{map[string][]string{adminRole: lines}, []string{}}); err != nil {
		return err
	}
	s.add("policy/data.json", out.Bytes())
	return s.render("policy/"+s.name+".rego", "rbac.rego.tmpl", map[string]any{"Name": s.name})
}
