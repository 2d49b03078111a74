package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"

	"gatehouse/bundles"
	"gatehouse/decisionlog"
	"gatehouse/gate"
	"gatehouse/identity"
	"gatehouse/policy"
	"gatehouse/routes"
)

// config is gatehouse.yaml. Every key is optional. The doc tags are what docs/config.md says of a key.
type config struct {
	StateDir    string            `yaml:"state_dir" doc:"A folder of our own for what must outlive a restart: the last good key sets and bundles of what is remote, the history of all bundles with rollbacks and serials, and the signing key of headers.jwt. It is made where it is missing. Changes need a restart. Default: none, and nothing is kept."`
	Listen      listenConfig      `yaml:"listen" doc:"Where Gatehouse listens. Changes need a restart."`
	Identity    identityConfig    `yaml:"identity" doc:"Which credentials are accepted. At most one end-user credential may be on a request; two different ones are bad_credential."`
	Services    []serviceConfig   `yaml:"services" doc:"Servers that bundles come from and that status and decisions go to: whom to trust, and the credential that they want."`
	Headers     headersConfig     `yaml:"headers" doc:"What the application sees of the caller on an allowed request. What the client sent under these names never reaches it."`
	Policy      policyConfig      `yaml:"policy" doc:"What decides."`
	Routes      routesConfig      `yaml:"routes" doc:"The application's own route table: what GET /orders/17 is to it. gatehouse routes import writes one."`
	Apps        []appConfig       `yaml:"apps" doc:"Several applications behind one Gatehouse, each with its own routes and decision. Without it routes, policy.decision and policy.root speak of the only one. Bundles are shared."`
	Paths       pathsConfig       `yaml:"paths" doc:"Which path forms get to the policy; see docs/security.md."`
	Denials     denialsConfig     `yaml:"denials" doc:"What a denial looks like to the client."`
	Bypass      []bypassConfig    `yaml:"bypass" doc:"Requests that are let through before any credential or policy is looked at. Each is logged. Default: none."`
	DryRun      dryRunConfig      `yaml:"dry_run" doc:"true lets every denial through, with the would-be verdict in dynamic metadata, log and metric. A mapping {allow_extension: true} leaves it to Envoy's routes: the context extension gatehouse.dry_run with the value true. Default: false."`
	Limits      limitsConfig      `yaml:"limits" doc:"Bounds on one request, and on how many are decided at once."`
	DecisionLog decisionLogConfig `yaml:"decision_log" doc:"Where each decision is recorded."`
	Status      statusConfig      `yaml:"status" doc:"Where the state of the bundles is reported to, in the format of OPA's status API. What cannot be sent is not queued: the newest state counts."`
	Traces      tracesConfig      `yaml:"traces" doc:"OpenTelemetry traces: one span for each decision, below the span that the request's W3C or B3 headers name."`
	Log         logConfig         `yaml:"log" doc:"Operators' events, on standard error."`

	Plain bool `yaml:"-"` // gatehouse serve --plain
}

type listenConfig struct {
	GRPC           []string     `yaml:"grpc" doc:"Addresses of the ext_authz gRPC service: host:port or unix:/path.sock. Default: [\"127.0.0.1:9191\"]."`
	HTTP           *httpConfig  `yaml:"http" doc:"Authorization over HTTP, for proxies that do not speak Envoy's gRPC. grpc may then be an empty list. Default: none."`
	Admin          string       `yaml:"admin" doc:"Address of /healthz, /readyz, /metrics and /status, read-only. Empty string: none. Default: 127.0.0.1:9192."`
	Control        string       `yaml:"control" doc:"A unix socket (unix:/path.sock, mode 0600) for gatehouse bundle rollback, unpin and history: the only place that changes anything. Default: none."`
	JWKS           string       `yaml:"jwks" doc:"Address at which applications find the keys of headers.jwt: HTTP, GET /.well-known/jwks.json and nothing else. Default: none."`
	TLS            *tlsConfig   `yaml:"tls" doc:"TLS on the TCP addresses of grpc and http. Default: none, so keep to loopback or a unix socket."`
	Socket         socketConfig `yaml:"socket" doc:"Mode and owner of unix sockets."`
	MaxConnections int          `yaml:"max_connections" doc:"Most connections at once on one address. Where all are taken, the oldest one that has had no answer yet gives way to the next; where each has had one, the next is refused. Default: 1024."`
	MaxPerPeer     int          `yaml:"max_connections_per_peer" doc:"Most of them for one peer: an IPv4 address, the /64 of an IPv6 address, on a unix socket the user. Raise it where all proxies come by way of one address. Default: 0, which is half of max_connections."`
	MaxStreams     int          `yaml:"max_streams" doc:"Most requests at once on one connection; Envoy opens further connections by itself. Default: 1000."`
	MaxRequests    int          `yaml:"max_requests" doc:"Most requests at once on all connections. Beyond it the connection is cut that has most requests which do not get on: not sent to their end, or with an answer that nobody takes. Without such a one nothing happens: limits.concurrent bounds honest load. Default: 8192."`
	MaxPending     size         `yaml:"max_pending" doc:"Most bytes of requests that are not complete yet, on all connections. Beyond it the connection with most of them is cut. Default: 256MiB."`
	Handshake      duration     `yaml:"handshake_timeout" doc:"How long TLS and the beginning of HTTP/2 may take. Default: 5s."`
	FirstRequest   duration     `yaml:"first_request_timeout" doc:"How long a new gRPC connection may go without a first answered request. One that has had an answer is never cut for being idle. Default: 30s."`
	RequestTimeout duration     `yaml:"request_timeout" doc:"How long a request over gRPC may take to arrive, from its first byte to its last; then its connection is cut. More than the timeout of Envoy's ext_authz filter. Over HTTP it is 10s. Default: 10s."`
	Idle           duration     `yaml:"idle_timeout" doc:"How long a connection may be idle. Over gRPC it is then ended with GOAWAY, which costs no request; over HTTP it should be more than the proxy's own idle time, so that the proxy ends it first (Envoy 1h, Traefik 90s, nginx 60s). Default: 90m."`
	MaxAge         duration     `yaml:"max_age" doc:"How old a gRPC connection may become; then it is ended with GOAWAY, and requests under way have a minute. 0s: as old as it likes. Default: 24h."`
	DrainDelay     duration     `yaml:"drain_delay" doc:"How long to say NOT_SERVING before the listeners close, so that health checks notice: more than their interval times their threshold, plus the cluster's update_merge_window (1s in Envoy unless set). Default: 0s."`
	DrainTimeout   duration     `yaml:"drain_timeout" doc:"How long requests under way may take to end at shutdown. Default: 10s."`
}

