package identity

import (
	"bytes"
	"cmp"
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"gatehouse/identity/claims"
	"gatehouse/identity/credential"
	"gatehouse/identity/keyset"
	"gatehouse/identity/refusal"
	"gatehouse/identity/strictjson"
	"gatehouse/panics"
	"gatehouse/upstream"
)

// Bounds and defaults of introspection. Sizes are bytes, and each entry of the configuration has its own.
const (
	defaultAsking  = 2 * time.Second
	minAsking      = 10 * time.Millisecond
	maxAsking      = 30 * time.Second
	defaultAnswer  = time.Minute
	maxAnswer      = 24 * time.Hour
	inactiveAnswer = 10 * time.Second // an inactive token stays inactive, so this bounds nothing but memory
	maxQuestions   = 64               // at once; further ones are unavailable
	maxAnswerBytes = 64 << 10
	maxActive      = 10_000 // answers kept
	maxInactive    = 10_000
	maxActiveBytes = 16 << 20
	warnInterval   = 10 * time.Second
)

var (
	errInactive        = refusal.Bad("token is not active")
	errAnswerIssuer    = refusal.Bad("issuer of the introspected token does not match")
	errSeveralServers  = refusal.Bad("token is in the places of several introspection servers")
	errNoClientAuth    = refusal.Unavailable("client secret or key for introspection was never loaded")
	errAsking          = refusal.Unavailable("introspection server cannot be reached")
	errAskingTimeout   = refusal.Unavailable("introspection server did not answer in time")
	errAskingGone      = refusal.Unavailable("introspection server did not answer in the time that the request has")
	errAskingBusy      = refusal.Unavailable("too many questions to the introspection server at once")
	errAskingDenied    = refusal.Unavailable("introspection server refuses our client credentials")
	errAskingRedirect  = refusal.Unavailable("introspection server redirects, which is not followed")
	errAskingFailed    = refusal.Unavailable("introspection server failed")
	errAskingRefused   = refusal.Unavailable("introspection server refuses the question")
	errAnswerTooLong   = refusal.Unavailable("introspection server's answer is too long")
	errAnswerType      = refusal.Unavailable("introspection server's answer is not application/json")
	errAnswerMalformed = refusal.Unavailable("introspection server's answer is not strict json")
	errAnswerActive    = refusal.Unavailable("introspection server's answer does not say whether the token is active")
)

// introspector asks one server (RFC 7662). All but what mu guards and warned never changes.
//
// Requests with the same token share one request to the server. It runs to its end, at most for Timeout, so that a slow server's answer is
// there for the next try. A request waits only as long as it can still answer its own caller: a proxy that gave up on us may let its request
// through. Run's end waits for the requests to the server.
type introspector struct {
	Introspection
	index        int
	file         int // index in others.files of the secret or the key
	places       uint64
	clock        func() time.Time
	client       *http.Client
	ownTransport *http.Transport // whose idle connections are ours to close; nil = the client was given
	log          *zap.Logger
	metrics      *metrics
	slots        chan struct{} // holds one for each question under way
	warned       atomic.Int64  // when a failure was last logged, Unix nanoseconds
	mu           sync.Mutex    // flights, active, inactive
	flights      map[tokenSum]*flight
	active       answers
	inactive     answers
}

// tokenSum stands for a token: the token itself is not kept.
type tokenSum [sha256.Size]byte

// flight is one question under way. id and err are set before done is closed.
type flight struct {
	done chan struct{}
	id   Identity
	err  error
}

