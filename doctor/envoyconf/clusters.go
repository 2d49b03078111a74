package envoyconf

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse/doctor/tree"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
)

const httpOptionsType = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

func (e *examiner) cluster(name string) (part[*clusterv3.Cluster], bool) {
	for _, c := range e.clusters {
		if c.msg.GetName() == name {
			return c, true
		}
	}
	return part[*clusterv3.Cluster]{}, false
}

// endpoints are the addresses of a cluster, as texts that can be compared.
func (e *examiner) endpoints(name string) []string {
	c, _ := e.cluster(name)
	var ends []string
	for _, member := range e.members(name) {
		if len(e.members(member)) == 0 { // an aggregate of aggregates is not followed
			ends = append(ends, e.endpoints(member)...)
		}
	}
	for _, locality := range e.assignment(c).GetEndpoints() {
		for _, end := range locality.GetLbEndpoints() {
			ends = append(ends, addressText(end.GetEndpoint().GetAddress()))
		}
	}
	return ends
}

// assignment is where a cluster's endpoints are: in itself, or fetched for it. It is nil where that is not known.
func (e *examiner) assignment(c part[*clusterv3.Cluster]) *endpointv3.ClusterLoadAssignment {
	if c.msg.GetType() != clusterv3.Cluster_EDS {
		return c.msg.GetLoadAssignment()
	}
	name := c.msg.GetEdsClusterConfig().GetServiceName()
	if name == "" {
		name = c.msg.GetName()
	}
	for _, a := range e.assigned {
		if a.msg.GetClusterName() == name {
			return a.msg
		}
	}
	return nil
}

// internalEnd is in front of the name of an internal listener.
const internalEnd = "internal:"

func addressText(a *corev3.Address) string {
	if pipe := a.GetPipe(); pipe != nil {
		return "unix:" + pipe.GetPath()
	}
	if internal := a.GetEnvoyInternalAddress(); internal != nil {
		return internalEnd + internal.GetServerListenerName()
	}
	s := a.GetSocketAddress()
	if s == nil {
		return ""
	}
	return net.JoinHostPort(s.GetAddress(), strconv.FormatUint(uint64(s.GetPortValue()), 10))
}

