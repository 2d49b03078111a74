package bundles_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"

	"gatehouse/bundles"
	"gatehouse/bundles/signature"
	"gatehouse/policy/bundle"
)

// keyPair writes a new key pair for an algorithm and returns both keys.
func keyPair(t testing.TB, id, algorithm, scope string) (private, public signature.Key) {
	t.Helper()
	dir := t.TempDir()
	file := func(name, kind string, der []byte, err error) string {
		must(t, err)
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	var key crypto.Signer
	var err error
	switch algorithm[:2] {
	case "RS", "PS":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES":
		key, err = ecdsa.GenerateKey(map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384()}[algorithm], rand.Reader)
	case "Ed":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "HS":
		path := filepath.Join(dir, "secret")
		must(t, os.WriteFile(path, []byte(strings.Repeat(id, 40)), 0o600))
		k := signature.Key{ID: id, File: path, Algorithm: algorithm, Scope: scope}
		return k, k
	}
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	private = signature.Key{ID: id, File: file("key.pem", "PRIVATE KEY", der, err), Algorithm: algorithm, Scope: scope}
	der, err = x509.MarshalPKIXPublicKey(key.Public())
	public = signature.Key{ID: id, File: file("public.pem", "PUBLIC KEY", der, err), Algorithm: algorithm, Scope: scope}
	return private, public
}

func content(files map[string]string) map[string][]byte {
	out := map[string][]byte{}
	for name, text := range files {
		out[name] = []byte(text)
	}
	return out
}

// signedWith returns the files with their signature.
func signedWith(t testing.TB, key signature.Key, files map[string]string) map[string]string {
	t.Helper()
	signature, err := signature.Sign(content(files), key)
	must(t, err)
	files = maps.Clone(files)
	files[".signatures.json"] = string(signature)
	return files
}

// orders returns a bundle's files, with everything that a signature has to cover.
func orders(n int) map[string]string {
	return map[string]string{
		".manifest": `{"revision": "7", "roots": ["authz", "numbers"], "metadata": {"serial": 7}}`, "authz.rego": answering(n),
		"authz_test.rego": "package authz.tests\n\ntest_allow if data.authz.allow\n", "numbers/data.json": `{"one": 1}`,
		"numbers/more/data.yaml": "two: 2\n", "policy.wasm": "\x00asm", "README.md": "text"}
}

func TestSignAndVerify(t *testing.T) {
	for _, algorithm := range []string{"RS256", "PS256", "ES256", "ES384", "EdDSA", "HS256"} {
		t.Run(algorithm, func(t *testing.T) {
			private, public := keyPair(t, "main", algorithm, "write")
			files := content(signedWith(t, private, orders(1)))
			v := &signature.Verification{Keys: []signature.Key{public}, AllowHS256: algorithm == "HS256"}
			must(t, v.Verify("app", files, time.Now()))
			if algorithm == "HS256" {
				v.AllowHS256 = false
				if err := v.Verify("app", files, time.Now()); err == nil || !strings.Contains(err.Error(), "HS256 is refused") {
					t.Errorf("not allowed: %v", err)
				}
				return
			}
			// OPA accepts our signatures, for the algorithms that it supports.
			if algorithm == "EdDSA" {
				return
			}
			key, err := os.ReadFile(public.File)
			must(t, err)
			keys := map[string]*opa.KeyConfig{"main": {Key: string(key), Algorithm: algorithm, Scope: "write"}}
			_, err = opa.NewReader(bytes.NewReader(packed(t, signedWith(t, private, orders(1))))).
				WithBundleVerificationConfig(opa.NewVerificationConfig(keys, "main", "write", nil)).Read()
			must(t, err)
		})
	}
}

// OPA's signatures are accepted, also after repacking with other white space.
func TestVerifyWhatOPASigned(t *testing.T) {
	private, public := keyPair(t, "main", "RS256", "")
	raw := packed(t, orders(1))
	b, err := opa.NewReader(bytes.NewReader(raw)).Read()
	must(t, err)
	must(t, b.GenerateSignature(opa.NewSigningConfig(private.File, "RS256", ""), "main", false))
	var out bytes.Buffer
	must(t, opa.NewWriter(&out).Write(b))
	files, _, err := bundles.UnpackFrom("app", &out, bundle.Limits{})
	must(t, err)
	v := &signature.Verification{Keys: []signature.Key{public}}
	must(t, v.Verify("app", files, time.Now()))
	path := filepath.Join(t.TempDir(), "b.tar.gz")
	plain := map[string]string{}
	for name, c := range files {
		plain[name] = string(c)
	}
	atomically(t, path, packed(t, plain))
	r := run(t, []bundles.Source{{Name: "app", Path: path, Verification: v}})
	r.until("1")
}

