package config

// Identity says which credentials are accepted.
type Identity struct {
	Required      bool            `yaml:"required" doc:"true denies a request without a credential (401) before the policy is asked. Default: false."`
	JWT           []JWT           `yaml:"jwt" doc:"Accepted issuers. A token's iss claim selects the entry, and only that entry's keys verify it."`
	Introspection []Introspection `yaml:"introspection" doc:"Token introspection servers, for opaque tokens (RFC 7662)."`
	APIKeys       APIKeys         `yaml:"api_keys" doc:"Keys that gatehouse identity new-key made."`
	Metadata      Metadata        `yaml:"jwt_authn_metadata" doc:"Trust what Envoy's own jwt_authn filter verified. Only where every route to Gatehouse has that filter in front."`
	Peer          Peer            `yaml:"peer" doc:"What input.peer is taken from."`
}

// JWT is one accepted issuer of tokens, and what its tokens must say.
type JWT struct {
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
	MaxAge     Duration            `yaml:"max_age" doc:"Longest time since the iat claim, which is then required. Default: only exp counts."`
	Require    map[string][]string `yaml:"require" doc:"Claims that must be present, each with one of the listed values (true, false and numbers as JSON writes them; one of a list is enough); an empty list takes any. Default: none."`
	Keys       Keys                `yaml:"keys" doc:"Where the issuer's public keys are."`
	From       []Token             `yaml:"from" doc:"Where its tokens are looked for. Default: [{header: authorization, scheme: Bearer}]."`
	Claims     Claims              `yaml:"claims" doc:"Which claims become subject, roles, groups, scopes and e-mail: names, or names joined with dots for a claim within an object. Several with spaces between them are all read; */roles is the one claim whose name is a URL that ends so."`
	ClockSkew  Duration            `yaml:"clock_skew" doc:"Tolerance for exp, nbf and iat, at most 5m. Default: 30s."`
}

// Keys says where the public keys of an issuer are.
type Keys struct {
	File      string   `yaml:"file" doc:"A JWK set, or PEM public keys and certificates. Watched."`
	URL       string   `yaml:"url" doc:"A JWK set; https, or http on loopback."`
	Discovery bool     `yaml:"discovery" doc:"true finds the url in the issuer's own metadata (OpenID Connect Discovery). The issuer's host and the one that its metadata names for the keys are asked, no others. Default: false."`
	Refresh   Duration `yaml:"refresh" doc:"How often a url is fetched. Default: 5m."`
	MaxStale  Duration `yaml:"max_stale" doc:"How long the last good set serves while the url cannot be read; after that the issuer's tokens are unavailable (503). At least twice refresh, at most 720h. Default: 24h."`
}

// Token is one place of a request where a token is looked for.
type Token struct {
	Header string `yaml:"header" doc:"A header's name."`
	Scheme string `yaml:"scheme" doc:"The authentication scheme in front of the token, such as Bearer."`
	Cookie string `yaml:"cookie" doc:"A cookie's name, instead of a header."`
	Query  string `yaml:"query" doc:"A query parameter's name, instead of a header. Its value ends up in access logs and browser histories."`

	WebsocketProtocol string `yaml:"websocket_protocol" doc:"The element of Sec-WebSocket-Protocol behind which the token stands, such as bearer, instead of a header: for scripts in browsers, new WebSocket(url, [\"bearer\", token])."`
	Chunked           bool   `yaml:"chunked" doc:"true also takes a token that is spread over the cookies NAME_0, NAME_1 and so on, at most ten. With cookie. Default: false."`
}

// Claims says which claims become subject, roles, groups, scopes and e-mail.
type Claims struct {
	Subject         string `yaml:"subject" doc:"A string; of several the first that is there. email counts only where email_verified is true, or with unverified_email. Default: sub."`
	Roles           string `yaml:"roles" doc:"Default: roles."`
	Groups          string `yaml:"groups" doc:"Default: groups."`
	Scopes          string `yaml:"scopes" doc:"Default: scope."`
	Email           string `yaml:"email" doc:"Default: email."`
	UnverifiedEmail bool   `yaml:"unverified_email" doc:"true takes the address although the email_verified claim is not true. Default: false."`
}

// Introspection is one server that says what an opaque token is worth (RFC 7662).
type Introspection struct {
	URL              string   `yaml:"url" doc:"The introspection endpoint; https, or http on loopback. Required."`
	Issuer           string   `yaml:"issuer" doc:"JSON Web Tokens with this iss claim are asked about too, instead of verified here. Default: opaque tokens only."`
	ClientID         string   `yaml:"client_id" doc:"Who we are to the server. Required."`
	ClientSecretFile string   `yaml:"client_secret_file" doc:"A file with the client's secret. Watched. One of it and private_key_file is required."`
	PrivateKeyFile   string   `yaml:"private_key_file" doc:"A PEM private key (RSA, EC or Ed25519) for private_key_jwt (RFC 7523). Watched."`
	KeyID            string   `yaml:"key_id" doc:"The kid of the assertion that private_key_file signs, where the server looks its key up by one. Default: none."`
	Audience         string   `yaml:"assertion_audience" doc:"The aud of that assertion. Default: issuer where it is set, else url."`
	Audiences        []string `yaml:"audiences" doc:"The answer's aud must hold one of these. Default: not looked at."`
	From             []Token  `yaml:"from" doc:"Where its tokens are looked for. Default: [{header: authorization, scheme: Bearer}]."`
	Claims           Claims   `yaml:"claims" doc:"As identity.jwt[].claims."`
	Timeout          Duration `yaml:"timeout" doc:"How long one introspection request may take; then the request is denied (unavailable). Default: 2s."`
	CacheFor         Duration `yaml:"cache_for" doc:"How long an answer is used, at most until exp: a revoked token works so much longer. Default: 1m."`
}

// APIKeys says which API keys are accepted, and where they are looked for.
type APIKeys struct {
	File   string `yaml:"file" doc:"The keys as gatehouse identity new-key prints them. Watched. Default: none are accepted."`
	Header string `yaml:"header" doc:"The header that carries a key; no token may have the same place. Default: x-api-key."`
	Scheme string `yaml:"scheme" doc:"The authentication scheme in front of the key, such as Key; required for authorization. Default: none."`
}

// Metadata trusts what Envoy's own jwt_authn filter verified.
type Metadata struct {
	Name string `yaml:"name" doc:"The provider's payload_in_metadata: the key below envoy.filters.http.jwt_authn. Default: none is trusted."`
}

// Peer says what input.peer is taken from.
type Peer struct {
	From []string `yaml:"from" doc:"tls is the client certificate that Envoy verified, as it tells in source.principal; xfcc the last element of x-forwarded-client-cert, where there is such a principal. Default: [tls]."`
}

// Headers says what the application sees of the caller on an allowed request.
type Headers struct {
	Subject          string            `yaml:"subject" doc:"Header that carries the verified subject. Default: x-auth-subject."`
	Roles            string            `yaml:"roles" doc:"Header that carries the roles, joined with commas; a comma or percent sign within one is percent-encoded. Default: x-auth-roles."`
	Groups           string            `yaml:"groups" doc:"Header that carries the groups, as roles. Default: none."`
	Scopes           string            `yaml:"scopes" doc:"Header that carries the scopes, as roles. Default: none."`
	Email            string            `yaml:"email" doc:"Header that carries the e-mail address, where the issuer vouches for it. Default: none."`
	RolesFrom        string            `yaml:"roles_from" doc:"Where the roles for the application come from, in roles, json and jwt: token; directory, which are those of input.user.roles, and none for a caller who is not in it; or both. The policy sees both in any case. Default: token."`
	GroupsFrom       string            `yaml:"groups_from" doc:"Where the groups come from, likewise. Default: token."`
	Properties       map[string]string `yaml:"properties" doc:"Headers that carry properties of the caller's user in the directory, by header: x-auth-department: department. Strings, numbers and booleans as they are, lists of them as roles; a value that is something else denies the request (policy_error). Default: none."`
	JSON             string            `yaml:"json" doc:"Header that carries all of it: base64 (RFC 4648 section 4) of {sub, iss, type, roles, groups, scopes, email}. A caller who would need more than 8000 bytes is denied (bad_credential). Default: none."`
	JWT              HeaderJWT         `yaml:"jwt" doc:"One signed header: a short-lived token of our own, which the application verifies by the keys at listen.jwks."`
	RemoveCredential bool              `yaml:"remove_credential" doc:"true takes the caller's own credential off the request to the application: header, cookie or query parameter, wherever identity looks for one. nginx and Traefik have to name the headers (docs/security.md). Default: false."`
}

// HeaderJWT is the one signed header: a short-lived token of our own.
type HeaderJWT struct {
	Name      string   `yaml:"name" doc:"Header that carries the token. Default: none, and none is made."`
	Audience  string   `yaml:"audience" doc:"Its aud claim: the application. Required."`
	Issuer    string   `yaml:"issuer" doc:"Its iss claim. Default: gatehouse."`
	Lifetime  Duration `yaml:"lifetime" doc:"From iat to exp, 2s to 1h; never longer than the caller's own credential. One token serves for half of it. Default: 1m."`
	KeyFile   string   `yaml:"key_file" doc:"A private key on P-256 or Ed25519, PEM. Watched; the old key is published until its last token expires. Default: one made here, and kept in state_dir."`
	Algorithm string   `yaml:"algorithm" doc:"ES256 or EdDSA. Default: what key_file is for, else ES256."`
}

// Places are where a credential may be, for those who must not show it.
func (c Identity) Places() []Token {
	var all []Token
	for _, j := range c.JWT {
		all = append(all, j.From...)
	}
	for _, i := range c.Introspection {
		all = append(all, i.From...)
	}
	return all
}

// Configured reports whether any credential is accepted.
func (c Identity) Configured() bool {
	return len(c.JWT)+len(c.Introspection) > 0 || c.APIKeys.File != "" || c.Metadata.Name != ""
}

// ValidateRemoval refuses what no answer over HTTP can say: requests with a token in the query would all be denied.
func (c *Config) ValidateRemoval() error {
	if !c.Headers.RemoveCredential || c.Listen.HTTP == nil {
		return nil
	}
	for _, place := range c.Identity.Places() {
		if place.Query != "" {
			return Wrong("headers.remove_credential", "query parameter %q cannot be taken off over listen.http: use listen.grpc, or another place for the token", place.Query)
		}
	}
	return nil
}