type httpConfig struct {
	Address    string `yaml:"address" doc:"host:port or unix:/path.sock. Required."`
	Proxy      string `yaml:"proxy" doc:"Who asks: envoy (http_service), nginx (auth_request) or traefik (ForwardAuth). Only that proxy's own fields are believed: X-Original-* of nginx, X-Forwarded-* of traefik. Required."`
	PathPrefix string `yaml:"path_prefix" doc:"Envoy's path_prefix, which is taken off every path. A request without it is denied (bad_request). Default: none."`
}

type tlsConfig struct {
	Cert       string `yaml:"cert" doc:"Certificate chain, PEM. Watched: a changed file is in use within seconds, a broken one is reported and the old stays."`
	Key        string `yaml:"key" doc:"Its private key, PEM."`
	ClientCA   string `yaml:"client_ca" doc:"Certificates, PEM: a client must show one that they signed (mTLS). Default: clients show none."`
	MinVersion string `yaml:"min_version" doc:"\"1.2\" or \"1.3\". Default: \"1.2\"."`
}

type socketConfig struct {
	Mode  string `yaml:"mode" doc:"File mode in octal. Default: \"0660\"."`
	Owner string `yaml:"owner" doc:"User that owns the socket. Default: the one that runs Gatehouse."`
	Group string `yaml:"group" doc:"Group that owns the socket. Default: the one that runs Gatehouse."`
}

type identityConfig struct {
	Required      bool                  `yaml:"required" doc:"true denies a request without a credential (401) before the policy is asked. Default: false."`
	JWT           []jwtConfig           `yaml:"jwt" doc:"Accepted issuers. A token's iss claim selects the entry, and only that entry's keys verify it."`
	Introspection []introspectionConfig `yaml:"introspection" doc:"Servers that say what an opaque token is worth (RFC 7662)."`
	APIKeys       apiKeysConfig         `yaml:"api_keys" doc:"Keys that gatehouse identity new-key made."`
	Metadata      metadataConfig        `yaml:"jwt_authn_metadata" doc:"Trust what Envoy's own jwt_authn filter verified. Only where every route to Gatehouse has that filter in front."`
	Peer          peerConfig            `yaml:"peer" doc:"What input.peer is taken from."`
}

type jwtConfig struct {
	Preset     string              `yaml:"preset" doc:"auth0, okta, keycloak, entra, google or cognito: fills in what is not set here (docs/identity.md). Default: none."`
	Domain     string              `yaml:"domain" doc:"The preset's host; for keycloak with its path."`
	Tenant     string              `yaml:"tenant" doc:"The preset's tenant: entra's directory, keycloak's realm, okta's authorization server, cognito's user pool."`
	Issuer     string              `yaml:"issuer" doc:"The iss claim, compared byte for byte. Required without a preset."`
	Audiences  []string            `yaml:"audiences" doc:"The aud claim must hold one of these. Required, unless client_ids is set."`
	ClientIDs  []string            `yaml:"client_ids" doc:"The client_id claim, else azp, must be one of these: for providers whose tokens have no aud; without audiences, a token that has aud is refused. Default: any, where audiences is set."`
	Parties    []string            `yaml:"authorized_parties" doc:"The azp claim, where a token has it, must be one of these. Default: any."`
	Algorithms []string            `yaml:"algorithms" doc:"Accepted signature algorithms. Default: [RS256, PS256, ES256, ES384, EdDSA]. none and HS* do not exist here."`
	Type       string              `yaml:"type" doc:"The token's typ header must be this, such as at+jwt (RFC 9068). Default: absent, JWT or at+jwt."`
	TokenUse   string              `yaml:"token_use" doc:"The token_use claim must be this: cognito's access or id. Default: not looked at."`
	MaxAge     duration            `yaml:"max_age" doc:"Longest time since the iat claim, which is then required. Default: only exp counts."`
	Require    map[string][]string `yaml:"require" doc:"Claims that must be present, each with one of the listed values (true, false and numbers as JSON writes them; one of a list is enough); an empty list takes any. Default: none."`
	Keys       keysConfig          `yaml:"keys" doc:"Where the issuer's public keys are."`
	From       []tokenConfig       `yaml:"from" doc:"Where its tokens are looked for. Default: [{header: authorization, scheme: Bearer}]."`
	Claims     claimsConfig        `yaml:"claims" doc:"Which claims become subject, roles, groups, scopes and e-mail: names, or names joined with dots for a claim within an object. Several with spaces between them are all read; */roles is the one claim whose name is a URL that ends so."`
	ClockSkew  duration            `yaml:"clock_skew" doc:"Tolerance for exp, nbf and iat, at most 5m. Default: 30s."`
}

type keysConfig struct {
	File      string   `yaml:"file" doc:"A JWK set, or PEM public keys and certificates. Watched."`
	URL       string   `yaml:"url" doc:"A JWK set; https, or http on loopback."`
	Discovery bool     `yaml:"discovery" doc:"true finds the url in the issuer's own metadata (OpenID Connect Discovery). The issuer's host and the one that its metadata names for the keys are asked, no others. Default: false."`
	Refresh   duration `yaml:"refresh" doc:"How often a url is fetched. Default: 5m."`
	MaxStale  duration `yaml:"max_stale" doc:"How long the last good set serves while the url cannot be read; after that the issuer's tokens are unavailable (503). At least twice refresh, at most 720h. Default: 24h."`
}

type tokenConfig struct {
	Header string `yaml:"header" doc:"A header's name."`
	Scheme string `yaml:"scheme" doc:"The authentication scheme in front of the token, such as Bearer."`
	Cookie string `yaml:"cookie" doc:"A cookie's name, instead of a header."`
	Query  string `yaml:"query" doc:"A query parameter's name, instead of a header. Its value ends up in access logs and browser histories."`

	WebsocketProtocol string `yaml:"websocket_protocol" doc:"The element of Sec-WebSocket-Protocol behind which the token stands, such as bearer, instead of a header: for scripts in browsers, new WebSocket(url, [\"bearer\", token])."`
	Chunked           bool   `yaml:"chunked" doc:"true also takes a token that is spread over the cookies NAME_0, NAME_1 and so on, at most ten. With cookie. Default: false."`
}

