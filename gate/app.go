package gate

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"gatehouse/policy"
	"gatehouse/routes"
)

// App is one application behind the gate. Its route table is in the View, under its name.
type App struct {
	Name string // "" where there is only one
	// Hosts select the application by the request's host: exact names, or *.example.com for every name below it. Port
	// and case are ignored. Empty: every host that no other application has. With several applications, a host that
	// two proxies could read differently, such as one with a trailing dot, matches none.
	Hosts []string
	// AllowUnmatched evaluates the policy for requests that match no route; without it they are denied. It has no
	// effect without a route table.
	AllowUnmatched bool
	// Redirects decides a request that the application only redirects (trailing slash) as the route of the redirect's
	// target, with input.route.redirect set to true. Without it the request is unmatched.
	Redirects bool
	// Decision is the path below data of the single rule for every request. Exactly one of Decision and Root is set.
	Decision []string
	// Root is the package below which each route has its own rule: data.<root>.GET.orders.__id.allowed for GET
	// /orders/{id}.
	Root []string
	// StrictRoutes makes a route without a rule an error, which prevents activation.
	StrictRoutes bool
}

// RouteRule is the deciding rule in the package of a route (convention of Aserto's policies).
const RouteRule = "allowed"

// application is an App prepared for deciding. It is part of a View, and is reused by the next one where none of its
// sources changed.
type application struct {
	App
	table   *routes.Table
	one     rule // of Decision; with Root, the placeholder for routes without a rule
	rules   map[*routes.Route]map[string]*rule
	notices []string // routes without a rule, rules without a route
	source  appSource
}

// appSource holds all inputs of an application.
type appSource struct {
	app    App
	table  *routes.Table
	policy *policy.Snapshot
	forms  routes.Forms // allowed by configuration
}

func (s *appSource) equal(o *appSource) bool {
	return s.table == o.table && s.policy == o.policy && s.forms == o.forms && reflect.DeepEqual(&s.app, &o.app)
}

// rule is a rule that can be evaluated for a request. Its name is the decision path: envoy/authz/allow, or for a
// route's rule its package as Aserto writes it, orders.GET.orders.__id.
type rule struct {
	entry      *policy.Entry // nil: no rule
	name       string
	partsCache *partsCache
	// decision is the rule within the package that name gives, for a question, whose record names both. "": name is
	// complete.
	decision string
}

// label names the application in messages.
func (a *App) label() string {
	if a.Name == "" {
		return "the application"
	}
	return fmt.Sprintf("app %q", a.Name)
}

func validateApps(apps []App) error {
	var errs []error
	if len(apps) == 0 {
		errs = append(errs, fieldErrorf("Apps", "there is none"))
	}
	seen := map[string]string{}
	for i, a := range apps {
		at := element("Apps", i)
		if len(apps) > 1 && a.Name == "" {
			errs = append(errs, fieldErrorf(at, "name is missing"))
		}
		if (len(a.Decision) == 0) == (len(a.Root) == 0) {
			errs = append(errs, &FieldError{at, ErrDecisionOrRoot})
		}
		hosts := a.Hosts
		if len(hosts) == 0 {
			hosts = []string{"*"}
		}
		for _, host := range hosts {
			host = lowerASCII(host)
			if name := strings.TrimPrefix(host, "*."); host != "*" && !plainHost(name) {
				errs = append(errs, fieldErrorf(at+".Hosts", "%q is neither a host name nor *.example.com", host))
			}
			if other, taken := seen[host]; taken {
				errs = append(errs, fieldErrorf(at+".Hosts", "%q already belongs to app %q", host, other))
			}
			seen[host] = a.Name
		}
		if i > 0 && slices.ContainsFunc(apps[:i], func(b App) bool { return b.Name == a.Name }) {
			errs = append(errs, fieldErrorf(at, "the name %q is taken", a.Name))
		}
	}
	return errors.Join(errs...)
}

// assemble prepares the View's applications. One whose sources are unchanged is taken from the previous View: 10,000
// rules take seconds. On error the View is not stored.
func (v *View) assemble() error {
	before := v.apps
	if v.Settings == nil || v.Policy == nil {
		v.apps, v.notices = nil, nil
		return nil
	}
	apps, changed := make([]application, 0, len(v.Settings.Apps)), len(before) != len(v.Settings.Apps)
	for i, app := range v.Settings.Apps {
		source := appSource{app: app, table: v.Routes[app.Name], policy: v.Policy, forms: v.Settings.Paths.forms()}
		if i < len(before) && before[i].source.equal(&source) {
			apps = append(apps, before[i])
			continue
		}
		a, err := source.assemble()
		if err != nil {
			return err
		}
		apps, changed = append(apps, a), true
	}
	if !changed {
		return nil
	}
	v.apps, v.notices = apps, nil
	for i := range apps {
		v.notices = append(v.notices, apps[i].notices...)
	}
	return nil
}

