// Package istio is what makes Istio's objects decide less than they look: a CUSTOM policy whose provider is not there, a Sidecar that hides Gatehouse,
// ports that go around the proxy. It reads objects as Kubernetes has them, without Istio's types. Of ours it imports the tree that places come from,
// the table of findings, and what looks at the Envoy configuration within an EnvoyFilter.
package istio

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse/doctor/envoyconf"
	"gatehouse/doctor/rules"
	"gatehouse/doctor/tree"
)

// Examine looks at objects that belong to one cluster, and says how many of them make a proxy ask.
func Examine(objects []tree.Node, g rules.Gatehouse) ([]rules.Finding, int, error) {
	e := examiner{gatehouse: g}
	if err := e.read(objects); err != nil {
		return nil, 0, err
	}
	if len(e.policies)+len(e.filters) == 0 && len(e.meshes) == 0 {
		return nil, 0, nil
	}
	for _, m := range e.meshes {
		e.mesh(m)
	}
	for _, p := range e.policies {
		e.policy(p)
	}
	e.several()
	if len(e.policies) > 0 {
		for _, s := range e.sidecars {
			e.sidecar(s)
		}
		for _, p := range e.peers {
			e.peer(p)
		}
		for _, w := range e.workloads {
			e.workload(w)
		}
	}
	asking := len(e.policies)
	for _, f := range e.filters {
		var patches []tree.Node
		for _, patch := range f.Get("spec", "configPatches").Items() {
			if value := patch.Get("patch", "value"); value.IsMap() {
				patches = append(patches, value)
			}
			e.removes(f, patch)
		}
		result, err := envoyconf.ExaminePatches(patches, g)
		if err != nil {
			return nil, 0, err
		}
		asking += result.Filters
		e.findings = append(e.findings, result.Findings...)
	}
	return e.findings, asking, nil
}

// IsMesh says whether a value is a mesh's configuration by itself, and not within an object of Kubernetes.
func IsMesh(n tree.Node) bool {
	return n.Get("kind").Text() == "" && slices.ContainsFunc([]string{"extensionProviders", "pathNormalization", "defaultProviders", "defaultConfig", "enableAutoMtls"},
		func(key string) bool { return n.Get(key).Exists() })
}

// examiner goes through the objects of a cluster.
type examiner struct {
	gatehouse                                             rules.Gatehouse
	findings                                              rules.Findings
	meshes, policies, filters, sidecars, peers, workloads []tree.Node
	services                                              []service
}

// service is a name under which something is reached.
type service struct {
	namespace, host string
	ports           []string
}

// read sorts the objects by what they are.
func (e *examiner) read(objects []tree.Node) error {
	for _, o := range objects {
		group, _, _ := strings.Cut(o.Get("apiVersion").Text(), "/")
		switch kind := o.Get("kind").Text(); {
		case kind == "" || kind == "MeshConfig":
			e.meshes = append(e.meshes, o)
		case kind == "ConfigMap" && o.Get("data", "mesh").Exists():
			mesh, err := o.Get("data", "mesh").Parse()
			if err != nil {
				return fmt.Errorf("the mesh configuration: %w", err)
			}
			e.meshes = append(e.meshes, mesh.Documents()...)
		case kind == "IstioOperator" || kind == "Istio":
			for _, m := range []tree.Node{o.Get("spec", "meshConfig"), o.Get("spec", "values", "meshConfig")} {
				if m.Exists() {
					e.meshes = append(e.meshes, m)
				}
			}
		case kind == "AuthorizationPolicy" && group == "security.istio.io":
			if o.Get("spec", "action").Text() == "CUSTOM" {
				e.policies = append(e.policies, o)
			}
		case kind == "EnvoyFilter":
			e.filters = append(e.filters, o)
		case kind == "Sidecar":
			e.sidecars = append(e.sidecars, o)
		case kind == "PeerAuthentication":
			e.peers = append(e.peers, o)
		case kind == "Service":
			s := service{namespace: tree.Namespace(o), host: o.Get("metadata", "name").Text() + "." + tree.Namespace(o) + ".svc.cluster.local"}
			for _, p := range o.Get("spec", "ports").Items() {
				s.ports = append(s.ports, p.Get("port").Text())
			}
			e.services = append(e.services, s)
		case kind == "ServiceEntry":
			for _, host := range o.Get("spec", "hosts").Texts() {
				s := service{namespace: tree.Namespace(o), host: host}
				for _, p := range o.Get("spec", "ports").Items() {
					s.ports = append(s.ports, p.Get("number").Text())
				}
				e.services = append(e.services, s)
			}
		case slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod", "Job"}, kind):
			e.workloads = append(e.workloads, o)
		}
	}
	return nil
}

