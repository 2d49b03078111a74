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

// literal is a format that says the same for every connection, else anyCluster.
func literal(format tree.Node) string {
	text := format.Get("text_format_source", "inline_string").Text()
	if text == "" {
		text = format.Get("text_format").Text()
	}
	if strings.Contains(text, "%") {
		return anyCluster
	}
	return text
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

// chosen looks at a route that leads where the client says, so that what is decided for one application reaches another.
func (r routes) chosen(route part[*routev3.Route], where string) {
	action := route.at.Get("route")
	if header := route.msg.GetRoute().GetClusterHeader(); header != "" {
		r.findings.Found("client-chooses-upstream", action.Get("cluster_header"), "%s leads to the cluster that the header %s names", where, header)
	}
	for _, name := range clustersOfRoute(route.msg) {
		if c, ok := r.cluster(name); ok {
			if how := chosenBy(c); how != "" {
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
