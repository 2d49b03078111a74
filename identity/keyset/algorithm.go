package keyset

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"

	"github.com/golang-jwt/jwt/v5"
)

// Algorithm binds a JOSE alg to its verification and to the only keys it may be used with.
type Algorithm struct {
	Name   string
	method jwt.SigningMethod
	fits   func(crypto.PublicKey) bool
}

// Algorithms are all that exist here. PS256 is ours and not golang-jwt's own, which takes any salt length; RFC 7518
// section 3.5 wants the hash's.
func Algorithms() []Algorithm {
	isRSA := func(k crypto.PublicKey) bool { _, ok := k.(*rsa.PublicKey); return ok }
	isEd25519 := func(k crypto.PublicKey) bool { _, ok := k.(ed25519.PublicKey); return ok }
	onCurve := func(name string) func(crypto.PublicKey) bool {
		return func(k crypto.PublicKey) bool {
			ec, ok := k.(*ecdsa.PublicKey)
			return ok && ec.Curve.Params().Name == name
		}
	}
	ps256 := &jwt.SigningMethodRSAPSS{
		SigningMethodRSA: &jwt.SigningMethodRSA{Name: "PS256", Hash: crypto.SHA256},
		Options:          &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash},
	}
	return []Algorithm{
		{"RS256", jwt.SigningMethodRS256, isRSA},
		{"PS256", ps256, isRSA},
		{"ES256", jwt.SigningMethodES256, onCurve("P-256")},
		{"ES384", jwt.SigningMethodES384, onCurve("P-384")},
		{"EdDSA", jwt.SigningMethodEdDSA, isEd25519},
	}
}
