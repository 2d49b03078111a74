package trial

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"gatehouse/identity"
)

// Caller is somebody whom no credential proves: a name, roles and claims, all of them optional.
type Caller struct {
	As     string
	Roles  []string
	Claims map[string]any // as JSON with json.Number; changed by Identity
}

// Empty reports whether nothing is said of the caller.
func (c *Caller) Empty() bool { return c.As == "" && len(c.Roles) == 0 && c.Claims == nil }

// Identity is what a verified token with these claims would give, for the issuer that the claims name or else the first
// that is configured. nil is no caller at all: the request then goes the way of any without a credential.
func (t *Trial) Identity(c Caller) (*identity.Identity, error) {
	if c.Empty() {
		return nil, nil
	}
	if c.Claims == nil {
		c.Claims = map[string]any{}
	}
	if c.As != "" {
		c.Claims["sub"] = c.As
	}
	subject, _ := c.Claims["sub"].(string)
	if subject == "" || strings.ContainsFunc(subject, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, errors.New("the caller has no name: --as (as: in a table) or the claim sub gives one")
	}
	issuer := t.Issuer(c.Claims)
	if _, given := c.Claims["iss"]; !given && issuer.Issuer != "" {
		c.Claims["iss"] = issuer.Issuer
	}
	if len(c.Roles) > 0 {
		first, _, _ := strings.Cut(issuer.Claims.Roles, " ")
		SetClaim(c.Claims, cmp.Or(first, "roles"), c.Roles)
	}
	id, err := issuer.Claims.Identity(c.Claims)
	if err != nil {
		return nil, fmt.Errorf("the caller's claims: %w", err)
	}
	id.Type, id.Issuer = identity.TypeJWT, issuer.Issuer
	return &id, nil
}

// Issuer is the configured one that the claims name, or the first. For none it is the bare name.
func (t *Trial) Issuer(claims map[string]any) identity.Issuer {
	name, _ := claims["iss"].(string)
	for _, i := range t.issuers {
		// Its problems were reported when the service was built from it.
		if i, _ = i.WithPreset(); i.Issuer == name || name == "" {
			return i
		}
	}
	return identity.Issuer{Issuer: name}
}

// SetClaim puts a list of strings where package identity will look for it: under a claim of this very name, or within
// objects.
func SetClaim(claims map[string]any, path string, values []string) {
	list := make([]any, len(values))
	for i, v := range values {
		list[i] = v
	}
	first, rest, nested := strings.Cut(path, ".")
	inner, isObject := claims[first].(map[string]any)
	_, exact := claims[path]
	switch {
	case exact || !nested || strings.Contains(path, "/"): // https://example.com/roles is one name
		claims[path] = list
	case isObject:
		SetClaim(inner, rest, values)
	default:
		inner = map[string]any{}
		claims[first] = inner
		SetClaim(inner, rest, values)
	}
}
