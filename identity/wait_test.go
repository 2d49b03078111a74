package identity_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/identity"
)

const unknownKey = "bad credential: unknown key id"

// withKid is a good token of issuer A but for the key that it names.
func withKid(kid string) string {
	return mint("ES256", keyRing().p256, object{"alg": "ES256", "kid": kid}, claims(nil))
}

// hold makes the provider answer only after release, and says when it was asked.
func (p *provider) hold(set string) (asked <-chan struct{}, release func()) {
	began, gate := make(chan struct{}, 100), make(chan struct{})
	p.handle(func(w http.ResponseWriter, _ *http.Request) {
		began <- struct{}{}
		<-gate
		_, _ = w.Write([]byte(set))
	})
	return began, sync.OnceFunc(func() { close(gate) })
}

// TestFirstSightOfAKey holds that requests with a new key wait for one fetch and pass, while others do not notice.
func TestFirstSightOfAKey(t *testing.T) {
	p := serveKeys(t, oldSet())
	r := run(t, oneIssuer(identity.KeySource{URL: p.URL}))
	keys := r.next("the first set", isGood)
	asked, release := p.hold(keysOfA())
	defer release()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { r.decides(keys, withKid("e1"), "ok") })
	}
	<-asked
	r.decides(keys, good(nil), "ok")
	if keys := r.view.Load(); keys.Status()[0].Keys != 1 {
		t.Fatal("the fetch has ended already")
	}
	release()
	wg.Wait()
	if s := r.view.Load().Status()[0]; s.Keys != 4 {
		t.Errorf("the View does not have the keys that tokens were verified with: %+v", s)
	}
	if n := p.fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
}

// TestMadeUpKeysDoNotBlockARotation uses one id again and again: it asks the provider once.
func TestMadeUpKeysDoNotBlockARotation(t *testing.T) {
	p := serveKeys(t, oldSet())
	r := run(t, oneIssuer(identity.KeySource{URL: p.URL}))
	keys := r.next("the first set", isGood)
	for range 50 {
		r.decides(keys, withKid("made-up"), unknownKey)
	}
	if n := p.fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
	p.serve(keysOfA())
	r.decides(keys, withKid("e1"), "ok")
	for _, kid := range []string{"a", "b", "c", "d"} {
		r.decides(keys, withKid(kid), unknownKey)
	}
	if n := p.fetches.Load(); n != 3 {
		t.Errorf("%d fetches, want 3", n)
	}
}

// inBubble runs a test on a clock of its own, which moves where all wait: no busy machine makes a wait longer.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	keyRing() // is made outside, once
	synctest.Test(t, f)
}

// silentProvider gives one set, and then answers no more until release. It needs no network, whose readiness a bubble's clock does not wait for.
type silentProvider struct {
	set   string
	asks  atomic.Int64
	asked chan struct{} // gets each request after the first
	gate  chan struct{}
}

func newSilentProvider(set string) (p *silentProvider, release func()) {
	p = &silentProvider{set: set, asked: make(chan struct{}, 100), gate: make(chan struct{})}
	return p, sync.OnceFunc(func() { close(p.gate) })
}

func (p *silentProvider) RoundTrip(req *http.Request) (*http.Response, error) {
	if p.asks.Add(1) > 1 {
		p.asked <- struct{}{}
		select {
		case <-p.gate:
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(p.set)), Request: req}, nil
}

// config is of one issuer whose keys it has.
func (p *silentProvider) config() identity.Config {
	c := oneIssuer(identity.KeySource{URL: "https://keys.example/keys"})
	c.Client = &http.Client{Transport: p}
	return c
}

