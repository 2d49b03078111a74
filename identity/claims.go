package identity

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

const maxUnixTime = 253402300799 // the end of the year 9999

// validity is when a token may be used. from and until include the clock skew.
type validity struct {
	expires, from, until time.Time
}

// checkTimes checks exp, nbf and iat (RFC 7519 section 4.1) and the issuer's maximum age. Fractions of a second are rounded to
// the strict side. What can be said without the clock comes first; where only the clock is against the token, the validity
// is given together with the error.
func (iss *issuer) checkTimes(claims map[string]any, now time.Time) (validity, error) {
	exp, hasExp, okExp := dateClaim(claims, "exp", math.Floor)
	nbf, hasNbf, okNbf := dateClaim(claims, "nbf", math.Ceil)
	iat, hasIat, okIat := dateClaim(claims, "iat", math.Ceil)
	switch {
	case !hasExp:
		return validity{}, errNoExpiry
	case !okExp || !okNbf || !okIat:
		return validity{}, errTime
	case !hasIat && iss.MaxAge > 0:
		return validity{}, errNoIssuedAt
	}
	valid := validity{expires: exp, until: exp.Add(iss.ClockSkew)}
	if !now.Before(valid.until) {
		return valid, errExpired
	}
	if hasNbf {
		if valid.from = nbf.Add(-iss.ClockSkew); now.Before(valid.from) {
			return valid, errNotYet
		}
	}
	if hasIat {
		from := iat.Add(-iss.ClockSkew)
		if now.Before(from) {
			return valid, errFuture
		}
		valid.from = latest(valid.from, from)
	}
	if iss.MaxAge > 0 {
		born, _, _ := dateClaim(claims, "iat", math.Floor)
		end := born.Add(iss.MaxAge + iss.ClockSkew)
		if !now.Before(end) {
			return valid, errTooOld
		}
		valid.until = earliest(valid.until, end)
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
func (iss *issuer) identityFrom(claims map[string]any) (Identity, error) {
	if err := iss.checkRecipient(claims); err != nil {
		return Identity{}, err
	}
	if err := iss.checkRequired(claims); err != nil {
		return Identity{}, err
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
	if err := iss.mapped.apply(&id, claims); err != nil {
		return Identity{}, err
	}
	return id, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
func isSpace(r rune) bool   { return r == ' ' }
