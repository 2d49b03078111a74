// Package identity turns the credential on a request into an Identity, or says why it cannot.
//
// It owns the order of the checks, the issuers and their rules, the refreshing of keys and the cache of verified tokens. Its parts are packages
// below it: credential, strictjson, keyset, claims, apikey, peer, mint and refusal. Besides those and the foundations it imports nothing of ours.
//
// A Verifier is built once from a Config. Run keeps its key sets fresh and publishes each new, immutable *Keys; a request uses one of them and
// hands it to Identify with a function that reads its headers. Identify does no I/O and takes no lock, with two exceptions: a token whose key
// may be at its issuer's URL by now (see Keys), and a token that an introspection server must be asked about.
//
// # Order of checks
//
// The credential is looked for in every configured place. None is Anonymous; the same header twice, two credentials joined
// with a comma, a cookie or query parameter twice, a parameter's value with a plus sign or next to a semicolon, or different
// tokens in two places are a bad credential. A token is then checked in this order, and the first failure is the answer:
//
//  1. size; three non-empty segments of unpadded base64url without stray bits
//  2. header and claims are JSON objects: valid UTF-8, no key twice, limited depth, numbers within float64, nothing behind
//  3. header: typ is absent or a string; no crit; no b64 but true; jwk, jku, x5u, x5c are never looked at
//  4. iss names one configured issuer, and that issuer takes tokens from where this one was found
//  5. typ is the issuer's type; where it has none, typ is absent, JWT or at+jwt
//  6. alg is in the issuer's list; the issuer has keys (otherwise unavailable)
//  7. kid, type and alg select the key; without kid, those that fit are tried, four at most. alg must fit the key's type, curve, alg,
//     use and key_ops
//  8. the signature
//  9. exp (required), nbf and iat are dates; then the clock is held against them, each with the issuer's clock skew, and
//     against the maximum age since iat, where the issuer has one
//  10. aud holds one of the issuer's audiences, byte for byte; an issuer that has none takes no token with aud
//  11. client_id, else azp, is one of the issuer's client ids; azp is one of its authorized parties. Each only where it has some
//  12. token_use is the issuer's, where it has one; the claims that it requires are there and have one of their values
//  13. sub is a non-empty string without control characters; roles, groups, scopes and the e-mail address have the right types
//
// An e-mail address counts only where email_verified is true; without that the token is as good and the address is left out.
//
// # Keys
//
// An issuer's keys come from one file (a JWK set or PEM, watched) or one URL (a JWK set, refreshed), which its own metadata may
// name (OpenID Connect Discovery). A set that cannot be
// read, is broken or has no usable key never replaces a good one; KeyStatus.Error says why. Keys that could not be used for
// verification (symmetric, RSA below 2048 bits, other curves, use other than sig) are left out, each with a notice.
//
// A token whose kid is not among the keys from a URL triggers one extra fetch, and waits for it: at most a second, and
// at most three quarters of the time that its caller gives, or 150 ms where the caller does not say. Such fetches are limited (two at once, one in ten seconds over
// time), as are the requests that wait; where a limit is met the key id is unknown. Other requests are not held up. A key that
// is gone from a set stops working, cached tokens with it, when the next refresh is published.
//
// With Config.Dir the last good set of each URL outlives a restart. Where a URL cannot be read the older set serves until it
// is KeySource.MaxStale old, counted from its fetch also across restarts; from then on the issuer's tokens are ErrUnavailable.
//
// # Cache
//
// The result of a verification is cached, within a limit in bytes. A hit needs the same token bytes, the same key set of its issuer in the
// Keys of the request, an accepted place (for a refusal: the same places), and a clock within the result's validity; so it equals what
// verification would give. A refusal is cached for 5 seconds, apart from the accepted tokens, so that a flood of one bad token is cheap and
// evicts nothing. An unknown kid and missing keys are never cached, nor is a token without three segments: checking that again costs less.
//
// # Other credentials
//
// A credential with the mark of an API key is one, wherever it stands, and is never tried as anything else. A token that has the
// shape of a signed JSON Web Token is verified here, unless its iss claim is the Issuer of an introspection server; every other
// token goes to the one server that takes its place. A server is asked one question at a
// time for each token, bounded in number and time, and its answer is remembered by the token's SHA-256 until exp or for CacheFor.
// What Envoy's jwt_authn filter verified counts where Config.Metadata names it; see withMetadata for a token beside it. API keys
// and our own client secrets are watched files, published in Keys with the issuers' keys.
//
// # What the application is told
//
// Package mint signs short-lived tokens about authenticated callers, and tokens of a local issuer for development. Explain tells an operator
// which check a token fails.
//
// # Secrets
//
// No error, log line or status of this package contains any part of a token or of its claims. An Explanation shows those claims
// that checks compare; it is for the person who holds the token.
package identity