// TestSlowProvider bounds what an unknown key can hold up: a second, and 64 requests.
func TestSlowProvider(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p, release := newSilentProvider(oldSet())
		defer release()
		c, registry := p.config(), prometheus.NewRegistry()
		c.Registerer = registry
		r := run(t, c)
		keys := r.next("the first set", isGood)

		// A caller that gives 900 ms still gets its answer: it might let the request through after that.
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 900*time.Millisecond)
		defer cancel()
		if _, err := r.v.Identify(ctx, keys, identity.Request{Header: bearer(withKid("e1")).get}); err == nil || err.Error() != unknownKey || ctx.Err() != nil {
			t.Errorf("got %v, %v", err, ctx.Err())
		}
		if waited := time.Since(began); waited != 675*time.Millisecond {
			t.Errorf("it waited %s of 900ms", waited)
		}
		<-p.asked
		var wg sync.WaitGroup
		token := withKid("e2")
		for range 64 + 36 {
			wg.Go(func() { r.decides(keys, token, unknownKey) })
		}
		r.decides(keys, good(nil), "ok")
		wg.Wait()
		for range 20 { // the fetch goes on; from a second after it began nobody waits for it
			r.decides(keys, withKid("e3"), unknownKey)
		}
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("together they waited %s", waited)
		}
		expectWaits(t, registry, "timeout 85, refused 36")
	})
}

// TestCallerIsGone does not wait for whom nobody waits.
func TestCallerIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p, release := newSilentProvider(oldSet())
		defer release()
		r := run(t, p.config())
		keys := r.next("the set", isGood)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		began := time.Now()
		go func() {
			<-p.asked
			cancel()
		}()
		if _, err := r.v.Identify(ctx, keys, identity.Request{Header: bearer(withKid("new")).get}); err == nil || err.Error() != unknownKey {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("it waited %s", waited)
		}
	})
}

// TestCallerDoesNotSayHowLong gets its answer within the time that Envoy waits by default, which is 200 ms.
func TestCallerDoesNotSayHowLong(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p, release := newSilentProvider(oldSet())
		defer release()
		r := run(t, p.config())
		keys := r.next("the set", isGood)
		began := time.Now()
		if _, err := r.v.Identify(context.Background(), keys, identity.Request{Header: bearer(withKid("new")).get}); err == nil || err.Error() != unknownKey {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != 150*time.Millisecond {
			t.Errorf("it waited %s", waited)
		}
	})
}

func expectWaits(t *testing.T, registry *prometheus.Registry, want string) {
	t.Helper()
	var got []string
	for _, result := range []string{"found", "missing", "timeout", "refused"} {
		if n := gathered(t, registry, "gatehouse_identity_unknown_key_waits_total", result); n > 0 {
			got = append(got, fmt.Sprintf("%s %v", result, n))
		}
	}
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("waits: %q, want %q", text, want)
	}
}

// TestNobodyWaits lists where an unknown key is unknown at once.
func TestNobodyWaits(t *testing.T) {
	const never = "identity unavailable: keys of the issuer were never loaded"
	for name, tt := range map[string]struct {
		file    bool
		prepare func(*running) *identity.Keys
		want    string
	}{
		"keys in a file": {true, func(r *running) *identity.Keys { r.start(); return r.next("the set", isGood) }, unknownKey},
		"without Run":    {false, func(r *running) *identity.Keys { return load(t, r.v) }, unknownKey},
		"after Run": {false, func(r *running) *identity.Keys {
			r.start()
			defer r.stop()
			return r.next("the set", isGood)
		}, unknownKey},
		"keys never loaded": {false, func(r *running) *identity.Keys { r.start(); return nil }, never},
	} {
		p, registry := serveKeys(t, oldSet()), prometheus.NewRegistry()
		c := oneIssuer(identity.KeySource{URL: p.URL})
		if tt.file {
			c = oneIssuer(identity.KeySource{File: temp(t, oldSet())})
		}
		c.Registerer = registry
		r := &running{t: t, published: make(chan *identity.Keys, 1000), log: &logBuffer{}, v: newVerifier(t, c)}
		keys := tt.prepare(r)
		if got := outcome(t, r.v, keys, bearer(withKid("new"))); got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
		expectWaits(t, registry, "")
	}
}

