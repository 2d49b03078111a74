package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/identity"

	"github.com/google/go-cmp/cmp"
)

// TestCacheIsInvisible walks two verifiers, with and without cache, through the same random histories of clock, keys (rotated,
// removed, given back, and older ones that a request pinned) and tokens, good and bad, in different places. They must answer
// alike at every step.
func TestCacheIsInvisible(t *testing.T) {
	results := map[string]int{}
	for seed := range uint64(6) {
		walkCaches(t, rand.New(rand.NewPCG(1, seed)), results)
	}
	for _, want := range []string{"<nil>", "signature does not verify", "token expired", "token is not valid yet", "token was issued in the future",
		"token was issued too long ago", "audience does not match", "unknown key id", "algorithm does not fit the key", "unknown issuer",
		"different credentials on one request", "issuer does not accept tokens from this place", "keys of the issuer were never loaded",
		"token is not strict json", "token names no key and several fit", "token names no key and none fits"} {
		found := 0
		for got, n := range results {
			if strings.HasSuffix(got, want) {
				found += n
			}
		}
		if found < 20 {
			t.Errorf("the histories are too plain: %q came %d times", want, found)
		}
	}
}

func walkCaches(t *testing.T, random *rand.Rand, results map[string]int) {
	tokens, sets := cacheTokens(), cacheSets()
	path := temp(t, sets[0])
	now := noon
	c := identity.Config{Clock: func() time.Time { return now }}
	for _, iss := range []string{issuerA, issuerB} {
		c.Issuers = append(c.Issuers, identity.Issuer{Issuer: iss, Audiences: []string{"orders"}, Keys: identity.KeySource{File: path}})
	}
	c.Issuers[0].From = []identity.TokenSource{{Header: "authorization"}, {Header: "x-token"}}
	c.Issuers[1].MaxAge = 2 * time.Minute
	c.CacheBytes = 64 << 10 // a few entries, so that eviction takes part
	cached := newVerifier(t, c)
	c.CacheBytes = -1
	plain := newVerifier(t, c)
	type pair struct{ cached, plain *identity.Keys }
	history := []pair{{load(t, cached), load(t, plain)}, {nil, nil}}
	for step := range 3000 {
		switch random.IntN(20) {
		case 0:
			now = noon.Add(time.Duration(random.IntN(300)) * time.Second)
		case 1, 2:
			now = now.Add(time.Duration(random.IntN(9000)-3000) * time.Millisecond)
		case 3:
			if len(history) < 40 {
				writeFile(t, path, sets[random.IntN(len(sets))])
				history = append(history, pair{load(t, cached), load(t, plain)})
			}
		}
		keys := history[max(0, len(history)-1-random.IntN(4))]
		token := tokens[random.IntN(len(tokens))]
		h := headers{}
		where := random.IntN(3)
		if where != 0 {
			h["authorization"] = []string{"Bearer " + token}
		}
		if where != 1 {
			h["x-token"] = []string{token}
		}
		if random.IntN(8) == 0 {
			h["x-token"] = []string{tokens[random.IntN(3)]}
		}
		got, gotErr := cached.Identify(context.Background(), keys.cached, identity.Request{Header: h.get})
		want, wantErr := plain.Identify(context.Background(), keys.plain, identity.Request{Header: h.get})
		if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) || !sameIdentity(got, want) {
			t.Fatalf("step %d at %s: cached says %v, plain says %v", step, now, gotErr, wantErr)
		}
		results[fmt.Sprint(wantErr)]++
	}
}

