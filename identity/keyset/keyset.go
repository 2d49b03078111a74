// Package keyset is one issuer's public keys: read from JWK sets and PEM, fetched from a URL or the one that an issuer's metadata names, kept
// on disk for the next start, and picked for a token. A Set never changes.
//
// It owns which algorithms and keys exist here. It is a part of package identity, which decides when to fetch and how long a set may be used.
package keyset

import (
	"crypto"
	"crypto/sha256"
	"slices"

	"gatehouse/identity/refusal"
)

// ErrUnknownKey says that the set has no key of a token's kid.
var ErrUnknownKey = refusal.Bad("unknown key id")

var (
	errKeyFit      = refusal.Lasting("algorithm does not fit the key")
	errNoKeyFits   = refusal.Lasting("token names no key and none fits")
	errSeveralKeys = refusal.Lasting("token names no key and several fit")
	errUnclearKey  = refusal.Unavailable("several keys of the issuer have the token's key id")
)

// Bounds. Sizes are bytes.
const (
	MinRSABits = 2048 // of a key's modulus
	MaxRSABits = 8192

	maxBytes   = 1 << 20 // of a set, and of a file
	maxURL     = 2 << 10
	maxKeys    = 100 // of one issuer
	maxSetsAgo = 10
)

// Set is one issuer's usable keys: at least one. It never changes, and a set read again without a change is the same
// pointer, which is what the cache goes by.
type Set struct {
	raw     []byte            // what it was read from
	sum     [sha256.Size]byte // of raw
	keys    []key
	byID    map[string][]int // indexes of keys with a kid
	unclear []key            // left out: another key has their kid, type and algorithm
	retired map[string]int   // kids of sets before it that it has no more, by how many sets ago; set before anybody else sees it
	unnamed bool             // PEM: no key can have a kid, so a token's is not looked at
	notices []string
}

type key struct {
	id     string
	alg    string // the only alg it is for; empty = any that fits
	public crypto.PublicKey
	label  string // which of the set it is, for people
}

func (k *key) fits(alg Algorithm) bool {
	return (k.alg == "" || k.alg == alg.Name) && alg.fits(k.public)
}

// Has reports whether a token's kid is one of the set's; nil has none.
func (s *Set) Has(kid string) bool { return s != nil && len(s.byID[kid]) > 0 }

// Lost reports whether a token's kid is one of a set before, or of keys that were left out of this one.
func (s *Set) Lost(kid string) bool {
	return s != nil && (s.retired[kid] > 0 || slices.ContainsFunc(s.unclear, func(k key) bool { return k.id == kid }))
}

// NoteRetired notes which keys went with the set before. Tokens of those are old, and no reason to ask for newer keys. It is for whoever made
// the Set, before anybody else has it.
func (s *Set) NoteRetired(before *Set) {
	if before == nil {
		return
	}
	s.retired = make(map[string]int)
	for kid, ago := range before.retired {
		if !s.Has(kid) && ago < maxSetsAgo {
			s.retired[kid] = ago + 1
		}
	}
	for kid := range before.byID {
		if !s.Has(kid) {
			s.retired[kid] = 1
		}
	}
}

// maxTried bounds how many keys are tried for a token that names none.
const maxTried = 4

// Picked are the keys that may have signed one token.
type Picked struct {
	keys [maxTried]crypto.PublicKey
	n    int
}

// Verify reports whether one of the keys signed the token.
func (c *Picked) Verify(alg Algorithm, signed string, signature []byte) bool {
	for _, key := range c.keys[:c.n] {
		if alg.method.Verify(signed, signature, key) == nil {
			return true
		}
	}
	return false
}

func (c *Picked) add(k crypto.PublicKey) bool {
	if c.n == maxTried {
		return false
	}
	c.keys[c.n] = k
	c.n++
	return true
}

// Pick selects the key that a token names, by kid, type and algorithm; a key for the token's alg alone comes before one for any
// that fits. For a token that names none it selects those that fit, a few at most.
func (s *Set) Pick(kid string, hasKid bool, alg Algorithm) (out Picked, err error) {
	if hasKid && !s.unnamed {
		k, err := s.named(kid, alg)
		if err == nil {
			out.add(k)
		}
		return out, err
	}
	for i := range s.keys {
		if !s.keys[i].fits(alg) {
			continue
		}
		if !out.add(s.keys[i].public) {
			return out, errSeveralKeys
		}
	}
	if out.n == 0 {
		return out, errNoKeyFits
	}
	return out, nil
}

func (s *Set) named(kid string, alg Algorithm) (crypto.PublicKey, error) {
	var found *key
	for _, i := range s.byID[kid] {
		if k := &s.keys[i]; k.fits(alg) && (found == nil || k.alg != "") {
			found = k
		}
	}
	if found != nil {
		return found.public, nil
	}
	if slices.ContainsFunc(s.unclear, func(k key) bool { return k.id == kid && k.fits(alg) }) {
		return nil, errUnclearKey
	}
	if len(s.byID[kid]) == 0 {
		return nil, ErrUnknownKey
	}
	return nil, errKeyFit
}

// Len is the number of keys, at least one.
func (s *Set) Len() int { return len(s.keys) }

// Sum is the SHA-256 of what the set was read from.
func (s *Set) Sum() [sha256.Size]byte { return s.sum }

// Notices are the keys of the set that are left out, and why.
func (s *Set) Notices() []string { return s.notices }

// Ambiguous lists keys that are left out because another has the same kid, type and algorithm.
func (s *Set) Ambiguous() []string {
	var labels []string
	for _, k := range s.unclear {
		labels = append(labels, k.label)
	}
	return labels
}

// Key is a key of a set, for people.
type Key struct {
	ID         string   // kid; empty for PEM
	Algorithms []string // that it fits
}

// Keys lists the set's keys.
func (s *Set) Keys() []Key {
	var keys []Key
	for i := range s.keys {
		k := Key{ID: s.keys[i].id}
		for _, a := range Algorithms() {
			if s.keys[i].fits(a) {
				k.Algorithms = append(k.Algorithms, a.Name)
			}
		}
		keys = append(keys, k)
	}
	return keys
}

// Unnamed reports whether the set was read from PEM: its keys have no kid.
func (s *Set) Unnamed() bool { return s.unnamed }
