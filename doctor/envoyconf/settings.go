package envoyconf

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"gatehouse/doctor/tree"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// margin is what a question takes besides the policy: the way, and keys that are fetched while it waits.
const margin = 150 * time.Millisecond

// timeout looks at how long Envoy waits. ext_authz waits 200 ms where nothing is said.
func (e *examiner) timeout(at, set tree.Node, wait time.Duration, given bool) {
	if !given {
		wait = 200 * time.Millisecond
	}
	enough := max(250*time.Millisecond, e.gatehouse.PolicyTimeout+margin)
	fix := func() { set.Set("timeout", seconds(enough)) }
	if given && wait == 0 {
		e.findings.Found("timeout-off", at.Get("timeout"), "timeout: 0s waits for Gatehouse without end").Fix = fix
		return
	}
	if wait <= e.gatehouse.PolicyTimeout {
		place, what := at.Get("timeout"), fmt.Sprintf("the timeout of %v", wait)
		if !given {
			place, what = at, "the default timeout of 200ms"
		}
		e.findings.Found("timeout-below-policy", place, "%s is not above policy.timeout, which is %v", what, e.gatehouse.PolicyTimeout).Fix = fix
	}
}

func seconds(d time.Duration) string {
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.3f", d.Seconds()), "0"), ".") + "s"
}

// body looks at with_request_body. Over HTTP Envoy sends bytes as they are.
func (e *examiner) body(at tree.Node, b *authzv3.BufferSettings, overHTTP bool) {
	if !overHTTP && !b.GetPackAsBytes() {
		e.findings.Found("body-as-text", at, "with_request_body without pack_as_bytes: Envoy replaces every byte that is not UTF-8, so that the policy may read another body than the application").
			Fix = func() { at.Set("pack_as_bytes", true) }
	}
	size := int(b.GetMaxRequestBytes())
	switch limit := e.gatehouse.Message - headroom; {
	case size == 0:
		e.findings.Found("body-without-limit", at, "with_request_body without max_request_bytes: Envoy does not take it").
			Fix = func() { at.Set("max_request_bytes", 65536) }
	case size > limit:
		e.findings.Found("body-without-limit", at.Get("max_request_bytes"), "max_request_bytes: %d is no limit: with the headers such a body exceeds limits.message of Gatehouse, %d, and is denied with 413",
			size, e.gatehouse.Message).Fix = func() { at.Set("max_request_bytes", 65536) }
	case !b.GetAllowPartialMessage():
		e.findings.Found("body-limit-rejects", at, "a body longer than max_request_bytes is answered 413 by Envoy, uploads that no policy reads as well, unless allow_partial_message is true").
			Fix = func() { at.Set("allow_partial_message", true) }
	}
}

// headroom is what a question holds besides the body: headers, metadata, certificates. Envoy's own limit on headers is 60 KiB.
const headroom = 64 << 10

// headersSent is about allowed_headers and disallowed_headers.
func (e *examiner) headersSent(at tree.Node, f *authzv3.ExtAuthz) {
	place := at.Get("allowed_headers")
	allowed := f.GetAllowedHeaders()
	overHTTP := f.GetHttpService() != nil
	if old := f.GetHttpService().GetAuthorizationRequest().GetAllowedHeaders(); overHTTP && allowed == nil { //nolint:staticcheck // deprecated, and in use
		allowed, place = old, at.Get("http_service", "authorization_request", "allowed_headers")
	}
	if allowed == nil && !overHTTP && f.GetDisallowedHeaders() == nil {
		return
	}
	var hidden []string
	for _, name := range e.gatehouse.Credentials {
		if !e.sent(name, allowed, f.GetDisallowedHeaders(), overHTTP) {
			hidden = append(hidden, name)
		}
	}
	if len(hidden) > 0 {
		if !place.Exists() {
			place = at
			if f.GetDisallowedHeaders() != nil {
				place = at.Get("disallowed_headers")
			}
		}
		e.findings.Found("credentials-hidden", place, "Gatehouse does not get %s", strings.Join(hidden, ", ")).Fix = func() { e.send(at, f, hidden) }
	}
}

// upgradeHeaders is what tells a handshake from a GET.
func upgradeHeaders() []string { return []string{"upgrade", "connection", "sec-websocket-key"} }

// handshake looks whether Gatehouse can tell a WebSocket from a GET. Where it is shown all headers it can.
func (e *examiner) handshake(at tree.Node, f *authzv3.ExtAuthz) {
	if f.GetAllowedHeaders() == nil && f.GetHttpService() == nil && f.GetDisallowedHeaders() == nil {
		return
	}
	var hidden []string
	for _, name := range upgradeHeaders() {
		if !e.sent(name, f.GetAllowedHeaders(), f.GetDisallowedHeaders(), f.GetHttpService() != nil) {
			hidden = append(hidden, name)
		}
	}
	if len(hidden) > 0 {
		e.findings.Found("upgrade-headers-hidden", at, "WebSockets are allowed, and Gatehouse does not get %s", strings.Join(hidden, ", ")).
			Fix = func() { e.send(at, f, append(hidden, "sec-websocket-protocol")) }
	}
}