import (
	"gatehouse/identity/refusal"
	"gatehouse/input"
)

// Identity types, as Aserto's policies know them.
const (
	TypeNone = "IDENTITY_TYPE_NONE" // anonymous
	TypeJWT  = "IDENTITY_TYPE_JWT"  // a verified JSON Web Token
	TypeSub  = "IDENTITY_TYPE_SUB"  // a subject by another credential: an API key, an introspected token
)

// ErrBadCredential and ErrUnavailable are the two ways Identify fails. Each returned error wraps exactly one of them and adds
// a cause out of a closed set of texts, such as "bad credential: token expired".
var (
	ErrBadCredential = refusal.ErrBadCredential
	ErrUnavailable   = refusal.ErrUnavailable
)

// Request is what a credential is read from.
type Request struct {
	Header    Header
	Query     string // as sent, without the question mark
	Principal string // of the peer's certificate as Envoy verified it (AttributeContext.Peer.principal); empty = none
	// Certificate is the peer's in URL-encoded PEM, where Envoy sends it (include_peer_certificate).
	Certificate string
	Metadata    map[string]any // Envoy's metadata_context as plain JSON: {"filterMetadata": {filter: {...}}}
}

// Peer is the other end of the connection to Envoy, by its certificate.
type Peer = input.Peer

// Header gives the values of one request header by its lower-case name, one string for each field line. The strings may
// alias a buffer of the caller's: nothing of them is kept. The slice is good until the next call.
type Header func(name string) []string

// Identity is the end user of one request.
type Identity = input.Identity

// Anonymous is the identity of a request that carries no credential.
func Anonymous() Identity { return Identity{Type: TypeNone} }

var (
	errTooLong   = refusal.Bad("token is too long")
	errMalformed = refusal.Bad("token is not three base64url segments")
	errJSON      = refusal.Lasting("token is not strict json")
	errDuplicate = refusal.Lasting("token has a json key twice")
	errDeep      = refusal.Lasting("token is nested too deeply")
	errType      = refusal.Lasting("token is of another type")
	errCritical  = refusal.Lasting("token asks for an extension")
	errOtherType = refusal.Lasting("token is not of the issuer's type")
	errHeader    = refusal.Lasting("token header has a value of the wrong type")

	errIssuerType    = refusal.Lasting("issuer is missing or not a string")
	errUnknownIssuer = refusal.Lasting("unknown issuer")
	errPlace         = refusal.Lasting("issuer does not accept tokens from this place")
	errAlgorithm     = refusal.Lasting("algorithm is not allowed")
	errSignature     = refusal.Lasting("signature does not verify")

	errAudType       = refusal.Lasting("audience is missing or not a string or list of strings")
	errAudience      = refusal.Lasting("audience does not match")
	errClientType    = refusal.Lasting("client is missing or not a string")
	errClient        = refusal.Lasting("client does not match")
	errParty         = refusal.Lasting("authorized party does not match")
	errTokenUse      = refusal.Lasting("token is for another use")
	errRequired      = refusal.Lasting("a required claim is missing")
	errRequiredValue = refusal.Lasting("a required claim has another value")

	errNoKeys    = refusal.Unavailable("keys of the issuer were never loaded")
	errStaleKeys = refusal.Unavailable("keys of the issuer could not be read for too long")
)
