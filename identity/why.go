package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Explanation says what became of a request's credential, for an operator who asks why. It shows what the checks compare (issuer,
// audience, client, key id, algorithm, type, times) and the names of claims, but no other claim, no signature and no token.
type Explanation struct {
	Identity Identity // as Identify gives it
	Err      error    // as Identify gives it
	Checks   []Check  // in the order of the package comment
	Claims   []string // names of the token's claims, sorted; nil where they cannot be read
}

// Check is one step of a verification.
type Check struct {
	Name  string
	State CheckState
	Found string // what the token has, quoted where it is the token's own text; empty = nothing to show
	Want  string // what the configuration takes
}

// CheckState is how a Check went.
type CheckState string

// The states. What comes behind a failed check was not looked at.
const (
	Passed     CheckState = "passed"
	Failed     CheckState = "failed"
	NotReached CheckState = "not reached"
)

// The checks, in their order. Each failure names its own where it is declared.
const (
	noCheck         = ""
	checkCredential = "credential"
	checkSize       = "size"
	checkForm       = "form"
	checkIssuer     = "issuer"
	checkPlace      = "place"
	checkType       = "type"
	checkAlgorithm  = "algorithm"
	checkKeys       = "keys"
	checkKey        = "key"
	checkSignature  = "signature"
	checkTimes      = "times"
	checkAudience   = "audience"
	checkClient     = "client"
	checkRequired   = "required"
	checkSubject    = "subject"
	checkMapped     = "claims"
)

// checkOf names the check that gives this failure, "" for one that is no check of a JSON Web Token.
func checkOf(err error) string {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.check
	}
	return ""
}

// Explain identifies as Identify does, which is what it asks, and tells what each check found and wanted.
func (v *Verifier) Explain(ctx context.Context, keys *Keys, req Request) Explanation {
	var e Explanation
	e.Identity, e.Err = v.Identify(ctx, keys, req)
	w := &witness{v: v, keys: keys, now: v.clock()}
	tok, found, err := v.credential(req)
	w.found, w.size = found, len(tok.raw)
	if err == nil && w.size <= v.maxToken {
		w.read(tok)
	}
	e.Claims = w.names()
	failed := checkOf(e.Err)
	if errors.Is(e.Err, errJoined) && err != nil { // said of two headers, and of two tokens in one
		failed = checkCredential
	}
	if e.Err != nil && failed == "" || e.Err == nil && (w.token == nil || e.Identity.Type != TypeJWT) {
		return w.another(e)
	}
	state := Passed
	for _, c := range w.checks() {
		c.State = state
		if c.Name == failed {
			c.State, state = Failed, NotReached
		}
		if c.State == NotReached {
			c.Found, c.Want = "", ""
		}
		e.Checks = append(e.Checks, c)
	}
	return e
}

// RequestWith is a request that carries a token where its issuer looks for it, or else at the first place there is.
func (v *Verifier) RequestWith(raw string) Request {
	req := Request{Header: func(string) []string { return nil }}
	if len(v.sources) == 0 {
		return req
	}
	at := 0
	if len(raw) <= v.maxToken {
		w := &witness{v: v}
		if w.read(token{raw}); w.issuer != nil && w.issuer.places != 0 {
			at = bits.TrailingZeros64(w.issuer.places)
		}
	}
	switch s := v.sources[at]; {
	case s.Query != "":
		req.Query = s.Query + "=" + strings.ReplaceAll(url.QueryEscape(raw), "+", "%20")
	case s.Cookie != "":
		req.Header = oneHeader("cookie", s.Cookie+"="+raw)
	default:
		req.Header = oneHeader(s.Header, strings.TrimLeft(s.Scheme+" "+raw, " "))
	}
	return req
}

func oneHeader(name, value string) Header {
	return func(asked string) []string {
		if asked == name {
			return []string{value}
		}
		return nil
	}
}

// witness is what can be said of a token before anything in it is verified. It decides nothing.
type witness struct {
	v      *Verifier
	keys   *Keys
	now    time.Time
	found  uint64
	size   int
	token  *parsed // nil: not readable
	issuer *issuer // nil: none of ours
}

func (w *witness) read(tok token) {
	p, err := w.v.parse(tok)
	if err != nil {
		return
	}
	w.token = p
	if name, ok := p.claims["iss"].(string); ok {
		w.issuer = w.v.byName[name]
	}
}

func (w *witness) names() []string {
	if w.token == nil {
		return nil
	}
	names := slices.Sorted(maps.Keys(w.token.claims))
	for i := range names {
		names[i] = quoted(names[i])
	}
	return names
}

// another tells of a credential that is no JSON Web Token of identity.jwt.
func (w *witness) another(e Explanation) Explanation {
	credential := Check{Name: checkCredential, State: Passed, Found: w.places(w.found), Want: w.places(math.MaxUint64)}
	e.Checks = []Check{credential}
	if e.Err != nil {
		e.Checks = append(e.Checks, Check{Name: "verification", State: Failed, Found: e.Err.Error()})
	}
	return e
}

