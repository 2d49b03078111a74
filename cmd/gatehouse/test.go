package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/cmd/grammar"
	"gatehouse/config"
	"gatehouse/replay/search"
	"gatehouse/report"
	"gatehouse/terminal"
	"gatehouse/trial"
	"gatehouse/trial/logged"
	"gatehouse/trial/node"
)

// testFlags are those of gatehouse test.
type testFlags struct {
	src      config.Source
	run      string
	junit    string
	coverage bool
	verbose  bool
	output   grammar.Output
	from     fromLog
}

func testCommand() *cobra.Command {
	var f testFlags
	c := &cobra.Command{
		Use:   "test [FILE or DIR]...",
		Short: "Run the policy's Rego tests and tables of requests",
		Long: `Runs every *_test.rego of the bundles, and the requests in tests.yaml and tests/*.yaml next to the configuration or in the
given FILEs and DIRs. An example of a table:

  tests:
    - allow: {as: u1, roles: [viewer], GET: /orders/17}
    - deny:  {as: u1, roles: [viewer], DELETE: /orders/17, status: 403, reason: denied}
    - name: anonymous is asked to log in
      deny: {GET: /orders, status: 401}

Exit code: 0 all passed, 1 a test failed, 2 the tests could not run.`,
		Example: `  gatehouse test
  gatehouse test --config gatehouse.yaml --coverage --junit report.xml
  gatehouse test --from-log decisions.log --since 7d --out last-week.yaml`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := f.from.given(c); err != nil {
				return err
			}
			switch {
			case f.output.File != "" && f.from.log == "": // in its old spelling
				return errors.New("-o is text or json; --out FILE is for --from-log FILE")
			case f.output.JSON() && f.from.log != "":
				return errors.New("--from-log makes a table, which is YAML: leave -o json out")
			}
			if f.from.log != "" {
				return f.fromLog(c, args)
			}
			failed, err := f.test(c, args)
			if err != nil {
				return err // exit code 1 is a failed test
			}
			if failed > 0 {
				return grammar.Negative(errors.New("the tests did not pass"))
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.StringVarP(&f.src.File, "config", "c", "", "configuration file (default: gatehouse.yaml, if it exists)")
	flags.StringVarP(&f.src.Bundle, "bundle", "b", "", "policy directory or tarball: with --config in addition to its bundles, else instead of those of gatehouse.yaml")
	flags.StringVar(&f.run, "run", "", "regular expression: only tests whose name it matches")
	flags.StringVar(&f.junit, "junit", "", "file to write a JUnit report to")
	flags.BoolVar(&f.coverage, "coverage", false, "show routes without an allow test or without a deny test")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "show passed tests too")
	f.output.AddFile(c, "one object", "", "with --from-log: file to write the table to (default: standard output)")
	f.from.add(c)
	return c
}

// fromLog makes a table of a log instead of running any.
func (f *testFlags) fromLog(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("--from-log makes a table and runs none: leave %q out", args[0])
	}
	src, err := f.src.OrDefault()
	if err != nil {
		return err
	}
	t, err := f.trial(c, src)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := f.from.write(c, t, f.output.File); err != nil {
		return err // exit code 1 is a failed test
	}
	return nil
}

// test runs everything and prints it. An error says why it could not.
func (f *testFlags) test(c *cobra.Command, args []string) (failed int, err error) {
	match, err := regexp.Compile(f.run)
	if err != nil {
		return 0, fmt.Errorf("--run: %w", err)
	}
	src, err := f.src.OrDefault()
	if err != nil {
		return 0, err
	}
	looked, files, err := trial.FindFiles(src.File, args)
	if err != nil {
		return 0, err
	}
	tests, leftOut, err := trial.ReadFiles(files, len(args) > 0)
	warnLeftOut(c.ErrOrStderr(), leftOut)
	if err != nil {
		return 0, err
	}
	t, err := f.trial(c, src)
	if err != nil {
		return 0, err
	}
	defer t.Close()
	outcomes, err := t.RegoTests(c.Context(), match)
	if err != nil {
		return 0, err
	}
	seen := &trial.Coverage{}
	for _, test := range tests {
		if match.MatchString(test.Name) {
			outcomes = append(outcomes, t.Run(c.Context(), test, seen))
		}
	}
	switch {
	case c.Context().Err() != nil:
		return 0, errors.New("interrupted before the end")
	case len(outcomes) == 0 && f.run != "":
		return 0, fmt.Errorf("no test has a name that --run %q matches", f.run)
	case len(outcomes) == 0:
		return 0, fmt.Errorf("there are no tests: no *_test.rego in %s, and no requests in %s", t.BundlePaths(), strings.Join(looked, ", "))
	}
	return f.report(c.OutOrStdout(), t, outcomes, seen)
}

