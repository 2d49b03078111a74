package store

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
)

// Tokens are prefix, id and secret: ghc_1f2e3d4c5b6a7988_... The prefix lets scanners of repositories find them. The
// secret has 256 random bits, so that its plain hash can be stored: there is nothing to guess.
const (
	servicePrefix    = "ghc"
	enrollmentPrefix = "ghe"
	secretSize       = 32
)

// newSecret makes a token. It is shown once; id and hash are stored.
func newSecret(prefix string) (text, id string, hash []byte) {
	secret := make([]byte, secretSize)
	_, _ = rand.Read(secret) // cannot fail
	id = randomName(8)
	return prefix + "_" + id + "_" + base64.RawURLEncoding.EncodeToString(secret), id, hashOf(secret)
}

func hashOf(secret []byte) []byte {
	sum := sha256.Sum256(secret)
	return sum[:]
}

// parseSecret takes a token apart; false where it has not the form of one.
func parseSecret(prefix, text string) (id string, hash []byte, ok bool) {
	if len(text) > 200 {
		return "", nil, false
	}
	rest, ok := strings.CutPrefix(text, prefix+"_")
	id, encoded, found := strings.Cut(rest, "_")
	secret, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if !ok || !found || err != nil || len(secret) != secretSize || len(id) != 16 {
		return "", nil, false
	}
	return id, hashOf(secret), true
}

func same(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