// local says whether an address is of this machine. One that is not known is.
func local(a *corev3.Address) bool {
	s := a.GetSocketAddress()
	if s == nil {
		return true
	}
	return s.GetAddress() == "localhost" || isLoopback(s.GetAddress())
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// askedClusters looks at the connections to Gatehouse.
func (e *examiner) askedClusters() {
	var names []string
	for name := range e.asked {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		ask := e.asked[name]
		c, ok := e.cluster(name)
		if !ok {
			if e.whole && !e.dynamic {
				e.findings.Found("unknown-cluster", ask.at, "there is no cluster %q", name)
			}
			continue
		}
		e.askedCluster(c, ask)
	}
}

func (e *examiner) askedCluster(c part[*clusterv3.Cluster], ask asking) {
	remote := false
	for _, locality := range e.assignment(c).GetEndpoints() {
		for _, end := range locality.GetLbEndpoints() {
			remote = remote || !local(end.GetEndpoint().GetAddress())
		}
	}
	remote = remote || c.msg.GetType() == clusterv3.Cluster_EDS && e.assignment(c) == nil
	name := c.msg.GetName()
	options, at := e.httpOptions(c)
	http2 := options.GetExplicitHttpConfig().GetHttp2ProtocolOptions()
	if http2 == nil && options.GetAutoConfig() != nil {
		http2 = options.GetAutoConfig().GetHttp2ProtocolOptions()
	}
	if http2 == nil && options == nil {
		http2 = c.msg.GetHttp2ProtocolOptions() //nolint:staticcheck // deprecated, and in use
	}
	if ask.grpc && http2 == nil && options.GetAutoConfig() == nil {
		e.findings.Found("grpc-without-http2", c.at, "cluster %q, which is asked by gRPC, has no http2_protocol_options", name).Fix = func() { setHTTP2(c.at) }
	} else if ask.grpc && remote && http2.GetConnectionKeepalive().GetInterval() == nil {
		e.findings.Found("grpc-without-keepalive", c.at, "cluster %q has no connection_keepalive", name).Fix = func() { keepalive(c.at, at) }
	}
	if breakers := c.msg.GetCircuitBreakers().GetThresholds(); !slices.ContainsFunc(breakers, func(t *clusterv3.CircuitBreakers_Thresholds) bool {
		return t.GetPriority() == corev3.RoutingPriority_DEFAULT && t.GetMaxRequests().GetValue() > 1024 && (!ask.grpc || t.GetMaxPendingRequests().GetValue() > 1024)
	}) {
		e.findings.Found("circuit-breakers-default", c.at, "cluster %q refuses more than 1024 questions at a time", name).Fix = func() {
			c.at.Set("circuit_breakers", []tree.Pair{{Name: "thresholds", Value: []any{
				[]tree.Pair{{Name: "max_requests", Value: 10000}, {Name: "max_pending_requests", Value: 10000}, {Name: "max_connections", Value: 10000}}}}})
		}
	}
	if len(c.msg.GetTransportSocketMatches()) == 0 && c.msg.GetTransportSocketMatcher() == nil {
		e.verified(c)
	}
	if socket := c.msg.GetTransportSocket(); remote && (socket == nil || strings.HasSuffix(socket.GetTypedConfig().GetTypeUrl(), "raw_buffer.v3.RawBuffer")) &&
		len(c.msg.GetTransportSocketMatches()) == 0 && c.msg.GetTransportSocketMatcher() == nil {
		e.findings.Found("plain-text-across-machines", c.at, "cluster %q is on another machine and has no transport_socket: credentials go there as plain text", name)
	}
}

// verified looks whether Envoy knows Gatehouse by its certificate. What a secret says that is fetched is not here.
func (e *examiner) verified(c part[*clusterv3.Cluster]) {
	kind, config, _ := typed(c.at.Get("transport_socket", "typed_config"))
	if kind != "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" {
		return
	}
	tls := config.Get("common_tls_context")
	for _, fetched := range []tree.Node{tls.Get("validation_context_sds_secret_config"), tls.Get("combined_validation_context", "validation_context_sds_secret_config")} {
		if fetched.Exists() {
			return
		}
	}
	if tls.Get("custom_validator_config").Exists() {
		return
	}
	by := tls.Get("validation_context")
	if combined := tls.Get("combined_validation_context", "default_validation_context"); combined.Exists() {
		by = combined
	}
	pinned := len(by.Get("verify_certificate_spki").Items())+len(by.Get("verify_certificate_hash").Items()) > 0
	public := by.Get("system_root_certs").Exists()
	for _, folder := range []string{"/etc/ssl/", "/etc/pki/", "/usr/share/ca-certificates", "/usr/lib/ssl/"} { // of everybody's authorities
		public = public || strings.HasPrefix(by.Get("trusted_ca", "filename").Text(), folder)
	}
	options, _ := e.httpOptions(c)
	named := len(by.Get("match_typed_subject_alt_names").Items())+len(by.Get("match_subject_alt_names").Items()) > 0 ||
		config.Get("auto_sni_san_validation").True() || options.GetUpstreamHttpProtocolOptions().GetAutoSanValidation()
	name := c.msg.GetName()
	switch {
	case by.Get("trust_chain_verification").Text() == "ACCEPT_UNTRUSTED":
		e.findings.Found("gatehouse-not-verified", by.Get("trust_chain_verification"), "cluster %q takes every certificate for Gatehouse's", name)
	case !pinned && !public && !by.Get("trusted_ca").Exists():
		e.findings.Found("gatehouse-not-verified", c.at.Get("transport_socket"), "cluster %q has TLS without a trusted_ca: it takes every certificate for Gatehouse's", name)
	case public && !pinned && !named:
		e.findings.Found("gatehouse-not-verified", by, "cluster %q takes every certificate of a public authority for Gatehouse's: there is no match_typed_subject_alt_names", name)
	}
}

func (e *examiner) httpOptions(c part[*clusterv3.Cluster]) (*httpv3.HttpProtocolOptions, tree.Node) {
	options, ok := as(c.msg.GetTypedExtensionProtocolOptions()[httpOptionsType], &httpv3.HttpProtocolOptions{})
	if !ok {
		return nil, tree.Node{}
	}
	return options, c.at.Get("typed_extension_protocol_options", httpOptionsType)
}

func setHTTP2(at tree.Node) {
	options := at.Make("typed_extension_protocol_options", []tree.Pair{}).Make(httpOptionsType, []tree.Pair{})
	options.Set("@type", typePrefix+httpOptionsType)
	explicit := options.Make("explicit_http_config", []tree.Pair{})
	explicit.Remove("http_protocol_options")
	explicit.Make("http2_protocol_options", []tree.Pair{})
}

func keepalive(at, options tree.Node) {
	http2 := options.Get("explicit_http_config", "http2_protocol_options")
	if !http2.Exists() {
		http2 = options.Get("auto_config", "http2_protocol_options")
	}
	if !http2.Exists() {
		http2 = at.Get("http2_protocol_options")
	}
	if http2.Exists() {
		http2.Set("connection_keepalive", []tree.Pair{{Name: "interval", Value: "10s"}, {Name: "timeout", Value: "2s"}})
	}
}

// admin looks who reaches the admin port: others by its address, and clients by a route.
func (e *examiner) admin() {
	for _, a := range e.admins {
		address := a.msg.GetAddress()
		if address.GetSocketAddress() == nil {
			continue
		}
		if !local(address) {
			socket := a.at.Get("address", "socket_address")
			e.findings.Found("admin-reachable", socket.Get("address"), "admin listens on %s", addressText(address)).Fix = func() { socket.Set("address", "127.0.0.1") }
		}
		for _, c := range e.clusters {
			if ofProxy(c.msg.GetName()) {
				continue
			}
			for _, end := range e.endpoints(c.msg.GetName()) {
				port := fmt.Sprintf(":%d", address.GetSocketAddress().GetPortValue())
				if host, found := strings.CutSuffix(end, port); found && port != ":0" && (ofMachine(strings.Trim(host, "[]")) || sameEnd(end, addressText(address))) {
					e.findings.Found("admin-reachable", c.at, "cluster %q is the admin port: whatever is routed to it reaches it", c.msg.GetName())
				}
			}
		}
	}
}
