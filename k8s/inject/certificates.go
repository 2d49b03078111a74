package inject

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

// The keys of the Secret. Every replica reads the same ones.
const (
	keyTrusted   = "ca.crt"     // the authorities that the API server is to trust, the one that signs first
	keySigner    = "ca.key"     // the first one's key
	keyServing   = "tls.crt"    // what replicas serve with
	keyServKey   = "tls.key"    //
	keyNext      = "next.crt"   // an authority that will sign, once the API server trusts it
	keyNextKey   = "next.key"   //
	keyNextSince = "next.since" // when it was made, RFC 3339
)

// certificates are what the Secret holds. Values are never changed: advance makes others.
//
// An authority is trusted before it signs anything, and for as long as it is valid. A certificate that is valid is thereby trusted, whichever
// replica still serves with it.
type certificates struct {
	trusted   []*x509.Certificate // the signer first
	signer    crypto.Signer
	serving   *tls.Certificate // Leaf is set
	next      *x509.Certificate
	nextKey   crypto.Signer
	nextSince time.Time
}

// renewAt is when a certificate is renewed: a third of its life is left then, for whatever may go wrong.
func renewAt(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

// advance gives what the certificates should be now, and whether that is something else. published says whether the webhook's configuration
// has everything that is trusted.
func (c *certificates) advance(now time.Time, l Lifetimes, names []string, published bool) (*certificates, bool, error) {
	if c == nil || !now.Before(c.trusted[0].NotAfter) {
		made, err := newCertificates(now, l, names)
		return made, true, err
	}
	out, changed := *c, false
	out.trusted = slices.DeleteFunc(slices.Clone(c.trusted), func(a *x509.Certificate) bool { return !now.Before(a.NotAfter) })
	changed = len(out.trusted) != len(c.trusted)
	switch {
	case out.next == nil && !now.Before(renewAt(out.trusted[0])):
		var err error
		if out.next, out.nextKey, err = newAuthority(now, l.Authority); err != nil {
			return nil, false, err
		}
		out.nextSince, changed = now, true
	case out.next != nil && published && !now.Before(out.nextSince.Add(l.Settle)):
		out.trusted = append([]*x509.Certificate{out.next}, out.trusted...)
		out.signer, out.next, out.nextKey, out.nextSince = out.nextKey, nil, nil, time.Time{}
		if err := out.serve(now, l, names); err != nil {
			return nil, false, err
		}
		return &out, true, nil
	}
	// A name more is reason for another certificate, one less is not: replicas of two versions do not take turns.
	lacks := slices.ContainsFunc(names, func(name string) bool { return out.serving.Leaf.VerifyHostname(name) != nil })
	if lacks || !now.Before(renewAt(out.serving.Leaf)) && out.serving.Leaf.NotAfter.Before(out.trusted[0].NotAfter) {
		if err := out.serve(now, l, names); err != nil {
			return nil, false, err
		}
		changed = true
	}
	return &out, changed, nil
}

// authorities are what the API server is to trust.
func (c *certificates) authorities() []*x509.Certificate {
	if c.next != nil {
		return append(slices.Clone(c.trusted), c.next)
	}
	return c.trusted
}

// bundle is them in PEM form, for caBundle.
func (c *certificates) bundle() []byte { return pemOf(c.authorities()...) }

func newCertificates(now time.Time, l Lifetimes, names []string) (*certificates, error) {
	authority, key, err := newAuthority(now, l.Authority)
	if err != nil {
		return nil, err
	}
	c := &certificates{trusted: []*x509.Certificate{authority}, signer: key}
	return c, c.serve(now, l, names)
}

// before is how far a certificate reaches back: clocks differ.
const before = 5 * time.Minute

func newAuthority(now time.Time, life time.Duration) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: fmt.Sprintf("gatehouse injector %x", serial.Bytes()[:4])},
		NotBefore: now.Add(-min(before, life/10)), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign}
	raw, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("making an authority: %w", err)
	}
	c, err := x509.ParseCertificate(raw)
	return c, key, err
}

func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	return n.SetBit(n, 126, 1), nil // never short, never zero
}

