package identity

import (
	"errors"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"gatehouse/identity/credential"
	"gatehouse/identity/keyset"
)

// WithPreset fills in what the issuer's Preset knows about its provider and what is still empty; without a preset it changes
// nothing. What a preset fixes, so that exactly one kind of the provider's tokens passes:
//
//	preset    domain, tenant             iss                                           tokens               told apart by
//	auth0     domain                     https://DOMAIN/                               access tokens        aud; azp or client_id is there
//	okta      domain, tenant (default)   https://DOMAIN/oauth2/TENANT                  access tokens        aud; cid is there
//	keycloak  domain with path, tenant   https://DOMAIN/realms/TENANT                  access tokens        aud; claim typ is Bearer
//	entra     tenant, a directory's id   https://login.microsoftonline.com/TENANT/v2.0 v2.0 access tokens   aud; ver 2.0, tid, azp is there
//	google    none                       https://accounts.google.com                   ID tokens            aud; header typ JWT
//	cognito   tenant, a user pool's id   https://cognito-idp.REGION.amazonaws.com/POOL access tokens        client_id; token_use access
//
//	preset    roles                  groups          scopes  e-mail  keys
//	auth0     permissions, */roles   */groups        scope   email   https://DOMAIN/.well-known/jwks.json
//	okta      roles                  groups          scp     email   ISS/v1/keys
//	keycloak  realm_access.roles     groups          scope   email   ISS/protocol/openid-connect/certs
//	entra     roles                  groups          scp     email   https://login.microsoftonline.com/TENANT/discovery/v2.0/keys
//	google    roles                  groups          scope   email   https://www.googleapis.com/oauth2/v3/certs
//	cognito   roles                  cognito:groups  scope   email   ISS/.well-known/jwks.json
//
// All but auth0 (RS256, PS256) and keycloak (the default) take RS256 alone. ClientIDs of okta are compared with cid, which is
// its name for the client. Entra's multi-tenant issuers (common, organizations, consumers) are refused: with them, anybody's
// directory could issue. Google writes iss with and without https://; it is only taken with, as its discovery document has it.
// An e-mail address counts where email_verified is true, which Entra, Okta and Cognito do not say in access tokens.
func (i Issuer) WithPreset() (Issuer, error) {
	i, problems := i.withPreset()
	return i, errors.Join(problems...)
}

func (i Issuer) withPreset() (Issuer, []error) {
	fill, ok := map[string]func(*Issuer) []error{
		"":         (*Issuer).withoutPreset,
		"auth0":    (*Issuer).auth0,
		"okta":     (*Issuer).okta,
		"keycloak": (*Issuer).keycloak,
		"entra":    (*Issuer).entra,
		"google":   (*Issuer).google,
		"cognito":  (*Issuer).cognito,
	}[i.Preset]
	if !ok {
		return i, problem("Preset", "%q is none of auth0, okta, keycloak, entra, google, cognito", i.Preset)
	}
	i.Require = maps.Clone(i.Require)
	problems := fill(&i)
	if i.Preset != "" && i.Preset != "cognito" && len(i.Audiences) == 0 {
		problems = append(problems, fieldErrorf("Audiences", "at least one is required; the tokens of %s have aud", i.Preset))
	}
	return i, problems
}

func problem(path, format string, a ...any) []error { return []error{fieldErrorf(path, format, a...)} }

func (i *Issuer) withoutPreset() []error {
	if i.Domain != "" || i.Tenant != "" {
		return problem("Domain, Tenant", "belong to a preset; without one, set issuer and keys")
	}
	return nil
}

func (i *Issuer) auth0() []error {
	base, problems := i.base("")
	if i.Tenant != "" {
		problems = append(problems, fieldErrorf("Tenant", "auth0 has none; its domain says it"))
	}
	i.fill(base+"/", base+"/.well-known/jwks.json", "RS256", "PS256")
	i.claims("permissions */roles", "*/groups", "scope")
	i.require("azp client_id") // an ID token has neither
	return problems
}

func (i *Issuer) okta() []error {
	base, problems := i.base("")
	if i.Tenant == "" {
		i.Tenant = "default"
	}
	if !credential.IsUnreserved(i.Tenant) {
		problems = append(problems, fieldErrorf("Tenant", "%q is not the id of an authorization server", i.Tenant))
	}
	if _, twice := i.Require["cid"]; twice && len(i.ClientIDs) > 0 {
		problems = append(problems, fieldErrorf("ClientIDs", "are compared with cid in okta's tokens, which require has too: set one of them"))
	}
	iss := base + "/oauth2/" + i.Tenant
	i.fill(iss, iss+"/v1/keys", "RS256")
	i.claims("roles", "groups", "scp")
	i.require("cid", i.ClientIDs...) // an ID token has none
	i.ClientIDs = nil
	return problems
}

