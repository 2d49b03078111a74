package routes

import (
	"fmt"
	"slices"
	"strings"
)

// Change is one difference between an application's routes and the table.
type Change struct {
	Kind     string // added, removed, changed
	Old, New *Route // nil where missing
	What     string // for changed: what changed, old and new value
}

// String is one line of output: "+ GET /orders", "- GET /old", "~ GET /x: name "a" is now "b"".
func (c Change) String() string {
	switch c.Kind {
	case "added":
		return "+ " + describe(c.New)
	case "removed":
		return "- " + describe(c.Old)
	}
	if c.New == nil {
		return "~ " + c.What
	}
	return "~ " + describe(c.New) + ": " + c.What
}

// Diff compares an importer's result with the existing table: routes added, removed and changed, and settings. Tags,
// allowed path forms, guesses and routes marked own belong to the maintainer and are ignored; so are the order of
// methods and, where the framework does not match in order, the order of routes.
// the framework weighs routes instead of trying them in order, the order of routes.
func Diff(old, new *Table) []Change {
	var changes []Change
	if a, b := old.spec.summary(), new.spec.summary(); a != b {
		changes = append(changes, Change{Kind: "changed", What: fmt.Sprintf("settings %s are now %s", a, b)})
	}
	kept := map[string][]*Route{}
	for _, r := range old.routes {
		if !r.Manual {
			kept[r.identity()] = append(kept[r.identity()], r)
		}
	}
	var common []*Route // of the old table, in the order of the new one
	for _, r := range new.routes {
		same := kept[r.identity()]
		if len(same) == 0 {
			changes = append(changes, Change{Kind: "added", New: r})
			continue
		}
		before := same[0]
		kept[r.identity()] = same[1:]
		common = append(common, before)
		if what := r.changes(before); what != "" {
			changes = append(changes, Change{Kind: "changed", Old: before, New: r, What: what})
		}
	}
	for _, r := range old.routes {
		if left := kept[r.identity()]; len(left) > 0 && slices.Contains(left, r) {
			changes = append(changes, Change{Kind: "removed", Old: r})
		}
	}
	if moved := old.moved(common); moved != nil {
		changes = append(changes, Change{Kind: "changed", Old: moved, New: moved, What: "stands at another place in the order"})
	}
	return changes
}

// identity is what a route matches: it identifies the route.
func (r *Route) identity() string {
	methods := slices.Sorted(slices.Values(r.effective))
	return strings.Join([]string{strings.Join(methods, ","), r.Host, r.Template}, " ")
}

func (r *Route) changes(before *Route) string {
	var what []string
	if r.Name != before.Name {
		what = append(what, fmt.Sprintf("name %q is now %q", before.Name, r.Name))
	}
	if r.Unsupported != before.Unsupported {
		what = append(what, fmt.Sprintf("unsupported %q is now %q", before.Unsupported, r.Unsupported))
	}
	if r.options != before.options {
		what = append(what, fmt.Sprintf("options [%s] are now [%s]", before.options, r.options))
	}
	return strings.Join(what, "; ")
}

// moved returns a route that changed its position relative to the other common routes, where order matters.
func (t *Table) moved(common []*Route) *Route {
	if t.framework == Flask || t.framework == OpenAPI {
		return nil
	}
	in := make(map[*Route]bool, len(common))
	for _, r := range common {
		in[r] = true
	}
	i := 0
	for _, r := range t.routes {
		if !in[r] {
			continue
		}
		if common[i] != r {
			return common[i]
		}
		i++
	}
	return nil
}

// summary encodes the settings that affect matching and come from the application; mounts and proxies belong to the
// maintainer.
func (s *tableSpec) summary() string {
	text := fmt.Sprintf("%s strict_slashes=%t merge_slashes=%t redirect_defaults=%t host_matching=%t subdomain_matching=%q "+
		"redirect_slashes=%t append_slash=%t", s.framework, s.strictSlashes, s.mergeSlashes, s.redirectDefaults,
		s.hostMatching, s.serverName, s.redirectSlashes, s.appendSlash)
	converters := slices.Clone(s.converters)
	slices.SortFunc(converters, func(a, b converterSpec) int { return strings.Compare(a.name, b.name) })
	for _, c := range converters {
		text += fmt.Sprintf(" %s=%q/%d/%t", c.name, c.regex, c.weight, c.segment)
		if c.exact {
			text += "/exact"
		}
	}
	return text + groupSummary(s.routes)
}

// groupSummary encodes group properties that are not visible in routes: empty groups, and unsure ones.
func groupSummary(specs []routeSpec) string {
	text := ""
	for i := range specs {
		s := &specs[i]
		if s.isGroup() && len(s.routes) == 0 {
			text += fmt.Sprintf(" empty %s %q", s.key, s.template)
		}
		if s.isGroup() && s.unsure {
			text += fmt.Sprintf(" unsure %s %q", s.key, s.template)
		}
		text += groupSummary(s.routes)
	}
	return text
}