// assemble makes an application. It depends on its source alone.
func (s *appSource) assemble() (application, error) {
	a := application{App: s.app, table: s.table, one: rule{name: strings.Join(s.app.Decision, "/"), partsCache: &partsCache{}}, source: *s}
	a.Hosts = make([]string, len(s.app.Hosts))
	for i, host := range s.app.Hosts {
		a.Hosts[i] = lowerASCII(host)
	}
	if a.table != nil {
		a.table = a.table.Allowing(s.forms)
	}
	var err error
	if len(a.Root) > 0 {
		a.one.name = routes.RuleName(a.Root)
		err = a.assembleRules(s.policy)
	} else if a.one.entry, err = s.policy.Entry(a.Decision); err == nil && a.one.entry == nil {
		err = fmt.Errorf("%s: decision %q is not defined by any rule", a.label(), strings.Join(a.Decision, "/"))
	}
	return a, err
}

// assembleRules finds the rule of each route, and notes routes without rules and rules without routes.
func (a *application) assembleRules(snapshot *policy.Snapshot) error {
	if a.table == nil {
		return fmt.Errorf("%s: policy.root needs a route table: set routes.file", a.label())
	}
	var conflicts []error
	for _, c := range a.table.RuleConflicts(a.Root, RouteRule) {
		conflicts = append(conflicts, fmt.Errorf("%s: routes, line %d: %s", a.label(), c.Line, c.Text))
	}
	if len(conflicts) > 0 {
		return errors.Join(conflicts...)
	}
	a.rules = map[*routes.Route]map[string]*rule{}
	finder := newRuleFinder(snapshot, &a.App)
	var missing []string
	for _, route := range a.table.Routes() {
		if route.Unsupported != "" {
			continue
		}
		rules, without, err := finder.rulesOf(route)
		if err != nil {
			return err
		}
		a.rules[route] = rules
		missing = append(missing, without...)
	}
	if a.StrictRoutes && len(missing) > 0 {
		return fmt.Errorf("policy.strict_routes: %s", firstOf(missing))
	}
	a.notices = missing
	for _, name := range finder.unmatchedRules() {
		a.notices = append(a.notices, fmt.Sprintf("%s: rule data.%s belongs to no route", a.label(), name))
	}
	return nil
}

// maxListed is how many routes without a rule an error lists: with a wrong policy.root, none has one.
const maxListed = 5

func firstOf(missing []string) string {
	if more := len(missing) - maxListed; more > 0 {
		return fmt.Sprintf("%s; and %d more", strings.Join(missing[:maxListed], "; "), more)
	}
	return strings.Join(missing, "; ")
}

// rulesOf finds the rules of one route by method, and lists the missing ones.
func (f *ruleFinder) rulesOf(route *routes.Route) (rules map[string]*rule, missing []string, err error) {
	rules = map[string]*rule{}
	required := route.RuleMethods()
	for _, method := range slices.Concat(required, addedMethods(route, required)) {
		found, err := f.find(method, route.Template, takesGET(route))
		if err != nil {
			return nil, nil, err
		}
		if found != nil {
			rules[method] = found
			continue
		}
		if slices.Contains(required, method) {
			path, _ := routes.RulePath(f.app.Root, method, route.Template) // find checked it already
			missing = append(missing, fmt.Sprintf("%s: %s %s has no rule: define data.%s.%s", f.app.label(), method, route.Template, routes.RuleName(path), RouteRule))
		}
	}
	if route.Methods == nil { // custom methods: only a rule for every method can apply
		if rules[""], err = f.find("", route.Template, true); err != nil {
			return nil, nil, err
		}
	}
	return rules, missing, nil
}

// addedMethods are the methods that a route answers to beyond those that need a rule: what the framework adds, such
// as OPTIONS and HEAD. A rule for one of them is used where it exists.
func addedMethods(route *routes.Route, required []string) []string {
	effective := route.Effective()
	if effective == nil {
		effective = []string{"HEAD"}
	}
	return slices.DeleteFunc(slices.Clone(effective), func(m string) bool { return slices.Contains(required, m) })
}

// eachEntry calls each with every entry that requests can evaluate, until it returns false.
func (v *View) eachEntry(each func(*policy.Entry) bool) {
	for i := range v.apps {
		a := &v.apps[i]
		if a.one.entry != nil && !each(a.one.entry) {
			return
		}
		if a.table == nil {
			continue
		}
		for _, route := range a.table.Routes() {
			for _, method := range slices.Sorted(maps.Keys(a.rules[route])) {
				if !each(a.rules[route][method].entry) {
					return
				}
			}
		}
	}
}

// findRule finds the rule for a request: the application's one decision, or its route's rule.
func (a *application) findRule(method string, route *routes.Route) *rule {
	if a.one.entry != nil || route == nil {
		return &a.one
	}
	if found := ruleFor(a.rules[route], method); found != nil {
		return found
	}
	return &a.one
}

// ruleFor is the rule of a route for a method, nil where there is none.
func ruleFor(rules map[string]*rule, method string) *rule {
	found := rules[method]
	if found == nil && method != "" {
		found = rules[""]
	}
	return found
}

