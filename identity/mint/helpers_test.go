package mint_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse/identity"
	"gatehouse/identity/attack"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const issuerA = "https://a.example"

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func at(offset time.Duration) int64 { return noon.Add(offset).Unix() }

type object = attack.Object

func ed25519Key(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// foreignKeys are a key set of somebody else.
func foreignKeys(t testing.TB) string {
	return attack.JWKS(attack.JWK(ed25519Key(t).Public(), object{"kid": "d1", "alg": "EdDSA"}))
}

type headers map[string][]string

func (h headers) get(name string) []string { return h[name] }

func bearer(token string) headers { return headers{"authorization": {"Bearer " + token}} }

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func temp(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	writeFile(t, path, text)
	return path
}

func newVerifier(t testing.TB, c identity.Config) *identity.Verifier {
	t.Helper()
	v, err := identity.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func load(t testing.TB, v *identity.Verifier) *identity.Keys {
	t.Helper()
	keys, err := v.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// refusesToLeak holds that an error shows nothing of a caller.
func refusesToLeak(t testing.TB, text string) {
	t.Helper()
	for _, secret := range []string{"vera", "eyJ", "ggg"} {
		if strings.Contains(text, secret) {
			t.Errorf("token or claim text in %q", text)
		}
	}
}