type claimsConfig struct {
	Subject         string `yaml:"subject" doc:"A string; of several the first that is there. email counts only where email_verified is true, or with unverified_email. Default: sub."`
	Roles           string `yaml:"roles" doc:"Default: roles."`
	Groups          string `yaml:"groups" doc:"Default: groups."`
	Scopes          string `yaml:"scopes" doc:"Default: scope."`
	Email           string `yaml:"email" doc:"Default: email."`
	UnverifiedEmail bool   `yaml:"unverified_email" doc:"true takes the address although the email_verified claim is not true. Default: false."`
}

type introspectionConfig struct {
	URL              string        `yaml:"url" doc:"The introspection endpoint; https, or http on loopback. Required."`
	Issuer           string        `yaml:"issuer" doc:"JSON Web Tokens with this iss claim are asked about too, instead of verified here. Default: opaque tokens only."`
	ClientID         string        `yaml:"client_id" doc:"Who we are to the server. Required."`
	ClientSecretFile string        `yaml:"client_secret_file" doc:"A file with the client's secret. Watched. One of it and private_key_file is required."`
	PrivateKeyFile   string        `yaml:"private_key_file" doc:"A PEM private key (RSA, EC or Ed25519) for private_key_jwt (RFC 7523). Watched."`
	KeyID            string        `yaml:"key_id" doc:"The kid of the assertion that private_key_file signs, where the server looks its key up by one. Default: none."`
	Audience         string        `yaml:"assertion_audience" doc:"The aud of that assertion. Default: issuer where it is set, else url."`
	Audiences        []string      `yaml:"audiences" doc:"The answer's aud must hold one of these. Default: not looked at."`
	From             []tokenConfig `yaml:"from" doc:"Where its tokens are looked for. Default: [{header: authorization, scheme: Bearer}]."`
	Claims           claimsConfig  `yaml:"claims" doc:"As identity.jwt[].claims."`
	Timeout          duration      `yaml:"timeout" doc:"How long one question may take; then the request is denied (unavailable). Default: 2s."`
	CacheFor         duration      `yaml:"cache_for" doc:"How long an answer is used, at most until exp: a revoked token works so much longer. Default: 1m."`
}

type apiKeysConfig struct {
	File   string `yaml:"file" doc:"The keys as gatehouse identity new-key prints them. Watched. Default: none are accepted."`
	Header string `yaml:"header" doc:"The header that carries a key; no token may have the same place. Default: x-api-key."`
	Scheme string `yaml:"scheme" doc:"The authentication scheme in front of the key, such as Key; required for authorization. Default: none."`
}

type metadataConfig struct {
	Name string `yaml:"name" doc:"The provider's payload_in_metadata: the key below envoy.filters.http.jwt_authn. Default: none is trusted."`
}

type peerConfig struct {
	From []string `yaml:"from" doc:"tls is the client certificate that Envoy verified, as it tells in source.principal; xfcc the last element of x-forwarded-client-cert, where there is such a principal. Default: [tls]."`
}

type headersConfig struct {
	Subject          string          `yaml:"subject" doc:"Header that carries the verified subject. Default: x-auth-subject."`
	Roles            string          `yaml:"roles" doc:"Header that carries the roles, joined with commas; a comma or percent sign within one is percent-encoded. Default: x-auth-roles."`
	Groups           string          `yaml:"groups" doc:"Header that carries the groups, as roles. Default: none."`
	Scopes           string          `yaml:"scopes" doc:"Header that carries the scopes, as roles. Default: none."`
	Email            string          `yaml:"email" doc:"Header that carries the e-mail address, where the issuer vouches for it. Default: none."`
	JSON             string          `yaml:"json" doc:"Header that carries all of it: base64 (RFC 4648 section 4) of {sub, iss, type, roles, groups, scopes, email}. A caller who would need more than 8000 bytes is denied (bad_credential). Default: none."`
	JWT              headerJWTConfig `yaml:"jwt" doc:"One signed header: a short-lived token of our own, which the application verifies by the keys at listen.jwks."`
	RemoveCredential bool            `yaml:"remove_credential" doc:"true takes the caller's own credential off the request to the application: header, cookie or query parameter, wherever identity looks for one. nginx and Traefik have to name the headers (docs/security.md). Default: false."`
}

type headerJWTConfig struct {
	Name      string   `yaml:"name" doc:"Header that carries the token. Default: none, and none is made."`
	Audience  string   `yaml:"audience" doc:"Its aud claim: the application. Required."`
	Issuer    string   `yaml:"issuer" doc:"Its iss claim. Default: gatehouse."`
	Lifetime  duration `yaml:"lifetime" doc:"From iat to exp, 2s to 1h; never longer than the caller's own credential. One token serves for half of it. Default: 1m."`
	KeyFile   string   `yaml:"key_file" doc:"A private key on P-256 or Ed25519, PEM. Watched; the old key is published until its last token expires. Default: one made here, and kept in state_dir."`
	Algorithm string   `yaml:"algorithm" doc:"ES256 or EdDSA. Default: what key_file is for, else ES256."`
}

type policyConfig struct {
	Decision     string             `yaml:"decision" doc:"Path of the decision: envoy/authz/allow is data.envoy.authz.allow. Default: envoy/authz/allow."`
	Root         string             `yaml:"root" doc:"Instead of decision: one rule for each route. orders asks data.orders.GET.orders.__id.allowed for GET /orders/{id}. Needs routes.file. Default: none."`
	StrictRoutes bool               `yaml:"strict_routes" doc:"true stops the activation of a policy in which a route has no rule. Default: false, and it is only reported."`
	Timeout      duration           `yaml:"timeout" doc:"How long one evaluation may take; then the request is denied (timeout). Default: 100ms."`
	AllowHeaders []string           `yaml:"allow_headers" doc:"Headers that a policy may set although they are refused by default: host, pseudo-headers, framing and hop-by-hop headers. Default: none."`
	Memo         memoConfig         `yaml:"memo" doc:"Decisions that are remembered: a request that the policy cannot tell from an earlier one gets the decision of that one, without being evaluated. It is only done where that is sure to be the same (gatehouse check says for which rule it is not, and why). auto or a mapping; off evaluates each request. Default: auto."`
	Capabilities capabilitiesConfig `yaml:"capabilities" doc:"Built-ins that reach out of the process and are off by default."`
	Protos       string             `yaml:"protos" doc:"A FileDescriptorSet (protoc --include_imports --descriptor_set_out): bodies of the gRPC methods in it are parsed for the policy. Watched. Default: none."`
	Bundles      []bundleConfig     `yaml:"bundles" doc:"Where policy and data come from. Required, unless --bundle is given."`
	Tests        ownTestsConfig     `yaml:"tests" doc:"The bundles' own tests, *_test.rego, which a bundle has to pass before it gets active."`
	Smoke        []string           `yaml:"smoke" doc:"Tables of requests, as gatehouse test reads them, that must hold under a policy before it gets active: that the administrators are not locked out, for one. Read at the start and at each reload. Default: none."`
	Keep         int                `yaml:"keep" doc:"How many earlier policies are kept to roll back to, at most 100: as they came, in state_dir or else in memory. Default: 5."`
	KeepSize     size               `yaml:"keep_size" doc:"Most bytes of bundles (unpacked) that are kept so; the last one is kept whatever its size. Default: 16MiB."`
}

