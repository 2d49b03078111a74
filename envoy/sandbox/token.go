package sandbox

import (
	"fmt"
	"strings"
	"time"

	"gatehouse/identity/mint"
)

const (
	// Issuer and Audience are what the examples' gatehouse.yaml expects of a token. The issuer is a local one: its key pair is in
	// the work directory, where gatehouse token mint finds it too.
	Issuer   = mint.LocalIssuerName
	Audience = "orders"

	// Note is a claim of every token. Nothing reads it, so it must not turn up anywhere either.
	Note = "canary-of-the-sandbox"

	tokenLifetime = 12 * time.Hour
)

// Token is a token for subject with the given roles, good for twelve hours.
func (s *Sandbox) Token(subject string, roles ...string) string {
	if roles == nil {
		roles = []string{}
	}
	claims := map[string]any{"aud": Audience, "sub": subject, "roles": roles, "note": Note}
	token, err := s.issuer.Mint("", claims, time.Now(), tokenLifetime)
	if err != nil { // strings and lists of strings always encode, and its key signs
		panic(fmt.Errorf("sandbox: making a token: %w", err))
	}
	s.cfg.HandedOut(token)
	return token
}

// ForgedToken is a token that differs from Token's in the signature only: it was made for other claims.
func (s *Sandbox) ForgedToken(subject string, roles ...string) string {
	token, other := s.Token(subject, roles...), s.Token(subject+"'")
	return token[:strings.LastIndexByte(token, '.')] + other[strings.LastIndexByte(other, '.'):]
}