// trial is what the requests are put to. It says what does not fit together in it.
func (f *testFlags) trial(c *cobra.Command, src config.Source) (*node.Node, error) {
	verdicts := func(cfg *config.Config) { cfg.DryRun = config.DryRun{} } // what is tested is the verdict
	t, err := node.New(c.Context(), src, nil, verdicts, grammar.Notices(c.ErrOrStderr()))
	if err != nil {
		return nil, err
	}
	if f.coverage && len(t.Static.Tables) == 0 {
		t.Close()
		return nil, errors.New("--coverage needs a route table: set routes.file")
	}
	policyNotices(c.ErrOrStderr(), t)
	return t, nil
}

// policyNotices tells what the policy and its routes give notice of.
func policyNotices(w io.Writer, t *node.Node) {
	for _, notice := range slices.Concat(t.Static.Policy.Notices(), t.Gate.View().Notices()) {
		fmt.Fprintln(w, "notice: "+terminal.Visible(notice))
	}
}

// report shows what failed, all of it with -v, and the sums.
func (f *testFlags) report(w io.Writer, t *node.Node, outcomes []trial.Outcome, seen *trial.Coverage) (failed int, err error) {
	if f.junit != "" {
		if err := trial.WriteJUnit(f.junit, outcomes); err != nil {
			return 0, err
		}
	}
	out := report.Tests{Outcomes: outcomes, Verbose: f.verbose}
	if f.coverage {
		var lines strings.Builder
		out.Coverage = &report.Coverage{}
		for _, table := range t.Static.Tables {
			covered, total := seen.Print(&lines, table.File, table.Table)
			out.Coverage.Covered, out.Coverage.Routes = out.Coverage.Covered+covered, out.Coverage.Routes+total
		}
		out.Coverage.Lines = lines.String()
	}
	if f.output.JSON() {
		return out.Failed(), out.WriteJSON(w)
	}
	return out.Failed(), out.Write(w)
}

// warnLeftOut says which files hold no tests.
func warnLeftOut(w io.Writer, files []error) {
	for _, err := range files {
		fmt.Fprintf(w, "notice: %v: left out\n", err)
	}
}

// fromLog are the flags by which gatehouse test makes a table of a log.
type fromLog struct {
	log    string
	filter search.Filter
}

func (f *fromLog) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.log, "from-log", "", "do not run tests; make a table from the decisions in this log (a file, a folder, a spool, or - for standard input), one row for each route, verdict and set of roles")
	addFilter(flags, &f.filter)
}

// given reports a flag that means nothing without --from-log.
func (f *fromLog) given(c *cobra.Command) error {
	for _, name := range []string{"out", "since", "until", "route", "limit"} {
		if f.log == "" && c.Flags().Changed(name) {
			return fmt.Errorf("--%s is for --from-log FILE", name)
		}
	}
	return f.filter.Check(time.Now())
}

// write makes the table and says on stderr what is in it.
func (f *fromLog) write(c *cobra.Command, t *node.Node, file string) error {
	log, err := node.OpenLogAt(f.log, c.InOrStdin())
	if err != nil {
		return err
	}
	defer log.Close()
	made := logged.New(t.Trial, t.Gate.View())
	if err := made.Take(c.Context(), log, f.filter.Wants, f.filter.Enough); err != nil {
		return err
	}
	if made.Made+made.Left == 0 {
		return fmt.Errorf("there are no such decisions in %s (%d events)", f.log, made.Read)
	}
	out := made.Text(f.log)
	if file == "" {
		_, err = c.OutOrStdout().Write(out)
	} else {
		err = os.WriteFile(file, out, 0o644)
	}
	fmt.Fprintf(c.ErrOrStderr(), "%s of %s; left out: %d\n", terminal.Count(made.Made, "row"), terminal.Count(made.Read, "event"), made.Left)
	if made.Bad > 0 {
		fmt.Fprintf(c.ErrOrStderr(), "notice: unreadable: %s of the log\n", terminal.Count(made.Bad, "place"))
	}
	return err
}
