package mint

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/golang-jwt/jwt/v5"

	"gatehouse/durable"
)

const maxKeyFile = 64 << 10 // bytes of a private key's file

// signingKey is a private key of ours with all that tokens say of it. It never changes, and like a token it
// does not print itself.
type signingKey struct {
	private crypto.Signer
	method  jwt.SigningMethod
	public  publicJWK
}

func (*signingKey) String() string             { return "[signing key]" }
func (*signingKey) GoString() string           { return "[signing key]" }
func (*signingKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[signing key]")) }

// publicJWK is the public half of a key as RFC 7517 writes it.
type publicJWK struct {
	KTY string `json:"kty"`
	CRV string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y,omitempty"`
	Use string `json:"use"`
	Alg string `json:"alg"`
	KID string `json:"kid"`
}

// newSigningKey makes a key for ES256 (P-256) or EdDSA (Ed25519).
func newSigningKey(alg string) (*signingKey, error) {
	switch alg {
	case "", "ES256":
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("making a signing key: %w", err)
		}
		return signingKeyOf(private)
	case "EdDSA":
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("making a signing key: %w", err)
		}
		return signingKeyOf(private)
	}
	return nil, fmt.Errorf("algorithm %q is neither ES256 nor EdDSA", alg)
}

func signingKeyOf(private crypto.Signer) (*signingKey, error) {
	k := &signingKey{private: private}
	switch public := private.Public().(type) {
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return nil, fmt.Errorf("a key on curve %s; give one on P-256 (ES256) or an Ed25519 key (EdDSA)", public.Curve.Params().Name)
		}
		point, err := public.Bytes() // 4, X, Y
		if err != nil {
			return nil, fmt.Errorf("not a key on P-256: %w", err)
		}
		const size = 32
		k.method = jwt.SigningMethodES256
		k.public = publicJWK{KTY: "EC", CRV: "P-256", X: encodeSegment(point[1 : 1+size]), Y: encodeSegment(point[1+size:])}
	case ed25519.PublicKey:
		k.method = jwt.SigningMethodEdDSA
		k.public = publicJWK{KTY: "OKP", CRV: "Ed25519", X: encodeSegment(public)}
	default:
		return nil, fmt.Errorf("a key of type %T; give one on P-256 (ES256) or an Ed25519 key (EdDSA)", public)
	}
	k.public.Use, k.public.Alg, k.public.KID = "sig", k.method.Alg(), k.public.thumbprint()
	return k, nil
}

// thumbprint is RFC 7638's: the required members in alphabetical order, hashed. So a key has one id wherever it is read.
func (p publicJWK) thumbprint() string {
	text := `{"crv":"` + p.CRV + `","kty":"` + p.KTY + `","x":"` + p.X + `"`
	if p.Y != "" {
		text += `,"y":"` + p.Y + `"`
	}
	sum := sha256.Sum256([]byte(text + "}"))
	return encodeSegment(sum[:])
}

// sign makes a token of a type, empty = JWT, with claims that encode as a JSON object.
func (k *signingKey) sign(typ string, claims any) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": k.public.Alg, "typ": cmp.Or(typ, "JWT"), "kid": k.public.KID})
	if err != nil {
		return "", fmt.Errorf("encoding a token's header: %w", err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding a token's claims: %w", err)
	}
	signed := encodeSegment(header) + "." + encodeSegment(payload)
	signature, err := k.method.Sign(signed, k.private)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	return signed + "." + encodeSegment(signature), nil
}

// parseSigningKey reads one private key in PEM, PKCS 8 or SEC 1. Errors hold nothing of it.
func parseSigningKey(raw []byte) (*signingKey, error) {
	block, rest := pem.Decode(raw)
	if block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam writes it in front of the key
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return nil, errors.New("holds no PEM block; give a private key on P-256 or Ed25519")
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, errors.New("holds more than one PEM block; give one private key")
	}
	var private any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		private, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		private, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("holds a PEM block %.32q; give an unencrypted private key", block.Type)
	}
	if err != nil {
		return nil, errors.New("holds no private key that can be read")
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("holds a key of type %T, which does not sign", private)
	}
	return signingKeyOf(signer)
}

// readSigningKey reads a key's file, and also gives its content.
func readSigningKey(path string) (*signingKey, []byte, error) {
	info, err := os.Stat(path) // first: opening a named pipe would wait for its writer
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, maxKeyFile)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	k, err := parseSigningKey(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, raw, nil
}

// saveTo writes the key to a file that only its owner may read, and makes the folder. Where the file is there already, it is left
// alone and its key returned: of several processes that start at once the first one's key is everybody's.
func (k *signingKey) saveTo(path string) (*signingKey, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, fmt.Errorf("encoding a signing key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	switch err = durable.Create(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); {
	case errors.Is(err, fs.ErrExist):
		first, _, err := readSigningKey(path)
		return first, err
	case err != nil:
		return nil, err
	}
	return k, nil
}

// jwkSet is a JWK set of public keys (RFC 7517 section 5).
func jwkSet(keys ...publicJWK) []byte {
	set, err := json.MarshalIndent(map[string][]publicJWK{"keys": keys}, "", "  ")
	if err != nil { // strings always encode
		panic(err)
	}
	return append(set, '\n')
}

func encodeSegment(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }
