package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gatehouse/config"
	"gatehouse/scaffold"
	"gatehouse/terminal"
	"gatehouse/trial/node"
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
		Long: `Reads the routes of an application and writes a complete setup to protect it: the route table
(routes.yaml), a policy that denies everything until you edit it (policy/), users with groups and roles (directory/), tests that
pass (tests.yaml), and the configurations of Gatehouse and Envoy (gatehouse.yaml, envoy.yaml). The application is imported by its own Python, but not
served or changed. All files are tested before any of them is written. Existing files are overwritten only with
--force, which keeps a copy under .gatehouse.

  --rules per-route   a file for each route, with a rule for each of its methods; --prefix /admin/ makes one for all routes below
  --rules rbac        one table, policy/data.json, of roles and their routes; recommended from about 50 routes on`,
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
				return scaffold.ErrInterrupted
			}
			if err != nil {
				return err
			}
			printNotices(c.ErrOrStderr(), notices)
			made, err := scaffold.New(c.Context(), scaffold.Config{Name: cmp.Or(o.name, scaffold.AppName(from.name, target)), Table: table, Rules: o.rules,
				Prefixes: o.prefixes, Try: tryScaffold})
			if none, ok := errors.AsType[*scaffold.PrefixError](err); ok {
				return fmt.Errorf("--prefix %w\ngatehouse routes list shows the templates", none)
			} else if err != nil {
				return err
			}
			s := made.Contents()
			printNotices(c.ErrOrStderr(), s.Notices)
			backup, err := made.Write(o.out, o.force)
			if err != nil {
				return err
			}
			if backup != "" {
				fmt.Fprintf(c.ErrOrStderr(), "what was overwritten is in %s\n", backup)
			}
			s = made.Contents()
			initSummary(c.OutOrStdout(), &s, o.out)
			suggestFewerFiles(c.ErrOrStderr(), &s, from.name, target, &o)
			return nil
		},
	}
	for _, i := range importers() {
		o.from[i.name] = c.Flags().String(i.name, "", fmt.Sprintf("%s: %s", i.argument, strings.ToLower(i.short[:1])+i.short[1:]))
	}
	o.python.flags(c)
	c.Flags().StringVar(&o.rules, "rules", scaffold.PerRoute, "per-route or rbac")
	c.Flags().StringArrayVar(&o.prefixes, "prefix", nil, "with --rules per-route: one rule for all routes below this path; may be repeated")
	c.Flags().StringVar(&o.name, "name", "", "the policy's package (default: from the application's name)")
	c.Flags().StringVar(&o.out, "out", ".", "directory to write to; created if it does not exist")
	c.Flags().BoolVar(&o.force, "force", false, "overwrite existing files; a copy is kept")
	return c
}

// source is the one application that the flags name.
func (o *initOptions) source() (routeSource, string, error) {
	var found []routeSource
	for _, i := range importers() {
		if *o.from[i.name] != "" {
			found = append(found, i)
		}
	}
	switch {
	case len(found) != 1:
		return routeSource{}, "", errors.New("say which application: one of --flask app:app, --fastapi main:app, --django shop.settings, --openapi FILE")
	case o.rules != scaffold.PerRoute && o.rules != scaffold.RoleTable:
		return routeSource{}, "", fmt.Errorf("--rules %q is neither per-route nor rbac", o.rules)
	case len(o.prefixes) > 0 && o.rules != scaffold.PerRoute:
		return routeSource{}, "", errors.New("--prefix goes with --rules per-route: a table of roles has a line for each route")
	case o.name != "" && scaffold.Identifier(o.name) != o.name:
		return routeSource{}, "", fmt.Errorf("--name %q is no name for a package: letters, digits and _, as in %s", o.name, scaffold.Identifier(o.name))
	}
	return found[0], *o.from[found[0].name], nil
}

// tryScaffold starts what was made, in a folder off to the side, and runs its tests.
func tryScaffold(ctx context.Context, dir string) error {
	return node.Try(ctx, config.Source{File: filepath.Join(dir, "gatehouse.yaml")}, func(*config.Config) {}, filepath.Join(dir, "tests.yaml"))
}

