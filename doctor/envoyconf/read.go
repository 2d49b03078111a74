package envoyconf

import (
	"strings"

	"gatehouse/doctor/tree"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
)

// What is found in texts by the names of messages.
const (
	assignmentType = "envoy.config.endpoint.v3.ClusterLoadAssignment"

	listenerType = "envoy.config.listener.v3.Listener"
	clusterType  = "envoy.config.cluster.v3.Cluster"
	routesType   = "envoy.config.route.v3.RouteConfiguration"
	managerType  = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	extAuthzType = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
	perRouteType = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
	filterType   = "envoy.config.route.v3.FilterConfig"
)

// part is a message and where it stands.
type part[M proto.Message] struct {
	msg M
	at  tree.Node
}

// parts is all that was found.
type parts struct {
	roots     []tree.Node
	listeners []part[*listenerv3.Listener]
	clusters  []part[*clusterv3.Cluster]
	assigned  []part[*endpointv3.ClusterLoadAssignment] // endpoints that were fetched
	routes    []part[*routev3.RouteConfiguration]
	managers  []part[*hcmv3.HttpConnectionManager] // that stand alone
	admins    []part[*bootstrapv3.Admin]
	filters   []tree.Node // lists of HTTP filters that stand alone
	authz     []tree.Node // ext_authz filters that stand alone
	perRoute  []tree.Node // settings of routes that stand alone
	runtime   []tree.Node // static layers
	extension map[string]tree.Node
	whole     bool        // a bootstrap or a dump: what it names and does not have is nowhere
	dynamic   bool        // clusters or listeners are fetched
	fetched   []tree.Node // where listeners come from while Envoy runs
	static    int         // listeners of bootstraps
	err       error
}

func add[M proto.Message](p *parts, to *[]part[M], into M, at tree.Node) {
	if err := decode(at, into); err != nil {
		if p.err == nil {
			p.err = err
		}
		return
	}
	*to = append(*to, part[M]{into, at})
}

// read finds what is known in a document, be it a bootstrap, a dump, the resources of a file that Envoy watches, or a piece of any of them.
func (p *parts) read(n tree.Node, key string, within int) {
	kind, value, isAny := typed(n)
	switch {
	case n.IsList():
		if key == "http_filters" {
			p.filters = append(p.filters, n)
			return
		}
		for _, item := range n.Items() {
			p.read(item, key, within+1)
		}
		return
	case !n.IsMap():
		return
	case strings.HasPrefix(kind, "envoy.admin.v3.") || kind == "" && within == 0 && n.Get("configs").IsList():
		p.whole = true
	case kind == "envoy.config.bootstrap.v3.Bootstrap", kind == "" && within == 0 && isBootstrap(n):
		p.bootstrap(n, false)
		return
	}
	switch kind = kindOf(kind, key, isAny); kind {
	case listenerType:
		add(p, &p.listeners, &listenerv3.Listener{}, value0(value, n))
	case clusterType:
		add(p, &p.clusters, &clusterv3.Cluster{}, value0(value, n))
	case assignmentType:
		add(p, &p.assigned, &endpointv3.ClusterLoadAssignment{}, value0(value, n))
	case routesType:
		add(p, &p.routes, &routev3.RouteConfiguration{}, value0(value, n))
	case managerType:
		add(p, &p.managers, &hcmv3.HttpConnectionManager{}, value0(value, n))
	case extAuthzType:
		p.authz = append(p.authz, value0(value, n))
	case perRouteType:
		p.perRoute = append(p.perRoute, value0(value, n))
	case "envoy.config.bootstrap.v3.Admin":
		add(p, &p.admins, &bootstrapv3.Admin{}, n)
	default:
		p.inside(n, within)
	}
}

func value0(value, n tree.Node) tree.Node {
	if value.Exists() {
		return value
	}
	return n
}

// kindOf is the message that a mapping is, by its type or by the key that it stands under.
func kindOf(kind, key string, isAny bool) string {
	if isAny {
		return kind
	}
	switch key {
	case "listeners":
		return listenerType
	case "clusters":
		return clusterType
	case "route_config":
		return routesType
	case "admin":
		return "envoy.config.bootstrap.v3.Admin"
	}
	return ""
}

// inside looks into a mapping that is nothing known.
func (p *parts) inside(n tree.Node, within int) {
	for _, m := range n.Members() {
		key := snake(m.Name)
		if stale(key) {
			continue
		}
		switch key {
		case "bootstrap":
			if p.whole { // its listeners and clusters are in the dump's other parts
				p.bootstrap(m.Value, true)
				continue
			}
		case "ecds_filter":
			p.extensionConfig(m.Value)
			continue
		}
		p.read(m.Value, key, within+1)
	}
}

func (p *parts) extensionConfig(n tree.Node) {
	if p.extension == nil {
		p.extension = map[string]tree.Node{}
	}
	p.extension[n.Get("name").Text()] = n.Get("typed_config")
}

func isBootstrap(n tree.Node) bool {
	for _, name := range []string{"static_resources", "dynamic_resources", "layered_runtime", "admin"} {
		if n.Get(name).Exists() {
			return true
		}
	}
	return false
}

func (p *parts) bootstrap(n tree.Node, ofDump bool) {
	p.whole = true
	if admin := n.Get("admin"); admin.IsMap() {
		add(p, &p.admins, &bootstrapv3.Admin{}, admin)
	}
	for _, layer := range n.Get("layered_runtime", "layers").Items() {
		if static := layer.Get("static_layer"); static.IsMap() {
			p.runtime = append(p.runtime, static)
		}
	}
	if ofDump {
		return
	}
	dynamic := n.Get("dynamic_resources")
	if dynamic.Get("cds_config").Exists() || dynamic.Get("lds_config").Exists() {
		p.dynamic = true
	}
	if lds := dynamic.Get("lds_config"); lds.Exists() {
		p.fetched = append(p.fetched, lds)
	}
	before := len(p.listeners)
	p.inside(n.Get("static_resources"), 1)
	p.static += len(p.listeners) - before
}

func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// IsComplete says whether a document is all that an Envoy starts with, or what it has said about itself.
func IsComplete(doc tree.Node) bool { return isBootstrap(doc) || doc.Get("configs").IsList() }

// stale is what a dump has of configuration that is not in use.
func stale(key string) bool { return key == "draining_state" || key == "error_state" }