// provider is an extension provider of the mesh.
type provider struct {
	at   tree.Node // envoyExtAuthzGrpc or envoyExtAuthzHttp
	name string
	grpc bool
}

func (e *examiner) providers() (list []provider) {
	for _, m := range e.meshes {
		for _, p := range m.Get("extensionProviders").Items() {
			if at := p.Get("envoyExtAuthzGrpc"); at.Exists() {
				list = append(list, provider{at, p.Get("name").Text(), true})
			} else if at := p.Get("envoyExtAuthzHttp"); at.Exists() {
				list = append(list, provider{at, p.Get("name").Text(), false})
			}
		}
	}
	return list
}

// mesh looks at what holds for all workloads.
func (e *examiner) mesh(m tree.Node) {
	for _, p := range e.providers() {
		if p.at.File() == m.File() && slices.ContainsFunc(m.Get("extensionProviders").Items(), func(item tree.Node) bool { return item.Get("name").Text() == p.name }) {
			e.provider(p)
		}
	}
	switch way := m.Get("pathNormalization", "normalization"); way.Text() {
	case "NONE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES":
		if len(e.policies) > 0 {
			e.findings.Found("path-normalization-mesh", way, "pathNormalization is %s", way.Text()).Fix = func() { m.Get("pathNormalization").Set("normalization", "BASE") }
		}
	}
}