type routesConfig struct {
	File      string          `yaml:"file" doc:"The route table, YAML. Watched; a broken one is reported and the old one stays. Default: none."`
	Unmatched unmatchedConfig `yaml:"unmatched" doc:"Requests that no route takes: deny, or policy to ask about them all the same; or a mapping. Default: deny."`
}

// unmatchedConfig is "deny" or "policy", or says so for redirects and for all else.
type unmatchedConfig struct {
	Redirect string `yaml:"redirect" doc:"Requests that the application redirects to their path with or without a closing slash: deny, or policy to decide them as the route of that path, with input.route.redirect. Default: deny."`
	Other    string `yaml:"other" doc:"All others: deny or policy. Default: deny."`
}

func (c *unmatchedConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		type plain unmatchedConfig
		return n.Decode((*plain)(c))
	}
	*c = unmatchedConfig{Other: n.Value}
	return nil
}

type appConfig struct {
	Name   string          `yaml:"name" doc:"The application's name: input.app, and in the decision log. Required."`
	Match  matchConfig     `yaml:"match" doc:"Which requests are its own. Envoy's routes can also name it by the context extension gatehouse.app."`
	Routes routesConfig    `yaml:"routes" doc:"Its route table."`
	Policy appPolicyConfig `yaml:"policy" doc:"What decides about it."`
}

type matchConfig struct {
	Hosts []string `yaml:"hosts" doc:"Host names, or *.example.com for every name below it; the port does not count, so Envoy must ignore it too (docs/security.md). Default: every host that no other application has."`
}

type appPolicyConfig struct {
	Decision     string `yaml:"decision" doc:"As policy.decision. Default: envoy/authz/allow."`
	Root         string `yaml:"root" doc:"As policy.root, instead of decision."`
	StrictRoutes bool   `yaml:"strict_routes" doc:"As policy.strict_routes."`
}

type memoConfig struct {
	Off     bool `yaml:"-"`
	Size    size `yaml:"size" doc:"Most memory for remembered decisions; the ones that were not used for longest make room. 64KiB or more. Default: 16MiB."`
	Recheck int  `yaml:"recheck" doc:"One in so many requests that got a remembered decision is evaluated all the same, afterwards. If that gives another decision, which must never be, it is an error in the log, gatehouse_memo_alarm is 1, and nothing is remembered any more for this policy. Default: 1024."`
}

// UnmarshalYAML implements yaml.Unmarshaler: off, auto, or the mapping.
func (c *memoConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		type plain memoConfig
		return n.Decode((*plain)(c))
	}
	switch n.Value {
	case "auto":
	case "off":
		c.Off = true
	default:
		return &valueError{fmt.Sprintf("%q is neither auto, off nor a mapping", n.Value)}
	}
	return nil
}

func (c memoConfig) validate() error {
	switch {
	case c.Size != 0 && c.Size < 64<<10:
		return fmt.Errorf("policy.memo.size: %d bytes: must be 64KiB or more; policy.memo: off turns it off", c.Size)
	case c.Recheck < 0:
		return fmt.Errorf("policy.memo.recheck: %d: must be above zero", c.Recheck)
	}
	return nil
}

type capabilitiesConfig struct {
	HTTPSend  httpSendConfig `yaml:"http_send" doc:"http.send."`
	NetLookup []string       `yaml:"net_lookup_ip_addr" doc:"Names that net.lookup_ip_addr may look up. Default: none, and it does not exist."`
	Runtime   bool           `yaml:"opa_runtime" doc:"opa.runtime; what it shows is always empty. Default: false."`
}

type httpSendConfig struct {
	Hosts   []string `yaml:"hosts" doc:"Hosts that http.send may call, without port. Default: none, and http.send does not exist."`
	Private bool     `yaml:"private" doc:"true lets those hosts have loopback, private and link-local addresses. Default: false."`
	Cache   size     `yaml:"cache" doc:"Most memory for answers that are kept for other requests, where the policy asks for it with cache or force_cache; a new policy starts empty. Default: 10MiB."`
}

type ownTestsConfig struct {
	Timeout duration `yaml:"timeout" doc:"How long all of them together may take. Default: 10s."`
	Off     bool     `yaml:"off" doc:"true does not run them. Default: false."`
}

type bundleConfig struct {
	Name  string `yaml:"name" doc:"The bundle's name, in logs and metrics. Default: the last element of path, url or image, without .tar.gz or tag."`
	Path  string `yaml:"path" doc:"A directory, or a bundle's tarball (.tar.gz or .tar). Watched. One of path, url and image is required."`
	URL   string `yaml:"url" doc:"A bundle on an HTTP server: OPA's bundle service with its deltas and long polls, or any server of files with ETags. https, or http on loopback."`
	Image string `yaml:"image" doc:"A bundle in a registry: a reference by tag, which is followed, or by digest."`

	Service        string    `yaml:"service" doc:"The service whose certificates and credential are used for url; for image ca, cert, key and plain_http alone. Default: none."`
	CredentialFile string    `yaml:"credential_file" doc:"For image: a file like Docker's config.json, which may name credential helpers. Default: Docker's own."`
	Interval       duration  `yaml:"interval" doc:"How often to ask url or image for something newer, a fifth more or less. Default: 1m."`
	LongPoll       *duration `yaml:"long_poll" doc:"How long a bundle service may hold a question until there is something newer; 0s does not ask it to. Default: 30s."`
	MaxAge         duration  `yaml:"max_age" doc:"How long the bundle counts that its source no longer confirms. 0s: for ever. Default: 0s."`
	AfterMaxAge    string    `yaml:"after_max_age" doc:"What happens then, until the source is back: serve goes on deciding and says so (log, status, gatehouse_bundle_expired); deny decides nothing (not_ready). Default: serve."`

	Required *bool          `yaml:"required" doc:"false: there is a policy without this bundle too, until it was there for the first time. Default: true."`
	Signing  *signingConfig `yaml:"signing" doc:"Whose signature the bundle must carry (.signatures.json, as opa sign makes it). With it nothing gets active that is unsigned, or that has a file more, less or other than was signed; and no delta. Default: signatures are not looked at."`
}

