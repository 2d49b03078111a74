// Package claims reads what a verified token, or an introspection server's answer, says about a caller: subject, roles, groups, scopes and
// e-mail address by configured paths, and the times between which it holds. It verifies no signature and is a part of package identity.
package claims

import (
	"errors"
	"fmt"
	"strings"

	"gatehouse/identity/credential"
	"gatehouse/identity/refusal"
	"gatehouse/input"
)

var (
	errSubject   = refusal.Lasting("subject is missing or not a plain string")
	errRoleType  = refusal.Lasting("roles claim is not a string or list of strings")
	errGroupType = refusal.Lasting("groups claim is not a string or list of strings")
	errScopeType = refusal.Lasting("scopes claim is not a string or list of strings")
	errEmail     = refusal.Lasting("e-mail claim is not a plain string")
)

// Paths says which claims become the subject, roles, groups, scopes and the e-mail address. A path is a claim's name, or names joined
// with dots for a claim within an object. A name that contains dots itself (https://example.com/roles) is found too, and
// */roles is the one claim whose name is a URL that ends in /roles; two of those are a bad credential. Several paths with
// spaces between them are all read, for the subject and the e-mail address until one leads somewhere.
type Paths struct {
	// Subject is a string; empty = "sub". An e-mail address (the claim email) is one only where it is verified, as for Email.
	Subject string
	Roles   string // string or list of strings; empty = "roles"
	Groups  string // string or list of strings; empty = "groups"
	Scopes  string // string with spaces or list of strings; empty = "scope"
	Email   string // string, taken where the claim email_verified is true; empty = "email"
	// UnverifiedEmail takes the address although email_verified is not true.
	UnverifiedEmail bool
}

// Identity is what a token with these claims would give, as far as the claims tell: Type and Issuer are empty. It is for trying a
// policy out; nothing here is verified.
func (c Paths) Identity(claims map[string]any) (input.Identity, error) {
	var problems []error
	c = c.WithDefaults(func(field string, err error) { problems = append(problems, fmt.Errorf("Claims.%s: %w", field, err)) })
	if len(problems) > 0 {
		return input.Identity{}, errors.Join(problems...)
	}
	subject, err := c.SubjectOf(claims)
	if err != nil {
		return input.Identity{}, err
	}
	return c.Map(subject, claims)
}

// SubjectOf gives the subject of verified claims. The paths have their defaults.
func (c Paths) SubjectOf(claims map[string]any) (string, error) {
	subject, ok := c.subject(claims)
	if !ok || subject == "" || strings.ContainsFunc(subject, credential.IsControl) ||
		strings.TrimSpace(subject) != subject { // a header would lose the spaces, and say somebody else
		return "", errSubject
	}
	return subject, nil
}

// Map makes an identity of a subject and its verified claims. The paths have their defaults; Type and Issuer are for the caller to set.
func (c Paths) Map(subject string, claims map[string]any) (input.Identity, error) {
	id := input.Identity{Identity: subject, Subject: subject, Claims: claims, Authenticated: true}
	var ok bool
	if id.Roles, ok = listAt(claims, c.Roles, Strings); !ok {
		return input.Identity{}, errRoleType
	}
	if id.Groups, ok = listAt(claims, c.Groups, Strings); !ok {
		return input.Identity{}, errGroupType
	}
	if id.Scopes, ok = listAt(claims, c.Scopes, scopeList); !ok {
		return input.Identity{}, errScopeType
	}
	if id.Email, ok = c.email(claims); !ok {
		return input.Identity{}, errEmail
	}
	return id, nil
}

// subject gives the caller's name. It need not be free of control characters or even be there.
func (c Paths) subject(claims map[string]any) (string, bool) {
	if c.Subject == "sub" {
		name, ok := claims["sub"].(string)
		return name, ok
	}
	for path := range strings.FieldsSeq(c.Subject) {
		found, err := Lookup(claims, path)
		if err != nil {
			return "", false
		}
		if len(found) == 0 {
			continue
		}
		if verified, _ := claims["email_verified"].(bool); path == "email" && !verified && !c.UnverifiedEmail {
			return "", false // anybody could have given it
		}
		name, ok := found[0].(string)
		return name, ok
	}
	return "", false
}

// email gives the address, or none where the issuer does not vouch for it. Only the JSON value true does: whoever may write
// that claim as text could write anything into it.
func (c Paths) email(claims map[string]any) (string, bool) {
	found, err := Lookup(claims, c.Email)
	if err != nil || len(found) == 0 {
		return "", err == nil
	}
	address, ok := found[0].(string)
	if !ok || strings.ContainsFunc(address, credential.IsControl) {
		return "", false
	}
	if !c.UnverifiedEmail && claims["email_verified"] != true {
		return "", true
	}
	return address, true
}
