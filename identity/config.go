package identity

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/identity/claims"
	"gatehouse/identity/credential"
	"gatehouse/identity/keyset"
	"gatehouse/upstream"
)

// Bounds and defaults. Sizes are bytes.
const (
	defaultMaxToken = 16 << 10
	defaultCache    = 16 << 20
	defaultSkew     = 30 * time.Second
	maxSkew         = 5 * time.Minute
	defaultRefresh  = 5 * time.Minute
	minRefresh      = time.Second
	maxRefresh      = 24 * time.Hour
	defaultMaxStale = 24 * time.Hour
	maxMaxStale     = 30 * 24 * time.Hour
	maxSources      = 64 // one bit each in issuer.places
	fetchTimeout    = 10 * time.Second
	maxRedirects    = 3
	maxResponseHead = 64 << 10
	loadTimeout     = 5 * time.Second
	refetchInterval = 10 * time.Second // between fetches for unknown key ids, over time
	refetchBurst    = 2                // of them at once, so that one made-up id does not keep a rotation waiting
	keyWait         = time.Second
	keyWaitBlind    = 150 * time.Millisecond // for callers that do not say how long they wait: Envoy's default is 200 ms
	maxKeyWaiters   = 64                     // requests, for one issuer
)

// Config says which credentials are accepted. The zero value accepts none: everybody is anonymous.
type Config struct {
	Issuers       []Issuer
	Introspection []Introspection
	APIKeys       APIKeys
	Metadata      string   // key below envoy.filters.http.jwt_authn of the verified payload to trust; empty = none is
	Peer          []string // where the peer is taken from: tls (source.principal), xfcc (x-forwarded-client-cert); empty = tls

	MaxToken   int              // longest token in bytes; 0 = 16 KiB
	CacheBytes int64            // memory for the results of verification; 0 = 16 MiB, negative = no cache
	Dir        string           // folder for the last good key set of each URL; made by Run. Empty = none are kept
	Clock      func() time.Time // for the tokens' times and the age of keys; nil = time.Now
	Client     *http.Client     // fetches key sets; its CheckRedirect is replaced. nil = one without idle connections
	Logger     *zap.Logger      // nil = nop
	Registerer prometheus.Registerer

	// Succeeds is the Verifier of the previous configuration, if any. Its keys stay in use for an issuer at the same URL that cannot be
	// fetched now: a reload while a provider is down loses no keys. Load takes them over; Run does so once more and drops the reference.
	Succeeds *Verifier
}

// Issuer is one party whose tokens are accepted, with the rules for them.
type Issuer struct {
	Preset string // auth0, okta, keycloak, entra, google or cognito: fills in what is left empty below. Empty = none
	Domain string // of a preset: host, for keycloak with its path
	Tenant string // of a preset: entra's tenant, keycloak's realm, okta's authorization server, cognito's pool

	Issuer     string              // claim iss, byte for byte; required
	Audiences  []string            // claim aud must hold one of them, byte for byte; at least one, unless ClientIDs has
	ClientIDs  []string            // claim client_id, else azp, must be one of them: for providers without aud
	Parties    []string            // claim azp, where present, must be one of them; empty = any
	Algorithms []string            // empty = RS256 PS256 ES256 ES384 EdDSA. No others exist here
	Type       string              // header typ must be this, as at+jwt (RFC 9068); empty = absent, JWT or at+jwt
	TokenUse   string              // claim token_use must be this (cognito: access or id); empty = not looked at
	MaxAge     time.Duration       // since iat, which is then required; 0 = only exp counts
	Require    map[string][]string // claims that must be present, with one of the values where there are any; paths as in ClaimPaths
	Keys       KeySource           // required
	From       []TokenSource       // where its tokens are looked for; empty = Authorization: Bearer
	Claims     ClaimPaths
	ClockSkew  time.Duration // tolerance for exp, nbf and iat; 0 = 30s, at most 5m
}

// KeySource is where an issuer's public keys come from. Exactly one of File, URL and Discovery is set.
//
// A URL is trusted as it stands: only its own host is asked. With Discovery the issuer's host is trusted to name the place of
// its keys, so exactly two hosts are asked: the issuer's, and the one in the jwks_uri of its metadata (Google's is another).
// Redirects to other hosts are errors.
type KeySource struct {
	File      string        // a JWK set, or PEM public keys and certificates; watched. At most 1 MiB
	URL       string        // a JWK set; https, or http on loopback. At most 1 MiB
	Discovery bool          // jwks_uri of the issuer's metadata (OpenID Connect Discovery 1.0 section 4, RFC 8414)
	Refresh   time.Duration // of a URL: 0 = 5m, at least 1s, at most 24h
	// MaxStale is how long the last good set serves while a URL cannot be read; then the issuer's tokens are ErrUnavailable. 0 = 24h
	// or twice Refresh, whichever is longer; at least twice Refresh, at most 30 days.
	MaxStale time.Duration
}

