package identity_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"gatehouse/identity"

	"github.com/google/go-cmp/cmp"
)

// TestCacheIsInvisible walks two verifiers, with and without cache, through the same random history of clock, keys (also
// older ones that a request pinned) and tokens in different places. They must answer alike at every step.
func TestCacheIsInvisible(t *testing.T) {
	r := keyRing()
	es := func(changes object) string {
		return mint("ES256", r.p256, object{"alg": "ES256", "kid": "k"}, claims(changes))
	}
	tokens := []string{
		es(nil),
		es(object{"exp": at(2 * time.Minute)}),
		es(object{"exp": at(3 * time.Minute), "nbf": at(2 * time.Minute), "roles": []string{"a"}}),
		es(object{"iat": at(time.Minute), "scope": "a b"}),
		es(object{"aud": "other"}),
		mint("EdDSA", r.ed, object{"alg": "EdDSA", "kid": "k"}, claims(object{"exp": at(4 * time.Minute)})),
		mint("EdDSA", r.ed, object{"alg": "EdDSA"}, claims(nil)),
		es(object{"iss": issuerB}),
	}
	sets := []string{
		jwks(jwk(&r.p256.PublicKey, object{"kid": "k"})),
		jwks(jwk(r.ed.Public(), object{"kid": "k"})),
		jwks(jwk(r.ed.Public(), object{"kid": "k"}), jwk(&r.p256.PublicKey, object{"kid": "l"})),
	}
	path := temp(t, sets[0])
	now := noon
	c := identity.Config{Clock: func() time.Time { return now }}
	for _, iss := range []string{issuerA, issuerB} {
		c.Issuers = append(c.Issuers, identity.Issuer{Issuer: iss, Audiences: []string{"orders"}, Keys: identity.KeySource{File: path}})
	}
	c.Issuers[0].From = []identity.TokenSource{{Header: "authorization"}, {Header: "x-token"}}
	c.CacheBytes = 16 << 10 // a few entries, so that eviction takes part
	cached := newVerifier(t, c)
	c.CacheBytes = -1
	plain := newVerifier(t, c)
	type pair struct{ cached, plain *identity.Keys }
	history := []pair{{load(t, cached), load(t, plain)}, {nil, nil}}
	results := map[string]int{}
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 4000 {
		switch random.IntN(20) {
		case 0:
			now = noon.Add(time.Duration(random.IntN(300)) * time.Second)
		case 1:
			now = now.Add(time.Duration(random.IntN(3000)-1000) * time.Millisecond)
		case 2:
			if len(history) < 50 {
				writeFile(t, path, sets[random.IntN(len(sets))])
				history = append(history, pair{load(t, cached), load(t, plain)})
			}
		}
		keys := history[max(0, len(history)-1-random.IntN(4))]
		h := headers{[]string{"authorization", "x-token"}[random.IntN(2)]: {"Bearer " + tokens[random.IntN(len(tokens))]}}
		if values, ok := h["x-token"]; ok {
			h["x-token"] = []string{values[0][len("Bearer "):]}
		}
		got, gotErr := cached.Identify(context.Background(), keys.cached, identity.Request{Header: h.get})
		want, wantErr := plain.Identify(context.Background(), keys.plain, identity.Request{Header: h.get})
		if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) || !sameIdentity(got, want) {
			t.Fatalf("step %d at %s: cached says %v, plain says %v", step, now, gotErr, wantErr)
		}
		results[fmt.Sprint(wantErr)]++
	}
	if results["<nil>"] < 500 || len(results) < 6 {
		t.Errorf("the history is too plain: %v", results)
	}
}

func sameIdentity(a, b identity.Identity) bool {
	type plain identity.Identity // without the methods that hide it
	return cmp.Equal(plain(a), plain(b))
}

// TestCacheIsBounded pours in tokens that hold many times the limit and looks at what stays in memory.
func TestCacheIsBounded(t *testing.T) {
	const limit, poured = 4 << 20, 6000
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
