package main

import (
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
