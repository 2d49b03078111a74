package doctor_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"gatehouse/doctor"
	"gatehouse/doctor/rules"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

// proof is a configuration with one hole, and how the hole is seen.
type proof struct {
	id     string
	what   string   // where there are several of one id
	edits  []string // old and new texts, in turn, of the base; an old text "HERE x" is the place with that name, and adds lines
	knows  func(*rules.Gatehouse)
	by     []string // how a person mends it, as edits of what has the hole, where the doctor leaves that to one
	tune   []string // edits of the mended one that make its times short enough for a test
	see    func(d doors) string
	hole   string
	closed string
}

// here adds lines to the base at a place, as deep as the place is.
func edit(t *testing.T, text string, edits []string) string {
	t.Helper()
	for i := 0; i+1 < len(edits); i += 2 {
		old, put := edits[i], edits[i+1]
		if strings.HasPrefix(old, "HERE ") {
			at := strings.Index(text, "# "+old+"\n")
			if at < 0 {
				t.Fatalf("there is no place %q", old)
			}
			indent := text[strings.LastIndexByte(text[:at], '\n')+1 : at]
			put = strings.ReplaceAll(strings.TrimSpace(put), "\n", "\n"+indent)
			text = text[:at] + "# " + old + "\n" + indent + put + text[at+len(old)+2:]
			continue
		}
		if !strings.Contains(text, old) {
			t.Fatalf("there is no %q in\n%s", old, text)
		}
		text = strings.Replace(text, old, put, 1)
	}
	return text
}

// composite asks only where a client sends a header.
const composite = "                  - name: composite\n                    typed_config:\n" +
	"                      \"@type\": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher\n" +
	"                      extension_config:\n                        name: composite\n" +
	"                        typed_config: {" + anyType + "composite.v3.Composite}\n" +
	"                      xds_matcher:\n                        matcher_tree:\n" +
	"                          input: {name: h, typed_config: {\"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-a}}\n" +
	"                          exact_match_map:\n                            map:\n                              a:\n                                action:\n" +
	"                                  name: composite-action\n                                  typed_config:\n                                    " + anyType + "composite.v3.ExecuteFilterAction\n" +
	"                                    typed_config:\n                                      name: envoy.filters.http.ext_authz\n" +
	"                                      typed_config: {" + anyType + "ext_authz.v3.ExtAuthz, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: gatehouse}, timeout: 2s}, status_on_error: {code: ServiceUnavailable}}\n"

const (
	dead       = "port_value: 9191"
	anyType    = `"@type": type.googleapis.com/envoy.extensions.filters.http.`
	grpcLines  = "                      grpc_service:\n                        envoy_grpc: {cluster_name: gatehouse}\n                        timeout: 2s\n"
	earlyLines = `                early_header_mutation_extensions:
                  - name: envoy.http.early_header_mutation.header_mutation
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
                      mutations: [{remove: x-auth-subject}, {remove: x-auth-roles}]
`
	bodyLines   = "                      with_request_body: {max_request_bytes: 65536, allow_partial_message: true, pack_as_bytes: true}\n"
	filterLines = `                  - name: envoy.filters.http.ext_authz
                    # HERE entry
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      transport_api_version: V3
` + grpcLines + `                      status_on_error: {code: ServiceUnavailable}
                      # HERE filter
` + bodyLines
	second = `
- name: second
  address: {socket_address: {address: 127.0.0.1, port_value: 8080}}
  filter_chains:
    - filters:
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: second
            use_remote_address: true
            normalize_path: true
            route_config: {virtual_hosts: [{name: app, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: app}}]}]}
            http_filters:
              - name: envoy.filters.http.router
                typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}`
	tcp = `
- name: second
  address: {socket_address: {address: 127.0.0.1, port_value: 8080}}
  filter_chains:
    - filters:
        - name: envoy.filters.network.tcp_proxy
          typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: app}`
	router  = `{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}`
	private = `
- name: private
  type: STATIC
  connect_timeout: 1s
  load_assignment:
    cluster_name: private
    endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8001}}}}]}]`
	other = `
- name: other
  type: STATIC
  connect_timeout: 1s
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {http2_protocol_options: {}}
  load_assignment:
    cluster_name: other
    endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9199}}}}]}]`
	perRoute = `
typed_per_filter_config:
  envoy.filters.http.ext_authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, `
	jwtAuthn = `
- name: envoy.filters.http.jwt_authn
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
    providers:
      login: {issuer: https://login.example.com, audiences: [app], forward: true, payload_in_metadata: payload, local_jwks: {inline_string: JWKS}}
    rules: [{match: {prefix: /me}, requires: {requires_any: {requirements: [{provider_name: login}, {allow_missing: {}}]}}}]`
)

