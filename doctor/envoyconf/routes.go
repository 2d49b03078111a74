package envoyconf

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"gatehouse/doctor/tree"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// routeConfigs are the routes of a chain: its own, or those of its name that were found elsewhere.
func (e *examiner) routeConfigs(c chain) []part[*routev3.RouteConfiguration] {
	if c.manager == nil {
		return nil
	}
	if own := c.manager.GetRouteConfig(); own != nil {
		return []part[*routev3.RouteConfiguration]{{own, c.at.Get("route_config")}}
	}
	var found []part[*routev3.RouteConfiguration]
	for _, r := range e.routes {
		if name := c.manager.GetRds().GetRouteConfigName(); name == r.msg.GetName() || c.manager.GetScopedRoutes() != nil {
			found = append(found, r)
		}
	}
	scopes := c.at.Get("scoped_routes", "scoped_route_configurations_list", "scoped_route_configurations")
	for _, scope := range items(c.manager.GetScopedRoutes().GetScopedRouteConfigurationsList().GetScopedRouteConfigurations(), scopes) {
		if own := scope.msg.GetRouteConfiguration(); own != nil {
			found = append(found, part[*routev3.RouteConfiguration]{own, scope.at.Get("route_configuration")})
		}
	}
	return found
}

// routesIn are the routes of a virtual host: its list, and those that its matcher chooses from.
func (e *examiner) routesIn(host part[*routev3.VirtualHost]) []part[*routev3.Route] {
	all := items(host.msg.GetRoutes(), host.at.Get("routes"))
	e.matched(host.at.Get("matcher"), &all)
	return all
}

// matched adds the routes that stand anywhere in a matcher.
func (e *examiner) matched(n tree.Node, all *[]part[*routev3.Route]) {
	kind, value, _ := typed(n)
	var found []tree.Node
	switch kind {
	case "envoy.config.route.v3.Route":
		found = []tree.Node{value}
	case "envoy.config.route.v3.RouteList":
		found = value.Get("routes").Items()
	default:
		for _, item := range n.Items() {
			e.matched(item, all)
		}
		for _, m := range n.Members() {
			e.matched(m.Value, all)
		}
	}
	for _, at := range found {
		add(&e.parts, all, &routev3.Route{}, at)
	}
}

// hosts are the virtual hosts of a route configuration.
func hosts(config part[*routev3.RouteConfiguration]) []part[*routev3.VirtualHost] {
	return items(config.msg.GetVirtualHosts(), config.at.Get("virtual_hosts"))
}

// clustersOf are the clusters that a chain leads to.
func (e *examiner) clustersOf(c chain) []string {
	var names []string
	for _, config := range e.routeConfigs(c) {
		for _, host := range hosts(config) {
			for _, r := range e.routesIn(host) {
				names = append(names, clustersOfRoute(r.msg)...)
			}
		}
	}
	return names
}

func clustersOfRoute(r *routev3.Route) []string {
	action := r.GetRoute()
	if action == nil {
		return nil
	}
	if w := action.GetWeightedClusters(); w != nil {
		var names []string
		for _, c := range w.GetClusters() {
			names = append(names, c.GetName())
		}
		return names
	}
	return []string{action.GetCluster()} // "" where it is chosen by a header or a plugin
}

// forwards says whether a chain leads anywhere but to answers of its own. Routes that are not here count.
func (e *examiner) forwards(c chain) bool {
	configs := e.routeConfigs(c)
	if len(configs) == 0 || slices.ContainsFunc(configs, func(r part[*routev3.RouteConfiguration]) bool { return r.msg.GetVhds() != nil }) {
		return true
	}
	return slices.ContainsFunc(e.clustersOf(c), func(name string) bool { return !ofProxy(name) })
}

// ofProxy says whether a cluster is what Istio and Envoy Gateway ask their own proxy for: metrics and readiness.
func ofProxy(cluster string) bool { return cluster == "prometheus_stats" || cluster == "agent" }

// reaches says whether a cluster is among those, or has an endpoint of one of those.
func (e *examiner) reaches(name string, those map[string]bool) bool {
	if those[name] {
		return true
	}
	ends := e.endpoints(name)
	for other := range those {
		for _, end := range e.endpoints(other) {
			if slices.ContainsFunc(ends, func(one string) bool { return sameEnd(one, end) }) {
				return true
			}
		}
	}
	return false
}

