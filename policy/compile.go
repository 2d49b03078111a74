package policy

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"gatehouse/nearest"
	"gatehouse/policy/bundle"
	"gatehouse/policy/reach"
	"gatehouse/policy/rego"
	"gatehouse/policy/regoerror"
)

// Compile compiles all bundles into one snapshot. Bundles must not own the same part of data, everything must compile, and the decision must
// be defined by a rule or by data. It returns all problems at once, as Problems. ctx is checked between the steps.
func Compile(ctx context.Context, cfg Config, bundles []*bundle.Bundle) (s *Snapshot, err error) {
	bundles = slices.SortedFunc(slices.Values(bundles), func(a, b *bundle.Bundle) int { return strings.Compare(a.Name(), b.Name()) })
	c := &compilation{cfg: cfg, bundles: bundles, snapshot: &Snapshot{}}
	defer func() {
		if p := recover(); p != nil {
			s, err = nil, bundle.Problems{{Stage: "compiling", Text: rego.OneLine(fmt.Sprintf("the compiler failed: %v", p))}}
		}
	}()
	for _, step := range []func(context.Context){c.prepare, c.load, c.compile, c.define, c.describe} {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("compiling the policy: %w", err)
		}
		if step(ctx); len(c.problems) > 0 {
			return nil, c.problems
		}
	}
	for _, notice := range c.snapshot.notices {
		if cfg.Notice != nil {
			cfg.Notice(notice)
		}
	}
	return c.snapshot, nil
}

// Strict compiles all bundles in OPA's strict mode and returns what only that mode refuses: variables and imports that nothing uses, deprecated
// built-ins. A policy that does not compile at all is an error. For tools.
func Strict(ctx context.Context, cfg Config, bundles []*bundle.Bundle) (bundle.Problems, error) {
	if _, err := Compile(ctx, cfg, bundles); err != nil {
		return nil, err
	}
	c := &compilation{cfg: cfg, bundles: bundles, snapshot: &Snapshot{}, strict: true}
	for _, step := range []func(context.Context){c.prepare, c.load, c.compile} {
		if step(ctx); len(c.problems) > 0 {
			return c.problems, nil
		}
	}
	return nil, ctx.Err()
}

type compilation struct {
	cfg      Config
	strict   bool // OPA's strict mode
	bundles  []*bundle.Bundle
	decision ast.Ref
	files    map[string]source // by module's location
	snapshot *Snapshot
	problems bundle.Problems
}

// source is where a module came from.
type source struct{ bundle, file string }

func (c *compilation) problem(s source, line int, text string) {
	c.problems.Add(bundle.Problem{Stage: "compiling", Bundle: s.bundle, File: s.file, Line: line, Text: text})
}

// prepare checks the configuration and that each part of data has one owner.
func (c *compilation) prepare(context.Context) {
	var err error
	if c.cfg.Decision != "" {
		if c.decision, err = decisionRef(c.cfg.Decision); err != nil {
			c.problem(source{}, 0, err.Error())
		}
	}
	if c.snapshot.output, err = newOutput(c.cfg.AllowHeaders); err != nil {
		c.problem(source{}, 0, err.Error())
	}
	if err := c.cfg.Capabilities.validate(); err != nil {
		c.problem(source{}, 0, err.Error())
	}
	for i, b := range c.bundles {
		for _, other := range c.bundles[:i] {
			if b.Name() == other.Name() {
				c.problem(source{}, 0, fmt.Sprintf("two bundles are named %q", b.Name()))
			}
			if text := overlap(other, b); text != "" {
				c.problem(source{}, 0, text)
			}
		}
	}
}

// decisionRef builds the reference term by term, so that no segment is parsed as Rego.
func decisionRef(decision string) (ast.Ref, error) {
	ref := ast.Ref{ast.DefaultRootDocument}
	for segment := range strings.SplitSeq(decision, "/") {
		if segment == "" {
			return nil, fmt.Errorf("decision %q is not a path: write its segments with / between them, as in %q",
				decision, "envoy/authz/allow")
		}
		ref = append(ref, ast.StringTerm(segment))
	}
	return ref, nil
}

// overlap returns the roots that two bundles share.
func overlap(a, b *bundle.Bundle) string {
	for _, x := range a.Roots() {
		for _, y := range b.Roots() {
			if !opa.RootPathsOverlap(x, y) {
				continue
			}
			for _, bare := range []*bundle.Bundle{a, b} {
				if slices.Contains(bare.Roots(), "") {
					return fmt.Sprintf("bundles %q and %q overlap: %q owns all of data because its .manifest names no roots; "+
						`list what it defines there, as in {"roots": ["orders"]}`, a.Name(), b.Name(), bare.Name())
				}
			}
			return fmt.Sprintf("bundles %q and %q overlap: root %q of the one and root %q of the other", a.Name(), b.Name(), x, y)
		}
	}
	return ""
}

// load merges the bundles' data and opens the only transaction. Only objects that several bundles contribute to are copied; nothing is ever
// written.
func (c *compilation) load(ctx context.Context) {
	data := ast.NewObject()
	for _, b := range c.bundles {
		joined, ok := data.Merge(b.Data())
		if !ok {
			c.problem(source{bundle: b.Name()}, 0, "its data contradicts the data of another bundle")
			return
		}
		data = joined
	}
	c.snapshot.store = inmem.NewFromASTObject(data)
	txn, err := c.snapshot.store.NewTransaction(ctx)
	if err != nil {
		c.problem(source{}, 0, err.Error())
		return
	}
	c.snapshot.txn = txn
	c.snapshot.patterns = newPatterns(ctx)
}

