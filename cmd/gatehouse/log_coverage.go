package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse/gate"
	"gatehouse/policy"
)

const (
	mostHeld      = 24 << 20 // bytes of inputs for which it is known which rules hold
	mostHeldInput = 8 << 10  // bytes of one of them
	mostForeign   = 1000     // routes that no table has
)

// logCoverage is gatehouse log coverage.
type logCoverage struct {
	imageFlags
	source  logSource
	query   logQuery
	bundle  string
	partial bool
	json    bool
}

func logCoverageCommand() *cobra.Command {
	var f logCoverage
	c := &cobra.Command{
		Use:   "coverage [FILE...]",
		Short: "Show which routes were never called or never allowed, and which rules were never true",
		Long: `Holds the decisions of a log against the route tables of the configuration, and evaluates each of them again with its policy, or
with that of --bundle, to see which rules are never true. Nobody is called. What cannot be evaluated again, for want of its
input or of what the log does not keep, is counted with the reason: of such decisions no rule is known to be true.`,
		Example: `  gatehouse log coverage --since 30d
  gatehouse log coverage --bundle ./policy decisions.log`,
		RunE: f.run,
	}
	f.source.flags(c)
	f.query.flags(c)
	c.Flags().StringVarP(&f.bundle, "bundle", "b", "", "policy instead of the configuration's: a directory, a tarball or an image")
	c.Flags().BoolVar(&f.partial, "partial", false, "evaluate also where the policy reads what the log does not keep: as if that had not been there")
	c.Flags().BoolVar(&f.json, "json", false, "print one JSON object, with every route and rule")
	f.addStore(c)
	f.addRegistry(c)
	return c
}

func (f *logCoverage) run(c *cobra.Command, args []string) error {
	paceGC()
	if err := f.query.compile(); err != nil {
		return usageError{err}
	}
	s, err := f.candidate(c)
	if err != nil {
		return usageError{err}
	}
	if err := f.source.open(c, args); err != nil {
		return err
	}
	defer f.source.close()
	v := newCovering(s, f.partial)
	if err := v.watch(); err != nil {
		return err
	}
	if err := f.read(c.Context(), v); err != nil {
		return err
	}
	f.source.told()
	out := v.report()
	if out.Decisions == 0 {
		f.query.nothing(&f.source)
		return errSaid
	}
	if f.json {
		return jsonLines(c.OutOrStdout()).Encode(out)
	}
	o := newLogOutput(c.OutOrStdout(), false)
	_, err = io.WriteString(c.OutOrStdout(), out.text(o.print))
	return err
}

// candidate is what is held against the log: a configuration, or a bundle by itself.
func (f *logCoverage) candidate(c *cobra.Command) (*candidate, error) {
	src, err := source{file: f.source.src.file}.orDefault()
	if err != nil && f.bundle == "" {
		return nil, err
	}
	temp, err := os.MkdirTemp("", "gatehouse-coverage-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	return (&replayFlags{imageFlags: f.imageFlags}).candidate(c, src, f.bundle, filepath.Join(temp, "bundle.tar.gz"))
}

// read takes the whole log.
func (f *logCoverage) read(ctx context.Context, v *covering) error {
	var r recorded
	for number := int64(1); ; number++ {
		line, err := f.source.next(ctx, nil, f.query.may)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case r.parse(line, number) != nil:
			f.source.warn(f.source.reader.Damaged(errRecord))
			continue
		case r.gap != nil && !f.query.during(&r), r.gap == nil && !f.query.wants(&r):
			continue
		}
		if err := v.add(ctx, &r); err != nil {
			return fmt.Errorf("decision %s: %w", r.id, err)
		}
	}
}

// coverageReport is what gatehouse log coverage prints.
type coverageReport struct {
	Since     string             `json:"since,omitempty"`
	Until     string             `json:"until,omitempty"`
	Decisions int64              `json:"decisions"`
	Gaps      int64              `json:"gaps"`
	Dropped   int64              `json:"dropped"` // decisions that the log itself says it lost
	Tables    bool               `json:"tables"`  // there is a route table
	Routes    []*routeCount      `json:"routes"`
	Foreign   []*routeCount      `json:"foreign_routes,omitempty"` // that no table has
	NoRoute   int64              `json:"no_route"`                 // denied because no route takes them
	Rules     []policy.RuleCount `json:"rules"`
	Evaluated int64              `json:"evaluated"`
	Skipped   []*skipped         `json:"not_evaluated,omitempty"`
}

// routeCount is a route with what came of its requests.
type routeCount struct {
	App     string   `json:"app,omitempty"`
	Methods []string `json:"methods,omitempty"` // empty: any
	Route   string   `json:"route"`             // its template
	Name    string   `json:"name,omitempty"`
	Calls   int64    `json:"calls"`
	Allowed int64    `json:"allowed"`
}

func (r *routeCount) words() string {
	text := strings.TrimSpace(strings.Join(r.Methods, ",") + " " + visible(r.Route))
	if r.Name != "" {
		text += "  " + visible(r.Name)
	}
	if r.App != "" {
		text = visible(r.App) + ": " + text
	}
	return text
}

