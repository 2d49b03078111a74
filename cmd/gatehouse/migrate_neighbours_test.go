package main

import (
	"strings"
	"testing"
)

// TestMigrateNeighbours has what the documents of OPA show of services, bundles and caches: the result loads, and says what it should.
func TestMigrateNeighbours(t *testing.T) {
	for name, tt := range map[string]struct {
		opa       string
		has, lost []string // of the result, and of what is said about it
		never     []string
	}{
		"two authorities": {opa: `services:
  mtls: {url: "https://e.example.com", tls: {ca_cert: /a.pem, system_ca_required: false}, credentials: {client_tls: {cert: /c.pem, private_key: /k.pem, ca_cert: /b.pem}}}
bundles: {a: {service: mtls}}`, has: []string{`ca: "/a.pem"`}, never: []string{"/b.pem"}},
		"an object of Google's": {opa: `services:
  gcs: {url: "https://storage.googleapis.com/storage/v1/b/b1/o", credentials: {gcp_metadata: {scopes: ["s"]}}}
bundles: {a: {service: gcs, resource: "bundle.tar.gz?alt=media"}, b: {service: gcs, resource: "b.tar.gz?alt=media&sig=Zq-hunter2"}}`,
			has: []string{`o/bundle.tar.gz?alt=media"`, `o/b.tar.gz"`}, lost: []string{"bundles.b.resource"}, never: []string{"hunter2"}},
		"a signed grant": {opa: `services:
  s: {url: "https://e.example.com", credentials: {oauth2: {token_url: "https://t.example.com", grant_type: jwt_bearer, signing_key: k, scopes: [s]}}}
bundles: {a: {service: s}}`, has: []string{`service: "s"`}, lost: []string{"oauth2.grant_type", "oauth2.signing_key", "name that in bearer_file"}, never: []string{"oauth2: {", "s.secret"}},
		"a grant of client credentials": {opa: `services:
  s: {url: "https://e.example.com", credentials: {oauth2: {token_url: "https://t.example.com", client_id: c, client_secret: Zq-hunter2}}}
bundles: {a: {service: s}}`, has: []string{`oauth2: {token_url: "https://t.example.com", client_id: "c", client_secret_file: "s.secret"}`}, lost: []string{"put this one into s.secret"}, never: []string{"hunter2"}},
		"headers": {opa: `services:
  s: {url: "https://e.example.com", headers: {x-tenant: acme, Authorization: "Bearer Zq-hunter2", X-Api-Key: Zq-hunter2, x-other: "Bearer Zq-hunter2", x-partner-token: "${TOKEN}"}}
bundles: {a: {service: s}}`, has: []string{`"x-tenant": "acme"`, `"x-partner-token": "${TOKEN}"`},
			lost: []string{"services.s.headers.Authorization", "services.s.headers.X-Api-Key", "services.s.headers.x-other"}, never: []string{"hunter2"}},
		"a registry": {opa: `services:
  reg: {url: "https://ghcr.io", type: oci, credentials: {bearer: {scheme: Basic, token: "Zq-hunter2"}}}
bundles: {a: {service: reg, resource: "ghcr.io/org/policy:1"}}`, has: []string{`image: "ghcr.io/org/policy:1"`}, lost: []string{"credential_file"}, never: []string{"hunter2", "reg.token"}},
		"a cache": {opa: `caching: {inter_query_builtin_cache: {max_size_bytes: 10485760, forced_eviction_threshold_percentage: 70}, inter_query_builtin_value_cache: {max_num_entries: 5}}
bundles: {a: {resource: "file:///none"}}`, has: []string{"http_send: {cache: 10MiB}"}, lost: []string{"caching.inter_query_builtin_cache.forced_eviction_threshold_percentage", "caching.inter_query_builtin_value_cache"}},
		"a cache without a limit": {opa: `caching: {inter_query_builtin_cache: {max_size_bytes: 0}}
bundles: {a: {resource: "file:///none"}}`, lost: []string{"caching.inter_query_builtin_cache.max_size_bytes"}, never: []string{"{cache:"}},
		"a terminal": {opa: "\"a\\nlisten: {grpc: [x]}\\e[31m\": 1\nbundles: {\"q\\u009b1m\": {resource: \"file:///none\"}}", lost: []string{`a\nlisten`}, never: []string{"\x1b", "\u009b", "\nlisten: {grpc: [x]}"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TOKEN", "t")
			_, result, messages := migrated(t, tt.opa+"\nplugins: {envoy_ext_authz_grpc: {path: envoy/authz/allow}}\n")
			for _, text := range tt.has {
				if !strings.Contains(result, text) {
					t.Errorf("no %s in\n%s", text, result)
				}
			}
			for _, text := range tt.lost {
				if !strings.Contains(messages, text) {
					t.Errorf("nothing of %s in\n%s", text, messages)
				}
			}
			for _, text := range tt.never {
				if strings.Contains(result+messages, text) {
					t.Errorf("%q in\n%s\n%s", text, result, messages)
				}
			}
		})
	}
}
