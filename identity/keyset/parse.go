package keyset

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/MicahParks/jwkset"

	"gatehouse/identity/strictjson"
)

// Parse reads a JWK set (RFC 7517) or, where that is allowed, PEM. name is the file or URL, for errors. Keys that cannot
// be used are left out with a notice, as RFC 7517 section 5 has it; a set without one usable key is an error.
func Parse(name string, raw []byte, allowPEM bool) (*Set, error) {
	s := &Set{raw: raw, sum: sha256.Sum256(raw), byID: make(map[string][]int)}
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

func (s *Set) readJWKS(name string, raw []byte) error {
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
	if len(list) > maxKeys {
		return fmt.Errorf("%s: %d keys, more than %d", name, len(list), maxKeys)
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
func (s *Set) addJWK(number int, jwk map[string]any) error {
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
func (s *Set) index() {
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
	for _, a := range Algorithms() {
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
	fits := func(a Algorithm) bool { return k.fits(a) }
	if !slices.ContainsFunc(Algorithms(), fits) {
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
		if bits := k.N.BitLen(); bits < MinRSABits || bits > MaxRSABits {
			return fmt.Errorf("an RSA key of %d bits; %d to %d are accepted", bits, MinRSABits, MaxRSABits)
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
func (s *Set) readPEM(name string, raw []byte) error {
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
		if s.keys = append(s.keys, key{public: public}); len(s.keys) > maxKeys {
			return fmt.Errorf("%s: more than %d keys", name, maxKeys)
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