// checks is every check with what it compares, as far as the token can be read.
func (w *witness) checks() []Check {
	all := []Check{
		{Name: checkCredential, Found: w.places(w.found), Want: "one credential, in " + w.places(math.MaxUint64)},
		{Name: checkSize, Found: fmt.Sprintf("%d bytes", w.size), Want: fmt.Sprintf("at most %d", w.v.maxToken)},
		{Name: checkForm, Want: "three segments of base64url without padding; header and claims are JSON objects without a name twice; no crit"},
	}
	var claims map[string]any
	if w.token != nil {
		claims = w.token.claims
	}
	all = append(all, Check{Name: checkIssuer, Found: shown(claims, "iss"), Want: "one of " + w.issuers()})
	if w.issuer == nil {
		return w.blank(all)
	}
	return append(all, w.headerChecks()...)
}

// blank adds the checks of which nothing can be said without an issuer.
func (w *witness) blank(all []Check) []Check {
	for _, name := range []string{checkPlace, checkType, checkAlgorithm, checkKeys, checkKey, checkSignature, checkTimes, checkAudience, checkClient,
		checkRequired, checkSubject, checkMapped} {
		all = append(all, Check{Name: name})
	}
	return all
}

func (w *witness) headerChecks() []Check {
	p, iss := w.token, w.issuer
	typ := Check{Name: checkType, Found: "none", Want: "none, JWT or at+jwt"}
	if p.hasTyp {
		typ.Found = quoted(p.typ)
	}
	if iss.Type != "" {
		typ.Want = iss.Type
	}
	kid := Check{Name: checkKey, Found: "no kid", Want: "a key of the issuer for " + quoted(p.alg)}
	if p.hasKid {
		kid.Found = "kid " + quoted(p.kid)
	}
	set := w.keys.set(iss)
	loaded := Check{Name: checkKeys, Found: "none were loaded from " + iss.source(), Want: "keys of the issuer"}
	if set != nil {
		loaded.Found = fmt.Sprintf("%d from %s", len(set.keys), iss.source())
		kid.Want += ": " + set.describe()
	}
	return append([]Check{
		{Name: checkPlace, Found: w.places(w.found), Want: w.places(iss.places)},
		typ,
		{Name: checkAlgorithm, Found: quoted(p.alg), Want: "one of " + strings.Join(slices.Sorted(maps.Keys(iss.algorithms)), " ")},
		loaded,
		kid,
		{Name: checkSignature, Found: fmt.Sprintf("%d bytes", len(p.signature)), Want: "the signature of that key over header and claims"},
	}, w.claimChecks()...)
}

func (w *witness) claimChecks() []Check {
	claims, iss := w.token.claims, w.issuer
	audience := Check{Name: checkAudience, Found: shown(claims, "aud"), Want: "no aud claim, as no audiences are configured"}
	if len(iss.Audiences) > 0 {
		audience.Want = "one of " + listing(iss.Audiences)
	}
	client := Check{Name: checkClient, Found: "client_id " + shown(claims, "client_id") + ", azp " + shown(claims, "azp"), Want: "any"}
	switch {
	case len(iss.ClientIDs) > 0 && len(iss.Parties) > 0:
		client.Want = "client_id, else azp, one of " + listing(iss.ClientIDs) + "; azp one of " + listing(iss.Parties)
	case len(iss.ClientIDs) > 0:
		client.Want = "client_id, else azp, one of " + listing(iss.ClientIDs)
	case len(iss.Parties) > 0:
		client.Want = "azp one of " + listing(iss.Parties)
	}
	return []Check{w.times(), audience, client, w.required(),
		{Name: checkSubject, Found: iss.Claims.Subject + " is " + kind(w.subject()), Want: "a string without control characters"},
		w.mapped(),
	}
}

// subject is the claim that the issuer's subjects come from.
func (w *witness) subject() any {
	found, err := lookupAll(w.token.claims, w.issuer.Claims.Subject)
	if err != nil || len(found) == 0 {
		return nil
	}
	return found[0]
}

// times shows the dates beside the clock, which is what they are compared with.
func (w *witness) times() Check {
	claims, iss := w.token.claims, w.issuer
	var found []string
	for _, name := range []string{"exp", "nbf", "iat"} {
		value, ok := claims[name]
		date, isDate := numericDate(value, math.Floor)
		switch {
		case !ok:
			found = append(found, "no "+name)
		case !isDate:
			found = append(found, name+" is no date but "+kind(value))
		default:
			found = append(found, fmt.Sprintf("%s %s (%s)", name, date.Format(time.RFC3339), w.distance(date)))
		}
	}
	want := fmt.Sprintf("at %s: exp later, nbf and iat not later, each within %s", w.now.UTC().Format(time.RFC3339), iss.ClockSkew)
	if iss.MaxAge > 0 {
		want += fmt.Sprintf("; iat at most %s ago", iss.MaxAge)
	}
	return Check{Name: checkTimes, Found: strings.Join(found, ", "), Want: want}
}