// TestRunEndsWithRequestsWaiting lets them go.
func TestRunEndsWithRequestsWaiting(t *testing.T) {
	p := serveKeys(t, oldSet())
	c, registry := oneIssuer(identity.KeySource{URL: p.URL}), prometheus.NewRegistry()
	c.Registerer = registry
	r := run(t, c)
	keys := r.next("the set", isGood)
	asked, release := p.hold(oldSet())
	t.Cleanup(release)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { r.decides(keys, withKid("new"), unknownKey) })
	}
	<-asked
	for began := time.Now(); gathered(t, registry, "gatehouse_identity_unknown_key_waiting", "") < 8; time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("they do not wait")
		}
	}
	r.stop()
	wg.Wait()
	expectWaits(t, registry, "missing 8")
}

// TestRotationWhileRequestsRun replaces the provider's key twice, in the three steps that providers take: the new key beside the
// old one, tokens of the new one, the old key gone. No request fails that should not, and the removed key's tokens fail for
// good, cached or not.
func TestRotationWhileRequestsRun(t *testing.T) {
	ring := keyRing()
	steps := []struct {
		token string
		key   object
	}{
		{good(nil), jwk(&ring.rsa.PublicKey, object{"kid": "r1"})},
		{withKid("e1"), jwk(&ring.p256.PublicKey, object{"kid": "e1"})},
		{mint("EdDSA", ring.ed, object{"alg": "EdDSA", "kid": "d1"}, claims(nil)), jwk(ring.ed.Public(), object{"kid": "d1"})},
	}
	p := serveKeys(t, jwks(steps[0].key))
	r := run(t, oneIssuer(identity.KeySource{URL: p.URL, Refresh: time.Second}))
	r.next("the first set", isGood)

	var tokens atomic.Pointer[[]string] // that must pass now
	tokens.Store(&[]string{steps[0].token})
	var requests atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, token := range *tokens.Load() {
					r.decides(r.view.Load(), token, "ok")
					requests.Add(1)
				}
			}
		})
	}
	served := func() { // a few requests later
		for seen := requests.Load(); requests.Load() < seen+100; {
			time.Sleep(time.Millisecond)
		}
	}
	for i := 1; i < len(steps); i++ {
		p.serve(jwks(steps[i-1].key, steps[i].key))
		tokens.Store(&[]string{steps[i-1].token, steps[i].token}) // the provider signs with the new key at once
		served()
		tokens.Store(&[]string{steps[i].token})
		served() // nobody uses the old one any more
		old := r.view.Load()
		r.decides(old, steps[i-1].token, "ok")
		p.serve(jwks(steps[i].key))
		removed := r.next("the set without the old key", func(s identity.KeyStatus) bool { return s.Keys == 1 && r.view.Load().Generation() > old.Generation() })
		for removed.Generation() <= old.Generation() {
			removed = r.next("the set without the old key", func(s identity.KeyStatus) bool { return s.Keys == 1 })
		}
		for range 10 { // tokens of a removed key are no reason to fetch: the next rotation needs that
			r.decides(removed, steps[i-1].token, unknownKey)
		}
		served()
	}
	close(stop)
	wg.Wait()
	t.Logf("%d requests", requests.Load())
}

// TestRunBeginsWithWhatLoadGot fetches nothing twice at the start.
func TestRunBeginsWithWhatLoadGot(t *testing.T) {
	p := serveKeys(t, oldSet())
	r := &running{t: t, published: make(chan *identity.Keys, 1000), log: &logBuffer{}}
	r.v = newVerifier(t, oneIssuer(identity.KeySource{URL: p.URL}))
	first := load(t, r.v)
	r.decides(first, good(nil), "ok")
	r.start()
	if keys := <-r.published; keys.Generation() != first.Generation() || !isGood(keys.Status()[0]) {
		t.Errorf("Run began with %+v", keys.Status())
	}
	r.decides(r.view.Load(), withKid("new"), unknownKey) // a fetch in its turn ends before this one
	if n := p.fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want that of Load and one for the unknown key", n)
	}
}
