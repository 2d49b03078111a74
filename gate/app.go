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
	// Hosts choose the application by the request's host: exact names, or *.example.com for every name below it. The port
	// and the case do not count. Empty: every host that no other has. A host that two proxies could take for two, such as
	// one with a closing dot, belongs to no application, where there are several.
	Hosts []string
	// AllowUnmatched asks the policy about requests that no route takes; without it they are denied. It means nothing
	// without a table.
	AllowUnmatched bool
	// Redirects decides a request that the application only redirects, to its path with or without a closing slash, as the
	// route of that path; input.route.redirect is true then. Without it, it is one that no route takes.
	Redirects bool
	// Decision is the path below data of the one rule that decides about every request. Either it or Root is set.
	Decision []string
	// Root is where each route has a rule of its own: data.<root>.GET.orders.__id.allowed for GET /orders/{id}.
	Root []string
	// StrictRoutes makes a route without a rule an error, which stops the activation.
	StrictRoutes bool
}

// ruleName is the rule that decides in the package of a route (the convention of Aserto's policies).
const ruleName = "allowed"

// application is an App with everything that it takes to decide about its requests. It is part of a View, and of the next one too where
// nothing changed of what it is made of.
type application struct {
	App
	table   *routes.Table
	one     rule // of Decision; where each route has a rule of its own, what stands for those that have none
	rules   map[*routes.Route]map[string]*rule
	notices []string // routes without a rule, rules without a route
	source  appSource
}

// appSource is all that an application is made of.
type appSource struct {
	app    App
	table  *routes.Table
	policy *policy.Snapshot
	forms  routes.Forms // that configuration allows
}

func (s *appSource) equal(o *appSource) bool {
	return s.table == o.table && s.policy == o.policy && s.forms == o.forms && reflect.DeepEqual(&s.app, &o.app)
}

// rule is what can be asked about a request. Its name is the decision path in words: envoy/authz/allow, or for a route's rule its
// package as Aserto writes it, orders.GET.orders.__id.
type rule struct {
	entry *policy.Entry // nil: there is none
	name  string
	sight *sight
	// decision is the rule within the package that name is, of a question, whose record names both. "": name is all of it.
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
		errs = append(errs, wrong("Apps", "there is none"))
	}
	seen := map[string]string{}
	for i, a := range apps {
		at := element("Apps", i)
		if len(apps) > 1 && a.Name == "" {
			errs = append(errs, wrong(at, "name is missing"))
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
				errs = append(errs, wrong(at+".Hosts", "%q is neither a host name nor *.example.com", host))
			}
			if other, taken := seen[host]; taken {
				errs = append(errs, wrong(at+".Hosts", "%q already belongs to app %q", host, other))
			}
			seen[host] = a.Name
		}
		if i > 0 && slices.ContainsFunc(apps[:i], func(b App) bool { return b.Name == a.Name }) {
			errs = append(errs, wrong(at, "the name %q is taken", a.Name))
		}
	}
	return errors.Join(errs...)
}

// assemble works out what requests are decided with, from the parts that were published. What an application of the View before was
// made of decides whether it is made anew: 10,000 rules take seconds. An error keeps the View from being stored.
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

// assemble makes an application. It depends on nothing but its source.
func (s *appSource) assemble() (application, error) {
	a := application{App: s.app, table: s.table, one: rule{name: strings.Join(s.app.Decision, "/"), sight: &sight{}}, source: *s}
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

// assembleRules finds the rule of each route, and notes what has no counterpart.
func (a *application) assembleRules(snapshot *policy.Snapshot) error {
	if a.table == nil {
		return fmt.Errorf("%s: policy.root needs a route table: set routes.file", a.label())
	}
	var conflicts []error
	for _, c := range a.table.RuleConflicts(a.Root, ruleName) {
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
	for _, name := range finder.strangers() {
		a.notices = append(a.notices, fmt.Sprintf("%s: rule %s belongs to no route", a.label(), name))
	}
	return nil
}

// mostListed is how many routes without a rule an error lists: where policy.root is wrong, it is all of them.
const mostListed = 5

func firstOf(missing []string) string {
	if more := len(missing) - mostListed; more > 0 {
		return fmt.Sprintf("%s; and %d more", strings.Join(missing[:mostListed], "; "), more)
	}
	return strings.Join(missing, "; ")
}

// rulesOf finds the rules of one route by method, and says what is missing.
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
			path, _ := routes.RulePath(f.app.Root, method, route.Template) // find made it as well
			missing = append(missing, fmt.Sprintf("%s: %s %s has no rule: define %s.%s", f.app.label(), method, route.Template, routes.RuleName(path), ruleName))
		}
	}
	if route.Methods == nil { // methods of an application's own: only a rule for every method can be meant
		if rules[""], err = f.find("", route.Template, true); err != nil {
			return nil, nil, err
		}
	}
	return rules, missing, nil
}

