package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

const strictRoutes = "listen: {grpc: [\"$GRPC\"], admin: \"$ADMIN\", control: \"unix:control.sock\"}\nstate_dir: state\n" +
	"policy: {root: shop, strict_routes: true, bundles: [{path: policy, name: app}]}\nroutes: {file: routes.yaml}\n"

// half is a policy with a rule for each of these paths.
func half(paths ...string) string {
	var b strings.Builder
	b.WriteString("package shop\n\nimport rego.v1\n")
	for _, p := range paths {
		fmt.Fprintf(&b, "\nGET.%s.allowed := {\"allowed\": true, \"headers\": {\"x-rule\": %q}}\n", p, p)
	}
	return b.String()
}

func tableOf(paths ...string) string {
	text := "framework: flask\nroutes:\n"
	for _, p := range paths {
		text += "  - GET /" + p + "\n"
	}
	return text
}

// TestHalvesThatCameInAnyOrder: with strict_routes a route and its rule come one after the other, in either order, or each fits only the
// other. What was refused is taken as soon as the other half is there, also at the start.
func TestHalvesThatCameInAnyOrder(t *testing.T) {
	t.Parallel()
	policy := func(p *process, paths ...string) { write(t, p.path("policy", "authz.rego"), half(paths...)) }
	table := func(p *process, paths ...string) { write(t, p.path("routes.yaml"), tableOf(paths...)) }
	tests := map[string]func(p *process){
		"the route first": func(p *process) {
			table(p, "orders", "users")
			expectEventually(t, "the refusal", "strict_routes", func() string { return p.status().Routes[0].Error })
			policy(p, "orders", "users")
		},
		"the rule goes first": func(p *process) {
			policy(p, "users")
			expectEventually(t, "the refusal", "strict_routes", func() string { return p.status().Bundles[0].Error })
			table(p, "users")
		},
		"both at once, the route first": func(p *process) {
			table(p, "users")
			expectEventually(t, "the refusal", "strict_routes", func() string { return p.status().Routes[0].Error })
			policy(p, "users")
		},
		"both at once, the rule first": func(p *process) {
			policy(p, "users")
			expectEventually(t, "the refusal", "strict_routes", func() string { return p.status().Bundles[0].Error })
			table(p, "users")
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, strictRoutes)
			os.Remove(p.path("policy", "authz.rego"))
			policy(p, "orders")
			table(p, "orders")
			p.ready()
			conn := dial(t, p.grpc, nil)
			change(p)
			expectEventually(t, "the new route", "users", func() string {
				return askFor(t, conn, &auth.AttributeContext_HttpRequest{Method: "GET", Path: "/users"}, "x-rule")
			})
			eventually(t, "no complaint", func() error {
				if s := p.status(); s.Routes[0].Error != "" || s.Bundles[0].Error != "" || len(s.Degraded) > 0 {
					return fmt.Errorf("%+v %+v %v", s.Routes, s.Bundles, s.Degraded)
				}
				return nil
			})
		})
	}
	t.Run("at the start", func(t *testing.T) {
		p := newProcess(t, strictRoutes)
		policy(p, "orders")
		table(p, "orders", "users")
		p.flags = []string{"--wait-for-policy"}
		p.start()
		eventually(t, "the refusal", func() error {
			if code, body := p.get("/readyz"); code != 503 {
				return fmt.Errorf("%d %s", code, body)
			}
			if s := p.status().Bundles[0]; s.Stage != "publishing" {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		table(p, "orders")
		p.isReady()
	})
}

// TestSmokeOfABackendThatWasAway: the smoke test of a policy that calls a backend passes once that is back, and the process is ready then
// without anybody touching anything.
func TestSmokeOfABackendThatWasAway(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(backend.Close)
	p := newProcess(t, "listen: {grpc: [\"$GRPC\"], admin: \"$ADMIN\"}\npolicy: {bundles: [{path: policy, name: app}], smoke: [smoke.yaml], timeout: 5s, "+
		"capabilities: {http_send: {hosts: [127.0.0.1], private: true}}}\n")
	write(t, p.path("policy", "authz.rego"), fmt.Sprintf("package envoy.authz\n\ndefault allow := false\n\n"+
		"allow if http.send({\"method\": \"get\", \"url\": %q, \"raise_error\": false}).status_code == 200\n", backend.URL))
	write(t, p.path("smoke.yaml"), "tests:\n  - {name: all, allow: {GET: /}}\n")
	p.flags = []string{"--wait-for-policy"}
	p.start()
	eventually(t, "the refusal", func() error {
		code, body := p.get("/readyz")
		if code != 503 {
			return fmt.Errorf("%d %s", code, body)
		}
		if s := p.status(); s.Bundles[0].Stage != "smoke" || !slices.ContainsFunc(s.Degraded, func(text string) bool { return strings.Contains(text, `bundle "app"`) }) {
			return fmt.Errorf("%d %s %+v", code, body, s)
		}
		return nil
	})
	if _, page := p.get("/metrics"); !strings.Contains(page, `gatehouse_bundle_failing{bundle="app"} 1`) {
		t.Error("no metric says that the bundle fails")
	}
	up.Store(true)
	p.isReady()
	expectEventually(t, "the metric", `gatehouse_bundle_failing{bundle="app"} 0`, func() string { _, page := p.get("/metrics"); return page })
}

// isReady waits until it can decide.
func (p *process) isReady() {
	p.t.Helper()
	eventually(p.t, "waiting for /readyz", func() error {
		if code, body := p.get("/readyz"); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
}

// killed ends it as a machine does that dies, and begins anew in its folder.
func (p *process) killed(config string) *process {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	p.exit()
	p = p.again(config)
	p.flags = []string{"--wait-for-policy"}
	return p.start()
}

// TestARollbackOutlivesTheProcess: a kill, a restart and SIGHUP leave the pin and the history as they are. What was rolled back to is held
// against the configuration of then: a reload that it does not pass is refused, and after a restart nothing decides.
func TestARollbackOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	const start = "listen: {grpc: [\"$GRPC\"], admin: \"$ADMIN\", control: \"unix:control.sock\"}\nstate_dir: state\npolicy: {bundles: [{path: policy, name: app%s}]}\n"
	config, signing := fmt.Sprintf(start, ""), fmt.Sprintf(start, ", signing: {keys: [{id: ci, file: verify.pem, algorithm: EdDSA}]}")
	p := newProcess(t, config)
	key, _ := keyPair(t)
	write(t, p.path("verify.pem"), key)
	p.version(1)
	p.ready()
	revision := func() string { return p.status().Bundles[0].Revision }
	expectEventually(t, "v1", "v1", revision)
	p.version(2)
	expectEventually(t, "v2", "v2", revision)
	if code, _, errs := p.gatehouse("bundle", "rollback"); code != 0 {
		t.Fatal(errs)
	}
	pinned := func() {
		t.Helper()
		eventually(t, "the pin", func() error {
			if s := p.status().Bundles[0]; !s.Pinned || s.Revision != "v1" {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	for range 2 {
		p = p.killed(config)
		p.isReady()
		pinned()
		p.reload(t)
		pinned()
	}
	if _, out, _ := p.gatehouse("bundle", "history"); !strings.Contains(out, "v2") || !strings.Contains(out, "*  v1") {
		t.Errorf("history %q", out)
	}
	p.configure(signing)
	p.signal(syscall.SIGHUP)
	expectEventually(t, "the refusal", "is not signed", func() string { return p.status().ReloadError })
	pinned()
	p = p.killed(signing)
	eventually(t, "not ready", func() error {
		if code, body := p.get("/readyz"); code != http.StatusServiceUnavailable || p.status().Bundles[0].Stage != "verifying" {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	conn := dial(t, p.grpc, nil)
	if code, headers, err := check(t.Context(), conn); err != nil || code == 0 || slices.ContainsFunc(headers, func(h string) bool { return strings.HasPrefix(h, "x-rule") }) {
		t.Errorf("decided: %v %v %v", code, headers, err)
	}
}
