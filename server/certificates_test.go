package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"gatehouse/config"
)

// issued is a certificate that signs itself, in PEM, with its key.
func issued(t *testing.T, serial int64, until time.Time) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}

// TestCertificatesThatCannotBeUsed: the old certificate and the old authorities stay, the status says why, and all is well when the files are.
func TestCertificatesThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	day := 24 * time.Hour
	cert, key := issued(t, 1, time.Now().Add(day))
	next, nextKey := issued(t, 2, time.Now().Add(day))
	old, oldKey := issued(t, 3, time.Now().Add(-day))
	put := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("cert", cert)
	put("key", key)
	put("ca", append(bytes.Clone(cert), next...))
	c, err := newCertificates(&config.TLS{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), ClientCA: filepath.Join(dir, "ca")})
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 { return c.active.Load().Certificates[0].Leaf.SerialNumber.Int64() }
	for _, test := range []struct {
		name          string
		cert, key, ca []byte
		want          string
	}{
		{"expired", old, oldKey, cert, "has expired: renew it"},
		{"halves of two pairs", next, key, cert, "does not match"},
		{"empty", nil, nil, cert, "failed to find any PEM data"},
		{"no authority", cert, key, []byte("# none\n"), "no certificate in PEM form"},
		{"an authority cut off", cert, key, append(bytes.Clone(cert), next[:len(next)/2]...), "what follows certificate 1 is cut off or damaged"},
		{"a damaged authority", cert, key, append(bytes.Clone(cert), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})...), "certificate 2 cannot be read"},
	} {
		put("cert", test.cert)
		put("key", test.key)
		put("ca", test.ca)
		c.follow(zap.NewNop())
		said := strings.Join(c.degraded("listen.tls"), "")
		if serial() != 1 || !strings.Contains(said, test.want) || !strings.Contains(said, "listen.tls: the files changed and cannot be used") {
			t.Errorf("%s: serial %d, %s", test.name, serial(), said)
		}
	}
	put("cert", next)
	put("key", nextKey)
	put("ca", cert)
	c.follow(zap.NewNop())
	if said := c.degraded("listen.tls"); serial() != 2 || len(said) > 0 {
		t.Errorf("serial %d, %s", serial(), said)
	}
}
