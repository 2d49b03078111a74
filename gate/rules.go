package gate

import (
	"fmt"
	"slices"
	"strings"

	"gatehouse/policy"
	"gatehouse/routes"
)

// Where each route has a rule of its own (App.Root), a rule may stand in several places. The first that is there decides, alone:
//
//	data.orders.GET.orders.__id.allowed    this route and method, the convention of Aserto's policies
//	data.orders.ANY.orders.__id.GET        one package for all methods of a route, with a rule for each
//	data.orders.ANY.orders.__id.allowed    one rule for all its methods
//	data.orders.ANY.orders["/**"].allowed  one rule for all routes at and below /orders, and likewise GET in place of allowed
//	data.orders.ANY["/**"].allowed         ... the longest prefix first, and it is the template's, not the path's
//
// A request by HEAD is GET's where HEAD has no rule of its own: RuleCandidates and find say so, and nothing else has to.
const (
	anyMethod = "ANY"
	below     = "/**" // no segment of a template has a slash
)

// RuleCandidates are the places where the rule for a method of a route may stand, as paths below data, the one that counts first.
// withGET says that the route takes GET as well, whose rule HEAD falls back to.
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
			add(m, place, ruleName)
			add(anyMethod, place, m)
		}
		add(anyMethod, place, ruleName)
	}
	at(segments)
	longest := len(segments)
	if !routes.NamedByPath(template) {
		longest = 0 // only a rule for all routes can be meant
	}
	for n := longest; n >= 0; n-- {
		at(append(slices.Clone(segments[:n]), below))
	}
	return out, nil
}

// RuleCandidateName is a candidate in words: its package for a rule of the convention, else the whole reference.
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
	defined map[string]bool // of the policy
	asked   map[string]bool // places that belong to a route
	entries map[string]*rule
}

func newRuleFinder(snapshot *policy.Snapshot, app *App) *ruleFinder {
	return &ruleFinder{policy: snapshot, app: app, defined: snapshot.Defined(), asked: map[string]bool{}, entries: map[string]*rule{}}
}

// find is the rule that decides about a method of a route, nil where there is none. withGET says that the route takes GET as well.
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
		return f.find("GET", template, withGET) // which may be data
	}
	return found, nil
}

// takesGET reports whether a route takes GET, whose rule is then HEAD's as well.
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
	f.entries[key] = &rule{entry: entry, name: RuleCandidateName(f.app.Root, path), sight: &sight{}}
	return f.entries[key], nil
}

// strangers are the rules below the root that belong to no route.
func (f *ruleFinder) strangers() (names []string) {
	root := f.app.Root
	for _, path := range f.policy.Rules(root, ruleName) {
		if len(path) > len(root) && !f.asked[strings.Join(append(path, ruleName), policy.PathSeparator)] {
			names = append(names, routes.RuleName(path)+"."+ruleName)
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

// methodRule says whether a rule is named like a method; what else is in a package is its author's own.
func methodRule(name string) bool {
	return name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_-") == ""
}
