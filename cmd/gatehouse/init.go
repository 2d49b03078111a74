package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gatehouse/routes"
)

const (
	perRoute = "per-route"
	rbac     = "rbac"
)

// initOptions are the flags of `gatehouse init`.
type initOptions struct {
	from   map[string]*string // by importer
	python pythonOptions
	rules  string
	// prefixes, of paths or templates, below which all routes share one rule.
	prefixes []string
	name     string
	out      string
	force    bool
}

func initCommand() *cobra.Command {
	o := initOptions{from: map[string]*string{}}
	c := &cobra.Command{
		Use:   "init",
		Short: "Write a first configuration and policy for an application",
		Long: `Reads the routes of an application and writes what it takes to protect it, to run as it is: the route table
(routes.yaml), a policy that denies everything until you say who may do what (policy/), tests that pass (tests.yaml), and
the configurations of Gatehouse and Envoy (gatehouse.yaml, envoy.yaml). The application is imported by its own Python, never
served and never changed. All of it is tried before any of it is written. A file that is there already is not overwritten without
--force, which keeps a copy under .gatehouse.

  --rules per-route   a file for each route, with a rule for each of its methods; --prefix /admin/ has one for all routes below
  --rules rbac        one table, policy/data.json, of roles and the routes that they may use: from about 50 routes on`,
		Example: `  gatehouse init --flask app:app --python .venv/bin/python
  gatehouse init --django shop.settings --prefix /admin/
  gatehouse init --openapi openapi.yaml --rules rbac --out gatehouse`,
		Args: arguments("gatehouse init --flask app:app", 0),
		RunE: func(c *cobra.Command, _ []string) error {
			from, target, err := o.source()
			if err != nil {
				return err
			}
			table, notices, err := from.read(c.Context(), target, o.python)
			if c.Context().Err() != nil {
				return errInterrupted
			}
			if err != nil {
				return err
			}
			tell(c.ErrOrStderr(), notices)
			s, err := newScaffold(c.Context(), cmp.Or(o.name, appName(from.name, target)), &o, table)
			if err != nil {
				return err
			}
			tell(c.ErrOrStderr(), s.notices)
			backup, err := s.write(o.out, o.force)
			if err != nil {
				return err
			}
			if backup != "" {
				fmt.Fprintf(c.ErrOrStderr(), "what was overwritten is in %s\n", backup)
			}
			s.summary(c.OutOrStdout(), o.out)
			s.suggest(c.ErrOrStderr(), from.name, target, &o)
			return nil
		},
	}
	for _, i := range importers() {
		o.from[i.name] = c.Flags().String(i.name, "", fmt.Sprintf("%s: %s", i.argument, strings.ToLower(i.short[:1])+i.short[1:]))
	}
	o.python.flags(c)
	c.Flags().StringVar(&o.rules, "rules", perRoute, "per-route or rbac")
	c.Flags().StringArrayVar(&o.prefixes, "prefix", nil, "with --rules per-route: one rule for all routes below this path; may be repeated")
	c.Flags().StringVar(&o.name, "name", "", "the policy's package (default: from the application's name)")
	c.Flags().StringVar(&o.out, "out", ".", "directory to write to; it is made where it is not there")
	c.Flags().BoolVar(&o.force, "force", false, "overwrite files that are there; a copy is kept")
	return c
}

// source is the one application that the flags name.
func (o *initOptions) source() (importer, string, error) {
	var found []importer
	for _, i := range importers() {
		if *o.from[i.name] != "" {
			found = append(found, i)
		}
	}
	switch {
	case len(found) != 1:
		return importer{}, "", usageError{errors.New("say which application: one of --flask app:app, --fastapi main:app, --django shop.settings, --openapi FILE")}
	case o.rules != perRoute && o.rules != rbac:
		return importer{}, "", usageError{fmt.Errorf("--rules %q is neither per-route nor rbac", o.rules)}
	case len(o.prefixes) > 0 && o.rules != perRoute:
		return importer{}, "", usageError{errors.New("--prefix goes with --rules per-route: a table of roles has a line for each route")}
	case o.name != "" && identifier(o.name) != o.name:
		return importer{}, "", usageError{fmt.Errorf("--name %q is no name for a package: letters, digits and _, as in %s", o.name, identifier(o.name))}
	}
	return found[0], *o.from[found[0].name], nil
}

// appName is what to call an application: its first module, or the description's file.
func appName(kind, target string) string {
	if kind != routes.OpenAPI {
		module, _, _ := strings.Cut(target, ":")
		first, _, _ := strings.Cut(module, ".")
		return identifier(first)
	}
	target, _, _ = strings.Cut(target, "?")
	base := filepath.Base(target)
	return identifier(strings.TrimSuffix(base, filepath.Ext(base)))
}

