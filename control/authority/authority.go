// Package authority is control's certificate authority: it signs the certificate of control's own server and those of
// edges. Its key is a file of mode 0600, made where there is none.
//
// An edge's certificate cannot serve as a server's, nor the other way round. Edges are told apart by their id, the
// certificate's common name; whether one is revoked is for the store to know.
//
// It imports nothing of ours but the foundations.
package authority

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gatehouse/durable"
)

// The files in the folder, and how long what is signed is valid.
const (
	KeyFile         = "ca.key"
	CertificateFile = "ca.pem"

	valid       = 20 * 365 * 24 * time.Hour
	EdgeValid   = 30 * 24 * time.Hour
	serverValid = 30 * 24 * time.Hour
	skew        = 5 * time.Minute // clocks of edges may be behind
)

// ErrRequest is a certificate signing request that is not signed.
var ErrRequest = errors.New("the certificate signing request is refused")

// Authority signs certificates.
type Authority struct {
	key         crypto.Signer
	certificate *x509.Certificate
	names       []string // of the server
	clock       func() time.Time

	mu     sync.Mutex       // guards server
	server *tls.Certificate // the current one
}

// Open reads the authority of a folder, or makes it. names are the host names and addresses of control's server.
func Open(dir string, names []string, clock func() time.Time) (*Authority, error) {
	a := &Authority{names: names, clock: clock}
	keyText, err := os.ReadFile(filepath.Join(dir, KeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(filepath.Join(dir, CertificateFile)); err == nil {
			return nil, fmt.Errorf("%s is there and %s is not: put the key back, or remove both and enroll all edges anew", CertificateFile, KeyFile)
		}
		return a, a.create(dir)
	}
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(filepath.Join(dir, KeyFile)); err != nil || info.Mode().Perm()&0o077 != 0 {
		return nil, errors.Join(err, fmt.Errorf("%s can be read by others: chmod 600 it, and think about who may have", filepath.Join(dir, KeyFile)))
	}
	if a.key, err = parseKey(keyText); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, KeyFile), err)
	}
	text, err := os.ReadFile(filepath.Join(dir, CertificateFile))
	if errors.Is(err, fs.ErrNotExist) { // the process died between the two
		return a, a.certify(dir)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM", filepath.Join(dir, CertificateFile))
	}
	if a.certificate, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, CertificateFile), err)
	}
	public, ok := a.key.Public().(*ecdsa.PublicKey)
	if !ok || !public.Equal(a.certificate.PublicKey) {
		return nil, fmt.Errorf("%s and %s do not belong together", KeyFile, CertificateFile)
	}
	return a, nil
}

func (a *Authority) create(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	text, err := EncodeKey(key)
	if err != nil {
		return err
	}
	if err := durable.Create(filepath.Join(dir, KeyFile), text); err != nil {
		return err
	}
	a.key = key
	return a.certify(dir)
}

// certify makes the authority's own certificate.
func (a *Authority) certify(dir string) error {
	now := a.clock()
	draft := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: "Gatehouse control"}, NotBefore: now.Add(-skew), NotAfter: now.Add(valid),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, draft, draft, a.key.Public(), a.key)
	if err != nil {
		return err
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, CertificateFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// EncodeKey is a private key as PEM.
func EncodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a %T, and an ECDSA key is wanted", key)
	}
	return signer, nil
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // the system's random numbers cannot fail
	}
	return n
}

// Certificate is the authority's own one, DER.
func (a *Authority) Certificate() []byte { return a.certificate.Raw }

// Pool holds the authority's certificate.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Pin names the authority: the SHA-256 of its certificate.
func (a *Authority) Pin() string { return Pin(a.certificate.Raw) }

// Pin is the SHA-256 of a certificate in hexadecimal.
func Pin(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Server is the certificate of control's server. It is made anew before it expires.
func (a *Authority) Server() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock()
	if a.server != nil && now.Before(a.server.Leaf.NotAfter.Add(-serverValid/3)) {
		return a.server, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	draft := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: "Gatehouse control's server"}, NotBefore: now.Add(-skew), NotAfter: now.Add(serverValid),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range a.names {
		if ip := net.ParseIP(name); ip != nil {
			draft.IPAddresses = append(draft.IPAddresses, ip)
		} else {
			draft.DNSNames = append(draft.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, draft, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a.server = &tls.Certificate{Certificate: [][]byte{der, a.certificate.Raw}, PrivateKey: key, Leaf: leaf}
	return a.server, nil
}

// Request is a certificate signing request whose signature holds.
type Request struct {
	Key []byte // the public key, DER
	csr *x509.CertificateRequest
}

// maxRequest bounds a certificate signing request, in bytes.
const maxRequest = 8 << 10

// ParseRequest reads a certificate signing request. Of what it says only the key counts.
func ParseRequest(der []byte) (*Request, error) {
	if len(der) > maxRequest {
		return nil, fmt.Errorf("%w: %d bytes", ErrRequest, len(der))
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: its key is not an ECDSA key on P-256", ErrRequest)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return &Request{Key: bytes.Clone(csr.RawSubjectPublicKeyInfo), csr: csr}, nil
}

// Sign makes an edge's certificate.
func (a *Authority) Sign(r *Request, edge string) (der []byte, err error) {
	draft := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: edge, Organization: []string{"Gatehouse edge"}},
		NotBefore: a.clock().Add(-skew), NotAfter: a.clock().Add(EdgeValid),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	return x509.CreateCertificate(rand.Reader, draft, a.certificate, r.csr.PublicKey, a.key)
}

// BundleSigner is the certificate of the key that control signs bundles with, followed by the authority's own, PEM. Both
// files are made where they are missing: keyFile with the key, file with the certificate.
func (a *Authority) BundleSigner(keyFile, file string) ([]byte, error) {
	text, err := os.ReadFile(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		if text, err = EncodeKey(key); err != nil {
			return nil, err
		}
		if err := durable.Create(keyFile, text); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	key, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	if have, err := os.ReadFile(file); err == nil && a.signed(have, key) {
		return have, nil
	}
	now := a.clock()
	draft := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: "Gatehouse control's bundles"}, NotBefore: now.Add(-skew), NotAfter: a.certificate.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
	der, err := x509.CreateCertificate(rand.Reader, draft, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	text = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})...)
	return text, durable.WriteFile(file, text, 0o644)
}

// signed reports whether a certificate is of this authority and for this key.
func (a *Authority) signed(text []byte, key crypto.Signer) bool {
	block, rest := pem.Decode(text)
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	own, _ := pem.Decode(rest)
	public, ok := key.Public().(*ecdsa.PublicKey)
	return err == nil && own != nil && bytes.Equal(own.Bytes, a.certificate.Raw) && ok && public.Equal(cert.PublicKey) && cert.CheckSignatureFrom(a.certificate) == nil
}

// Attest signs a text that is not a certificate: whoever has the authority's certificate can tell by Attested that it is control's. A
// text begins with what it is, which no certificate does.
func (a *Authority) Attest(text []byte) (signature []byte, err error) {
	sum := sha256.Sum256(text)
	return a.key.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// Attested reports whether a text was signed by the authority with this certificate, DER.
func Attested(certificate, text, signature []byte) (bool, error) {
	c, err := x509.ParseCertificate(certificate)
	if err != nil {
		return false, err
	}
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return false, errors.New("the authority's key is no ECDSA key")
	}
	sum := sha256.Sum256(text)
	return ecdsa.VerifyASN1(key, sum[:], signature), nil
}
