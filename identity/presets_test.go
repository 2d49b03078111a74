package identity_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse/identity"
)

const tenant = "8ac2f7e0-51b3-4b0e-9d7a-3f0c1e6b2a44"

// presetCases hold a token's header and claims in the form that each provider documents, and small changes that make another
// token of it: of another kind, another tenant, another version. now and later are put in as numbers.
var presetCases = []struct {
	issuer identity.Issuer
	alg    string
	header object
	claims object
	want   string // the identity
	misses []miss
}{{
	issuer: identity.Issuer{Preset: "auth0", Domain: "shop.eu.auth0.com", Audiences: []string{"https://orders.example"}},
	header: object{"typ": "JWT"},
	claims: object{"iss": "https://shop.eu.auth0.com/", "sub": "auth0|62b1", "aud": []string{"https://orders.example", "https://shop.eu.auth0.com/userinfo"},
		"azp": "my_client_id", "scope": "openid profile read:orders", "permissions": []string{"read:orders", "write:orders"},
		"https://orders.example/roles": []string{"clerk"}, "https://orders.example/groups": []string{"eu"}},
	want: "auth0|62b1 of https://shop.eu.auth0.com/: [read:orders write:orders clerk] [eu] [openid profile read:orders] ",
	misses: []miss{
		{"in the RFC 9068 profile", object{"typ": "at+jwt"}, object{"azp": nil, "client_id": "my_client_id"}, ""},
		{"an ID token", nil, object{"aud": "my_client_id", "azp": nil, "scope": nil, "nonce": "n"}, "audience does not match"},
		{"an ID token with the API's name as client", nil, object{"azp": nil}, "a required claim is missing"},
		{"another tenant", nil, object{"iss": "https://shop.us.auth0.com/"}, "unknown issuer"},
		{"without the slash", nil, object{"iss": "https://shop.eu.auth0.com"}, "unknown issuer"},
		{"another API", nil, object{"aud": []string{"https://billing.example", "https://shop.eu.auth0.com/userinfo"}}, "audience does not match"},
	},
}, {
	issuer: identity.Issuer{Preset: "okta", Domain: "dev-1.okta.com", Audiences: []string{"api://default"}, ClientIDs: []string{"0oa1"}},
	claims: object{"ver": 1, "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE", "iss": "https://dev-1.okta.com/oauth2/default", "aud": "api://default",
		"sub": "ann@example.com", "cid": "0oa1", "uid": "00ujmkLgagxeRrAg20g3", "scp": []string{"openid", "read"}, "groups": []string{"Everyone", "Sales"}},
	want: "ann@example.com of https://dev-1.okta.com/oauth2/default: [] [Everyone Sales] [openid read] ",
	misses: []miss{
		{"an ID token", nil, object{"aud": "0oa1", "cid": nil, "scp": nil}, "audience does not match"},
		{"an ID token for a client of the API's name", nil, object{"cid": nil}, "a required claim is missing"},
		{"another client", nil, object{"cid": "0oa2"}, "a required claim has another value"},
		{"the organisation's own server", nil, object{"iss": "https://dev-1.okta.com", "aud": "https://dev-1.okta.com"}, "unknown issuer"},
		{"another authorization server", nil, object{"iss": "https://dev-1.okta.com/oauth2/aus9"}, "unknown issuer"},
	},
}, {
	issuer: identity.Issuer{Preset: "keycloak", Domain: "https://id.example.com/auth/", Tenant: "shop", Audiences: []string{"orders"}},
	header: object{"typ": "JWT"},
	claims: object{"jti": "onrtac:9f5c", "iss": "https://id.example.com/auth/realms/shop", "aud": []string{"orders", "account"}, "sub": "f:1:ann", "typ": "Bearer",
		"azp": "orders-web", "sid": "d0", "acr": "1", "allowed-origins": []string{"*"}, "realm_access": object{"roles": []string{"clerk", "offline_access"}},
		"resource_access": object{"account": object{"roles": []string{"manage-account"}}}, "scope": "openid email", "email_verified": true,
		"groups": []string{"/eu/sales"}, "preferred_username": "ann", "email": "ann@example.com"},
	want: "f:1:ann of https://id.example.com/auth/realms/shop: [clerk offline_access] [/eu/sales] [openid email] ann@example.com",
	misses: []miss{
		{"an ID token", nil, object{"typ": "ID"}, "a required claim has another value"},
		{"a refresh token with our audience", nil, object{"typ": "Refresh"}, "a required claim has another value"},
		{"a logout token", object{"typ": "logout+jwt"}, object{"typ": "Logout"}, "token is of another type"},
		{"a token that a key is bound to", nil, object{"typ": "DPoP"}, "a required claim has another value"},
		{"for the account console alone", nil, object{"aud": "account"}, "audience does not match"},
		{"another realm", nil, object{"iss": "https://id.example.com/auth/realms/master"}, "unknown issuer"},
		{"the e-mail address not verified", nil, object{"email_verified": false}, ""},
	},
}, {
	issuer: identity.Issuer{Preset: "entra", Tenant: strings.ToUpper(tenant), Audiences: []string{"6e74172b-be56-4843-9ff4-e66a39bb12e3"}},
	header: object{"typ": "JWT", "x5t": "i6lGk3FZzxRcUb2C3nEQ7syHJlY"},
	claims: object{"aud": "6e74172b-be56-4843-9ff4-e66a39bb12e3", "iss": "https://login.microsoftonline.com/" + tenant + "/v2.0", "aio": "AXQAi/8IAAAA",
		"azp": "6e74172b-be56-4843-9ff4-e66a39bb12e3", "azpacr": "0", "name": "Ann", "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474", "preferred_username": "ann@example.com",
		"rh": "I", "scp": "access_as_user read", "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ", "tid": tenant, "uti": "fqiBqXLPj0eQa82S-IYFAA",
		"ver": "2.0", "roles": []string{"Clerk"}, "groups": []string{"c0ffee00-0000-4000-8000-000000000000"}, "email": "ann@example.com"},
	want: "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ of https://login.microsoftonline.com/" + tenant +
		"/v2.0: [Clerk] [c0ffee00-0000-4000-8000-000000000000] [access_as_user read] ",
	misses: []miss{
		{"an application's own token", nil, object{"scp": nil, "groups": nil, "email": nil, "idtyp": "app"}, ""},
		{"an ID token for the same application", nil, object{"azp": nil, "azpacr": nil, "scp": nil, "nonce": "n"}, "a required claim is missing"},
		{"a v1.0 token", nil, object{"iss": "https://sts.windows.net/" + tenant + "/", "ver": "1.0", "appid": "x", "azp": nil}, "unknown issuer"},
		{"version 1.0 under our issuer", nil, object{"ver": "1.0"}, "a required claim has another value"},
		{"another tenant", nil, object{"iss": "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0"}, "unknown issuer"},
		{"another tenant under our issuer", nil, object{"tid": "72f988bf-86f1-41af-91ab-2d7cd011db47"}, "a required claim has another value"},
		{"the issuer of many tenants", nil, object{"iss": "https://login.microsoftonline.com/common/v2.0"}, "unknown issuer"},
		{"the issuer's template", nil, object{"iss": "https://login.microsoftonline.com/{tenantid}/v2.0"}, "unknown issuer"},
		{"for Microsoft Graph", nil, object{"aud": "00000003-0000-0000-c000-000000000000"}, "audience does not match"},
	},
}, {
	issuer: identity.Issuer{Preset: "google", Audiences: []string{"1234987819200.apps.googleusercontent.com"}, Require: map[string][]string{"hd": {"example.com"}}},
	header: object{"typ": "JWT"},
	claims: object{"iss": "https://accounts.google.com", "azp": "1234987819200.apps.googleusercontent.com", "aud": "1234987819200.apps.googleusercontent.com",
		"sub": "10769150350006150715113082367", "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q", "hd": "example.com", "email": "jsmith@example.com", "email_verified": true, "nonce": "0394852"},
	want: "10769150350006150715113082367 of https://accounts.google.com: [] [] [] jsmith@example.com",
	misses: []miss{
		{"the issuer's other spelling", nil, object{"iss": "accounts.google.com"}, "unknown issuer"},
		{"another client's", nil, object{"aud": "99.apps.googleusercontent.com"}, "audience does not match"},
		{"a private account", nil, object{"hd": nil, "email": "jsmith@gmail.com"}, "a required claim is missing"},
		{"another company", nil, object{"hd": "example.org"}, "a required claim has another value"},
		{"no typ", object{"typ": nil}, nil, "token is not of the issuer's type"},
		{"a security event", object{"typ": "secevent+jwt"}, nil, "token is not of the issuer's type"},
		{"an address that nobody checked", nil, object{"email_verified": false}, ""},
	},
}, {
	issuer: identity.Issuer{Preset: "cognito", Tenant: "eu-west-1_Ab12Cd34e", ClientIDs: []string{"57cbishk4j24pabc1234567890"}},
	claims: object{"sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "device_key": "eu-west-1_aaaa", "cognito:groups": []string{"clerks"},
		"iss": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Ab12Cd34e", "version": 2, "client_id": "57cbishk4j24pabc1234567890", "origin_jti": "o",
		"event_id": "e", "token_use": "access", "scope": "phone openid aws.cognito.signin.user.admin", "jti": "j", "username": "ann"},
	want: "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee of https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Ab12Cd34e: [] [clerks] [phone openid aws.cognito.signin.user.admin] ",
	misses: []miss{
		{"an ID token", nil, object{"token_use": "id", "aud": "57cbishk4j24pabc1234567890", "client_id": nil}, "audience does not match"},
		{"an ID token without aud", nil, object{"token_use": "id"}, "token is for another use"},
		{"another client's", nil, object{"client_id": "1example23456789"}, "client does not match"},
		{"another pool", nil, object{"iss": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Zz99Zz99z"}, "unknown issuer"},
		{"another region", nil, object{"iss": "https://cognito-idp.us-east-1.amazonaws.com/eu-west-1_Ab12Cd34e"}, "unknown issuer"},
	},
}, {
	issuer: identity.Issuer{Preset: "cognito", Tenant: "eu-west-1_Ab12Cd34e", TokenUse: "id", Audiences: []string{"57cbishk4j24pabc1234567890"}},
	claims: object{"sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "cognito:groups": []string{"clerks"}, "email_verified": true, "email": "ann@example.com",
		"iss": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Ab12Cd34e", "aud": "57cbishk4j24pabc1234567890", "token_use": "id", "cognito:username": "ann"},
	want:   "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee of https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Ab12Cd34e: [] [clerks] [] ann@example.com",
	misses: []miss{{"an access token", nil, object{"token_use": "access"}, "token is for another use"}},
}}

type miss struct {
	name           string
	header, claims object // changes
	want           string // empty = it passes
}

func TestPresets(t *testing.T) {
	r := keyRing()
	file := temp(t, jwks(jwk(&r.rsa.PublicKey, object{"kid": "k", "alg": "RS256", "use": "sig"})))
	for _, c := range presetCases {
		c.issuer.Keys.File = file
		config := identity.Config{Clock: oneIssuer(c.issuer.Keys).Clock, Issuers: []identity.Issuer{c.issuer}}
		v := newVerifier(t, config)
		keys := load(t, v)
		token := func(header, body object) string {
			whole := changed(object{"alg": "RS256", "kid": "k", "typ": nil}, c.header, header)
			return mint("RS256", r.rsa, whole, changed(object{"iat": at(0), "exp": at(time.Hour)}, c.claims, body))
		}
		id, err := v.Identify(context.Background(), keys, identity.Request{Header: bearer(token(nil, nil)).get})
		if got := fmt.Sprintf("%s of %s: %v %v %v %s", id.Subject, id.Issuer, id.Roles, id.Groups, id.Scopes, id.Email); err != nil || got != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", c.issuer.Preset, err, got, c.want)
		}
		for _, m := range c.misses {
			want := "ok"
			if m.want != "" {
				want = "bad credential: " + m.want
			}
			if got := outcome(t, v, keys, bearer(token(m.header, m.claims))); got != want {
				t.Errorf("%s, %s: got %q, want %q", c.issuer.Preset, m.name, got, want)
			}
		}
	}
}

func changed(changes ...object) object {
	all := object{}
	for _, c := range changes {
		for name, value := range c {
			if all[name] = value; value == nil {
				delete(all, name)
			}
		}
	}
	return all
}

func TestPresetsFillInWhatIsEmpty(t *testing.T) {
	aud := []string{"orders"}
	cases := []struct {
		issuer     identity.Issuer
		iss, keys  string
		algorithms string
	}{
		{identity.Issuer{Preset: "auth0", Domain: "shop.eu.auth0.com", Audiences: aud}, "https://shop.eu.auth0.com/",
			"https://shop.eu.auth0.com/.well-known/jwks.json", "[RS256 PS256]"},
		{identity.Issuer{Preset: "okta", Domain: "dev-1.okta.com", Tenant: "aus9", Audiences: aud}, "https://dev-1.okta.com/oauth2/aus9",
			"https://dev-1.okta.com/oauth2/aus9/v1/keys", "[RS256]"},
		{identity.Issuer{Preset: "keycloak", Domain: "id.example.com", Tenant: "our shop", Audiences: aud}, "https://id.example.com/realms/our%20shop",
			"https://id.example.com/realms/our%20shop/protocol/openid-connect/certs", "[]"},
		{identity.Issuer{Preset: "keycloak", Domain: "http://127.0.0.1:8080", Tenant: "shop", Audiences: aud}, "http://127.0.0.1:8080/realms/shop",
			"http://127.0.0.1:8080/realms/shop/protocol/openid-connect/certs", "[]"},
		{identity.Issuer{Preset: "entra", Tenant: tenant, Audiences: aud}, "https://login.microsoftonline.com/" + tenant + "/v2.0",
			"https://login.microsoftonline.com/" + tenant + "/discovery/v2.0/keys", "[RS256]"},
		{identity.Issuer{Preset: "entra", Domain: "login.microsoftonline.us", Tenant: tenant, Audiences: aud}, "https://login.microsoftonline.us/" + tenant + "/v2.0",
			"https://login.microsoftonline.us/" + tenant + "/discovery/v2.0/keys", "[RS256]"},
		{identity.Issuer{Preset: "google", Audiences: aud}, "https://accounts.google.com", "https://www.googleapis.com/oauth2/v3/certs", "[RS256]"},
		{identity.Issuer{Preset: "cognito", Tenant: "us-gov-west-1_Ab12Cd34e", ClientIDs: aud}, "https://cognito-idp.us-gov-west-1.amazonaws.com/us-gov-west-1_Ab12Cd34e",
			"https://cognito-idp.us-gov-west-1.amazonaws.com/us-gov-west-1_Ab12Cd34e/.well-known/jwks.json", "[RS256]"},
		{identity.Issuer{Preset: "auth0", Domain: "shop.eu.auth0.com", Audiences: aud, Issuer: "https://login.shop.example/", Algorithms: []string{"ES256"},
			Keys: identity.KeySource{URL: "https://login.shop.example/keys"}}, "https://login.shop.example/", "https://login.shop.example/keys", "[ES256]"},
		{identity.Issuer{Issuer: "https://x", Audiences: aud, Keys: identity.KeySource{URL: "https://x/keys"}}, "https://x", "https://x/keys", "[]"},
	}
	for _, c := range cases {
		got, err := c.issuer.WithPreset()
		if err != nil || got.Issuer != c.iss || got.Keys.URL != c.keys || fmt.Sprint(got.Algorithms) != c.algorithms {
			t.Errorf("%s: %v\n got %s %s %v\nwant %s %s %s", c.issuer.Preset, err, got.Issuer, got.Keys.URL, got.Algorithms, c.iss, c.keys, c.algorithms)
		}
		newVerifier(t, identity.Config{Issuers: []identity.Issuer{c.issuer}})
	}
	own := map[string][]string{"typ": {"Bearer", "DPoP"}}
	i := identity.Issuer{Preset: "keycloak", Domain: "id.example.com", Tenant: "shop", Audiences: aud, Require: own,
		Claims: identity.ClaimPaths{Roles: "resource_access.orders.roles"}, Keys: identity.KeySource{File: "k.json"}}
	got, err := i.WithPreset()
	if err != nil || fmt.Sprint(got.Require) != "map[typ:[Bearer DPoP]]" || got.Claims.Roles != "resource_access.orders.roles" || got.Keys.URL != "" || len(own) != 1 {
		t.Errorf("what is set does not stay: %v %+v", err, got)
	}
}

func TestPresetProblems(t *testing.T) {
	aud := []string{"orders"}
	for _, c := range []struct {
		want   string
		issuer identity.Issuer
	}{
		{`Issuers[0].Preset: "azure" is none of`, identity.Issuer{Preset: "azure", Audiences: aud}},
		{`Issuers[0].Domain: auth0's is required`, identity.Issuer{Preset: "auth0", Audiences: aud}},
		{`Tenant: auth0 has none`, identity.Issuer{Preset: "auth0", Domain: "x.auth0.com", Tenant: "x", Audiences: aud}},
		{`Audiences: at least one is required; the tokens of auth0`, identity.Issuer{Preset: "auth0", Domain: "x.auth0.com", ClientIDs: aud}},
		{`Domain: is not a host name`, identity.Issuer{Preset: "auth0", Domain: "https://x.auth0.com", Audiences: aud}},
		{`Domain: is not a host name`, identity.Issuer{Preset: "auth0", Domain: "x.auth0.com/", Audiences: aud}},
		{`Domain: is not a host name`, identity.Issuer{Preset: "okta", Domain: "X.okta.com", Audiences: aud}},
		{`Domain: is not a host name`, identity.Issuer{Preset: "okta", Domain: "u:hunter2@x.okta.com", Audiences: aud}},
		{`Tenant: "a/b" is not the id of an authorization server`, identity.Issuer{Preset: "okta", Domain: "x.okta.com", Tenant: "a/b", Audiences: aud}},
		{`ClientIDs: are compared with cid`, identity.Issuer{Preset: "okta", Domain: "x.okta.com", Audiences: aud, ClientIDs: aud,
			Require: map[string][]string{"cid": nil}}},
		{`Tenant: keycloak's realm is required`, identity.Issuer{Preset: "keycloak", Domain: "x", Audiences: aud}},
		{`Domain: "http://id.example.com" must be https`, identity.Issuer{Preset: "keycloak", Domain: "http://id.example.com", Tenant: "a", Audiences: aud}},
		{`Domain: is not a host name`, identity.Issuer{Preset: "keycloak", Domain: "id.example.com?a", Tenant: "a", Audiences: aud}},
		{`Tenant: "common" is open to every`, identity.Issuer{Preset: "entra", Tenant: "common", Audiences: aud}},
		{`Tenant: "organizations" is open to every`, identity.Issuer{Preset: "entra", Tenant: "Organizations", Audiences: aud}},
		{`is open to every`, identity.Issuer{Preset: "entra", Tenant: "9188040d-6c67-4c5b-b112-36a304b66dad", Audiences: aud}},
		{`Tenant: "example.onmicrosoft.com" is not the id`, identity.Issuer{Preset: "entra", Tenant: "example.onmicrosoft.com", Audiences: aud}},
		{`Tenant: "" is not the id of a directory`, identity.Issuer{Preset: "entra", Audiences: aud}},
		{`google has neither`, identity.Issuer{Preset: "google", Tenant: "example.com", Audiences: aud}},
		{`Tenant: "eu-west-1" is not the id of a user pool`, identity.Issuer{Preset: "cognito", Tenant: "eu-west-1", ClientIDs: aud}},
		{`Domain: cognito has none`, identity.Issuer{Preset: "cognito", Domain: "x", Tenant: "eu-west-1_A", ClientIDs: aud}},
		{`ClientIDs: at least one is required`, identity.Issuer{Preset: "cognito", Tenant: "eu-west-1_A", Audiences: aud}},
		{`Domain, Tenant: belong to a preset`, identity.Issuer{Issuer: "https://x", Domain: "x", Audiences: aud, Keys: identity.KeySource{File: "k"}}},
	} {
		_, err := identity.New(identity.Config{Issuers: []identity.Issuer{c.issuer}})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}
