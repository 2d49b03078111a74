// Package scaffold makes what it takes to protect an application out of its route table: a policy, tests, and the configurations of
// Gatehouse and Envoy; and rules for routes that have none yet. It owns those files' text. Nothing is written that was not tried before,
// and all of it or nothing. It imports routes, gate and policy to know which rules there are, and envoy/generate.
package scaffold

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"gatehouse/envoy/generate"
	"gatehouse/routes"
)

//go:embed templates
var templates embed.FS

// directoryFolder has users, groups and roles. One that is there already is never overwritten: that is who may what, and it is in force.
const directoryFolder = "directory"

// adminRole is the one role that the generated table has.
const adminRole = "admin"

// The kinds of rules.
const (
	PerRoute  = "per-route" // a file for each route
	RoleTable = "rbac"      // one table of roles and the routes that they may use
)

// Config says what to make.
type Config struct {
	Name  string // of the application, and of the policy's package
	Table *routes.Table
	Rules string // PerRoute or RoleTable
	// Prefixes, of paths or templates, below which all routes share one rule.
	Prefixes []string
	// Try starts the generated project in a temporary folder and runs its tests.
	Try func(ctx context.Context, dir string) error
}

// File is one that is made, relative to the output directory.
type File struct {
	Path string // with slashes
	Text []byte
}

// Scaffold is everything that is made for one application.
type Scaffold struct {
	ctx      context.Context // of New: what it ends, ends the work
	try      func(context.Context, string) error
	name     string // of the application, and of the policy's package
	table    *routes.Table
	perRoute bool
	files    []File
	notices  []routes.Notice
	rules    int // of the policy
	tests    int
	example  *Example // nil where no request is known that reaches a route

	prefixes  []string          // below which all routes share a rule
	static    map[string]string // why a route serves static files, by its template
	stubFiles int
	cors      string // what answers preflights
	// hasDirectory is set by Write.
	hasDirectory bool
	rootTerms    int // of a rule's path, 0 for one
	templates    map[string]*template.Template
	front        where
	samples      map[*routes.Route]*sampled
	tried        int // requests that the table was asked about
}

// Example is the request that the first allow is shown with.
type Example struct {
	File, Rule   string // to edit
	Route        string // as the table of roles has it
	Method, Path string
	weight       int // the lowest is the plainest
}

// PrefixError says that no route is below a prefix of Config.Prefixes.
type PrefixError struct{ Prefix string }

func (e *PrefixError) Error() string {
	return fmt.Sprintf("%s: no route lies below it that no longer prefix has", e.Prefix)
}

// New makes all files, and writes none. It takes until ctx ends at the longest: then the error is ErrInterrupted.
func New(ctx context.Context, c Config) (*Scaffold, error) {
	s := &Scaffold{ctx: ctx, try: c.Try, name: c.Name, perRoute: c.Rules == PerRoute, prefixes: c.Prefixes}
	if err := s.withStatic(c.Table); err != nil {
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
	for _, f := range []string{"manifest.yaml", "directory.yaml"} {
		if err := s.render(directoryFolder+"/"+f, f+".tmpl", map[string]any{"PerRoute": s.perRoute, "AdminRole": adminRole}); err != nil {
			return nil, err
		}
	}
	return s, s.configurations(c.Table)
}

// Contents says what a Scaffold has, for the one who reads about it.
type Contents struct {
	Name      string
	Files     int
	Table     *routes.Table // with the static files
	PerRoute  bool
	Static    bool   // static files are open to everybody
	CORS      string // what answers preflights, which are not put to the policy; "" for nothing
	Rules     int
	StubFiles int // with rules of routes
	Tests     int
	AdminRole string   // that may everything, in a table of roles
	Directory bool     // false where Write found one, and left it as it is
	Example   *Example // nil where no request is known that reaches a route
	Notices   []routes.Notice
}

// Contents says what was made.
func (s *Scaffold) Contents() Contents {
	return Contents{Name: s.name, Files: len(s.files), Table: s.table, PerRoute: s.perRoute, Static: len(s.static) > 0, CORS: s.cors, Rules: s.rules,
		StubFiles: s.stubFiles, Tests: s.tests, AdminRole: adminRole, Directory: !s.hasDirectory, Example: s.example, Notices: s.notices}
}

// configurations makes gatehouse.yaml and envoy.yaml.
func (s *Scaffold) configurations(table *routes.Table) error {
	column := 23
	if !s.perRoute {
		column = 13
	}
	facts := table.Facts()
	s.cors = s.preflights(facts)
	settings := map[string]any{"Name": s.name, "PerRoute": s.perRoute, "Pad": strings.Repeat(" ", max(3, column-len(s.name))),
		"Redirects": table.Framework() != routes.OpenAPI && len(facts.Fallbacks) == 0, "CORS": s.cors}
	if len(facts.Fallbacks) > 0 {
		s.note("%s may serve a page where no route does, so redirects are not decided by their target: routes.unmatched is deny", strings.Join(facts.Fallbacks, ", "))
	}
	if err := s.render("gatehouse.yaml", "gatehouse.yaml.tmpl", settings); err != nil {
		return err
	}
	envoy := generate.Default(s.name)
	envoy.Websockets = slices.ContainsFunc(s.table.Routes(), func(r *routes.Route) bool { return slices.Contains(r.Methods, routes.WebSocket) })
	made, err := envoy.YAML()
	if err != nil {
		return err
	}
	s.add("envoy.yaml", made)
	s.add(".gatehouse/.gitignore", []byte("# What gatehouse keeps for itself: state, its control socket, backups.\n*\n"))
	return nil
}

// preflights names what answers CORS preflights before any view runs, "" where not all of them are.
func (s *Scaffold) preflights(facts routes.Facts) string {
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

func (s *Scaffold) note(format string, args ...any) {
	s.notices = append(s.notices, routes.Notice{Text: fmt.Sprintf(format, args...)})
}

func (s *Scaffold) add(path string, text []byte) { s.files = append(s.files, File{path, text}) }

func (s *Scaffold) render(path, name string, values any) error {
	t := s.templates[name]
	if t == nil {
		var err error
		if t, err = template.ParseFS(templates, "templates/"+name); err != nil {
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

// roleTable writes the one table of roles and the rule that reads it.
func (s *Scaffold) roleTable(all []*rule) error {
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