func (i *Issuer) keycloak() []error {
	base, problems := i.base("")
	if i.Tenant == "" {
		problems = append(problems, fieldErrorf("Tenant", "keycloak's realm is required"))
	}
	iss := base + "/realms/" + url.PathEscape(i.Tenant)
	i.fill(iss, iss+"/protocol/openid-connect/certs")
	i.claims("realm_access.roles", "groups", "scope")
	i.require("typ", "Bearer") // an ID token says ID, a refresh token Refresh
	return problems
}

func (i *Issuer) entra() []error {
	base, problems := i.base("login.microsoftonline.com")
	i.Tenant = strings.ToLower(i.Tenant)
	switch {
	case slices.Contains([]string{"common", "organizations", "consumers", personalAccounts}, i.Tenant):
		problems = append(problems, fieldErrorf("Tenant", "%q is open to every directory or personal account; give your own directory's id", i.Tenant))
	case !guid.MatchString(i.Tenant):
		problems = append(problems, fieldErrorf("Tenant", "%q is not the id of a directory, which is a GUID", i.Tenant))
	}
	i.fill(base+"/"+i.Tenant+"/v2.0", base+"/"+i.Tenant+"/discovery/v2.0/keys", "RS256")
	i.claims("roles", "groups", "scp")
	i.require("ver", "2.0")
	i.require("tid", i.Tenant)
	i.require("azp") // an ID token for the same application has none
	return problems
}

func (i *Issuer) google() []error {
	i.fill("https://accounts.google.com", "https://www.googleapis.com/oauth2/v3/certs", "RS256")
	i.claims("roles", "groups", "scope")
	if i.Type == "" {
		i.Type = "JWT"
	}
	if i.Domain != "" || i.Tenant != "" {
		return problem("Domain, Tenant", "google has neither; for one Workspace domain use require: {hd: [example.com]}")
	}
	return nil
}

func (i *Issuer) cognito() (problems []error) {
	if i.Domain != "" {
		problems = problem("Domain", "cognito has none; its tenant, the user pool's id, says it")
	}
	pool := userPool.FindStringSubmatch(i.Tenant)
	if pool == nil {
		return append(problems, fieldErrorf("Tenant", "%q is not the id of a user pool, as eu-west-1_Ab12Cd34e", i.Tenant))
	}
	iss := "https://cognito-idp." + pool[1] + ".amazonaws.com/" + i.Tenant
	i.fill(iss, iss+"/.well-known/jwks.json", "RS256")
	i.claims("roles", "cognito:groups", "scope")
	if i.TokenUse == "" {
		i.TokenUse = "access"
	}
	if i.TokenUse == "access" && len(i.ClientIDs) == 0 {
		problems = append(problems, fieldErrorf("ClientIDs", "at least one is required; cognito's access tokens have no aud"))
	}
	return problems
}

const personalAccounts = "9188040d-6c67-4c5b-b112-36a304b66dad" // the directory of all Microsoft accounts that no organisation owns

var (
	guid     = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	userPool = regexp.MustCompile(`^([a-z]{2}(?:-[a-z]+)+-[0-9]+)_[0-9A-Za-z]+$`)
)

// base is the provider's URL without a slash at its end. Only Keycloak may have a path, and be on loopback without TLS.
func (i *Issuer) base(standard string) (string, []error) {
	domain := i.Domain
	if domain == "" {
		domain = standard
	}
	if domain == "" {
		return "", problem("Domain", "%s's is required", i.Preset)
	}
	ownHost := i.Preset == "keycloak"
	text := domain
	if !ownHost || !strings.Contains(domain, "://") {
		text = "https://" + domain
	}
	u, err := url.Parse(text)
	plain := err == nil && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == "" && u.Host == strings.ToLower(u.Host)
	if !plain || !ownHost && u.Path != "" {
		return "", problem("Domain", "is not a host name in lower case, as login.example.com") // not quoted: it may hold a password
	}
	if !keyset.SecureURL(u) {
		return "", problem("Domain", "%q must be https; http is accepted on loopback only", domain)
	}
	return strings.TrimSuffix(text, "/"), nil
}

func (i *Issuer) fill(issuer, keys string, algorithms ...string) {
	if i.Issuer == "" {
		i.Issuer = issuer
	}
	if i.Keys.File == "" && i.Keys.URL == "" && !i.Keys.Discovery {
		i.Keys.URL = keys
	}
	if len(i.Algorithms) == 0 {
		i.Algorithms = algorithms
	}
}

func (i *Issuer) claims(roles, groups, scopes string) {
	for _, c := range []struct {
		path  *string
		value string
	}{{&i.Claims.Roles, roles}, {&i.Claims.Groups, groups}, {&i.Claims.Scopes, scopes}} {
		if *c.path == "" {
			*c.path = c.value
		}
	}
}

// require adds a required claim that the configuration does not speak of.
func (i *Issuer) require(path string, values ...string) {
	if _, ok := i.Require[path]; ok {
		return
	}
	if i.Require == nil {
		i.Require = map[string][]string{}
	}
	i.Require[path] = values
}
