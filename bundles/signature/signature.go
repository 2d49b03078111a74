// Package signature signs bundles and verifies their signatures, in OPA's format. It owns the accepted algorithms and keys. It is a part of
// package bundles, and imports policy for the form of its errors.
package signature

import (
	"bytes"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"

	"gatehouse/policy/bundle"
)

// File holds a bundle's signature, in OPA's format: {"signatures": [JWT]}, at the top of the bundle. The token lists every other file with
// its hash. For JSON and YAML data and the manifest, the hash covers the values, so that white space does not count.
const File = ".signatures.json"

const (
	maxKeyFile = 64 << 10 // bytes
	minRSABits = 2048     // NIST SP 800-131A
	minSecret  = 32       // bytes; RFC 7518 section 3.2: at least the hash's size
)

// Verification says whose signatures a source's bundles must have. With it a bundle is refused if it is unsigned, has a file that is not
// signed, lacks a signed file, or has one with other contents; so is every delta.
type Verification struct {
	Keys []Key

	// Serial requires an integer "serial" in each manifest's metadata, and refuses one lower than the highest that was active: an old signed
	// bundle cannot be replayed.
	Serial bool

	// AllowHS256 accepts HS256 keys. Whoever can verify with one can also sign with it.
	AllowHS256 bool
}

// Key is one key to sign or to verify with. The file is read at each use.
type Key struct {
	ID        string // the token's kid (RFC 7515 section 4.1.4), or OPA's keyid claim
	File      string // PEM: a public key or a certificate to verify, a private key to sign; the secret itself for HS256
	Algorithm string // RS256, PS256, ES256, ES384, EdDSA, or HS256; of RS, PS and ES those with 384 and 512 as well
	Scope     string // the token's scope claim must be this; empty: it must have none

	// Check, if set, has the last word about the file's contents, each time that they are read. The file need not be there from the start:
	// who fetches the bundles brings it.
	Check func([]byte) error
}

// algorithms are the configurable algorithms, each with its parsers for PEM public and private keys.
var algorithms = map[string]struct {
	public  func([]byte) (any, error)
	private func([]byte) (any, error)
}{
	"RS256": {rsaPublic, rsaPrivate}, "RS384": {rsaPublic, rsaPrivate}, "RS512": {rsaPublic, rsaPrivate},
	"PS256": {rsaPublic, rsaPrivate}, "PS384": {rsaPublic, rsaPrivate}, "PS512": {rsaPublic, rsaPrivate},
	"ES256": {ecPublic, ecPrivate}, "ES384": {ecPublic, ecPrivate}, "ES512": {ecPublic, ecPrivate},
	"EdDSA": {edPublic, edPrivate},
	hs256:   {secret, secret},
}

const hs256 = "HS256"

func rsaPublic(pem []byte) (any, error) {
	key, err := jwt.ParseRSAPublicKeyFromPEM(pem)
	if err == nil && key.N.BitLen() < minRSABits {
		return nil, tooShort(key)
	}
	return key, err
}

func rsaPrivate(pem []byte) (any, error) {
	key, err := jwt.ParseRSAPrivateKeyFromPEM(pem)
	if err == nil && key.N.BitLen() < minRSABits {
		return nil, tooShort(&key.PublicKey)
	}
	return key, err
}

func tooShort(key *rsa.PublicKey) error {
	return fmt.Errorf("an RSA key of %d bits is too short: at least %d", key.N.BitLen(), minRSABits)
}

func ecPublic(pem []byte) (any, error)  { return jwt.ParseECPublicKeyFromPEM(pem) }
func ecPrivate(pem []byte) (any, error) { return jwt.ParseECPrivateKeyFromPEM(pem) }
func edPublic(pem []byte) (any, error)  { return jwt.ParseEdPublicKeyFromPEM(pem) }
func edPrivate(pem []byte) (any, error) { return jwt.ParseEdPrivateKeyFromPEM(pem) }

// secret uses the whole file, as OPA does: a trailing line break belongs to the secret.
func secret(content []byte) (any, error) {
	if len(content) < minSecret {
		return nil, fmt.Errorf("a secret of %d bytes is too short: at least %d", len(content), minSecret)
	}
	return content, nil
}

