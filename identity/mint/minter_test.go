package mint_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	mathrand "math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/identity"
	"gatehouse/identity/mint"

	"github.com/google/go-cmp/cmp"
)

func newMinter(t testing.TB, c mint.Config) *mint.Minter {
	t.Helper()
	m, err := mint.New(c)
	if err == nil {
		err = m.Load()
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func frozen() time.Time { return noon }

// caller is somebody whose token lasts an hour.
func caller(name string, roles ...string) *identity.Identity {
	return &identity.Identity{Type: identity.TypeJWT, Identity: name, Subject: name, Issuer: issuerA, Roles: roles, Groups: []string{"g"},
		Scopes: []string{"s1", "s2"}, Email: name + "@example.com", Authenticated: true, Expires: noon.Add(time.Hour)}
}

// mintedFor is the body of a token that m gives now.
func mintedFor(t testing.TB, m *mint.Minter, id *identity.Identity, audience string, now time.Time) (string, object) {
	t.Helper()
	token, err := m.Mint(id, audience, now)
	if err != nil {
		t.Fatal(err)
	}
	return token, body(t, token)
}

func body(t testing.TB, token string) object {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a token of %d parts", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var out object
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// accepts has a Verifier take a minted token by the published keys: what an application does.
func accepts(t testing.TB, set []byte, token string, now time.Time) error {
	t.Helper()
	v := newVerifier(t, identity.Config{Clock: func() time.Time { return now }, Issuers: []identity.Issuer{{Issuer: "gatehouse",
		Audiences: []string{"orders"}, ClockSkew: time.Nanosecond, Keys: identity.KeySource{File: temp(t, string(set))}}}})
	_, err := v.Identify(context.Background(), load(t, v), identity.Request{Header: bearer(token).get})
	return err
}

// TestMint makes tokens that an application can verify by the published set, and that say all there is to say.
func TestMint(t *testing.T) {
	for _, alg := range []string{"", "ES256", "EdDSA"} {
		m := newMinter(t, mint.Config{Algorithm: alg, Clock: frozen})
		token, got := mintedFor(t, m, caller("vera", "viewer", "clerk"), "orders", noon)
		want := object{"iss": "gatehouse", "aud": "orders", "sub": "vera", "iat": float64(at(0)), "nbf": float64(at(0)), "exp": float64(at(time.Minute)),
			"original_issuer": issuerA, "roles": []any{"viewer", "clerk"}, "groups": []any{"g"}, "scopes": []any{"s1", "s2"}, "email": "vera@example.com"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", alg, diff)
		}
		if err := accepts(t, m.JWKS(), token, noon.Add(59*time.Second)); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		if err := accepts(t, m.JWKS(), token, noon.Add(time.Minute+time.Second)); err == nil {
			t.Errorf("%s: still accepted after a minute", alg)
		}
	}
	m := newMinter(t, mint.Config{Clock: frozen, Issuer: "edge", Lifetime: 10 * time.Minute})
	_, got := mintedFor(t, m, &identity.Identity{Type: identity.TypeSub, Subject: "job", Authenticated: true}, "orders", noon)
	want := object{"iss": "edge", "aud": "orders", "sub": "job", "iat": float64(at(0)), "nbf": float64(at(0)), "exp": float64(at(10 * time.Minute)),
		"roles": []any{}, "groups": []any{}, "scopes": []any{}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	anonymous := identity.Anonymous()
	if token, err := m.Mint(&anonymous, "orders", noon); token != "" || err != nil {
		t.Errorf("an anonymous caller gets %q, %v", token, err)
	}
}

// TestMintIsBounded makes no token that outlives the caller's own, and none that is too large or says something else.
func TestMintIsBounded(t *testing.T) {
	m := newMinter(t, mint.Config{Clock: frozen})
	for left, want := range map[time.Duration]time.Duration{
		time.Hour: time.Minute, 20 * time.Second: 20 * time.Second, 20*time.Second + 900*time.Millisecond: 20 * time.Second, -5 * time.Second: -5 * time.Second} {
		id := caller("vera")
		id.Expires = noon.Add(left)
		_, got := mintedFor(t, m, id, "orders", noon)
		if got["exp"] != float64(at(want)) || got["nbf"].(float64) > got["exp"].(float64) {
			t.Errorf("of a caller with %s left: exp %v, nbf %v", left, got["exp"], got["nbf"])
		}
	}
	for name, change := range map[string]func(*identity.Identity){
		"too large":   func(id *identity.Identity) { id.Groups = []string{strings.Repeat("g", mint.MaxToken)} },
		"a bad name":  func(id *identity.Identity) { id.Subject = "a\xff" },
		"a bad role":  func(id *identity.Identity) { id.Roles = []string{"a", "\xc0\xaf"} },
		"a bad email": func(id *identity.Identity) { id.Email = "\xed\xa0\x80" },
	} {
		id := caller("vera")
		change(id)
		if token, err := m.Mint(id, "orders", noon); err == nil || token != "" {
			t.Errorf("%s: %v", name, err)
		} else {
			refusesToLeak(t, err.Error())
		}
	}
}

// TestMintNeverMixesCallers asks for callers that differ in one thing each, in random order and at random times. What is given
// is always what was asked for, and has at least half of its life before it.
func TestMintNeverMixesCallers(t *testing.T) {
	const lifetime = 20 * time.Second
	m := newMinter(t, mint.Config{Lifetime: lifetime, Algorithm: "EdDSA"})
	random := mathrand.New(mathrand.NewPCG(3, 4))
	words := []string{"", "a", "b", "a,b", "a\x00b", "\x01", "ab"}
	word := func() string { return words[random.IntN(len(words))] }
	list := func() []string {
		out := make([]string, random.IntN(3))
		for i := range out {
			out[i] = word()
		}
		return out
	}
	var callers []*identity.Identity
	for range 300 {
		id := &identity.Identity{Type: identity.TypeJWT, Subject: "s" + word(), Issuer: word(), Email: word(), Authenticated: true}
		if random.IntN(2) == 0 {
			id.Roles = list()
		} else if random.IntN(2) == 0 {
			id.Groups = list()
		} else {
			id.Scopes = list()
		}
		if random.IntN(4) == 0 {
			id.Expires = noon.Add(time.Duration(random.IntN(60)) * time.Second)
		}
		callers = append(callers, id)
	}
	given := map[string]string{}
	again := 0
	now := noon
	for range 12000 {
		now = now.Add(time.Duration(random.IntN(40)-15) * time.Millisecond) // the clock may step back
		id := callers[random.IntN(len(callers))]
		audience := []string{"orders", "stock"}[random.IntN(2)]
		token, got := mintedFor(t, m, id, audience, now)
		if id.Expires.IsZero() && got["exp"].(float64) < float64(now.Add(lifetime/2).Add(-time.Second).Unix()) ||
			!id.Expires.IsZero() && got["exp"].(float64) > float64(id.Expires.Unix()) || got["iat"].(float64) > float64(now.Unix()) {
			t.Fatalf("at %s a token from %v to %v, of a caller until %s", now, got["iat"], got["exp"], id.Expires)
		}
		said := fmt.Sprintf("%q %q %q %q %q %q %q", got["aud"], got["sub"], or(got["original_issuer"]), or(got["email"]), got["roles"], got["groups"], got["scopes"])
		want := fmt.Sprintf("%q %q %q %q %q %q %q", audience, id.Subject, id.Issuer, id.Email, id.Roles, id.Groups, id.Scopes)
		if said != want {
			t.Fatalf("asked for %s, got %s", want, said)
		}
		if before, known := given[token]; known {
			again++
			if before != want {
				t.Fatalf("one token for two callers: %s and %s", before, want)
			}
		}
		given[token] = want
	}
	if again < 1000 || len(given) < 1000 {
		t.Errorf("%d tokens, %d times one given before: this run proves little", len(given), again)
	}
}

func or(value any) string {
	text, _ := value.(string)
	return text
}

// TestMintAtOnce has many callers at the same time.
func TestMintAtOnce(t *testing.T) {
	m := newMinter(t, mint.Config{Clock: frozen})
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 200 {
				name := fmt.Sprint("u", (i+worker)%50)
				token, err := m.Mint(caller(name), "orders", noon)
				if err != nil {
					t.Error(err)
					return
				}
				if got := body(t, token)["sub"]; got != name {
					t.Errorf("%s is told as %v", name, got)
				}
			}
		})
	}
	wg.Wait()
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func privatePEM(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// replace puts a file in place as a careful operator does: complete, or not at all.
func replace(t testing.TB, path, text string) {
	t.Helper()
	writeFile(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestMintKeyIsReplaced follows the key's file. What the old key signed is accepted by the published set until it expires, and a
// file that is broken changes nothing.
func TestMintKeyIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	writeFile(t, path, privatePEM(t, ecKey(t)))
	var clock sync.Mutex
	now := noon
	m := newMinter(t, mint.Config{KeyFile: path, Clock: func() time.Time { clock.Lock(); defer clock.Unlock(); return now }})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	old, _ := mintedFor(t, m, caller("vera"), "orders", noon)
	before := string(m.JWKS())
	writeFile(t, path, "-----BEGIN GARBAGE")
	time.Sleep(1500 * time.Millisecond) // nothing is to happen: there is no event to wait for
	if string(m.JWKS()) != before {
		t.Error("a broken file changed the keys")
	}
	replace(t, path, privatePEM(t, ed25519Key(t)))
	for deadline := time.Now().Add(time.Minute); string(m.JWKS()) == before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new key is not taken")
		}
	}
	fresh, _ := mintedFor(t, m, caller("vera"), "orders", noon)
	if fresh == old {
		t.Error("a token of the old key is given out")
	}
	for name, token := range map[string]string{"old": old, "new": fresh} {
		if err := accepts(t, m.JWKS(), token, noon.Add(30*time.Second)); err != nil {
			t.Errorf("%s token: %v", name, err)
		}
	}
	clock.Lock()
	now = noon.Add(5 * time.Minute)
	clock.Unlock()
	if n := strings.Count(string(m.JWKS()), `"kid"`); n != 1 {
		t.Errorf("%d keys are published after the last token of the old one expired", n)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestMintKeyIsKept gives a key that was made here to the next process, in a file for its owner alone.
func TestMintKeyIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "mint")
	first := newMinter(t, mint.Config{Dir: dir, Clock: frozen})
	if _, err := os.Stat(dir); err == nil {
		t.Error("something is written before Run: looking at a configuration must not")
	}
	ended, cancelled := context.WithCancel(t.Context())
	cancelled()
	for _, m := range []*mint.Minter{first, newMinter(t, mint.Config{Dir: dir, Clock: frozen})} { // two that start at once
		if err := m.Run(ended); err != nil {
			t.Fatal(err)
		}
	}
	second := newMinter(t, mint.Config{Dir: dir, Clock: frozen})
	if string(first.JWKS()) != string(second.JWKS()) {
		t.Error("a restart has another key")
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("%v %v", files, err)
	}
	if info, err := files[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, files[0].Name()), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := mint.New(mint.Config{Dir: dir}); err != nil || m.Load() == nil {
		t.Error("a broken key is replaced in silence")
	}
}

// TestMinterSucceeds hands keys over when the configuration is read again.
func TestMinterSucceeds(t *testing.T) {
	old := newMinter(t, mint.Config{Clock: frozen})
	token, _ := mintedFor(t, old, caller("vera"), "orders", noon)
	next := newMinter(t, mint.Config{Clock: frozen, Lifetime: time.Hour, Succeeds: old})
	if string(next.JWKS()) != string(old.JWKS()) {
		t.Error("a key in memory is lost by a reload")
	}
	third := newMinter(t, mint.Config{Clock: frozen, Algorithm: "EdDSA", Succeeds: next})
	if err := accepts(t, third.JWKS(), token, noon); err != nil {
		t.Errorf("a token made before the reload: %v", err)
	}
	fresh, _ := mintedFor(t, third, caller("vera"), "orders", noon)
	if err := accepts(t, third.JWKS(), fresh, noon); err != nil || strings.Count(string(third.JWKS()), `"kid"`) != 2 {
		t.Errorf("%v\n%s", err, third.JWKS())
	}
}

// TestMinterSaysWhatIsWrong refuses keys and settings that cannot be used, and shows nothing of a key.
func TestMinterSaysWhatIsWrong(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := privatePEM(t, ecKey(t))
	for want, text := range map[string]string{
		"holds no PEM block":       "x",
		"more than one PEM block":  good + good,
		`PEM block "PUBLIC KEY"`:   strings.ReplaceAll(good, "PRIVATE", "PUBLIC"),
		"P-384":                    privatePEM(t, p384),
		"*rsa.PublicKey":           privatePEM(t, rsaKey(t)),
		"holds no private key":     string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("zzz")})),
		"and the key is for ES256": good,
	} {
		m, err := mint.New(mint.Config{KeyFile: temp(t, text), Algorithm: "EdDSA"})
		if err != nil {
			t.Fatal(err)
		}
		if err = m.Load(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "zzz") {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for want, c := range map[string]mint.Config{"lifetime": {Lifetime: time.Second}, "algorithm": {Algorithm: "HS256"}, "issuer": {Issuer: "\xff"}} {
		if _, err := mint.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	m, err := mint.New(mint.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if token, err := m.Mint(caller("vera"), "orders", noon); token != "" || err == nil {
		t.Errorf("a token without a key: %v", err)
	}
}

// TestServeJWKS answers as caches and applications expect, with public members only.
func TestServeJWKS(t *testing.T) {
	for _, alg := range []string{"ES256", "EdDSA"} {
		m := newMinter(t, mint.Config{Algorithm: alg})
		w := httptest.NewRecorder()
		m.ServeJWKS(w, httptest.NewRequest("GET", "/.well-known/jwks.json", nil))
		var set struct{ Keys []map[string]string }
		if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || len(set.Keys) != 1 {
			t.Fatalf("%v %s", err, w.Body)
		}
		for member := range set.Keys[0] {
			if !slices.Contains([]string{"kty", "crv", "x", "y", "use", "alg", "kid"}, member) {
				t.Errorf("%s is published", member)
			}
		}
		if h := w.Header(); h.Get("content-type") != "application/jwk-set+json" || h.Get("cache-control") != "public, max-age=60" {
			t.Errorf("%v", h)
		}
	}
}

func BenchmarkMint(b *testing.B) {
	id := caller("vera", "viewer", "editor")
	for _, alg := range []string{"ES256", "EdDSA"} {
		b.Run(alg+"/cold", func(b *testing.B) {
			m := newMinter(b, mint.Config{Algorithm: alg})
			b.ReportAllocs()
			now := noon.Add(-time.Hour)
			for b.Loop() {
				now = now.Add(time.Minute)
				if _, err := m.Mint(id, "orders", now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("cached", func(b *testing.B) {
		m := newMinter(b, mint.Config{})
		b.ReportAllocs()
		for b.Loop() {
			if _, err := m.Mint(id, "orders", noon); err != nil {
				b.Fatal(err)
			}
		}
	})
}