// initSummary says what was written, and what to do with it.
func initSummary(w io.Writer, s *scaffold.Contents, dir string) {
	in := func(name string) string { return filepath.ToSlash(filepath.Join(dir, name)) }
	fmt.Fprintf(w, "wrote %s for %s:\n\n", terminal.Count(s.Files, "file"), s.Name)
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, what string) { fmt.Fprintf(columns, "  %s\t%s\n", in(name), what) }
	row("routes.yaml", terminal.Count(len(s.Table.Routes()), "route")+", as "+s.Table.Framework()+" matches them")
	if s.PerRoute {
		what := ", one for each route and method; all deny"
		if s.Static {
			what += " but those of static files"
		}
		row("policy", terminal.Count(s.Rules, "rule")+what)
	} else {
		row("policy/data.json", "who may what: "+s.AdminRole+" everything, no one else anything")
		row("policy/"+s.Name+".rego", "the rule that reads it")
	}
	if s.Directory {
		row("directory", "users by the sub of their tokens, with groups and roles; ann@example.com is made up")
	} else {
		row("directory", "was there, and is as it was")
	}
	row("tests.yaml", terminal.Count(s.Tests, "request")+" and what is to become of them")
	row("gatehouse.yaml", "runs as it is; callers are anonymous until identity is set")
	row("envoy.yaml", "runs as it is: clients on port 8080, the application on port 8000")
	_ = columns.Flush() // as every other line here, to a terminal
	nextSteps(w, s, in)
}

// nextSteps leads to a first allow.
func nextSteps(w io.Writer, s *scaffold.Contents, in func(string) string) {
	config := " --config " + terminal.ShellWord(in("gatehouse.yaml"))
	if in("") == "." {
		config = "" // the default
	}
	fmt.Fprintf(w, "\nNext:\n\n  gatehouse test%s\n", config)
	fmt.Fprintf(w, "  gatehouse serve --config %s   # in another terminal: envoy -c %s\n", terminal.ShellWord(in("gatehouse.yaml")), terminal.ShellWord(in("envoy.yaml")))
	if s.Example == nil {
		return
	}
	fmt.Fprintf(w, "  $EDITOR %s\n\n", terminal.ShellWord(in(s.Example.File)))
	edit := fmt.Sprintf(`take the # off "%s := true"`, s.Example.Rule)
	if !s.PerRoute {
		edit = fmt.Sprintf("put %q into anyone", s.Example.Route)
	}
	fmt.Fprintf(w, "There %s, save, and it is in force:\n\n", edit)
	fmt.Fprintf(w, "  gatehouse check%s %s %s\n", config, s.Example.Method, terminal.ShellWord(s.Example.Path))
	fmt.Fprintf(w, "  curl -i -X %s %s\n", s.Example.Method, terminal.ShellWord("http://127.0.0.1:8080"+s.Example.Path))
	if !s.Directory {
		return
	}
	fmt.Fprintf(w, "\nThen let a role in. Who brings a token with the sub ann@example.com is that user of %s, and ", in("directory/directory.yaml"))
	if s.PerRoute {
		fmt.Fprintf(w, "a viewer:\n\n  %s if \"viewer\" in input.user.roles\n", s.Example.Rule)
	} else {
		fmt.Fprintf(w, "%s\nonce the # is off that line:\n\n  - role:%s#member@group:staff#member\n", s.AdminRole, s.AdminRole)
	}
	fmt.Fprintf(w, "  gatehouse check%s %s %s --as ann@example.com\n", config, s.Example.Method, terminal.ShellWord(s.Example.Path))
}

// manyRoutes is from where on a file for each route is too much to keep.
const manyRoutes = 50

// suggestFewerFiles says what is easier to keep where there are many files.
func suggestFewerFiles(w io.Writer, s *scaffold.Contents, kind, target string, o *initOptions) {
	if !s.PerRoute || s.StubFiles <= manyRoutes {
		return
	}
	command := fmt.Sprintf("gatehouse init --%s %s", kind, terminal.ShellWord(target))
	for _, f := range [][2]string{{"python", o.python.interpreter}, {"dir", o.python.dir}, {"name", o.name}, {"out", strings.TrimPrefix(o.out, ".")}} {
		if f[1] != "" {
			command += " --" + f[0] + " " + terminal.ShellWord(f[1])
		}
	}
	fmt.Fprintf(w, "%d files of rules are many to keep. One table of roles and routes has them all:\n  %s --rules rbac --force\n"+
		"or one rule for all routes below a path, as often as needed:\n  %s --prefix /admin/ --force\n", s.StubFiles, command, command)
}
