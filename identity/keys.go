package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse/identity/strictjson"

	"github.com/MicahParks/jwkset"
)

// Keys are the public keys of all issuers at one moment. They never change; nil has none. They fit the Verifier that made them
// and no other.
type Keys struct {
	owner      *Verifier
	generation uint64
	sets       []*keySet // by issuer.index; nil = never loaded
	status     []KeyStatus
	others     []*otherPart // by the index in others.files; nil = never loaded
	digest     string
}

// KeyStatus says how one issuer's keys are doing, or a file of API keys or a secret of ours.
type KeyStatus struct {
	Issuer    string    `json:"issuer"`              // or the file's key in the configuration, such as api_keys.file
	Source    string    `json:"source"`              // the file, or the URL without its query
	Loaded    bool      `json:"loaded"`              // there is a good set, though perhaps not the latest
	Stale     bool      `json:"stale,omitempty"`     // it serves because the URL cannot be read, or was not read yet
	Copy      bool      `json:"copy,omitempty"`      // it is the copy on disk of an earlier run
	Withdrawn bool      `json:"withdrawn,omitempty"` // it became older than KeySource.MaxStale and is not used any more
	Keys      int       `json:"keys"`                // usable keys in it
	FetchedAt time.Time `json:"fetched_at,omitzero"` // when a URL was last fetched, or a file last seen to change, by Config.Clock
	Error     string    `json:"error,omitempty"`     // why the latest attempt failed; empty when it did not
	Notices   []string  `json:"notices,omitempty"`   // keys of the set that are left out, and why
}

// Status lists the issuers in the order of the configuration, and then the other files.
func (k *Keys) Status() []KeyStatus {
	if k == nil {
		return nil
	}
	status := slices.Clone(k.status)
	for i := range status {
		status[i].Notices = slices.Clone(status[i].Notices)
	}
	return status
}

// Ready says why no credential can be verified yet, nil where one can. Keys that were there and had to be withdrawn do not
// make a process unready again: all of a fleet would be at the same time, and a proxy that reaches nobody may let requests
// through. See Degraded for those.
func (v *Verifier) Ready(keys *Keys) error {
	if v.keyless || len(v.issuers) == 0 {
		return nil
	}
	if keys != nil && slices.ContainsFunc(keys.status, func(s KeyStatus) bool { return s.Loaded || s.Withdrawn }) {
		return nil
	}
	if missing := v.unavailable(keys); len(missing) == 1 {
		return errors.New(missing[0])
	}
	return errors.New("no issuer's keys were loaded yet")
}

// Degraded lists what does not work as it should, each with the reason: issuers whose tokens are ErrUnavailable now, or some of them
// because keys cannot be told apart, and files that cannot be read any more while what they held goes on serving.
func (v *Verifier) Degraded(keys *Keys) []string {
	out := v.unavailable(keys)
	if keys == nil || keys.owner != v {
		return out
	}
	for i, iss := range v.issuers {
		set, status := keys.set(iss), keys.status[i]
		if set == nil {
			continue
		}
		if status.Error != "" && !iss.remote() {
			out = append(out, fmt.Sprintf("keys of issuer %q: the file cannot be read, and what it held before is used: %s", iss.Issuer.Issuer, status.Error))
		}
		for _, k := range set.unclear {
			out = append(out, fmt.Sprintf("keys of issuer %q: %s is left out: another has the same kid, type and algorithm", iss.Issuer.Issuer, k.label))
		}
	}
	for i, f := range v.others.files {
		status := keys.status[len(v.issuers)+i]
		switch {
		case status.Error == "":
		case status.Loaded:
			out = append(out, fmt.Sprintf("identity.%s: the file cannot be read, and what it held before is used: %s", f.key, status.Error))
		default:
			out = append(out, fmt.Sprintf("identity.%s: %s", f.key, status.Error))
		}
	}
	return out
}

// unavailable lists the issuers whose tokens are ErrUnavailable now. The others' are not affected.
func (v *Verifier) unavailable(keys *Keys) []string {
	var out []string
	for i, iss := range v.issuers {
		if keys.set(iss) != nil {
			continue
		}
		text := fmt.Sprintf("no keys of issuer %q yet", iss.Issuer.Issuer)
		if keys.missing(iss) == errStaleKeys {
			text = fmt.Sprintf("keys of issuer %q are older than max_stale", iss.Issuer.Issuer)
		}
		if keys != nil && keys.status[i].Error != "" {
			text += ": " + keys.status[i].Error
		}
		out = append(out, text)
	}
	return out
}

