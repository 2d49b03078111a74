// Package envoyconf is what makes an Envoy configuration decide less than it looks: who asks Gatehouse and who does not, with what, and what
// becomes of the answer. It reads bootstraps, pieces of them and dumps of a running Envoy into Envoy's own messages. Of ours it imports the tree
// that places come from, and the table of findings. Besides package extauthz it is the only importer of Envoy's protos.
package envoyconf

import (
	"slices"
	"strings"

	"gatehouse/doctor/rules"
	"gatehouse/doctor/tree"

	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	"google.golang.org/protobuf/proto"
)

// Result is what was looked at, and what was found.
type Result struct {
	Findings []rules.Finding
	Filters  int  // of ext_authz
	Complete bool // a bootstrap or a dump was among it
}

// Examine looks at documents that belong to one Envoy. An error is for what Envoy would not take either.
func Examine(docs []tree.Node, g rules.Gatehouse) (Result, error) {
	e := examiner{gatehouse: g, asked: map[string]asking{}, seen: map[any]bool{}, judged: map[any]bool{}, upstream: map[string]bool{}}
	for _, doc := range docs {
		e.roots = append(e.roots, doc)
		e.read(doc, "", 0)
		e.mentioned = e.mentioned || e.mentions(doc)
	}
	if e.err != nil {
		return Result{}, e.err
	}
	e.listenersAndManagers()
	if len(e.listeners) == e.static { // none are given beside the bootstrap
		for _, at := range e.fetched {
			e.findings.Found("routes-not-seen", at, "listeners are fetched and are not in here")
		}
	}
	for _, list := range e.filters {
		e.chain(chain{filters: e.filtersOf(list)})
	}
	for _, at := range e.authz {
		e.filter(at)
	}
	for _, at := range e.perRoute {
		e.route(routeSettings{at: at})
	}
	for _, doc := range docs {
		e.examineUnknown(doc, 0, false)
	}
	e.askedClusters()
	e.admin()
	if e.err != nil {
		return Result{}, e.err
	}
	if e.count == 0 && (len(e.perRoute) == 0 || len(e.listeners)+len(e.managers) > 0) && e.anything(docs) {
		e.findings.Found("no-ext-authz", first(docs), "no ext_authz filter: nothing in this file asks Gatehouse")
	}
	return Result{rules.Sort(e.findings), e.count, e.whole}, nil
}

// ExaminePatches looks at pieces that a control plane merges into a configuration of its own. Most of them are about something else than
// authorization, so that none of them asks is no finding.
func ExaminePatches(patches []tree.Node, g rules.Gatehouse) (Result, error) {
	r, err := Examine(patches, g)
	r.Findings = slices.DeleteFunc(r.Findings, func(f rules.Finding) bool { return f.ID == "no-ext-authz" })
	return r, err
}

// anything says whether there is something that could have asked. A file of clusters alone asks nobody, and need not.
func (e *examiner) anything(docs []tree.Node) bool {
	onlyClusters := len(e.clusters) > 0 && len(e.listeners)+len(e.managers)+len(e.filters) == 0 && !e.whole
	return len(docs) > 0 && !onlyClusters && len(e.routes) == 0 || len(e.listeners) > 0
}

func first(docs []tree.Node) tree.Node {
	if len(docs) == 0 {
		return tree.Node{}
	}
	return docs[0]
}

// examiner goes through what was read.
type examiner struct {
	parts
	gatehouse rules.Gatehouse
	findings  rules.Findings
	count     int
	mentioned bool              // ext_authz is somewhere, if not where it decides
	asked     map[string]asking // clusters that are asked, by name
	model     tree.Node         // an ext_authz filter to copy
	seen      map[any]bool      // filters and settings of routes that were looked at
	judged    map[any]bool      // filters of which it is known whether a matcher decides about them
	upstream  map[string]bool   // clusters whose own filters were looked at
}

// asking is where a cluster is asked from, and over what.
type asking struct {
	at   tree.Node
	grpc bool
}

// matcherType wraps a filter in the conditions under which it runs.
const matcherType = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"

