package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/bundles/signature"
	"gatehouse/config"
)

// TestFullExampleStarts holds that the page's example passes everything that is checked before listening, with the files
// that it names at hand.
func TestFullExampleStarts(t *testing.T) {
	t.Setenv("HOSTNAME", "here")
	dir := t.TempDir()
	ca := newAuthority(t)
	write(t, filepath.Join(dir, "ca.crt"), ca.pem())
	cert, key := ca.issue(t, "localhost")
	write(t, filepath.Join(dir, "tls.crt"), cert)
	write(t, filepath.Join(dir, "tls.key"), key)
	write(t, filepath.Join(dir, "jwks.json"), cert) // PEM certificates are key sets as well
	write(t, filepath.Join(dir, "signing.pem"), newSigningPEM(t))
	write(t, filepath.Join(dir, "keys.yaml"), "keys: []\n")
	write(t, filepath.Join(dir, "client.secret"), "secret\n")
	write(t, filepath.Join(dir, "client.pem"), key)
	write(t, filepath.Join(dir, "503.txt"), "later")
	write(t, filepath.Join(dir, "orders.pb"), "")
	write(t, filepath.Join(dir, "manifest.yaml"), "model: {version: 3}\ntypes: {user: {}, identity: {relations: {identifier: user}}}\n")
	write(t, filepath.Join(dir, "directory", "directory.yaml"), "objects:\n  - {type: user, id: ann}\n")
	write(t, filepath.Join(dir, "smoke.yaml"), "tests:\n  - deny: {GET: /orders}\n")
	signed := map[string][]byte{".manifest": []byte(`{"metadata": {"serial": 41}}`), "authz.rego": []byte("package envoy.authz\n\ndefault allow := false\n"),
		"orders.rego": []byte("package orders.GET.orders\n\ndefault allowed := false\n"), "items.rego": []byte("package items\n\ndefault allow := false\n")}
	private := signingKey(t, filepath.Join(dir, "release.pem"))
	var err error
	signed[".signatures.json"], err = signature.Sign(signed, signature.Key{ID: "release", File: private, Algorithm: "ES256", Scope: "write"})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range signed {
		write(t, filepath.Join(dir, "policy", name), string(content))
		if strings.HasSuffix(name, ".rego") {
			write(t, filepath.Join(dir, "next", name), string(content))
		}
	}
	for _, table := range []string{"routes.yaml", "orders/routes.yaml", "items/routes.yaml"} {
		write(t, filepath.Join(dir, table), "framework: flask\nroutes:\n  - GET /orders\n")
	}
	for _, example := range []string{config.FullExample, config.AppsExample} {
		write(t, filepath.Join(dir, "gatehouse.yaml"), example)
		cfg, doc, err := config.Source{File: filepath.Join(dir, "gatehouse.yaml")}.Read()
		if err != nil || len(doc.Errs) > 0 {
			t.Fatal(err, doc.Errs)
		}
		if err := validated(t, cfg); err != nil {
			t.Fatal(err)
		}
	}
}

// signingKey makes an ES256 key, writes its public half to a file, and returns the file of its private half.
func signingKey(t *testing.T, public string) (private string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private = filepath.Join(t.TempDir(), "key.pem")
	for file, encode := range map[string]func() ([]byte, error){
		private: func() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(key) },
		public:  func() ([]byte, error) { return x509.MarshalPKIXPublicKey(key.Public()) },
	} {
		der, err := encode()
		if err != nil {
			t.Fatal(err)
		}
		kind := "PRIVATE KEY"
		if file == public {
			kind = "PUBLIC KEY"
		}
		write(t, file, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	}
	return private
}