// Generation grows whenever any issuer's key set changes. It is 0 as long as nothing was loaded.
func (k *Keys) Generation() uint64 {
	if k == nil {
		return 0
	}
	return k.generation
}

// Digest names what credentials were verified with: SHA-256 in hexadecimal over the key sets and the API keys, each as it was read, in the
// order of the configuration. It is "" where nothing was loaded. Secrets of ours are no part of it.
func (k *Keys) Digest() string {
	if k == nil {
		return ""
	}
	return k.digest
}

func (k *Keys) sum() string {
	all, some := sha256.New(), false
	for _, set := range k.sets {
		var sum [sha256.Size]byte // zeros for what is not there: another issuer's keys are another digest
		if set != nil {
			sum, some = set.sum, true
		}
		all.Write(sum[:])
	}
	for _, part := range k.others {
		if part != nil && part.apiKeys != nil {
			all.Write(part.sum[:])
			some = true
		}
	}
	if !some {
		return ""
	}
	return hex.EncodeToString(all.Sum(nil))
}

// missing says why an issuer has no set.
func (k *Keys) missing(iss *issuer) error {
	if k != nil && iss.index < len(k.status) && k.status[iss.index].Withdrawn {
		return errStaleKeys
	}
	return errNoKeys
}

func (k *Keys) set(iss *issuer) *keySet {
	if k == nil || iss == nil || iss.index >= len(k.sets) || k.owner.issuers[iss.index] != iss {
		return nil
	}
	return k.sets[iss.index]
}

// inherited is what older keys have of an issuer.
type inherited struct {
	set    *keySet // nil = withdrawn, or never loaded
	status KeyStatus
}

// of finds an issuer of another Verifier that has its keys from the same place; nil = there is none.
func (k *Keys) of(iss *issuer) *inherited {
	if k == nil {
		return nil
	}
	for i, other := range k.owner.issuers {
		if other.Issuer.Issuer == iss.Issuer.Issuer && other.Keys.URL == iss.Keys.URL && other.Keys.Discovery == iss.Keys.Discovery {
			return &inherited{k.sets[i], k.status[i]}
		}
	}
	return nil
}

// keySet is one issuer's usable keys: at least one. It never changes, and a set read again without a change is the same
// pointer, which is what the cache goes by.
type keySet struct {
	raw     []byte            // what it was read from
	sum     [sha256.Size]byte // of raw
	keys    []key
	byID    map[string][]int // indexes of keys with a kid
	unclear []key            // left out: another key has their kid, type and algorithm
	gone    map[string]int   // kids of sets before it that it has no more, by how many sets ago; set before anybody else sees it
	unnamed bool             // PEM: no key can have a kid, so a token's is not looked at
	notices []string
}

type key struct {
	id     string
	alg    string // the only alg it is for; empty = any that fits
	public crypto.PublicKey
	label  string // which of the set it is, for people
}

func (k *key) fits(alg algorithm) bool {
	return (k.alg == "" || k.alg == alg.name) && alg.fits(k.public)
}

// has reports whether a token's kid is one of the set's; nil has none.
func (s *keySet) has(kid string) bool { return s != nil && len(s.byID[kid]) > 0 }

// lost reports whether a token's kid is one of a set before, or of keys that were left out of this one.
func (s *keySet) lost(kid string) bool {
	return s != nil && (s.gone[kid] > 0 || slices.ContainsFunc(s.unclear, func(k key) bool { return k.id == kid }))
}

// goneSince notes which keys went with the set before. Tokens of those are old, and no reason to ask for newer keys.
func (s *keySet) goneSince(before *keySet) {
	if before == nil {
		return
	}
	s.gone = make(map[string]int)
	for kid, ago := range before.gone {
		if !s.has(kid) && ago < maxKeySetsAgo {
			s.gone[kid] = ago + 1
		}
	}
	for kid := range before.byID {
		if !s.has(kid) {
			s.gone[kid] = 1
		}
	}
}

// maxTried bounds how many keys are tried for a token that names none.
const maxTried = 4

// picked are the keys that may have signed one token.
type picked struct {
	keys [maxTried]crypto.PublicKey
	n    int
}

// verify reports whether one of the keys signed the token.
func (c *picked) verify(alg algorithm, p *parsed) bool {
	for _, key := range c.keys[:c.n] {
		if alg.method.Verify(p.signed, p.signature, key) == nil {
			return true
		}
	}
	return false
}