func (w *witness) distance(date time.Time) string {
	d := date.Sub(w.now).Round(time.Second)
	if d < 0 {
		return (-d).String() + " ago"
	}
	return "in " + d.String()
}

func (w *witness) required() Check {
	claims, iss := w.token.claims, w.issuer
	var found, want []string
	if iss.TokenUse != "" {
		found = append(found, "token_use "+shown(claims, "token_use"))
		want = append(want, "token_use "+quoted(iss.TokenUse))
	}
	for _, r := range iss.required {
		values, err := lookupAll(claims, r.path)
		state := " is there"
		switch {
		case err != nil || len(values) == 0:
			state = " is missing"
		case len(r.values) > 0 && !slices.ContainsFunc(values, r.allows):
			state = " has another value"
		}
		found = append(found, quoted(r.path)+state)
		if len(r.values) > 0 {
			want = append(want, quoted(r.path)+" one of "+listing(r.values))
		} else {
			want = append(want, quoted(r.path)+" present")
		}
	}
	if want == nil {
		return Check{Name: checkRequired, Want: "nothing"}
	}
	return Check{Name: checkRequired, Found: strings.Join(found, ", "), Want: strings.Join(want, ", ")}
}

// mapped shows of what type the claims are that roles, groups, scopes and e-mail are read from, not what is in them.
func (w *witness) mapped() Check {
	m := w.issuer.Claims
	var found []string
	for _, c := range []struct{ what, path string }{{"roles", m.Roles}, {"groups", m.Groups}, {"scopes", m.Scopes}, {"e-mail", m.Email}} {
		values, err := lookupAll(w.token.claims, c.path)
		text := "missing"
		switch {
		case err != nil:
			text = "in several claims"
		case len(values) > 0:
			text = kind(values[0])
		}
		found = append(found, c.what+" in "+quoted(c.path)+": "+text)
	}
	return Check{Name: checkMapped, Found: strings.Join(found, ", "), Want: "strings or lists of strings, for e-mail one string"}
}

// describe names the keys of a set.
func (s *keySet) describe() string {
	if s.unnamed {
		return fmt.Sprintf("%d from PEM, which have no kid", len(s.keys))
	}
	var names []string
	for i := range s.keys {
		k := &s.keys[i]
		var fits []string
		for _, a := range knownAlgorithms() {
			if k.fits(a) {
				fits = append(fits, a.name)
			}
		}
		names = append(names, fmt.Sprintf("%s (%s)", quoted(k.id), strings.Join(fits, " ")))
	}
	return strings.Join(names, ", ")
}

func (w *witness) issuers() string {
	var names []string
	for _, iss := range w.v.issuers {
		names = append(names, iss.Issuer.Issuer)
	}
	return listing(names)
}

func (w *witness) places(which uint64) string {
	var names []string
	for i, s := range w.v.sources {
		if which&(1<<i) == 0 {
			continue
		}
		switch {
		case s.Cookie != "":
			names = append(names, "cookie "+quoted(s.Cookie))
		case s.Query != "":
			names = append(names, "query parameter "+quoted(s.Query))
		case s.Scheme != "":
			names = append(names, fmt.Sprintf("header %s with scheme %s", s.Header, s.Scheme))
		default:
			names = append(names, "header "+s.Header)
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}

// shown is a claim that a check compares: text and lists of text as they are, of anything else only what it is.
func shown(claims map[string]any, name string) string {
	value, ok := claims[name]
	if !ok {
		return "none"
	}
	if texts, ok := stringList(value); ok && value != nil {
		return listing(texts)
	}
	return kind(value)
}

// kind names the type of a claim's value.
func kind(value any) string {
	switch value := value.(type) {
	case nil:
		return "missing or null"
	case string:
		if value == "" {
			return "an empty string"
		}
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "a boolean"
	case []any:
		return "a list"
	}
	return "an object"
}

const (
	maxShown = 200 // bytes of one text
	maxList  = 20  // texts of one list
)

// quoted keeps text of a token to one line that a terminal shows as it is, and to a length that a person reads.
func quoted(text string) string {
	if len(text) > maxShown {
		return fmt.Sprintf("%+q and %d bytes more", text[:maxShown], len(text)-maxShown)
	}
	return fmt.Sprintf("%+q", text)
}

func listing(texts []string) string {
	if len(texts) == 0 {
		return "none"
	}
	var out []string
	for _, text := range texts[:min(len(texts), maxList)] {
		out = append(out, quoted(text))
	}
	if more := len(texts) - maxList; more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, ", ")
}
