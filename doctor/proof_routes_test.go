package doctor_test

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse/doctor/rules"
)

const (
	// hostRoutes are the routes of the base's virtual host, and mainRoutes all of its route configuration.
	hostRoutes = `                      routes:
                        # HERE route
                        - match: {prefix: /}
                          route: {cluster: app}
                          # HERE last route
`
	mainRoutes = `                route_config:
                  name: main
                  # HERE routes
                  virtual_hosts:
                    - name: app
                      domains: ["*"]
                      # HERE host
` + hostRoutes
	filterOff   = `{envoy.filters.http.ext_authz: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}`
	routeType   = `"@type": type.googleapis.com/envoy.config.route.v3.Route`
	anyAddress  = "- name: anywhere\n  type: ORIGINAL_DST\n  connect_timeout: 1s\n  lb_policy: CLUSTER_PROVIDED"
	statusInput = `{name: c, typed_config: {"@type": type.googleapis.com/envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput}}`
	// luaChooses chooses a cluster by a header.
	luaChooses = `                  cluster_specifier_plugins: [{extension: {name: l, typed_config: {"@type": type.googleapis.com/envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig,
                    default_cluster: app, source_code: {inline_string: "function envoy_on_route(h) return h:headers():get('x-cluster') end"}}}}]
`
	generic = `
- name: second
  address: {socket_address: {address: 127.0.0.1, port_value: 8080}}
  filter_chains:
    - filters:
        - name: generic
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.generic_proxy.v3.GenericProxy
            stat_prefix: generic
            codec_config: {name: http1, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.generic_proxy.codecs.http1.v3.Http1CodecConfig}}
            filters: [{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.generic_proxy.router.v3.Router}}]
            route_config:
              name: r
              virtual_hosts:
                - name: a
                  hosts: ["*"]
                  routes:
                    on_no_match: {action: {name: a, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.generic_proxy.action.v3.RouteAction, cluster: app}}}`
	// sni has the client name the cluster, by the server name of its TLS.
	sni = `
- name: second
  address: {socket_address: {address: 127.0.0.1, port_value: 8080}}
  listener_filters: [{name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]
  filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context: {tls_certificates: [{certificate_chain: {filename: CA}, private_key: {filename: KEY}}]}
      filters:
        - name: sni
          typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.sni_cluster.v3.SniCluster}
        - name: envoy.filters.network.tcp_proxy
          typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: private}`
)

// quic is the second listener over HTTP/3.
var quic = strings.NewReplacer("socket_address: {address: 127.0.0.1,", "socket_address: {protocol: UDP, address: 127.0.0.1,", "  filter_chains:\n    - filters:", `  udp_listener_config: {quic_options: {}}
  filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.quic
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport
          downstream_tls_context: {common_tls_context: {alpn_protocols: [h3], tls_certificates: [{certificate_chain: {filename: CA}, private_key: {filename: KEY}}]}}
      filters:`, "stat_prefix: second", "stat_prefix: second\n            codec_type: HTTP3\n            http3_protocol_options: {}").Replace(second)

// customResponse answers in the place of a denial.
func customResponse(policy string) string {
	return "- name: custom\n  typed_config:\n    " + anyType + `custom_response.v3.CustomResponse
    custom_response_matcher:
      matcher_list:
        matchers:
          - predicate: {single_predicate: {input: ` + statusInput + `, value_match: {exact: "403"}}}
            on_match: {action: {name: a, typed_config: {"@type": type.googleapis.com/envoy.extensions.http.custom_response.` + policy + `}}}`
}

func scoped(routes string) string {
	return `scoped_routes: {name: s, scope_key_builder: {fragments: [{header_value_extractor: {name: x-scope, index: 0}}]}, scoped_route_configurations_list:
  {scoped_route_configurations: [{name: one, key: {fragments: [{string_key: a}]}, route_configuration: {name: r, virtual_hosts: [{name: app, domains: ["*"], routes: [` + routes + `]}]}}]}}`
}

