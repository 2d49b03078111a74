//go:build module

package inenvoy_test

import (
	"bufio"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gatehouse/children"
)

const denyOdd = `package envoy.authz

import rego.v1

default allow := false

allow if not startswith(input.attributes.request.http.path, "/no")
`

const plainConfig = "policy: {bundles: [{path: policy}], decision: envoy/authz/allow, timeout: 5s}\n"

// TestWaitingHoldsUpNobody: a request whose key has to be fetched waits, and the worker goes on with others. One whose client leaves meanwhile ends
// without harm, and is logged.
func TestWaitingHoldsUpNobody(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var newer atomic.Bool
	asked, release := make(chan struct{}, 100), make(chan struct{})
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if newer.Load() {
			asked <- struct{}{}
			<-release
			fmt.Fprintf(w, `{"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "new", "x": %q}]}`, base64.RawURLEncoding.EncodeToString(public))
			return
		}
		fmt.Fprintf(w, `{"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "old", "x": %q}]}`, base64.RawURLEncoding.EncodeToString(public))
	}))
	t.Cleanup(keys.Close)
	config := plainConfig + fmt.Sprintf("identity: {jwt: [{issuer: http://localhost/i, audiences: [a], keys: {url: %q}}]}\n", keys.URL)
	w := start(t, config, map[string]string{"p.rego": denyOdd}, bodies[:1])
	newer.Store(true)
	part := func(v any) string {
		text, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := part(map[string]any{"alg": "EdDSA", "kid": "new"}) + "." + part(map[string]any{"iss": "http://localhost/i", "aud": "a", "sub": "x", "iat": time.Now().Unix(), "exp": time.Now().Unix() + 3600})
	token := signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(private, []byte(signed)))
	port := w.module.ports["plain"]
	with := "GET /yes HTTP/1.1\r\nhost: a\r\nauthorization: Bearer " + token + "\r\n\r\n"

	var left []net.Conn
	for range 20 { // these leave before there is an answer
		c, err := net.Dial("tcp", children.Loopback(port))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, with)
		left = append(left, c)
	}
	stays := make(chan answer, 1)
	go func() { stays <- exchange(port, "GET", with) }()
	<-asked
	for range 50 {
		if got := exchange(port, "GET", "GET /yes HTTP/1.1\r\nhost: a\r\n\r\n"); got.Status != 200 {
			t.Fatalf("%+v", got)
		}
	}
	for _, c := range left {
		c.Close()
	}
	close(release)
	if got := <-stays; got.Status != 200 {
		t.Errorf("the one that waited: %+v", got)
	}
	eventually(t, "the log", func() error {
		if n := len(w.lines(t, "module/decisions.jsonl", nil)); n != 71 {
			return fmt.Errorf("%d decisions", n)
		}
		return nil
	})
}

// TestHostileBytes: whatever comes, Envoy lives, and answers the next request.
func TestHostileBytes(t *testing.T) {
	w := start(t, plainConfig, map[string]string{"p.rego": denyOdd}, bodies)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := &generator{rand.New(rand.NewPCG(seed, 2))}
	var conns sync.WaitGroup
	gate := make(chan struct{}, 16)
	for i := range rounds() {
		_, text := g.request(i)
		bytes := []byte(text)
		for range g.IntN(4) {
			switch at := g.IntN(len(bytes)); g.IntN(4) {
			case 0:
				bytes[at] = byte(g.IntN(256))
			case 1:
				bytes = append(bytes[:at], bytes[min(len(bytes), at+g.IntN(20)):]...)
			case 2:
				bytes = append(bytes, bytes[at:]...)
			case 3:
				bytes = append(bytes[:at], append([]byte(strings.Repeat("x: y\r\n", g.IntN(300))), bytes[at:]...)...)
			}
			if len(bytes) == 0 {
				bytes = []byte("x")
			}
		}
		port, early := w.module.ports[bodies[g.IntN(len(bodies))].name], g.IntN(3) == 0
		gate <- struct{}{}
		conns.Go(func() {
			defer func() { <-gate }()
			c, err := net.Dial("tcp", children.Loopback(port))
			if err != nil {
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Second))
			_, _ = c.Write(bytes)
			if !early {
				_, _ = bufio.NewReader(c).ReadByte()
			}
		})
	}
	conns.Wait()
	for _, v := range bodies {
		if got := exchange(w.module.ports[v.name], "GET", "GET /yes HTTP/1.1\r\nhost: a\r\n\r\n"); got.Status != 200 {
			t.Errorf("%s: %+v", v.name, got)
		}
	}
}

// client sends request after request on connections that it keeps, until it is stopped. each is told every answer.
type client struct {
	stop atomic.Bool
	wait sync.WaitGroup
	n    atomic.Int64
}

