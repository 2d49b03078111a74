package sandbox

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
)

const (
	// Issuer and Audience are what the examples' gatehouse.yaml expects of a token.
	Issuer   = "https://login.example.com"
	Audience = "orders"

	keyID         = "sandbox-1"
	tokenLifetime = 12 * time.Hour
)

// issuer signs tokens as an identity provider would: JWS compact serialisation with EdDSA (RFC 7515, RFC 8037). The
// product verifies with a library; signing takes these few lines and keeps JOSE out of everything but package identity.
type issuer struct {
	public  ed25519.PublicKey
	private ed25519.PrivateKey
	forger  ed25519.PrivateKey // a key that nobody was told to trust
}

func newIssuer() (*issuer, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("making signing key: %w", err)
	}
	_, forger, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("making signing key: %w", err)
	}
	return &issuer{public: public, private: private, forger: forger}, nil
}

// jwks is the public key as a JWK set (RFC 7517).
func (i *issuer) jwks() ([]byte, error) {
	key := map[string]string{"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": keyID, "x": encode(i.public)}
	set, err := json.MarshalIndent(map[string]any{"keys": []any{key}}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding keys: %w", err)
	}
	return append(set, '\n'), nil
}

func (i *issuer) sign(key ed25519.PrivateKey, subject string, roles []string) string {
	now := time.Now()
	if roles == nil {
		roles = []string{}
	}
	signed := part(map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": keyID}) + "." + part(map[string]any{
		"iss": Issuer, "aud": Audience, "sub": subject, "roles": roles,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(tokenLifetime).Unix(),
	})
	return signed + "." + encode(ed25519.Sign(key, []byte(signed)))
}

// Token is a token for subject with the given roles, good for twelve hours.
func (s *Sandbox) Token(subject string, roles ...string) string {
	return s.issuer.sign(s.issuer.private, subject, roles)
}

// ForgedToken is a token that differs from Token's in the signature only: its key is unknown to Gatehouse.
func (s *Sandbox) ForgedToken(subject string, roles ...string) string {
	return s.issuer.sign(s.issuer.forger, subject, roles)
}

func part(fields map[string]any) string {
	text, _ := json.Marshal(fields) // strings, numbers and lists of strings always encode
	return encode(text)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
