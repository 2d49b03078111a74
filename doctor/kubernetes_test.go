package doctor_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gatehouse/doctor"
	"gatehouse/doctor/rules"
)

// object is a hole in the objects of a cluster. That they really make a proxy do so is tested with the real Istio and Envoy Gateway, in k8s/test.
type object struct {
	id    string
	edits []string // old and new texts, of the base
	byMan bool     // the doctor leaves it to a person
	knows func(*rules.Gatehouse)
}

func TestIstio(t *testing.T) {
	overHTTP := func(more string) []string {
		return []string{"envoyExtAuthzGrpc:", "envoyExtAuthzHttp:", ", packAsBytes: true", "", "failOpen: false", more}
	}
	kubernetes(t, "istio", []object{
		{id: "unknown-provider", edits: []string{"provider: {name: gatehouse}", "provider: {name: gatehuose}"}},
		{id: "custom-policy-none", edits: []string{"  rules: [{}]\n", ""}},
		{id: "custom-policy-limited", edits: []string{"rules: [{}]", "rules: [{to: [{operation: {paths: [/admin]}}]}]"}},
		{id: "sidecar-hides-gatehouse", edits: []string{`["./*", "gatehouse/*"]`, `["./*"]`}},
		{id: "several-custom-providers", byMan: true, edits: []string{"kind: Sidecar", "kind: AuthorizationPolicy\nmetadata: {name: other, namespace: shop}\nspec: {action: CUSTOM, provider: {name: other}, rules: [{}]}\n" +
			"---\napiVersion: networking.istio.io/v1\nkind: Sidecar", "networking.istio.io/v1\nkind: AuthorizationPolicy", "security.istio.io/v1\nkind: AuthorizationPolicy"}},
		{id: "mtls-not-strict", byMan: true, edits: []string{"STRICT", "PERMISSIVE"}},
		{id: "mtls-not-strict", byMan: true, edits: []string{"{mode: STRICT}", "{mode: STRICT}, portLevelMtls: {8000: {mode: DISABLE}}"}},
		{id: "port-excluded", edits: []string{"annotations: {}", `annotations: {traffic.sidecar.istio.io/excludeInboundPorts: "8000"}`}},
		{id: "port-excluded", edits: []string{"annotations: {}", `annotations: {traffic.sidecar.istio.io/includeInboundPorts: ""}`}},
		{id: "injection-off", edits: []string{"labels: {app: orders}\n", "labels: {app: orders, sidecar.istio.io/inject: \"false\"}\n"}},
		{id: "injection-off", byMan: true, edits: []string{"      annotations: {}", "      annotations: {}\n    spec: {hostNetwork: true}"}},
		{id: "port-excluded", edits: []string{"annotations: {}", `annotations: {traffic.sidecar.istio.io/excludeInterfaces: eth0}`}},
		{id: "filter-removed", byMan: true, edits: []string{"kind: Sidecar", envoyFilter(ofAuthz, "{operation: REMOVE}")}},
		{id: "filter-removed", byMan: true, edits: []string{"kind: Sidecar", envoyFilter("", "{operation: REMOVE}")}},
		{id: "filter-removed", byMan: true, edits: []string{"kind: Sidecar", envoyFilter(ofAuthz, "{operation: REPLACE, value: {name: a}}")}},
		{id: "filter-removed", byMan: true, edits: []string{"kind: Sidecar", envoyFilter(ofAuthz, "{operation: MERGE, value: {disabled: true}}")}},
		{id: "provider-unreachable", byMan: true, edits: []string{"port: 9191\n", "port: 9192\n"}},
		// What follows is in the text of a ConfigMap.
		{id: "path-normalization-mesh", edits: []string{"BASE", "MERGE_SLASHES"}},
		{id: "failure-mode-allow", edits: []string{"failOpen: false", "failOpen: true"}},
		{id: "status-on-error-unset", edits: []string{"          statusOnError: \"503\"\n", ""}},
		{id: "timeout-below-policy", edits: []string{"0.25s", "0.05s"}},
		{id: "body-as-text", edits: []string{", packAsBytes: true", ""}},
		{id: "body-limit-rejects", edits: []string{", allowPartialMessage: true", ""}},
		{id: "body-without-limit", edits: []string{"65536", "104857600"}},
		{id: "provider-http-headers", edits: overHTTP("headersToUpstreamOnAllow: [x-auth-subject]")},
		{id: "credentials-hidden", edits: overHTTP("headersToUpstreamOnAllow: [\"x-auth-*\"]"), knows: func(g *rules.Gatehouse) { g.Credentials = []string{"authorization", "x-api-key"} }},
	})
}

