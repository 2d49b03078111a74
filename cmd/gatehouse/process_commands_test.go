package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestStatusAndReload: a running process says how it is, reads its configuration again, and says what it refuses.
func TestStatusAndReload(t *testing.T) {
	t.Parallel()
	control := "listen: {grpc: [\"$GRPC\"], admin: \"$ADMIN\", control: \"unix:control.sock\"}\npolicy: {bundles: [{path: policy, name: app}]}\n"
	p := newProcess(t, control)
	p.version(1)
	p.ready()
	says := func(code int, want string, args ...string) {
		t.Helper()
		got, out, errs := p.gatehouse(args...)
		if got != code || !strings.Contains(out+errs, want) {
			t.Errorf("%v: exit code %d, want %d with %q:\n%s%s", args, got, code, want, out, errs)
		}
	}
	says(0, "ready\n", "status")
	says(0, "bundle      app: revision v1, ", "status", "--admin", p.admin)
	says(0, `"ready":true`, "status", "-o", "json")
	p.configure(strings.ReplaceAll(control, "$ADMIN", "127.0.0.1:1")) // as beside gatehouse up, which has an admin port of its own
	says(0, `"requests_per_second":`, "top", "--once", "--every", "200ms", "-o", "json")
	p.configure(control)
	says(0, "reloaded\n", "reload")
	says(0, "reloaded\n", "reload", "--pid", fmt.Sprint(p.cmd.Process.Pid), "--admin", p.admin)
	p.configure(control + "log: {format: console}\n")
	says(0, "log.format changed, and needs a restart", "reload")
	p.configure(control + "nonsense: 1\n")
	says(1, `unknown key "nonsense"`, "reload", "--control", "unix:control.sock")
	says(1, `unknown key "nonsense"`, "reload", "--pid", fmt.Sprint(p.cmd.Process.Pid), "--admin", p.admin)
	says(0, "ready, degraded\n  reload: ", "status", "--admin", p.admin)
	p.configure(control)
	write(t, p.path("policy", "authz.rego"), brokenPolicy)
	says(1, "    3:10 | allow if nobody\n", "reload")
	says(0, "ready, degraded", "status")
	if s := p.status(); s.Reloads < 6 || !strings.Contains(s.ReloadError, "nobody") {
		t.Errorf("%d reloads, %q", s.Reloads, s.ReloadError)
	}
	p.cmd.Process.Kill()
	p.exit()
	says(2, "is it running, ", "status")
	says(2, "is it running, ", "status", "--admin", p.admin)
	says(2, "is it running, ", "reload")
}

// TestStatusOfOneThatIsNotReady: exit code 1.
func TestStatusOfOneThatIsNotReady(t *testing.T) {
	t.Parallel()
	p := newProcess(t, plain)
	write(t, p.path("policy", "authz.rego"), brokenPolicy)
	p.flags = []string{"--wait-for-policy", "--log-level", "error", "--log-format", "console"}
	p.start()
	eventually(t, "asking for the status", func() error {
		if code, out, errs := p.gatehouse("status"); code != 1 || !strings.Contains(out, "not ready: ") || !strings.Contains(out, "compiling failed: ") {
			return fmt.Errorf("%d %s%s", code, out, errs)
		}
		return nil
	})
	if text := p.stderr.String(); !strings.Contains(text, "\terror\t") || strings.Contains(text, "listening") {
		t.Errorf("it logs %s", text)
	}
}