func TestTamperedBundlesAreNeverActivated(t *testing.T) {
	private, public := keyPair(t, "main", "ES256", "write")
	other, otherPublic := keyPair(t, "main", "ES256", "write") // another key with the same id
	stranger, _ := keyPair(t, "stranger", "ES256", "write")
	scoped := private
	scoped.Scope = "read"
	edPrivate, _ := keyPair(t, "main", "EdDSA", "write")
	secret, _ := keyPair(t, "main", "HS256", "write")
	secret.File = public.File // the public key as a secret
	good := signedWith(t, private, orders(2))
	with := func(name, text string) map[string]string {
		files := maps.Clone(good)
		if files[name] = text; text == "" {
			delete(files, name)
		}
		return files
	}
	// payload returns the valid signature with its payload changed.
	payload := func(change func(map[string]any)) map[string]string {
		var file struct{ Signatures []string }
		must(t, json.Unmarshal([]byte(good[".signatures.json"]), &file))
		parts := strings.Split(file.Signatures[0], ".")
		raw, err := base64.RawURLEncoding.DecodeString(parts[1])
		must(t, err)
		var claims map[string]any
		must(t, util.UnmarshalJSON(raw, &claims))
		change(claims)
		raw, err = json.Marshal(claims)
		must(t, err)
		parts[1] = base64.RawURLEncoding.EncodeToString(raw)
		return with(".signatures.json", `{"signatures": ["`+strings.Join(parts, ".")+`"]}`)
	}
	token := strings.TrimSuffix(strings.TrimPrefix(good[".signatures.json"], `{"signatures":["`), `"]}`)
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"main"}`)) + token[strings.Index(token, "."):strings.LastIndex(token, ".")+1]
	manifest := func(text string) map[string]string {
		files := orders(2)
		if files[".manifest"] = text; text == "" {
			delete(files, ".manifest")
		}
		return signedWith(t, private, files)
	}
	tests := []struct {
		name      string
		files     map[string]string
		complaint string
	}{
		{"unsigned", orders(2), "the bundle is not signed: it has no .signatures.json"},
		{"signed in a folder", func() map[string]string {
			files := orders(2)
			files["sub/.signatures.json"] = good[".signatures.json"]
			return files
		}(), "the bundle is not signed"},
		{"a changed rule", with("authz.rego", answering(3)), "authz.rego: its contents are not those that were signed"},
		{"changed data", with("numbers/data.json", `{"one": 2}`), "numbers/data.json: its contents are not"},
		{"changed YAML", with("numbers/more/data.yaml", "two: 3\n"), "data.yaml: its contents are not"},
		{"a changed test", with("authz_test.rego", "package authz_test\n"), "authz_test.rego: its contents are not"},
		{"changed roots", with(".manifest", `{"revision": "7", "roots": [""], "metadata": {"serial": 7}}`), ".manifest: its contents are not"},
		{"changed WebAssembly", with("policy.wasm", "\x00asn"), "policy.wasm: its contents are not"},
		{"an extra rule", with("more.rego", "package authz\n\nallow := true\n"), "more.rego: the signature does not name it"},
		{"an extra file", with("notes.txt", "hello"), "notes.txt: the signature does not name it"},
		{"a rule missing", with("authz.rego", ""), "authz.rego: the signature names it, and it is not there"},
		{"a test missing", with("authz_test.rego", ""), "authz_test.rego: the signature names it"},
		{"a manifest missing", with(".manifest", ""), ".manifest: the signature names it"},
		{"another key of the same name", signedWith(t, other, orders(2)), "signature is invalid"},
		{"an unknown key", signedWith(t, stranger, orders(2)), `the key "stranger", which is not configured`},
		{"another algorithm", signedWith(t, edPrivate, orders(2)), "it was made with EdDSA, key \"main\" is for ES256"},
		{"HS256 with the public key", signedWith(t, secret, orders(2)), "it was made with HS256"},
		{"no algorithm", with(".signatures.json", `{"signatures": ["`+none+`"]}`), `it was made with none`},
		{"another scope", signedWith(t, scoped, orders(2)), `the signature's scope is "read", key "main" is for "write"`},
		{"a changed payload", payload(func(c map[string]any) { c["scope"] = "read" }), "signature is invalid"},
		{"a payload with fewer files", payload(func(c map[string]any) { c["files"] = c["files"].([]any)[1:] }), "signature is invalid"},
		{"no signature in the file", with(".signatures.json", `{"signatures": []}`), "it holds 0 signatures"},
		{"two signatures", with(".signatures.json", `{"signatures": ["`+token+`", "`+token+`"]}`), "it holds 2 signatures"},
		{"a plugin's signature", with(".signatures.json", `{"plugin": "mine", "signatures": ["`+token+`"]}`), `plugin "mine" is unknown`},
		{"no JSON", with(".signatures.json", "signed"), "not a signature"},
		{"no token", with(".signatures.json", `{"signatures": ["a.b.c"]}`), "not accepted"},
		{"a delta", signedWith(t, private, map[string]string{"patch.json": `{"data": []}`, ".manifest": "{}"}), "patch.json: a delta bundle"},
		{"an unsigned delta", map[string]string{"patch.json": `{"data": []}`}, "a delta bundle"},
		{"no serial", manifest(`{"roots": ["authz", "numbers"]}`), "no serial: a whole number is expected"},
		{"no manifest", manifest(""), "no serial"},
		{"a serial that is no whole number", manifest(`{"metadata": {"serial": 7.5}}`), "no serial"},
		{"an older serial", manifest(`{"roots": ["authz", "numbers"], "metadata": {"serial": 6}}`), "serial 6 is older than 7, which was active already"},
		{"a second serial beside an older one", func() map[string]string {
			files := manifest(`{"metadata": {}, "roots": ["authz", "numbers"]}`)
			files[".manifest"] = `{"metadata": {"serial": 9}, "metadata": {}, "roots": ["authz", "numbers"]}`
			return files
		}(), "no serial"},
	}
	path := filepath.Join(t.TempDir(), "app.tar.gz")
	atomically(t, path, packed(t, signedWith(t, private, orders(1))))
	r := run(t, []bundles.Source{{Name: "app", Path: path, Verification: &signature.Verification{Keys: []signature.Key{public}, Serial: true}}})
	r.until("1")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r.t = t
			atomically(t, path, packed(t, test.files))
			e := r.says(stays).ContextMap()
			if text := e["error"].(string); !strings.Contains(text, test.complaint) {
				t.Errorf("error %q, want %q in it", text, test.complaint)
			}
			if e["stage"] != "verifying" && !strings.Contains(test.name, "delta") {
				t.Errorf("stage %v", e["stage"])
			}
			r.none()
		})
	}
	r.t = t
	// The key file is replaced: signatures of the new key are valid from now on.
	replacement, err := os.ReadFile(otherPublic.File)
	must(t, err)
	atomically(t, public.File, replacement)
	atomically(t, path, packed(t, good))
	r.says(stays)
	atomically(t, path, packed(t, signedWith(t, other, orders(2))))
	r.until("2")
	r.none()
}