// TokenSource is one place where a token may be.
type TokenSource = credential.Source

// ClaimPaths says which claims become the subject, roles, groups, scopes and the e-mail address.
type ClaimPaths = claims.Paths

// Introspection is a server that validates opaque tokens (RFC 7662).
type Introspection struct {
	URL        string // https, or http on loopback
	Issuer     string // JSON Web Tokens with this iss are asked about too; empty = opaque tokens only
	ClientID   string // authenticates us to the server
	SecretFile string // client_secret_basic; watched. Exactly one of it and KeyFile
	KeyFile    string // private_key_jwt (RFC 7523): PEM of RSA, EC or Ed25519; watched
	KeyID      string // kid of our assertion; empty = none. Only with KeyFile
	// AssertionAudience is the aud of our assertion. Empty = Issuer where there is one, else URL. Only with KeyFile.
	AssertionAudience string

	Audiences []string      // aud of the answer must hold one of them; empty = not looked at
	From      []TokenSource // empty = Authorization: Bearer
	Claims    ClaimPaths
	Timeout   time.Duration // of one question; 0 = 2s
	CacheFor  time.Duration // longest use of an answer, also before exp; 0 = 1m, negative = each request asks
}

// APIKeys are the API keys that are accepted. Where File is empty there are none. Their place must not be that of a token.
type APIKeys struct {
	File   string // YAML, at most 1 MiB; watched. With the entries that apikey.Key.YAML gives
	Header string // empty = x-api-key
	Scheme string // in front of the key; empty = none, which Authorization cannot have
}

// Verifier identifies end users. Its methods may be called at the same time, Run once at a time.
type Verifier struct {
	clock    func() time.Time
	client   *http.Client
	log      *zap.Logger
	maxToken int
	issuers  []*issuer
	byName   map[string]*issuer
	sources  []TokenSource // every place of any issuer, each once
	places   []TokenSource // sources, and the API keys' place
	cookies  uint64        // those of sources that are cookies, a bit for each
	// unusualNames says that a header of places is spelled with other characters than letters, digits and "-".
	unusualNames bool
	base64       *base64.Encoding // RawURL, strict
	cache        *cache           // of verified tokens
	refused      *cache           // of tokens that failed, so that bad ones never push out good ones
	others       others

	metrics *metrics
	keyless bool // some credentials need no issuer's keys

	generation atomic.Uint64          // last one given out
	loaded     atomic.Pointer[loader] // of the last Load, for the next Run
	succeeds   *Verifier              // until Run begins
	shown      atomic.Pointer[Keys]   // the newest, for metrics
}

// issuer is an Issuer with its defaults filled in and what New derives from it. Only lookups, copy and failure change.
type issuer struct {
	Issuer
	index      int
	algorithms map[string]keyset.Algorithm
	places     uint64 // bit i: Verifier.sources[i] is accepted
	required   []requirement

	lookups *keyLookups
	copy    *keyset.Copy // nil = none is kept; Run's fetcher owns what changes in it
	failure string       // to keep a copy, that was logged last; Run's fetcher owns it
}

// New validates the whole configuration and reports all problems at once. It opens and starts nothing.
func New(c Config) (*Verifier, error) {
	v := &Verifier{
		clock:    c.Clock,
		log:      c.Logger,
		succeeds: c.Succeeds,
		maxToken: c.MaxToken,
		byName:   make(map[string]*issuer, len(c.Issuers)),
		base64:   base64.RawURLEncoding.Strict(),
		keyless:  len(c.Introspection) > 0 || c.APIKeys.File != "" || c.Metadata != "",
	}
	// Without idle connections nothing of it is left when Run has ended.
	v.client, _ = upstream.Direct{Client: c.Client, Header: maxResponseHead, Redirects: maxRedirects}.New()
	if c.CacheBytes == 0 {
		c.CacheBytes = defaultCache
	}
	v.cache, v.refused = newCache(c.CacheBytes-c.CacheBytes/refusedShare), newCache(c.CacheBytes/refusedShare)
	if v.clock == nil {
		v.clock = time.Now
	}
	if v.log == nil {
		v.log = zap.NewNop()
	}
	if v.maxToken == 0 {
		v.maxToken = defaultMaxToken
	}
	var problems []error
	if c.MaxToken < 0 {
		problems = append(problems, fieldErrorf("MaxToken", "%d is negative", c.MaxToken))
	}
	for n, config := range c.Issuers {
		iss, errs := v.addIssuer(n, config)
		for _, err := range errs {
			name := fmt.Sprintf("%q", config.Issuer)
			if config.Issuer == "" {
				name = strings.TrimSpace(fmt.Sprintf("number %d %s", n+1, config.Preset))
			}
			problems = append(problems, prefixPath(fmt.Sprintf("Issuers[%d]", n), name, err))
		}
		iss.copy = newCopy(c.Dir, iss)
		v.issuers = append(v.issuers, iss)
	}
	v.places = allPlaces(v.sources, c.APIKeys)
	v.unusualNames = slices.ContainsFunc(v.places, func(s TokenSource) bool { return credential.FoldHeader(s.HeaderName()) != s.HeaderName() })
	problems = append(problems, v.addOthers(c)...)
	problems = append(problems, v.ambiguousSources()...)
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	var err error
	if v.metrics, err = newMetrics(v, c.Registerer); err != nil {
		return nil, err
	}
	for _, in := range v.others.introspectors {
		in.metrics = v.metrics
	}
	return v, nil
}