// covering is a coverageReport in the making. It belongs to one goroutine.
type covering struct {
	coverageReport
	candidate *candidate
	partial   bool
	rules     policy.Coverage
	inputs    policy.InputReader
	tally     *tally
	routes    map[string][]*routeCount // by app and name, by app and template
	foreign   map[string]*routeCount
	asked     map[string]*coveredAsk
	key       []byte
	taken     []byte
	kept      int
}

// coveredAsk is a rule that decisions are asked of, with which rules hold by what is read of the input.
type coveredAsk struct {
	asked
	held map[string]policy.Held // nil: the time counts too, or chance
}

func newCovering(s *candidate, partial bool) *covering {
	v := &covering{candidate: s, partial: partial, tally: newTally(), routes: map[string][]*routeCount{}, foreign: map[string]*routeCount{},
		asked: map[string]*coveredAsk{}}
	for _, t := range s.tables {
		v.Tables = true
		for _, r := range t.table.Routes() {
			n := &routeCount{App: t.app, Methods: r.Methods, Route: r.Template, Name: r.Name}
			v.Routes = append(v.Routes, n)
			for _, key := range []string{r.Name, r.Template} {
				v.routes[t.app+"\x00"+key] = append(v.routes[t.app+"\x00"+key], n)
			}
		}
	}
	return v
}

// watch makes the rules that the configuration asks part of the coverage, whether anybody comes to them or not.
func (v *covering) watch() error {
	for _, app := range v.candidate.apps {
		paths := [][]string{app.Decision}
		if len(app.Root) > 0 {
			paths = v.routeRules(app.Name, app.Root)
		}
		for _, path := range paths {
			entry, err := v.candidate.snapshot.Entry(path)
			if err != nil {
				return err
			}
			if entry != nil {
				v.rules.Watch(entry)
			}
		}
	}
	return nil
}

// routeRules are the rules of the routes of an application.
func (v *covering) routeRules(app string, root []string) (paths [][]string) {
	for _, t := range v.candidate.tables {
		for _, r := range t.table.Routes() {
			for _, method := range r.RuleMethods() {
				if candidates, err := gate.RuleCandidates(root, method, r.Template, true); err == nil && t.app == app {
					paths = append(paths, candidates...)
				}
			}
		}
	}
	return paths
}

// add takes one event.
func (v *covering) add(ctx context.Context, r *recorded) error {
	if r.gap != nil {
		v.Gaps++
		v.Dropped += int64(r.gapOf().Dropped)
		return nil
	}
	v.Decisions++
	v.tally.between(r)
	v.route(r)
	why, err := v.evaluate(ctx, r)
	if why != "" {
		v.tally.skip(why, r)
	} else if err == nil {
		v.Evaluated++
	}
	return err
}

// route counts a call of a route.
func (v *covering) route(r *recorded) {
	at := r.routeOf()
	name := cmp.Or(at.name, at.template)
	switch {
	case name == "" && string(r.reason) == "no_route":
		v.NoRoute++
		return
	case name == "":
		return
	}
	found := v.find(at)
	if found == nil {
		if found = v.foreign[at.label()]; found == nil && len(v.foreign) < mostForeign {
			found = &routeCount{App: at.app, Route: at.label()}
			v.foreign[at.label()] = found
			v.Foreign = append(v.Foreign, found)
		}
		if found == nil {
			return
		}
	}
	found.Calls++
	if outcome, _, _ := r.outcomes(); outcome == "allow" {
		found.Allowed++
	}
}

// find is the route of a table that a decision speaks of: by name and template, and by method where several have these.
func (v *covering) find(at routeOf) *routeCount {
	list := v.routes[at.app+"\x00"+cmp.Or(at.name, at.template)]
	var fits []*routeCount
	for _, r := range list {
		if at.template == "" || at.template == r.Route {
			fits = append(fits, r)
		}
	}
	for _, method := range []string{at.method, "GET"} { // HEAD goes to GET's
		for _, r := range fits {
			if r.Methods == nil || slices.Contains(r.Methods, method) {
				return r
			}
		}
	}
	if len(fits) > 0 {
		return fits[0] // a method that the framework adds
	}
	return nil
}

// evaluate finds which rules hold in a decision. It returns why that cannot be done.
func (v *covering) evaluate(ctx context.Context, r *recorded) (why string, err error) {
	if why := r.unasked(); why != "" {
		return why, nil
	}
	a, err := v.ask(r)
	switch {
	case err != nil:
		return "", err
	case a.absent != "":
		return a.absent, nil
	case a.denies:
		return "", nil // there is no rule: none holds
	}
	if part := a.missing(r); part != "" && !v.partial {
		return "the policy reads " + part + ", which the log does not keep", nil
	}
	if v.taken, err = a.reads.Project(v.taken[:0], r.input); err != nil {
		return "its input is damaged", nil
	}
	if held, known := a.held[string(v.taken)]; known {
		v.rules.Add(held, 1)
		return "", nil
	}
	return v.decide(ctx, a, r)
}

