package main

import (
	"strings"
	"testing"
)

// TestControlGuard: without a flag the bounds are shown and stay; a flag changes its own alone; it is on record in words.
func TestControlGuard(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	said := func(want string, args ...string) {
		t.Helper()
		if out := p.run(append([]string{"guard"}, args...)...); !strings.Contains(out, want) {
			t.Errorf("guard %q says %q; want %q", args, out, want)
		}
	}
	said("errors 0.01, denied 0.1, latency 5, after 100 decisions; nobody has set them")
	if out := p.run("audit"); strings.Contains(out, "guard") {
		t.Errorf("showing the bounds is a change:\n%s", out)
	}
	const by = "; set by first admin ("
	said("errors 0.5, denied 0.1, latency 3, after 100 decisions"+by, "--errors", "0.5", "--latency", "3")
	said("errors 0.5, denied 0.2, latency 3, after 100 decisions"+by, "--denied", "0.2")
	said("errors 0.5, denied 0.2, latency 3, after 7 decisions"+by, "--least", "7")
	said("errors 0.5, denied 0.2, latency 3, after 7 decisions" + by)
	said("errors 0.01, denied 0.2, latency 3, after 7 decisions"+by, "--errors", "0")
	if out := p.run("guard", "-o", "json"); !strings.Contains(out, `"actor"`) || !strings.Contains(out, `"denied"`) {
		t.Errorf("as JSON: %s", out)
	}
	if out := p.run("audit"); !strings.Contains(out, "errors 0.5, denied 0.2, latency 3, after 7 decisions") || strings.Contains(out, "{") {
		t.Errorf("the audit log:\n%s", out)
	}
}