// load reads the key's file. The error names it and never contains its contents.
func (k Key) load(private bool) (any, error) {
	algorithm, known := algorithms[k.Algorithm]
	if !known {
		return nil, fmt.Errorf("key %q: algorithm %q is none of %s", k.ID, k.Algorithm, strings.Join(slices.Sorted(maps.Keys(algorithms)), ", "))
	}
	f, err := os.Open(k.File)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", k.ID, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(content) > maxKeyFile {
		err = fmt.Errorf("larger than %d bytes", maxKeyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("key %q: %s: %w", k.ID, k.File, err)
	}
	if k.Check != nil {
		if err := k.Check(content); err != nil {
			return nil, fmt.Errorf("key %q: %s: %w", k.ID, k.File, err)
		}
	}
	parse := algorithm.public
	if private {
		parse = algorithm.private
	}
	key, err := parse(content)
	if err != nil {
		return nil, fmt.Errorf("key %q: %s is no key for %s: %w", k.ID, k.File, k.Algorithm, err)
	}
	return key, nil
}

// Validate checks everything that can be checked without a bundle, including the current key files.
func (v *Verification) Validate() error {
	if v == nil {
		return nil
	}
	var problems []error
	if len(v.Keys) == 0 {
		problems = append(problems, errors.New("signing: no key is given, so no bundle could ever be verified"))
	}
	seen := map[string]bool{}
	for _, k := range v.Keys {
		switch {
		case k.ID == "":
			problems = append(problems, errors.New("signing: a key has no id"))
		case seen[k.ID]:
			problems = append(problems, fmt.Errorf("signing: two keys have the id %q", k.ID))
		case k.Algorithm == hs256 && !v.AllowHS256:
			problems = append(problems, fmt.Errorf("signing: key %q: HS256 is refused, because a key that verifies can also sign; allow_hs256 accepts that", k.ID))
		default:
			if _, err := k.load(false); err != nil && (k.Check == nil || !errors.Is(err, fs.ErrNotExist)) {
				problems = append(problems, fmt.Errorf("signing: %w", err))
			}
		}
		seen[k.ID] = true
	}
	return errors.Join(problems...)
}

// Look returns the key files' info without reading them; nil for a missing file.
func (v *Verification) Look() []fs.FileInfo {
	if v == nil {
		return nil
	}
	seen := make([]fs.FileInfo, len(v.Keys))
	for i, k := range v.Keys {
		if info, err := os.Stat(k.File); err == nil {
			seen[i] = info
		}
	}
	return seen
}

// signed is a signature's payload.
type signed struct {
	Files []opa.FileInfo `json:"files"`
	KeyID string         `json:"keyid,omitempty"`
	Scope string         `json:"scope,omitempty"`
	jwt.RegisteredClaims
}

// Sign returns the content of .signatures.json for a bundle's files, by their paths: one token over the SHA-256 of each, as `opa sign` makes
// it. An existing signature is ignored. The same files and key give the same bytes, except with the PS and ES algorithms, which are
// randomised.
func Sign(files map[string][]byte, key Key) ([]byte, error) {
	private, err := key.load(true)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	payload := signed{KeyID: key.ID, Scope: key.Scope}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name == File {
			continue
		}
		sum, err := hashFile(name, files[name], opa.SHA256)
		if err != nil {
			return nil, fmt.Errorf("signing: %s: %w", name, err)
		}
		payload.Files = append(payload.Files, opa.FileInfo{Name: name, Hash: hex.EncodeToString(sum), Algorithm: opa.SHA256.String()})
	}
	token := jwt.NewWithClaims(jwt.GetSigningMethod(key.Algorithm), payload)
	token.Header["kid"] = key.ID
	text, err := token.SignedString(private)
	if err != nil {
		return nil, fmt.Errorf("signing with key %q: %w", key.ID, err)
	}
	return json.Marshal(opa.SignaturesConfig{Signatures: []string{text}})
}

// Verify checks the signature of a bundle's files, by their paths; now is compared with exp and nbf. It reads the key files each time. The
// error is bundle.Problems with the bundle's name.
func (v *Verification) Verify(name string, files map[string][]byte, now time.Time) error {
	problem := func(file string, err error) error {
		return bundle.Problems{{Stage: "verifying", Bundle: name, File: file, Text: err.Error()}}
	}
	payload, err := v.token(files[File], now)
	if err != nil {
		if _, there := files[File]; !there {
			return problem("", fmt.Errorf("the bundle is not signed: it has no %s", File))
		}
		return problem(File, err)
	}
	listed := map[string]opa.FileInfo{}
	for _, f := range payload.Files {
		file := strings.TrimPrefix(f.Name, "/")
		if _, twice := listed[file]; twice {
			return problem(file, errors.New("the signature names it twice"))
		}
		listed[file] = f
		if _, there := files[file]; !there {
			return problem(file, errors.New("the signature names it, and it is not there"))
		}
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if file == File {
			continue
		}
		f, ok := listed[file]
		if !ok {
			return problem(file, errors.New("the signature does not name it"))
		}
		if err := checkHash(file, files[file], f); err != nil {
			return problem(file, err)
		}
	}
	return nil
}

