package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"gatehouse/identity/credential"
)

// requirement is one entry of Issuer.Require.
type requirement struct {
	path   string
	values []string // empty = any
}

// checkRules reports what is wrong with the rules of an issuer's tokens, each with its field, and makes them ready for use.
func (iss *issuer) checkRules() []error {
	var problems []error
	problem := func(path, format string, a ...any) { problems = append(problems, wrong(path, format, a...)) }

	if len(iss.Audiences) == 0 && len(iss.ClientIDs) == 0 {
		problem("Audiences", "at least one is required, or client_ids for tokens without aud; else tokens made for others would be accepted")
	}
	for _, list := range []struct {
		field  string
		values *[]string
	}{{"Audiences", &iss.Audiences}, {"ClientIDs", &iss.ClientIDs}, {"Parties", &iss.Parties}} {
		*list.values = slices.Clone(*list.values)
		if slices.Contains(*list.values, "") {
			problem(list.field, "an empty entry")
		}
	}
	if iss.Type = mediaType(iss.Type); iss.Type != "" && !credential.IsFieldToken(iss.Type) {
		problem("Type", "%q is not a token's typ, such as at+jwt", iss.Type)
	}
	if strings.ContainsFunc(iss.TokenUse, credential.IsControl) || !utf8.ValidString(iss.TokenUse) {
		problem("TokenUse", "%q is not plain text", iss.TokenUse)
	}
	if iss.MaxAge < 0 || iss.MaxAge%time.Second != 0 {
		problem("MaxAge", "%q is not a whole number of seconds, 0s or more", iss.MaxAge)
	}
	for _, path := range slices.Sorted(maps.Keys(iss.Require)) {
		if err := checkPath(path); err != nil {
			problem("Require", "%w", err)
		}
		iss.required = append(iss.required, requirement{path, slices.Clone(iss.Require[path])})
	}
	var errs []error
	iss.Claims, errs = iss.Claims.withDefaults()
	return append(problems, errs...)
}

// checkPath refuses a path that can never lead to a claim.
func checkPath(path string) error {
	if strings.TrimSpace(path) == "" || !utf8.ValidString(path) || strings.ContainsFunc(path, credential.IsControl) {
		return fmt.Errorf("%q is not the name of a claim", path)
	}
	for name := range strings.FieldsSeq(path) {
		if name == namespaced || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") {
			return fmt.Errorf("%q is not the name of a claim", name)
		}
	}
	return nil
}

// takesType checks the header's typ, which keeps an issuer's logout tokens, security events and other signed things from
// passing as access tokens (RFC 8725 section 3.11). An issuer that names a type takes no other, and none without (RFC 9068
// section 4).
func (iss *issuer) takesType(p *parsed) error {
	if iss.Type != "" {
		if !strings.EqualFold(mediaType(p.typ), iss.Type) {
			return errOtherType
		}
		return nil
	}
	if typ := mediaType(p.typ); p.hasTyp && !strings.EqualFold(typ, "JWT") && !strings.EqualFold(typ, "at+jwt") {
		return errType
	}
	return nil
}

// mediaType leaves out the prefix application/, as RFC 7515 section 4.1.9 lets a token do; case does not matter there.
func mediaType(typ string) string {
	const prefix = "application/"
	if len(typ) > len(prefix) && strings.EqualFold(typ[:len(prefix)], prefix) {
		return typ[len(prefix):]
	}
	return typ
}

// checkRecipient checks for whom the token was made: aud, client_id and azp. A token that says aud was made for somebody, so an
// issuer without audiences takes none of those (RFC 7519 section 4.1.3).
func (iss *issuer) checkRecipient(claims map[string]any, steps *trail) error {
	steps.begin(checkAudience)
	value, addressed := claims["aud"]
	if len(iss.Audiences) > 0 {
		audiences, ok := stringList(value)
		if !ok || len(audiences) == 0 {
			return errAudType
		}
		mine := func(audience string) bool { return slices.Contains(iss.Audiences, audience) }
		if !slices.ContainsFunc(audiences, mine) {
			return errAudience
		}
	} else if addressed {
		return errAudience
	}
	steps.begin(checkClient)
	if len(iss.ClientIDs) > 0 {
		client, ok := claims["client_id"]
		if !ok {
			client = claims["azp"]
		}
		id, ok := client.(string)
		if !ok {
			return errClientType
		}
		if !slices.Contains(iss.ClientIDs, id) {
			return errClient
		}
	}
	if party, ok := claims["azp"]; ok && len(iss.Parties) > 0 {
		if id, ok := party.(string); !ok || !slices.Contains(iss.Parties, id) {
			return errParty
		}
	}
	return nil
}

