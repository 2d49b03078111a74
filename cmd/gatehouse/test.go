package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse/bundles"
	"gatehouse/config"
	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/routes"
)

// testFlags are those of gatehouse test.
type testFlags struct {
	src      config.Source
	run      string
	junit    string
	coverage bool
	verbose  bool
	from     fromLog
}

func testCommand() *cobra.Command {
	var f testFlags
	c := &cobra.Command{
		Use:   "test [FILE or DIR]...",
		Short: "Run the policy's Rego tests and tables of requests",
		Long: `Runs every *_test.rego of the bundles, and the requests in tests.yaml and tests/*.yaml beside the configuration or, where
given, in the FILEs and DIRs. A table reads like this:

  tests:
    - allow: {as: u1, roles: [viewer], GET: /orders/17}
    - deny:  {as: u1, roles: [viewer], DELETE: /orders/17, status: 403, reason: denied}
    - name: anonymous is asked to log in
      deny: {GET: /orders, status: 401}

The exit code is 0 where all passed, 1 where one failed, 2 where they could not be run.`,
		Example: `  gatehouse test
  gatehouse test --config gatehouse.yaml --coverage --junit report.xml
  gatehouse test --from-log decisions.log --since 7d -o tests/last-week.yaml`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := f.from.given(c); err != nil {
				return usageError{err}
			}
			if f.from.log != "" {
				return f.fromLog(c, args)
			}
			failed, err := f.test(c, args)
			if err != nil {
				return usageError{err} // exit code 1 is a failed test
			}
			if failed > 0 {
				return errors.New("the tests did not pass")
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.StringVarP(&f.src.File, "config", "c", "", "configuration file (default: gatehouse.yaml, if it is there)")
	flags.StringVarP(&f.src.Bundle, "bundle", "b", "", "policy directory or tarball: with --config besides its bundles, else instead of those of gatehouse.yaml")
	flags.StringVar(&f.run, "run", "", "regular expression: only tests whose name it matches")
	flags.StringVar(&f.junit, "junit", "", "file to write a JUnit report to")
	flags.BoolVar(&f.coverage, "coverage", false, "show which routes have no allow and no deny test")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "show the tests that passed as well")
	f.from.add(c)
	return c
}

// fromLog makes a table of a log instead of running any.
func (f *testFlags) fromLog(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("--from-log makes a table and runs none: leave %q out", args[0])}
	}
	src, err := f.src.OrDefault()
	if err != nil {
		return usageError{err}
	}
	t, err := f.trial(c, src)
	if err != nil {
		return usageError{err}
	}
	defer t.close()
	if err := f.from.write(c, t); err != nil {
		return usageError{err} // exit code 1 is a failed test
	}
	return nil
}

// outcome is what came of one test of either kind.
type outcome struct {
	suite    string // rego, or the file of the table
	place    string // file:line
	name     string
	failed   bool
	skipped  bool
	details  []string // of a failure, one line each
	output   string   // what a Rego test printed
	duration time.Duration
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
	looked, files, err := testFiles(src, args)
	if err != nil {
		return 0, err
	}
	tests, err := readTestFiles(files, len(args) > 0, c.ErrOrStderr())
	if err != nil {
		return 0, err
	}
	t, err := f.trial(c, src)
	if err != nil {
		return 0, err
	}
	defer t.close()
	outcomes, err := t.regoTests(c.Context(), match)
	if err != nil {
		return 0, err
	}
	seen := &coverage{}
	for _, test := range tests {
		if match.MatchString(test.name) {
			outcomes = append(outcomes, t.requestTest(c.Context(), test, seen))
		}
	}
	switch {
	case c.Context().Err() != nil:
		return 0, errors.New("interrupted before the end")
	case len(outcomes) == 0 && f.run != "":
		return 0, fmt.Errorf("no test has a name that --run %q matches", f.run)
	case len(outcomes) == 0:
		return 0, fmt.Errorf("there are no tests: no *_test.rego in %s, and no requests in %s", t.bundlePaths(), strings.Join(looked, ", "))
	}
	return f.report(c.OutOrStdout(), t, outcomes, seen)
}