// Configured reports whether any credential is accepted. Where it is false, a challenge to authenticate is useless.
func (v *Verifier) Configured() bool { return len(v.issuers) > 0 || v.others.configured() }

func (v *Verifier) addIssuer(index int, c Issuer) (*issuer, []error) {
	c, problems := c.withPreset()
	if len(problems) > 0 {
		return &issuer{Issuer: c}, problems
	}
	problem := func(path, format string, a ...any) { problems = append(problems, fieldErrorf(path, format, a...)) }
	iss := &issuer{Issuer: c, index: index, lookups: newLookups()}

	switch {
	case c.Issuer == "" || !utf8.ValidString(c.Issuer):
		problem("Issuer", "must be the non-empty text of the tokens' iss claim")
	case v.byName[c.Issuer] != nil:
		problem("Issuer", "is listed twice")
	default:
		v.byName[c.Issuer] = iss
	}
	if c.ClockSkew < 0 || c.ClockSkew > maxSkew {
		problem("ClockSkew", "%q is not between 0s and %s", c.ClockSkew, maxSkew)
	}
	if c.ClockSkew == 0 {
		iss.ClockSkew = defaultSkew
	}
	problems = append(problems, iss.checkRules()...)

	var errs []error
	iss.algorithms, errs = pickAlgorithms(c.Algorithms)
	problems = append(problems, errs...)
	iss.Keys, errs = checkKeySource(c.Issuer, c.Keys)
	problems = append(problems, errs...)
	iss.places, errs = v.addSources(c.From)
	return iss, append(problems, errs...)
}

func pickAlgorithms(names []string) (map[string]keyset.Algorithm, []error) {
	known := keyset.Algorithms()
	picked := make(map[string]keyset.Algorithm, len(known))
	if len(names) == 0 {
		for _, a := range known {
			picked[a.Name] = a
		}
		return picked, nil
	}
	var problems []error
	for _, name := range names {
		i := slices.IndexFunc(known, func(a keyset.Algorithm) bool { return a.Name == name })
		switch {
		case i >= 0:
			picked[name] = known[i]
		case strings.EqualFold(name, "none"):
			problems = append(problems, fieldErrorf("Algorithms", "%q would accept unsigned tokens", name))
		case strings.HasPrefix(strings.ToUpper(name), "HS"):
			problems = append(problems, fieldErrorf("Algorithms", "%q is symmetric: a key that verifies can also sign", name))
		default:
			problems = append(problems, fieldErrorf("Algorithms", "%q is none of RS256, PS256, ES256, ES384, EdDSA", name))
		}
	}
	return picked, problems
}

func checkKeySource(name string, k KeySource) (KeySource, []error) {
	var problems []error
	given := 0
	for _, set := range []bool{k.File != "", k.URL != "", k.Discovery} {
		if set {
			given++
		}
	}
	if given != 1 {
		return k, append(problems, fieldErrorf("Keys", "exactly one of file, url and discovery is required"))
	}
	if k.File != "" {
		if k.Refresh != 0 {
			problems = append(problems, fieldErrorf("Keys.Refresh", "is for a url; a file is watched"))
		}
		if k.MaxStale != 0 {
			problems = append(problems, fieldErrorf("Keys.MaxStale", "is for a url; a file is watched"))
		}
		return k, problems
	}
	if k.Discovery {
		if err := keyset.CheckIssuerURL(name); err != nil {
			problems = append(problems, fieldErrorf("Keys.Discovery", "the issuer %w", err))
		}
	} else if err := keyset.CheckURL(k.URL); err != nil {
		problems = append(problems, fieldErrorf("Keys.URL", "%w", err))
	}
	if k.Refresh == 0 {
		k.Refresh = defaultRefresh
	}
	if k.Refresh < minRefresh || k.Refresh > maxRefresh {
		problems = append(problems, fieldErrorf("Keys.Refresh", "%q is not between %s and %s", k.Refresh, minRefresh, maxRefresh))
	}
	if k.MaxStale == 0 {
		k.MaxStale = max(defaultMaxStale, 2*k.Refresh)
	}
	if k.MaxStale < 2*k.Refresh || k.MaxStale > maxMaxStale {
		problems = append(problems, fieldErrorf("Keys.MaxStale", "%q is not between %s (twice refresh, so that one late answer takes no keys away) and %s",
			k.MaxStale, 2*k.Refresh, maxMaxStale))
	}
	return k, problems
}

