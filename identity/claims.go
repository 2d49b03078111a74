package identity

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

const maxUnixTime = 253402300799 // the end of the year 9999

// validity is when a token may be used. from and until include the clock skew.
type validity struct {
	expires, from, until time.Time
}

// checkTimes checks exp, nbf and iat (RFC 7519 section 4.1). Fractions of a second are rounded to the strict side.
func (iss *issuer) checkTimes(claims map[string]any, now time.Time) (validity, error) {
	if _, ok := claims["exp"]; !ok {
		return validity{}, errNoExpiry
	}
	exp, ok := numericDate(claims["exp"], math.Floor)
	if !ok {
		return validity{}, errTime
	}
	valid := validity{expires: exp, until: exp.Add(iss.ClockSkew)}
	if !now.Before(valid.until) {
		return validity{}, errExpired
	}
	for _, start := range []struct {
		claim string
		early error
	}{{"nbf", errNotYet}, {"iat", errFuture}} {
		value, ok := claims[start.claim]
		if !ok {
			continue
		}
		date, ok := numericDate(value, math.Ceil)
		if !ok {
			return validity{}, errTime
		}
		from := date.Add(-iss.ClockSkew)
		if now.Before(from) {
			return validity{}, start.early
		}
		if from.After(valid.from) {
			valid.from = from
		}
	}
	return valid, nil
}

// numericDate reads seconds since 1970, which may have a fraction (RFC 7519 section 2), up to the year 9999.
func numericDate(value any, round func(float64) float64) (time.Time, bool) {
	number, ok := value.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil {
		f, err := strconv.ParseFloat(string(number), 64)
		if err != nil || f < 0 || f > maxUnixTime {
			return time.Time{}, false
		}
		seconds = int64(round(f))
	}
	if seconds < 0 || seconds > maxUnixTime {
		return time.Time{}, false
	}
	return time.Unix(seconds, 0).UTC(), true
}

// identityFrom checks the remaining claims and maps them. Whoever calls it has verified the signature and the issuer.
func (iss *issuer) identityFrom(claims map[string]any) (Identity, error) {
	audiences, ok := stringList(claims["aud"])
	if !ok || len(audiences) == 0 {
		return Identity{}, errAudType
	}
	mine := func(audience string) bool { return slices.Contains(iss.Audiences, audience) }
	if !slices.ContainsFunc(audiences, mine) {
		return Identity{}, errAudience
	}
	subject, ok := claims["sub"].(string)
	if !ok || subject == "" || strings.ContainsFunc(subject, isControl) {
		return Identity{}, errSubject
	}
	id := Identity{
		Type:          TypeJWT,
		Identity:      subject,
		Subject:       subject,
		Issuer:        iss.Issuer.Issuer,
		Claims:        claims,
		Authenticated: true,
	}
	if id.Roles, ok = stringList(lookup(claims, iss.Claims.Roles)); !ok {
		return Identity{}, errRoleType
	}
	if id.Groups, ok = stringList(lookup(claims, iss.Claims.Groups)); !ok {
		return Identity{}, errGroupType
	}
	scopes := lookup(claims, iss.Claims.Scopes)
	if text, isText := scopes.(string); isText {
		id.Scopes = strings.FieldsFunc(text, isSpace) // RFC 6749 section 3.3
		return id, nil
	}
	if id.Scopes, ok = stringList(scopes); !ok {
		return Identity{}, errScopeType
	}
	return id, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
func isSpace(r rune) bool   { return r == ' ' }

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