// toPrivate asks with a header that names the address of the other application.
func toPrivate(header string) func(doors) string {
	return func(d doors) string {
		return d.ask("main", "GET /public", fmt.Sprintf("%s: 127.0.0.1:%d", header, d.ports[8001]))
	}
}

// aroundRoutes are the proofs about routes that are not in a plain list, about ways to an application that are not HTTP to Envoy, and about what a route makes of a
// request.
func aroundRoutes() []proof {
	second403 := func(d doors) string { return d.ask("second", "GET /admin") }
	matcher := "                      matcher: {on_no_match: {action: {name: route, typed_config: {" + routeType + ", match: {prefix: /}, route: {cluster: app}, typed_per_filter_config: " + filterOff + "}}}}\n"
	return []proof{
		{id: "route-disables-ext-authz", what: "in a matcher", edits: []string{hostRoutes, matcher}, see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "route-disables-ext-authz", what: "in a scope", edits: []string{mainRoutes, "                # HERE scopes\n", "HERE scopes", scoped("{match: {prefix: /}, route: {cluster: app}, typed_per_filter_config: " + filterOff + "}")},
			see: get("/admin", "X-Scope: a"), hole: "app /admin", closed: "403"},
		{id: "route-disables-ext-authz", what: "weighted cluster", edits: []string{"route: {cluster: app}", "route: {weighted_clusters: {clusters: [{name: app, weight: 1, typed_per_filter_config: " + filterOff + "}]}}"},
			see: get("/admin"), hole: "app /admin", closed: "403"},
		{id: "listener-without-ext-authz", what: "routes in a matcher", edits: []string{"HERE listeners", strings.Replace(second, "routes: [{match: {prefix: /}, route: {cluster: app}}]",
			"matcher: {on_no_match: {action: {name: route, typed_config: {"+routeType+", match: {prefix: /}, route: {cluster: app}}}}}", 1)}, see: second403, hole: "app /admin", closed: "403"},
		{id: "listener-without-ext-authz", what: "default filter chain", edits: []string{"HERE listeners", strings.Replace(second, "filter_chains:\n    - filters:", "default_filter_chain:\n      filters:", 1)},
			see: second403, hole: "app /admin", closed: "403"},
		{id: "listener-without-ext-authz", what: "outbound", edits: []string{"HERE listeners", strings.Replace(second, "- name: second\n", "- name: second\n  traffic_direction: OUTBOUND\n", 1)},
			see: second403, hole: "app /admin", closed: "403"},
		{id: "listener-without-ext-authz", what: "over HTTP/3", edits: []string{"HERE listeners", quic}, see: func(d doors) string { return d.overHTTP3("second", "GET /admin") }, hole: "app /admin", closed: "403"},
		{id: "tcp-proxy-to-app", what: "by the server name", edits: []string{"HERE clusters", private, "HERE listeners", sni},
			see: func(d doors) string { return d.named("second", d.prefix+"app", "GET /admin") }, hole: "app /admin", closed: "nobody listens"},
		{id: "tcp-proxy-to-app", what: "another protocol", edits: []string{"HERE listeners", generic}, see: second403, hole: "app /admin", closed: "nobody listens"},
		{id: "client-chooses-upstream", what: "by filter state", edits: []string{"HERE clusters", anyAddress, "HERE route", anywhere, "HERE after", "- name: s\n  typed_config: {" + anyType +
			"set_filter_state.v3.Config, on_request_headers: [{object_key: envoy.network.transport_socket.original_dst_address, format_string: {text_format_source: {inline_string: '%REQ(x-dst)%'}}}]}"},
			by: []string{"{cluster: anywhere}", "{cluster: app}"}, see: toPrivate("X-Dst"), hole: "private /public", closed: "app /public"},
		{id: "client-chooses-upstream", what: "by metadata", edits: []string{"HERE clusters", anyAddress + "\n  original_dst_lb_config: {metadata_key: {key: dst, path: [{key: to}]}}", "HERE route", anywhere,
			"HERE after", "- name: s\n  typed_config: {" + anyType + "header_to_metadata.v3.Config, request_rules: [{header: x-dst, on_header_present: {metadata_namespace: dst, key: to, type: STRING}}]}"},
			by: []string{"{cluster: anywhere}", "{cluster: app}"}, see: toPrivate("X-Dst"), hole: "private /public", closed: "app /public"},
		{id: "client-chooses-upstream", what: "by a script", edits: []string{"                  # HERE routes\n", luaChooses, "HERE clusters", private, "HERE route", "- match: {prefix: /public}\n  route: {cluster_specifier_plugin: l}"},
			by:  []string{"{cluster_specifier_plugin: l}", "{cluster: app}"},
			see: func(d doors) string { return d.ask("main", "GET /public", "X-Cluster: "+d.prefix+"private") }, hole: "private /public", closed: "app /public"},
		{id: "admin-reachable", what: "by a route", edits: []string{"static_resources:\n", "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}\nstatic_resources:\n",
			"HERE clusters", strings.NewReplacer("private", "admin", "8001", "9901").Replace(private), "HERE route", "- match: {path: /public}\n  route: {cluster: admin, prefix_rewrite: /ready}"},
			by:  []string{"{cluster: admin, prefix_rewrite: /ready}", "{cluster: app}", strings.NewReplacer("private", "admin", "8001", "9901", "\n", "\n    ").Replace(private), ""},
			see: get("/public"), hole: "200", closed: "app /public"},
		{id: "path-rewritten", edits: []string{"HERE route", "- match: {prefix: /public}\n  route: {cluster: app, regex_rewrite: {pattern: {regex: '^/public(/.*)$'}, substitution: '\\1'}}"},
			by: []string{", regex_rewrite: {pattern: {regex: '^/public(/.*)$'}, substitution: '\\1'}", ""}, see: get("/public/admin"), hole: "app /admin", closed: "app /public/admin"},
		{id: "prefix-rewrite-joins", edits: []string{"HERE route", "- match: {prefix: /public}\n  route: {cluster: app, prefix_rewrite: /}"},
			by: []string{"match: {prefix: /public}", "match: {prefix: /public/}"}, see: get("/publicadmin"), hole: "app /admin", closed: "app /publicadmin"},
		{id: "denial-rewritten", edits: []string{"HERE manager", "local_reply_config: {mappers: [{filter: {status_code_filter: {comparison: {op: EQ, value: {default_value: 403, runtime_key: a}}}}, status_code: 200}]}"},
			see: get("/admin"), hole: "200", closed: "403"},
		{id: "denial-rewritten", what: "custom response", edits: []string{"HERE before", customResponse("local_response_policy.v3.LocalResponsePolicy, status_code: 200")}, see: get("/admin"), hole: "200", closed: "403"},
		{id: "denial-rewritten", what: "another page", edits: []string{"HERE before", customResponse(`redirect_policy.v3.RedirectPolicy, uri: "https://app/public", status_code: 200`)},
			see: func(d doors) string {
				conn := d.dial("main")
				defer conn.Close()
				fmt.Fprint(conn, "GET /admin HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
				line := make([]byte, len("HTTP/1.1 200"))
				_, _ = conn.Read(line)
				return string(line)
			}, hole: "HTTP/1.1 200", closed: "HTTP/1.1 403"},
		{id: "credentials-written", edits: []string{"HERE before", "- name: m\n  typed_config: {" + anyType +
			"header_mutation.v3.HeaderMutation, mutations: {request_mutations: [{append: {header: {key: authorization, value: Bearer ALICE}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]}}"},
			see: get("/me"), hole: "app /me as alice", closed: "403"},
		{id: "credentials-written", what: "early", edits: []string{"{remove: x-auth-roles}]", "{remove: x-auth-roles}, {append: {header: {key: authorization, value: Bearer ALICE}}}]"},
			see: get("/me"), hole: "app /me as alice", closed: "403"},
		{id: "credentials-written", what: "by a route", edits: []string{"HERE before", "- name: m\n  typed_config: {" + anyType + "header_mutation.v3.HeaderMutation, mutations: {}}",
			"HERE last route", "typed_per_filter_config:\n  m: {" + anyType + "header_mutation.v3.HeaderMutationPerRoute, mutations: {request_mutations: [{append: {header: {key: authorization, value: Bearer ALICE}}}]}}"},
			see: get("/me"), hole: "app /me as alice", closed: "403"},
	}
}

// TestQuiet are configurations that look like holes and are none.
func TestQuiet(t *testing.T) {
	inner := strings.Replace(second, "address: {socket_address: {address: 127.0.0.1, port_value: 8080}}", "internal_listener: {}", 1)
	for name, edits := range map[string][]string{
		"an internal listener behind ext_authz": {"HERE listeners", inner, "route: {cluster: app}", "route: {cluster: inner}", "HERE clusters",
			"- name: inner\n  connect_timeout: 1s\n  load_assignment:\n    cluster_name: inner\n    endpoints: [{lb_endpoints: [{endpoint: {address: {envoy_internal_address: {server_listener_name: second}}}}]}]"},
		"outbound beside inbound": {"HERE listener", "traffic_direction: INBOUND", "HERE listeners", strings.Replace(second, "- name: second\n", "- name: second\n  traffic_direction: OUTBOUND\n", 1)},
		"pages for what is not found": {"HERE manager", "local_reply_config: {mappers: [{filter: {status_code_filter: {comparison: {op: EQ, value: {default_value: 404, runtime_key: a}}}}, status_code: 200}]}",
			"HERE before", strings.Replace(customResponse("local_response_policy.v3.LocalResponsePolicy, status_code: 200"), `"403"`, `"404"`, 1)},
		"a credential from the client's own cookie": {"HERE before", "- name: m\n  typed_config: {" + anyType +
			"header_mutation.v3.HeaderMutation, mutations: {request_mutations: [{append: {header: {key: authorization, value: 'Bearer %REQ(x-token)%'}}}]}}"},
		"a route's mutation in front": {"HERE before", "- name: m\n  typed_config: {" + anyType + "header_mutation.v3.HeaderMutation, mutations: {}}",
			"HERE last route", "typed_per_filter_config:\n  m: {" + anyType + "header_mutation.v3.HeaderMutationPerRoute, mutations: {request_mutations: [{remove: x-auth-subject}]}}"},
		"a prefix as it should be":   {"HERE route", "- match: {prefix: /api/}\n  route: {cluster: app, prefix_rewrite: /}"},
		"TLS by a private authority": {dead, "port_value: 9202", "    - name: gatehouse\n      type: STATIC", encrypted("validation_context: {trusted_ca: {filename: /etc/gatehouse/ca.pem}}")},
	} {
		r := examine(t, []byte(edit(t, base(t), edits)), rules.Default())
		if found := ids(r.AtLeast(rules.Warning)); len(found) > 0 {
			t.Errorf("%s: found %v", name, found)
		}
	}
}

// TestFetched are configurations of which a part comes while Envoy runs: what is not there cannot be looked at, and that is said.
func TestFetched(t *testing.T) {
	fetched := "{path_config_source: {path: /etc/envoy/x.yaml}}"
	for name, edits := range map[string][]string{
		"listeners":     {"static_resources:\n", "dynamic_resources: {lds_config: " + fetched + "}\nstatic_resources:\n"},
		"routes":        {mainRoutes, "                rds: {route_config_name: r, config_source: " + fetched + "}\n"},
		"virtual hosts": {mainRoutes, "                route_config: {name: r, vhds: {config_source: " + fetched + "}}\n"},
		"settings": {filterLines, "                  - name: envoy.filters.http.ext_authz\n                    config_discovery: {config_source: " + fetched +
			", type_urls: [type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz]}\n"},
	} {
		if found := ids(examine(t, []byte(edit(t, base(t), edits)), rules.Default())); len(found) != 1 || found[0] != "routes-not-seen" {
			t.Errorf("%s: found %v", name, found)
		}
	}
}
