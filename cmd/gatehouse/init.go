package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/project"
	"gatehouse/routes"
	"gatehouse/routes/importer"
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
--force, which keeps a copy under .gatehouse. .gitignore gets what git must not have; no key is written.

Without a flag for the application it is looked for: manage.py, create_app, app.py, main.py, asgi.py, wsgi.py, also in src. Its interpreter is that of
the active virtual environment, or of .venv or venv here; .env and .flaskenv are read for the import. What was assumed is listed, with what changes it.

  --rules per-route   a file for each route, with a rule for each of its methods; --prefix /admin/ makes one for all routes below
  --rules rbac        one table, policy/data.json, of roles and their routes; recommended from about 50 routes on`,
		Example: `  gatehouse init
  gatehouse init --flask app:app --python .venv/bin/python
  gatehouse init --django shop.settings --prefix /admin/
  gatehouse init --openapi openapi.yaml --rules rbac --out gatehouse`,
		Args: grammar.Arguments("gatehouse init --flask app:app", 0),
		RunE: func(c *cobra.Command, _ []string) error {
			from, target, err := o.source()
			if err != nil {
				return err
			}
			app, err := o.project(&from, &target)
			if err != nil {
				return err
			}
			table, notices, err := from.read(c.Context(), target, o.python)
			if c.Context().Err() != nil {
				return scaffold.ErrInterrupted
			}
			if err != nil {
				if _, missing := errors.AsType[*importer.MissingModuleError](err); missing {
					return app.Hint(err)
				}
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
			if err := scaffold.WriteLocal(o.out, app); err != nil {
				return err
			}
			s = made.Contents()
			s.Summary(c.OutOrStdout(), o.out, app)
			s.SuggestFewerFiles(c.ErrOrStderr(), o.again(from.name, target))
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
	case len(found) > 1:
		return routeSource{}, "", errors.New("say which application: one of --flask app:app, --fastapi main:app, --django shop.settings, --openapi FILE")
	case o.rules != scaffold.PerRoute && o.rules != scaffold.RoleTable:
		return routeSource{}, "", fmt.Errorf("--rules %q is neither per-route nor rbac", o.rules)
	case len(o.prefixes) > 0 && o.rules != scaffold.PerRoute:
		return routeSource{}, "", errors.New("--prefix goes with --rules per-route: a table of roles has a line for each route")
	case o.name != "" && scaffold.Identifier(o.name) != o.name:
		return routeSource{}, "", fmt.Errorf("--name %q is no name for a package: letters, digits and _, as in %s", o.name, scaffold.Identifier(o.name))
	}
	if len(found) == 0 {
		return routeSource{}, "", nil
	}
	return found[0], *o.from[found[0].name], nil
}

// project finds what the flags do not say: the application where none is named, its folder and its interpreter. It is nil for what is no Python
// application.
func (o *initOptions) project(from *routeSource, target *string) (*project.Project, error) {
	if from.name == routes.OpenAPI {
		return nil, nil
	}
	app, err := project.Find(project.Wanted{Framework: from.name, Target: *target, Dir: o.python.dir, Python: o.python.interpreter})
	if errors.Is(err, project.ErrNone) {
		return nil, fmt.Errorf("say which application: one of --flask app:app, --fastapi main:app, --django shop.settings, --openapi FILE\n%w", err)
	} else if err != nil {
		return nil, err
	}
	for _, i := range importers() {
		if i.name == app.Framework {
			*from = i
		}
	}
	*target, o.python.interpreter, o.python.dir, o.python.env = app.Target, app.Python, app.Dir, app.Env.List()
	return app, nil
}

// again is the command that init was called with.
func (o *initOptions) again(kind, target string) string {
	command := fmt.Sprintf("gatehouse init --%s %s", kind, terminal.ShellWord(target))
	for _, f := range [][2]string{{"python", o.python.interpreter}, {"dir", o.python.dir}, {"name", o.name}, {"out", strings.TrimPrefix(o.out, ".")}} {
		if f[1] != "" {
			command += " --" + f[0] + " " + terminal.ShellWord(f[1])
		}
	}
	return command
}

// tryScaffold starts what was made, in a folder off to the side, and runs its tests.
func tryScaffold(ctx context.Context, dir string) error {
	return node.Try(ctx, config.Source{File: filepath.Join(dir, "gatehouse.yaml")}, func(*config.Config) {}, filepath.Join(dir, "tests.yaml"))
}