// serve makes another serving certificate, which does not outlive who signs it.
func (c *certificates) serve(now time.Time, l Lifetimes, names []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := serialNumber()
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "gatehouse injector"},
		NotBefore: now.Add(-min(before, l.Serving/10)), NotAfter: now.Add(l.Serving),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if end := c.trusted[0].NotAfter; t.NotAfter.After(end) {
		t.NotAfter = end
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	if c.serving != nil { // those of another version of us, which may serve with this one too
		for _, name := range c.serving.Leaf.DNSNames {
			if !slices.Contains(t.DNSNames, name) && len(t.DNSNames) < 16 {
				t.DNSNames = append(t.DNSNames, name)
			}
		}
	}
	raw, err := x509.CreateCertificate(rand.Reader, t, c.trusted[0], key.Public(), c.signer)
	if err != nil {
		return fmt.Errorf("making a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		return err
	}
	c.serving = &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
	return nil
}

func pemOf(list ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range list {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a buffer
	}
	return out.Bytes()
}

func pemOfKey(key any) ([]byte, error) {
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), nil
}

// secret is the Secret's data.
func (c *certificates) secret() (map[string][]byte, error) {
	out := map[string][]byte{keyTrusted: pemOf(c.trusted...), keyServing: pemOf(c.serving.Leaf)}
	keys := map[string]any{keySigner: c.signer, keyServKey: c.serving.PrivateKey}
	if c.next != nil {
		out[keyNext], keys[keyNextKey] = pemOf(c.next), c.nextKey
		out[keyNextSince] = []byte(c.nextSince.UTC().Format(time.RFC3339Nano))
	}
	for name, key := range keys {
		text, err := pemOfKey(key)
		if err != nil {
			return nil, err
		}
		out[name] = text
	}
	return out, nil
}

// errEmpty is a Secret without certificates: the chart makes it so.
var errEmpty = errors.New("it is empty")

// readCertificates reads the Secret's data, and holds it to what advance relies on.
func readCertificates(data map[string][]byte) (*certificates, error) {
	if len(data[keyTrusted]) == 0 && len(data[keyServing]) == 0 {
		return nil, errEmpty
	}
	c := &certificates{}
	var err error
	if c.trusted, err = readPEM(data[keyTrusted]); err != nil {
		return nil, fmt.Errorf("%s: %w", keyTrusted, err)
	}
	if c.signer, err = readKey(data[keySigner], c.trusted[0]); err != nil {
		return nil, fmt.Errorf("%s: %w", keySigner, err)
	}
	leaf, err := readPEM(data[keyServing])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyServing, err)
	}
	key, err := readKey(data[keyServKey], leaf[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyServKey, err)
	}
	if err := leaf[0].CheckSignatureFrom(c.trusted[0]); err != nil {
		return nil, fmt.Errorf("%s was not signed by the first of %s: %w", keyServing, keyTrusted, err)
	}
	c.serving = &tls.Certificate{Certificate: [][]byte{leaf[0].Raw}, PrivateKey: key, Leaf: leaf[0]}
	if len(data[keyNext]) == 0 {
		return c, nil
	}
	next, err := readPEM(data[keyNext])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyNext, err)
	}
	c.next = next[0]
	if c.nextKey, err = readKey(data[keyNextKey], c.next); err != nil {
		return nil, fmt.Errorf("%s: %w", keyNextKey, err)
	}
	if c.nextSince, err = time.Parse(time.RFC3339Nano, string(data[keyNextSince])); err != nil {
		return nil, fmt.Errorf("%s: %w", keyNextSince, err)
	}
	return c, nil
}

// maxAuthorities bounds what is read.
const maxAuthorities = 8

func readPEM(text []byte) (out []*x509.Certificate, err error) {
	for len(out) < maxAuthorities {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in PEM form")
	}
	return out, nil
}

// readKey reads the key of a certificate.
func readKey(text []byte, of *x509.Certificate) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no key in PEM form")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("no private key in the form of PKCS #8") // the cause may quote it
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok || !signer.PublicKey.Equal(of.PublicKey) {
		return nil, errors.New("it is not the certificate's key")
	}
	return signer, nil
}