// addedMethods are the methods that a route answers to beyond those that need a rule: what the framework adds, such as
// OPTIONS, and HEAD. A rule for one of them counts where there is one.
func addedMethods(route *routes.Route, required []string) []string {
	effective := route.Effective()
	if effective == nil {
		effective = []string{"HEAD"}
	}
	return slices.DeleteFunc(slices.Clone(effective), func(m string) bool { return slices.Contains(required, m) })
}

// eachEntry calls each with what the applications' requests can be asked of, until it returns false.
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

// ask finds the rule for a request: the application's one decision, or its route's rule.
func (a *application) ask(method string, route *routes.Route) *rule {
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

// app finds the application that a request is for: the one that Envoy's configuration names, else the one that the host
// belongs to, an exact name before the longest wildcard.
func (v *View) app(req *Request) *application {
	if name := req.Extensions["gatehouse.app"]; name != "" {
		for i := range v.apps {
			if v.apps[i].Name == name {
				return &v.apps[i]
			}
		}
		return nil
	}
	if len(v.apps) == 1 && len(v.apps[0].Hosts) == 0 {
		return &v.apps[0]
	}
	host, ok := hostName(req.Host)
	if !ok {
		return nil
	}
	var best *application
	longest := -1
	for i := range v.apps {
		a := &v.apps[i]
		if len(a.Hosts) == 0 && longest < 0 {
			best, longest = a, 0
		}
		for _, pattern := range a.Hosts {
			switch suffix, wildcard := strings.CutPrefix(pattern, "*"); {
			case pattern == host:
				return a
			case wildcard && len(suffix) > longest && len(host) > len(suffix) && strings.HasSuffix(host, suffix):
				best, longest = a, len(suffix)
			}
		}
	}
	return best
}

// hostName is a Host header in lower case and without port. It is not ok where two proxies could take it for two hosts: with
// the dot of the DNS root ("a.test." is a.test to nginx, another virtual host to Envoy), or with what belongs into no name.
func hostName(host string) (name string, ok bool) {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && i+1 < len(host) && strings.Trim(host[i+1:], "0123456789") == "" {
		host = host[:i]
	}
	if host == "" || len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' && strings.Trim(host[1:len(host)-1], "0123456789abcdefABCDEF:.") == "" {
		return host, true // IPv6 (RFC 3986 section 3.2.2), which belongs to no name
	}
	name = lowerASCII(host)
	return name, plainHost(name)
}

// plainHost says whether a name in lower case can only be read in one way.
func plainHost(name string) bool {
	return name != "" && name[len(name)-1] != '.' && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

// lowerASCII leaves other letters as they are: Unicode has some that fold to ASCII ones, and DNS does not fold them.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// route finds what the application will do with the request, by its own route table, and refuses paths that two readers
// could understand differently, unless configuration or the route allows the form.
func (c *call) route() error {
	s := c.view.Settings
	if c.app = c.view.app(c.req); c.app == nil {
		return fail(NoRoute, fmt.Errorf("no app has the host %q", c.req.Host))
	}
	if c.own.wanted {
		return c.routePermissions()
	}
	refused := c.target.forms &^ s.Paths.forms()
	named := c.req.Extensions["gatehouse.route"]
	if c.app.table == nil {
		if refused != 0 {
			return refuse(refused)
		}
		if named != "" {
			return fail(BadRequest, fmt.Errorf("gatehouse.route names %q, and there is no route table", named))
		}
		return nil
	}
	var err error
	if c.method, err = tableMethod(c.req); err != nil {
		return fail(BadRequest, err)
	}
	match := c.app.table.Match(c.method, c.req.Host, c.target.raw)
	if match.Outcome == routes.Redirect && c.app.Redirects {
		if target, ok := c.app.table.RedirectTarget(c.method, c.req.Host, c.target.raw); ok {
			match, c.redirect = target, true
		}
	}
	refused &^= match.Allows()
	switch {
	case refused != 0:
		return refuse(refused)
	case match.Outcome == routes.Refused:
		return fail(BadRequest, errors.New("ambiguous path: the route cannot be determined"))
	case match.Outcome == routes.Matched && (named == "" || named == match.Route.Name || named == match.Route.Template):
		c.match = match
		return nil
	case named != "":
		return fail(BadRequest, fmt.Errorf("gatehouse.route names %q, but the path matches another route", named))
	case c.method == routes.WebSocket: // also where unmatched requests are for the policy: some servers serve it as a GET
		return fail(NoRoute, errors.New("the request opens a WebSocket, and the route table has none under its path"))
	case c.app.AllowUnmatched:
		return nil
	}
	return fail(NoRoute, fmt.Errorf("the route table says %s", match.Outcome))
}

func refuse(forms routes.Forms) error {
	return fail(BadRequest, fmt.Errorf("path refused: %s (paths.allow, or allow: on the route, lets it through)", forms))
}
