// Package envoygateway is what makes the objects of Envoy Gateway and the Gateway API decide less than they look: routes that no SecurityPolicy is for, and
// defaults that are not Gatehouse's. It reads objects as Kubernetes has them, without their types. Of ours it imports the tree that places
// come from, the table of findings, and what looks at the Envoy configuration within an EnvoyPatchPolicy.
package envoygateway

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
	e := examiner{gatehouse: g, objects: map[string][]tree.Node{}}
	for _, o := range objects {
		group, _, _ := strings.Cut(o.Get("apiVersion").Text(), "/")
		kind := o.Get("kind").Text()
		if slices.Contains([]string{"gateway.networking.k8s.io", "gateway.envoyproxy.io"}, group) || kind == "Service" {
			e.objects[kind] = append(e.objects[kind], o)
		}
	}
	asking := 0
	for _, p := range e.objects["SecurityPolicy"] {
		if p.Get("spec", "extAuth").Exists() {
			asking++
			e.extAuth(p)
		}
		e.targets(p)
	}
	e.conflicts()
	var patches []tree.Node
	for _, p := range e.objects["EnvoyPatchPolicy"] {
		for _, patch := range p.Get("spec", "jsonPatches").Items() {
			operation := patch.Get("operation")
			if value := operation.Get("value"); value.IsMap() {
				patches = append(patches, value)
			}
			e.removes(p, operation)
		}
	}
	result, err := envoyconf.ExaminePatches(patches, g)
	if err != nil {
		return nil, 0, err
	}
	e.findings = append(e.findings, result.Findings...)
	if asking > 0 {
		e.asked()
	}
	return e.findings, asking + result.Filters, nil
}

// examiner goes through the objects of a cluster.
type examiner struct {
	gatehouse rules.Gatehouse
	findings  rules.Findings
	objects   map[string][]tree.Node // by kind
}

// asked is what matters where Gatehouse is asked at all.
func (e *examiner) asked() {
	for _, kind := range []string{"HTTPRoute", "GRPCRoute"} {
		for _, r := range e.objects[kind] {
			e.route(r)
		}
	}
	e.streams()
	for _, g := range e.objects["Gateway"] {
		e.listeners(g)
		e.gateway(g)
	}
	for _, p := range e.objects["EnvoyProxy"] {
		e.order(p)
	}
	for _, p := range e.objects["BackendTrafficPolicy"] {
		list := p.Get("spec", "httpUpgrade")
		for _, u := range list.Items() {
			if kind := u.Get("type").Text(); kind != "" && !strings.EqualFold(kind, "websocket") {
				id := "upgrade-not-websocket"
				if strings.EqualFold(kind, "CONNECT") {
					id = "connect-tunnel"
				}
				e.findings = append(e.findings, rules.Of(id).At(u, "%s allows the upgrade %q", tree.ObjectName(p), kind).With(func() { list.RemoveItem(u) }))
			}
		}
	}
}

// removes looks at a patch that takes filters away, of which only Envoy Gateway knows which they are.
func (e *examiner) removes(p, operation tree.Node) {
	if !slices.Contains([]string{"remove", "replace", "move"}, operation.Get("op").Text()) {
		return
	}
	for _, key := range []string{"path", "from", "jsonPath"} {
		if at := operation.Get(key); strings.Contains(at.Text(), "http_filters") || strings.Contains(at.Text(), "ext_authz") {
			e.findings.Found("patch-changes-filters", at, "%s: %s of %s may take ext_authz away", tree.ObjectName(p), operation.Get("op").Text(), at.Text())
			return
		}
	}
}

// refs are what a policy is for.
func refs(p tree.Node) []tree.Node {
	list := p.Get("spec", "targetRefs").Items()
	if one := p.Get("spec", "targetRef"); one.Exists() {
		list = append(list, one)
	}
	return list
}

// object is what a policy may be for. Of one that is not here only the name is known.
type object struct {
	at                    tree.Node
	kind, namespace, name string
}

func objectOf(o tree.Node) object {
	return object{o, o.Get("kind").Text(), tree.Namespace(o), o.Get("metadata", "name").Text()}
}

