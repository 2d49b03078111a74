// Package mint signs tokens. A Minter makes the short-lived ones that tell an application who calls (headers.jwt), with a key that it
// publishes as a JWK set; a LocalIssuer makes tokens for trying things out, in the name of an issuer on loopback.
//
// It owns the private keys: how they are read, made, kept on disk and replaced. Nothing that prints shows one. It is a part of package
// identity and imports its refusals; what verifies tokens is package identity's.
package mint

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"gatehouse/identity/refusal"
	"gatehouse/input"
	"gatehouse/watch"

	"hash/maphash"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
)

const (
	// MaxToken is the longest token that a Minter makes, in bytes: some servers take no header above 8190 (gunicorn).
	MaxToken = 8000

	defaultMinted   = time.Minute
	minMinted       = 2 * time.Second
	maxMinted       = time.Hour
	mintedSlots     = 4096          // tokens remembered, each of at most MaxToken bytes and made from no more than that
	mintKeyFile     = "signing.pem" // in Config.Dir
	mintKeyInterval = time.Second   // how often KeyFile is looked at
	retiredGrace    = time.Minute   // how much longer than its tokens a key is published: for clocks that differ
	maxRetired      = 100           // keys published beside the current one
)

var (
	errTooLarge     = refusal.Bad("identity is too large for a header")
	errNotText      = refusal.Bad("identity is not utf-8")
	errNoSigningKey = refusal.Unavailable("no key to sign with was loaded")
)

// Config of a Minter.
type Config struct {
	Issuer    string           // claim iss; empty = gatehouse
	Lifetime  time.Duration    // from iat to exp; 0 = 1m, 2s to 1h
	Algorithm string           // ES256 or EdDSA; empty = ES256 for a key made here, or what the key in KeyFile is for
	KeyFile   string           // a private key on P-256 or Ed25519, PEM; followed by Run. Empty = one made here
	Dir       string           // where a key made here is kept; empty = in memory, and a restart makes another
	Clock     func() time.Time // nil = time.Now
	Logger    *zap.Logger      // nil = nop

	// Succeeds is the Minter of the configuration before this one, if there was any. Its keys are published as long as its tokens are
	// valid, and its key stays in use where both made theirs in memory. Load takes them over; Run does so once more and drops the reference.
	Succeeds *Minter
}