const (
	anywhere = "- match: {prefix: /public}\n  route: {cluster: anywhere}"
	named    = "- match: {prefix: /public}\n  route: {cluster_header: x-cluster}"
	codec    = `{name: envoy.filters.http.upstream_codec, typed_config: {` + anyType + `upstream_codec.v3.UpstreamCodec}}`
	// appFilters is the application's cluster with a filter of its own.
	appFilters = `    - name: app
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http_protocol_options: {}}
          http_filters: [{name: m, typed_config: {` + anyType + `header_mutation.v3.HeaderMutation, mutations: {request_mutations: [{remove: x-auth-subject}]}}}, ` + codec + `]
      type: STATIC`
)

// chosenTCP is a TCP proxy to another application than a filter in front of it chooses.
func chosenTCP(filter string) string {
	return strings.Replace(strings.Replace(tcp, "cluster: app", "cluster: private", 1), "    - filters:\n", "    - filters:\n        - "+filter+"\n", 1)
}

func get(path string, headers ...string) func(doors) string {
	return func(d doors) string { return d.ask("main", "GET "+path, headers...) }
}

// asAlice asks with her token.
func asAlice(path string, headers ...string) func(doors) string {
	return func(d doors) string {
		return d.ask("main", "GET "+path, append([]string{"Authorization: Bearer " + d.token}, headers...)...)
	}
}