// sections are those of an object that a policy is for, by name or by labels: "" is all of them.
func sections(p tree.Node, o object) (found []string) {
	if tree.Namespace(p) != o.namespace {
		return nil
	}
	for _, ref := range refs(p) {
		if ref.Get("kind").Text() == o.kind && ref.Get("name").Text() == o.name {
			found = append(found, ref.Get("sectionName").Text())
		}
	}
	for _, s := range p.Get("spec", "targetSelectors").Items() {
		matches := o.at.Exists() && s.Get("kind").Text() == o.kind
		for _, label := range s.Get("matchLabels").Members() {
			matches = matches && o.at.Get("metadata", "labels").Get(label.Name).Text() == label.Value.Text()
		}
		if matches {
			found = append(found, "")
		}
	}
	return found
}

// decides is the SecurityPolicy that is for exactly this section of an object.
func (e *examiner) decides(o object, section string) (policy tree.Node) {
	for _, p := range e.objects["SecurityPolicy"] {
		if slices.Contains(sections(p, o), section) && (!policy.Exists() || asks(p)) {
			policy = p
		}
	}
	return policy
}

func asks(p tree.Node) bool { return p.Get("spec", "extAuth").Exists() }

// extAuth looks at a SecurityPolicy's question to Gatehouse.
func (e *examiner) extAuth(p tree.Node) {
	at := p.Get("spec", "extAuth")
	if at.Get("failOpen").True() {
		e.findings.Found("fail-open", at.Get("failOpen"), "%s: failOpen: true lets every request through while Gatehouse does not answer", tree.ObjectName(p)).Fix = func() { at.Set("failOpen", false) }
	}
	if wait, err := time.ParseDuration(at.Get("timeout").Text()); err == nil && wait <= e.gatehouse.PolicyTimeout {
		enough := fmt.Sprintf("%dms", (e.gatehouse.PolicyTimeout + 150*time.Millisecond).Milliseconds())
		e.findings.Found("timeout-below-policy", at.Get("timeout"), "%s: the timeout of %v is not above policy.timeout, which is %v", tree.ObjectName(p), wait, e.gatehouse.PolicyTimeout).
			Fix = func() { at.Set("timeout", enough) }
	}
	if status, _ := at.Get("statusOnError").Number(); status < 500 {
		e.findings.Found("status-on-error-unset", at, "%s: statusOnError is not set, so that an outage of Gatehouse is answered 403", tree.ObjectName(p)).Fix = func() { at.Set("statusOnError", 503) }
	}
	if again := at.Get("recomputeRoute"); again.True() {
		e.findings.Found("clear-route-cache", again, "%s: recomputeRoute lets the headers of the answer choose another route than the one that was decided", tree.ObjectName(p)).
			Fix = func() { at.Remove("recomputeRoute") }
	}
	e.body(p, at)
	e.extAuthHeaders(p, at)
	e.connection(p, at)
	if e.gatehouse.Metadata && p.Get("spec", "jwt").Exists() {
		e.findings.Found("jwt-metadata-forgeable", p.Get("spec", "jwt"), "%s: Envoy Gateway runs jwt after extAuth, and what it verified is trusted", tree.ObjectName(p))
	}
}

// body looks at the body in a question. Envoy Gateway has no field for packAsBytes, and none for a body that is sent cut.
func (e *examiner) body(p, at tree.Node) {
	body := at.Get("bodyToExtAuth")
	if !body.Exists() {
		return
	}
	if at.Get("grpc").Exists() {
		e.findings.Found("body-as-text", body, "%s: Envoy Gateway sends the body as text; every byte that is not UTF-8 becomes an exclamation mark", tree.ObjectName(p)).
			Fix = func() { at.Remove("bodyToExtAuth") }
	}
	if size, ok := body.Get("maxRequestBytes").Number(); ok && int(size) > e.gatehouse.Message-(64<<10) {
		e.findings.Found("body-without-limit", body, "%s: maxRequestBytes is no limit: Gatehouse denies what is above limits.message, %d", tree.ObjectName(p), e.gatehouse.Message).
			Fix = func() { body.Set("maxRequestBytes", 65536) }
	} else if ok {
		e.findings.Found("body-limit-rejects", body, "%s: a body longer than maxRequestBytes is answered 413, uploads that no policy reads as well", tree.ObjectName(p)).
			Fix = func() { at.Remove("bodyToExtAuth") }
	}
}