// trial is what the requests are put to. It says what does not fit together in it.
func (f *testFlags) trial(c *cobra.Command, src config.Source) (*trial, error) {
	verdicts := func(cfg *config.Config) { cfg.DryRun = config.DryRun{} } // what is tested is the verdict
	t, err := newTrial(c.Context(), src, nil, verdicts, c.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	if f.coverage && len(t.engine.routes) == 0 {
		t.close()
		return nil, errors.New("--coverage needs a route table: set routes.file")
	}
	for _, notice := range slices.Concat(t.engine.policy.Notices(), t.gate.View().Notices()) {
		fmt.Fprintln(c.ErrOrStderr(), "notice: "+notice)
	}
	return t, nil
}

func (t *trial) bundlePaths() string {
	var paths []string
	for _, b := range t.config.Policy.Bundles {
		paths = append(paths, b.Path)
	}
	return strings.Join(paths, ", ")
}

// report shows what failed, all of it with -v, and the sums.
func (f *testFlags) report(w io.Writer, t *trial, outcomes []outcome, seen *coverage) (failed int, err error) {
	if f.junit != "" {
		if err := writeJUnit(f.junit, outcomes); err != nil {
			return 0, err
		}
	}
	var b strings.Builder
	passed, skipped := 0, 0
	for _, o := range outcomes {
		label := "pass"
		switch {
		case o.failed:
			label = "FAIL"
			failed++
		case o.skipped:
			label = "skip"
			skipped++
		default:
			passed++
		}
		if o.failed || f.verbose {
			o.print(&b, label)
		}
	}
	if f.coverage {
		seen.print(&b, t.engine.routes)
	}
	fmt.Fprintf(&b, "%d passed, %d failed", passed, failed)
	if skipped > 0 {
		fmt.Fprintf(&b, ", %d skipped", skipped)
	}
	_, err = io.WriteString(w, b.String()+"\n")
	return failed, err
}

func (o *outcome) print(w io.Writer, label string) {
	fmt.Fprintf(w, "%s  %s: %s\n", label, visible(o.place), visible(o.name))
	for _, detail := range o.details {
		fmt.Fprintf(w, "      %s\n", visible(detail))
	}
	for line := range strings.Lines(o.output) {
		fmt.Fprintf(w, "      | %s\n", visible(strings.TrimRight(line, "\n")))
	}
}

// testFiles finds the tables, and says where it looked. A directory stands for its tests.yaml and tests/*.yaml; where it has
// neither, for the YAML files in it.
func testFiles(src config.Source, args []string) (looked, files []string, err error) {
	if len(args) == 0 {
		dir := filepath.Dir(src.File) // "." where there is no file
		files, err = tablesIn(dir)
		return []string{filepath.Join(dir, "tests.yaml"), filepath.Join(dir, "tests", "*.yaml")}, files, err
	}
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil {
			return nil, nil, err
		}
		found := []string{arg}
		if info.IsDir() {
			if found, err = tablesIn(arg); err == nil && len(found) == 0 {
				found, err = yamlFiles(arg)
			}
		}
		if err != nil {
			return nil, nil, err
		}
		looked, files = append(looked, arg), append(files, found...)
	}
	return looked, files, nil
}