const ofAuthz = "match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {subFilter: {name: envoy.filters.http.ext_authz}}}}}, "

func envoyFilter(match, patch string) string {
	return "kind: EnvoyFilter\nmetadata: {name: less, namespace: shop}\nspec: {configPatches: [{applyTo: HTTP_FILTER, " + match + "patch: " + patch + "}]}\n---\napiVersion: networking.istio.io/v1\nkind: Sidecar"
}

// TestIstioOtherFilters are patches that take away nothing that decides.
func TestIstioOtherFilters(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "istio", "base.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, filter := range []string{
		envoyFilter(strings.Replace(ofAuthz, "http.ext_authz", "http.cors", 1), "{operation: REMOVE}"),
		envoyFilter(strings.Replace(ofAuthz, "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", 1), "{operation: REMOVE}"),
		envoyFilter(ofAuthz, "{operation: INSERT_BEFORE, value: {name: a}}"),
	} {
		if found := ids(examine(t, []byte(edit(t, string(text), []string{"kind: Sidecar", filter})), rules.Default())); len(found) > 0 {
			t.Errorf("%s: found %v", filter, found)
		}
	}
}

func TestEnvoyGateway(t *testing.T) {
	policy := "  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]\n  extAuth"
	kubernetes(t, "envoygateway", []object{
		{id: "route-without-ext-auth", byMan: true, edits: []string{policy, "  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: items}]\n  extAuth"}},
		{id: "route-without-ext-auth", byMan: true, edits: []string{policy, "  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge, sectionName: https}]\n  extAuth"}},
		{id: "target-not-found", byMan: true, edits: []string{policy, "  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: egde}]\n  extAuth"}},
		{id: "policy-overrides-ext-auth", edits: []string{"kind: ClientTrafficPolicy", "kind: SecurityPolicy\nmetadata: {name: cors, namespace: shop}\nspec: {targetRefs: [{kind: HTTPRoute, name: orders}], cors: {}}\n" +
			"---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy"}},
		// A second Gateway that nobody asks for, as another parent of the route.
		{id: "route-without-ext-auth", byMan: true, edits: []string{"kind: ClientTrafficPolicy", "kind: Other\n---\n" + openGateway + "---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy",
			"parentRefs: [{name: edge}]", "parentRefs: [{name: edge}, {name: open}]"}},
		{id: "policy-overrides-ext-auth", edits: []string{"kind: ClientTrafficPolicy", cors("HTTPRoute, name: orders, sectionName: all"), "    - matches", "    - name: all\n      matches"}},
		{id: "policy-overrides-ext-auth", byMan: true, edits: []string{"kind: ClientTrafficPolicy", cors("Gateway, name: edge, sectionName: http")}},
		{id: "policy-overrides-ext-auth", byMan: true, edits: []string{policy, "  targetRefs: [{kind: HTTPRoute, name: orders}]\n  extAuth", "kind: ClientTrafficPolicy", cors("HTTPRoute, name: orders, sectionName: all"),
			"    - matches", "    - name: all\n      matches"}},
		{id: "stream-route-to-app", byMan: true, edits: []string{"kind: ClientTrafficPolicy", stream("TCPRoute")}},
		{id: "stream-route-to-app", byMan: true, edits: []string{"kind: ClientTrafficPolicy", stream("TLSRoute")}},
		{id: "patch-changes-filters", byMan: true, edits: []string{"kind: ClientTrafficPolicy", patch("op: remove, path: /default_filter_chain/filters/0/typed_config/http_filters/0")}},
		{id: "patch-changes-filters", byMan: true, edits: []string{"kind: ClientTrafficPolicy", patch("op: remove, jsonPath: \"..http_filters[?(@.name=='envoy.filters.http.ext_authz')]\"")}},
		{id: "fail-open", edits: []string{"failOpen: false", "failOpen: true"}},
		{id: "timeout-below-policy", edits: []string{"250ms", "50ms"}},
		{id: "body-without-limit", edits: []string{"65536", "104857600"}},
		{id: "circuit-breakers-default", edits: []string{"      backendSettings: {circuitBreaker: {maxParallelRequests: 10000, maxPendingRequests: 10000}}\n", ""}},
		{id: "backend-not-http2", edits: []string{"  appProtocols: [gateway.envoyproxy.io/h2c]\n", ""}},
		{id: "gateway-merges-slashes", edits: []string{"disableMergeSlashes: true, ", ""}},
		{id: "gateway-escaped-slashes", edits: []string{"escapedSlashesAction: RejectRequest", "escapedSlashesAction: UnescapeAndForward"}},
		{id: "gateway-escaped-slashes", byMan: true, edits: []string{"kind: ClientTrafficPolicy", "kind: Other"}},
		{id: "gateway-underscores", edits: []string{"withUnderscoresAction: RejectRequest", "withUnderscoresAction: Allow"}},
		{id: "gateway-identity-headers", edits: []string{"x-auth-subject, ", ""}},
		{id: "gateway-http-headers", edits: []string{"    grpc:\n", "    http:\n"}},
		{id: "credentials-hidden", edits: []string{"failOpen: false", "headersToExtAuth: [accept]"}},
		{id: "jwt-metadata-forgeable", byMan: true, edits: []string{"  extAuth:", "  jwt: {providers: []}\n  extAuth:"}, knows: func(g *rules.Gatehouse) { g.Metadata = true }},
		{id: "identity-headers-removed", edits: []string{"filters: []", "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-Auth-Subject]}}]"}},
		{id: "identity-headers-overwritten", edits: []string{"filters: []", "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-auth-roles, value: admin}]}}]"}},
		{id: "filter-order", edits: []string{"kind: ClientTrafficPolicy", "kind: EnvoyProxy\nmetadata: {name: proxy, namespace: shop}\nspec: {filterOrder: [{name: envoy.filters.http.lua, before: envoy.filters.http.ext_authz}]}\n" +
			"---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy"}},
		{id: "upgrade-not-websocket", edits: []string{"kind: ClientTrafficPolicy", "kind: BackendTrafficPolicy\nmetadata: {name: up, namespace: shop}\nspec: {httpUpgrade: [{type: websocket}, {type: tunnel}]}\n" +
			"---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy"}},
		{id: "failure-mode-allow", edits: []string{"kind: ClientTrafficPolicy", "kind: EnvoyPatchPolicy\nmetadata: {name: up, namespace: shop}\nspec: {jsonPatches: [{operation: {value: {name: a, typed_config: " +
			"{\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, failure_mode_allow: true}}}}]}\n---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy"}},
	})
}

