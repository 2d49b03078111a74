package envoyconf

import (
	"net"
	"slices"
	"strings"

	"gatehouse/doctor/tree"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
)

// anyCluster stands for a cluster that is known only when a client connects.
const anyCluster = ""

// tcpClusters are those that a TCP proxy leads to: its own, and those that a filter in front of it chooses in their place.
func (e *examiner) tcpClusters(chain part[*listenerv3.FilterChain], p *tcpv3.TcpProxy) []string {
	names := []string{p.GetCluster()}
	if c, ok := e.cluster(p.GetCluster()); ok && chosenBy(c) != "" { // by the server name of TLS
		names = append(names, anyCluster)
	}
	if w := p.GetWeightedClusters(); w != nil {
		names = nil
		for _, c := range w.GetClusters() {
			names = append(names, c.GetName())
		}
	}
	for _, f := range chain.at.Get("filters").Items() {
		kind, config, _ := typed(f.Get("typed_config"))
		switch kind {
		case "envoy.extensions.filters.network.sni_cluster.v3.SniCluster": // the client names it
			names = append(names, anyCluster)
		case "envoy.extensions.filters.network.set_filter_state.v3.Config":
			for _, list := range []string{"on_new_connection", "on_downstream_tls_handshake"} {
				for _, value := range config.Get(list).Items() {
					if value.Get("object_key").Text() == "envoy.tcp_proxy.cluster" || value.Get("factory_key").Text() == "envoy.tcp_proxy.cluster" {
						names = append(names, literal(value.Get("format_string")))
					}
				}
			}
		}
	}
	return names
}

// clustersNamed are those that a filter names which is no HTTP connection manager and no TCP proxy, such as one of another protocol that carries HTTP as well.
func clustersNamed(n tree.Node) (names []string) {
	for _, item := range n.Items() {
		names = append(names, clustersNamed(item)...)
	}
	for _, m := range n.Members() {
		if name := m.Value.Text(); name != "" && slices.Contains([]string{"cluster", "cluster_name"}, snake(m.Name)) {
			names = append(names, name)
		}
		names = append(names, clustersNamed(m.Value)...)
	}
	return names
}

// literal is a format that says the same for every connection, else anyCluster.
func literal(format tree.Node) string {
	text := formatText(format)
	if strings.Contains(text, "%") {
		return anyCluster
	}
	return text
}

func formatText(format tree.Node) string {
	if text := format.Get("text_format_source", "inline_string").Text(); text != "" {
		return text
	}
	return format.Get("text_format").Text()
}

// chosenBy says how a client chooses where a cluster's requests go; "" where it does not.
func chosenBy(c part[*clusterv3.Cluster]) string {
	original := c.msg.GetOriginalDstLbConfig()
	kind, config, _ := typed(c.at.Get("cluster_type", "typed_config"))
	switch {
	case c.msg.GetType() == clusterv3.Cluster_ORIGINAL_DST && original.GetUseHttpHeader():
		if name := original.GetHttpHeaderName(); name != "" {
			return "the header " + name
		}
		return "the header x-envoy-original-dst-host"
	case strings.HasSuffix(kind, ".OriginalDstClusterConfig") && config.Get("lb_config", "use_http_header").True():
		return "a header"
	case strings.HasPrefix(kind, "envoy.extensions.clusters.dynamic_forward_proxy."):
		return "the host that it asks for"
	}
	return ""
}

// chosenIn says how a client chooses the address by what a filter in front of the router makes of its headers; "" where it does not.
func chosenIn(filters []filter, c part[*clusterv3.Cluster]) string {
	kind, config, _ := typed(c.at.Get("cluster_type", "typed_config"))
	byClusterType := strings.HasSuffix(kind, ".OriginalDstClusterConfig")
	if c.msg.GetType() != clusterv3.Cluster_ORIGINAL_DST && !byClusterType {
		return ""
	}
	namespace := c.msg.GetOriginalDstLbConfig().GetMetadataKey().GetKey()
	if byClusterType {
		namespace = config.Get("lb_config", "metadata_key", "key").Text()
	}
	for _, f := range filters {
		switch f.kind {
		case "envoy.extensions.filters.http.set_filter_state.v3.Config":
			for _, value := range f.config.Get("on_request_headers").Items() {
				if value.Get("object_key").Text() == "envoy.network.transport_socket.original_dst_address" && strings.Contains(formatText(value.Get("format_string")), "%REQ(") {
					return "a header that " + f.name + " reads"
				}
			}
		case "envoy.extensions.filters.http.header_to_metadata.v3.Config", "envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata":
			if namespace != "" && mentions(f.config, namespace) {
				return "what " + f.name + " reads from the request"
			}
		}
	}
	return ""
}

