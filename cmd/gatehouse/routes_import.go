package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/routes"
	"gatehouse/routes/importer"
	"gatehouse/scaffold/tables"
	"gatehouse/terminal"
)

// routeSource is one kind of place that routes can come from.
type routeSource struct {
	name, argument string
	short          string
	example        string
	python         bool // it runs the application's Python
	read           func(ctx context.Context, from string, python pythonOptions) (*routes.Table, []routes.Notice, error)
}

// pythonOptions say how an application's modules are found.
type pythonOptions struct {
	interpreter string
	dir         string
	timeout     grammar.Duration
	env         []string // further variables, KEY=value
	trust       []string
	quiet       bool
	command     *cobra.Command // on whose standard error progress is told
}

func (o *pythonOptions) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.interpreter, "python", "", "the application's Python interpreter, such as .venv/bin/python (default: python3)")
	c.Flags().StringVar(&o.dir, "dir", "", "directory of the application's modules (default: the current one)")
	o.timeout = grammar.Duration(time.Minute)
	c.Flags().Var(&o.timeout, "timeout", "time limit for the import")
	c.Flags().StringArrayVar(&o.trust, "trust", nil, "middleware, such as shop.middleware.Tenant, that you know does not change which route a request matches")
	c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "do not report progress of an import that takes more than 3s")
	o.command = c
}

// read imports the application, and tells what it waits for once that takes long.
func (o pythonOptions) read(ctx context.Context, framework, target string) (*routes.Table, []routes.Notice, error) {
	if o.timeout < 0 {
		return nil, nil, fmt.Errorf("--timeout %s: it must be more than nothing", &o.timeout)
	}
	if o.command != nil && !o.quiet {
		defer terminal.Progress(o.command.ErrOrStderr(), func(took time.Duration) string {
			return fmt.Sprintf("importing %s: %s", target, took.Round(time.Second))
		})()
	}
	return importer.Python(ctx, importer.PythonApp{Framework: framework, Target: target, Python: o.interpreterPath(), Dir: o.dir,
		Timeout: time.Duration(o.timeout), Env: o.env, Trust: o.trust})
}

// importers are the ways to get a table; `gatehouse init` takes them as well.
func importers() []routeSource {
	python := func(framework, argument, example string) routeSource {
		return routeSource{name: framework, argument: argument, example: example, python: true,
			short: "Read the routes of a " + map[string]string{routes.Flask: "Flask", routes.FastAPI: "FastAPI or Starlette", routes.Django: "Django"}[framework] + " application",
			read: func(ctx context.Context, from string, o pythonOptions) (*routes.Table, []routes.Notice, error) {
				return o.read(ctx, framework, from)
			}}
	}
	return []routeSource{
		python(routes.Flask, "MODULE:APP", "gatehouse routes import flask 'shop:create_app()' --python .venv/bin/python --out routes.yaml"),
		python(routes.FastAPI, "MODULE:APP", "gatehouse routes import fastapi main:app --python .venv/bin/python --out routes.yaml"),
		python(routes.Django, "SETTINGS", "gatehouse routes import django shop.settings --python .venv/bin/python --out routes.yaml"),
		{name: "openapi", argument: "FILE|URL", short: "Read the paths of an OpenAPI 3 or Swagger 2 description",
			example: "gatehouse routes import openapi openapi.yaml --out routes.yaml", read: importOpenAPI},
	}
}

// interpreterPath is the interpreter as seen from here: it runs in another directory.
func (o pythonOptions) interpreterPath() string {
	if !strings.ContainsRune(o.interpreter, filepath.Separator) {
		return o.interpreter // to be looked up in PATH, or the default
	}
	abs, err := filepath.Abs(o.interpreter)
	if err != nil {
		return o.interpreter
	}
	return abs
}

func importOpenAPI(ctx context.Context, from string, _ pythonOptions) (*routes.Table, []routes.Notice, error) {
	text, err := importer.ReadOpenAPI(ctx, &http.Client{Timeout: 30 * time.Second}, from)
	if err != nil {
		return nil, nil, err
	}
	return importer.OpenAPI(from, text)
}

func importLog(_ context.Context, from string, _ pythonOptions) (*routes.Table, []routes.Notice, error) {
	f, err := os.Open(from)
	if err != nil {
		return nil, nil, fmt.Errorf("reading decision log: %w", err)
	}
	defer f.Close()
	return importer.Log(from, f)
}

func routesImportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "import",
		Short: "Import a route table from an application, an OpenAPI description, or traffic",
		Long: `Writes the routes of an application as a route table. The application is imported by its own Python, but not served or
changed. Routes that a table cannot express are marked unsupported, and listed on standard error.

If --out FILE exists, the differences are printed (+ added, - removed,
~ changed) and nothing is written. --force writes the file, and keeps your changes in it: tags, allow, the mount, comments.
--check, for CI, writes nothing and exits with 1 if anything differs. --stubs writes the table, and a deny
rule file for each route without a rule; existing files are not changed.`,
	}
	log := routeSource{name: "log", argument: "DECISIONLOG", short: "Guess routes from the paths in a decision log",
		example: "gatehouse routes import log decisions.log --out routes.yaml", read: importLog}
	var below []*cobra.Command
	for _, from := range append(importers(), log) {
		below = append(below, from.command())
	}
	grammar.Family(c, below...)
	c.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("routes cannot be imported from %q: flask, fastapi, django, openapi and log are known", args[0])
		}
		return nil
	}
	return c
}

func (i routeSource) command() *cobra.Command {
	var python pythonOptions
	var to tableFlags
	c := &cobra.Command{
		Use:     i.name + " " + i.argument,
		Short:   i.short,
		Example: "  " + i.example,
		Args:    grammar.Arguments(i.example, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := to.validate(); err != nil {
				return err
			}
			table, notices, err := i.read(c.Context(), args[0], python)
			if err != nil {
				return err
			}
			printNotices(c.ErrOrStderr(), notices)
			err = to.Deliver(c.Context(), table, c.OutOrStdout(), c.ErrOrStderr())
			if drift, ok := errors.AsType[tables.DriftError](err); ok {
				return grammar.Negative(drift)
			}
			return err
		},
	}
	grammar.OutFlag(c, &to.File, "-", "file to write, or to compare with if it exists; - is standard output")
	c.Flags().BoolVar(&to.Check, "check", false, "write nothing, and exit with 1 if the file differs from the application")
	c.Flags().BoolVar(&to.Force, "force", false, "overwrite an existing file")
	c.Flags().BoolVar(&to.Stubs, "stubs", false, "like --force, and also write a deny rule for each route without a rule (needs policy.root)")
	c.Flags().StringVarP(&to.Config, "config", "c", "", "with --stubs: configuration of the routes (default: gatehouse.yaml next to the table)")
	if i.python {
		python.flags(c)
	}
	return c
}

// tableFlags are those of where a table goes.
type tableFlags struct{ tables.Destination }

func (d tableFlags) validate() error {
	switch {
	case d.Check && d.Force:
		return errors.New("--check and --force exclude each other: the one writes nothing, the other does")
	case d.Stubs && (d.Check || d.File == "-"):
		return errors.New("--stubs writes a table and the rules that it lacks: name the table with --out routes.yaml, without --check")
	case d.Config != "" && !d.Stubs:
		return errors.New("--config goes with --stubs")
	case d.Check && d.File == "-":
		return errors.New("--check compares with a file: name it with --out routes.yaml")
	}
	return nil
}