func handshake(path string, kind string) []string {
	return []string{"GET " + path + " HTTP/1.1", "Host: app", "Connection: Upgrade", "Upgrade: " + kind, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
}

func proofs() []proof {
	return slices.Concat(whoAsks(), aroundRoutes(), whatIsSaid(), whatIsSent(), connections())
}

// whoAsks are the proofs that requests are not decided.
func whoAsks() []proof {
	second403 := func(d doors) string { return d.ask("second", "GET /admin") }
	return []proof{
		{id: "no-ext-authz", edits: []string{filterLines, ""}, by: []string{"                  # HERE after\n", filterLines}, see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "listener-without-ext-authz", edits: []string{"HERE listeners", second}, see: second403, hole: "app /admin", closed: "403"},
		{id: "listener-without-ext-authz", what: "upgrade", edits: []string{"HERE manager", "upgrade_configs: [{upgrade_type: websocket, filters: [" + router + "]}]"},
			see: func(d doors) string { return d.through("main", handshake("/admin", "websocket")...) }, hole: "app got GET /admin", closed: "403"},
		{id: "tcp-proxy-to-app", edits: []string{"HERE listeners", tcp}, see: second403, hole: "app /admin", closed: "nobody listens"},
		{id: "tcp-proxy-to-app", what: "by another name", edits: []string{"HERE listeners", strings.Replace(tcp, "cluster: app", "cluster: same", 1), "HERE clusters", "- name: same\n  type: STRICT_DNS\n  dns_lookup_family: V4_ONLY\n  connect_timeout: 1s\n" +
			"  load_assignment:\n    cluster_name: same\n    endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: localhost, port_value: 8000}}}}]}]"},
			see: second403, hole: "app /admin", closed: "nobody listens"},
		{id: "tcp-proxy-to-app", what: "by filter state", edits: []string{"HERE clusters", private, "HERE listeners", chosenTCP(`{name: state, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config,
              on_new_connection: [{object_key: envoy.tcp_proxy.cluster, format_string: {text_format_source: {inline_string: app}}}]}}`)},
			see: second403, hole: "app /admin", closed: "nobody listens"},
		{id: "tcp-proxy-to-app", what: "by an aggregate", edits: []string{"HERE listeners", strings.Replace(tcp, "cluster: app", "cluster: all", 1), "HERE clusters", "- name: all\n  connect_timeout: 1s\n  lb_policy: CLUSTER_PROVIDED\n" +
			"  cluster_type: {name: envoy.clusters.aggregate, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig, clusters: [app]}}"},
			see: second403, hole: "app /admin", closed: "nobody listens"},
		{id: "client-chooses-upstream", what: "by a header", edits: []string{"HERE clusters", "- name: anywhere\n  type: ORIGINAL_DST\n  connect_timeout: 1s\n  lb_policy: CLUSTER_PROVIDED\n  original_dst_lb_config: {use_http_header: true}",
			"HERE route", anywhere}, by: []string{"{cluster: anywhere}", "{cluster: app}"},
			see: func(d doors) string {
				return d.ask("main", "GET /public", fmt.Sprintf("X-Envoy-Original-Dst-Host: 127.0.0.1:%d", d.ports[8001]))
			},
			hole: "private /public", closed: "app /public"},
		{id: "client-chooses-upstream", what: "by the host", edits: []string{"HERE clusters", "- name: anywhere\n  connect_timeout: 1s\n  lb_policy: CLUSTER_PROVIDED\n" +
			"  cluster_type: {name: envoy.clusters.dynamic_forward_proxy, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, dns_cache_config: {name: PREFIX}}}",
			"HERE after", "- name: envoy.filters.http.dynamic_forward_proxy\n  typed_config: {" + anyType + "dynamic_forward_proxy.v3.FilterConfig, dns_cache_config: {name: PREFIX}}",
			"HERE route", anywhere}, by: []string{"{cluster: anywhere}", "{cluster: app}"},
			see: func(d doors) string {
				return d.ask("main", fmt.Sprintf("GET http://127.0.0.1:%d/public", d.ports[8001]))
			},
			hole: "private /public", closed: "app /public"},
		{id: "client-chooses-upstream", what: "by the cluster's name", edits: []string{"HERE clusters", private, "HERE route", named}, by: []string{"{cluster_header: x-cluster}", "{cluster: app}"},
			see:  func(d doors) string { return d.ask("main", "GET /public", "X-Cluster: "+d.prefix+"private") },
			hole: "private /public", closed: "app /public"},
		{id: "ext-authz-disabled", edits: []string{"HERE entry", "disabled: true"}, see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "route-disables-ext-authz", edits: []string{"HERE last route", perRoute + "disabled: true}"}, see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "route-disables-ext-authz", what: "virtual host", edits: []string{"HERE host", perRoute + "disabled: true}"}, see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "route-disables-ext-authz", what: "FilterConfig", edits: []string{"HERE routes", "typed_per_filter_config:\n" +
			"  envoy.filters.http.ext_authz: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}"}, see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "per-route-name", edits: []string{"- name: envoy.filters.http.ext_authz\n", "- name: gatehouse\n", "HERE last route", perRoute + "check_settings: {context_extensions: {area: public}}}"},
			see: get("/area"), hole: "403", closed: "app /area"},
		{id: "answers-before-ext-authz", edits: []string{"HERE before", "- name: envoy.filters.http.cache\n  typed_config:\n    " + anyType + "cache.v3.CacheConfig\n" +
			"    typed_config: {\"@type\": type.googleapis.com/envoy.extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig}"},
			see: func(d doors) string {
				return d.ask("main", "GET /key", "X-Key: good") + ", then " + d.ask("main", "GET /key")
			}, hole: "app /key, then app /key", closed: "app /key, then 403"},
		{id: "may-answer-before-ext-authz", edits: []string{"HERE before", "- name: lua\n  typed_config:\n    " + anyType + "lua.v3.Lua\n    default_source_code:\n      inline_string: |\n" +
			"        function envoy_on_request(h)\n          h:respond({[\":status\"] = \"200\", [\"x-app\"] = \"lua\"}, \"lua answered\")\n        end"},
			by: []string{"  default_source_code", "  default_source_code", "                  - name: lua\n                    typed_config:\n                      " + anyType + "lua.v3.Lua\n                      default_source_code:\n                        inline_string: |\n" +
				"                          function envoy_on_request(h)\n                            h:respond({[\":status\"] = \"200\", [\"x-app\"] = \"lua\"}, \"lua answered\")\n                          end\n", "",
				"HERE after", "- name: lua\n  typed_config:\n    " + anyType + "lua.v3.Lua\n    default_source_code: {inline_string: \"function envoy_on_request(h) end\"}"},
			see: get("/admin"), hole: "lua answered", closed: "403"},
		{id: "filter-conditional", edits: []string{filterLines, "                  - name: envoy.filters.http.ext_authz\n                    typed_config:\n" +
			"                      \"@type\": type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher\n                      extension_config:\n                        name: envoy.filters.http.ext_authz\n" +
			"                        typed_config: {" + anyType + "ext_authz.v3.ExtAuthz, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: gatehouse}, timeout: 2s}, status_on_error: {code: ServiceUnavailable}}\n" +
			"                      xds_matcher:\n                        matcher_tree:\n                          input: {name: h, typed_config: {\"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-skip}}\n" +
			"                          exact_match_map:\n                            map:\n                              \"1\": {action: {name: skip, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter}}}\n"},
			see: get("/admin", "X-Skip: 1"), hole: "app /admin", closed: "403"},
		{id: "listener-without-ext-authz", what: "within a Composite", edits: []string{filterLines, composite}, by: []string{composite, filterLines}, see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "filter-conditional", what: "within a Composite", edits: []string{filterLines, composite}, by: []string{composite, filterLines}, see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "filter-enabled-fraction", edits: []string{"HERE filter", "filter_enabled: {default_value: {numerator: 0}}"}, see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "filter-enabled-fraction", what: "by a runtime key", edits: []string{"static_resources:\n", "layered_runtime: {layers: [{name: a, static_layer: {gatehouse: {share: 0}}}]}\nstatic_resources:\n",
			"HERE filter", "filter_enabled: {default_value: {numerator: 100}, runtime_key: gatehouse.share}"}, see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "filter-enabled-metadata", edits: []string{"HERE filter", "filter_enabled_metadata: {filter: a, path: [{key: b}], value: {string_match: {exact: c}}}"}, see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "shadow-mode", edits: []string{"HERE filter", "shadow_mode: true"}, see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "dry-run-route", edits: []string{dead, "port_value: 9197", "HERE last route", perRoute + `check_settings: {context_extensions: {gatehouse.dry_run: "true"}}}`},
			see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "route-asks-another-server", edits: []string{"HERE clusters", other, "HERE last route", perRoute + "check_settings: {grpc_service: {envoy_grpc: {cluster_name: other}, timeout: 1s}}}"},
			see: get("/admin"), hole: "app /admin", closed: "403"},
	}
}

// whatIsSaid are the proofs about answers, and about there being none.
func whatIsSaid() []proof {
	return []proof{
		{id: "failure-mode-allow", edits: []string{dead, "port_value: 9", "HERE filter", "failure_mode_allow: true"}, see: get("/admin"), hole: "app /admin", closed: "503"},
		{id: "status-on-error-unset", edits: []string{dead, "port_value: 9", "                      status_on_error: {code: ServiceUnavailable}\n", ""}, see: get("/public"), hole: "403", closed: "503"},
		{id: "timeout-below-policy", edits: []string{"timeout: 2s", "timeout: 0.001s"}, knows: func(g *rules.Gatehouse) { g.PolicyTimeout = 20e9 }, see: get("/slow"), hole: "503", closed: "app /slow"},
		{id: "timeout-off", edits: []string{dead, "port_value: 9196", "timeout: 2s", "timeout: 0s", "HERE manager", "stream_idle_timeout: 1s"}, see: get("/public"), hole: "504", closed: "503"},
		{id: "clear-route-cache", edits: []string{"HERE clusters", private, "HERE filter", "clear_route_cache: true", "HERE route", "- match: {prefix: /, headers: [{name: x-tier, string_match: {exact: gold}}]}\n  route: {cluster: private}",
			"HERE last route", perRoute + "check_settings: {context_extensions: {area: public}}}"}, see: get("/tier"), hole: "private /tier", closed: "app /tier"},
		{id: "header-mutations-dropped", edits: []string{earlyLines, "", "HERE filter", "decoder_header_mutation_rules: {disallow_all: true}"},
			see: asAlice("/me", "X-Auth-Subject: root"), hole: "app /me as root", closed: "500"},
		{id: "identity-headers-removed", edits: []string{"HERE last route", "request_headers_to_remove: [x-auth-subject]"}, see: asAlice("/me"), hole: "app /me", closed: "app /me as alice"},
		{id: "identity-headers-removed", what: "filter", edits: []string{"HERE after", "- name: m\n  typed_config: {" + anyType + "header_mutation.v3.HeaderMutation, mutations: {request_mutations: [{remove: x-auth-subject}]}}"},
			see: asAlice("/me"), hole: "app /me", closed: "app /me as alice"},
		{id: "identity-headers-overwritten", edits: []string{"HERE host", "request_headers_to_add: [{header: {key: x-auth-subject, value: \"%REQ(x-user)%\"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]"},
			see: asAlice("/me", "X-User: root"), hole: "app /me as root", closed: "app /me as alice"},
		{id: "identity-headers-overwritten", what: "filter of a route", edits: []string{"HERE after", "- name: m\n  typed_config: {" + anyType + "header_mutation.v3.HeaderMutation, mutations: {}}",
			"HERE last route", "typed_per_filter_config:\n  m: {" + anyType + "header_mutation.v3.HeaderMutationPerRoute, mutations: {request_mutations: [{append: {header: {key: x-auth-subject, value: root}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]}}"},
			see: asAlice("/me"), hole: "app /me as root", closed: "app /me as alice"},
		{id: "identity-headers-removed", what: "filter of a cluster", edits: []string{"    - name: app\n      type: STATIC", appFilters},
			see: asAlice("/me"), hole: "app /me", closed: "app /me as alice"},
		{id: "identity-headers-overwritten", what: "filter of the router", edits: []string{"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\n", "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\n" +
			"                      upstream_http_filters: [{name: m, typed_config: {" + anyType + "header_mutation.v3.HeaderMutation, mutations: {request_mutations: [{append: {header: {key: x-auth-subject, value: root}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]}}}, " + codec + "]\n"},
			see: asAlice("/me"), hole: "app /me as root", closed: "app /me as alice"},
		{id: "http-mode-headers", edits: []string{earlyLines, "", grpcLines, "                      http_service: {server_uri: {uri: \"http://gatehouse\", cluster: gatehouse, timeout: 2s}}\n", dead, "port_value: 9193",
			"explicit_http_config: {http2_protocol_options: {}}", "explicit_http_config: {http_protocol_options: {}}"},
			see: asAlice("/me", "X-Auth-Subject: root"), hole: "app /me as root", closed: "app /me as alice"},
	}
}

// whatIsSent are the proofs about what of a request is decided on, and what the application gets.
func whatIsSent() []proof {
	big := strings.Repeat("x", 2<<20)
	post := func(body string) func(doors) string {
		return func(d doors) string { return d.ask("main", "POST /public", body) }
	}
	return []proof{
		{id: "body-without-limit", edits: []string{"max_request_bytes: 65536", "max_request_bytes: 4194304", "HERE listener", "per_connection_buffer_limit_bytes: 8388608"}, see: post(big), hole: "413", closed: "app /public"},
		{id: "body-limit-rejects", edits: []string{"allow_partial_message: true, ", ""}, see: post(big[:100<<10]), hole: "413", closed: "app /public"},
		{id: "body-above-buffer", edits: []string{"HERE listener", "per_connection_buffer_limit_bytes: 16384"}, see: post(big[:40<<10]), hole: "413", closed: "app /public"},
		{id: "body-as-text", edits: []string{", pack_as_bytes: true", ""}, see: func(d doors) string { return d.ask("main", "POST /body", "a\xffb") }, hole: `app /body body "a\xffb"`, closed: "403"},
		{id: "credentials-hidden", edits: []string{"HERE filter", "allowed_headers: {patterns: [{exact: accept}]}"}, see: asAlice("/me"), hole: "403", closed: "app /me as alice"},
		{id: "credentials-hidden", what: "disallowed", edits: []string{"HERE filter", "disallowed_headers: {patterns: [{prefix: auth}]}"}, see: asAlice("/me"), hole: "403", closed: "app /me as alice"},
		{id: "upgrade-headers-hidden", edits: []string{"HERE filter", "allowed_headers: {patterns: [{exact: authorization}]}", "HERE manager", "upgrade_configs: [{upgrade_type: websocket}]"},
			see: func(d doors) string { return d.through("main", handshake("/ws", "websocket")...) }, hole: "app got GET /admin", closed: "403"},
		{id: "path-not-normalised", edits: []string{"                normalize_path: true\n", "", dead, "port_value: 9192"}, see: get("/public/../admin"), hole: "app /admin", closed: "403"},
		{id: "merge-slashes", edits: []string{"merge_slashes: false", "merge_slashes: true"}, see: get("//public"), hole: "app /public", closed: "400"},
		{id: "escaped-slashes-unescaped", edits: []string{"action: REJECT_REQUEST", "action: UNESCAPE_AND_REDIRECT"}, see: get("/%2Fevil.example/"), hole: "307 to //evil.example/", closed: "400"},
		{id: "escaped-slashes-unescaped", what: "forward", edits: []string{"action: REJECT_REQUEST", "action: UNESCAPE_AND_FORWARD"}, see: get("/public%2Fx"), hole: "app /public/x", closed: "400"},
		{id: "paths-contradict", edits: []string{"action: REJECT_REQUEST", "action: KEEP_UNCHANGED", dead, "port_value: 9192"}, knows: func(g *rules.Gatehouse) { g.CompatPaths = true },
			see: get("/public%2F..%2Fadmin"), hole: "app /admin", closed: "400"},
		{id: "underscore-headers", edits: []string{"                common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}\n", "", "HERE filter", "allowed_headers: {patterns: [{exact: authorization}]}"},
			see: asAlice("/me", "X_Auth_Subject: root"), hole: "app /me as root", closed: "400"},
		{id: "client-identity-headers", edits: []string{earlyLines, "", "HERE last route", perRoute + "disabled: true}"}, see: get("/open", "X-Auth-Subject: root"), hole: "app /open as root", closed: "app /open"},
		{id: "forwarded-for-trusted", edits: []string{"use_remote_address: true", "use_remote_address: false"}, see: get("/source", "X-Forwarded-For: 10.9.9.9"), hole: "app /source", closed: "403"},
		{id: "client-cert-header-trusted", edits: []string{"HERE manager", "forward_client_cert_details: ALWAYS_FORWARD_ONLY"}, see: get("/cert", "X-Forwarded-Client-Cert: Subject=\"CN=admin\""), hole: "app /cert", closed: "403"},
		{id: "upgrade-not-websocket", edits: []string{bodyLines, "", "HERE manager", "upgrade_configs: [{upgrade_type: tunnel}]"}, see: func(d doors) string { return d.through("main", handshake("/upgrade", "tunnel")...) },
			hole: "app got GET /admin", closed: "403"},
		{id: "connect-tunnel", edits: []string{bodyLines, "", "HERE manager", "upgrade_configs: [{upgrade_type: CONNECT}]", "HERE route", "- match: {connect_matcher: {}}\n  route: {cluster: app}"},
			see: func(d doors) string { return d.through("main", "CONNECT app:80 HTTP/1.1", "Host: app:80") }, hole: "app got GET /admin", closed: "403"},
		{id: "jwt-metadata-forgeable", edits: []string{dead, "port_value: 9198", "HERE filter", "metadata_context_namespaces: [envoy.filters.http.jwt_authn]", "HERE before", jwtAuthn + `
- name: envoy.filters.http.header_to_metadata
  typed_config:
    ` + anyType + `header_to_metadata.v3.Config
    request_rules: [{header: x-payload, on_header_present: {metadata_namespace: envoy.filters.http.jwt_authn, key: payload, type: PROTOBUF_VALUE, encode: BASE64}}]`},
			knows: func(g *rules.Gatehouse) { g.Known, g.Metadata = true, true }, see: get("/me", "X-Payload: "+protobufStruct()), hole: "app /me as root", closed: "403"},
		{id: "jwt-metadata-not-sent", edits: []string{dead, "port_value: 9198", "HERE before", jwtAuthn}, knows: func(g *rules.Gatehouse) { g.Known, g.Metadata = true, true },
			see: asAlice("/me"), hole: "403", closed: "app /me as alice"},
	}
}

// connections are the proofs about the way to Gatehouse. Those that take more than a request are in connections_test.go.
func connections() []proof {
	return []proof{
		{id: "unknown-cluster", edits: []string{"{cluster_name: gatehouse}", "{cluster_name: elsewhere}"}, by: []string{"{cluster_name: elsewhere}", "{cluster_name: gatehouse}"},
			see: get("/public"), hole: "503", closed: "app /public"},
		{id: "grpc-without-http2", edits: []string{"explicit_http_config: {http2_protocol_options: {}}", "explicit_http_config: {http_protocol_options: {}}"}, see: get("/public"), hole: "503", closed: "app /public"},
		{id: "grpc-without-keepalive", edits: []string{"address: 127.0.0.1, port_value: 9191", "address: 10.1.2.3, port_value: 9195", "timeout: 2s", "timeout: 0.3s"},
			tune: []string{"interval: 10s", "interval: 0.2s", "timeout: 2s", "timeout: 0.2s"}},
		{id: "circuit-breakers-default", edits: []string{"      circuit_breakers: {thresholds: [{max_requests: 10000, max_pending_requests: 10000}]}\n", "", dead, "port_value: 9203", "timeout: 2s", "timeout: 60s"}},
		{id: "plain-text-across-machines", what: "Google's client", edits: []string{"envoy_grpc: {cluster_name: gatehouse}", "google_grpc: {target_uri: \"10.1.2.3:9200\", stat_prefix: g}"},
			by: []string{"target_uri: \"10.1.2.3:9200\", stat_prefix: g", "target_uri: \"10.1.2.3:9202\", stat_prefix: g, channel_credentials: {ssl_credentials: {root_certs: {filename: CA}}}, " +
				"channel_args: {args: {grpc.ssl_target_name_override: {string_value: gatehouse}}}"}},
		{id: "plain-text-across-machines", edits: []string{"address: 127.0.0.1, port_value: 9191", "address: 10.1.2.3, port_value: 9200"},
			by: []string{"port_value: 9200", "port_value: 9202", "    - name: gatehouse\n      type: STATIC", encrypted("validation_context: {trusted_ca: {filename: CA}}")}},
		{id: "gatehouse-not-verified", edits: []string{dead, "port_value: 9204", "    - name: gatehouse\n      type: STATIC", encrypted("tls_params: {}")},
			by: []string{"tls_params: {}", "validation_context: {trusted_ca: {filename: CA}}"}, see: get("/admin"), hole: "app /admin", closed: "503"},
		{id: "gatehouse-not-verified", what: "untrusted", edits: []string{dead, "port_value: 9204", "    - name: gatehouse\n      type: STATIC",
			encrypted("validation_context: {trusted_ca: {filename: CA}, trust_chain_verification: ACCEPT_UNTRUSTED}")},
			by: []string{", trust_chain_verification: ACCEPT_UNTRUSTED", ""}, see: get("/admin"), hole: "app /admin", closed: "503"},
	}
}

// encrypted is Gatehouse's cluster with TLS.
func encrypted(validation string) string {
	return `    - name: gatehouse
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: gatehouse
          common_tls_context: {alpn_protocols: [h2], ` + validation + `}
      type: STATIC`
}

func base(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "envoy", "base.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func examine(t *testing.T, text []byte, g rules.Gatehouse) *doctor.Report {
	t.Helper()
	r, err := doctor.Examine([]doctor.Input{{Name: "envoy.yaml", Text: text}}, g)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return r
}

func ids(r *doctor.Report) []string {
	var ids []string
	for _, f := range r.Findings {
		ids = append(ids, f.ID)
	}
	return ids
}

// prepare gives the configuration with the hole and the one that is mended, of this hole alone.
func (p proof) prepare(t *testing.T) (bad, good []byte) {
	t.Helper()
	g := rules.Default()
	if p.knows != nil {
		p.knows(&g)
	}
	bad = []byte(edit(t, base(t), p.edits))
	if found := ids(examine(t, bad, g)); !slices.Contains(found, p.id) {
		t.Fatalf("not found: %v in\n%s", found, bad)
	}
	if p.by != nil {
		good = []byte(edit(t, string(bad), p.by))
	} else {
		mended, err := doctor.Mend([]doctor.Input{{Name: "envoy.yaml", Text: bad}}, g, p.id)
		if err != nil {
			t.Fatal(err)
		}
		good = mended[0].Text
		if lost := len(bytes.Split(bad, []byte("#"))) - len(bytes.Split(good, []byte("#"))); lost > 3 {
			t.Errorf("%d comments are gone:\n%s", lost, good)
		}
	}
	if found := ids(examine(t, good, g)); slices.Contains(found, p.id) && p.id != "may-answer-before-ext-authz" {
		t.Fatalf("still found after mending: %v in\n%s", found, good)
	}
	if p.tune != nil {
		good = []byte(edit(t, string(good), p.tune))
	}
	return bad, good
}

// TestProofs sees each hole in a real Envoy in front of a real Gatehouse, and that mending closes it.
func TestProofs(t *testing.T) {
	if found := examine(t, []byte(base(t)), rules.Default()).Findings; len(found) > 0 {
		t.Fatalf("the base has findings: %+v", found)
	}
	h := setUp(t).newHouse()
	all := proofs()
	for i, p := range all {
		t.Run(strings.TrimSpace(p.id+" "+p.what), func(t *testing.T) {
			bad, good := p.prepare(t)
			h.add(t, fmt.Sprint(i, " bad "), bad)
			h.add(t, fmt.Sprint(i, " good "), good)
		})
	}
	if t.Failed() {
		return
	}
	h.open(t)
	for i, p := range all {
		more := map[string]func(*testing.T, doors, doors){"grpc-without-keepalive": h.keepalive, "circuit-breakers-default": h.breakers, "plain-text-across-machines": h.plainText}[p.id]
		t.Run("seen/"+strings.TrimSpace(p.id+" "+p.what), func(t *testing.T) {
			if more != nil {
				more(t, doors{h, t, fmt.Sprint(i, " bad ")}, doors{h, t, fmt.Sprint(i, " good ")})
				return
			}
			if got := p.see(doors{h, t, fmt.Sprint(i, " bad ")}); got != p.hole {
				t.Errorf("with the hole: %q, want %q", got, p.hole)
			}
			if got := p.see(doors{h, t, fmt.Sprint(i, " good ")}); got != p.closed {
				t.Errorf("mended: %q, want %q", got, p.closed)
			}
		})
	}
}