func (v *Verifier) addIntrospection(index int, c Introspection, all Config) (problems []error) {
	problem := func(path, format string, a ...any) { problems = append(problems, fieldErrorf(path, format, a...)) }
	in := &introspector{Introspection: c, index: index, clock: v.clock, log: v.log, slots: make(chan struct{}, maxQuestions),
		flights: make(map[tokenSum]*flight), active: newAnswers(maxActive, maxActiveBytes), inactive: newAnswers(maxInactive, maxActiveBytes)}
	// Unlike the client for key sets it keeps connections open between questions, and follows no redirect: the body holds a token.
	in.client, in.ownTransport = upstream.Direct{Client: all.Client, Header: maxResponseHead, Idle: maxQuestions}.New()
	in.client.Timeout = 0
	in.Claims = c.Claims.WithDefaults(func(field string, err error) { problem("Claims."+field, "%w", err) })
	if err := keyset.CheckURL(c.URL); err != nil {
		problem("URL", "%w", err)
	}
	if c.ClientID == "" || strings.ContainsFunc(c.ClientID, credential.IsControl) {
		problem("ClientID", "is required: the server answers only those it knows (RFC 7662 section 2.1)")
	}
	if slices.Contains(c.Audiences, "") {
		problem("Audiences", "an empty audience")
	}
	if in.Timeout = cmp.Or(c.Timeout, defaultAsking); in.Timeout < minAsking || in.Timeout > maxAsking {
		problem("Timeout", "%q is not between %s and %s", c.Timeout, minAsking, maxAsking)
	}
	if in.CacheFor = cmp.Or(c.CacheFor, defaultAnswer); in.CacheFor > maxAnswer {
		problem("CacheFor", "%q is more than %s", c.CacheFor, maxAnswer)
	}
	problems = append(problems, v.addClientAuth(in)...)
	problems = append(problems, v.addAnswerIssuer(in)...)
	var taken uint64
	for _, other := range v.others.introspectors {
		taken |= other.places
	}
	places, errs := v.newPlaces(c.From, taken)
	in.places = places
	v.others.introspectors = append(v.others.introspectors, in)
	return append(problems, errs...)
}

// addAnswerIssuer registers an entry that takes the JSON Web Tokens of an issuer. No other entry may take them.
func (v *Verifier) addAnswerIssuer(in *introspector) []error {
	switch {
	case in.Issuer == "":
		return nil
	case v.byName[in.Issuer] != nil:
		return []error{fieldErrorf("Issuer", "%q is verified here by identity.jwt: only one of the two can take its tokens", in.Issuer)}
	case v.others.byIssuer[in.Issuer] != nil:
		return []error{fieldErrorf("Issuer", "%q is listed twice", in.Issuer)}
	}
	v.others.byIssuer[in.Issuer] = in
	return nil
}

// closeIdle waits for the questions under way, and closes the connections that no question uses.
func (o *others) closeIdle() {
	for _, in := range o.introspectors {
		for _, f := range in.inFlight() {
			<-f.done
		}
		if in.ownTransport != nil {
			in.ownTransport.CloseIdleConnections()
		}
	}
}

func (in *introspector) inFlight() []*flight {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Collect(maps.Values(in.flights))
}

// introspect gives the identity of a token where an introspection server is to be asked about it. A token with an API key's mark
// never comes here.
func (v *Verifier) introspect(ctx context.Context, keys *Keys, tok credential.Token, found uint64, now time.Time) (id Identity, mine bool, err error) {
	if len(v.others.introspectors) == 0 {
		return Identity{}, false, nil
	}
	if found&v.cookies != 0 && !credential.PlainCookie(tok.Raw) {
		return Identity{}, true, credential.ErrCookie
	}
	in, several := v.others.at(found)
	sum := tokenSum(sha256.Sum256([]byte(tok.Raw)))
	if in != nil && !several { // an answer that is here is of a token that was found to be this server's
		if id, err, known := in.lookup(sum, now); known {
			return id, true, err
		}
	}
	if issuer, shaped := v.unverifiedIssuer(tok); shaped {
		if in = v.others.byIssuer[issuer]; in == nil {
			return Identity{}, false, nil
		}
		if several = false; in.places&found == 0 {
			return Identity{}, true, errPlace
		}
	}
	switch {
	case several:
		return Identity{}, true, errSeveralServers
	case in == nil:
		return Identity{}, false, nil
	}
	var auth *clientAuth
	if part := keys.other(v, in.file); part != nil {
		auth = part.client
	}
	id, err = in.identify(ctx, auth, tok, sum)
	return id, true, err
}

// at finds the server whose place a token was found in, and says whether there are several.
func (o *others) at(found uint64) (one *introspector, several bool) {
	for _, in := range o.introspectors {
		if in.places&found != 0 {
			if one != nil {
				return one, true
			}
			one = in
		}
	}
	return one, false
}

// unverifiedIssuer reads the iss claim of a token that has the shape of a signed JSON Web Token, even if it is a broken one: those
// are for verification here, unless iss names a server. Nothing else is believed of what it reads.
func (v *Verifier) unverifiedIssuer(tok credential.Token) (issuer string, shaped bool) {
	first, rest, _ := strings.Cut(tok.Raw, ".")
	second, third, _ := strings.Cut(rest, ".")
	if third == "" || strings.Contains(third, ".") {
		return "", false
	}
	if header, err := v.base64.DecodeString(first); !strings.HasPrefix(first, "ey") &&
		(err != nil || !bytes.HasPrefix(bytes.TrimLeft(header, " \t\r\n"), []byte("{"))) {
		return "", false
	}
	raw, err := v.base64.DecodeString(second)
	if err != nil {
		return "", true
	}
	payload, _, _ := strictjson.Object(raw) // nil where it fails
	issuer, _ = payload["iss"].(string)
	return issuer, true
}