// tablesIn lists a project's tables.
func tablesIn(dir string) ([]string, error) {
	files, err := yamlFiles(filepath.Join(dir, "tests"))
	if table := filepath.Join(dir, "tests.yaml"); err == nil {
		if _, err := os.Stat(table); err == nil {
			return append([]string{table}, files...), nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return files, err
}

// yamlFiles lists the YAML files in a directory, none where it does not exist.
func yamlFiles(dir string) (files []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for tests: %w", err)
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}

// readTestFiles reads all tables and reports all that is wrong with them. A file that was not named and has no tests is
// about something else.
func readTestFiles(files []string, named bool, stderr io.Writer) (tests []*requestTest, err error) {
	var errs []error
	for i, file := range files {
		if slices.Contains(files[:i], file) {
			continue // named twice
		}
		text, err := config.ReadUpTo(file, maxTestFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading tests: %w", err))
			continue
		}
		found, err := readTests(file, text)
		switch {
		case errors.Is(err, errNoTests) && !named && filepath.Base(file) != "tests.yaml":
			fmt.Fprintf(stderr, "notice: %v: left out\n", err)
		case err != nil:
			errs = append(errs, err)
		}
		tests = append(tests, found...)
	}
	return tests, errors.Join(errs...)
}

// regoTests runs the bundles' own tests.
func (t *trial) regoTests(ctx context.Context, match *regexp.Regexp) ([]outcome, error) {
	var all []*policy.Bundle
	var tests []*policy.Tests
	for _, b := range t.config.Policy.Bundles {
		read, err := bundles.ReadFiles(ctx, bundles.Source{Name: b.Name, Path: b.Path}, policy.Limits{})
		if err != nil {
			return nil, err
		}
		files := bundles.Tree(read)
		bundle, err := policy.Read(b.Name, files, policy.Limits{})
		if err != nil {
			return nil, err
		}
		own, err := policy.ReadTests(b.Name, files, policy.Limits{})
		if err != nil {
			return nil, err
		}
		all, tests = append(all, bundle), append(tests, own)
	}
	results, err := policy.RunTests(ctx, bundlesConfig(t.config, nil, nil, nil).Policy, all, tests, match)
	if err != nil {
		return nil, err
	}
	var out []outcome
	for _, r := range results {
		o := outcome{suite: "rego", place: fmt.Sprintf("%s:%d", t.pathOf(r.File), r.Line), name: r.Name, failed: r.Failed, skipped: r.Skipped,
			output: r.Output, duration: r.Duration}
		if r.Problem != "" {
			o.details = []string{r.Problem}
		}
		out = append(out, o)
	}
	return out, nil
}

// pathOf is where a bundle's file is on disk.
func (t *trial) pathOf(file string) string {
	name, rest, _ := strings.Cut(file, "/")
	for _, b := range t.config.Policy.Bundles {
		if b.Name == name {
			return filepath.Join(b.Path, filepath.FromSlash(rest))
		}
	}
	return file
}

// requestTest makes the request and compares.
func (t *trial) requestTest(ctx context.Context, test *requestTest, seen *coverage) outcome {
	o := outcome{suite: test.file, place: fmt.Sprintf("%s:%d", test.file, test.line), name: test.name}
	started := time.Now()
	a := test.attempt
	var err error
	if a.as, err = t.identity(test.caller); err != nil {
		o.failed, o.details = true, []string{err.Error()}
		return o
	}
	answer := t.gate.Check(ctx, a.request())
	if answer.Reason == gate.Timeout { // a busy machine must not fail a test
		answer = t.gate.Check(ctx, a.request())
	}
	o.duration = time.Since(started)
	if problems := test.compare(&answer); len(problems) > 0 {
		o.failed = true
		o.details = append(problems, "got      "+got(&answer))
		if why := cause(&a, &answer); why != "" {
			o.details = append(o.details, "cause    "+why)
		}
		return o
	}
	seen.add(&answer)
	return o
}

// compare says what is not as the test wants it.
func (t *requestTest) compare(answer *gate.Answer) (problems []string) {
	expected := func(format string, args ...any) {
		problems = append(problems, "expected "+fmt.Sprintf(format, args...))
	}
	if answer.Allow != t.allow {
		if t.allow {
			expected("allow")
		} else {
			expected("%s", strings.TrimSpace(fmt.Sprintf("deny %s %s", statusText(t.status), t.reason)))
		}
		return problems
	}
	if t.status != 0 && answer.Status != t.status {
		expected("status %d", t.status)
	}
	if t.reason != "" && t.reason != answer.Reason.String() && t.reason != told(answer) {
		expected("reason %q", t.reason)
	}
	if r := answer.Diagnostics.Match.Route; t.route != "" && (r == nil || t.route != r.Name && t.route != r.Template) {
		expected("route %q", t.route)
	}
	for _, w := range t.want {
		same := func(h gate.HeaderOption) bool { return strings.EqualFold(h.Name, w.name) }
		at := slices.IndexFunc(answer.Set, same)
		switch {
		case w.absent && at >= 0:
			expected("no header %s, and it is %q", w.name, answer.Set[at].Value)
		case w.absent:
		case at < 0:
			expected("header %s: %s, and it is not set", w.name, w.value)
		case !slices.ContainsFunc(answer.Set, func(h gate.HeaderOption) bool { return same(h) && h.Value == w.value }):
			expected("header %s: %s, and it is %q", w.name, w.value, answer.Set[at].Value)
		}
	}
	return problems
}

func statusText(status int) string {
	if status == 0 {
		return ""
	}
	return fmt.Sprint(status)
}

// got is an answer in one line.
func got(answer *gate.Answer) string {
	text := verdictLine(answer)
	if reason := told(answer); reason != "" && reason != answer.Reason.String() {
		text += fmt.Sprintf(" %q", reason)
	}
	if r := answer.Diagnostics.Match.Route; r != nil {
		text += ", route " + strings.TrimSpace(r.Template+" "+r.Name)
	}
	return text
}

// coverage counts, for each route, the tests that passed by their verdict.
type coverage struct{ allowed, denied map[*routes.Route]int }

func (c *coverage) add(answer *gate.Answer) {
	if c.allowed == nil {
		c.allowed, c.denied = map[*routes.Route]int{}, map[*routes.Route]int{}
	}
	if r := answer.Diagnostics.Match.Route; r != nil && answer.Allow {
		c.allowed[r]++
	} else if r != nil {
		c.denied[r]++
	}
}

// print lists the routes that lack a test, with the share of those that lack none.
func (c *coverage) print(w io.Writer, tables []*routeTable) {
	covered, total := 0, 0
	for _, table := range tables {
		for _, r := range table.table.Routes() {
			if r.Unsupported != "" { // no request ever takes it
				continue
			}
			total++
			lack := ""
			switch allowed, denied := c.allowed[r] > 0, c.denied[r] > 0; {
			case allowed && denied:
				covered++
				continue
			case allowed:
				lack = "no deny test"
			case denied:
				lack = "no allow test"
			default:
				lack = "no test"
			}
			line := strings.TrimSpace(strings.Join(r.Methods, ",") + " " + r.Template)
			if r.Methods == nil {
				line = "ANY " + r.Template
			}
			fmt.Fprintf(w, "cover  %s:%d: %s: %s\n", table.file.path, r.Line, line, lack)
		}
	}
	percent := 100
	if total > 0 {
		percent = 100 * covered / total
	}
	fmt.Fprintf(w, "%d of %d routes have an allow and a deny test (%d%%)\n", covered, total, percent)
}
