package identity

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"gatehouse/identity/claims"
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
	problem := func(path, format string, a ...any) { problems = append(problems, fieldErrorf(path, format, a...)) }

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
		if err := claims.CheckPath(path); err != nil {
			problem("Require", "%w", err)
		}
		iss.required = append(iss.required, requirement{path, slices.Clone(iss.Require[path])})
	}
	iss.Claims = iss.Claims.WithDefaults(func(field string, err error) { problem("Claims."+field, "%w", err) })
	return problems
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
func (iss *issuer) checkRecipient(payload map[string]any, steps *trail) error {
	steps.begin(checkAudience)
	value, addressed := payload["aud"]
	if len(iss.Audiences) > 0 {
		audiences, ok := claims.Strings(value)
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
		client, ok := payload["client_id"]
		if !ok {
			client = payload["azp"]
		}
		id, ok := client.(string)
		if !ok {
			return errClientType
		}
		if !slices.Contains(iss.ClientIDs, id) {
			return errClient
		}
	}
	if party, ok := payload["azp"]; ok && len(iss.Parties) > 0 {
		if id, ok := party.(string); !ok || !slices.Contains(iss.Parties, id) {
			return errParty
		}
	}
	return nil
}

// checkRequired checks token_use and what Issuer.Require asks for.
func (iss *issuer) checkRequired(payload map[string]any) error {
	if iss.TokenUse != "" && payload["token_use"] != iss.TokenUse {
		return errTokenUse
	}
	for _, r := range iss.required {
		found, err := claims.Lookup(payload, r.path)
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

// identityFrom checks the remaining claims and maps them. Whoever calls it has verified the signature and the issuer.
func (iss *issuer) identityFrom(payload map[string]any, steps *trail) (Identity, error) {
	if err := iss.checkRecipient(payload, steps); err != nil {
		return Identity{}, err
	}
	steps.begin(checkRequired)
	if err := iss.checkRequired(payload); err != nil {
		return Identity{}, err
	}
	steps.begin(checkSubject)
	subject, err := iss.Claims.SubjectOf(payload)
	if err != nil {
		return Identity{}, err
	}
	steps.begin(checkMapped)
	id, err := iss.Claims.Map(subject, payload)
	if err != nil {
		return Identity{}, err
	}
	id.Type, id.Issuer = TypeJWT, iss.Issuer.Issuer
	return id, nil
}