// decide evaluates, and keeps what came of it.
func (v *covering) decide(ctx context.Context, a *coveredAsk, r *recorded) (why string, err error) {
	input, err := v.inputs.Read(v.taken)
	if err != nil {
		return "its input is damaged", nil
	}
	at, err := r.at()
	if err != nil {
		return "its timestamp is not one of RFC 3339", nil
	}
	bounded, cancel := context.WithTimeout(ctx, replayTimeout)
	defer cancel()
	held, unsure, err := v.rules.Decide(bounded, a.again, input, at)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case unsure != "":
		return "the policy asks " + unsure + ", which may say something else now", nil
	case bounded.Err() != nil:
		return "the evaluation was not done after " + replayTimeout.String(), nil
	case err != nil:
		return "the evaluation failed: " + visible(err.Error()), nil
	}
	v.rules.Add(held, 1)
	if a.held == nil || len(v.taken) > mostHeldInput {
		return "", nil
	}
	if v.kept += len(v.taken) + 100; v.kept > mostHeld {
		for _, other := range v.asked {
			clear(other.held)
		}
		v.kept = 0
	}
	a.held[string(v.taken)] = held
	return "", nil
}

// ask finds the rule that is asked, and makes what it can reach part of the coverage.
func (v *covering) ask(r *recorded) (*coveredAsk, error) {
	v.key = v.candidate.key(v.key[:0], r)
	if a := v.asked[string(v.key)]; a != nil {
		return a, nil
	}
	q, err := v.candidate.ask(r, v.key)
	if err != nil {
		return nil, err
	}
	a := &coveredAsk{asked: asked{preparedRule: q, pointers: map[string]string{}}}
	if q.pure {
		a.held = map[string]policy.Held{}
	}
	if q.again != nil {
		v.rules.Watch(q.again.Entry())
	}
	if len(v.asked) >= maxAsks {
		clear(v.asked)
	}
	v.asked[string(v.key)] = a
	return a, nil
}

func (v *covering) report() *coverageReport {
	v.tally.finish()
	v.Since, v.Until, v.Skipped, v.Rules = v.tally.Since, v.tally.Until, v.tally.Skipped, v.rules.Rules()
	slices.SortStableFunc(v.Foreign, func(a, b *routeCount) int { return cmp.Compare(b.Calls, a.Calls) })
	return &v.coverageReport
}

// text tells people what nobody used.
func (c *coverageReport) text(p printer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s from %s to %s\n", plural(int(c.Decisions), "decision"), visible(c.Since), visible(c.Until))
	if c.Dropped > 0 {
		fmt.Fprintf(&b, "%s\n", p.paint(amber, plural(int(c.Dropped), "decision")+" of that time not recorded"))
	}
	c.routeText(&b, p)
	c.ruleText(&b, p)
	if len(c.Skipped) > 0 {
		fmt.Fprintf(&b, "\n%s\n", p.paint(bold, "not evaluated again"))
		for _, s := range c.Skipped {
			fmt.Fprintf(&b, "  %9d  %s\n", s.Count, visible(s.Reason))
		}
	}
	return b.String()
}

func (c *coverageReport) routeText(b *strings.Builder, p printer) {
	if !c.Tables {
		fmt.Fprintf(b, "\n%s\n  there is no route table\n", p.paint(bold, "routes"))
		return
	}
	var never, denied []string
	for _, r := range c.Routes {
		switch {
		case r.Calls == 0:
			never = append(never, "             "+r.words())
		case r.Allowed == 0:
			denied = append(denied, fmt.Sprintf("  %9d  %s", r.Calls, r.words()))
		}
	}
	fmt.Fprintf(b, "\n%s  %d: %d never called, %d never allowed\n", p.paint(bold, "routes"), len(c.Routes), len(never), len(denied))
	section(b, "never called", never)
	section(b, "never allowed, and how often that was denied", denied)
	var foreign []string
	for _, r := range c.Foreign {
		foreign = append(foreign, fmt.Sprintf("  %9d  %s", r.Calls, r.words()))
	}
	section(b, "called, and in no route table now", foreign)
	if c.NoRoute > 0 {
		fmt.Fprintf(b, "  %s\n", plural(int(c.NoRoute), "request")+" denied because no route takes "+map[bool]string{true: "it", false: "them"}[c.NoRoute == 1])
	}
}

func (c *coverageReport) ruleText(b *strings.Builder, p printer) {
	var never []string
	for _, r := range c.Rules {
		if r.Held == 0 {
			never = append(never, fmt.Sprintf("             %s (%s:%d)", visible(r.Rule), visible(r.File), r.Line))
		}
	}
	fmt.Fprintf(b, "\n%s  %d: %d never true in %s evaluated again\n", p.paint(bold, "rules"), len(c.Rules), len(never), plural(int(c.Evaluated), "decision"))
	section(b, "never true", never)
}

func section(b *strings.Builder, title string, lines []string) {
	if len(lines) > 0 {
		fmt.Fprintf(b, "  %s\n%s\n", title, strings.Join(lines, "\n"))
	}
}