// connection looks at the way to Gatehouse.
func (e *examiner) connection(p, at tree.Node) {
	service := at.Get("grpc")
	if !service.Exists() {
		service = at.Get("http")
	}
	if most, ok := service.Get("backendSettings", "circuitBreaker", "maxParallelRequests").Number(); !ok || most <= 1024 {
		e.findings.Found("circuit-breakers-default", service, "%s: Envoy refuses more than 1024 questions at a time", tree.ObjectName(p)).Fix = func() {
			breaker := service.Make("backendSettings", []tree.Pair{}).Make("circuitBreaker", []tree.Pair{})
			breaker.Set("maxParallelRequests", 10000)
			breaker.Set("maxPendingRequests", 10000)
		}
	}
	e.plainText(p, service)
	if at.Get("grpc").Exists() && !service.Get("backendSettings", "http2", "connectionKeepalive", "interval").Exists() && !e.onSocket(p, service) {
		e.findings.Found("grpc-without-keepalive", service, "%s: the connection to Gatehouse has no connectionKeepalive", tree.ObjectName(p)).Fix = func() {
			service.Make("backendSettings", []tree.Pair{}).Make("http2", []tree.Pair{}).
				Set("connectionKeepalive", []tree.Pair{{Name: "interval", Value: "10s"}, {Name: "timeout", Value: "2s"}})
		}
	}
}

// plainText looks whether what a service stands for is on another machine, and asked without TLS.
func (e *examiner) plainText(p, service tree.Node) {
	for _, ref := range service.Get("backendRefs").Items() {
		kind, home := or(ref.Get("kind").Text(), "Service"), or(ref.Get("namespace").Text(), tree.Namespace(p))
		for _, b := range e.objects[kind] {
			if tree.Namespace(b) != home || b.Get("metadata", "name").Text() != ref.Get("name").Text() || b.Get("spec", "tls").Exists() {
				continue
			}
			ours := kind == "Backend" && !slices.ContainsFunc(b.Get("spec", "endpoints").Items(), func(end tree.Node) bool {
				return !end.Get("unix").Exists() && !strings.HasPrefix(end.Get("ip", "address").Text(), "127.")
			})
			encrypted := slices.ContainsFunc(e.objects["BackendTLSPolicy"], func(policy tree.Node) bool { return len(sections(policy, objectOf(b))) > 0 })
			if !ours && !encrypted {
				e.findings.Found("plain-text-across-machines", ref, "%s asks %s without TLS: credentials go there as plain text", tree.ObjectName(p), tree.ObjectName(b))
			}
		}
	}
}

// onSocket says whether all that a service stands for is unix sockets of the proxy's own machine.
func (e *examiner) onSocket(p, service tree.Node) bool {
	list := service.Get("backendRefs").Items()
	return len(list) > 0 && !slices.ContainsFunc(list, func(ref tree.Node) bool {
		return ref.Get("kind").Text() != "Backend" || !slices.ContainsFunc(e.objects["Backend"], func(b tree.Node) bool {
			ends := b.Get("spec", "endpoints").Items()
			return b.Get("metadata", "name").Text() == ref.Get("name").Text() && tree.Namespace(b) == or(ref.Get("namespace").Text(), tree.Namespace(p)) &&
				len(ends) > 0 && !slices.ContainsFunc(ends, func(end tree.Node) bool { return !end.Get("unix").Exists() })
		})
	})
}

