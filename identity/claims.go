package identity

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"gatehouse/identity/credential"
)

const maxUnixTime = 253402300799 // the end of the year 9999

// validity is from when until when what was said about a token's times stays true, good or bad, clock skew included.
type validity struct {
	expires, from, until time.Time
}

// endOfTime is later than any token's until.
func endOfTime() time.Time { return time.Unix(2*maxUnixTime, 0) }

// checkTimes checks exp, nbf and iat (RFC 7519 section 4.1) and the issuer's maximum age.
func (iss *issuer) checkTimes(claims map[string]any, now time.Time) (validity, error) {
	if _, ok := claims["exp"]; !ok {
		return validity{until: endOfTime()}, errNoExpiry
	}
	if _, ok := claims["iat"]; !ok && iss.MaxAge > 0 {
		return validity{until: endOfTime()}, errNoIssuedAt
	}
	valid, err := checkWindow(claims, iss.ClockSkew, now)
	if err != nil || iss.MaxAge == 0 {
		return valid, err
	}
	issued, _, _ := dateClaim(claims, "iat", math.Floor)
	end := issued.Add(iss.MaxAge + iss.ClockSkew)
	if !now.Before(end) {
		valid.from = latest(valid.from, end)
		return valid, errTooOld
	}
	valid.until = earliest(valid.until, end)
	return valid, nil
}

// checkWindow is checkTimes for claims that may do without exp; expires is then zero. Fractions of a second are rounded to the
// strict side. What can be said without the clock comes first, so that each answer holds for one stretch of time.
func checkWindow(claims map[string]any, skew time.Duration, now time.Time) (validity, error) {
	exp, hasExp, okExp := dateClaim(claims, "exp", math.Floor)
	nbf, hasNbf, okNbf := dateClaim(claims, "nbf", math.Ceil)
	iat, hasIat, okIat := dateClaim(claims, "iat", math.Ceil)
	valid := validity{expires: exp, until: endOfTime()}
	if !okExp || !okNbf || !okIat {
		return valid, errTime
	}
	if hasExp {
		end := exp.Add(skew)
		if !now.Before(end) {
			valid.from = end
			return valid, errExpired
		}
		valid.until = end
	}
	for _, start := range []struct {
		present bool
		date    time.Time
		early   error
	}{{hasNbf, nbf, errNotYet}, {hasIat, iat, errFuture}} {
		from := start.date.Add(-skew)
		switch {
		case !start.present:
		case now.Before(from):
			valid.until = earliest(valid.until, from)
			return valid, start.early
		default:
			valid.from = latest(valid.from, from)
		}
	}
	return valid, nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// dateClaim reads a claim that may be missing. Where it is there, ok tells whether it is a date.
func dateClaim(claims map[string]any, name string, round func(float64) float64) (date time.Time, present, ok bool) {
	value, present := claims[name]
	if !present {
		return time.Time{}, false, true
	}
	date, ok = numericDate(value, round)
	return date, true, ok
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
func (iss *issuer) identityFrom(claims map[string]any, steps *trail) (Identity, error) {
	if err := iss.checkRecipient(claims, steps); err != nil {
		return Identity{}, err
	}
	steps.begin(checkRequired)
	if err := iss.checkRequired(claims); err != nil {
		return Identity{}, err
	}
	id, err := iss.Claims.identity(claims, steps)
	if err != nil {
		return Identity{}, err
	}
	id.Type, id.Issuer = TypeJWT, iss.Issuer.Issuer
	return id, nil
}

// Identity is what a token with these claims would give, as far as the claims tell: Type and Issuer are empty. It is for trying a
// policy out; nothing here is verified.
func (c ClaimPaths) Identity(claims map[string]any) (Identity, error) {
	c, problems := c.withDefaults()
	if len(problems) > 0 {
		return Identity{}, errors.Join(problems...)
	}
	return c.identity(claims, nil)
}

// identity maps verified claims to an identity. The paths have their defaults filled in; Type and Issuer are the caller's.
func (c ClaimPaths) identity(claims map[string]any, steps *trail) (Identity, error) {
	steps.begin(checkSubject)
	subject, ok := c.subject(claims)
	if !ok || subject == "" || strings.ContainsFunc(subject, credential.IsControl) {
		return Identity{}, errSubject
	}
	steps.begin(checkMapped)
	id := Identity{Identity: subject, Subject: subject, Claims: claims, Authenticated: true}
	if id.Roles, ok = listAt(claims, c.Roles, stringList); !ok {
		return Identity{}, errRoleType
	}
	if id.Groups, ok = listAt(claims, c.Groups, stringList); !ok {
		return Identity{}, errGroupType
	}
	if id.Scopes, ok = listAt(claims, c.Scopes, scopeList); !ok {
		return Identity{}, errScopeType
	}
	if id.Email, ok = c.email(claims); !ok {
		return Identity{}, errEmail
	}
	return id, nil
}

// subject gives the caller's name. It need not be free of control characters or even be there.
func (c ClaimPaths) subject(claims map[string]any) (string, bool) {
	if c.Subject == "sub" {
		name, ok := claims["sub"].(string)
		return name, ok
	}
	for path := range strings.FieldsSeq(c.Subject) {
		found, err := lookupAll(claims, path)
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
func (c ClaimPaths) email(claims map[string]any) (string, bool) {
	found, err := lookupAll(claims, c.Email)
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

func isSpace(r rune) bool { return r == ' ' }