// send makes Envoy show headers.
func (e *examiner) send(at tree.Node, f *authzv3.ExtAuthz, names []string) {
	at.Remove("disallowed_headers")
	if !at.Get("allowed_headers").Exists() && f.GetHttpService() == nil {
		return // all are sent
	}
	list := at.Make("allowed_headers", []tree.Pair{}).Make("patterns", []any{})
	for _, name := range names {
		list.Insert(tree.Node{}, []tree.Pair{{Name: "exact", Value: name}, {Name: "ignore_case", Value: true}})
	}
}

// sent says whether a header reaches Gatehouse. Over HTTP some are always sent, and others only where they are listed.
func (e *examiner) sent(name string, allowed, disallowed *matcherv3.ListStringMatcher, overHTTP bool) bool {
	switch {
	case disallowed != nil && matches(disallowed, name):
		return false
	case overHTTP && slices.Contains([]string{"host", "content-length", "authorization"}, name):
		return true
	case allowed != nil:
		return matches(allowed, name)
	default:
		return !overHTTP
	}
}

// matches says whether a list takes a name. An expression that Go cannot read counts as one that does.
func matches(list *matcherv3.ListStringMatcher, name string) bool {
	for _, p := range list.GetPatterns() {
		value, fold := name, func(s string) string { return s }
		if p.GetIgnoreCase() {
			fold = strings.ToLower
		}
		switch p := p.GetMatchPattern().(type) {
		case *matcherv3.StringMatcher_Exact:
			if value == fold(p.Exact) {
				return true
			}
		case *matcherv3.StringMatcher_Prefix:
			if strings.HasPrefix(value, fold(p.Prefix)) {
				return true
			}
		case *matcherv3.StringMatcher_Suffix:
			if strings.HasSuffix(value, fold(p.Suffix)) {
				return true
			}
		case *matcherv3.StringMatcher_Contains:
			if strings.Contains(value, fold(p.Contains)) {
				return true
			}
		case *matcherv3.StringMatcher_SafeRegex:
			expression, err := regexp.Compile("^(?:" + p.SafeRegex.GetRegex() + ")$")
			if err != nil || expression.MatchString(value) {
				return true
			}
		default:
			return true
		}
	}
	return false
}

