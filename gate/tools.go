package gate

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"gatehouse/gate/facts"
	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/policy/explain"
	"gatehouse/policy/rego"
	"gatehouse/routes"
)

// Recorded is an earlier decision: the results of the stages before the policy, as the decision log has them.
type Recorded struct {
	App    string // the application's name
	Method string // used for the route table: the request's, or WEBSOCKET
	Route  string // the route's template; "" where none matched
	Path   string // the decision path, as Diagnostics.Asked
}

// Replayer finds the rule of a recorded decision, as Check does; VerdictOf turns the policy's decision into a
// verdict. Its View may have no settings: then the rules that the log names are used. It is safe for concurrent use.
type Replayer struct {
	view *View

	mu      sync.Mutex             // guards finders
	finders map[string]*ruleFinder // by the application's name
}

// NewReplayer returns a Replayer that decides as the View would. The View need not have been published.
func NewReplayer(v *View) *Replayer {
	if v.users == nil {
		own := *v
		own.users = newUsers()
		v = &own
	}
	return &Replayer{view: v, finders: map[string]*ruleFinder{}}
}

// NotAskedError says why no rule can be evaluated for a recorded decision.
type NotAskedError struct{ Why string }

func (e *NotAskedError) Error() string { return e.Why }

func notAsked(format string, args ...any) error { return &NotAskedError{fmt.Sprintf(format, args...)} }

// Rule finds the entry for a decision. nil without an error means that its route has no rule, which is a denial. A
// NotAskedError means that the record, or the configuration, does not determine the rule.
func (p *Replayer) Rule(r *Recorded) (*policy.Entry, error) {
	if p.view.Settings == nil {
		path, byRoute := RulePathNamed(r.Path)
		if len(path) == 0 {
			return nil, notAsked("the log does not say which rule was asked")
		}
		entry, err := p.view.Policy.Entry(path)
		if entry == nil && err == nil && !byRoute {
			err = notAsked("the policy has no rule data.%s", routes.RuleName(path))
		}
		return entry, err
	}
	app := p.App(r.App)
	switch {
	case app == nil:
		return nil, notAsked("the configuration has no app %q", r.App)
	case len(app.Decision) > 0:
		entry, err := p.view.Policy.Entry(app.Decision)
		if entry == nil && err == nil {
			err = notAsked("the policy has no rule data.%s", routes.RuleName(app.Decision))
		}
		return entry, err
	case r.Route == "":
		return nil, notAsked("the log does not say which route it took")
	}
	found, err := p.routeRule(app, r)
	if found == nil {
		return nil, err
	}
	return found.entry, err
}

// App is the configured application of this name; nil where there is none.
func (p *Replayer) App(name string) *App {
	apps := p.view.settings().Apps
	if len(apps) == 1 && apps[0].Name == "" {
		return &apps[0]
	}
	for i := range apps {
		if apps[i].Name == name {
			return &apps[i]
		}
	}
	return nil
}