// cacheTokens change their outcome with the clock, the keys and the place, in different ways.
func cacheTokens() []string {
	r := keyRing()
	es := func(changes object) string {
		return mint("ES256", r.p256, object{"alg": "ES256", "kid": "k"}, claims(changes))
	}
	forged := func(changes object) string {
		return mint("ES256", suite().Keys.P256Other, object{"alg": "ES256", "kid": "k"}, claims(changes))
	}
	return []string{
		es(nil),
		es(object{"exp": at(2 * time.Minute)}),
		es(object{"exp": at(3 * time.Minute), "nbf": at(2 * time.Minute), "roles": []string{"a"}}),
		es(object{"iat": at(time.Minute), "scope": "a b"}),
		es(object{"aud": "other"}),
		es(object{"aud": "other", "exp": at(2 * time.Minute), "nbf": at(time.Minute)}),
		es(object{"sub": 7, "iat": at(2 * time.Minute)}),
		es(object{"exp": "soon", "nbf": at(2 * time.Minute)}),
		es(object{"exp": at(-time.Hour)}),
		mint("EdDSA", r.ed, object{"alg": "EdDSA", "kid": "k"}, claims(object{"exp": at(4 * time.Minute)})),
		mint("EdDSA", r.ed, object{"alg": "EdDSA"}, claims(nil)),
		mint("ES256", r.p256, object{"alg": "ES256"}, claims(nil)),
		mint("ES256", r.p256, object{"alg": "ES256", "kid": "k"}, `{"sub":1,}`),
		forged(nil),
		forged(object{"exp": at(time.Minute), "nbf": at(0)}),
		es(object{"iss": issuerB, "iat": at(0)}),
		es(object{"iss": issuerB, "iat": at(time.Minute), "exp": at(2 * time.Minute)}),
		es(object{"iss": issuerB, "aud": "other", "iat": at(0)}),
		forged(object{"iss": issuerB}),
		es(object{"iss": "https://evil.example"}),
		"x.y.z",
	}
}

func cacheSets() []string {
	r := keyRing()
	return []string{
		jwks(jwk(&r.p256.PublicKey, object{"kid": "k"})),
		jwks(jwk(r.ed.Public(), object{"kid": "k"})),
		jwks(jwk(r.ed.Public(), object{"kid": "k"}), jwk(&r.p256.PublicKey, object{"kid": "l"})),
		jwks(jwk(&suite().Keys.P256Other.PublicKey, object{"kid": "k"}), jwk(&r.p256.PublicKey, object{"kid": "l"})),
		jwks(jwk(&r.p256.PublicKey, object{"kid": "k"}), jwk(r.ed.Public(), object{"kid": "l"})),
		jwks(jwk(&r.p256.PublicKey, object{"kid": "l"})),
		jwks(append(manyKeys(), jwk(&r.p256.PublicKey, object{"kid": "k"}))...),
	}
}

// manyKeys are more keys for ES256 than are tried.
func manyKeys() []object {
	var out []object
	for range 4 {
		k, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
		if err != nil {
			panic(err)
		}
		out = append(out, jwk(&k.PublicKey, nil))
	}
	return out
}

func sameIdentity(a, b identity.Identity) bool {
	type plain identity.Identity // without the methods that hide it
	return cmp.Equal(plain(a), plain(b))
}

// TestCacheIsBounded pours in tokens that hold many times the limit and looks at what stays in memory.
func TestCacheIsBounded(t *testing.T) {
	const limit, poured = 4 << 20, 3000
	c := twoIssuers(t)
	c.CacheBytes = limit
	v := newVerifier(t, c)
	keys := load(t, v)
	filler := make([]int, 2000)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range poured / 4 {
				token := mint("EdDSA", keyRing().ed, object{"alg": "EdDSA", "kid": "d1"}, claims(object{"jti": fmt.Sprint(worker, i), "x": filler[:i%2000]}))
				if got := outcome(t, v, keys, bearer(token)); got != "ok" {
					t.Errorf("got %q", got)
				}
			}
		})
	}
	wg.Wait()
	grown := int64(heap()) - int64(before)
	t.Logf("%d tokens left %d KiB of a limit of %d KiB", poured, grown>>10, limit>>10)
	if grown > limit*3/2 {
		t.Errorf("%d bytes stay", grown)
	}
	runtime.KeepAlive(v)
}

// TestHitsAreCheap holds a repeated token, good or refused, to two allocations.
func TestHitsAreCheap(t *testing.T) {
	v := newVerifier(t, twoIssuers(t))
	keys := load(t, v)
	for _, token := range []string{good(nil), good(object{"exp": at(-time.Hour)}), good(object{"aud": "other"})} {
		get := bearer(token).get
		allocations := testing.AllocsPerRun(100, func() {
			_, _ = v.Identify(context.Background(), keys, identity.Request{Header: get})
		})
		if allocations > 2 {
			t.Errorf("%v allocations", allocations)
		}
	}
}
