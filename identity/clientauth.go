package identity

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"

	"gatehouse/identity/credential"
	"gatehouse/identity/keyset"

	"github.com/golang-jwt/jwt/v5"
)

// assertionLife is how long a private_key_jwt assertion may be used. It is used once, at once.
const assertionLife = time.Minute

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // RFC 7523 section 2.2

// clientAuth is what we authenticate ourselves with: a secret or a private key. It refuses to print itself and never changes.
type clientAuth struct {
	secret credential.Token
	key    crypto.Signer // nil = secret
	method jwt.SigningMethod
}

func (a *clientAuth) String() string             { return credential.Redacted }
func (a *clientAuth) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(credential.Redacted)) }

// addClientAuth notes the file that an entry authenticates us with.
func (v *Verifier) addClientAuth(in *introspector) (problems []error) {
	if (in.SecretFile == "") == (in.KeyFile == "") {
		problems = append(problems, fieldErrorf("SecretFile", "exactly one of it and private_key_file is required"))
	}
	if in.KeyFile == "" && in.KeyID != "" {
		problems = append(problems, fieldErrorf("KeyID", "belongs to private_key_file"))
	}
	if in.KeyFile == "" && in.AssertionAudience != "" {
		problems = append(problems, fieldErrorf("AssertionAudience", "belongs to private_key_file"))
	}
	f := &otherFile{field: fmt.Sprintf("Introspection[%d].SecretFile", in.index), key: fmt.Sprintf("introspection[%d].client_secret_file", in.index), path: in.SecretFile, parse: parseSecret}
	if in.KeyFile != "" {
		f = &otherFile{field: fmt.Sprintf("Introspection[%d].KeyFile", in.index), key: fmt.Sprintf("introspection[%d].private_key_file", in.index), path: in.KeyFile, parse: parsePrivateKey}
	}
	in.file = len(v.others.files)
	v.others.files = append(v.others.files, f)
	return problems
}

func parseSecret(path string, raw []byte) (*otherPart, error) {
	text, err := oneLine(path, raw)
	if err != nil {
		return nil, err
	}
	return &otherPart{client: &clientAuth{secret: credential.Token{Raw: text}}, keys: 1}, nil
}

// parsePrivateKey reads one unencrypted PEM key. Errors hold no key material.
func parsePrivateKey(path string, raw []byte) (*otherPart, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s: is not PEM", path)
	}
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("%s: PEM of the type %.40q: a private key without a passphrase is required", path, block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: the private key cannot be read: is it encrypted?", path)
	}
	auth := &clientAuth{}
	if auth.key, auth.method, err = signer(parsed); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &otherPart{client: auth, keys: 1}, nil
}

// signer binds a private key to the one algorithm that it signs with here.
func signer(parsed any) (crypto.Signer, jwt.SigningMethod, error) {
	switch key := parsed.(type) {
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < keyset.MinRSABits || bits > keyset.MaxRSABits {
			return nil, nil, fmt.Errorf("an RSA key of %d bits: must have %d to %d", bits, keyset.MinRSABits, keyset.MaxRSABits)
		}
		return key, jwt.SigningMethodRS256, nil
	case *ecdsa.PrivateKey:
		switch key.Curve.Params().Name {
		case "P-256":
			return key, jwt.SigningMethodES256, nil
		case "P-384":
			return key, jwt.SigningMethodES384, nil
		}
		return nil, nil, errors.New("an EC key must be on the curve P-256 or P-384")
	case ed25519.PrivateKey:
		return key, jwt.SigningMethodEdDSA, nil
	}
	return nil, nil, errors.New("the private key is neither RSA, EC nor Ed25519")
}

// authenticate gives the Authorization header of client_secret_basic, whose two halves are form-encoded before they are joined (RFC
// 6749 section 2.3.1), or adds the members of private_key_jwt to the form.
func (a *clientAuth) authenticate(in *introspector, form url.Values) (basic string, err error) {
	if a.key == nil {
		pair := url.QueryEscape(in.ClientID) + ":" + url.QueryEscape(a.secret.Raw)
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)), nil
	}
	now := in.clock()
	assertion := jwt.NewWithClaims(a.method, jwt.MapClaims{
		"iss": in.ClientID, "sub": in.ClientID, "aud": in.assertionAudience(), "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	if in.KeyID != "" {
		assertion.Header["kid"] = in.KeyID
	}
	text, err := assertion.SignedString(a.key)
	if err != nil {
		return "", errors.New("the assertion cannot be signed")
	}
	form.Set("client_id", in.ClientID)
	form.Set("client_assertion_type", assertionType)
	form.Set("client_assertion", text)
	return "", nil
}

// assertionAudience names the server to itself. Its issuer is what a server can tell from every other's (and what newer ones
// insist on); where the entry names none, the endpoint's URL stands for it (RFC 7523 section 3).
func (in *introspector) assertionAudience() string {
	return cmp.Or(in.AssertionAudience, cmp.Or(in.Issuer, in.URL))
}