// Of a duplicate key in a manifest only the hashed value is used.
func TestManifestWithAKeyTwice(t *testing.T) {
	private, public := keyPair(t, "main", "EdDSA", "")
	files := signedWith(t, private, map[string]string{"authz.rego": answering(1), ".manifest": `{"file_rego_versions": {"/other.rego": 1}}`,
		"other.rego": "package other\n\nx if true\n"})
	files[".manifest"] = `{"file_rego_versions": {"/authz.rego": 7}, "file_rego_versions": {"/other.rego": 1}}`
	path := filepath.Join(t.TempDir(), "app.tar.gz")
	atomically(t, path, packed(t, files))
	s, err := load(t, bundle.Limits{}, bundles.Source{Name: "app", Path: path, Verification: &signature.Verification{Keys: []signature.Key{public}}})
	must(t, err)
	if got := response(t, s); got != "1" {
		t.Errorf("answer %s", got)
	}
}

// A corrected key lets a waiting bundle be activated; removing a key leaves the active bundle, and is reported.
func TestKeysThatChange(t *testing.T) {
	private, public := keyPair(t, "main", "ES256", "")
	_, wrong := keyPair(t, "main", "ES256", "")
	right, err := os.ReadFile(public.File)
	must(t, err)
	path := filepath.Join(t.TempDir(), "app.tar.gz")
	atomically(t, path, packed(t, signedWith(t, private, orders(1))))
	r := run(t, []bundles.Source{{Name: "app", Path: path, Verification: &signature.Verification{Keys: []signature.Key{wrong}}}},
		func(c *bundles.Config) { c.Poll = 10 * time.Millisecond })
	r.says(never)
	atomically(t, wrong.File, right)
	r.until("1")
	must(t, os.Remove(wrong.File))
	r.says(stays)
	waitFor(t, func() bool { s := r.manager.Status()[0]; return s.Stage == "verifying" && s.Revision == "7" })
	r.none()
}