// lookup finds an answer that still holds.
func (in *introspector) lookup(sum tokenSum, now time.Time) (id Identity, err error, known bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.lookupLocked(sum, now)
}

func (in *introspector) lookupLocked(sum tokenSum, now time.Time) (id Identity, err error, known bool) {
	if a := in.active.get(sum, now); a != nil {
		return a.identity, nil, true
	}
	if a := in.inactive.get(sum, now); a != nil {
		return Identity{}, errInactive, true
	}
	return Identity{}, nil, false
}

// identify asks, or waits for who asks already.
func (in *introspector) identify(ctx context.Context, auth *clientAuth, tok credential.Token, sum tokenSum) (Identity, error) {
	in.mu.Lock()
	if id, err, known := in.lookupLocked(sum, in.clock()); known {
		in.mu.Unlock()
		return id, err
	}
	if !mayWait(ctx) {
		in.mu.Unlock()
		return Identity{}, ErrWouldWait
	}
	f, running := in.flights[sum]
	if !running {
		f = &flight{done: make(chan struct{}), err: errAskingFailed} // should the question panic
		in.flights[sum] = f
		go in.runFlight(f, auth, credential.Token{Raw: strings.Clone(tok.Raw)}, sum) // goroutine: runFlight recovers
	}
	in.mu.Unlock()
	limit := in.Timeout + time.Second // the question itself ends before
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline) * 3 / 4
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-f.done:
		return f.id, f.err
	case <-ctx.Done():
	case <-timer.C:
	}
	return Identity{}, errAskingGone
}

// runFlight puts a flight's question. It ends by itself, after Timeout at the latest.
func (in *introspector) runFlight(f *flight, auth *clientAuth, tok credential.Token, sum tokenSum) {
	defer func() {
		if p := recover(); p != nil {
			panics.Report("introspecting a token at "+keyset.WithoutQuery(in.URL), p)
		}
		in.mu.Lock()
		delete(in.flights, sum)
		in.mu.Unlock()
		close(f.done)
	}()
	f.id, f.err = in.ask(context.Background(), auth, tok, sum)
	in.metrics.asked(f.err)
}

// ask puts one question and remembers the answer.
func (in *introspector) ask(ctx context.Context, auth *clientAuth, tok credential.Token, sum tokenSum) (Identity, error) {
	if auth == nil {
		return Identity{}, errNoClientAuth
	}
	select {
	case in.slots <- struct{}{}:
		defer func() { <-in.slots }()
	default:
		return Identity{}, errAskingBusy
	}
	ctx, cancel := context.WithTimeout(ctx, in.Timeout)
	defer cancel()
	asked := in.clock()
	raw, err := in.exchange(ctx, auth, tok)
	if err != nil {
		return Identity{}, err
	}
	payload, memory, err := strictjson.Object(raw)
	if err != nil {
		return Identity{}, in.failed(errAnswerMalformed, nil)
	}
	active, ok := payload["active"].(bool)
	if !ok {
		return Identity{}, in.failed(errAnswerActive, nil)
	}
	a := &answer{sum: sum, memory: memory + 1024, until: asked.Add(in.CacheFor)}
	if !active {
		a.until = asked.Add(min(in.CacheFor, inactiveAnswer))
		a.memory = 256
		in.store(&in.inactive, a)
		return Identity{}, errInactive
	}
	times, err := in.read(payload, a)
	if err != nil {
		return Identity{}, err
	}
	if !times.Until.IsZero() && times.Until.Before(a.until) {
		a.until = times.Until
	}
	in.store(&in.active, a)
	return a.identity, nil
}