// keywords cannot stand unquoted in a reference.
var keywords = []string{"as", "contains", "data", "default", "else", "every", "false", "if", "import", "in", "input", "not", "null", "package",
	"some", "true", "with"}

// reserved are names below data that are taken: OPA's own, and those of the generated table of roles.
var reserved = []string{"system", "roles", "anyone"}

// identifier makes a package name out of any text.
func identifier(text string) string {
	name := strings.TrimRight(strings.Map(func(r rune) rune {
		if r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' {
			return r
		}
		return '_'
	}, text), "_")
	switch {
	case name == "":
		return "app"
	case '0' <= name[0] && name[0] <= '9', slices.Contains(keywords, name), slices.Contains(reserved, name):
		return "app_" + name
	}
	return name
}

// summary says what was written, and what to do with it.
func (s *scaffold) summary(w io.Writer, dir string) {
	in := func(name string) string { return filepath.ToSlash(filepath.Join(dir, name)) }
	fmt.Fprintf(w, "wrote %s for %s:\n\n", plural(len(s.files), "file"), s.name)
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, what string) { fmt.Fprintf(columns, "  %s\t%s\n", in(name), what) }
	row("routes.yaml", plural(len(s.table.Routes()), "route")+", as "+s.table.Framework()+" matches them")
	if s.perRoute {
		what := ", one for each route and method; all deny"
		if len(s.static) > 0 {
			what += " but those of static files"
		}
		row("policy", plural(s.rules, "rule")+what)
	} else {
		row("policy/data.json", "who may what: "+adminRole+" everything, no one else anything")
		row("policy/"+s.name+".rego", "the rule that reads it")
	}
	row("tests.yaml", plural(s.tests, "request")+" and what is to become of them")
	row("gatehouse.yaml", "runs as it is; callers are anonymous until identity is set")
	row("envoy.yaml", "runs as it is: clients on port 8080, the application on port 8000")
	_ = columns.Flush() // as every other line here, to a terminal
	s.nextSteps(w, in)
}

// nextSteps leads to a first allow.
func (s *scaffold) nextSteps(w io.Writer, in func(string) string) {
	config := " --config " + shellWord(in("gatehouse.yaml"))
	if in("") == "." {
		config = "" // the default
	}
	fmt.Fprintf(w, "\nNext:\n\n  gatehouse test%s\n", config)
	fmt.Fprintf(w, "  gatehouse serve --config %s   # in another terminal: envoy -c %s\n", shellWord(in("gatehouse.yaml")), shellWord(in("envoy.yaml")))
	if s.example == nil {
		return
	}
	fmt.Fprintf(w, "  $EDITOR %s\n\n", shellWord(in(s.example.file)))
	edit := fmt.Sprintf(`take the # off "%s := true"`, s.example.rule)
	if !s.perRoute {
		edit = fmt.Sprintf("put %q into anyone", s.example.route)
	}
	fmt.Fprintf(w, "There %s, save, and it is in force:\n\n", edit)
	fmt.Fprintf(w, "  gatehouse check%s %s %s\n", config, s.example.method, shellWord(s.example.path))
	fmt.Fprintf(w, "  curl -i -X %s %s\n", s.example.method, shellWord("http://127.0.0.1:8080"+s.example.path))
}

// manyRoutes is from where on a file for each route is too much to keep.
const manyRoutes = 50

// suggest says what is easier to keep where there are many files.
func (s *scaffold) suggest(w io.Writer, kind, target string, o *initOptions) {
	if !s.perRoute || s.stubFiles <= manyRoutes {
		return
	}
	command := fmt.Sprintf("gatehouse init --%s %s", kind, shellWord(target))
	for _, f := range [][2]string{{"python", o.python.interpreter}, {"dir", o.python.dir}, {"name", o.name}, {"out", strings.TrimPrefix(o.out, ".")}} {
		if f[1] != "" {
			command += " --" + f[0] + " " + shellWord(f[1])
		}
	}
	fmt.Fprintf(w, "%d files of rules are many to keep. One table of roles and routes has them all:\n  %s --rules rbac --force\n"+
		"or one rule for all routes below a path, as often as needed:\n  %s --prefix /admin/ --force\n", s.stubFiles, command, command)
}

func shellWord(text string) string {
	if strings.ContainsAny(text, "&;()<>*?[]$!'\"|~ ") {
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	return text
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