// client is where objects are put in front of.
const client = "---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy"

const openGateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: open, namespace: shop}\nspec: {listeners: [{name: http, protocol: HTTP, port: 8081}]}\n"

func cors(target string) string {
	return "kind: SecurityPolicy\nmetadata: {name: cors, namespace: shop}\nspec: {targetRefs: [{kind: " + target + "}], cors: {}}\n" + client
}

func stream(kind string) string {
	return "kind: Other\n---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: " + kind + "\nmetadata: {name: raw, namespace: shop}\nspec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: orders, port: 8000}]}]}\n" + client
}

func patch(operation string) string {
	return "kind: EnvoyPatchPolicy\nmetadata: {name: patch, namespace: shop}\nspec: {jsonPatches: [{type: type.googleapis.com/envoy.config.listener.v3.Listener, name: x, operation: {" + operation + "}}]}\n" + client
}

// TestAskedAnyway are objects of which every request is decided, in ways that look like others that are not.
func TestAskedAnyway(t *testing.T) {
	const two = "listeners: [{name: http, protocol: HTTP, port: 8080}, {name: https, protocol: HTTPS, port: 8443}, {name: raw, protocol: TCP, port: 9000}]"
	for what, edits := range map[string][]string{
		"each listener by a policy's references": {"listeners: [{name: http, protocol: HTTP, port: 8080}]", two, "kind: Gateway, name: edge}]\n  extAuth",
			"kind: Gateway, name: edge, sectionName: http}, {kind: Gateway, name: edge, sectionName: https}]\n  extAuth"},
		"the route's own listener":   {"listeners: [{name: http, protocol: HTTP, port: 8080}]", two, "parentRefs: [{name: edge}]", "parentRefs: [{name: edge, sectionName: http}]", "name: edge}]\n  extAuth", "name: edge, sectionName: http}]\n  extAuth"},
		"a Service of a mesh":        {"parentRefs: [{name: edge}]", "parentRefs: [{name: edge}, {group: '', kind: Service, name: orders}]"},
		"a rule's policy is merged":  {"kind: ClientTrafficPolicy", strings.Replace(cors("HTTPRoute, name: orders, sectionName: all"), "cors: {}", "mergeType: JSONMerge, cors: {}", 1), "    - matches", "    - name: all\n      matches"},
		"a stream to something else": {"kind: ClientTrafficPolicy", strings.Replace(stream("TCPRoute"), "name: orders", "name: database", 1)},
		"a patch that adds":          {"kind: ClientTrafficPolicy", patch("op: add, path: /per_connection_buffer_limit_bytes, value: 32768")},
	} {
		text, err := os.ReadFile(filepath.Join("testdata", "envoygateway", "base.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if found := ids(examine(t, []byte(edit(t, string(text), edits)), rules.Default())); len(found) > 0 {
			t.Errorf("%s: found %v", what, found)
		}
	}
}

// TestConfigMap is an Envoy beside an application, whose configuration is in a ConfigMap.
func TestConfigMap(t *testing.T) {
	object := func(envoy string) []byte {
		return []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: orders}\ndata:\n  notes.txt: \"static_resources: [\"\n  envoy.yaml: |\n    " + strings.ReplaceAll(envoy, "\n", "\n    ") + "\n")
	}
	if r := examine(t, object(base(t)), rules.Default()); len(r.Findings) > 0 || r.Asking != 1 {
		t.Errorf("asked in %d places, found %v", r.Asking, ids(r))
	}
	for _, o := range []struct {
		id     string
		edits  []string
		mended bool
	}{
		{"no-ext-authz", []string{filterLines, ""}, false},
		{"failure-mode-allow", []string{"HERE filter", "failure_mode_allow: true"}, true},
	} {
		bad := object(edit(t, base(t), o.edits))
		if found := ids(examine(t, bad, rules.Default())); !slices.Equal(found, []string{o.id}) {
			t.Errorf("%s: found %v", o.id, found)
		}
		mended, err := doctor.Mend([]doctor.Input{{Name: "k8s.yaml", Text: bad}}, rules.Default())
		if err != nil {
			t.Fatal(err)
		}
		if found := ids(examine(t, mended[0].Text, rules.Default())); (len(found) == 0) != o.mended {
			t.Errorf("%s: mended, found %v", o.id, found)
		}
	}
}

func kubernetes(t *testing.T, folder string, objects []object) {
	text, err := os.ReadFile(filepath.Join("testdata", folder, "base.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if r := examine(t, text, rules.Default()); len(r.Findings) > 0 || r.Asking != 1 {
		t.Fatalf("the base: %+v", r.Findings)
	}
	for _, o := range objects {
		t.Run(o.id, func(t *testing.T) {
			g := rules.Default()
			if o.knows != nil {
				o.knows(&g)
			}
			bad := []byte(edit(t, string(text), o.edits))
			if found := ids(examine(t, bad, g)); !slices.Contains(found, o.id) {
				t.Fatalf("found %v", found)
			}
			mended, err := doctor.Mend([]doctor.Input{{Name: "k8s.yaml", Text: bad}}, g, o.id)
			if err != nil {
				t.Fatal(err)
			}
			if found := ids(examine(t, mended[0].Text, g)); slices.Contains(found, o.id) != o.byMan {
				t.Errorf("mended, found %v in\n%s", found, mended[0].Text)
			}
		})
	}
}
