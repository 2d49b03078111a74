package identity_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/identity"
)

func pemKey(t testing.TB, kind string, key any) string {
	t.Helper()
	var der []byte
	var err error
	switch kind {
	case "EC PRIVATE KEY":
		der, err = x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	case "RSA PRIVATE KEY":
		der = x509.MarshalPKCS1PrivateKey(key.(*rsa.PrivateKey))
	case "PUBLIC KEY":
		der, err = x509.MarshalPKIXPublicKey(key)
	default:
		der, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "client.pem")
	writeFile(t, path, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	return path
}

func TestIntrospectionWithPrivateKey(t *testing.T) {
	ring := keyRing()
	for name, tt := range map[string]struct {
		path   string
		public crypto.PublicKey
		change func(*identity.Introspection, *introspectionServer)
	}{
		"RSA":   {pemKey(t, "PRIVATE KEY", ring.rsa), &ring.rsa.PublicKey, nil},
		"RSA 1": {pemKey(t, "RSA PRIVATE KEY", ring.rsa), &ring.rsa.PublicKey, nil},
		"P-256": {pemKey(t, "EC PRIVATE KEY", ring.p256), &ring.p256.PublicKey, nil},
		"P-384": {pemKey(t, "PRIVATE KEY", ring.p384), &ring.p384.PublicKey, nil},
		"Ed25519, with a key id": {pemKey(t, "PRIVATE KEY", ring.ed), ring.ed.Public(), func(c *identity.Introspection, s *introspectionServer) {
			c.KeyID, s.kid = "k1", "k1"
		}},
		"for the issuer": {pemKey(t, "PRIVATE KEY", ring.ed), ring.ed.Public(), func(c *identity.Introspection, s *introspectionServer) {
			c.Issuer, s.audience = "https://opaque.example", "https://opaque.example"
		}},
		"for whom it says": {pemKey(t, "PRIVATE KEY", ring.ed), ring.ed.Public(), func(c *identity.Introspection, s *introspectionServer) {
			c.Issuer, c.AssertionAudience, s.audience = "https://opaque.example", "https://opaque.example/token", "https://opaque.example/token"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newIntrospectionServer(t)
			s.says(opaque, active(nil))
			s.public, s.audience = tt.public, s.URL
			c := s.asking(t)
			c.Introspection[0].SecretFile, c.Introspection[0].KeyFile = "", tt.path
			if tt.change != nil {
				tt.change(&c.Introspection[0], s)
			}
			r := run(t, c)
			keys := r.next("the key", isGood)
			if got := r.ask(keys, bearer(opaque)); got != "ok" {
				t.Errorf("got %q", got)
			}
			if got := r.ask(keys, bearer("another")); got != "bad credential: token is not active" {
				t.Errorf("a second assertion: %q", got)
			}
		})
	}
}

// TestIntrospectionSecretRotates replaces the secret while it runs, and breaks it.
func TestIntrospectionSecretRotates(t *testing.T) {
	s := newIntrospectionServer(t)
	s.says(opaque, active(nil))
	c := s.asking(t)
	c.Introspection[0].CacheFor = -1
	path := c.Introspection[0].SecretFile
	writeFile(t, path, "not yet")
	r := run(t, c)
	keys := r.next("the old secret", isGood)
	if got := r.ask(keys, bearer(opaque)); got != "identity unavailable: introspection server refuses our client credentials" {
		t.Errorf("with the wrong secret: %q", got)
	}
	s.mu.Lock()
	s.refused = nil // that was meant
	s.mu.Unlock()
	old := keys.Generation()
	writeFile(t, path, clientSecret)
	for keys.Generation() == old {
		keys = r.next("the new secret", isGood)
	}
	if got := r.ask(keys, bearer(opaque)); got != "ok" {
		t.Errorf("with the right one: %q", got)
	}
	writeFile(t, path, "")
	keys = r.next("the empty file", isBroken)
	if got := r.ask(keys, bearer(opaque)); got != "ok" {
		t.Errorf("with a broken file: %q", got)
	}
}

func TestClientFilesThatAreRefused(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, path := range map[string]string{
		"is empty":                                        temp(t, ""),
		"must be one line of plain text":                  temp(t, "a\nb\n"),
		"is not PEM":                                      temp(t, "hunter2"),
		`PEM of the type "PUBLIC KEY"`:                    pemKey(t, "PUBLIC KEY", &keyRing().rsa.PublicKey),
		`PEM of the type "ENCRYPTED PRIVATE KEY"`:         pemKey(t, "ENCRYPTED PRIVATE KEY", keyRing().rsa),
		"the private key cannot be read":                  temp(t, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
		"an RSA key of 1024 bits: must have 2048 to 8192": pemKey(t, "PRIVATE KEY", weak),
		"an EC key must be on the curve P-256 or P-384":   pemKey(t, "PRIVATE KEY", p224),
		"no such file or directory":                       filepath.Join(t.TempDir(), "nowhere"),
	} {
		in := identity.Introspection{URL: "https://x/introspect", ClientID: "a", KeyFile: path}
		key := "KeyFile"
		if want == "is empty" || strings.HasPrefix(want, "must be one") {
			in.SecretFile, in.KeyFile, key = path, "", "SecretFile"
		}
		_, err := newVerifier(t, identity.Config{Introspection: []identity.Introspection{in}}).Load(context.Background())
		if err == nil || !strings.HasPrefix(err.Error(), "Introspection[0]."+key+": ") || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
