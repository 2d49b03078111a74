package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

const brokenPolicy = "package envoy.authz\n\nallow if nobody\n"

// TestServeRefusesABrokenPolicy: it ends with the error, said once, and leaves nothing behind.
func TestServeRefusesABrokenPolicy(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "state_dir: state\n"+plain+"decision_log: {file: decisions.jsonl}\n")
	write(t, p.path("policy", "authz.rego"), brokenPolicy)
	p.start()
	if code := p.exit(); code != 2 {
		t.Errorf("exit code %d", code)
	}
	if text := p.stderr.String(); strings.Count(text, "authz.rego:3: ") != 1 || !strings.Contains(text, "--wait-for-policy") {
		t.Errorf("it says %q", text)
	}
	p.leftNothing(t)
}

// TestServeWaitsForAPolicy: it denies until the policy is mended, and says once what is wrong.
func TestServeWaitsForAPolicy(t *testing.T) {
	t.Parallel()
	p := newProcess(t, plain)
	write(t, p.path("policy", "authz.rego"), brokenPolicy)
	p.flags = []string{"--wait-for-policy"}
	p.start()
	eventually(t, "waiting for /readyz", func() error {
		if code, body := p.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "authz.rego:3: ") {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	if code, _, err := check(t.Context(), dial(t, p.grpc, nil)); err != nil || code == 0 {
		t.Errorf("%d %v", code, err)
	}
	if text := p.stderr.String(); strings.Count(text, "authz.rego:3: ") != 1 {
		t.Errorf("it says %q", text)
	}
	write(t, p.path("policy", "authz.rego"), allowAll)
	eventually(t, "waiting for /readyz", func() error {
		if code, body := p.get("/readyz"); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
}
