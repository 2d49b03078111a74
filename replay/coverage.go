package replay

import (
	"cmp"
	"context"
	"slices"

	"gatehouse/gate"
	"gatehouse/policy"
	"gatehouse/policy/rego"
	"gatehouse/routes"
)

const (
	maxHeld      = 24 << 20 // bytes of inputs whose held rules are cached
	maxHeldInput = 8 << 10  // bytes of one cached input
	maxForeign   = 1000     // routes without a table entry
)

// CoverageReport is the output of gatehouse log coverage.
type CoverageReport struct {
	Since     string             `json:"since,omitempty"`
	Until     string             `json:"until,omitempty"`
	Decisions int64              `json:"decisions"`
	Gaps      int64              `json:"gaps"`
	Dropped   int64              `json:"dropped"` // decisions that the log reports as lost
	Tables    bool               `json:"tables"`  // a route table exists
	Routes    []*RouteCount      `json:"routes"`
	Foreign   []*RouteCount      `json:"foreign_routes,omitempty"` // not in any table
	NoRoute   int64              `json:"no_route"`                 // denied because no route matched
	Rules     []policy.RuleCount `json:"rules"`
	Evaluated int64              `json:"evaluated"`
	Skipped   []*Skipped         `json:"not_evaluated,omitempty"`
}

// RouteCount is a route with counts of its decisions.
type RouteCount struct {
	App     string   `json:"app,omitempty"`
	Methods []string `json:"methods,omitempty"` // empty: any
	Route   string   `json:"route"`             // the template
	Name    string   `json:"name,omitempty"`
	Calls   int64    `json:"calls"`
	Allowed int64    `json:"allowed"`

	effective []string // the methods that it answers to; nil: any
}

// Coverage collects a CoverageReport. One goroutine uses it.
type Coverage struct {
	CoverageReport
	candidate *Candidate
	partial   bool
	rules     policy.Coverage
	inputs    rego.Reader
	tally     *Report
	routes    map[string][]*RouteCount // by app and name, by app and template
	foreign   map[string]*RouteCount
	asked     map[string]*coveredAsk
	key       []byte
	taken     []byte
	kept      int
}

// coveredAsk is a prepared rule, with a cache of the rules that hold by what is read of the input.
type coveredAsk struct {
	asked
	held map[string]policy.Held // nil: results also depend on time or chance
}