// checkRequired checks token_use and what Issuer.Require asks for.
func (iss *issuer) checkRequired(claims map[string]any) error {
	if iss.TokenUse != "" && claims["token_use"] != iss.TokenUse {
		return errTokenUse
	}
	for _, r := range iss.required {
		found, err := lookupAll(claims, r.path)
		if err != nil || len(found) == 0 {
			return errRequired
		}
		if len(r.values) > 0 && !slices.ContainsFunc(found, r.allows) {
			return errRequiredValue
		}
	}
	return nil
}

// allows reports whether a claim's value, or one in its list, is among those required. Strings are compared as they are, true,
// false and numbers by their JSON text.
func (r *requirement) allows(value any) bool {
	switch value := value.(type) {
	case string:
		return slices.Contains(r.values, value)
	case json.Number:
		return slices.Contains(r.values, string(value))
	case bool:
		return slices.Contains(r.values, map[bool]string{true: "true", false: "false"}[value])
	case []any:
		scalar := func(element any) bool {
			_, list := element.([]any)
			return !list && r.allows(element)
		}
		return slices.ContainsFunc(value, scalar)
	}
	return false
}

// withDefaults fills in what is empty and reports paths that cannot be.
func (c ClaimPaths) withDefaults() (ClaimPaths, []error) {
	var problems []error
	for _, p := range []struct {
		field, standard string
		path            *string
	}{{"Subject", "sub", &c.Subject}, {"Roles", "roles", &c.Roles}, {"Groups", "groups", &c.Groups}, {"Scopes", "scope", &c.Scopes}, {"Email", "email", &c.Email}} {
		if *p.path == "" {
			*p.path = p.standard
		}
		if err := checkPath(*p.path); err != nil {
			problems = append(problems, &FieldError{Path: "Claims." + p.field, Err: err})
		}
	}
	return c, problems
}

// listAt joins the lists that a path leads to.
func listAt(claims map[string]any, path string, read func(any) ([]string, bool)) ([]string, bool) {
	found, err := lookupAll(claims, path)
	if err != nil {
		return nil, false
	}
	var all []string
	for _, value := range found {
		list, ok := read(value)
		if !ok {
			return nil, false
		}
		all = append(all, list...)
	}
	return all, true
}

// scopeList reads a string with spaces (RFC 6749 section 3.3) or a list of strings.
func scopeList(value any) ([]string, bool) {
	if text, ok := value.(string); ok {
		return strings.FieldsFunc(text, isSpace), true
	}
	return stringList(value)
}

// stringList reads a string or a list of strings; nothing, or null, is an empty list.
func stringList(value any) ([]string, bool) {
	switch value := value.(type) {
	case nil:
		return nil, true
	case string:
		return []string{value}, true
	case []any:
		list := make([]string, len(value))
		for i, element := range value {
			text, ok := element.(string)
			if !ok {
				return nil, false
			}
			list[i] = text
		}
		return list, true
	}
	return nil, false
}

// namespaced starts a path to the one claim whose name is a URL that ends in what follows.
const namespaced = "*/"

var errSeveralClaims = errors.New("several claims have such a name")

// lookupAll finds the claims that a path, or several with spaces between them, lead to. Those that are missing or null are
// left out.
func lookupAll(claims map[string]any, paths string) ([]any, error) {
	var found []any
	for path := range strings.FieldsSeq(paths) {
		value := lookup(claims, path)
		if strings.HasPrefix(path, namespaced) {
			for name, v := range claims {
				if !strings.HasPrefix(name, "https://") && !strings.HasPrefix(name, "http://") || !strings.HasSuffix(name, path[1:]) {
					continue
				}
				if value != nil {
					return nil, errSeveralClaims
				}
				value = v
			}
		}
		if value != nil {
			found = append(found, value)
		}
	}
	return found, nil
}

// lookup follows a dotted path. A claim whose own name is the path, or starts it, is found first, because names with dots in
// them (https://example.com/roles) are common.
func lookup(claims map[string]any, path string) any {
	if value, ok := claims[path]; ok {
		return value
	}
	for i := 0; i < len(path); i++ {
		if path[i] != '.' {
			continue
		}
		if inner, ok := claims[path[:i]].(map[string]any); ok {
			if value := lookup(inner, path[i+1:]); value != nil {
				return value
			}
		}
	}
	return nil
}
