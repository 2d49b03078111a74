package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"gatehouse/bundles"
)

func TestConfigPageIsUpToDate(t *testing.T) {
	have, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != configPage() {
		t.Error("docs/config.md is out of date: run make docs")
	}
}

// TestEveryKeyIsDocumented holds that each key has its doc, and is in the full example.
func TestEveryKeyIsDocumented(t *testing.T) {
	t.Setenv("HOSTNAME", "here")
	used := map[string]bool{"policy.root": true, "policy.strict_routes": true} // stand for policy.decision, and in apps
	for name, text := range map[string]string{"full.yaml": fullExample, "apps.yaml": appsExample, "remote.yaml": remoteExample} {
		doc, err := decodeYAML(name, []byte(text), defaults())
		if err != nil {
			t.Fatal(err)
		}
		for path := range doc.lines {
			used[generic(path)] = true
		}
	}
	var check func(t reflect.Type, path string)
	check = func(typ reflect.Type, path string) {
		typ, path = element(typ, path)
		if typ.Kind() != reflect.Struct {
			return
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := yamlName(f)
			if name == "-" {
				continue
			}
			full := strings.TrimPrefix(path+"."+name, ".")
			if name == "" || !strings.HasSuffix(f.Tag.Get("doc"), ".") {
				t.Errorf("%s (%s): has no doc tag that is a sentence", full, f.Name)
			}
			if !used[full] {
				t.Errorf("testdata/full.yaml lacks %s", full)
			}
			check(f.Type, full)
		}
	}
	check(reflect.TypeFor[config](), "")
}

// generic turns "identity.jwt[0].keys" into "identity.jwt[].keys" and the names of a map into *.
func generic(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		b.WriteByte(path[i])
		if path[i] == '[' {
			i += strings.IndexByte(path[i:], ']')
			b.WriteByte(']')
		}
	}
	out := b.String()
	if rest, ok := strings.CutPrefix(out, "denials.templates."); ok {
		_, below, _ := strings.Cut(rest, ".")
		out = strings.TrimSuffix("denials.templates.*."+below, ".")
	}
	return out
}

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
	write(t, filepath.Join(dir, "smoke.yaml"), "tests:\n  - deny: {GET: /orders}\n")
	signed := map[string][]byte{".manifest": []byte(`{"metadata": {"serial": 41}}`), "authz.rego": []byte("package envoy.authz\n\ndefault allow := false\n")}
	private := signingKey(t, filepath.Join(dir, "release.pem"))
	var err error
	signed[".signatures.json"], err = bundles.Sign(signed, bundles.Key{ID: "release", File: private, Algorithm: "ES256", Scope: "write"})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range signed {
		write(t, filepath.Join(dir, "policy", name), string(content))
	}
	for _, table := range []string{"routes.yaml", "orders/routes.yaml", "items/routes.yaml"} {
		write(t, filepath.Join(dir, table), "framework: flask\nroutes:\n  - GET /orders\n")
	}
	for _, example := range []string{fullExample, appsExample} {
		write(t, filepath.Join(dir, "gatehouse.yaml"), example)
		cfg, doc, err := source{file: filepath.Join(dir, "gatehouse.yaml")}.read()
		if err != nil || len(doc.errs) > 0 {
			t.Fatal(err, doc.errs)
		}
		if _, policyErr, err := validated(t, cfg); err != nil || policyErr != nil {
			t.Fatal(err, policyErr)
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