// extAuthHeaders is about headers to Gatehouse and from it.
func (e *examiner) extAuthHeaders(p, at tree.Node) {
	missing := func(list tree.Node, wanted []string) (left []string) {
		for _, header := range wanted {
			if !slices.ContainsFunc(list.Texts(), func(have string) bool { return strings.EqualFold(have, header) }) {
				left = append(left, header)
			}
		}
		return left
	}
	add := func(to tree.Node, list string, names []string) func() {
		return func() {
			for _, n := range names {
				to.Make(list, []any{}).Insert(tree.Node{}, n)
			}
		}
	}
	http := at.Get("http")
	if hidden := missing(at.Get("headersToExtAuth"), e.gatehouse.Credentials); len(hidden) > 0 && (at.Get("headersToExtAuth").Exists() || http.Exists()) {
		hidden = slices.DeleteFunc(hidden, func(h string) bool { return http.Exists() && h == "authorization" })
		if len(hidden) > 0 {
			e.findings.Found("credentials-hidden", at, "%s: Gatehouse does not get %s", tree.ObjectName(p), strings.Join(hidden, ", ")).Fix = add(at, "headersToExtAuth", hidden)
		}
	}
	if http.Exists() {
		if lost := missing(http.Get("headersToBackend"), e.gatehouse.IdentityHeaders); len(lost) > 0 {
			e.findings.Found("gateway-http-headers", http, "%s: headersToBackend does not take over %s", tree.ObjectName(p), strings.Join(lost, ", ")).Fix = add(http, "headersToBackend", lost)
		}
	}
}

// conflicts looks for targets that two policies are for, of which Envoy Gateway takes the older one alone. When they were made is known of a cluster's
// own objects only, so that any two of which one does not ask are found.
func (e *examiner) conflicts() {
	policies := e.objects["SecurityPolicy"]
	for i, p := range policies {
		for _, q := range policies[:i] {
			if asks(p) == asks(q) || tree.Namespace(p) != tree.Namespace(q) {
				continue
			}
			for _, one := range refs(p) {
				for _, other := range refs(q) {
					if one.Get("kind").Text() == other.Get("kind").Text() && one.Get("name").Text() == other.Get("name").Text() && one.Get("sectionName").Text() == other.Get("sectionName").Text() {
						e.findings.Found("policies-conflict", one, "%s and %s are for the same %s %s, and one of them has no extAuth", tree.ObjectName(p), tree.ObjectName(q), one.Get("kind").Text(), one.Get("name").Text())
					}
				}
			}
		}
	}
}

// targets looks whether what a policy is for exists, where objects of its kind are here at all.
func (e *examiner) targets(p tree.Node) {
	for _, ref := range refs(p) {
		kind := ref.Get("kind").Text()
		if known := e.objects[kind]; len(known) > 0 && !slices.ContainsFunc(known, func(o tree.Node) bool {
			return tree.Namespace(o) == tree.Namespace(p) && o.Get("metadata", "name").Text() == ref.Get("name").Text()
		}) {
			e.findings.Found("target-not-found", ref, "%s is for %s %s/%s, which is not here", tree.ObjectName(p), kind, tree.Namespace(p), ref.Get("name").Text())
		}
	}
}

// route looks who decides about a route, and what it does to the headers that Gatehouse sets.
func (e *examiner) route(r tree.Node) {
	rules := r.Get("spec", "rules").Items()
	names := []string{""}
	if len(rules) > 0 {
		names = nil
	}
	for _, rule := range rules {
		names = append(names, rule.Get("name").Text())
	}
	parents := slices.DeleteFunc(r.Get("spec", "parentRefs").Items(), func(p tree.Node) bool { return p.Get("kind").Text() == "Service" }) // of a mesh
	if len(parents) == 0 {
		parents = []tree.Node{{}}
	}
	for _, section := range names {
		own := e.decides(objectOf(r), "")
		all := own
		if section != "" {
			if p := e.decides(objectOf(r), section); p.Exists() {
				own = p
			}
		}
		for _, parent := range parents {
			e.undecided(r, parent, own, all)
		}
	}
	for _, rule := range rules {
		lists := []tree.Node{rule.Get("filters")}
		for _, b := range rule.Get("backendRefs").Items() {
			lists = append(lists, b.Get("filters"))
		}
		for _, filters := range lists {
			for _, f := range filters.Items() {
				e.headers(r, f.Get("requestHeaderModifier"))
			}
		}
	}
}