func (c *picked) add(k crypto.PublicKey) bool {
	if c.n == maxTried {
		return false
	}
	c.keys[c.n] = k
	c.n++
	return true
}

// pick selects the key that a token names, by kid, type and algorithm; a key for the token's alg alone comes before one for any
// that fits. For a token that names none it selects those that fit, a few at most.
func (s *keySet) pick(p *parsed, alg algorithm) (out picked, err error) {
	if p.hasKid && !s.unnamed {
		k, err := s.named(p.kid, alg)
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

func (s *keySet) named(kid string, alg algorithm) (crypto.PublicKey, error) {
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
		return nil, errUnknownKey
	}
	return nil, errKeyFit
}

// parseKeySet reads a JWK set (RFC 7517) or, where that is allowed, PEM. name is the file or URL, for errors. Keys that cannot
// be used are left out with a notice, as RFC 7517 section 5 has it; a set without one usable key is an error.
func parseKeySet(name string, raw []byte, allowPEM bool) (*keySet, error) {
	s := &keySet{raw: raw, sum: sha256.Sum256(raw), byID: make(map[string][]int)}
	var err error
	if allowPEM && bytes.HasPrefix(bytes.TrimSpace(raw), []byte("-----BEGIN ")) {
		err = s.readPEM(name, raw)
	} else {
		err = s.readJWKS(name, raw)
	}
	if err != nil {
		return nil, err
	}
	s.index()
	if len(s.keys) == 0 {
		if len(s.notices) == 0 {
			return nil, fmt.Errorf("%s: the set is empty", name)
		}
		return nil, fmt.Errorf("%s: none of %d keys is usable: %s", name, len(s.notices), s.notices[0])
	}
	return s, nil
}

func (s *keySet) readJWKS(name string, raw []byte) error {
	object, _, err := strictjson.Object(raw)
	if err != nil {
		line := 1
		var at *strictjson.Error
		if errors.As(err, &at) {
			line += bytes.Count(raw[:min(at.Offset, len(raw))], []byte("\n"))
		}
		return fmt.Errorf("%s:%d: %w", name, line, err)
	}
	list, ok := object["keys"].([]any)
	if !ok {
		return fmt.Errorf(`%s: "keys" is missing or not a list`, name)
	}
	if len(list) > maxKeysPerIssuer {
		return fmt.Errorf("%s: %d keys, more than %d", name, len(list), maxKeysPerIssuer)
	}
	for i, element := range list {
		jwk, ok := element.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: key %d is not an object", name, i+1)
		}
		if err := s.addJWK(i+1, jwk); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// addJWK adds one key of a set, or a notice.
func (s *keySet) addJWK(number int, jwk map[string]any) error {
	label := fmt.Sprintf("key %d", number)
	if id, ok := jwk["kid"].(string); ok {
		label = fmt.Sprintf("key %d (%.64q)", number, id)
	}
	notice := func(what string) { s.notices = append(s.notices, label+": "+what) }
	k, err := readJWK(jwk)
	if err != nil {
		notice("left out: " + err.Error())
		return nil
	}
	if _, ok := jwk["d"]; ok {
		notice("holds a private key, which must not be here; only its public half is used")
	}
	k.label = label
	s.keys = append(s.keys, k)
	return nil
}

// index finds keys by their kids, after it has left out those that no kid, type and algorithm tells apart: a token signed with one of
// them cannot be verified, and every other can. A key that is there twice is one.
func (s *keySet) index() {
	kept := make([]key, 0, len(s.keys))
	for i := range s.keys {
		k, unclear, again := &s.keys[i], "", false
		for j := range s.keys {
			other := &s.keys[j]
			if j == i || k.id == "" || other.id != k.id || !k.like(other) {
				continue
			}
			if same(k.public, other.public) {
				again = again || j < i
				continue
			}
			unclear = other.label
		}
		switch {
		case unclear != "":
			s.unclear = append(s.unclear, *k)
			s.notices = append(s.notices, k.label+": left out: "+unclear+" has the same kid, type and algorithm")
		case !again:
			kept = append(kept, *k)
		}
	}
	s.keys = kept
	for i, k := range s.keys {
		if k.id != "" {
			s.byID[k.id] = append(s.byID[k.id], i)
		}
	}
}

// like reports whether keys are for the same tokens.
func (k *key) like(other *key) bool {
	if k.alg != other.alg {
		return false
	}
	for _, a := range knownAlgorithms() {
		if a.fits(k.public) != a.fits(other.public) {
			return false
		}
	}
	return true
}

func same(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// readJWK takes the public members of a key by their exact names, and no certificates, and has jwkset make a key of them.
// Errors hold no key material.
func readJWK(jwk map[string]any) (key, error) {
	var texts [9]string
	for i, member := range []string{"kty", "kid", "alg", "use", "crv", "x", "y", "n", "e"} {
		value, ok := jwk[member]
		if !ok {
			continue
		}
		if texts[i], ok = value.(string); !ok {
			return key{}, fmt.Errorf("%q is not a string", member)
		}
	}
	marshal := jwkset.JWKMarshal{
		KTY: jwkset.KTY(texts[0]), KID: texts[1], ALG: jwkset.ALG(texts[2]), USE: jwkset.USE(texts[3]),
		CRV: jwkset.CRV(texts[4]), X: texts[5], Y: texts[6], N: texts[7], E: texts[8],
	}
	if err := forVerification(marshal, jwk["key_ops"]); err != nil {
		return key{}, err
	}
	parsed, err := jwkset.NewJWKFromMarshal(marshal, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return key{}, fmt.Errorf("%.200s", strings.ReplaceAll(err.Error(), "\n", ": "))
	}
	if err := checkPublicKey(parsed.Key()); err != nil {
		return key{}, err
	}
	k := key{id: marshal.KID, alg: string(marshal.ALG), public: parsed.Key()}
	if k.alg == "Ed25519" {
		k.alg = "EdDSA" // RFC 9864's name for what tokens here call EdDSA
	}
	fits := func(a algorithm) bool { return k.fits(a) }
	if !slices.ContainsFunc(knownAlgorithms(), fits) {
		return key{}, fmt.Errorf("alg %q is not one that fits the key and is supported", texts[2])
	}
	return k, nil
}

// forVerification checks what a key says about itself (RFC 7517 sections 4.1 to 4.3).
func forVerification(m jwkset.JWKMarshal, operations any) error {
	switch m.KTY {
	case jwkset.KtyRSA, jwkset.KtyEC, jwkset.KtyOKP:
	case jwkset.KtyOct:
		return errors.New("it is symmetric: a key that verifies can also sign")
	default:
		return fmt.Errorf("kty %.32q is not supported", m.KTY)
	}
	if m.USE != "" && m.USE != jwkset.UseSig {
		return fmt.Errorf("use %.32q is not sig", m.USE)
	}
	if operations == nil {
		return nil
	}
	list, ok := operations.([]any)
	if !ok || !slices.Contains(list, any("verify")) {
		return errors.New("key_ops does not list verify")
	}
	return nil
}

// checkPublicKey refuses keys that are weak or that no algorithm here uses.
func checkPublicKey(public crypto.PublicKey) error {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("an RSA key of %d bits; %d to %d are accepted", bits, minRSABits, maxRSABits)
		}
		if k.E < 3 || k.E%2 == 0 || k.N.Bit(0) == 0 {
			return errors.New("not an RSA key: modulus and exponent must be odd, the exponent at least 3")
		}
		return nil
	case *ecdsa.PublicKey:
		if name := k.Curve.Params().Name; name != "P-256" && name != "P-384" {
			return fmt.Errorf("curve %s is not supported", name)
		}
		if _, err := k.ECDH(); err != nil {
			return errors.New("the point is not on its curve")
		}
		return nil
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return errors.New("an Ed25519 key of the wrong length")
		}
		return nil
	}
	return fmt.Errorf("a key of type %T is not supported", public)
}

// readPEM takes public keys and certificates. Certificates only carry their key: neither chain nor dates are looked at.
func (s *keySet) readPEM(name string, raw []byte) error {
	s.unnamed = true
	for rest := bytes.TrimSpace(raw); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		line := 1 + bytes.Count(raw[:len(raw)-len(rest)], []byte("\n"))
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return fmt.Errorf("%s:%d: not a PEM block", name, line)
		}
		public, err := publicFromPEM(block)
		if err == nil {
			err = checkPublicKey(public)
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", name, line, err)
		}
		if s.keys = append(s.keys, key{public: public}); len(s.keys) > maxKeysPerIssuer {
			return fmt.Errorf("%s: more than %d keys", name, maxKeysPerIssuer)
		}
	}
	return nil
}

func publicFromPEM(block *pem.Block) (crypto.PublicKey, error) {
	var public crypto.PublicKey
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		public, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		public, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var certificate *x509.Certificate
		if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
			public = certificate.PublicKey
		}
	default:
		return nil, fmt.Errorf("a PEM block %.32q; give the public key or certificate", block.Type)
	}
	return public, err
}