// FieldError is what is wrong with one field of the configuration of headers.jwt.
type FieldError struct {
	Field string // as it is written there, such as key_file
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap gives what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

func fieldErrorf(field, format string, a ...any) error {
	return &FieldError{Field: field, Err: fmt.Errorf(format, a...)}
}

// Minter makes short-lived signed tokens about authenticated callers. Its methods may be called at the same time; Run once
// at a time.
//
// A token holds iss, aud, sub, iat, nbf, exp, original_issuer (whose word for the caller was taken, where that is known), roles,
// groups and scopes as lists, and email where it is known. It has no jti: one token serves all requests of a caller for up to
// half of its lifetime, so an id would not tell requests apart.
type Minter struct {
	config Config
	log    *zap.Logger
	seed   maphash.Seed
	slots  []atomic.Pointer[minted]
	keys   atomic.Pointer[mintKeys]

	succeeds *Minter    // until Run begins
	rotation sync.Mutex // guards storing into keys
}

// mintKeys are the key in use and those before it. It never changes.
type mintKeys struct {
	current *signingKey
	file    []byte // content of KeyFile that current was read from
	made    bool   // here, and not yet kept in a file
	retired []retiredKey
}

// retiredKey is a key that no longer signs and is still published.
type retiredKey struct {
	public publicJWK
	until  time.Time
}

// minted is a signed token and what it was made from. It never changes.
type minted struct {
	hash     uint64
	key      *signingKey
	audience string
	identity input.Identity // without Claims
	from     time.Time      // not before this
	until    time.Time      // and before this may the token be given out again
	token    string
}

// New checks the configuration. It opens and starts nothing.
func New(c Config) (*Minter, error) {
	m := &Minter{config: c, succeeds: c.Succeeds, log: c.Logger, seed: maphash.MakeSeed(), slots: make([]atomic.Pointer[minted], mintedSlots)}
	var problems []error
	m.config.Succeeds = nil
	if m.config.Issuer == "" {
		m.config.Issuer = "gatehouse"
	}
	if !utf8.ValidString(m.config.Issuer) || len(m.config.Issuer) > 1024 {
		problems = append(problems, fieldErrorf("issuer", "must be UTF-8 of at most 1024 bytes"))
	}
	if m.config.Lifetime == 0 {
		m.config.Lifetime = defaultMinted
	}
	if m.config.Lifetime < minMinted || m.config.Lifetime > maxMinted {
		problems = append(problems, fieldErrorf("lifetime", "%q is not between %s and %s", m.config.Lifetime, minMinted, maxMinted))
	}
	if a := c.Algorithm; a != "" && a != "ES256" && a != "EdDSA" {
		problems = append(problems, fieldErrorf("algorithm", "%q is neither ES256 nor EdDSA", a))
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if m.config.Clock == nil {
		m.config.Clock = time.Now
	}
	if m.log == nil {
		m.log = zap.NewNop()
	}
	return m, nil
}

// Load gets the key: from KeyFile, from Dir where an earlier process left one, or a new one in memory, which Run will keep in Dir.
func (m *Minter) Load() error {
	next := &mintKeys{}
	var err error
	switch path := m.kept(); {
	case m.config.KeyFile != "":
		if next.current, next.file, err = readSigningKey(m.config.KeyFile); err != nil {
			err = fieldErrorf("key_file", "%w", err)
		}
	case path != "":
		next.current, _, err = readSigningKey(path)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		fallthrough
	default:
		next.made = true
		next.current, err = newSigningKey(m.config.Algorithm)
	}
	if err != nil {
		return err
	}
	if a := m.config.Algorithm; a != "" && a != next.current.public.Alg {
		return fieldErrorf("algorithm", "%q, and the key is for %s", a, next.current.public.Alg)
	}
	m.keys.Store(next)
	m.succeed(m.succeeds)
	return nil
}

// kept is the path of a key that was made here, "" where none is kept.
func (m *Minter) kept() string {
	if m.config.KeyFile != "" || m.config.Dir == "" {
		return ""
	}
	return filepath.Join(m.config.Dir, mintKeyFile)
}

// succeed takes over the keys of old.
func (m *Minter) succeed(old *Minter) {
	if old == nil || old.keys.Load() == nil || m.keys.Load() == nil {
		return
	}
	m.rotation.Lock()
	defer m.rotation.Unlock()
	next, before := *m.keys.Load(), old.keys.Load()
	if next.made && before.made && (m.config.Algorithm == "" || m.config.Algorithm == before.current.public.Alg) {
		next.current = before.current
	}
	next.retired = before.retired
	if next.current.public != before.current.public {
		next.retired = retire(before, m.config.Clock(), old.config.Lifetime)
	}
	m.keys.Store(&next)
}

// retire lists the keys that are published beside the one that comes after k.
func retire(k *mintKeys, now time.Time, lifetime time.Duration) []retiredKey {
	out := slices.DeleteFunc(slices.Clone(k.retired), func(r retiredKey) bool { return !now.Before(r.until) || r.public == k.current.public })
	out = append(out, retiredKey{k.current.public, now.Add(lifetime + retiredGrace)})
	return out[max(0, len(out)-maxRetired):]
}

// Run keeps a key that was made here, then follows KeyFile until ctx ends, and returns nil. A file that cannot be used is logged
// once, and the previous key stays in use.
func (m *Minter) Run(ctx context.Context) error {
	m.succeed(m.succeeds)
	m.succeeds = nil // it is not to be held in memory
	m.saveGenerated()
	if m.config.KeyFile == "" {
		<-ctx.Done()
		return nil
	}
	told := ""
	files := watch.Config{Targets: watch.Paths(m.config.KeyFile), Poll: mintKeyInterval, Logger: m.log}
	watch.Files(ctx, files, func() {
		err := m.follow()
		switch {
		case err == nil:
			told = ""
		case err.Error() != told:
			told = err.Error()
			m.log.Error("the signing key's file cannot be used; still signing with the previous key", zap.Error(err))
		}
	})
	return nil
}

// saveGenerated puts a key that was made here into Dir.
func (m *Minter) saveGenerated() {
	m.rotation.Lock()
	defer m.rotation.Unlock()
	keys := m.keys.Load()
	if keys == nil || !keys.made {
		return
	}
	path := m.kept()
	if path == "" {
		m.log.Warn("the signing key is kept in memory only, a restart makes another: set state_dir or headers.jwt.key_file",
			zap.String("kid", keys.current.public.KID))
		return
	}
	next := *keys
	var err error
	if next.current, err = keys.current.saveTo(path); err != nil {
		m.log.Warn("the signing key cannot be kept, a restart will make another", zap.String("file", path), zap.Error(err))
		return
	}
	next.made = false
	if next.current.public != keys.current.public { // another process was first
		next.retired = retire(keys, m.config.Clock(), m.config.Lifetime)
	}
	m.keys.Store(&next)
	m.log.Info("signing key kept", zap.String("file", path), zap.String("kid", next.current.public.KID))
}

// follow takes a changed KeyFile over.
func (m *Minter) follow() error {
	current, file, err := readSigningKey(m.config.KeyFile)
	if err != nil {
		return fieldErrorf("key_file", "%w", err)
	}
	m.rotation.Lock()
	defer m.rotation.Unlock()
	keys := m.keys.Load()
	if bytes.Equal(file, keys.file) {
		return nil
	}
	if a := m.config.Algorithm; a != "" && a != current.public.Alg {
		return fieldErrorf("key_file", "%s: a key for %s, and headers.jwt.algorithm is %s", m.config.KeyFile, current.public.Alg, a)
	}
	next := &mintKeys{current: current, file: file, retired: keys.retired}
	if current.public != keys.current.public {
		next.retired = retire(keys, m.config.Clock(), m.config.Lifetime)
		m.log.Info("signing key replaced", zap.String("kid", current.public.KID))
	}
	m.keys.Store(next)
	return nil
}

// Mint gives a token that tells the application with this name who calls; "" for an anonymous caller. It is valid for Lifetime,
// and never longer than what the caller showed (Identity.Expires). One that was made before is given again for half of Lifetime.
//
// An identity that makes a token above MaxToken, or is not UTF-8, is ErrBadCredential.
func (m *Minter) Mint(id *input.Identity, audience string, now time.Time) (string, error) {
	if !id.Authenticated {
		return "", nil
	}
	keys := m.keys.Load()
	if keys == nil {
		return "", errNoSigningKey
	}
	hash := m.hash(id)
	slot := &m.slots[hash%uint64(len(m.slots))]
	if e := slot.Load(); e != nil && e.serves(hash, keys.current, id, audience, now) {
		return e.token, nil
	}
	e, err := m.mint(keys.current, id, audience, now)
	if err != nil {
		return "", err
	}
	e.hash = hash
	slot.Store(e)
	return e.token, nil
}

// hash finds the slot. It covers what tells callers and their tokens apart as a rule; that all of it is the same is for serves.
func (m *Minter) hash(id *input.Identity) uint64 {
	var h maphash.Hash
	h.SetSeed(m.seed)
	maphash.WriteComparable(&h, id.Expires.UnixNano())
	h.WriteString(id.Issuer)
	h.WriteByte(0)
	h.WriteString(id.Subject)
	return h.Sum64()
}

// serves reports whether minting now would make the same claims, but for newer times.
func (e *minted) serves(hash uint64, key *signingKey, id *input.Identity, audience string, now time.Time) bool {
	return e.hash == hash && e.key == key && !now.Before(e.from) && now.Before(e.until) && e.audience == audience &&
		e.identity.Subject == id.Subject && e.identity.Issuer == id.Issuer && e.identity.Email == id.Email &&
		e.identity.Expires.Equal(id.Expires) &&
		slices.Equal(e.identity.Roles, id.Roles) && slices.Equal(e.identity.Groups, id.Groups) && slices.Equal(e.identity.Scopes, id.Scopes)
}

// mintedClaims is a token's body. Lists are always there, so that an application need not ask.
type mintedClaims struct {
	Issuer         string   `json:"iss"`
	Audience       string   `json:"aud"`
	Subject        string   `json:"sub"`
	IssuedAt       int64    `json:"iat"`
	NotBefore      int64    `json:"nbf"`
	Expires        int64    `json:"exp"`
	OriginalIssuer string   `json:"original_issuer,omitempty"`
	Roles          []string `json:"roles"`
	Groups         []string `json:"groups"`
	Scopes         []string `json:"scopes"`
	Email          string   `json:"email,omitempty"`
}

func (m *Minter) mint(key *signingKey, id *input.Identity, audience string, now time.Time) (*minted, error) {
	if !printable(id) {
		return nil, errNotText
	}
	issued := now.Unix()
	expires := now.Add(m.config.Lifetime).Unix()
	if !id.Expires.IsZero() {
		expires = min(expires, id.Expires.Unix())
	}
	// Within the clock skew a caller's own token may be past its exp. nbf must not be behind exp then.
	token, err := key.sign("", mintedClaims{Issuer: m.config.Issuer, Audience: audience, Subject: id.Subject, IssuedAt: issued,
		NotBefore: min(issued, expires), Expires: expires, OriginalIssuer: id.Issuer, Email: id.Email,
		Roles: orEmpty(id.Roles), Groups: orEmpty(id.Groups), Scopes: orEmpty(id.Scopes)})
	if err != nil {
		return nil, err
	}
	if len(token) > MaxToken {
		return nil, errTooLarge
	}
	return &minted{key: key, audience: audience, identity: owned(id), token: token, from: now, until: now.Add(m.config.Lifetime / 2)}, nil
}

// owned copies what a token is made from: the caller's own token would stay in memory with it.
func owned(id *input.Identity) input.Identity {
	all := func(list []string) []string {
		out := make([]string, len(list))
		for i, text := range list {
			out[i] = strings.Clone(text)
		}
		return out
	}
	return input.Identity{Subject: strings.Clone(id.Subject), Issuer: strings.Clone(id.Issuer), Email: strings.Clone(id.Email), Expires: id.Expires,
		Roles: all(id.Roles), Groups: all(id.Groups), Scopes: all(id.Scopes)}
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// printable reports whether JSON can hold the identity as it is: encoding/json would replace bytes that are not UTF-8, and two
// callers could become one.
func printable(id *input.Identity) bool {
	bad := func(text string) bool { return !utf8.ValidString(text) }
	return !bad(id.Subject) && !bad(id.Issuer) && !bad(id.Email) && !bad(id.Type) &&
		!slices.ContainsFunc(id.Roles, bad) && !slices.ContainsFunc(id.Groups, bad) && !slices.ContainsFunc(id.Scopes, bad)
}

// JWKS is the JWK set by which applications verify the tokens: the key in use, and those before it while their tokens last.
func (m *Minter) JWKS() []byte {
	keys, now := m.keys.Load(), m.config.Clock()
	if keys == nil {
		return jwkSet()
	}
	all := []publicJWK{keys.current.public}
	for _, r := range keys.retired {
		if now.Before(r.until) && r.public != keys.current.public {
			all = append(all, r.public)
		}
	}
	return jwkSet(all...)
}

// ServeJWKS answers a request for JWKS. An application that caches the set may do so for a minute; it has to ask again for a kid
// that it does not know.
func (m *Minter) ServeJWKS(w http.ResponseWriter, _ *http.Request) {
	set := m.JWKS()
	header := w.Header()
	header.Set("content-type", "application/jwk-set+json")
	header.Set("cache-control", "public, max-age=60")
	header.Set("x-content-type-options", "nosniff")
	header.Set("content-length", strconv.Itoa(len(set)))
	_, _ = w.Write(set) // the client may be gone
}