// With App.Root a route's rule may stand in several places. The first that exists decides, alone:
//
//	data.orders.GET.orders.__id.allowed    this route and method, the convention of Aserto's policies
//	data.orders.ANY.orders.__id.GET        one package for a route, with a rule per method
//	data.orders.ANY.orders.__id.allowed    one rule for all its methods
//	data.orders.ANY.orders["/**"].allowed  one rule for all routes at and below /orders, and likewise GET in place of allowed
//	data.orders.ANY["/**"].allowed         ... the longest prefix first, and it is the template's, not the path's
//
// HEAD falls back to GET's rule; only RuleCandidates and find implement that.
const (
	anyMethod     = "ANY"
	subtreeSuffix = "/**" // no segment of a template has a slash
)

// RuleCandidates are the places where the rule for a method of a route may stand, as paths below data, by precedence.
// withGET says that the route also takes GET, whose rule HEAD falls back to.
func RuleCandidates(root []string, method, template string, withGET bool) ([][]string, error) {
	full, err := routes.RulePath(nil, method, template)
	if err != nil {
		return nil, err
	}
	segments := full[1:]
	asked := []string{method}
	if method == "HEAD" && withGET {
		asked = append(asked, "GET")
	}
	var out [][]string
	add := func(first string, place []string, rule ...string) {
		out = append(out, slices.Concat(root, []string{first}, place, rule))
	}
	at := func(place []string) {
		for _, m := range asked {
			add(m, place, RouteRule)
			add(anyMethod, place, m)
		}
		add(anyMethod, place, RouteRule)
	}
	at(segments)
	longest := len(segments)
	if !routes.NamedByPath(template) {
		longest = 0 // only a rule for all routes can apply
	}
	for n := longest; n >= 0; n-- {
		at(append(slices.Clone(segments[:n]), subtreeSuffix))
	}
	return out, nil
}

// RuleCandidateName names a candidate: its package for a rule of the convention, else the whole reference.
func RuleCandidateName(root, path []string) string {
	if path[len(root)] != anyMethod {
		return routes.RuleName(path[:len(path)-1])
	}
	return routes.RuleName(path)
}

// ruleFinder finds the rules of an application's routes.
type ruleFinder struct {
	policy  *policy.Snapshot
	app     *App
	defined map[string]bool // by the policy
	asked   map[string]bool // places that belong to a route
	entries map[string]*rule
}

func newRuleFinder(snapshot *policy.Snapshot, app *App) *ruleFinder {
	return &ruleFinder{policy: snapshot, app: app, defined: snapshot.Defined(), asked: map[string]bool{}, entries: map[string]*rule{}}
}

// find returns the rule that decides about a method of a route, nil where there is none. withGET says that the route
// also takes GET.
func (f *ruleFinder) find(method, template string, withGET bool) (*rule, error) {
	candidates, err := RuleCandidates(f.app.Root, method, template, withGET)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.app.label(), err)
	}
	var found *rule
	for i, path := range candidates {
		key := strings.Join(path, policy.PathSeparator)
		f.asked[key] = true
		if found != nil || i > 0 && !f.defined[key] { // the first may be data as well as a rule
			continue
		}
		if found, err = f.entry(key, path); err != nil {
			return nil, err
		}
	}
	if found == nil && method == "HEAD" && withGET {
		return f.find("GET", template, withGET) // the rule of GET may also be data
	}
	return found, nil
}

// takesGET reports whether a route takes GET, whose rule then also applies to HEAD.
func takesGET(route *routes.Route) bool {
	return route.Methods == nil || slices.Contains(route.Methods, "GET")
}

func (f *ruleFinder) entry(key string, path []string) (*rule, error) {
	if known := f.entries[key]; known != nil {
		return known, nil
	}
	entry, err := f.policy.Entry(path)
	if err != nil || entry == nil {
		return nil, err
	}
	f.entries[key] = &rule{entry: entry, name: RuleCandidateName(f.app.Root, path), partsCache: &partsCache{}}
	return f.entries[key], nil
}

// unmatchedRules are the rules below the root that match no route.
func (f *ruleFinder) unmatchedRules() (names []string) {
	root := f.app.Root
	for _, path := range f.policy.Rules(root, RouteRule) {
		if len(path) > len(root) && !f.asked[strings.Join(append(path, RouteRule), policy.PathSeparator)] {
			names = append(names, routes.RuleName(path)+"."+RouteRule)
		}
	}
	prefix := strings.Join(append(slices.Clone(root), anyMethod), policy.PathSeparator) + policy.PathSeparator
	for key := range f.defined {
		rest, isAny := strings.CutPrefix(key, prefix)
		last := rest[strings.LastIndex(rest, policy.PathSeparator)+1:]
		if isAny && methodRule(last) && !f.asked[key] {
			names = append(names, routes.RuleName(strings.Split(key, policy.PathSeparator)))
		}
	}
	slices.Sort(names)
	return names
}

// methodRule reports whether a rule is named like a method; other rules in a package are helpers.
func methodRule(name string) bool {
	return name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_-") == ""
}