type signingConfig struct {
	Keys       []signingKeyConfig `yaml:"keys" doc:"The keys that are good. At least one."`
	Serial     bool               `yaml:"serial" doc:"true asks for a whole number metadata.serial in the manifest, and refuses a bundle with a lower one than was active already. Default: false."`
	AllowHS256 bool               `yaml:"allow_hs256" doc:"true accepts keys of the algorithm HS256, with which whoever can verify can sign too. Default: false."`
}

type signingKeyConfig struct {
	ID        string `yaml:"id" doc:"The key's name in the signature (kid, or OPA's keyid). Required."`
	File      string `yaml:"file" doc:"A public key or a certificate, PEM. Read anew for each bundle. Required."`
	Algorithm string `yaml:"algorithm" doc:"RS256, PS256, ES256, ES384 or EdDSA; also RS384, RS512, PS384, PS512, ES512, and HS256 where it is allowed. Required."`
	Scope     string `yaml:"scope" doc:"The signature's claim scope must be this. Default: it must have none."`
}

// verification is what package bundles makes of it, nil for nil.
func (c *signingConfig) verification() *bundles.Verification {
	if c == nil {
		return nil
	}
	v := &bundles.Verification{Serial: c.Serial, AllowHS256: c.AllowHS256}
	for _, k := range c.Keys {
		v.Keys = append(v.Keys, bundles.Key{ID: k.ID, File: k.File, Algorithm: k.Algorithm, Scope: k.Scope})
	}
	return v
}

type pathsConfig struct {
	Compat bool     `yaml:"compat" doc:"true reads paths and sets headers exactly as opa-envoy-plugin does, and refuses no path form. Default: false."`
	Allow  []string `yaml:"allow" doc:"Path forms to let through: dot_segments, double_slash, encoded_slash, backslash, control_bytes, bad_escape, double_encoding, invalid_utf8, fragment, not_absolute, encoded_question, encoded_semicolon. Default: none."`
}

type denialsConfig struct {
	LoginURL  string                    `yaml:"login_url" doc:"Where a browser is sent instead of a 401. {return} stands for the path it came for; without it the parameter rd is added. Default: none."`
	Templates map[string]templateConfig `yaml:"templates" doc:"Bodies of your own, by HTTP status."`
}

type templateConfig struct {
	ContentType string `yaml:"content_type" doc:"The body's media type. text/html escapes the values. Required."`
	Body        string `yaml:"body" doc:"A Go template over .Status, .Title, .Reason, .DecisionID, .Method and .Path."`
	File        string `yaml:"file" doc:"A file that holds the body, instead of body."`
}

type bypassConfig struct {
	Method    string `yaml:"method" doc:"The exact method."`
	Path      string `yaml:"path" doc:"The exact path, without query."`
	Preflight bool   `yaml:"preflight" doc:"true matches CORS preflights only (OPTIONS with Origin and Access-Control-Request-Method); path may then be left out."`
}

type dryRunConfig struct {
	Always         bool `yaml:"-"`
	AllowExtension bool `yaml:"allow_extension" doc:"true lets Envoy's configuration turn dry run on for a route."`
}

type limitsConfig struct {
	Message    size `yaml:"message" doc:"Most bytes of one request as Envoy sends it, body included; above it 413. Default: 1MiB."`
	Headers    int  `yaml:"headers" doc:"Most header lines of a request; above it 431. Default: 256."`
	Concurrent int  `yaml:"concurrent" doc:"Most evaluations at once; above it 503 overloaded. 0 is no limit. Default: 0."`
}

type decisionLogConfig struct {
	File     string            `yaml:"file" doc:"A file, or - for standard output: short for the first of sinks. Without it and sinks there is no decision log. Default: none."`
	Sinks    []sinkConfig      `yaml:"sinks" doc:"Where else decisions go, each sink at its own pace. Several, and one that is a server, need dir or state_dir. Default: none."`
	OnFull   string            `yaml:"on_full" doc:"When the log cannot keep up: wait (bounded by the request's deadline), drop (counted, and recorded as a gap) or deny. Default: wait."`
	Labels   map[string]string `yaml:"labels" doc:"Written with every entry."`
	MaxEntry size              `yaml:"max_entry" doc:"Longest line; a longer one loses its input. Default: 64KiB."`
	Redact   redactConfig      `yaml:"redact" doc:"Credentials to take out beyond those known by default."`
	Headers  []string          `yaml:"headers" doc:"Names of the request headers whose values are recorded; of the others only that they were there. What explain and replay cannot see they say. Default: all, but for credentials."`
	Mask     []maskConfig      `yaml:"mask" doc:"What else to take out of an entry on its way out of dir: JSON pointers, or {op, path, value} as in OPA. The policy can say more, in data.system.log.mask (docs/decisionlog.md). Default: nothing."`
	Claims   []string          `yaml:"claims" doc:"Names of claims of the caller that are recorded. Default: none."`
	Keep     duration          `yaml:"keep_bundles" doc:"How long a bundle is kept in state_dir after it was last active, by the digest that its decisions name: for gatehouse explain, and for replay --old auto. 0s keeps none. Default: 720h."`
	KeepSize size              `yaml:"keep_bundles_size" doc:"Most bytes of bundles that are kept so; the oldest go first, the active ones never. Default: 256MiB."`
	Dir      string            `yaml:"dir" doc:"A folder for decisions that are not in the log yet: they are there before they are answered, and outlive the process. It belongs to one process, and is made where it is missing. Needs Linux. Default: decisions in state_dir, and without that they wait in memory."`
	Sync     duration          `yaml:"sync" doc:"How often dir is synced to the disk: what a loss of power may cost at most. Default: 1s."`
	MaxSize  size              `yaml:"max_size" doc:"Most bytes in dir, at least sixteen times max_entry; then on_full decides. Default: 1GiB."`
}