// conditional are the messages that run what is within them for some requests only.
func conditional(kind string) bool {
	switch kind {
	case matcherType, "envoy.extensions.common.matching.v3.ExtensionWithMatcherPerRoute",
		"envoy.extensions.filters.http.composite.v3.ExecuteFilterAction", "envoy.extensions.filters.http.composite.v3.Composite":
		return true
	}
	return false
}

// examineUnknown looks at filters that stand within something that is not known here, or where Envoy would not look for them.
func (e *examiner) examineUnknown(n tree.Node, depth int, some bool) {
	if kind, value, ok := typed(n); ok {
		if kind == extAuthzType && some && !e.judged[value.Key()] {
			e.judged[value.Key()] = true
			e.findings.Found("filter-conditional", value, "a matcher decides for which requests ext_authz runs")
		}
		some = some || conditional(kind)
		switch {
		case e.seen[value.Key()]:
		case kind == extAuthzType:
			e.filter(value)
		case kind == perRouteType:
			e.route(routeSettings{at: value})
		}
	}
	for _, item := range n.Items() {
		e.examineUnknown(item, depth+1, some)
	}
	for _, m := range n.Members() {
		if e.walks(m, depth) {
			e.examineUnknown(m.Value, depth+1, some)
		}
	}
}

// walks says whether what is under a key is in use, and only there.
func (e *examiner) walks(m tree.Member, depth int) bool {
	key := snake(m.Name)
	return !stale(key) && !(key == "bootstrap" && e.whole && depth > 0)
}

// mentions says whether there is an ext_authz filter anywhere.
func (e *examiner) mentions(n tree.Node) bool {
	if kind, _, ok := typed(n); ok && kind == extAuthzType {
		return true
	}
	return slices.ContainsFunc(n.Items(), e.mentions) ||
		slices.ContainsFunc(n.Members(), func(m tree.Member) bool { return !stale(snake(m.Name)) && e.mentions(m.Value) })
}

// filter is one of a chain.
type filter struct {
	at          tree.Node // the entry of http_filters
	name, kind  string
	config      tree.Node
	disabled    bool
	conditional bool
}

// filtersOf reads a list of HTTP filters.
func (e *examiner) filtersOf(list tree.Node) []filter {
	var filters []filter
	for _, at := range list.Items() {
		f := filter{at: at, name: at.Get("name").Text(), disabled: at.Get("disabled").True()}
		config := at.Get("typed_config")
		if discovered := at.Get("config_discovery"); discovered.Exists() {
			if config = e.extension[f.name]; !config.Exists() {
				config = discovered.Get("default_config")
			}
			for _, url := range discovered.Get("type_urls").Texts() {
				f.kind = messageName(url)
			}
		}
		if kind, value, ok := typed(config); ok {
			f.kind, f.config = kind, value
		}
		if f.kind == matcherType {
			f.conditional = true
			if kind, value, ok := typed(f.config.Get("extension_config", "typed_config")); ok {
				f.kind, f.config = kind, value
			}
		}
		filters = append(filters, f)
	}
	return filters
}

// filter looks at the settings of one ext_authz filter.
func (e *examiner) filter(at tree.Node) *authzv3.ExtAuthz {
	e.count++
	e.seen[at.Key()] = true
	f := &authzv3.ExtAuthz{}
	if err := decode(at, f); err != nil {
		if e.err == nil {
			e.err = err
		}
		return f
	}
	e.availability(at, f)
	e.partly(at, f)
	http := f.GetHttpService()
	if b := f.GetWithRequestBody(); b != nil {
		e.body(at.Get("with_request_body"), b, http != nil)
	}
	e.headersSent(at, f)
	if http != nil {
		e.httpAnswer(at.Get("http_service"), http)
		list := at.Get("http_service", "authorization_request", "headers_to_add")
		for _, added := range list.Items() {
			e.credential(added, "authorization_request", func() { list.RemoveItem(added) })
		}
	}
	if f.GetDecoderHeaderMutationRules() != nil && !f.GetDecoderHeaderMutationRules().GetDisallowIsError().GetValue() {
		drops := at.Get("decoder_header_mutation_rules")
		e.findings.Found("header-mutations-dropped", drops, "decoder_header_mutation_rules without disallow_is_error drop headers and paths that Gatehouse sets").
			Fix = func() { drops.Set("disallow_is_error", true) }
	}
	if f.GetClearRouteCache() {
		e.findings.Found("clear-route-cache", at.Get("clear_route_cache"), "clear_route_cache: true lets the headers of the answer choose another route than the one that was decided").
			Fix = func() { at.Remove("clear_route_cache") }
	}
	namespaces := slices.Concat(f.GetMetadataContextNamespaces(), f.GetTypedMetadataContextNamespaces())
	if e.gatehouse.Metadata && http == nil && !slices.Contains(namespaces, jwtNamespace) {
		e.findings.Found("jwt-metadata-not-sent", at, "gatehouse.yaml trusts %s, and metadata_context_namespaces does not send it", jwtNamespace).
			Fix = func() {
			list := at.Make("metadata_context_namespaces", []any{})
			list.Insert(tree.Node{}, jwtNamespace)
		}
	}
	return f
}

