package identity

import (
	"context"
	"errors"
	"strings"
	"time"

	"gatehouse/identity/claims"
	"gatehouse/identity/credential"
	"gatehouse/identity/keyset"
	"gatehouse/identity/refusal"
	"gatehouse/identity/strictjson"
)

// Identify gives the end user of one request. keys is the pinned View's part, from this Verifier's Run or Load; nil means that
// nothing was loaded yet.
//
// No credential at all is Anonymous with a nil error. A credential that is present but wrong is ErrBadCredential, and one of an
// issuer whose keys were never loaded is ErrUnavailable; the Identity is then the zero value. Nothing in the result aliases
// what the request's Header returned. ctx bounds the wait for a key that is not known yet, and for an
// introspection server.
func (v *Verifier) Identify(ctx context.Context, keys *Keys, req Request) (Identity, error) {
	return v.identify(ctx, keys, req, nil)
}

func (v *Verifier) identify(ctx context.Context, keys *Keys, req Request, steps *trail) (Identity, error) {
	id, err := v.fromCredential(ctx, keys, req, steps)
	if err != nil || v.others.metadata == "" {
		return id, err
	}
	id, err = v.withMetadata(req.Metadata, id)
	if err != nil {
		steps.leave()
	}
	return id, err
}

// fromCredential gives the end user of the one credential that the client sent. The caches are used only where
// the steps are not asked for.
func (v *Verifier) fromCredential(ctx context.Context, keys *Keys, req Request, steps *trail) (Identity, error) {
	steps.begin(checkCredential)
	tok, found, err := credential.Find(v.sources, req.Header, req.Query)
	if err != nil {
		v.metrics.failed(err)
		return Identity{}, err
	}
	if found == 0 {
		steps.leave()
		return Anonymous(), nil
	}
	now := v.clock()
	steps.takes(tok, found, now)
	steps.begin(checkSize)
	if len(tok.Raw) > v.maxToken {
		v.metrics.failed(errTooLong)
		return Identity{}, errTooLong
	}
	if id, mine, err := v.apiKey(keys, tok, found, now); mine {
		steps.leave()
		v.metrics.counted(err)
		return id, err
	}
	hash := v.cache.hash(tok)
	if hit := v.cache.get(hash, tok); hit != nil && steps == nil && hit.holds(keys.set(hit.issuer), found, now) {
		v.metrics.tokens[tokenCached].Inc()
		return hit.identity, nil
	}
	if old := v.refused.get(hash, tok); old != nil && steps == nil && old.holds(keys.set(old.issuer), found, now) {
		v.metrics.tokens[tokenNegative].Inc()
		return Identity{}, old.refusal
	}
	if id, mine, err := v.introspect(ctx, keys, tok, found, now); mine {
		if !errors.Is(err, ErrWouldWait) {
			steps.leave()
			v.metrics.counted(err)
		}
		return id, err
	}
	fresh := v.verify(ctx, keys, tok, found, now, steps)
	if errors.Is(fresh.refusal, ErrWouldWait) {
		return Identity{}, fresh.refusal
	}
	fresh.hash = hash
	if fresh.refusal == nil {
		v.metrics.tokens[tokenVerified].Inc()
		v.cache.put(fresh, now)
		return fresh.identity, nil
	}
	v.metrics.failed(fresh.refusal)
	if refusal.Lasts(fresh.refusal) {
		v.refused.put(fresh, now)
	}
	return fresh.identity, fresh.refusal
}

// verdict is the result of verifying a token, with the conditions under which it is valid. It never changes.
type verdict struct {
	token    credential.Token
	hash     uint64
	found    uint64      // where the token was
	issuer   *issuer     // nil = it was refused before that was known
	set      *keyset.Set // the issuer's keys
	from     time.Time   // not before this, clock skew included
	until    time.Time   // and before this
	identity Identity
	refusal  error // nil = it passed every check
	memory   int   // estimate, bytes
}

// holds reports whether verification now, with this set of the issuer's keys and the token found in these places, would give
// the same answer. Which places a good token was found in does not matter as long as one of them is the issuer's.
func (t *verdict) holds(set *keyset.Set, found uint64, now time.Time) bool {
	samePlace := t.found == found || t.refusal == nil && t.issuer.places&found != 0
	return t.set == set && samePlace && !now.Before(t.from) && now.Before(t.until)
}

// verify does every check in the order that the package comment lists.
func (v *Verifier) verify(ctx context.Context, keys *Keys, tok credential.Token, found uint64, now time.Time, steps *trail) *verdict {
	t := &verdict{found: found, until: claims.EndOfTime()}
	memory := 0
	t.identity, memory, t.refusal = v.check(ctx, t, keys, tok, now, steps)
	t.memory = memory + len(tok.Raw) + 512
	if t.refusal != nil {
		t.identity, t.memory = Identity{}, len(tok.Raw)+256
		t.until = claims.Earliest(t.until, now.Add(refusedFor))
		if !refusal.Lasts(t.refusal) {
			return t // not cached
		}
	}
	t.token = credential.Token{Raw: strings.Clone(tok.Raw)}
	return t
}