type redactConfig struct {
	Headers []string `yaml:"headers" doc:"Names of headers."`
	Params  []string `yaml:"params" doc:"Names of query parameters, and of members of the body."`
}

type tracesConfig struct {
	OTLP     string  `yaml:"otlp" doc:"host:port of an OTLP collector's gRPC receiver. Empty: no traces. Default: none. Changes need a restart."`
	Insecure bool    `yaml:"insecure" doc:"true speaks plain text to the collector; only for loopback or a mesh. Default: false."`
	Ratio    float64 `yaml:"ratio" doc:"Share of the requests without a parent span that begin a trace, 0 to 1. With a parent its decision holds. Default: 0."`
}

type logConfig struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error. Default: info."`
	Format string `yaml:"format" doc:"json or console. Default: json."`
}

// UnmarshalYAML takes true, false or a mapping.
func (c *dryRunConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Decode(&c.Always) != nil {
			return &valueError{fmt.Sprintf("%q is neither true, false nor a mapping", n.Value)}
		}
		return nil
	}
	type plain dryRunConfig
	return n.Decode((*plain)(c))
}

func defaults() *config {
	return &config{
		Listen: listenConfig{GRPC: []string{"127.0.0.1:9191"}, Admin: "127.0.0.1:9192", Socket: socketConfig{Mode: "0660"}, MaxConnections: 1024, MaxStreams: 1000,
			MaxRequests: 8192, MaxPending: 256 << 20, Handshake: duration(5 * time.Second), FirstRequest: duration(30 * time.Second),
			RequestTimeout: duration(10 * time.Second), Idle: duration(90 * time.Minute), MaxAge: duration(24 * time.Hour),
			DrainTimeout: duration(10 * time.Second)},
		Headers: headersConfig{Subject: "x-auth-subject", Roles: "x-auth-roles"},
		Policy: policyConfig{Timeout: duration(100 * time.Millisecond), Tests: ownTestsConfig{Timeout: duration(10 * time.Second)},
			Keep: 5, KeepSize: 16 << 20},
		Limits:      limitsConfig{Message: 1 << 20, Headers: 256},
		DecisionLog: decisionLogConfig{Keep: duration(30 * 24 * time.Hour), KeepSize: 256 << 20},
		Log:         logConfig{Level: "info", Format: "json"},
	}
}

const defaultDecision = "envoy/authz/allow"

// complete makes the only application of the short form, and fills in defaults that depend on other keys.
func (c *config) complete(doc *document) {
	if len(c.Apps) > 0 {
		for i := range c.Apps {
			if p := &c.Apps[i].Policy; p.Decision == "" && p.Root == "" {
				p.Decision = defaultDecision
			}
		}
		for _, key := range []string{"routes", "policy.decision", "policy.root", "policy.strict_routes"} {
			if line, set := doc.lines[key]; set {
				doc.fail(line, "%s: speaks of the only application, and there are apps: set it in each of them", key)
			}
		}
		c.Policy.Decision = ""
		return
	}
	if c.Policy.Root == "" && c.Policy.Decision == "" {
		c.Policy.Decision = defaultDecision
	}
}

// applications are the apps, or the one of the short form.
func (c *config) applications() []appConfig {
	if len(c.Apps) > 0 {
		return c.Apps
	}
	return []appConfig{{Routes: c.Routes, Policy: appPolicyConfig{Decision: c.Policy.Decision, Root: c.Policy.Root, StrictRoutes: c.Policy.StrictRoutes}}}
}

// apps are the applications as the gate takes them.
func (c *config) apps() []gate.App {
	var out []gate.App
	for _, a := range c.applications() {
		app := gate.App{Name: a.Name, Hosts: a.Match.Hosts, AllowUnmatched: a.Routes.Unmatched.Other == "policy",
			Redirects: a.Routes.Unmatched.Redirect == "policy", StrictRoutes: a.Policy.StrictRoutes}
		if a.Policy.Decision != "" {
			app.Decision = strings.Split(a.Policy.Decision, "/")
		}
		if a.Policy.Root != "" {
			app.Root = strings.FieldsFunc(a.Policy.Root, func(r rune) bool { return r == '/' || r == '.' })
		}
		out = append(out, app)
	}
	return out
}

func (c *config) validateApps() error {
	var errs []error
	for i, a := range c.applications() {
		where := ""
		if len(c.Apps) > 0 {
			where = fmt.Sprintf("apps[%d].", i)
		}
		for key, u := range map[string]string{"": a.Routes.Unmatched.Other, ".redirect": a.Routes.Unmatched.Redirect} {
			if u != "" && u != "deny" && u != "policy" {
				errs = append(errs, fmt.Errorf("%sroutes.unmatched%s: %q is neither deny nor policy", where, key, u))
			}
		}
		if a.Policy.Root != "" && a.Routes.File == "" {
			errs = append(errs, fmt.Errorf("%spolicy.root: one rule for each route needs a route table: set routes.file", where))
		}
	}
	return errors.Join(errs...)
}

// source says where the configuration comes from: a file, or defaults with a bundle directory.
type source struct {
	file   string // --config
	bundle string // --bundle
	// instead puts the bundle in the place of the configuration's.
	instead bool
	plain   bool // --plain
}

// insteadOfBundles leaves one bundle, by the name of the one that it takes the place of.
func (c *config) insteadOfBundles(path string) {
	name := ""
	if len(c.Policy.Bundles) == 1 {
		name = c.Policy.Bundles[0].Name
	}
	c.Policy.Bundles = []bundleConfig{{Name: name, Path: path}}
}

// read gives the configuration and the document that its problems are located in, the ones found so far among them. Relative paths become relative to the
// file's directory.
func (s source) read() (*config, *document, error) {
	cfg := defaults()
	cfg.Plain = s.plain
	doc := &document{file: "command line", lines: map[string]int{}}
	if s.file != "" {
		text, err := readBounded(s.file)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the configuration: %w", err)
		}
		if doc, err = decodeYAML(s.file, text, cfg); err != nil {
			return nil, nil, err
		}
		cfg.relativeTo(filepath.Dir(s.file))
	}
	cfg.complete(doc)
	if s.bundle != "" && s.instead {
		cfg.insteadOfBundles(s.bundle)
	} else if s.bundle != "" {
		cfg.Policy.Bundles = append(cfg.Policy.Bundles, bundleConfig{Path: s.bundle})
	}
	for i := range cfg.Policy.Bundles {
		if b := &cfg.Policy.Bundles[i]; b.Name == "" && b.Path != "" {
			if abs, err := filepath.Abs(b.Path); err == nil {
				b.Name = bundleName(abs)
			}
		} else if b.Name == "" {
			b.Name = b.remoteName()
		}
	}
	return cfg, doc, nil
}

