package dynmod

import (
	"slices"
	"strings"

	"gatehouse/policy"
)

// changeQuery sets and removes parameters of a path, exactly as Envoy's ext_authz filter does: values as they are, parameters by name, and those
// of one name in their order.
func changeQuery(path string, set []policy.QueryParameter, remove []string) string {
	start, query, _ := strings.Cut(path, "?")
	type parameter struct{ name, value string }
	var all []parameter
	drop := func(name string) {
		all = slices.DeleteFunc(all, func(p parameter) bool { return p.name == name })
	}
	for query != "" {
		var one string
		one, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(one, "=")
		all = append(all, parameter{name, value})
	}
	for _, p := range set {
		drop(p.Name)
		all = append(all, parameter{p.Name, p.Value})
	}
	for _, name := range remove {
		drop(name)
	}
	slices.SortStableFunc(all, func(a, b parameter) int { return strings.Compare(a.name, b.name) })
	var out strings.Builder
	out.WriteString(start)
	for i, p := range all {
		out.WriteByte("?&"[min(i, 1)])
		out.WriteString(p.name)
		out.WriteByte('=')
		out.WriteString(p.value)
	}
	return out.String()
}
