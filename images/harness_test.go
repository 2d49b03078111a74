package images_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatehouse/images"
	"gatehouse/images/exchange"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// policyFiles is a small bundle that allows GET and nothing else.
func policyFiles() map[string][]byte {
	return map[string][]byte{
		".manifest":        []byte(`{"roots": ["envoy", "limits"], "revision": "r1"}`),
		"envoy/authz.rego": []byte("package envoy.authz\n\ndefault allow := false\n\nallow if input.attributes.request.http.method == data.limits.method\n"),
		"limits/data.json": []byte(`{"method": "GET"}`),
	}
}

// policyImage is the image of policyFiles.
func policyImage(t testing.TB) *images.Image {
	t.Helper()
	tarball, err := images.Pack(policyFiles())
	must(t, err)
	i, err := images.New(tarball, nil)
	must(t, err)
	return i
}

// registry starts a registry that ends with the test.
func registry(t *testing.T, o exchange.Options) string {
	t.Helper()
	r, err := exchange.StartRegistry(t.Context(), o)
	must(t, err)
	t.Cleanup(func() { _ = r.Close() })
	return r.Address
}

// client has no credentials but those of the configuration.
func client(t *testing.T, cfg images.Config) *images.Client {
	t.Helper()
	if cfg.CredentialFile == "" {
		cfg.CredentialFile = filepath.Join(t.TempDir(), "config.json")
	}
	c, err := images.NewClient(cfg)
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// authority issues a certificate for 127.0.0.1 and localhost.
type authority struct {
	pool      *x509.CertPool
	cert, key string // files
	ca        string // file
	pair      tls.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "registry"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	a := &authority{pool: x509.NewCertPool(), cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
	a.ca = a.cert
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	must(t, os.WriteFile(a.cert, certPEM, 0o600))
	must(t, os.WriteFile(a.key, keyPEM, 0o600))
	a.pool.AppendCertsFromPEM(certPEM)
	a.pair, err = tls.X509KeyPair(certPEM, keyPEM)
	must(t, err)
	return a
}

func sameImage(t *testing.T, got, want *images.Image) {
	t.Helper()
	if got.Digest() != want.Digest() || !bytes.Equal(got.Manifest(), want.Manifest()) || !bytes.Equal(got.Tarball(), want.Tarball()) {
		t.Errorf("got image %s with the manifest\n%s\nwant %s with\n%s", got.Digest(), got.Manifest(), want.Digest(), want.Manifest())
	}
}