// provider looks at the settings with which Istio makes an ext_authz filter.
func (e *examiner) provider(p provider) {
	at := p.at
	if at.Get("failOpen").True() {
		e.findings.Found("failure-mode-allow", at.Get("failOpen"), "provider %q: failOpen: true lets every request through while Gatehouse does not answer", p.name).
			Fix = func() { at.Set("failOpen", false) }
	}
	if code := at.Get("statusOnError").Text(); !strings.HasPrefix(code, "5") {
		e.findings.Found("status-on-error-unset", at, "provider %q: statusOnError is not set, so that an outage of Gatehouse is answered 403", p.name).Fix = func() { at.Set("statusOnError", "503") }
	}
	if wait, err := time.ParseDuration(at.Get("timeout").Text()); err == nil && wait <= e.gatehouse.PolicyTimeout {
		enough := (e.gatehouse.PolicyTimeout + 150*time.Millisecond).String()
		e.findings.Found("timeout-below-policy", at.Get("timeout"), "provider %q: the timeout of %v is not above policy.timeout, which is %v", p.name, wait, e.gatehouse.PolicyTimeout).
			Fix = func() { at.Set("timeout", enough) }
	}
	if body := at.Get("includeRequestBodyInCheck"); body.Exists() {
		if p.grpc && !body.Get("packAsBytes").True() {
			e.findings.Found("body-as-text", body, "provider %q sends the body as text", p.name).Fix = func() { body.Set("packAsBytes", true) }
		}
		if size, ok := body.Get("maxRequestBytes").Number(); !ok || size == 0 || int(size) > e.gatehouse.Message-(64<<10) {
			e.findings.Found("body-without-limit", body, "provider %q: maxRequestBytes is no limit: Gatehouse denies what is above limits.message, %d", p.name, e.gatehouse.Message).
				Fix = func() { body.Set("maxRequestBytes", 65536) }
		} else if !body.Get("allowPartialMessage").True() {
			e.findings.Found("body-limit-rejects", body, "provider %q: a body longer than maxRequestBytes is answered 413", p.name).Fix = func() { body.Set("allowPartialMessage", true) }
		}
	}
	if !p.grpc {
		var missing []string
		for _, header := range e.gatehouse.IdentityHeaders {
			if !slices.ContainsFunc(at.Get("headersToUpstreamOnAllow").Texts(), func(have string) bool { return takes(have, header) }) {
				missing = append(missing, header)
			}
		}
		if len(missing) > 0 {
			e.findings.Found("provider-http-headers", at, "provider %q: headersToUpstreamOnAllow does not take over %s", p.name, strings.Join(missing, ", ")).Fix = func() {
				list := at.Make("headersToUpstreamOnAllow", []any{})
				for _, header := range missing {
					list.Insert(tree.Node{}, header)
				}
			}
		}
		var hidden []string
		for _, header := range e.gatehouse.Credentials {
			if header != "authorization" && !slices.ContainsFunc(at.Get("includeRequestHeadersInCheck").Texts(), func(have string) bool { return takes(have, header) }) {
				hidden = append(hidden, header)
			}
		}
		if len(hidden) > 0 {
			e.findings.Found("credentials-hidden", at, "provider %q: Gatehouse does not get %s", p.name, strings.Join(hidden, ", ")).Fix = func() {
				list := at.Make("includeRequestHeadersInCheck", []any{})
				for _, header := range hidden {
					list.Insert(tree.Node{}, header)
				}
			}
		}
	}
	if len(e.services) > 0 {
		if s, ok := e.service(at.Get("service").Text()); !ok || len(s.ports) > 0 && at.Get("port").Exists() && !slices.Contains(s.ports, at.Get("port").Text()) {
			e.findings.Found("provider-unreachable", at, "provider %q: no Service or ServiceEntry here is %s with port %s", p.name, at.Get("service").Text(), at.Get("port").Text())
		}
	}
}

// takes says whether a name in Istio's lists, exact or with * at one end, takes a header.
func takes(pattern, header string) bool {
	pattern = strings.ToLower(pattern)
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(header, prefix)
	}
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(header, suffix)
	}
	return pattern == header
}

// service finds a provider's service: HOST, or NAMESPACE/HOST.
func (e *examiner) service(text string) (service, bool) {
	namespace, host, ok := strings.Cut(text, "/")
	if !ok {
		namespace, host = "", text
	}
	for _, s := range e.services {
		if (s.host == host || strings.HasPrefix(s.host, host+".svc") || s.host == host+".svc.cluster.local") && (namespace == "" || s.namespace == namespace) {
			return s, true
		}
	}
	return service{}, false
}

// policy looks at an AuthorizationPolicy with the action CUSTOM.
func (e *examiner) policy(p tree.Node) {
	spec := p.Get("spec")
	named := spec.Get("provider", "name")
	if len(e.meshes) > 0 && !slices.ContainsFunc(e.providers(), func(q provider) bool { return q.name == named.Text() }) {
		at := named
		if !at.Exists() {
			at = spec
		}
		finding := e.findings.Found("unknown-provider", at, "%s: the mesh has no extension provider %q", tree.ObjectName(p), named.Text())
		if list := e.providers(); len(list) == 1 {
			finding.Fix = func() { spec.Make("provider", []tree.Pair{}).Set("name", list[0].name) }
		}
	}
	list := spec.Get("rules")
	switch items := list.Items(); {
	case len(items) == 0:
		e.findings.Found("custom-policy-none", p, "%s has no rules and matches nothing", tree.ObjectName(p)).Fix = func() { spec.Set("rules", []any{[]tree.Pair{}}) }
	case !slices.ContainsFunc(items, func(rule tree.Node) bool { return len(rule.Members()) == 0 }):
		e.findings.Found("custom-policy-limited", list, "%s asks only for what its rules name", tree.ObjectName(p)).Fix = func() { spec.Set("rules", []any{[]tree.Pair{}}) }
	}
}