// NewCoverage returns empty coverage of a policy. partial evaluates also where the policy reads what the log does not
// keep.
func NewCoverage(c *Candidate, partial bool) (*Coverage, error) {
	v := &Coverage{candidate: c, partial: partial, tally: newReport(), routes: map[string][]*RouteCount{}, foreign: map[string]*RouteCount{},
		asked: map[string]*coveredAsk{}}
	for _, app := range c.apps() {
		table := c.view.Routes[app.Name]
		if table != nil {
			v.table(app.Name, table)
		}
		if err := v.watch(app, table); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (v *Coverage) table(app string, table *routes.Table) {
	v.Tables = true
	for _, r := range table.Routes() {
		n := &RouteCount{App: app, Methods: r.Methods, Route: r.Template, Name: r.Name, effective: r.Effective()}
		v.Routes = append(v.Routes, n)
		for _, key := range []string{r.Name, r.Template} {
			v.routes[app+"\x00"+key] = append(v.routes[app+"\x00"+key], n)
		}
	}
}

// watch adds the configured rules to the coverage, so that unused ones are reported.
func (v *Coverage) watch(app gate.App, table *routes.Table) error {
	paths := [][]string{app.Decision}
	if len(app.Root) > 0 {
		paths = routeRules(app.Root, table)
	}
	for _, path := range paths {
		entry, err := v.candidate.view.Policy.Entry(path)
		if err != nil {
			return err
		}
		if entry != nil {
			v.rules.Watch(entry)
		}
	}
	return nil
}

// routeRules are the places of a table's rules.
func routeRules(root []string, table *routes.Table) (paths [][]string) {
	for _, r := range table.Routes() {
		for _, method := range r.RuleMethods() {
			if candidates, err := gate.RuleCandidates(root, method, r.Template, true); err == nil {
				paths = append(paths, candidates...)
			}
		}
	}
	return paths
}

// Add counts one event.
func (v *Coverage) Add(ctx context.Context, r *Record) error {
	if r.Gap.Recorded {
		v.Gaps++
		v.Dropped += int64(r.Gap.Dropped)
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

// route counts a request to a route.
func (v *Coverage) route(r *Record) {
	at := r.RouteOf()
	name := cmp.Or(at.Name, at.Template)
	switch {
	case name == "" && gate.ReasonNamed(string(r.Reason)) == gate.NoRoute:
		v.NoRoute++
		return
	case name == "":
		return
	}
	found := v.find(at)
	if found == nil {
		if found = v.foreign[at.Label()]; found == nil && len(v.foreign) < maxForeign {
			found = &RouteCount{App: at.App, Route: at.Label()}
			v.foreign[at.Label()] = found
			v.Foreign = append(v.Foreign, found)
		}
		if found == nil {
			return
		}
	}
	found.Calls++
	if string(r.Outcome) == "allow" {
		found.Allowed++
	}
}

// find returns the table's route for a decision: by name and template, and by method where several share these.
func (v *Coverage) find(at Route) *RouteCount {
	list := v.routes[at.App+"\x00"+cmp.Or(at.Name, at.Template)]
	var fits []*RouteCount
	for _, r := range list {
		if at.Template == "" || at.Template == r.Route {
			fits = append(fits, r)
		}
	}
	for _, r := range fits {
		if r.effective == nil || slices.Contains(r.effective, at.Method) {
			return r
		}
	}
	if len(fits) > 0 {
		return fits[0]
	}
	return nil
}

// evaluate determines which rules hold in a decision. It returns why it cannot.
func (v *Coverage) evaluate(ctx context.Context, r *Record) (why string, err error) {
	if why := r.unasked(); why != "" {
		return why, nil
	}
	a, err := v.ruleFor(r)
	switch {
	case err != nil:
		return "", err
	case a.absent != "":
		return a.absent, nil
	case a.denies:
		return "", nil // no rule: none holds
	}
	if part := a.missing(r); part != "" && !v.partial {
		return "the policy reads " + part + ", which the log does not keep", nil
	}
	input, user, why := v.candidate.recall(a.preparedRule, r)
	switch {
	case why != "":
		return why, nil
	case user.Denied:
		return "the policy is not asked: the caller is not in the directory", nil
	}
	if v.taken, err = a.reads.Project(v.taken[:0], input); err != nil {
		return "its input is damaged", nil
	}
	if held, known := a.held[string(v.taken)]; known {
		v.rules.Add(held, 1)
		return "", nil
	}
	return v.decide(ctx, a, r)
}

// decide evaluates, and caches the result.
func (v *Coverage) decide(ctx context.Context, a *coveredAsk, r *Record) (why string, err error) {
	input, err := v.inputs.Read(v.taken)
	if err != nil {
		return "its input is damaged", nil
	}
	at, err := r.Time()
	if err != nil {
		return "its timestamp is not one of RFC 3339", nil
	}
	recorded, err := policy.ParseQuestions(r.Facts)
	if err != nil {
		return "what was asked of the directory is damaged", nil
	}
	bounded, cancel := context.WithTimeout(ctx, evaluationLimit)
	defer cancel()
	held, unsure, err := v.rules.Decide(bounded, a.replayer, input, recorded, policy.Facts{}, at)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case unsure != "":
		return "the policy asks " + unsure + ", which may say something else now", nil
	case bounded.Err() != nil:
		return "the evaluation was not done after " + evaluationLimit.String(), nil
	case err != nil:
		return "the evaluation failed: " + err.Error(), nil
	}
	v.rules.Add(held, 1)
	if a.held == nil || len(v.taken) > maxHeldInput {
		return "", nil
	}
	if v.kept += len(v.taken) + 100; v.kept > maxHeld {
		for _, other := range v.asked {
			clear(other.held)
		}
		v.kept = 0
	}
	a.held[string(v.taken)] = held
	return "", nil
}

// ruleFor finds the rule of a decision, and adds what it can reach to the coverage.
func (v *Coverage) ruleFor(r *Record) (*coveredAsk, error) {
	v.key = v.candidate.key(v.key[:0], r)
	if a := v.asked[string(v.key)]; a != nil {
		return a, nil
	}
	q, err := v.candidate.ruleFor(r, v.key)
	if err != nil {
		return nil, err
	}
	a := &coveredAsk{asked: asked{preparedRule: q, pointers: map[string]string{}}}
	if q.pure {
		a.held = map[string]policy.Held{}
	}
	if q.replayer != nil {
		v.rules.Watch(q.replayer.Entry())
	}
	if len(v.asked) >= maxAsks {
		clear(v.asked)
	}
	v.asked[string(v.key)] = a
	return a, nil
}

// Report returns the report of the decisions so far.
func (v *Coverage) Report() *CoverageReport {
	v.tally.finish()
	v.Since, v.Until, v.Skipped, v.Rules = v.tally.Since, v.tally.Until, v.tally.Skipped, v.rules.Rules()
	slices.SortStableFunc(v.Foreign, func(a, b *RouteCount) int { return cmp.Compare(b.Calls, a.Calls) })
	return &v.CoverageReport
}
