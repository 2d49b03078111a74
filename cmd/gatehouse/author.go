package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/bundler"
	"gatehouse/cmd/bundlecmd"
	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/policy/lint"
	"gatehouse/terminal"
	"gatehouse/trial/bench"
	"gatehouse/trial/node"
)

func fmtCommand() *cobra.Command {
	var check bool
	var output grammar.Output
	c := &cobra.Command{
		Use:   "fmt [FILE or DIR]...",
		Short: "Format Rego, as opa fmt does",
		Long: `Formats *.rego files, and those in folders, and writes those that change; their names are printed. Without arguments the folder is the
current one; - formats standard input. With --check nothing is written.

Exit code: 0 done, 1 with --check: a file would change, 2 it could not be done.`,
		Example: `  gatehouse fmt policy
  gatehouse fmt --check`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] == "-" {
				text, err := io.ReadAll(io.LimitReader(c.InOrStdin(), lint.MaxFile))
				if err == nil {
					text, err = lint.Format("standard input", text)
				}
				if err == nil {
					_, err = c.OutOrStdout().Write(text)
				}
				return err
			}
			write := func(file string, text []byte) error { return grammar.WriteFile(c, file, text) }
			if check {
				write = nil
			}
			changed, err := lint.FormatFiles(args, write)
			if output.JSON() {
				_ = terminal.JSON(c.OutOrStdout()).Encode(append([]string{}, changed...))
			} else {
				for _, file := range changed {
					fmt.Fprintln(c.OutOrStdout(), terminal.Visible(file))
				}
			}
			if err == nil && check && len(changed) > 0 {
				return grammar.ErrReported
			}
			return err
		},
	}
	c.Flags().BoolVar(&check, "check", false, "print the files that would change, and write nothing")
	output.Add(c, "a list of the files")
	return c
}

func lintCommand() *cobra.Command {
	var f bundlecmd.CompileFlags
	var output grammar.Output
	c := &cobra.Command{
		Use:   "lint [BUNDLE]...",
		Short: "Look for mistakes in policies that compile",
		Long: `Compiles bundles in OPA's strict mode (variables and imports that nothing uses, deprecated built-ins), and looks for references to rules that
are not there, a decision without a default, conditions that do not mean what they say (x[_] != y, not of a set, 1 == 1, sprintf with too few
values), fields of the input that do not exist, and files that gatehouse fmt would change. Without
arguments the bundles are those of the configuration that are on this machine.

Exit code: 0 nothing found, 1 something, 2 a policy does not compile.`,
		Example: `  gatehouse lint
  gatehouse lint ./policy -o json`,
		RunE: func(c *cobra.Command, args []string) error {
			args, err := f.Local(args)
			if err != nil {
				return err
			}
			found := []lint.Finding{}
			for _, arg := range args {
				list, err := lintBundle(c, &f, arg)
				if err != nil {
					return err
				}
				found = append(found, list...)
			}
			if output.JSON() {
				err = terminal.JSON(c.OutOrStdout()).Encode(found)
			} else {
				for _, one := range found {
					fmt.Fprintln(c.OutOrStdout(), terminal.Visible(one.String()))
				}
			}
			if err == nil && len(found) > 0 {
				return grammar.ErrReported
			}
			return err
		},
	}
	f.Add(c)
	output.Add(c, "a list of the findings")
	return c
}

func lintBundle(c *cobra.Command, f *bundlecmd.CompileFlags, arg string) ([]lint.Finding, error) {
	o, err := bundler.OpenPath(c.Context(), arg)
	if err != nil {
		return nil, err
	}
	made, err := f.Compile(c.Context(), o)
	if err != nil {
		return nil, err
	}
	found, err := lint.Lint(c.Context(), made.Settings, made.Bundle, made.All, o.Files)
	for i := range found {
		if found[i].File != "" {
			found[i].File = filepath.Join(arg, found[i].File)
		}
	}
	for _, notice := range made.Notices {
		found = append(found, lint.Finding{Rule: lint.Notice, Text: notice})
	}
	return found, err
}