func TestSignedDirectory(t *testing.T) {
	private, public := keyPair(t, "main", "EdDSA", "")
	dir := t.TempDir()
	write(t, dir, signedWith(t, private, orders(1)))
	r := run(t, []bundles.Source{{Name: "app", Path: dir, Verification: &signature.Verification{Keys: []signature.Key{public}}}})
	r.until("1")
	write(t, dir, map[string]string{"extra.txt": "not signed"})
	if e := r.says(stays); !strings.Contains(e.ContextMap()["error"].(string), "extra.txt: the signature does not name it") {
		t.Errorf("logged %v", e.ContextMap())
	}
	r.none()
}

func TestVerificationThatCannotBeHonoured(t *testing.T) {
	_, public := keyPair(t, "main", "RS256", "")
	secret, _ := keyPair(t, "secret", "HS256", "")
	dir := t.TempDir()
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(short.Public())
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "short.pem"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "little"), []byte("little"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "large"), make([]byte, 70<<10), 0o600))
	key := func(id, file, algorithm string) []signature.Key {
		return []signature.Key{{ID: id, File: file, Algorithm: algorithm}}
	}
	tests := []struct {
		v         signature.Verification
		complaint string
	}{
		{signature.Verification{}, "no key is given"},
		{signature.Verification{Keys: key("", public.File, "RS256")}, "a key has no id"},
		{signature.Verification{Keys: append(key("a", public.File, "RS256"), key("a", public.File, "RS256")...)}, `two keys have the id "a"`},
		{signature.Verification{Keys: key("a", public.File, "none")}, `algorithm "none" is none of ES256`},
		{signature.Verification{Keys: key("a", public.File, "ES256")}, "is no key for ES256"},
		{signature.Verification{Keys: key("a", filepath.Join(dir, "gone"), "ES256")}, "no such file"},
		{signature.Verification{Keys: key("a", filepath.Join(dir, "short.pem"), "RS256")}, "an RSA key of 1024 bits is too short"},
		{signature.Verification{Keys: key("a", filepath.Join(dir, "large"), "RS256")}, "larger than 65536 bytes"},
		{signature.Verification{Keys: []signature.Key{secret}}, "HS256 is refused"},
		{signature.Verification{Keys: key("a", filepath.Join(dir, "little"), "HS256"), AllowHS256: true}, "a secret of 6 bytes is too short"},
	}
	for _, test := range tests {
		_, err := bundles.New(bundles.Config{Sources: []bundles.Source{{Name: "app", Path: dir, Verification: &test.v}}})
		if err == nil || !strings.Contains(err.Error(), `bundle "app": signing: `) || !strings.Contains(err.Error(), test.complaint) {
			t.Errorf("error %v, want %q", err, test.complaint)
		}
	}
}

func TestLoadVerifies(t *testing.T) {
	_, public := keyPair(t, "main", "RS256", "")
	dir := t.TempDir()
	write(t, dir, orders(1))
	_, err := load(t, bundle.Limits{}, bundles.Source{Name: "app", Path: dir, Verification: &signature.Verification{Keys: []signature.Key{public}}})
	if err == nil || !strings.Contains(err.Error(), `verifying bundle "app": the bundle is not signed`) {
		t.Errorf("error %v", err)
	}
}
