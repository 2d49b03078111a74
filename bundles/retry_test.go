package bundles_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse/bundles"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

// TestRefusedIsTriedAgain has a bundle whose tests call a backend: it is activated once the backend is up, although nothing else changes.
func TestRefusedIsTriedAgain(t *testing.T) {
	for name, remote := range map[string]bool{"path": false, "remote": true} {
		t.Run(name, func(t *testing.T) {
			var up atomic.Bool
			backend := newStorageHost(t, `"b"`, []byte("yes"))
			handler := backend.Config.Handler
			backend.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !up.Load() {
					http.Error(w, "", http.StatusServiceUnavailable)
					return
				}
				handler.ServeHTTP(w, r)
			})
			files := map[string]string{".manifest": `{"revision": "v1"}`, "authz.rego": fmt.Sprintf("package authz\n\n"+
				"allow := {\"allowed\": true, \"headers\": {\"x\": \"1\"}} if http.send({\"method\": \"get\", \"url\": %q, \"raise_error\": false}).status_code == 200\n", backend.URL)}
			allow := func(c *bundles.Config) {
				c.Policy.Capabilities.HTTPSend, c.Policy.Capabilities.HTTPSendPrivate = []string{"127.0.0.1"}, true
				c.Smoke = func(ctx context.Context, s *policy.Snapshot) error {
					if d, err := s.Decide(ctx, rego.Object(), time.Now()); err != nil || !d.Allowed {
						return errors.New("smoke.yaml:3: admins are locked out")
					}
					return nil
				}
			}
			l := newLife(t)
			sources := l.source(nil)
			if remote {
				server := newBundleServer(t, files)
				sources = from(server.URL)
			} else {
				l.put(files)
			}
			l.begin(sources, allow)
			l.refused("smoke", "admins are locked out")
			if list := l.manager.Degraded(); len(list) != 1 || !strings.Contains(list[0], "no policy of it is active") {
				t.Errorf("degraded %q", list)
			}
			up.Store(true)
			l.active("v1")
			if list := l.manager.Degraded(); len(list) != 0 {
				t.Errorf("degraded %q", list)
			}
		})
	}
}

// TestTryAgain checks that a bundle that depends on other configuration is tried as soon as that changes.
func TestTryAgain(t *testing.T) {
	var refuse atomic.Bool
	refuse.Store(true)
	l := newLife(t)
	l.put(serial(1))
	var attempts atomic.Int64
	l.begin(l.source(nil), func(c *bundles.Config) {
		publish := c.Publish
		c.Publish = func(ctx context.Context, s *policy.Snapshot) error {
			attempts.Add(1)
			if refuse.Load() {
				return errors.New("GET /orders has no rule")
			}
			return publish(ctx, s)
		}
	})
	l.refused("publishing", "GET /orders has no rule")
	l.manager.RetryRefused()
	waitFor(t, func() bool { return attempts.Load() >= 2 })
	if n := l.logs.FilterMessage(never).Len(); n != 1 {
		t.Errorf("the same was logged %d times", n)
	}
	refuse.Store(false)
	l.manager.RetryRefused()
	l.active("v1")
}

// A bundle that can never be activated is not compiled again and again.
func TestWhatCannotPassIsNotTriedAgain(t *testing.T) {
	l := newLife(t)
	l.put(map[string]string{"authz.rego": "package authz\n\nallow := nothing\n"})
	l.begin(l.source(nil))
	l.refused("compiling", "nothing")
	l.manager.RetryRefused()
	l.put(serial(1)) // after it in the queue
	l.active("v1")
	if l.logs.FilterMessage("a bundle that was refused is tried again").Len() != 0 {
		t.Error("it was tried again")
	}
}
