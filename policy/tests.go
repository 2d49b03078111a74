package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	frontend "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"

	"gatehouse/policy/builtins"
	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
)

const (
	testTimeout   = 5 * time.Second // for one test
	maxTestOutput = 4 << 10         // bytes printed by a test
)

// TestResult is the result of one test. It passed if Failed and Skipped are false.
type TestResult struct {
	File     string // starts with the bundle's name: orders/orders_test.rego
	Line     int
	Name     string // data.orders_test.test_viewer_reads
	Failed   bool
	Skipped  bool   // its name begins with todo_test_
	Problem  string // why it failed, in one line
	Output   string // printed output, at most 4 KiB
	Duration time.Duration
}

// RunTests compiles bundles and tests together and runs every test whose name matches; nil matches all. The built-ins are those that cfg
// enables, but none of them reaches the network: a test replaces such a call using "with". The results are sorted by file and line. Problems
// of the modules are returned as Problems.
func RunTests(ctx context.Context, cfg Config, bundles []*bundle.Bundle, tests []*bundle.Tests, match *regexp.Regexp) (results []TestResult, err error) {
	c := &compilation{cfg: cfg, bundles: bundles, snapshot: &Snapshot{}, files: map[string]source{}}
	if c.prepare(ctx); len(c.problems) == 0 {
		c.load(ctx)
	}
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	run := func(trace bool, match string) ([]*tester.Result, error) {
		modules := c.modules(tests)
		found, err := c.runner(ctx, trace).SetModules(modules).Filter(match).RunTests(ctx, c.snapshot.txn)
		if err != nil {
			return nil, c.testProblems(err, modules)
		}
		var all []*tester.Result
		for r := range found {
			all = append(all, r)
		}
		return all, ctx.Err()
	}
	expression := ""
	if match != nil {
		expression = match.String()
	}
	all, err := run(false, expression)
	if err != nil {
		return nil, err
	}
	var failed []string
	for _, r := range all {
		results = append(results, testResult(r))
		if r.Fail {
			failed = append(failed, "^"+regexp.QuoteMeta(results[len(results)-1].Name)+"$")
		}
	}
	if len(failed) > 0 && len(failed) <= bundle.MaxProblems { // run them again with tracing, for the line
		again, err := run(true, strings.Join(failed, "|"))
		if err != nil {
			return nil, err
		}
		explain(results, again)
	}
	slices.SortFunc(results, func(a, b TestResult) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, strings.Compare(a.Name, b.Name))
	})
	return results, nil
}

// modules returns the modules of the bundles and the tests, by location.
func (c *compilation) modules(tests []*bundle.Tests) map[string]*ast.Module {
	out := map[string]*ast.Module{}
	add := func(name string, modules map[string]*ast.Module) {
		for file, module := range modules {
			where := path.Join(name, file)
			out[where], c.files[where] = module, source{bundle: name, file: file}
		}
	}
	for _, b := range c.bundles {
		add(b.Name(), b.Modules())
	}
	for _, t := range tests {
		add(t.Name(), t.Modules())
	}
	return out
}

// runner is OPA's own, so that tests mean the same as in opa test, with our capabilities, data and built-ins. It uses OPA's package rego,
// which no decision does.
func (c *compilation) runner(ctx context.Context, trace bool) *tester.Runner {
	capabilities := c.cfg.Capabilities.compiler()
	capabilities.AllowNet = []string{}
	compiler := ast.NewCompiler().
		WithCapabilities(capabilities).
		WithEnablePrintStatements(true).
		WithPathConflictsCheck(storage.NonEmpty(ctx, c.snapshot.store, c.snapshot.txn)).
		SetErrorLimit(bundle.MaxProblems)
	var directory []*tester.Builtin
	for _, d := range builtins.DirectoryDeclarations() {
		none := func(frontend.BuiltinContext, []*ast.Term) (*ast.Term, error) { return nil, nil }
		directory = append(directory, &tester.Builtin{Decl: d, Func: frontend.FunctionDyn(&frontend.Function{Name: d.Name, Decl: d.Decl}, none)})
	}
	return tester.NewRunner().SetCompiler(compiler).SetStore(c.snapshot.store).AddCustomBuiltins(directory).
		SetTimeout(testTimeout).EnableTracing(trace)
}

func (c *compilation) testProblems(err error, modules map[string]*ast.Module) error {
	var many ast.Errors
	if !errors.As(err, &many) {
		return fmt.Errorf("running the policy's tests: %w", err)
	}
	many.Sort()
	for _, e := range many {
		c.compileProblem(e, modules)
	}
	return c.problems
}

func testResult(r *tester.Result) TestResult {
	out := TestResult{Name: r.Package + "." + r.Name, Failed: r.Fail || r.Error != nil, Skipped: r.Skip, Duration: r.Duration}
	if r.Location != nil {
		out.File, out.Line = r.Location.File, r.Location.Row
	}
	switch {
	case topdown.IsCancel(r.Error):
		out.Problem = fmt.Sprintf("it ran for more than %s", testTimeout)
	case r.Error != nil:
		out.Problem = rego.OneLine(r.Error.Error())
	case r.Fail:
		out.Problem = "it is not true" + failedCases(r)
	}
	output := r.Output
	if len(output) > maxTestOutput {
		output = output[:maxTestOutput]
	}
	out.Output = strings.ToValidUTF8(string(output), "\uFFFD")
	return out
}

// failedCases names the failed cases of a test with several.
func failedCases(r *tester.Result) string {
	var names []string
	for name, result := range r.SubResults.Iter {
		if result.Fail && len(result.SubResults) == 0 {
			names = append(names, strings.Join(name, "/"))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return rego.OneLine(": " + first(names, bundle.MaxProblems))
}

// explain adds the line of failure to each failed test, from a second, traced run.
func explain(results []TestResult, traced []*tester.Result) {
	for _, r := range traced {
		at := slices.IndexFunc(results, func(t TestResult) bool { return t.Name == r.Package+"."+r.Name })
		if at < 0 || !r.Fail || r.Location == nil {
			continue
		}
		end := r.Location.Row + strings.Count(string(r.Location.Text), "\n")
		for _, event := range slices.Backward(r.Trace) {
			l := event.Location
			if event.Op == topdown.FailOp && l != nil && l.File == r.Location.File && l.Row >= r.Location.Row && l.Row <= end {
				expression, _, _ := strings.Cut(string(l.Text), "\n")
				results[at].Problem += fmt.Sprintf(": line %d: %s", l.Row, rego.OneLine(expression))
				break
			}
		}
	}
}