// compile compiles all modules together. A rule where a bundle has data is an error.
func (c *compilation) compile(ctx context.Context) {
	modules := map[string]*ast.Module{}
	c.files = map[string]source{}
	for _, b := range c.bundles {
		for file, module := range b.Modules() {
			where := path.Join(b.Name(), file)
			modules[where] = module
			c.files[where] = source{bundle: b.Name(), file: file}
		}
	}
	s := c.snapshot
	if len(c.cfg.Capabilities.HTTPSend) > 0 {
		s.transport, s.answers = c.cfg.Capabilities.transport, newAnswers(c.cfg.Capabilities.HTTPSendCache)
	}
	s.blocks = len(c.cfg.Capabilities.HTTPSend)+len(c.cfg.Capabilities.NetLookup) > 0
	s.directory = directoryBuiltins()
	s.compiler = ast.NewCompiler().
		WithCapabilities(c.cfg.Capabilities.compiler()).
		WithEnablePrintStatements(false).
		WithStrict(c.strict).
		WithPathConflictsCheck(storage.NonEmpty(ctx, s.store, s.txn)).
		SetErrorLimit(bundle.MaxProblems)
	s.compiler.Compile(modules)
	s.compiler.Errors.Sort()
	for _, e := range s.compiler.Errors {
		c.compileProblem(e, modules)
	}
}

func (c *compilation) compileProblem(e *ast.Error, modules map[string]*ast.Module) {
	found := regoerror.Compiling(e, modules)
	var in source
	if e.Location != nil {
		in = c.files[e.Location.File]
	}
	c.problems.Add(bundle.Problem{Stage: "compiling", Bundle: in.bundle, File: in.file, Line: found.Line, Column: found.Column, Source: found.Source, Text: found.Text})
}

// define compiles the decision's query and checks that a rule or data defines it.
func (c *compilation) define(context.Context) {
	if c.cfg.Decision == "" {
		return
	}
	entry, err := c.snapshot.Entry(rego.Path(c.decision))
	switch {
	case err != nil:
		c.problem(source{}, 0, rego.OneLine(err.Error()))
	case entry == nil:
		c.problem(source{}, 0, c.undefinedDecision())
	}
	c.snapshot.entry = entry
}

// undefinedDecision suggests what exists instead: the path without what is too much in it, a rule of the same name elsewhere or of a similar
// one, or the packages.
func (c *compilation) undefinedDecision() string {
	text := fmt.Sprintf("decision %q is not defined by any rule", c.cfg.Decision)
	last := string(c.decision[len(c.decision)-1].Value.(ast.String))
	var near, packages, all []string
	for _, where := range slices.Sorted(maps.Keys(c.files)) {
		module := c.snapshot.compiler.Modules[where]
		packages = append(packages, fmt.Sprintf("%s declares %v", where, module.Package))
		for _, rule := range module.Rules {
			ref := rule.Ref().GroundPrefix()
			all = append(all, strings.Join(rego.Path(ref), "/"))
			if ref[len(ref)-1].Value.Compare(ast.String(last)) == 0 {
				near = append(near, all[len(all)-1])
			}
		}
	}
	const shown = 5
	slashes := strings.Trim(strings.ReplaceAll(strings.ReplaceAll(c.cfg.Decision, "data.", "data/"), ".", "/"), "/")
	if path := strings.TrimPrefix(slashes, "data/"); path != c.cfg.Decision && slices.Contains(all, path) {
		return fmt.Sprintf("%s: a decision is a path below data, with / between its parts: write %s", text, path)
	}
	switch near = slices.Compact(near); {
	case len(packages) == 0:
		return text + ": no bundle holds a .rego file"
	case len(near) > 0:
		return fmt.Sprintf("%s: %s; to use %s, set policy.decision to it", text, first(packages, shown), first(near, shown))
	}
	if path := nearest.Word(c.cfg.Decision, all, 4); path != "" {
		return fmt.Sprintf("%s: did you mean %s? Rename the rule, or set policy.decision", text, path)
	}
	return fmt.Sprintf("%s: %s; define the rule or set policy.decision", text, first(packages, shown))
}

func first(items []string, n int) string {
	if len(items) > n {
		return fmt.Sprintf("%s and %d more", strings.Join(items[:n], ", "), len(items)-n)
	}
	return strings.Join(items, ", ")
}

// describe sets the snapshot's revision, bundles and notices.
func (c *compilation) describe(context.Context) {
	s := c.snapshot
	var revisions []string
	for _, b := range c.bundles {
		info := b.Info()
		for _, module := range b.Modules() {
			if c.cfg.Directory {
				break
			}
			for _, notice := range directoryNotices(module) {
				s.notices = bundle.AddNotice(s.notices, notice)
			}
		}
		s.bundles = append(s.bundles, info)
		revisions = append(revisions, b.Name()+"="+info.Revision)
		for _, notice := range b.Notices() {
			s.notices = bundle.AddNotice(s.notices, notice)
		}
	}
	reach.InputNotices(s.compiler.Modules, func(text string) { s.notices = bundle.AddNotice(s.notices, text) })
	asked := c.cfg.Asked
	if len(c.decision) > 1 {
		path := rego.Path(c.decision)
		asked = append(slices.Clip(asked), reach.Asked{Package: path[:len(path)-1], Name: path[len(path)-1]})
	}
	reach.RuleNotices(s.compiler.Modules, asked, func(text string) { s.notices = bundle.AddNotice(s.notices, text) })
	if len(c.bundles) == 1 {
		revisions[0] = c.bundles[0].Revision()
	}
	s.revision = cmp.Or(strings.Join(revisions, ","), "empty")
}