// addSources puts an issuer's places into the common list and returns them as bits of it.
func (v *Verifier) addSources(from []TokenSource) (uint64, []error) {
	if len(from) == 0 {
		from = []TokenSource{{Header: "authorization"}}
	}
	var places uint64
	var problems []error
	for _, s := range from {
		s, err := s.Normalized()
		if err != nil {
			problems = append(problems, fieldErrorf("From", "%w", err))
			continue
		}
		i := slices.Index(v.sources, s)
		if i < 0 {
			if len(v.sources) == maxSources {
				return places, append(problems, fieldErrorf("From", "more than %d places in all", maxSources))
			}
			i = len(v.sources)
			v.sources = append(v.sources, s)
			if s.Cookie != "" {
				v.cookies |= 1 << i
			}
		}
		places |= 1 << i
	}
	return places, problems
}

// ambiguousSources finds headers listed both with and without a scheme: "Bearer x" would be a token in one reading and
// garbage in the other.
func (v *Verifier) ambiguousSources() []error {
	var problems []error
	for _, raw := range v.sources {
		other := func(s TokenSource) bool { return s.Header == raw.Header && s.Scheme != "" }
		if raw.Header != "" && raw.Scheme == "" && slices.ContainsFunc(v.sources, other) {
			problems = append(problems, fieldErrorf("From", "header %q is listed with a scheme and without", raw.Header))
		}
		chunked := func(s TokenSource) bool { return s.Chunked && s != raw && s.CookiePart(raw.Cookie) >= 0 }
		if raw.Cookie != "" && slices.ContainsFunc(v.sources, chunked) {
			problems = append(problems, fieldErrorf("From", "cookie %q is listed twice, or is a chunk of another that is listed", raw.Cookie))
		}
	}
	return problems
}

// FieldError says what is wrong with one field of a Config. Path names it in the terms of this package, such as Issuers[0].Keys.URL: the
// reader of the configuration knows which of its keys that is.
type FieldError struct {
	Path   string
	Issuer string // of a Path within Issuers: what people call it, its quoted name or its number and preset
	Err    error
}

func (e *FieldError) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap gives what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

func fieldErrorf(path, format string, args ...any) error {
	return &FieldError{Path: path, Err: fmt.Errorf(format, args...)}
}

// prefixPath puts a path in front of that of an error.
func prefixPath(path, issuer string, err error) error {
	if field, ok := errors.AsType[*FieldError](err); ok {
		return &FieldError{path + "." + field.Path, issuer, field.Err}
	}
	return &FieldError{path, issuer, err}
}

// Places lists where credentials are looked for, names of headers in lower case. A nil Verifier looks nowhere.
func (v *Verifier) Places() []TokenSource {
	if v == nil {
		return nil
	}
	return slices.Clone(v.places)
}

// allPlaces are those of the tokens and that of the API keys.
func allPlaces(sources []TokenSource, keys APIKeys) []TokenSource {
	all := slices.Clone(sources)
	if keys.File != "" {
		place := TokenSource{Header: strings.ToLower(cmp.Or(keys.Header, "x-api-key")), Scheme: strings.ToLower(keys.Scheme)}
		if !slices.Contains(all, place) {
			all = append(all, place)
		}
	}
	return all
}

// Lookalike reports whether a header could be taken for one that credentials are looked for in, and is not that one: to WSGI "x_api_key" and
// "x-api-key" are one name. folded is the name with everything but letters and digits as "-".
func (v *Verifier) Lookalike(name, folded string) bool {
	return v != nil && (name != folded || v.unusualNames) && v.lookalike(name, folded)
}

// lookalike is Lookalike for the few names that need a look.
func (v *Verifier) lookalike(name, folded string) bool {
	return slices.ContainsFunc(v.places, func(s TokenSource) bool {
		header := s.HeaderName()
		return header != "" && header != name && credential.FoldHeader(header) == folded
	})
}