// removes looks at a patch that takes away the filter that asks, or the one that says for which requests it does.
func (e *examiner) removes(f, patch tree.Node) {
	operation, match := patch.Get("patch", "operation"), patch.Get("match")
	named := match.Get("listener", "filterChain", "filter", "subFilter", "name").Text()
	of := patch.Get("applyTo").Text() == "HTTP_FILTER" && match.Get("context").Text() != "SIDECAR_OUTBOUND" &&
		(named == "" || strings.Contains(named, "ext_authz") || named == "envoy.filters.http.rbac")
	value := patch.Get("patch", "value")
	another := operation.Text() == "REPLACE" && !strings.HasSuffix(value.Get("typed_config", "@type").Text()+value.Get("typedConfig", "@type").Text(), ".ext_authz.v3.ExtAuthz")
	off := operation.Text() == "MERGE" && value.Get("disabled").True()
	if of && (operation.Text() == "REMOVE" || another || off) {
		e.findings.Found("filter-removed", operation, "%s takes away %s", tree.ObjectName(f), or(named, "every HTTP filter"))
	}
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// several looks for workloads that two providers are for.
func (e *examiner) several() {
	for i, p := range e.policies {
		for _, q := range e.policies[:i] {
			a, b := p.Get("spec", "provider", "name"), q.Get("spec", "provider", "name")
			if a.Text() != b.Text() && tree.Namespace(p) == tree.Namespace(q) && overlap(p.Get("spec", "selector", "matchLabels"), q.Get("spec", "selector", "matchLabels")) {
				e.findings.Found("several-custom-providers", a, "%s asks %q, and %s, which may select the same workload, asks %q", tree.ObjectName(p), a.Text(), tree.ObjectName(q), b.Text())
			}
		}
	}
}

// overlap says whether labels may be those of one workload.
func overlap(a, b tree.Node) bool {
	for _, m := range a.Members() {
		if other := b.Get(m.Name); other.Exists() && other.Text() != m.Value.Text() {
			return false
		}
	}
	return true
}

// sidecar looks whether the proxies that it is for know where Gatehouse is.
func (e *examiner) sidecar(s tree.Node) {
	egress := s.Get("spec", "egress")
	if !egress.IsList() {
		return
	}
	var hosts []string
	for _, one := range egress.Items() {
		hosts = append(hosts, one.Get("hosts").Texts()...)
	}
	for _, p := range e.providers() {
		used := slices.ContainsFunc(e.policies, func(policy tree.Node) bool {
			return policy.Get("spec", "provider", "name").Text() == p.name && (tree.Namespace(policy) == tree.Namespace(s) || tree.Namespace(policy) == e.root())
		})
		text := p.at.Get("service").Text()
		home, host, ok := strings.Cut(text, "/")
		if !ok {
			home, host = "", text
		}
		if found, ok := e.service(text); ok {
			home, host = found.namespace, found.host
		} else if labels := strings.Split(host, "."); home == "" && len(labels) > 1 {
			home = labels[1]
		}
		if used && !slices.ContainsFunc(hosts, func(h string) bool { return covers(h, tree.Namespace(s), home, host) }) {
			list := egress.Item(0).Get("hosts")
			e.findings.Found("sidecar-hides-gatehouse", egress, "%s: its egress does not have %s/%s, which provider %q asks", tree.ObjectName(s), home, host, p.name).
				Fix = func() { list.Insert(tree.Node{}, home+"/*") }
		}
	}
}

// covers says whether an egress host, NAMESPACE/HOST, has a service in it.
func covers(egress, own, home, host string) bool {
	where, what, _ := strings.Cut(egress, "/")
	if where == "." {
		where = own
	}
	if where == "~" || where != "*" && where != home {
		return false
	}
	return what == "*" || what == host || strings.HasPrefix(what, "*.") && strings.HasSuffix(host, what[1:])
}

// peer looks whether workloads take plain text.
func (e *examiner) peer(p tree.Node) {
	for _, at := range append([]tree.Node{p.Get("spec", "mtls", "mode")}, modes(p.Get("spec", "portLevelMtls"))...) {
		if mode := at.Text(); mode == "DISABLE" || mode == "PERMISSIVE" {
			e.findings.Found("mtls-not-strict", at, "%s: mtls is %s", tree.ObjectName(p), mode)
		}
	}
}

func modes(ports tree.Node) (list []tree.Node) {
	for _, m := range ports.Members() {
		list = append(list, m.Value.Get("mode"))
	}
	return list
}

// workload looks for ways around the proxy of a workload that is to be asked about.
func (e *examiner) workload(w tree.Node) {
	template := w.Get("spec", "template")
	if w.Get("kind").Text() == "Pod" {
		template = w
	}
	labels := template.Get("metadata", "labels")
	if !slices.ContainsFunc(e.policies, func(p tree.Node) bool { return e.about(p, w, labels) }) {
		return
	}
	annotations := template.Get("metadata", "annotations")
	for _, from := range []tree.Node{annotations, labels} {
		if off := from.Get("sidecar.istio.io/inject"); off.Text() == "false" {
			e.findings.Found("injection-off", off, "%s has no sidecar, and a CUSTOM policy selects it", tree.ObjectName(w)).Fix = func() { from.Remove("sidecar.istio.io/inject") }
		}
	}
	if host := template.Get("spec", "hostNetwork"); host.True() {
		e.findings.Found("injection-off", host, "%s uses the network of its node, so that Istio gives it no sidecar, and a CUSTOM policy selects it", tree.ObjectName(w))
	}
	const interfaces = "traffic.sidecar.istio.io/excludeInterfaces"
	if out := annotations.Get(interfaces); out.Text() != "" {
		e.findings.Found("port-excluded", out, "%s: what comes in by %s goes around the sidecar", tree.ObjectName(w), out.Text()).Fix = func() { annotations.Remove(interfaces) }
	}
	const inbound = "traffic.sidecar.istio.io/excludeInboundPorts"
	out := annotations.Get(inbound)
	if ours, others := splitPorts(out.Text(), template); len(others) > 0 {
		e.findings.Found("port-excluded", out, "%s: ports %s go around the sidecar", tree.ObjectName(w), strings.Join(others, ",")).Fix = func() {
			if len(ours) == 0 {
				annotations.Remove(inbound)
				return
			}
			annotations.Set(inbound, strings.Join(ours, ","))
		}
	}
	if in := annotations.Get("traffic.sidecar.istio.io/includeInboundPorts"); in.Exists() && in.Text() != "*" {
		e.findings.Found("port-excluded", in, "%s: only ports %q go through the sidecar", tree.ObjectName(w), in.Text()).Fix = func() { annotations.Remove("traffic.sidecar.istio.io/includeInboundPorts") }
	}
}

// about says whether a policy is for the proxy beside a workload. One of the root namespace is for all others, and one with targetRefs for gateways and waypoints.
func (e *examiner) about(p, w, labels tree.Node) bool {
	if p.Get("spec", "targetRefs").Exists() || p.Get("spec", "targetRef").Exists() {
		return false
	}
	return (tree.Namespace(p) == tree.Namespace(w) || tree.Namespace(p) == e.root()) && selects(p.Get("spec", "selector", "matchLabels"), labels)
}

// root is the namespace whose policies are for the whole mesh.
func (e *examiner) root() string {
	for _, m := range e.meshes {
		if name := m.Get("rootNamespace").Text(); name != "" {
			return name
		}
	}
	return "istio-system"
}

// selects says whether a selector takes labels; an empty one takes all.
func selects(selector, labels tree.Node) bool {
	for _, m := range selector.Members() {
		if labels.Get(m.Name).Text() != m.Value.Text() {
			return false
		}
	}
	return true
}
