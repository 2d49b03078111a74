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

	"gatehouse/identity/claims"
	"gatehouse/identity/credential"
	"gatehouse/identity/keyset"
)

// Explanation is the result of each check of a request's credential, for an operator who asks why it is refused. It shows what the checks compare (issuer,
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

// CheckState is the result of a Check.
type CheckState string

// The states. Checks after a failed one are not reached.
const (
	Passed     CheckState = "passed"
	Failed     CheckState = "failed"
	NotReached CheckState = "not reached"
)

// The names of the checks.
const (
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

// trail is what one identification did. Explain reads it; for every other request it is nil, and notes nothing.
type trail struct {
	checks []string // begun, in this order; where identification failed and did not leave, the last of them failed
	left   bool     // the answer is not that of a verified token: there was no credential, or another kind of one

	token credential.Token // zero = there was none, or no single one
	found uint64
	now   time.Time
}

func (t *trail) begin(check string) {
	if t != nil {
		t.checks = append(t.checks, check)
	}
}

func (t *trail) takes(tok credential.Token, found uint64, now time.Time) {
	if t != nil {
		t.token, t.found, t.now = tok, found, now
	}
}

func (t *trail) leave() {
	if t != nil {
		t.left = true
	}
}

// Explain identifies as Identify does, but from no memory of the token, and tells what each check found and wanted.
func (v *Verifier) Explain(ctx context.Context, keys *Keys, req Request) Explanation {
	var e Explanation
	steps := &trail{}
	e.Identity, e.Err = v.identify(ctx, keys, req, steps)
	w := &witness{v: v, keys: keys, trail: steps}
	if len(steps.token.Raw) <= v.maxToken {
		w.read(steps.token)
	}
	e.Claims = w.names()
	if steps.left {
		return w.another(e)
	}
	for i, name := range steps.checks {
		c := w.check(name)
		if c.State = Passed; e.Err != nil && i == len(steps.checks)-1 {
			c.State = Failed
		}
		e.Checks = append(e.Checks, c)
	}
	for _, d := range descriptions {
		if !slices.Contains(steps.checks, d.name) {
			e.Checks = append(e.Checks, Check{Name: d.name, State: NotReached})
		}
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
		if w.read(credential.Token{Raw: raw}); w.issuer != nil && w.issuer.places != 0 {
			at = bits.TrailingZeros64(w.issuer.places)
		}
	}
	switch s := v.sources[at]; {
	case s.Query != "":
		req.Query = s.Query + "=" + strings.ReplaceAll(url.QueryEscape(raw), "+", "%20")
	case s.Cookie != "":
		req.Header = oneHeader("cookie", s.Cookie+"="+raw)
	case s.WebsocketProtocol != "":
		req.Header = oneHeader(credential.WebsocketHeader, s.WebsocketProtocol+", "+raw)
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
	*trail
	v      *Verifier
	keys   *Keys
	parsed *parsed // nil: not readable
	issuer *issuer // nil: none of ours
}

func (w *witness) read(tok credential.Token) {
	p, err := w.v.parse(tok)
	if err != nil {
		return
	}
	w.parsed = p
	if name, ok := p.claims["iss"].(string); ok {
		w.issuer = w.v.byName[name]
	}
}

func (w *witness) names() []string {
	if w.parsed == nil {
		return nil
	}
	names := slices.Sorted(maps.Keys(w.parsed.claims))
	for i := range names {
		names[i] = quoted(names[i])
	}
	return names
}

// another describes a credential that is not a JSON Web Token of identity.jwt.
func (w *witness) another(e Explanation) Explanation {
	credential := Check{Name: checkCredential, State: Passed, Found: w.places(w.found), Want: w.places(math.MaxUint64)}
	e.Checks = []Check{credential}
	if e.Err != nil {
		e.Checks = append(e.Checks, Check{Name: "verification", State: Failed, Found: e.Err.Error()})
	}
	return e
}

// descriptions say of each check what it found and wanted. Their order is that in which checks are listed that were not reached.
var descriptions = []struct {
	name string
	show func(*witness) (found, want string)
}{
	{checkCredential, func(w *witness) (string, string) {
		return w.places(w.found), "one credential, in " + w.places(math.MaxUint64)
	}},
	{checkSize, func(w *witness) (string, string) {
		return fmt.Sprintf("%d bytes", len(w.token.Raw)), fmt.Sprintf("at most %d", w.v.maxToken)
	}},
	{checkForm, func(*witness) (string, string) {
		return "", "three segments of base64url without padding; header and payload are JSON objects without a name twice; no crit"
	}},
	{checkIssuer, func(w *witness) (string, string) { return shown(w.parsed.claims, "iss"), "one of " + w.issuers() }},
	{checkPlace, func(w *witness) (string, string) { return w.places(w.found), w.places(w.issuer.places) }},
	{checkType, (*witness).typ},
	{checkAlgorithm, func(w *witness) (string, string) {
		return quoted(w.parsed.alg), "one of " + strings.Join(slices.Sorted(maps.Keys(w.issuer.algorithms)), " ")
	}},
	{checkKeys, (*witness).loaded},
	{checkKey, (*witness).key},
	{checkSignature, func(w *witness) (string, string) {
		return fmt.Sprintf("%d bytes", len(w.parsed.signature)), "the signature of that key over header and claims"
	}},
	{checkTimes, (*witness).times},
	{checkAudience, (*witness).audience},
	{checkClient, (*witness).client},
	{checkRequired, (*witness).required},
	{checkSubject, func(w *witness) (string, string) {
		return w.issuer.Claims.Subject + " is " + kind(w.subject()), "a string without control characters"
	}},
	{checkMapped, (*witness).mapped},
}

func (w *witness) check(name string) Check {
	c := Check{Name: name}
	for _, d := range descriptions {
		if d.name == name {
			c.Found, c.Want = d.show(w)
		}
	}
	return c
}

func (w *witness) typ() (found, want string) {
	found, want = "none", "none, JWT or at+jwt"
	if w.parsed.hasTyp {
		found = quoted(w.parsed.typ)
	}
	if w.issuer.Type != "" {
		want = w.issuer.Type
	}
	return found, want
}

func (w *witness) loaded() (found, want string) {
	found, want = "none were loaded from "+w.issuer.source(), "keys of the issuer"
	if set := w.keys.set(w.issuer); set != nil {
		found = fmt.Sprintf("%d from %s", set.Len(), w.issuer.source())
	} else if errors.Is(w.keys.missing(w.issuer), errStaleKeys) {
		found = "those from " + w.issuer.source() + " are too old"
	}
	return found, want
}

func (w *witness) key() (found, want string) {
	found, want = "no kid", "a key of the issuer for "+quoted(w.parsed.alg)
	if w.parsed.hasKid {
		found = "kid " + quoted(w.parsed.kid)
	}
	if set := w.keys.set(w.issuer); set != nil {
		want += ": " + describe(set)
	}
	return found, want
}

func (w *witness) audience() (found, want string) {
	want = "no aud claim, as no audiences are configured"
	if len(w.issuer.Audiences) > 0 {
		want = "one of " + listing(w.issuer.Audiences)
	}
	return shown(w.parsed.claims, "aud"), want
}

func (w *witness) client() (found, want string) {
	payload, iss := w.parsed.claims, w.issuer
	want = "any"
	switch {
	case len(iss.ClientIDs) > 0 && len(iss.Parties) > 0:
		want = "client_id, else azp, one of " + listing(iss.ClientIDs) + "; azp one of " + listing(iss.Parties)
	case len(iss.ClientIDs) > 0:
		want = "client_id, else azp, one of " + listing(iss.ClientIDs)
	case len(iss.Parties) > 0:
		want = "azp one of " + listing(iss.Parties)
	}
	return "client_id " + shown(payload, "client_id") + ", azp " + shown(payload, "azp"), want
}

// subject is the claim that the issuer's subjects come from.
func (w *witness) subject() any {
	found, err := claims.Lookup(w.parsed.claims, w.issuer.Claims.Subject)
	if err != nil || len(found) == 0 {
		return nil
	}
	return found[0]
}

// times shows the dates beside the clock, which is what they are compared with.
func (w *witness) times() (found, want string) {
	payload, iss := w.parsed.claims, w.issuer
	var dates []string
	for _, name := range []string{"exp", "nbf", "iat"} {
		value, ok := payload[name]
		date, isDate := claims.Date(value, math.Floor)
		switch {
		case !ok:
			dates = append(dates, "no "+name)
		case !isDate:
			dates = append(dates, name+" is no date but "+kind(value))
		default:
			dates = append(dates, fmt.Sprintf("%s %s (%s)", name, date.Format(time.RFC3339), w.distance(date)))
		}
	}
	want = fmt.Sprintf("at %s: exp later, nbf and iat not later, within a clock skew of %s (clock_skew)", w.now.UTC().Format(time.RFC3339), iss.ClockSkew)
	if iss.MaxAge > 0 {
		want += fmt.Sprintf("; iat at most %s ago", iss.MaxAge)
	}
	return strings.Join(dates, ", "), want
}

func (w *witness) distance(date time.Time) string {
	d := date.Sub(w.now).Round(time.Second)
	if d < 0 {
		return (-d).String() + " ago"
	}
	return "in " + d.String()
}

func (w *witness) required() (found, want string) {
	payload, iss := w.parsed.claims, w.issuer
	var has, needs []string
	if iss.TokenUse != "" {
		has = append(has, "token_use "+shown(payload, "token_use"))
		needs = append(needs, "token_use "+quoted(iss.TokenUse))
	}
	for _, r := range iss.required {
		values, err := claims.Lookup(payload, r.path)
		state := " is there"
		switch {
		case err != nil || len(values) == 0:
			state = " is missing"
		case len(r.values) > 0 && !slices.ContainsFunc(values, r.allows):
			state = " has another value"
		}
		has = append(has, quoted(r.path)+state)
		if len(r.values) > 0 {
			needs = append(needs, quoted(r.path)+" one of "+listing(r.values))
		} else {
			needs = append(needs, quoted(r.path)+" present")
		}
	}
	if needs == nil {
		return "", "nothing"
	}
	return strings.Join(has, ", "), strings.Join(needs, ", ")
}

// mapped shows of what type the claims are that roles, groups, scopes and e-mail are read from, not what is in them.
func (w *witness) mapped() (found, want string) {
	m := w.issuer.Claims
	var all []string
	for _, c := range []struct{ what, path string }{{"roles", m.Roles}, {"groups", m.Groups}, {"scopes", m.Scopes}, {"e-mail", m.Email}} {
		values, err := claims.Lookup(w.parsed.claims, c.path)
		text := "missing"
		switch {
		case err != nil:
			text = "in several claims"
		case len(values) > 0:
			text = kind(values[0])
		}
		all = append(all, c.what+" in "+quoted(c.path)+": "+text)
	}
	return strings.Join(all, ", "), "strings or lists of strings, for e-mail one string"
}

// describe names the keys of a set.
func describe(s *keyset.Set) string {
	if s.Unnamed() {
		return fmt.Sprintf("%d from PEM, which have no kid", s.Len())
	}
	var names []string
	for _, k := range s.Keys() {
		names = append(names, fmt.Sprintf("%s (%s)", quoted(k.ID), strings.Join(k.Algorithms, " ")))
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
		case s.WebsocketProtocol != "":
			names = append(names, "websocket protocol "+quoted(s.WebsocketProtocol))
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
func shown(payload map[string]any, name string) string {
	value, ok := payload[name]
	if !ok {
		return "none"
	}
	if texts, ok := claims.Strings(value); ok && value != nil {
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