// httpAnswer is what Envoy takes of an answer over HTTP.
func (e *examiner) httpAnswer(at tree.Node, s *authzv3.HttpService) {
	allowed := s.GetAuthorizationResponse().GetAllowedUpstreamHeaders()
	var missing []string
	for _, name := range e.gatehouse.IdentityHeaders {
		if allowed == nil || !matches(allowed, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		e.findings.Found("http-mode-headers", at, "allowed_upstream_headers does not take over %s", strings.Join(missing, ", ")).Fix = func() {
			list := at.Make("authorization_response", []tree.Pair{}).Make("allowed_upstream_headers", []tree.Pair{}).Make("patterns", []any{})
			for _, name := range missing {
				list.Insert(tree.Node{}, []tree.Pair{{Name: "exact", Value: name}})
			}
		}
	}
}

// paths is how a connection manager reads paths, against how Gatehouse does.
func (e *examiner) paths(at tree.Node, m *hcmv3.HttpConnectionManager) {
	g := e.gatehouse
	normalised := m.GetNormalizePath().GetValue()
	if m.GetNormalizePath() == nil {
		if value, ok := e.runtimeValue("http_connection_manager.normalize_path"); ok {
			share, _ := value.Number()
			normalised = value.True() || share > 0
		}
	}
	dots := g.CompatPaths || slices.Contains(g.AllowPaths, "dot_segments")
	if !normalised {
		more := ""
		if dots {
			more = ", and gatehouse.yaml lets dot segments through"
		}
		e.findings.Found("path-not-normalised", at, "normalize_path is not true%s", more).Fix = func() { at.Set("normalize_path", true) }
	} else if slices.Contains(g.AllowPaths, "dot_segments") {
		e.findings.Found("paths-contradict", at.Get("normalize_path"), "gatehouse.yaml allows dot_segments, and normalize_path: true takes them off before it is asked")
	}
	if m.GetMergeSlashes() {
		e.findings.Found("merge-slashes", at.Get("merge_slashes"), "merge_slashes: true hides from Gatehouse paths that it refuses").Fix = func() { at.Set("merge_slashes", false) }
	}
	slashes := at.Get("path_with_escaped_slashes_action")
	allowed := slices.Contains(g.AllowPaths, "encoded_slash")
	switch action := m.GetPathWithEscapedSlashesAction(); {
	case action == hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT || action == hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD:
		e.findings.Found("escaped-slashes-unescaped", slashes, "path_with_escaped_slashes_action: %s changes paths before Gatehouse is asked", action).
			Fix = func() { at.Set("path_with_escaped_slashes_action", "REJECT_REQUEST") }
	case action == hcmv3.HttpConnectionManager_REJECT_REQUEST && allowed:
		e.findings.Found("paths-contradict", slashes, "gatehouse.yaml allows encoded_slash, and path_with_escaped_slashes_action: REJECT_REQUEST refuses such paths").
			Fix = func() { at.Set("path_with_escaped_slashes_action", "KEEP_UNCHANGED") }
	case action != hcmv3.HttpConnectionManager_REJECT_REQUEST && g.CompatPaths:
		place := slashes
		if !place.Exists() {
			place = at
		}
		e.findings.Found("paths-contradict", place, "paths.compat lets encoded slashes through, and Envoy does not refuse them: the application may read another path than the policy").
			Fix = func() { at.Set("path_with_escaped_slashes_action", "REJECT_REQUEST") }
	}
}

// headersIn is what a connection manager lets in. A sidecar stands behind other proxies, whose X-Forwarded-For it has to believe.
func (e *examiner) headersIn(at tree.Node, m *hcmv3.HttpConnectionManager, sidecar bool) {
	if m.GetCommonHttpProtocolOptions().GetHeadersWithUnderscoresAction() == corev3.HttpProtocolOptions_ALLOW {
		e.findings.Found("underscore-headers", at, "headers_with_underscores_action is not set: X_Auth_Subject reaches the application beside X-Auth-Subject").
			Fix = func() {
			at.Make("common_http_protocol_options", []tree.Pair{}).Set("headers_with_underscores_action", "REJECT_REQUEST")
		}
	}
	if !sidecar && !m.GetUseRemoteAddress().GetValue() && len(m.GetOriginalIpDetectionExtensions()) == 0 {
		e.findings.Found("forwarded-for-trusted", at, "use_remote_address is not true: the client's own X-Forwarded-For is its address").Fix = func() { at.Set("use_remote_address", true) }
	}
	if how := m.GetForwardClientCertDetails(); how == hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY {
		e.findings.Found("client-cert-header-trusted", at.Get("forward_client_cert_details"), "forward_client_cert_details: %s passes on what the client wrote into X-Forwarded-Client-Cert", how).
			Fix = func() { at.Set("forward_client_cert_details", "SANITIZE_SET") }
	}
	removed := map[string]bool{}
	for _, early := range items(m.GetEarlyHeaderMutationExtensions(), at.Get("early_header_mutation_extensions")) {
		_, config, _ := typed(early.at.Get("typed_config"))
		e.credentials(config.Get("mutations"), "early_header_mutation_extensions")
		for _, mutation := range config.Get("mutations").Items() {
			removed[strings.ToLower(mutation.Get("remove").Text())] = true
		}
	}
	var kept []string
	for _, name := range e.gatehouse.IdentityHeaders {
		if !removed[name] {
			kept = append(kept, name)
		}
	}
	if len(kept) > 0 {
		e.findings.Found("client-identity-headers", at, "early_header_mutation_extensions do not remove %s of clients", strings.Join(kept, ", ")).Fix = func() { stripEarly(at, kept) }
	}
}

const earlyType = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"

func stripEarly(at tree.Node, names []string) {
	list := at.Make("early_header_mutation_extensions", []any{})
	var config tree.Node
	for _, early := range list.Items() {
		if kind, found, _ := typed(early.Get("typed_config")); kind == earlyType {
			config = found
		}
	}
	if !config.Exists() {
		list.Insert(tree.Node{}, []tree.Pair{{Name: "name", Value: "envoy.http.early_header_mutation.header_mutation"},
			{Name: "typed_config", Value: []tree.Pair{{Name: "@type", Value: typePrefix + earlyType}, {Name: "mutations", Value: []any{}}}}})
		added := list.Items()
		config = added[len(added)-1].Get("typed_config")
	}
	mutations := config.Make("mutations", []any{})
	for _, name := range names {
		mutations.Insert(tree.Node{}, []tree.Pair{{Name: "remove", Value: name}})
	}
}

// mutations looks for changes of identity headers among those of a filter or a route's setting.
func (e *examiner) mutations(list tree.Node, where string) {
	for _, at := range list.Items() {
		m := &mutationv3.HeaderMutation{}
		if decode(at, m) != nil {
			continue
		}
		if name := strings.ToLower(m.GetRemove()); slices.Contains(e.gatehouse.IdentityHeaders, name) {
			e.findings.Found("identity-headers-removed", at, "%s removes %s after Gatehouse has set it", where, name).Fix = func() { list.RemoveItem(at) }
		}
		if name := strings.ToLower(m.GetAppend().GetHeader().GetKey()); slices.Contains(e.gatehouse.IdentityHeaders, name) {
			e.findings.Found("identity-headers-overwritten", at, "%s sets %s after Gatehouse has", where, name).Fix = func() { list.RemoveItem(at) }
		}
	}
}
