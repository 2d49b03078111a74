package envoy_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse/envoy/sandbox"
)

// clients ask with tokens of the provider, each with a new token after every few requests.
type clients struct {
	rp  *relyingParty
	ask func(context.Context, sandbox.Call) (sandbox.Answer, error)

	mu     sync.Mutex
	served map[string]int // guarded by mu: requests let through, by the id of the key that signed
	failed []string       // guarded by mu
}

// keyOf is the id of the key that a token names.
func keyOf(token string) string {
	head, _, _ := strings.Cut(token, ".")
	text, _ := base64.RawURLEncoding.DecodeString(head)
	var header struct{ Kid string }
	_ = json.Unmarshal(text, &header) // no id is as good as any that is unknown
	return header.Kid
}

func (c *clients) run(ctx context.Context) {
	for ctx.Err() == nil {
		g, err := c.rp.ask(c.rp.meta.Token, url.Values{"grant_type": {"client_credentials"}})
		if err != nil {
			c.note("", err.Error())
			return
		}
		for range 5 {
			answer, err := c.ask(context.WithoutCancel(ctx), sandbox.Call{Path: "/orders", Token: g.Access})
			switch {
			case err != nil:
				c.note("", err.Error())
			case answer.Status != 200:
				c.note("", fmt.Sprintf("%d %s", answer.Status, answer.Body))
			default:
				c.note(keyOf(g.Access), "")
			}
		}
	}
}

func (c *clients) note(key, failure string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if failure != "" {
		c.failed = append(c.failed, failure)
		return
	}
	c.served[key]++
}

// await returns when n requests were served with tokens of a key.
func (c *clients) await(t *testing.T, key string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d requests with tokens of the new key", n), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.served[key] >= n || len(c.failed) > 0
	})
}

// eventually asks again and again until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(hangGuard)
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", hangGuard, what)
		}
	}
}

// The provider changes its keys while requests run: at once, and announced. No request fails; a key that is gone opens nothing.
func TestProviderRotatesKeysUnderLoad(t *testing.T) {
	p := startProvider(t)
	s := ordersBehind(t, fmt.Sprintf("  jwt: [{issuer: %q, audiences: [orders], keys: {discovery: true, refresh: 1s}}]\n", p.issuer))
	batch := discover(t, p.issuer, "batch", webSecret)
	c := &clients{rp: batch, ask: s.Do, served: map[string]int{}}
	old, first, second := batch.clientCredentials(t).Access, newProviderKey(t), newProviderKey(t)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() { c.run(ctx) })
	}
	defer running.Wait()
	defer stop()

	zero := p.signing
	c.await(t, zero.id, 50)
	p.publish(first, zero)
	p.sign(first) // with the next token, which may come before the next refresh
	c.await(t, first.id, 100)
	expect(t, s, "a token of the key before", 200, sandbox.Call{Path: "/orders", Token: old})
	p.publish(first)
	eventually(t, "a token of the key that is gone is refused", func() bool {
		return ask(t, s, sandbox.Call{Path: "/orders", Token: old}).Status == 401
	})
	p.publish(first, second)
	reads := p.keyReads.Load()
	eventually(t, "the announced key is read", func() bool { return p.keyReads.Load() > reads+1 }) // the first may have begun before
	p.sign(second)
	c.await(t, second.id, 50)
	stop()
	running.Wait()
	if len(c.failed) > 0 {
		t.Errorf("%d requests failed, the first: %s", len(c.failed), c.failed[0])
	}
	t.Logf("requests by key: %v; the key set was read %d times", c.served, p.keyReads.Load())
	if reads := p.keyReads.Load(); reads > 30 {
		t.Errorf("the key set was read %d times", reads)
	}
}