// token verifies the signature file itself: with the key that it names and the algorithm configured for that key.
func (v *Verification) token(content []byte, now time.Time) (*signed, error) {
	var file opa.SignaturesConfig
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		return nil, fmt.Errorf("not a signature: %w", err)
	}
	if len(file.Signatures) != 1 {
		return nil, fmt.Errorf("it holds %d signatures, one is expected", len(file.Signatures))
	}
	if file.Plugin != "" && file.Plugin != "_default" { // opa build --signing-key writes _default
		return nil, fmt.Errorf("the signature's plugin %q is unknown", file.Plugin)
	}
	payload := &signed{}
	var used Key
	parser := jwt.NewParser(jwt.WithTimeFunc(func() time.Time { return now }), jwt.WithStrictDecoding())
	var keyErr error // the library's own text would be about its function for keys
	_, err := parser.ParseWithClaims(file.Signatures[0], payload, func(t *jwt.Token) (key any, err error) {
		defer func() { keyErr = err }()
		if used, err = v.key(t, payload); err != nil {
			return nil, err
		}
		return used.load(false)
	})
	if keyErr != nil {
		err = keyErr
	} else if errors.Is(err, jwt.ErrTokenSignatureInvalid) {
		return nil, fmt.Errorf("the signature is invalid: verification error: it was not made with the other half of key %q, or what it covers was changed", used.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("the signature is not accepted: %w", err)
	}
	if payload.Scope != used.Scope {
		return nil, fmt.Errorf("the signature's scope is %q, key %q is for %q", payload.Scope, used.ID, used.Scope)
	}
	return payload, nil
}

// key returns the key that a token names.
func (v *Verification) key(t *jwt.Token, payload *signed) (Key, error) {
	id, _ := t.Header["kid"].(string)
	if id == "" {
		id = payload.KeyID
	}
	at := slices.IndexFunc(v.Keys, func(k Key) bool { return k.ID == id })
	if at < 0 {
		return Key{}, fmt.Errorf("it was made with the key %q, which is not configured: %s", id, v.ids())
	}
	k := v.Keys[at]
	if t.Method.Alg() != k.Algorithm {
		return Key{}, fmt.Errorf("it was made with %s, key %q is for %s", t.Method.Alg(), id, k.Algorithm)
	}
	if k.Algorithm == hs256 && !v.AllowHS256 {
		return Key{}, errors.New("HS256 is refused")
	}
	return k, nil
}

// ids are those of the configured keys, in words.
func (v *Verification) ids() string {
	list := make([]string, min(len(v.Keys), 10))
	for i := range list {
		list[i] = strconv.Quote(v.Keys[i].ID)
	}
	text := "there is " + strings.Join(list, ", ")
	if more := len(v.Keys) - len(list); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// hashing are the accepted algorithms for file hashes: OPA's, without the broken ones.
var hashing = []opa.HashingAlgorithm{opa.SHA256, opa.SHA384, opa.SHA512, opa.SHA512256}

func checkHash(name string, content []byte, listed opa.FileInfo) error {
	algorithm := opa.HashingAlgorithm(listed.Algorithm)
	if !slices.Contains(hashing, algorithm) {
		return fmt.Errorf("the hash algorithm %q is none of %v", listed.Algorithm, hashing)
	}
	want, err := hex.DecodeString(listed.Hash)
	if err != nil {
		return errors.New("its hash in the signature is not hexadecimal")
	}
	got, err := hashFile(name, content, algorithm)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(want, got) != 1 {
		return errors.New("its contents are not those that were signed")
	}
	return nil
}

// hashFile returns OPA's hash of a file.
func hashFile(name string, content []byte, algorithm opa.HashingAlgorithm) ([]byte, error) {
	hasher, err := opa.NewSignatureHasher(algorithm)
	if err != nil {
		return nil, err
	}
	var value any = content
	if opa.IsStructuredDoc(name) {
		if err := util.Unmarshal(content, &value); err != nil {
			return nil, fmt.Errorf("it cannot be read: %w", err)
		}
	}
	return hasher.HashFile(value)
}