// routeRule finds the rule of the recorded route: by the current table or, where the route is gone, by its template.
func (p *Replayer) routeRule(app *App, r *Recorded) (*rule, error) {
	if _, err := RuleCandidates(app.Root, r.Method, r.Route, true); err != nil {
		return nil, notAsked("%v", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	finder := p.finders[app.Name]
	if finder == nil {
		finder = newRuleFinder(p.view.Policy, app)
		p.finders[app.Name] = finder
	}
	route := routeNamed(p.view.Routes[app.Name], r.Method, r.Route)
	if route == nil {
		return finder.find(r.Method, r.Route, true)
	}
	rules, _, err := finder.rulesOf(route)
	return ruleFor(rules, r.Method), err
}

// routeNamed finds a route by its template and method; nil where there is none.
func routeNamed(table *routes.Table, method, template string) *routes.Route {
	if table == nil {
		return nil
	}
	for _, route := range table.Routes() {
		if effective := route.Effective(); route.Template == template && (effective == nil || slices.Contains(effective, method)) {
			return route
		}
	}
	return nil
}

// RuleAskedThen finds the rule that the log names, whatever the configuration says now; nil where the policy has
// none.
func (p *Replayer) RuleAskedThen(r *Recorded) (*policy.Entry, error) {
	app := p.App(r.App)
	if app != nil && app.Name == "" && len(app.Decision) > 0 && !strings.Contains(r.Path, "/") {
		return p.view.Policy.Entry(app.Decision) // Open Policy Agent's log does not always name it
	}
	if app != nil && len(app.Root) > 0 && r.Route != "" {
		candidates, err := RuleCandidates(app.Root, r.Method, r.Route, true)
		for _, path := range candidates {
			if err == nil && RuleCandidateName(app.Root, path) == r.Path {
				return p.view.Policy.Entry(path)
			}
		}
	}
	path, _ := RulePathNamed(r.Path)
	if len(path) == 0 {
		return nil, nil
	}
	return p.view.Policy.Entry(path)
}

// Credentials reports whether callers can present a credential. ok is false without settings.
func (p *Replayer) Credentials() (some, ok bool) {
	s := p.view.Settings
	return s != nil && s.Verifier != nil && s.Verifier.Configured(), s != nil
}

// methodTerm matches a term of a rule's path that is a method.
var methodTerm = regexp.MustCompile(`^[A-Z][A-Z-]{0,63}$`)

// RulePathNamed is the path below data of a recorded decision path: envoy/authz/allow, or of a route's rule its
// package, orders.GET.orders.__id, as routes.RuleName writes it. byRoute tells the latter.
func RulePathNamed(name string) (path []string, byRoute bool) {
	if name == "" {
		return nil, false
	}
	if strings.Contains(name, "/") && !strings.Contains(name, "[") || !strings.ContainsAny(name, ".[") {
		return strings.Split(strings.Trim(name, "/"), "/"), false
	}
	for name != "" {
		if quoted, err := strconv.QuotedPrefix(strings.TrimPrefix(name, "[")); name[0] == '[' && err == nil {
			term, _ := strconv.Unquote(quoted)
			path, name = append(path, term), strings.TrimPrefix(name[1+len(quoted):], "]")
			continue
		}
		name = strings.TrimPrefix(name, ".")
		end := strings.IndexAny(name, ".[")
		if end < 0 {
			end = len(name)
		}
		if end == 0 {
			return nil, false
		}
		path, name = append(path, name[:end]), name[end:]
	}
	for _, term := range path[1:] { // the first term in capitals is the method
		if methodTerm.MatchString(term) {
			if term == anyMethod {
				return path, true // such rules are recorded with their own name
			}
			break
		}
	}
	return append(path, RouteRule), true
}

// Explained explains the decision about a request.
type Explained struct {
	// Policy is the policy's part; nil where an earlier stage answered. The cause is then in Answer.Diagnostics.
	Policy *explain.Explanation
	// Identity is the caller that was identified.
	Identity identity.Identity
	// InDirectory is what the directory has of the caller, for people: "" where it is not known.
	InDirectory string
}

// Explain runs the stages of Check, and explains the policy's decision. It writes no decision-log entry and is for
// tools: see explain.Of. options gets the complete input, as a plain JSON copy, to choose what to hide; nil hides
// nothing.
func (g *Gate) Explain(ctx context.Context, req *Request, options func(map[string]any) explain.Options) Explained {
	c := &call{req: req, started: g.clock(), identity: identity.Anonymous()}
	var found Explained
	_ = g.guard(c, func() error { // a failure here is already part of Check's answer
		if err := g.prepare(ctx, c); err != nil || c.bypassed {
			return err
		}
		found.Identity, found.InDirectory = c.identity, c.directoryRoles()
		return c.eachRoute(func() error {
			found.Policy = nil
			if err := c.explain(ctx, &found, options); err != nil {
				return err
			}
			if found.Policy == nil || !found.Policy.Allowed {
				return errAnswered
			}
			return nil
		})
	})
	return found
}

// Caller identifies the caller of a request. ok is false where an earlier stage denies or bypasses the request. It
// writes no decision-log entry and is for tools.
func (g *Gate) Caller(ctx context.Context, req *Request) (id identity.Identity, ok bool) {
	c := &call{req: req, started: g.clock(), identity: identity.Anonymous()}
	err := g.guard(c, func() error { return g.prepare(ctx, c) })
	return c.identity, err == nil && !c.bypassed
}

// errAnswered ends eachRoute early.
var errAnswered = errors.New("answered")

// explain explains the rule of the matched route.
func (c *call) explain(ctx context.Context, found *Explained, options func(map[string]any) explain.Options) error {
	c.rule, c.described = c.app.findRule(c.method, c.match.Route), false
	entry := c.rule.entry
	if entry == nil {
		return nil
	}
	if err := c.parseInput(entry); err != nil {
		return err
	}
	if err := c.readUser(c.rule); err != nil {
		return err
	}
	document, err := c.all() // complete: unread parts may be shown too
	if err != nil {
		return err
	}
	var o explain.Options
	if options != nil {
		plain, err := rego.JSON(document)
		if err != nil {
			return err
		}
		o = options(plain.(map[string]any))
	}
	if directory := c.view.Directory; o.Why == nil && directory != nil {
		o.Why = func(q policy.Question) string { return facts.Why(directory, q, c.started) }
	}
	found.Policy = explain.Of(ctx, entry, document, c.view.Facts, c.started, o)
	return nil
}