// undecided looks at a route by one of its parents, and at the policy that counts there: that of one rule, or of all of them.
func (e *examiner) undecided(r, parent, own, all tree.Node) {
	asked, overridden := e.parentAsks(r, parent)
	switch {
	case asks(own), asked && (!own.Exists() || own.Get("spec", "mergeType").Exists()):
	case own.Exists() && (asked || asks(all)):
		e.findings.Found("policy-overrides-ext-auth", own, "%s has no extAuth, and replaces the policy that asks for %s", tree.ObjectName(own), tree.ObjectName(r)).
			Fix = func() {
			if asked {
				own.Get("spec").Set("mergeType", "StrategicMerge")
			}
		}
	case overridden && !own.Exists(): // found at the policy of the listener
	case len(e.objects["Gateway"]) > 0 || own.Exists():
		what := "its Gateway"
		if parent.Exists() {
			what = fmt.Sprintf("its %s %s", or(parent.Get("kind").Text(), "Gateway"), parent.Get("name").Text())
		}
		e.findings.Found("route-without-ext-auth", r, "no SecurityPolicy with extAuth is for %s or %s", tree.ObjectName(r), what)
	}
}

// parentAsks says whether all listeners that a route's reference is to have a policy that asks, and else whether a policy of one of them
// has replaced the Gateway's, which does.
func (e *examiner) parentAsks(r, parent tree.Node) (asked, overridden bool) {
	if !parent.Exists() {
		return false, false
	}
	g := object{kind: or(parent.Get("kind").Text(), "Gateway"), namespace: or(parent.Get("namespace").Text(), tree.Namespace(r)), name: parent.Get("name").Text()}
	for _, have := range e.objects[g.kind] {
		if tree.Namespace(have) == g.namespace && have.Get("metadata", "name").Text() == g.name {
			g.at = have
		}
	}
	listeners := []string{parent.Get("sectionName").Text()}
	if listeners[0] == "" {
		listeners = nil
		for _, l := range g.at.Get("spec", "listeners").Items() {
			port := parent.Get("port").Text()
			if p := l.Get("protocol").Text(); p != "TCP" && p != "UDP" && p != "TLS" && (port == "" || port == l.Get("port").Text()) {
				listeners = append(listeners, l.Get("name").Text())
			}
		}
	}
	whole := e.decides(g, "")
	if len(listeners) == 0 {
		return asks(whole), false
	}
	asked = true
	for _, l := range listeners {
		p := whole
		if l != "" {
			if own := e.decides(g, l); own.Exists() {
				p = own
			}
		}
		if !asks(p) {
			asked, overridden = false, overridden || asks(whole)
		}
	}
	return asked, overridden
}

// listeners looks for policies of one listener that replace the Gateway's.
func (e *examiner) listeners(g tree.Node) {
	o := objectOf(g)
	if !asks(e.decides(o, "")) {
		return
	}
	for _, l := range g.Get("spec", "listeners").Items() {
		if section := l.Get("name").Text(); section != "" {
			if p := e.decides(o, section); p.Exists() && !asks(p) {
				e.findings.Found("policy-overrides-ext-auth", p, "%s has no extAuth, and replaces the policy that asks for listener %q of %s", tree.ObjectName(p), section, tree.ObjectName(g))
			}
		}
	}
}

// streams looks for routes that hand bytes on to what another route reaches with a decision.
func (e *examiner) streams() {
	decided := map[string]bool{}
	for _, kind := range []string{"HTTPRoute", "GRPCRoute"} {
		for _, r := range e.objects[kind] {
			backends(r, func(_ tree.Node, to string) { decided[to] = true })
		}
	}
	for _, kind := range []string{"TCPRoute", "TLSRoute"} {
		for _, r := range e.objects[kind] {
			backends(r, func(at tree.Node, to string) {
				if decided[to] {
					e.findings.Found("stream-route-to-app", at, "%s hands bytes on to %s, which requests reach by a decision elsewhere", tree.ObjectName(r), to)
				}
			})
		}
	}
}

// backends are what a route leads to, whatever the port: one application may have several.
func backends(r tree.Node, yield func(at tree.Node, to string)) {
	for _, rule := range r.Get("spec", "rules").Items() {
		for _, b := range rule.Get("backendRefs").Items() {
			yield(b, fmt.Sprintf("%s %s/%s", or(b.Get("kind").Text(), "Service"), or(b.Get("namespace").Text(), tree.Namespace(r)), b.Get("name").Text()))
		}
	}
}