// check does verify's work. It notes in t what the result depends on, as far as it got. memory is that of the claims, in bytes.
func (v *Verifier) check(ctx context.Context, t *verdict, keys *Keys, tok credential.Token, now time.Time, steps *trail) (id Identity, memory int, err error) {
	steps.begin(checkForm)
	p, err := v.parse(tok)
	if err != nil {
		return Identity{}, 0, err
	}
	iss, err := v.issuerOf(p, t.found, steps)
	if err != nil {
		return Identity{}, 0, err
	}
	t.issuer, t.set = iss, keys.set(iss)
	steps.begin(checkType)
	if err := iss.takesType(p); err != nil {
		return Identity{}, 0, err
	}
	steps.begin(checkAlgorithm)
	alg, ok := iss.algorithms[p.alg]
	if !ok {
		return Identity{}, 0, errAlgorithm
	}
	key, set, err := v.pickKey(ctx, keys, iss, p, alg, steps)
	if set != nil {
		t.set = set // perhaps a newer one
	}
	if err != nil {
		return Identity{}, 0, err
	}
	steps.begin(checkSignature)
	if !key.Verify(alg, p.signed, p.signature) {
		return Identity{}, 0, errSignature
	}
	steps.begin(checkTimes)
	times, err := claims.Times(p.claims, iss.ClockSkew, iss.MaxAge, now)
	t.from, t.until = times.From, times.Until
	if err != nil {
		return Identity{}, 0, err
	}
	id, err = iss.identityFrom(p.claims, steps)
	id.Expires = times.Expires
	return id, p.memory + 16*(len(id.Roles)+len(id.Groups)+len(id.Scopes)), err
}

func (v *Verifier) issuerOf(p *parsed, found uint64, steps *trail) (*issuer, error) {
	steps.begin(checkIssuer)
	name, ok := p.claims["iss"].(string)
	if !ok {
		return nil, errIssuerType
	}
	iss := v.byName[name]
	if iss == nil {
		return nil, errUnknownIssuer
	}
	steps.begin(checkPlace)
	if iss.places&found == 0 {
		return nil, errPlace
	}
	return iss, nil
}

// pickKey selects the keys that may verify a token out of the pinned set, or out of a newer one where the pinned has no key of
// its kid. Nothing waits for a file: it is read as soon as it changes.
func (v *Verifier) pickKey(ctx context.Context, keys *Keys, iss *issuer, p *parsed, alg keyset.Algorithm, steps *trail) (keyset.Picked, *keyset.Set, error) {
	steps.begin(checkKeys)
	set := keys.set(iss)
	if set == nil {
		return keyset.Picked{}, nil, keys.missing(iss)
	}
	steps.begin(checkKey)
	key, err := set.Pick(p.kid, p.hasKid, alg)
	if !errors.Is(err, keyset.ErrUnknownKey) {
		return key, set, err
	}
	newer, result := iss.lookups.find(ctx, p.kid)
	if result == waitWould {
		return keyset.Picked{}, nil, ErrWouldWait
	}
	v.metrics.waited(result)
	if newer == nil {
		return keyset.Picked{}, nil, keyset.ErrUnknownKey
	}
	key, err = newer.Pick(p.kid, p.hasKid, alg)
	return key, newer, err
}

// parsed is a token that is well-formed; nothing in it is verified.
type parsed struct {
	signed    string // the two segments that the signature covers
	signature []byte
	alg       string
	kid       string
	hasKid    bool
	typ       string
	hasTyp    bool
	claims    map[string]any
	memory    int
}

func (v *Verifier) parse(tok credential.Token) (*parsed, error) {
	first, last, err := segments(tok.Raw)
	if err != nil {
		return nil, err
	}
	var raw [3][]byte
	for i, segment := range []string{tok.Raw[:first], tok.Raw[first+1 : last], tok.Raw[last+1:]} {
		if raw[i], err = v.base64.DecodeString(segment); err != nil {
			return nil, errMalformed
		}
	}
	p := &parsed{signed: tok.Raw[:last], signature: raw[2]}
	header, _, err := decodeStrictly(raw[0])
	if err != nil {
		return nil, err
	}
	if err := p.readHeader(header); err != nil {
		return nil, err
	}
	p.claims, p.memory, err = decodeStrictly(raw[1])
	return p, err
}

// segments finds the two dots. Everything else must be of the base64url alphabet: Go's decoder would skip line breaks, and
// padding would give one token several spellings.
func segments(raw string) (first, last int, err error) {
	dots := 0
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.':
			first, last = last, i
			dots++
		case c == ',':
			return 0, 0, credential.ErrJoined
		default:
			return 0, 0, errMalformed
		}
	}
	if dots != 2 || first == 0 || last == first+1 || last == len(raw)-1 {
		return 0, 0, errMalformed
	}
	return first, last, nil
}

func decodeStrictly(raw []byte) (map[string]any, int, error) {
	object, memory, err := strictjson.Object(raw)
	switch {
	case errors.Is(err, strictjson.ErrDuplicate):
		return nil, 0, errDuplicate
	case errors.Is(err, strictjson.ErrDepth):
		return nil, 0, errDeep
	case err != nil:
		return nil, 0, errJSON
	}
	return object, memory, nil
}

// readHeader takes alg and kid and refuses what would change the token's meaning. jwk, jku, x5c and x5u are a forger's key as
// easily as an issuer's, so they are not looked at (RFC 8725 section 3.10).
func (p *parsed) readHeader(header map[string]any) error {
	if _, ok := header["crit"]; ok {
		return errCritical // we know no extension (RFC 7515 section 4.1.11)
	}
	if b64, ok := header["b64"]; ok && b64 != true {
		return errCritical // an unencoded payload (RFC 7797)
	}
	if typ, ok := header["typ"]; ok {
		if p.typ, p.hasTyp = typ.(string); !p.hasTyp {
			return errType
		}
	}
	alg, ok := header["alg"].(string)
	if !ok {
		return errHeader
	}
	p.alg = alg
	kid, ok := header["kid"]
	if !ok {
		return nil
	}
	p.kid, p.hasKid = kid.(string)
	if p.kid == "" {
		return errHeader
	}
	return nil
}