func load(port, connections int, target string, each func(*http.Response, error)) *client {
	c := &client{}
	for range connections {
		c.wait.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			for !c.stop.Load() {
				resp, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Get("http://" + children.Loopback(port) + target)
				each(resp, err)
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					c.n.Add(1)
				}
			}
		})
	}
	return c
}

func (c *client) end() int64 {
	c.stop.Store(true)
	c.wait.Wait()
	return c.n.Load()
}

// TestUpdatesUnderLoad: listeners come and go with their filters, and gatehouse.yaml changes with them, while requests are under way. None is
// dropped, answered in another's place or left out of the log, and memory does not grow with the updates.
func TestUpdatesUnderLoad(t *testing.T) {
	updates := 100
	if d, err := time.ParseDuration(os.Getenv("SOAK")); err == nil {
		updates = int(d / (100 * time.Millisecond))
	}
	w := start(t, plainConfig, map[string]string{"p.rego": denyOdd}, slices.Clone(bodies[:2]), func(w *world) { w.dynamic = true })
	var bad atomic.Int64
	var first atomic.Pointer[string]
	c := load(w.module.ports["plain"], 8, "/yes", func(resp *http.Response, err error) {
		if err != nil || resp.StatusCode != http.StatusOK {
			text := fmt.Sprint(resp, err)
			first.CompareAndSwap(nil, &text)
			bad.Add(1)
		}
	})
	var early int
	updated := w.stat(t, "listener_manager.lds.update_success")
	for i := range updates {
		w.variants[0].more = fmt.Sprintf("context_extensions: {update: %q},", fmt.Sprint(i))
		if i%5 == 0 {
			file := filepath.Join(w.module.dir, "gatehouse.yaml")
			write(t, file, policyTimeout.ReplaceAllString(contents(t, file), fmt.Sprintf("timeout: %dms", 5000+i)))
		}
		w.update(t)
		eventually(t, "the update", func() error {
			if n := w.stat(t, "listener_manager.lds.update_success"); n <= updated {
				return fmt.Errorf("%d updates", n)
			} else {
				updated = n
			}
			return nil
		})
		if i == updates/3 {
			early = w.rss(t)
		}
	}
	n := c.end()
	if bad.Load() > 0 {
		t.Errorf("%d of %d requests failed; the first: %s", bad.Load(), n, *first.Load())
	}
	late := w.rss(t)
	t.Logf("%d requests, %d updates; RSS %d MB after a third of them, %d MB after all", n, updates, early>>20, late>>20)
	if late > early+early/3+(32<<20) {
		t.Errorf("RSS grew from %d MB to %d MB", early>>20, late>>20)
	}
	eventually(t, "the log", func() error {
		if logged := countLines(filepath.Join(w.module.dir, "decisions.jsonl")); logged != n {
			return fmt.Errorf("%d decisions of %d requests", logged, n)
		}
		return nil
	})
}

// TestKillLosesNothing: what a client was told is in the log, though Envoy was killed.
func TestKillLosesNothing(t *testing.T) {
	w := start(t, plainConfig, map[string]string{"p.rego": denyOdd}, bodies[:1])
	for round := range 3 {
		var mu sync.Mutex
		var told []string
		c := load(w.module.ports["plain"], 8, "/no", func(resp *http.Response, err error) {
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			told = append(told, resp.Header.Get("x-decision-id"))
		})
		eventually(t, "load", func() error {
			if n := c.n.Load(); n < 500 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
		if err := w.envoy.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-w.envoy.Done()
		c.end()
		w.startEnvoy(t)
		eventually(t, "the log", func() error {
			log := contents(t, filepath.Join(w.module.dir, "decisions.jsonl"))
			for _, id := range told {
				if !strings.Contains(log, id) {
					return fmt.Errorf("%s of %d is not in it", id, len(told))
				}
			}
			return nil
		})
		t.Logf("round %d: %d decisions were told, and are in the log", round, len(told))
	}
}

// TestReload: the control socket is that of a server.
func TestReload(t *testing.T) {
	w := start(t, plainConfig, map[string]string{"p.rego": denyOdd}, bodies[:1])
	out, err := output(w.module.dir, gatehouse, "reload", "--control", "unix:control.sock")
	if err != nil || strings.TrimSpace(out) != "reloaded" {
		t.Errorf("%q %v", out, err)
	}
	write(t, filepath.Join(w.module.dir, "gatehouse.yaml"), "nonsense: 1\n")
	if out, err := output(w.module.dir, gatehouse, "reload", "--control", "unix:control.sock"); err == nil {
		t.Errorf("a broken configuration: %q", out)
	}
	if got := exchange(w.module.ports["plain"], "GET", "GET /yes HTTP/1.1\r\nhost: a\r\n\r\n"); got.Status != 200 {
		t.Errorf("%+v", got)
	}
}