// sameEnd says whether two endpoints are one. Of this machine there are many names.
func sameEnd(one, other string) bool {
	if one == other {
		return true
	}
	a, portA, errA := net.SplitHostPort(one)
	b, portB, errB := net.SplitHostPort(other)
	return errA == nil && errB == nil && portA == portB && (ofMachine(a) && ofMachine(b) || sameHost(a, b))
}

// sameHost compares names as DNS does, and addresses however they are written.
func sameHost(a, b string) bool {
	if x, err := netip.ParseAddr(a); err == nil {
		y, err := netip.ParseAddr(b)
		return err == nil && x.Unmap() == y.Unmap()
	}
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

// ofMachine says whether connections to a host stay on this machine. Linux takes those to 0.0.0.0 for that too.
func ofMachine(host string) bool {
	ip, err := netip.ParseAddr(host)
	return isLoopback(host) || sameHost(host, "localhost") || err == nil && ip.Unmap().IsUnspecified()
}

// routesOf looks at what routes do to ext_authz and to what it sets.
func (e *examiner) routesOf(c chain) {
	names := map[string]bool{}
	for _, f := range c.filters {
		if isAuthz(f) {
			names[f.name] = true
		}
	}
	configs := e.routeConfigs(c)
	if len(configs) == 0 && e.whole {
		place := c.at.Get("rds")
		if !place.Exists() {
			place = c.at
		}
		e.findings.Found("routes-not-seen", place, "the routes of listener %s are fetched and are not in here", quoted(c.name))
	}
	for _, config := range configs {
		if config.msg.GetVhds() != nil && len(config.msg.GetVirtualHosts()) == 0 && e.whole {
			e.findings.Found("routes-not-seen", config.at.Get("vhds"), "the virtual hosts of listener %s are fetched and are not in here", quoted(c.name))
		}
		r := routes{e, names, c.filters, config.at}
		r.level(config.at, "the route configuration", config.msg.GetTypedPerFilterConfig(), config.msg.GetRequestHeadersToRemove(), config.msg.GetRequestHeadersToAdd(), false)
		for _, host := range hosts(config) {
			r.host(host)
		}
	}
}

// routes looks at one route configuration.
type routes struct {
	*examiner
	names   map[string]bool // of the chain's ext_authz filters
	filters []filter        // of the chain
	at      tree.Node
}

func (r routes) host(host part[*routev3.VirtualHost]) {
	where := fmt.Sprintf("virtual host %q", host.msg.GetName())
	all := r.routesIn(host)
	leads := slices.ContainsFunc(all, func(r part[*routev3.Route]) bool { return len(clustersOfRoute(r.msg)) > 0 }) || len(all) == 0
	r.level(host.at, where, host.msg.GetTypedPerFilterConfig(), host.msg.GetRequestHeadersToRemove(), host.msg.GetRequestHeadersToAdd(), !leads)
	for i, route := range all {
		where := fmt.Sprintf("route %d of %s", i+1, where)
		if name := route.msg.GetName(); name != "" {
			where = fmt.Sprintf("route %q of virtual host %q", name, host.msg.GetName())
		}
		r.level(route.at, where, route.msg.GetTypedPerFilterConfig(), route.msg.GetRequestHeadersToRemove(), route.msg.GetRequestHeadersToAdd(), len(clustersOfRoute(route.msg)) == 0)
		r.chosen(route, where)
		r.rewritten(route, where)
		action := route.at.Get("route")
		for _, c := range items(route.msg.GetRoute().GetWeightedClusters().GetClusters(), action.Get("weighted_clusters", "clusters")) {
			r.level(c.at, where, c.msg.GetTypedPerFilterConfig(), c.msg.GetRequestHeadersToRemove(), c.msg.GetRequestHeadersToAdd(), false)
		}
		upgrades := action.Get("upgrade_configs")
		for _, u := range items(route.msg.GetRoute().GetUpgradeConfigs(), upgrades) {
			if u.msg.GetEnabled() == nil || u.msg.GetEnabled().GetValue() {
				r.upgrade(u.msg.GetUpgradeType(), u.at, where, func() { upgrades.RemoveItem(u.at) })
			}
		}
	}
}

// level is what a route configuration, a virtual host, a route or a part of one may say.
func (r routes) level(at tree.Node, where string, perFilter map[string]*anypb.Any, removed []string, added []*corev3.HeaderValueOption, open bool) {
	per := at.Get("typed_per_filter_config")
	for _, m := range per.Members() {
		if _, ok := perFilter[m.Name]; ok {
			r.perFilter(per, m, where, open)
		}
	}
	for _, name := range removed {
		if name = strings.ToLower(name); slices.Contains(r.gatehouse.IdentityHeaders, name) {
			list := at.Get("request_headers_to_remove")
			for _, item := range list.Items() {
				if strings.EqualFold(item.Text(), name) {
					r.findings.Found("identity-headers-removed", item, "%s removes %s after Gatehouse has set it", where, name).Fix = func() { list.RemoveItem(item) }
				}
			}
		}
	}
	list := at.Get("request_headers_to_add")
	for _, h := range items(added, list) {
		if name := strings.ToLower(h.msg.GetHeader().GetKey()); slices.Contains(r.gatehouse.IdentityHeaders, name) {
			r.findings.Found("identity-headers-overwritten", h.at, "%s sets %s after Gatehouse has", where, name).Fix = func() { list.RemoveItem(h.at) }
		}
	}
}

// perFilter looks at the settings of one filter.
func (r routes) perFilter(per tree.Node, m tree.Member, where string, open bool) {
	kind, value, _ := typed(m.Value)
	disabled := false
	if kind == filterType {
		disabled = value.Get("disabled").True()
		if inner, config, ok := typed(value.Get("config")); ok {
			kind, value = inner, config
		}
	}
	if kind == "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute" {
		if list := value.Get("mutations", "request_mutations"); r.inFront(m.Name) {
			r.credentials(list, where)
		} else {
			r.mutations(list, where)
		}
		return
	}
	if kind == "envoy.extensions.filters.http.custom_response.v3.CustomResponse" {
		r.customResponse(value.Get("custom_response_matcher"), value.Get("custom_response_matcher"))
		return
	}
	if kind != perRouteType && (kind != filterType || !r.names[m.Name]) {
		return
	}
	if !r.names[m.Name] {
		r.findings.Found("per-route-name", m.Value, "%s has settings for a filter %q, and ext_authz is called %s here", where, m.Name, strings.Join(sorted(r.names), ", ")).Fix = func() {
			if names := sorted(r.names); len(names) == 1 {
				per.Set(names[0], m.Value)
				per.Remove(m.Name)
			}
		}
		return
	}
	s := routeSettings{at: value, where: where, key: m.Name, per: per, open: open}
	if disabled && !open {
		r.findings.Found("route-disables-ext-authz", m.Value.Get("disabled"), "%s switches ext_authz off", where).Fix = s.remove
	}
	if kind == perRouteType {
		r.route(s)
	}
}

// inFront says whether a filter with this name runs before Gatehouse is asked.
func (r routes) inFront(name string) bool {
	at := slices.IndexFunc(r.filters, isAuthz)
	return slices.ContainsFunc(r.filters[:max(at, 0)], func(f filter) bool { return f.name == name })
}

// rewritten looks at a route whose application gets another path than the one that was decided.
func (r routes) rewritten(route part[*routev3.Route], where string) {
	action, m := route.at.Get("route"), route.msg.GetRoute()
	for _, key := range []string{"prefix_rewrite", "regex_rewrite", "path_rewrite_policy", "path_rewrite"} {
		if at := action.Get(key); at.Exists() && at.Text() != "" || at.IsMap() {
			r.findings.Found("path-rewritten", at, "%s changes the path by %s after Gatehouse has decided", where, key)
		}
	}
	prefix, put := route.msg.GetMatch().GetPrefix(), m.GetPrefixRewrite()
	if prefix != "" && put != "" && strings.HasSuffix(prefix, "/") != strings.HasSuffix(put, "/") {
		r.findings.Found("prefix-rewrite-joins", action.Get("prefix_rewrite"), "%s makes %sadmin of %sadmin", where, put, prefix)
	}
}

func sorted(names map[string]bool) []string {
	var list []string
	for name := range names {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}
