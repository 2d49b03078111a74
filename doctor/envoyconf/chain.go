package envoyconf

import (
	"slices"
	"strings"

	"gatehouse/doctor/tree"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// chain is a list of HTTP filters, and what is around it; in a piece of a configuration there may be nothing around.
type chain struct {
	manager  *hcmv3.HttpConnectionManager
	at       tree.Node // the connection manager
	listener *listenerv3.Listener
	name     string // of the listener
	list     tree.Node
	filters  []filter
	upgrade  string // the upgrade whose own filters these are
}

// tcpProxy is a way around HTTP.
type tcpProxy struct {
	at       tree.Node // the filter
	listener part[*listenerv3.Listener]
	clusters []string
}

// listenersAndManagers looks at every chain of filters, first at those that ask, as the others are compared with them.
func (e *examiner) listenersAndManagers() {
	var chains []chain
	var proxies []tcpProxy
	for _, l := range e.listeners {
		if l.msg.GetTrafficDirection() == corev3.TrafficDirection_OUTBOUND && e.ofSidecar() {
			continue // what the application itself calls
		}
		all := items(l.msg.GetFilterChains(), l.at.Get("filter_chains"))
		if l.msg.GetDefaultFilterChain() != nil {
			all = append(all, part[*listenerv3.FilterChain]{l.msg.GetDefaultFilterChain(), l.at.Get("default_filter_chain")})
		}
		for _, fc := range all {
			for _, f := range items(fc.msg.GetFilters(), fc.at.Get("filters")) {
				_, value, _ := typed(f.at.Get("typed_config"))
				if m, ok := as(f.msg.GetTypedConfig(), &hcmv3.HttpConnectionManager{}); ok {
					chains = append(chains, e.chainsOf(part[*hcmv3.HttpConnectionManager]{m, value}, l.msg)...)
				} else if p, ok := as(f.msg.GetTypedConfig(), &tcpv3.TcpProxy{}); ok {
					proxies = append(proxies, tcpProxy{f.at, l, e.tcpClusters(fc, p)})
				} else if named := clustersNamed(f.at); len(named) > 0 {
					proxies = append(proxies, tcpProxy{f.at, l, named})
				}
			}
		}
		for _, f := range l.at.Get("listener_filters").Items() { // such as a proxy of UDP
			if named := clustersNamed(f); len(named) > 0 {
				proxies = append(proxies, tcpProxy{f, l, named})
			}
		}
	}
	for _, m := range e.managers {
		chains = append(chains, e.chainsOf(m, nil)...)
	}
	authorized := e.authorized(chains)
	for _, c := range chains {
		e.chain(c)
	}
	for _, c := range chains {
		if !e.internal(c, authorized) {
			e.missing(c)
		}
	}
	for _, p := range proxies {
		for _, name := range p.clusters {
			if len(authorized) > 0 && (name == anyCluster || e.reaches(name, authorized)) {
				what := quoted(name) + ", which ext_authz protects elsewhere"
				if name == anyCluster {
					what = "a cluster that is chosen for each connection, and ext_authz protects some"
				}
				e.findings.Found("tcp-proxy-to-app", p.at, "listener %q hands bytes on to %s", p.listener.msg.GetName(), what).Fix = e.removeListener(p)
				break
			}
		}
	}
}

// authorized are the clusters that are reached with a decision, also by way of Envoy's own internal listeners.
func (e *examiner) authorized(chains []chain) map[string]bool {
	found := map[string]bool{}
	for before := -1; before < len(found); {
		before = len(found)
		for _, c := range chains {
			if asks(c.filters) || e.internal(c, found) {
				for _, name := range e.clustersOf(c) {
					found[name] = true
				}
			}
		}
	}
	return found
}

// internal says whether a chain is of a listener that only Envoy itself connects to, by a cluster that is among those.
func (e *examiner) internal(c chain, those map[string]bool) bool {
	if c.listener.GetInternalListener() == nil {
		return false
	}
	for name := range those {
		if slices.Contains(e.endpoints(name), internalEnd+c.name) {
			return true
		}
	}
	return false
}

// ofSidecar says whether this Envoy stands beside an application in a mesh, so that some of its listeners are for what that calls. Istio's gateways have such
// listeners alone, for what clients send.
func (e *examiner) ofSidecar() bool {
	return slices.ContainsFunc(e.listeners, func(l part[*listenerv3.Listener]) bool {
		return l.msg.GetTrafficDirection() == corev3.TrafficDirection_INBOUND
	})
}

// removeListener is the fix for a listener that has nothing but one filter.
func (e *examiner) removeListener(p tcpProxy) func() {
	l := p.listener
	if len(l.msg.GetFilterChains()) != 1 || l.msg.GetDefaultFilterChain() != nil {
		return nil
	}
	for _, doc := range e.roots {
		if list := doc.Get("static_resources", "listeners"); slices.ContainsFunc(list.Items(), l.at.Same) {
			return func() { list.RemoveItem(l.at) }
		}
	}
	return nil
}

// chainsOf are the HTTP filters of a connection manager, and those that an upgrade has of its own.
func (e *examiner) chainsOf(m part[*hcmv3.HttpConnectionManager], l *listenerv3.Listener) []chain {
	list := m.at.Get("http_filters")
	c := chain{manager: m.msg, at: m.at, listener: l, name: l.GetName(), list: list, filters: e.filtersOf(list)}
	all := []chain{c}
	for _, u := range items(m.msg.GetUpgradeConfigs(), m.at.Get("upgrade_configs")) {
		if own := u.at.Get("filters"); len(own.Items()) > 0 {
			c := c
			c.upgrade, c.list, c.filters = u.msg.GetUpgradeType(), own, e.filtersOf(own)
			all = append(all, c)
		}
	}
	return all
}

func isAuthz(f filter) bool { return f.kind == extAuthzType }

func asks(filters []filter) bool { return slices.ContainsFunc(filters, isAuthz) }

// chain looks at one list of filters, and at what is around it.
func (e *examiner) chain(c chain) {
	at := slices.IndexFunc(c.filters, isAuthz)
	if at < 0 {
		return
	}
	own := c.filters[at]
	if !e.model.Exists() && own.config.Exists() && !own.disabled && !own.conditional {
		e.model = own.at
	}
	var settings []*authzv3.ExtAuthz
	for _, f := range c.filters {
		if isAuthz(f) && f.config.Exists() {
			s := e.filter(f.config)
			settings = append(settings, s)
			e.buffer(c, f.config, s)
		} else if isAuthz(f) {
			e.count++
			e.findings.Found("routes-not-seen", f.at, "the settings of %s are fetched and are not in here", f.name)
		}
	}
	if !slices.ContainsFunc(c.filters, func(f filter) bool { return isAuthz(f) && !f.disabled }) {
		e.disabled(c, own)
	}
	always := slices.ContainsFunc(c.filters, func(f filter) bool { return isAuthz(f) && !f.disabled && !f.conditional })
	for _, f := range c.filters {
		if !isAuthz(f) {
			continue
		}
		if f.config.Exists() {
			e.judged[f.config.Key()] = true
		}
		if f.conditional && !always {
			e.findings.Found("filter-conditional", f.at, "a matcher decides for which requests ext_authz runs").Fix = func() {
				_, inner, _ := typed(f.at.Get("typed_config")) // the filter as it is within
				f.at.Set("typed_config", inner.Get("extension_config", "typed_config"))
			}
		}
	}
	for _, f := range c.filters[:at] {
		e.before(c, f, own)
		e.writes(c, f, own)
	}
	for _, f := range c.filters[at+1:] {
		_, config, _ := typed(f.at.Get("typed_config"))
		if f.kind == "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation" {
			e.mutations(config.Get("mutations", "request_mutations"), "a filter behind ext_authz")
		}
	}
	e.jwt(c, at)
	if c.manager == nil || c.upgrade != "" {
		return
	}
	e.answers(c)
	e.paths(c.at, c.manager)
	e.headersIn(c.at, c.manager, c.listener.GetTrafficDirection() == corev3.TrafficDirection_INBOUND)
	e.upgrades(c, own, settings)
	e.routesOf(c)
	e.upstreamFilters(c)
}

// disabled looks for routes that do not switch on a filter that is off, as Envoy Gateway has them.
func (e *examiner) disabled(c chain, own filter) {
	on := func(perFilter map[string]*anypb.Any) bool {
		return slices.ContainsFunc(c.filters, func(f filter) bool {
			config, ok := perFilter[f.name]
			if !ok || !isAuthz(f) {
				return false
			}
			wrapped, ok := as(config, &routev3.FilterConfig{})
			return !ok || !wrapped.GetDisabled()
		})
	}
	configs := e.routeConfigs(c)
	open := len(configs) == 0
	for _, config := range configs {
		for _, host := range hosts(config) {
			for _, r := range e.routesIn(host) {
				if len(clustersOfRoute(r.msg)) > 0 && !on(r.msg.GetTypedPerFilterConfig()) && !on(host.msg.GetTypedPerFilterConfig()) && !on(config.msg.GetTypedPerFilterConfig()) {
					open = true
				}
			}
		}
	}
	if open {
		e.findings.Found("ext-authz-disabled", own.at.Get("disabled"), "the ext_authz filter is disabled, and not every route switches it on").Fix = func() { own.at.Remove("disabled") }
	}
}

// before looks at a filter in front of ext_authz.
func (e *examiner) before(c chain, f, own filter) {
	if f.disabled {
		return
	}
	switch f.kind {
	case "envoy.extensions.filters.http.cache.v3.CacheConfig", "envoy.extensions.filters.http.cache_v2.v3.CacheV2Config",
		"envoy.extensions.filters.http.file_server.v3.FileServerConfig", "envoy.extensions.filters.http.aws_lambda.v3.Config",
		"envoy.extensions.filters.http.mcp_router.v3.McpRouter":
		e.findings.Found("answers-before-ext-authz", f.at, "%s answers requests before ext_authz sees them", f.name).Fix = func() {
			c.list.RemoveItem(f.at)
			c.list.Insert(e.after(c, own.at), f.at)
		}
	case "envoy.extensions.filters.http.lua.v3.Lua", "envoy.extensions.filters.http.wasm.v3.Wasm", "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
		"envoy.extensions.filters.http.golang.v3alpha.Config", "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
		"envoy.extensions.filters.http.composite.v3.Composite", "envoy.extensions.filters.http.tap.v3.Tap":
		e.findings.Found("may-answer-before-ext-authz", f.at, "%s runs in front of ext_authz and may answer by itself", f.name)
	}
}

// after is the filter behind another one.
func (e *examiner) after(c chain, at tree.Node) tree.Node {
	list := c.list.Items()
	for i, item := range list {
		if item.Same(at) && i+1 < len(list) {
			return list[i+1]
		}
	}
	return tree.Node{}
}

// buffer compares the listener's buffer with the body.
func (e *examiner) buffer(c chain, at tree.Node, f *authzv3.ExtAuthz) {
	size := int(f.GetWithRequestBody().GetMaxRequestBytes())
	if c.listener == nil || size == 0 || !f.GetWithRequestBody().GetAllowPartialMessage() { // then the filter sets the buffer itself
		return
	}
	buffer := 1 << 20
	if given := c.listener.GetPerConnectionBufferLimitBytes(); given != nil {
		buffer = int(given.GetValue())
	}
	if size > buffer {
		e.findings.Found("body-above-buffer", at.Get("with_request_body", "max_request_bytes"), "max_request_bytes is %d, and the listener's buffer %d", size, buffer).
			Fix = func() { at.Get("with_request_body").Set("max_request_bytes", buffer) }
	}
}

// jwt is about what jwt_authn has verified.
func (e *examiner) jwt(c chain, at int) {
	first := slices.IndexFunc(c.filters, func(f filter) bool {
		return f.kind == "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication" && !f.disabled
	})
	trusted := e.gatehouse.Metadata
	if !e.gatehouse.Known {
		own := c.filters[at].config
		trusted = slices.Contains(own.Get("metadata_context_namespaces").Texts(), jwtNamespace) || slices.Contains(own.Get("typed_metadata_context_namespaces").Texts(), jwtNamespace)
	}
	if !trusted {
		return
	}
	own := c.filters[at]
	switch {
	case first < 0:
		e.findings.Found("jwt-metadata-forgeable", own.at, "what jwt_authn verified is trusted, and this chain has no jwt_authn")
	case first > at:
		moved := c.filters[first]
		e.findings.Found("jwt-metadata-forgeable", moved.at, "jwt_authn runs after ext_authz, and what it verified is trusted").Fix = func() {
			c.list.RemoveItem(moved.at)
			c.list.Insert(own.at, moved.at)
		}
	}
	for _, f := range c.filters[:at] {
		switch f.kind {
		case "envoy.extensions.filters.http.header_to_metadata.v3.Config", "envoy.extensions.filters.http.set_metadata.v3.Config",
			"envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata":
			if !mentions(f.config, jwtNamespace) {
				continue
			}
			e.findings.Found("jwt-metadata-forgeable", f.at, "%s writes to %s, from what the client sent", f.name, jwtNamespace).Fix = func() { c.list.RemoveItem(f.at) }
		}
	}
}

// mentions says whether a text stands anywhere in a value.
func mentions(n tree.Node, text string) bool {
	if n.Text() == text {
		return true
	}
	for _, m := range n.Members() {
		if m.Name == text || mentions(m.Value, text) {
			return true
		}
	}
	return slices.ContainsFunc(n.Items(), func(item tree.Node) bool { return mentions(item, text) })
}

// upgrades looks at what becomes of a connection after its first request.
func (e *examiner) upgrades(c chain, own filter, settings []*authzv3.ExtAuthz) {
	list := c.at.Get("upgrade_configs")
	for _, u := range items(c.manager.GetUpgradeConfigs(), list) {
		if u.msg.GetEnabled() != nil && !u.msg.GetEnabled().GetValue() {
			continue
		}
		e.upgrade(u.msg.GetUpgradeType(), u.at, "the listener", func() { list.RemoveItem(u.at) })
		if strings.EqualFold(u.msg.GetUpgradeType(), "websocket") {
			for _, s := range settings[:min(1, len(settings))] {
				e.handshake(own.config, s)
			}
		}
	}
}

func (e *examiner) upgrade(kind string, at tree.Node, where string, remove func()) {
	switch strings.ToLower(kind) {
	case "websocket":
	case "connect", "connect-udp":
		e.findings.Found("connect-tunnel", at, "%s allows %s: one decision opens a tunnel", where, kind).Fix = remove
	default:
		e.findings.Found("upgrade-not-websocket", at, "%s allows the upgrade %q: what the client sends after it is not decided", where, kind).Fix = remove
	}
}

// missing looks at a chain that does not ask.
func (e *examiner) missing(c chain) {
	if asks(c.filters) || !e.forwards(c) || e.count == 0 && !e.mentioned {
		return
	}
	place, what := c.at, "listener "+quoted(c.name)
	if c.list.Exists() {
		place = c.list
	}
	if c.upgrade != "" {
		what += ", upgrade " + quoted(c.upgrade)
	}
	finding := e.findings.Found("listener-without-ext-authz", place, "%s reaches applications without ext_authz", what)
	if model := e.model; model.Exists() && c.list.Exists() {
		router := tree.Node{}
		for _, f := range c.filters {
			if f.kind == "envoy.extensions.filters.http.router.v3.Router" {
				router = f.at
			}
		}
		finding.Fix = func() { c.list.Insert(router, model) }
	}
}

func quoted(name string) string {
	if name == "" {
		return "without a name"
	}
	return `"` + name + `"`
}