func evalCommand() *cobra.Command {
	var src config.Source
	var input string
	var output grammar.Output
	c := &cobra.Command{
		Use:   "eval QUERY",
		Short: "Evaluate a query of Rego against the policy",
		Long: `Evaluates a query against the configuration's policy and data, as opa eval does. The input is a file of JSON. The network is not reached, and
what is asked of the directory is undefined.

Exit code: 0 it has a result, 1 it is undefined, 2 it could not be evaluated.`,
		Example: `  gatehouse eval data.envoy.authz
  gatehouse eval 'data.envoy.authz.allow' --input input.json --bundle ./policy`,
		Args: grammar.Arguments("gatehouse eval data.envoy.authz.allow --input input.json", 1),
		RunE: func(c *cobra.Command, args []string) error {
			src, err := src.OrDefault()
			if err != nil {
				return err
			}
			var value any
			if input != "" {
				if err := readJSON(input, c.InOrStdin(), &value); err != nil {
					return err
				}
			}
			t, err := node.New(c.Context(), src, nil, func(*config.Config) {}, grammar.Notices(c.ErrOrStderr()))
			if err != nil {
				return err
			}
			defer t.Close()
			found, err := t.Static.Policy.Query(c.Context(), args[0], value)
			switch {
			case err != nil:
				return err
			case output.JSON():
				err = terminal.JSON(c.OutOrStdout()).Encode(found)
			default:
				e := terminal.JSON(c.OutOrStdout())
				for _, result := range found {
					for _, expression := range result.Expressions {
						err = errors.Join(err, e.Encode(expression.Value))
					}
				}
			}
			if err == nil && len(found) == 0 {
				fmt.Fprintln(c.ErrOrStderr(), "undefined")
				return grammar.ErrReported
			}
			return err
		},
	}
	c.Flags().StringVarP(&src.File, "config", "c", "", "configuration file (default: gatehouse.yaml, if it exists)")
	c.Flags().StringVarP(&src.Bundle, "bundle", "b", "", "policy to evaluate instead of the configuration's: a directory or a tarball")
	c.Flags().StringVarP(&input, "input", "i", "", "file with the input, JSON; - is standard input")
	output.Add(c, "the results with their variables")
	return c
}

// readJSON reads a file of JSON.
func readJSON(file string, stdin io.Reader, into *any) error {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("--input: %w", err)
		}
		defer f.Close()
		in = f
	}
	d := json.NewDecoder(io.LimitReader(in, maxTry))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("--input %s: not JSON: %w", file, err)
	}
	return nil
}

func benchCommand() *cobra.Command {
	var f testFlags
	var noMemo bool
	long := grammar.Duration(3 * time.Second)
	c := &cobra.Command{
		Use:   "bench [FILE or DIR]...",
		Short: "Measure how fast the policy decides",
		Long: `Puts the requests of tests.yaml and tests/*.yaml, or of the given FILEs and DIRs, to the policy one after another for a while, on one core: what a
decision costs without Envoy and the network. --no-memo evaluates each request, as the first of its kind costs.`,
		Example: `  gatehouse bench
  gatehouse bench --no-memo --time 10s tests/hot.yaml`,
		RunE: func(c *cobra.Command, args []string) error {
			src, err := f.src.OrDefault()
			if err != nil {
				return err
			}
			t, requests, err := node.Requests(c.Context(), src, args, noMemo, grammar.Notices(c.ErrOrStderr()))
			if err != nil {
				return err
			}
			defer t.Close()
			result, err := bench.Run(c.Context(), t.Gate, requests, time.Duration(long))
			if err != nil {
				return err
			}
			if f.output.JSON() {
				return terminal.JSON(c.OutOrStdout()).Encode(result)
			}
			return terminal.Table(c.OutOrStdout(), result.Rows())
		},
	}
	flags := c.Flags()
	flags.StringVarP(&f.src.File, "config", "c", "", "configuration file (default: gatehouse.yaml, if it exists)")
	flags.StringVarP(&f.src.Bundle, "bundle", "b", "", "policy directory or tarball, instead of the configuration's")
	flags.BoolVar(&noMemo, "no-memo", false, "evaluate each request, also where its decision is remembered")
	flags.Var(&long, "time", "how long to measure")
	f.output.Add(c, "one object")
	return c
}
