package scaffold

import (
	"fmt"
	"slices"
	"strings"

	"gatehouse/routes"
)

// rule is what decides about the routes that share it: those that differ in nothing but a closing slash, or all below a
// prefix.
type rule struct {
	method string   // "" where one rule is for all methods
	path   []string // its package, below data
	name   string   // in the package
	routes []*routes.Route
	file   string
	open   string // why everybody may, "" for nobody
}

// ruleList is what must be decided about: each method of each route, HEAD aside where GET's rule stands for it.
func (s *Scaffold) ruleList() ([]*rule, error) {
	if s.perRoute {
		if err := s.conflicts(); err != nil {
			return nil, err
		}
		return s.routeRules(func(*routes.Route, string) bool { return true }, nil)
	}
	var all []*rule
	byName := map[string]*rule{}
	for _, r := range s.table.Routes() {
		if r.Unsupported != "" {
			continue
		}
		for _, method := range r.RuleMethods() {
			name := method + " " + r.Template
			if byName[name] == nil {
				byName[name] = &rule{method: method, open: s.openTo(method, r)}
				all = append(all, byName[name])
			}
			byName[name].routes = append(byName[name].routes, r)
		}
	}
	s.rules = len(all)
	return all, nil
}

// routeRules are the rules of those methods of the routes that wanted says. A route of one method has its rule in the package of
// that method, as policy.root's convention has it. One of several has a package with a rule for each, so that all of them are in one
// file; shared says of further packages that they are of this kind.
func (s *Scaffold) routeRules(wanted func(*routes.Route, string) bool, shared map[string]bool) ([]*rule, error) {
	var all []*rule
	byName := map[string]*rule{}
	plan, err := s.planRules(wanted, shared)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, r := range s.table.Routes() {
		if r.Unsupported != "" {
			continue
		}
		for _, method := range r.RuleMethods() {
			if !wanted(r, method) {
				continue
			}
			full, err := routes.RulePath([]string{s.name}, method, r.Template)
			if err != nil {
				return nil, err
			}
			made := &rule{method: method, path: full, name: "allowed", open: s.openTo(method, r)}
			if prefix := s.prefixOf(r, full[2:]); prefix != nil {
				used[strings.Join(prefix, "/")] = true
				made = &rule{path: slices.Concat([]string{s.name, "ANY"}, prefix, []string{"/**"}), name: "allowed"}
			} else if plan.together(method, full[2:]) {
				made.path, made.name = slices.Concat([]string{s.name, "ANY"}, full[2:]), method
			}
			name := strings.Join(append(slices.Clone(made.path), made.name), "\x00")
			if byName[name] == nil {
				byName[name] = made
				all = append(all, made)
			}
			if own := byName[name]; !slices.Contains(own.routes, r) {
				own.routes = append(own.routes, r)
			}
		}
	}
	for _, p := range s.prefixes {
		if !used[strings.Join(prefixTerms(p), "/")] && shared == nil {
			return nil, &PrefixError{p}
		}
	}
	s.rules = len(all)
	return all, nil
}

// rulePlan knows which routes have more than one method, and what stands where.
type rulePlan struct {
	methods map[string]map[string]bool // by the terms of a path: the methods that its routes need a rule for
	begins  map[string]bool            // the terms of every path and of what it begins with
	shared  map[string]bool
}

func (s *Scaffold) planRules(wanted func(*routes.Route, string) bool, shared map[string]bool) (*rulePlan, error) {
	p := &rulePlan{methods: map[string]map[string]bool{}, begins: map[string]bool{}, shared: shared}
	for _, r := range s.table.Routes() {
		if r.Unsupported != "" {
			continue
		}
		full, err := routes.RulePath(nil, "", r.Template)
		if err != nil {
			return nil, err
		}
		for i := range full {
			p.begins[strings.Join(full[1:i+1], "\x00")] = true
		}
		methods := r.RuleMethods()
		if len(methods) < 2 { // @app.get and @app.post of one path are two routes, each with a file of its own
			continue
		}
		key := strings.Join(full[1:], "\x00")
		if p.methods[key] == nil {
			p.methods[key] = map[string]bool{}
		}
		for _, m := range methods {
			if wanted(r, m) {
				p.methods[key][m] = true
			}
		}
	}
	return p, nil
}

// together says whether a method's rule stands in the one package of its route.
func (p *rulePlan) together(method string, terms []string) bool {
	key := strings.Join(terms, "\x00")
	below := method
	if key != "" {
		below = key + "\x00" + method
	}
	if !plainTerm.MatchString(method) || p.begins[below] { // a rule cannot be called so, or is where another route's package is
		return false
	}
	return p.shared[key] || len(p.methods[key]) > 1
}

// prefixOf is the longest of the given prefixes that a route lies below, as terms; nil for none.
func (s *Scaffold) prefixOf(r *routes.Route, terms []string) (longest []string) {
	if !routes.NamedByPath(r.Template) {
		return nil
	}
	for _, p := range s.prefixes {
		prefix := prefixTerms(p)
		if len(prefix) <= len(terms) && slices.Equal(prefix, terms[:len(prefix)]) && (longest == nil || len(prefix) > len(longest)) {
			longest = prefix
		}
	}
	return longest
}

// prefixTerms reads "/admin/", "admin/**" or "/orders/<int:id>" as terms of a rule.
func prefixTerms(prefix string) []string {
	terms, err := routes.RulePath(nil, "", strings.TrimSuffix(prefix, "**"))
	if err != nil {
		return []string{}
	}
	return append([]string{}, terms[1:]...)
}

// conflicts says why the routes cannot have one rule each.
func (s *Scaffold) conflicts() error {
	var lines []string
	for _, c := range s.table.RuleConflicts([]string{s.name}, "allowed") {
		lines = append(lines, c.String())
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("there cannot be one rule for each route:\n  %s\n--rules rbac does without", strings.Join(lines, "\n  "))
}