const jwtNamespace = "envoy.filters.http.jwt_authn"

// availability is what happens while Gatehouse does not answer.
func (e *examiner) availability(at tree.Node, f *authzv3.ExtAuthz) {
	if f.GetFailureModeAllow() {
		e.findings.Found("failure-mode-allow", at.Get("failure_mode_allow"), "failure_mode_allow: true lets every request through while Gatehouse does not answer").
			Fix = func() { at.Set("failure_mode_allow", false) }
	}
	if code := f.GetStatusOnError().GetCode(); code < 500 {
		what := "status_on_error is not set, so that an outage of Gatehouse is answered 403"
		if code != 0 {
			what = "status_on_error is " + at.Get("status_on_error", "code").Text() + ", which does not say that Gatehouse is down"
		}
		e.findings.Found("status-on-error-unset", at, "%s", what).
			Fix = func() { at.Set("status_on_error", []tree.Pair{{Name: "code", Value: "ServiceUnavailable"}}) }
	}
	switch service := at.Get("grpc_service"); {
	case f.GetGrpcService() != nil:
		wait := f.GetGrpcService().GetTimeout()
		e.timeout(service, service, wait.AsDuration(), wait != nil)
		e.googleGRPC(service)
		e.asks(service.Get("envoy_grpc", "cluster_name"), f.GetGrpcService().GetEnvoyGrpc().GetClusterName(), true)
	case f.GetHttpService() != nil:
		uri := at.Get("http_service", "server_uri")
		wait := f.GetHttpService().GetServerUri().GetTimeout()
		e.timeout(uri, uri, wait.AsDuration(), wait != nil)
		e.asks(uri.Get("cluster"), f.GetHttpService().GetServerUri().GetCluster(), false)
	default:
		e.findings.Found("grpc-service-missing", at, "the ext_authz filter has no grpc_service and no http_service: it asks no server")
	}
}

// partly is about filters that run for some requests, or without effect.
func (e *examiner) partly(at tree.Node, f *authzv3.ExtAuthz) {
	deny := f.GetDenyAtDisable().GetDefaultValue().GetValue()
	if key := f.GetDenyAtDisable().GetRuntimeKey(); key != "" {
		if layer, ok := e.runtimeValue(key); ok {
			deny = strings.EqualFold(layer.Text(), "true")
		}
	}
	if enabled := f.GetFilterEnabled(); enabled != nil {
		share := fraction(enabled.GetDefaultValue().GetNumerator(), int(enabled.GetDefaultValue().GetDenominator()))
		place := at.Get("filter_enabled")
		layer, overridden := e.runtimeValue(enabled.GetRuntimeKey())
		if overridden {
			if value, ok := layer.Number(); ok {
				share, place = value, layer
			} else {
				place = layer
				if value, ok := layer.Get("numerator").Number(); ok {
					share = fraction(uint32(value), denominator(layer.Get("denominator").Text()))
				}
			}
		}
		if share < 100 {
			what := "are let through"
			if deny {
				what = "are denied without being asked about"
			}
			e.findings.Found("filter-enabled-fraction", place, "ext_authz runs for %g %% of the requests; the others %s", share, what).Fix = func() {
				at.Remove("filter_enabled")
			}
		}
	}
	// Istio's own: the shadow rules of an RBAC filter are an AuthorizationPolicy's, and say for which requests it asks.
	istios := f.GetFilterEnabledMetadata().GetFilter() == "envoy.filters.http.rbac"
	if f.GetFilterEnabledMetadata() != nil && !deny && !istios {
		e.findings.Found("filter-enabled-metadata", at.Get("filter_enabled_metadata"), "ext_authz runs only for requests with certain metadata; the others are let through").
			Fix = func() { at.Remove("filter_enabled_metadata") }
	}
	if f.GetShadowMode() {
		e.findings.Found("shadow-mode", at.Get("shadow_mode"), "shadow_mode: true lets denied requests through").Fix = func() { at.Remove("shadow_mode") }
	}
}