// read checks what the server says of an active token (RFC 7662 section 2.2) and maps it. Its issuer is the one that the entry
// names: an answer cannot speak for others.
func (in *introspector) read(payload map[string]any, a *answer) (claims.Validity, error) {
	if value, present := payload["iss"]; present {
		name, ok := value.(string)
		switch {
		case !ok:
			return claims.Validity{}, errIssuerType
		case in.Issuer != "" && name != in.Issuer:
			return claims.Validity{}, errAnswerIssuer
		}
	}
	times, err := claims.Window(payload, defaultSkew, in.clock())
	if err != nil {
		return claims.Validity{}, err
	}
	if len(in.Audiences) > 0 {
		audiences, ok := claims.Strings(payload["aud"])
		if !ok || len(audiences) == 0 {
			return claims.Validity{}, errAudType
		}
		mine := func(audience string) bool { return slices.Contains(in.Audiences, audience) }
		if !slices.ContainsFunc(audiences, mine) {
			return claims.Validity{}, errAudience
		}
	}
	subject, err := in.Claims.SubjectOf(payload)
	if err != nil {
		return claims.Validity{}, err
	}
	if a.identity, err = in.Claims.Map(subject, payload); err != nil {
		return claims.Validity{}, err
	}
	a.identity.Type, a.identity.Issuer, a.identity.Expires = TypeSub, in.Issuer, times.Expires
	return times, nil
}

// exchange sends the question and reads the answer.
func (in *introspector) exchange(ctx context.Context, auth *clientAuth, tok credential.Token) ([]byte, error) {
	form := url.Values{"token": {tok.Raw}, "token_type_hint": {"access_token"}}
	basic, err := auth.authenticate(in, form)
	if err != nil {
		return nil, in.failed(errAskingFailed, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, in.URL, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, in.failed(errAskingFailed, nil)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if basic != "" {
		req.Header.Set("Authorization", basic)
	}
	resp, err := in.client.Do(req)
	if err != nil {
		return nil, in.failed(transportFailure(ctx), err)
	}
	defer resp.Body.Close()
	if err := statusFailure(resp.StatusCode); err != nil {
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
		return nil, in.failed(err, fmt.Errorf("status %d", resp.StatusCode))
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, in.failed(errAnswerType, nil)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return nil, in.failed(transportFailure(ctx), err)
	case len(raw) > maxAnswerBytes:
		return nil, in.failed(errAnswerTooLong, nil)
	}
	return raw, nil
}

func transportFailure(ctx context.Context) error {
	if ctx.Err() != nil {
		return errAskingTimeout
	}
	return errAsking
}

func statusFailure(status int) error {
	switch {
	case status == http.StatusOK:
		return nil
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return errAskingDenied
	case status >= 300 && status < 400:
		return errAskingRedirect
	case status >= 400 && status < 500 && status != http.StatusTooManyRequests:
		return errAskingRefused
	}
	return errAskingFailed
}

// failed logs, now and then, why a question got no answer, and gives the cause. A url.Error shows the URL with its query, so only
// what it wraps is logged.
func (in *introspector) failed(cause, detail error) error {
	now := in.clock().UnixNano()
	if last := in.warned.Load(); now-last >= int64(warnInterval) && in.warned.CompareAndSwap(last, now) {
		if quoting, ok := errors.AsType[*url.Error](detail); ok {
			detail = quoting.Err
		}
		in.log.Warn("introspection", zap.Int("entry", in.index), zap.NamedError("cause", cause), zap.Error(detail))
	}
	return cause
}

// store keeps an answer for as long as it may be used.
func (in *introspector) store(where *answers, a *answer) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if now := in.clock(); now.Before(a.until) {
		where.put(a)
	}
}

// answer is what a server said of one token. It never changes.
type answer struct {
	sum      tokenSum
	identity Identity  // of an active token
	until    time.Time // it may be used before this
	memory   int       // estimate, bytes
}

// answers keeps the most recently used ones within a number and an amount of memory. Its owner locks it. Inactive tokens have one of
// their own, so that a flood of them pushes no good one out.
type answers struct {
	byToken map[tokenSum]*list.Element // of *answer
	recent  *list.List
	memory  int
	most    int // entries
	limit   int // bytes
}

func newAnswers(most, limit int) answers {
	return answers{byToken: make(map[tokenSum]*list.Element), recent: list.New(), most: most, limit: limit}
}

func (c *answers) get(sum tokenSum, now time.Time) *answer {
	e := c.byToken[sum]
	if e == nil {
		return nil
	}
	a := e.Value.(*answer)
	if !now.Before(a.until) {
		c.remove(e)
		return nil
	}
	c.recent.MoveToFront(e)
	return a
}

func (c *answers) put(a *answer) {
	if e := c.byToken[a.sum]; e != nil {
		c.remove(e)
	}
	c.byToken[a.sum] = c.recent.PushFront(a)
	c.memory += a.memory
	for c.recent.Len() > c.most || c.memory > c.limit {
		c.remove(c.recent.Back())
	}
}

func (c *answers) remove(e *list.Element) {
	a := c.recent.Remove(e).(*answer)
	delete(c.byToken, a.sum)
	c.memory -= a.memory
}