// bundleName is the default name of the bundle at a path.
func bundleName(path string) string {
	name := filepath.Base(path)
	for _, ending := range []string{".tar.gz", ".tgz", ".tar"} {
		if short, ok := strings.CutSuffix(name, ending); ok && short != "" {
			return short
		}
	}
	return name
}

func readBounded(file string) ([]byte, error) { return readUpTo(file, maxConfig) }

func readUpTo(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, limit)
	}
	return text, nil
}

func (c *config) relativeTo(dir string) {
	resolve := func(p *string) {
		if *p != "" && *p != "-" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	resolve(&c.StateDir)
	resolve(&c.Headers.JWT.KeyFile)
	c.resolveRemote(resolve)
	for i := range c.Identity.JWT {
		resolve(&c.Identity.JWT[i].Keys.File)
	}
	for i := range c.Identity.Introspection {
		resolve(&c.Identity.Introspection[i].ClientSecretFile)
		resolve(&c.Identity.Introspection[i].PrivateKeyFile)
	}
	resolve(&c.Identity.APIKeys.File)
	for i := range c.Policy.Bundles {
		resolve(&c.Policy.Bundles[i].Path)
		if signing := c.Policy.Bundles[i].Signing; signing != nil {
			for k := range signing.Keys {
				resolve(&signing.Keys[k].File)
			}
		}
	}
	for i := range c.Policy.Smoke {
		resolve(&c.Policy.Smoke[i])
	}
	if path, ok := cutUnix(c.Listen.Control); ok && path != "" {
		resolve(&path)
		c.Listen.Control = "unix:" + path
	}
	resolve(&c.DecisionLog.File)
	for i := range c.DecisionLog.Sinks {
		resolve(&c.DecisionLog.Sinks[i].File)
	}
	resolve(&c.DecisionLog.Dir)
	resolve(&c.Policy.Protos)
	resolve(&c.Routes.File)
	for i := range c.Apps {
		resolve(&c.Apps[i].Routes.File)
	}
	if t := c.Listen.TLS; t != nil {
		resolve(&t.Cert)
		resolve(&t.Key)
		resolve(&t.ClientCA)
	}
	for i, address := range c.Listen.GRPC {
		if path, ok := cutUnix(address); ok && path != "" {
			resolve(&path)
			c.Listen.GRPC[i] = "unix:" + path
		}
	}
	if h := c.Listen.HTTP; h != nil {
		if path, ok := cutUnix(h.Address); ok && path != "" {
			resolve(&path)
			h.Address = "unix:" + path
		}
	}
	for status, t := range c.Denials.Templates {
		resolve(&t.File)
		c.Denials.Templates[status] = t
	}
}

// problems collects what is wrong with a configuration, each with the place of its key.
type problems struct {
	doc  *document
	errs []error
}

// add files every error that err joins under the key at path.
func (p *problems) add(path string, err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			p.add(path, e)
		}
		return
	}
	at := p.doc.at(path)
	if about, ok := errors.AsType[*keyError](err); ok {
		if _, known := p.doc.lines[about.path]; known {
			at = p.doc.at(about.path)
		}
	} else if found := p.doc.locate(err.Error()); found != "" {
		at = found
	}
	p.errs = append(p.errs, fmt.Errorf("%s: %w", at, err))
}

// locate finds the key that a message begins with, as in "policy.timeout: must be above zero".
func (d *document) locate(message string) string {
	path, _, ok := strings.Cut(message, ": ")
	if !ok || strings.ContainsAny(path, " \"") {
		return ""
	}
	if _, known := d.lines[path]; !known {
		return ""
	}
	return d.at(path)
}

// verifierConfig is the identity section as package identity takes it.
func (c *config) verifierConfig(logger *zap.Logger, r prometheus.Registerer) identity.Config {
	id := c.Identity
	out := identity.Config{Logger: logger, Registerer: r, Metadata: id.Metadata.Name, Peer: id.Peer.From,
		APIKeys: identity.APIKeys{File: id.APIKeys.File, Header: id.APIKeys.Header, Scheme: id.APIKeys.Scheme}}
	if c.StateDir != "" {
		out.Dir = filepath.Join(c.StateDir, "keys")
	}
	for _, j := range id.JWT {
		out.Issuers = append(out.Issuers, identity.Issuer{Preset: j.Preset, Domain: j.Domain, Tenant: j.Tenant,
			Issuer: j.Issuer, Audiences: j.Audiences, ClientIDs: j.ClientIDs, Parties: j.Parties, Algorithms: j.Algorithms,
			Type: j.Type, TokenUse: j.TokenUse, MaxAge: time.Duration(j.MaxAge), Require: j.Require,
			Keys: identity.KeySource{File: j.Keys.File, URL: j.Keys.URL, Discovery: j.Keys.Discovery,
				Refresh: time.Duration(j.Keys.Refresh), MaxStale: time.Duration(j.Keys.MaxStale)},
			From: tokenSources(j.From), Claims: identity.ClaimPaths(j.Claims), ClockSkew: time.Duration(j.ClockSkew)})
	}
	for _, i := range id.Introspection {
		out.Introspection = append(out.Introspection, identity.Introspection{URL: i.URL, Issuer: i.Issuer, ClientID: i.ClientID,
			SecretFile: i.ClientSecretFile, KeyFile: i.PrivateKeyFile, KeyID: i.KeyID, AssertionAudience: i.Audience, Audiences: i.Audiences, From: tokenSources(i.From),
			Claims: identity.ClaimPaths(i.Claims), Timeout: time.Duration(i.Timeout), CacheFor: time.Duration(i.CacheFor)})
	}
	return out
}

func tokenSources(from []tokenConfig) []identity.TokenSource {
	var out []identity.TokenSource
	for _, f := range from {
		out = append(out, identity.TokenSource(f))
	}
	return out
}

