package claims

import (
	"encoding/json"
	"math"
	"strconv"
	"time"

	"gatehouse/identity/refusal"
)

const maxUnixTime = 253402300799 // the end of the year 9999

var (
	errTime       = refusal.Lasting("a time claim is not a number in range")
	errNoExpiry   = refusal.Lasting("token has no expiry")
	errNoIssuedAt = refusal.Lasting("token does not say when it was issued")
	errExpired    = refusal.Lasting("token expired")
	errNotYet     = refusal.Lasting("token is not valid yet")
	errFuture     = refusal.Lasting("token was issued in the future")
	errTooOld     = refusal.Lasting("token was issued too long ago")
)

// Validity is the time within which a result of checking a token's times stays true, accepted or refused, clock skew included.
type Validity struct {
	Expires, From, Until time.Time
}

// EndOfTime is later than any token's until.
func EndOfTime() time.Time { return time.Unix(2*maxUnixTime, 0) }

// Times checks exp, which is required, nbf and iat (RFC 7519 section 4.1), and the age since iat where maxAge is not zero.
func Times(claims map[string]any, skew, maxAge time.Duration, now time.Time) (Validity, error) {
	if _, ok := claims["exp"]; !ok {
		return Validity{Until: EndOfTime()}, errNoExpiry
	}
	if _, ok := claims["iat"]; !ok && maxAge > 0 {
		return Validity{Until: EndOfTime()}, errNoIssuedAt
	}
	valid, err := Window(claims, skew, now)
	if err != nil || maxAge == 0 {
		return valid, err
	}
	issued, _, _ := dateClaim(claims, "iat", math.Floor)
	end := issued.Add(maxAge + skew)
	if !now.Before(end) {
		valid.From = latest(valid.From, end)
		return valid, errTooOld
	}
	valid.Until = Earliest(valid.Until, end)
	return valid, nil
}

// Window is Times for claims that may do without exp; expires is then zero. Fractions of a second are rounded to the
// strict side. What can be said without the clock comes first, so that each answer holds for one stretch of time.
func Window(claims map[string]any, skew time.Duration, now time.Time) (Validity, error) {
	exp, hasExp, okExp := dateClaim(claims, "exp", math.Floor)
	nbf, hasNbf, okNbf := dateClaim(claims, "nbf", math.Ceil)
	iat, hasIat, okIat := dateClaim(claims, "iat", math.Ceil)
	valid := Validity{Expires: exp, Until: EndOfTime()}
	if !okExp || !okNbf || !okIat {
		return valid, errTime
	}
	if hasExp {
		end := exp.Add(skew)
		if !now.Before(end) {
			valid.From = end
			return valid, errExpired
		}
		valid.Until = end
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
			valid.Until = Earliest(valid.Until, from)
			return valid, start.early
		default:
			valid.From = latest(valid.From, from)
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

// Earliest is the earlier of two times.
func Earliest(a, b time.Time) time.Time {
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
	date, ok = Date(value, round)
	return date, true, ok
}

// Date reads seconds since 1970, which may have a fraction (RFC 7519 section 2), up to the year 9999.
func Date(value any, round func(float64) float64) (time.Time, bool) {
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