// plugin is a program that chooses the cluster of a route.
func (r routes) plugin(action tree.Node) tree.Node {
	if own := action.Get("inline_cluster_specifier_plugin"); own.Exists() {
		return own
	}
	name := action.Get("cluster_specifier_plugin").Text()
	for _, p := range r.at.Get("cluster_specifier_plugins").Items() {
		if name != "" && p.Get("extension", "name").Text() == name {
			return p
		}
	}
	return tree.Node{}
}

// chosen looks at a route that leads where the client says, so that what is decided for one application reaches another.
func (r routes) chosen(route part[*routev3.Route], where string) {
	action := route.at.Get("route")
	if header := route.msg.GetRoute().GetClusterHeader(); header != "" {
		r.findings.Found("client-chooses-upstream", action.Get("cluster_header"), "%s leads to the cluster that the header %s names", where, header)
	}
	if kind, config, _ := typed(r.plugin(action).Get("extension", "typed_config")); kind == "envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig" &&
		strings.Contains(config.Get("source_code", "inline_string").Text(), "headers()") {
		r.findings.Found("client-chooses-upstream", action, "%s leads to the cluster that a script chooses by the client's headers", where)
	}
	for _, name := range clustersOfRoute(route.msg) {
		if c, ok := r.cluster(name); ok {
			how := chosenBy(c)
			if how == "" {
				how = chosenIn(r.filters, c)
			}
			if how != "" {
				r.findings.Found("client-chooses-upstream", action, "%s leads to cluster %q, where a client chooses the address by %s", where, name, how)
			}
		}
	}
}

// upstreamFilters looks at the filters that run behind the router: those of its own, and those of a cluster that a chain leads to.
func (e *examiner) upstreamFilters(c chain) {
	for _, f := range c.filters {
		if f.kind == "envoy.extensions.filters.http.router.v3.Router" {
			e.afterRouter(f.config.Get("upstream_http_filters"), "a filter behind the router")
		}
	}
	for _, name := range e.clustersOf(c) {
		if cl, ok := e.cluster(name); ok && !e.upstream[name] {
			e.upstream[name] = true
			_, options := e.httpOptions(cl)
			e.afterRouter(options.Get("http_filters"), "a filter of cluster "+quoted(name))
		}
	}
}

func (e *examiner) afterRouter(list tree.Node, where string) {
	for _, f := range e.filtersOf(list) {
		if f.kind == "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation" {
			e.mutations(f.config.Get("mutations", "request_mutations"), where)
		}
	}
}

// googleGRPC looks at the other client for gRPC that Envoy has, which has no cluster: its address is in the filter.
func (e *examiner) googleGRPC(service tree.Node) {
	google := service.Get("google_grpc")
	if !google.Exists() {
		return
	}
	target := google.Get("target_uri").Text()
	host := target[strings.LastIndexByte(target, '/')+1:] // dns:///host:port
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ours := strings.HasPrefix(target, "unix:") || strings.HasPrefix(target, "unix-abstract:") || ofMachine(host)
	credentials := google.Get("channel_credentials")
	encrypted := credentials.Get("ssl_credentials").Exists() || credentials.Get("google_default").Exists() || google.Get("channel_credentials_plugin").Exists()
	if target != "" && !ours && !encrypted {
		e.findings.Found("plain-text-across-machines", google, "google_grpc asks %s without ssl_credentials: callers' credentials go there as plain text", target)
	}
}

// members are the clusters that one stands for.
func (e *examiner) members(name string) []string {
	c, _ := e.cluster(name)
	kind, config, _ := typed(c.at.Get("cluster_type", "typed_config"))
	if kind == "envoy.extensions.clusters.aggregate.v3.ClusterConfig" {
		return slices.DeleteFunc(config.Get("clusters").Texts(), func(member string) bool { return member == name })
	}
	return nil
}