func (c *config) bundlesConfig(logger *zap.Logger, r prometheus.Registerer, publish func(context.Context, *policy.Snapshot) error) bundles.Config {
	keep := c.Policy.Keep
	if keep == 0 {
		keep = -1
	}
	out := bundles.Config{Logger: logger, Registerer: r, Publish: publish, TestTimeout: time.Duration(c.Policy.Tests.Timeout), SkipTests: c.Policy.Tests.Off,
		Keep: keep, KeepBytes: int64(c.Policy.KeepSize),
		Policy: policy.Config{Decision: c.Policy.Decision, AllowHeaders: c.Policy.AllowHeaders,
			Capabilities: policy.Capabilities{HTTPSend: c.Policy.Capabilities.HTTPSend.Hosts, HTTPSendPrivate: c.Policy.Capabilities.HTTPSend.Private,
				HTTPSendCache: int64(c.Policy.Capabilities.HTTPSend.Cache),
				NetLookup:     c.Policy.Capabilities.NetLookup, Runtime: c.Policy.Capabilities.Runtime}}}
	c.addRemote(&out)
	services := c.services()
	for _, b := range c.Policy.Bundles {
		out.Sources = append(out.Sources, bundles.Source{Name: b.Name, Path: b.Path, Remote: b.remote(services), Verification: b.Signing.verification(),
			Optional: b.Required != nil && !*b.Required})
	}
	return out
}

func (c *config) logConfig(logger *zap.Logger, r prometheus.Registerer) decisionlog.Config {
	d := c.DecisionLog
	redact := decisionlog.Redact{Headers: slices.Clone(d.Redact.Headers), Only: d.Headers}
	redact.Headers, redact.Params = append(redact.Headers, c.Identity.APIKeys.Header, c.Headers.JWT.Name), slices.Clone(d.Redact.Params)
	for _, f := range c.Identity.places() {
		redact.Headers, redact.Params = append(redact.Headers, f.Header), append(redact.Params, f.Query)
		if f.WebsocketProtocol != "" {
			redact.Headers = append(redact.Headers, "sec-websocket-protocol")
		}
		place := identity.TokenSource{Cookie: f.Cookie, Chunked: f.Chunked}
		redact.Cookies = append(redact.Cookies, place.CookieNames()...)
	}
	unnamed := func(s string) bool { return s == "" }
	redact.Headers, redact.Params = slices.DeleteFunc(redact.Headers, unnamed), slices.DeleteFunc(redact.Params, unnamed)
	if d.Dir == "" && c.StateDir != "" {
		d.Dir = filepath.Join(c.StateDir, "decisions")
	}
	return decisionlog.Config{File: d.File, Sinks: d.sinks(), OnFull: d.OnFull, MaxEntry: int(d.MaxEntry), Labels: d.Labels, Logger: logger, Registerer: r,
		Redact: redact, Masks: d.masks(), Claims: d.Claims, Dir: d.Dir, Sync: time.Duration(d.Sync), MaxSize: int64(d.MaxSize), Plain: c.Plain}
}

// places are where a credential may be, for those who must not show it.
func (c identityConfig) places() []tokenConfig {
	var all []tokenConfig
	for _, j := range c.JWT {
		all = append(all, j.From...)
	}
	for _, i := range c.Introspection {
		all = append(all, i.From...)
	}
	return all
}

// configured reports whether any credential is accepted.
func (c identityConfig) configured() bool {
	return len(c.JWT)+len(c.Introspection) > 0 || c.APIKeys.File != "" || c.Metadata.Name != ""
}

// settings are the gate's part of the configuration.
func (c *config) settings(v *identity.Verifier, m *identity.Minter) (*gate.Settings, error) {
	s := &gate.Settings{
		Verifier: v,
		Required: c.Identity.Required,
		Headers:  c.Headers.names(m),
		Paths:    gate.PathRules{Compat: c.Paths.Compat},
		Apps:     c.apps(),
		Timeout:  time.Duration(c.Policy.Timeout),
		Memo:     gate.Memo{Off: c.Policy.Memo.Off, Bytes: int64(c.Policy.Memo.Size), Sample: c.Policy.Memo.Recheck},
		Plain:    c.Plain,
		Limits:   gate.Limits{Message: int(c.Limits.Message), Headers: c.Limits.Headers, Concurrent: c.Limits.Concurrent},
		DryRun:   c.DryRun.Always, DryRunExtension: c.DryRun.AllowExtension,
	}
	forms, unknown := routes.ParseForms(c.Paths.Allow)
	if unknown != nil {
		unknown = fmt.Errorf("paths.allow: %w: one of %s", unknown, routes.AllForms())
	}
	s.Paths.Allow = forms
	for _, b := range c.Bypass {
		s.Bypass = append(s.Bypass, gate.Bypass{Method: b.Method, Path: b.Path, Preflight: b.Preflight})
	}
	var denials error
	s.Denials, denials = c.Denials.compile()
	return s, errors.Join(denials, unknown, c.validateApps(), c.Policy.Memo.validate(), withKeys(s.Validate()))
}

func (c headersConfig) names(m *identity.Minter) gate.IdentityHeaders {
	out := gate.IdentityHeaders{Subject: c.Subject, Roles: c.Roles, Groups: c.Groups, Scopes: c.Scopes, Email: c.Email, JSON: c.JSON,
		RemoveCredential: c.RemoveCredential}
	if m != nil { // else it is not configured, or what is wrong with it was said
		out.Token, out.Minter, out.Audience = c.JWT.Name, m, c.JWT.Audience
	}
	return out
}

func (c denialsConfig) compile() (gate.Denials, error) {
	var errs []error
	templates := map[int]gate.Template{}
	for _, name := range slices.Sorted(maps.Keys(c.Templates)) {
		t := c.Templates[name]
		var status int
		if _, err := fmt.Sscanf(name, "%d", &status); err != nil || fmt.Sprint(status) != name {
			errs = append(errs, fmt.Errorf("denials.templates.%s: the key is an HTTP status such as 403", name))
			continue
		}
		body := t.Body
		if t.File != "" {
			text, err := readBounded(t.File)
			if err != nil {
				errs = append(errs, fmt.Errorf("denials.templates.%s.file: %w", name, err))
				continue
			}
			body = string(text)
		}
		templates[status] = gate.Template{ContentType: t.ContentType, Body: body}
	}
	denials, err := gate.NewDenials(c.LoginURL, templates)
	return denials, errors.Join(append(errs, withKeys(err))...)
}