func fraction(numerator uint32, denominator int) float64 {
	return float64(numerator) * 100 / []float64{100, 10_000, 1_000_000}[min(max(denominator, 0), 2)]
}

func denominator(name string) int {
	return max(0, slices.Index([]string{"HUNDRED", "TEN_THOUSAND", "MILLION"}, name))
}

// runtimeValue is what a static layer says about a runtime key: the last one counts.
func (e *examiner) runtimeValue(key string) (found tree.Node, ok bool) {
	if key == "" {
		return found, false
	}
	for _, layer := range e.runtime {
		value := layer
		for _, name := range append([]string{key}, strings.Split(key, ".")...) {
			if name == key {
				if at := layer.Get(key); at.Exists() {
					found, ok = at, true
				}
				continue
			}
			value = value.Get(name)
		}
		if strings.Contains(key, ".") && value.Exists() {
			found, ok = value, true
		}
	}
	return found, ok
}

// asks remembers a cluster for the looks at connections.
func (e *examiner) asks(at tree.Node, name string, grpc bool) {
	if name != "" {
		e.asked[name] = asking{at, grpc}
	}
}

// routeSettings is what one route says about one filter.
type routeSettings struct {
	at    tree.Node
	where string // "route 2 of virtual host x"
	key   string // in typed_per_filter_config
	per   tree.Node
	open  bool // the route answers by itself and reaches nothing
}

// route looks at an ExtAuthzPerRoute.
func (e *examiner) route(s routeSettings) {
	e.seen[s.at.Key()] = true
	per := &authzv3.ExtAuthzPerRoute{}
	if err := decode(s.at, per); err != nil {
		if e.err == nil {
			e.err = err
		}
		return
	}
	where := s.where
	if where == "" {
		where = "a route"
	}
	if per.GetDisabled() && !s.open {
		e.findings.Found("route-disables-ext-authz", s.at.Get("disabled"), "%s switches ext_authz off", where).Fix = s.remove
	}
	check, at := per.GetCheckSettings(), s.at.Get("check_settings")
	if b := check.GetWithRequestBody(); b != nil {
		e.body(at.Get("with_request_body"), b, check.GetHttpService() != nil)
	}
	if strings.EqualFold(check.GetContextExtensions()["gatehouse.dry_run"], "true") && (e.gatehouse.DryRunExtension || !e.gatehouse.Known) {
		place := at.Get("context_extensions")
		e.findings.Found("dry-run-route", place.Get("gatehouse.dry_run"), "%s asks for dry run: what Gatehouse denies is let through", where).
			Fix = func() { place.Remove("gatehouse.dry_run") }
	}
	if check.GetGrpcService() != nil || check.GetHttpService() != nil {
		name := check.GetGrpcService().GetEnvoyGrpc().GetClusterName() + check.GetHttpService().GetServerUri().GetCluster()
		if _, known := e.asked[name]; !known {
			e.findings.Found("route-asks-another-server", at, "%s asks %q, which the filter does not", where, name).
				Fix = func() { at.Remove("grpc_service"); at.Remove("http_service") }
		}
	}
}

// remove takes the settings off the route.
func (s routeSettings) remove() {
	if s.per.Exists() {
		s.per.Remove(s.key)
	} else {
		s.at.Set("disabled", false)
	}
}

// items are the messages of a list, each with where it is written.
func items[M proto.Message](messages []M, at tree.Node) []part[M] {
	list := make([]part[M], len(messages))
	for i, m := range messages {
		list[i] = part[M]{m, at.Item(i)}
	}
	return list
}