// headers looks at a filter that runs after ext_authz.
func (e *examiner) headers(r, modifier tree.Node) {
	removed := modifier.Get("remove")
	for _, item := range removed.Items() {
		if slices.Contains(e.gatehouse.IdentityHeaders, strings.ToLower(item.Text())) {
			e.findings.Found("identity-headers-removed", item, "%s removes %s after Gatehouse has set it", tree.ObjectName(r), item.Text()).Fix = func() { removed.RemoveItem(item) }
		}
	}
	for _, how := range []string{"set", "add"} {
		list := modifier.Get(how)
		for _, item := range list.Items() {
			if header := item.Get("name").Text(); slices.Contains(e.gatehouse.IdentityHeaders, strings.ToLower(header)) {
				e.findings.Found("identity-headers-overwritten", item, "%s sets %s after Gatehouse has", tree.ObjectName(r), header).Fix = func() { list.RemoveItem(item) }
			}
		}
	}
}

// gateway looks at what a Gateway does to requests before Gatehouse is asked. Most is by default.
func (e *examiner) gateway(g tree.Node) {
	policy := tree.Node{}
	for _, p := range e.objects["ClientTrafficPolicy"] {
		if len(sections(p, objectOf(g))) > 0 {
			policy = p
		}
	}
	place := g
	if policy.Exists() {
		place = policy.Get("spec")
	}
	mend := func(change func(spec tree.Node)) func() {
		if !policy.Exists() {
			return nil
		}
		return func() { change(policy.Get("spec")) }
	}
	path := policy.Get("spec", "path")
	if !path.Get("disableMergeSlashes").True() {
		e.findings.Found("gateway-merges-slashes", place, "%s merges slashes", tree.ObjectName(g)).Fix = mend(func(s tree.Node) { s.Make("path", []tree.Pair{}).Set("disableMergeSlashes", true) })
	}
	if action := path.Get("escapedSlashesAction").Text(); action == "" || strings.HasPrefix(action, "Unescape") {
		e.findings.Found("gateway-escaped-slashes", place, "%s: escapedSlashesAction is %s", tree.ObjectName(g), or(action, "UnescapeAndRedirect")).
			Fix = mend(func(s tree.Node) { s.Make("path", []tree.Pair{}).Set("escapedSlashesAction", "RejectRequest") })
	}
	headers := policy.Get("spec", "headers")
	if headers.Get("withUnderscoresAction").Text() == "Allow" {
		e.findings.Found("gateway-underscores", headers.Get("withUnderscoresAction"), "%s lets headers with underscores through", tree.ObjectName(policy)).Fix = func() { headers.Remove("withUnderscoresAction") }
	}
	var kept []string
	for _, header := range e.gatehouse.IdentityHeaders {
		if !slices.ContainsFunc(headers.Get("earlyRequestHeaders", "remove").Texts(), func(have string) bool { return strings.EqualFold(have, header) }) {
			kept = append(kept, header)
		}
	}
	if len(kept) > 0 {
		e.findings.Found("gateway-identity-headers", place, "%s does not remove %s of clients first", tree.ObjectName(g), strings.Join(kept, ", ")).Fix = mend(func(s tree.Node) {
			list := s.Make("headers", []tree.Pair{}).Make("earlyRequestHeaders", []tree.Pair{}).Make("remove", []any{})
			for _, header := range kept {
				list.Insert(tree.Node{}, header)
			}
		})
	}
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// order looks at filters that an EnvoyProxy puts in front of ext_authz.
func (e *examiner) order(p tree.Node) {
	const ours = "envoy.filters.http.ext_authz"
	answers := []string{"envoy.filters.http.lua", "envoy.filters.http.wasm", "envoy.filters.http.ext_proc", "envoy.filters.http.dynamic_modules", "envoy.filters.http.custom_response"}
	list := p.Get("spec", "filterOrder")
	for _, entry := range list.Items() {
		first, second := entry.Get("name").Text(), entry.Get("before").Text()
		if after := entry.Get("after").Text(); after != "" {
			first, second = after, first
		}
		if second == ours && slices.Contains(answers, first) {
			e.findings.Found("filter-order", entry, "%s runs %s in front of ext_authz", tree.ObjectName(p), first).Fix = func() { list.RemoveItem(entry) }
		}
	}
}
