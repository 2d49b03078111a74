package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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
	name   string
	out    string
	force  bool
}

func initCommand() *cobra.Command {
	o := initOptions{from: map[string]*string{}}
	c := &cobra.Command{
		Use:   "init",
		Short: "Write a first configuration and policy for an application",
		Long: `Reads the routes of an application and writes what it takes to protect it, to run as it is: the route table
(routes.yaml), a policy that denies everything until you say who may do what (policy/), tests that pass (tests.yaml), and
the configurations of Gatehouse and Envoy (gatehouse.yaml, envoy.yaml). The application is imported by its own Python, never
served and never changed. A file that is there already is not overwritten without --force.

  --rules per-route   one rule for each route, each in a file of its own
  --rules rbac        one table, policy/data.json, of roles and the routes that they may use`,
		Example: `  gatehouse init --flask app:app --python .venv/bin/python
  gatehouse init --openapi openapi.yaml --rules rbac --out gatehouse`,
		Args: arguments("gatehouse init --flask app:app", 0),
		RunE: func(c *cobra.Command, _ []string) error {
			from, target, err := o.source()
			if err != nil {
				return err
			}
			table, notices, err := from.read(c.Context(), target, o.python)
			if err != nil {
				return err
			}
			tell(c.ErrOrStderr(), notices)
			s, err := newScaffold(cmp.Or(o.name, appName(from.name, target)), o.rules, table)
			if err != nil {
				return err
			}
			tell(c.ErrOrStderr(), s.notices)
			if err := s.write(o.out, o.force); err != nil {
				return err
			}
			s.summary(c.OutOrStdout(), o.out)
			return nil
		},
	}
	for _, i := range importers() {
		o.from[i.name] = c.Flags().String(i.name, "", fmt.Sprintf("%s: %s", i.argument, strings.ToLower(i.short[:1])+i.short[1:]))
	}
	o.python.flags(c)
	c.Flags().StringVar(&o.rules, "rules", perRoute, "per-route or rbac")
	c.Flags().StringVar(&o.name, "name", "", "the policy's package (default: from the application's name)")
	c.Flags().StringVar(&o.out, "out", ".", "directory to write to; it is made where it is not there")
	c.Flags().BoolVar(&o.force, "force", false, "overwrite files that are there")
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

// scaffoldFile is one that is to be written, relative to the output directory.
type scaffoldFile struct {
	path string // with slashes
	text []byte
}

// write writes all the files, or none where one is there already and force is not set.
func (s *scaffold) write(dir string, force bool) error {
	var taken []string
	for _, f := range s.files {
		path := filepath.Join(dir, filepath.FromSlash(f.path))
		switch _, err := os.Lstat(path); {
		case err == nil:
			taken = append(taken, path)
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("nothing was written: %w", err)
		}
	}
	if len(taken) > 0 && !force {
		return fmt.Errorf("nothing was written, because these are there already:\n  %s\n--force overwrites them, --out names another directory",
			strings.Join(taken, "\n  "))
	}
	for _, f := range s.files {
		path := filepath.Join(dir, filepath.FromSlash(f.path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		if err := replaceFile(path, f.text); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return nil
}

// summary says what was written, and what to do with it.
func (s *scaffold) summary(w io.Writer, dir string) {
	in := func(name string) string { return filepath.ToSlash(filepath.Join(dir, name)) }
	fmt.Fprintf(w, "wrote %s for %s:\n\n", plural(len(s.files), "file"), s.name)
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, what string) { fmt.Fprintf(columns, "  %s\t%s\n", in(name), what) }
	row("routes.yaml", plural(len(s.table.Routes()), "route")+", as "+s.table.Framework()+" matches them")
	if s.perRoute {
		row("policy", plural(s.rules, "rule")+", one for each route and method; all deny")
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
	edit := `take the # off "allowed := true"`
	if !s.perRoute {
		edit = fmt.Sprintf("put %q into anyone", s.example.route)
	}
	fmt.Fprintf(w, "There %s, save, and it is in force:\n\n", edit)
	fmt.Fprintf(w, "  gatehouse check%s %s %s\n", config, s.example.method, shellWord(s.example.path))
	fmt.Fprintf(w, "  curl -i -X %s %s\n", s.example.method, shellWord("http://127.0.0.1:8080"+s.example.path))
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
