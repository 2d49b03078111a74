package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// gatehouse runs a command in the process's folder and returns its exit code and output.
func (p *process) gatehouse(args ...string) (code int, stdout, stderr string) {
	p.t.Helper()
	var out, errs bytes.Buffer
	c := exec.Command("gatehouse", args...)
	c.Dir, c.Stdout, c.Stderr = p.dir, &out, &errs
	_ = c.Run() // the exit code says it
	return c.ProcessState.ExitCode(), out.String(), errs.String()
}

// version puts a policy into place that says its number.
func (p *process) version(n int) {
	p.t.Helper()
	write(p.t, p.path("policy", ".manifest"), fmt.Sprintf(`{"revision": "v%d"}`, n))
	write(p.t, p.path("policy", "authz.rego"), fmt.Sprintf("package envoy.authz\n\nallow := {\"allowed\": true, \"headers\": {\"x-rule\": \"v%d\"}}\n", n))
}

func TestRollbackOfARunningProcess(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "listen: {grpc: [\"$GRPC\"], admin: \"$ADMIN\", control: \"unix:control.sock\"}\npolicy: {bundles: [{path: policy, name: app}]}\n")
	p.version(1)
	p.ready()
	conn := dial(t, p.grpc, nil)
	decides := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("waiting for v%d", n), func() error {
			if _, headers, err := check(t.Context(), conn); err != nil || !slices.Contains(headers, fmt.Sprintf("x-rule=v%d", n)) {
				return fmt.Errorf("%v %v", headers, err)
			}
			if s := p.status(); s.Bundles[0].Revision != fmt.Sprintf("v%d", n) {
				return fmt.Errorf("status %+v", s.Bundles)
			}
			return nil
		})
	}
	decides(1)
	info, err := os.Stat(p.path("control.sock"))
	if err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != fs.ModeSocket {
		t.Errorf("control socket %v, %v", info.Mode(), err)
	}
	p.version(2)
	decides(2)
	code, out, errs := p.gatehouse("bundle", "rollback")
	if code != 0 || out != "active: v1\npinned until another bundle arrives, or gatehouse bundle unpin: app\n" {
		t.Errorf("rollback: %d %q %q", code, out, errs)
	}
	decides(1)
	if s := p.status().Bundles[0]; !s.Pinned || s.Held == "" {
		t.Errorf("status %+v", s)
	}
	code, out, _ = p.gatehouse("bundle", "history", "--control", "unix:"+p.path("control.sock"))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 3 || !strings.Contains(lines[1], "v2") || !strings.HasPrefix(lines[2], "*") || !strings.Contains(lines[2], "app=") {
		t.Errorf("history: %d %q", code, out)
	}
	p.reload(t)
	decides(1) // a reload does not bring back what was rolled back
	if code, out, errs = p.gatehouse("bundle", "unpin"); code != 0 || out != "active: v2\n" {
		t.Errorf("unpin: %d %q %q", code, out, errs)
	}
	decides(2)
	if code, _, errs = p.gatehouse("bundle", "rollback", "--to", "v7"); code != 2 || !strings.Contains(errs, `no snapshot of "v7" is kept`) {
		t.Errorf("rollback to nowhere: %d %q", code, errs)
	}
	if code, body := p.get("/bundles/history"); code != 404 {
		t.Errorf("the admin port knows the commands: %d %s", code, body)
	}
}

// reload sends SIGHUP and waits for it to be done.
func (p *process) reload(t *testing.T) {
	t.Helper()
	const done = "reloaded the configuration"
	before := strings.Count(p.stderr.String(), done)
	p.signal(syscall.SIGHUP)
	eventually(t, "reloading", func() error {
		if strings.Count(p.stderr.String(), done) == before {
			return fmt.Errorf("not yet")
		}
		return nil
	})
}

func TestControlThatIsNotThere(t *testing.T) {
	t.Parallel()
	p := newProcess(t, plain)
	tests := []struct {
		args      []string
		code      int
		complaint string
	}{
		{[]string{"bundle", "rollback"}, 2, "gatehouse.yaml: listen.control is not set"},
		{[]string{"bundle", "history", "--control", "127.0.0.1:80"}, 2, `"127.0.0.1:80" is not unix:/path.sock`},
		{[]string{"bundle", "unpin", "--control", "unix:nowhere.sock"}, 2, "is it running"},
		{[]string{"bundle", "unpin", "--config", "nowhere.yaml"}, 2, "there is no nowhere.yaml"},
		{[]string{"bundle", "nothing"}, 2, "unknown command"},
	}
	for _, test := range tests {
		if code, out, errs := p.gatehouse(test.args...); code != test.code || out != "" || !strings.Contains(errs, test.complaint) {
			t.Errorf("%v: %d %q %q", test.args, code, out, errs)
		}
	}
	p.configure("listen: {grpc: [\"$GRPC\"], control: \"127.0.0.1:9999\"}\npolicy: {bundles: [{path: policy}]}\n")
	p.start()
	if code := p.exit(); code != 2 || !strings.Contains(p.stderr.String(), `gatehouse.yaml:1: listen.control: "127.0.0.1:9999" is not unix:/path.sock`) {
		t.Errorf("exit %d: %s", code, p.stderr.String())
	}
}

// A policy under which a table of requests does not hold never gets active: not at the start, not later, not by a reload.
func TestSmokeKeepsABadPolicyOut(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "listen: {grpc: [\"$GRPC\"], admin: \"$ADMIN\"}\npolicy:\n  bundles: [{path: policy}]\n  smoke: [smoke.yaml]\n")
	write(t, p.path("smoke.yaml"), "tests:\n  - name: the administrators are let in\n    allow: {as: root, roles: [admin], GET: /admin}\n")
	const open, closed = "package envoy.authz\n\nallow if \"admin\" in input.identity.roles\n", "package envoy.authz\n\ndefault allow := false\n"
	write(t, p.path("policy", "authz.rego"), closed)
	p.flags = []string{"--wait-for-policy"}
	p.start()
	smoked := func() {
		t.Helper()
		eventually(t, "waiting for the failure", func() error {
			s := p.status().Bundles[0]
			if s.Stage != "smoke" || !strings.Contains(s.Error, "smoke.yaml:2: the administrators are let in: expected allow") {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	eventually(t, "waiting for the admin port", func() error {
		if code, body := p.get("/readyz"); code != 503 {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	smoked()
	write(t, p.path("policy", "authz.rego"), open)
	eventually(t, "waiting for /readyz", func() error {
		if code, body := p.get("/readyz"); code != 200 {
			return fmt.Errorf("%d %s", code, body)
		}
		if s := p.status().Bundles[0]; s.Stage == "smoke" { // of the bundle before: a moment after it decides, a bundle says so
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	write(t, p.path("policy", "authz.rego"), closed)
	smoked()
	if s := p.status(); !s.Ready || s.Bundles[0].ActiveSince.IsZero() {
		t.Errorf("status %+v", s)
	}
	write(t, p.path("smoke.yaml"), "tests: [{alow: {}}]\n")
	p.signal(syscall.SIGHUP)
	eventually(t, "waiting for the reload to fail", func() error {
		if s := p.status(); !strings.Contains(s.ReloadError, `smoke.yaml:1: unknown key "alow"`) {
			return fmt.Errorf("%q", s.ReloadError)
		}
		return nil
	})
}

// A tarball stands wherever a directory does.
func TestTarballAsABundle(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "listen: {grpc: [\"$GRPC\"], admin: \"$ADMIN\"}\npolicy: {bundles: [{path: app.tar.gz}]}\n")
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	w := tar.NewWriter(zipped)
	for name, text := range map[string]string{"authz.rego": allowAll,
		"authz_test.rego": "package authz_test\n\ntest_one if data.envoy.authz.allow\n\ntest_two if not data.envoy.authz.allow\n"} {
		if err := w.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	write(t, p.path("app.tar.gz"), out.String())
	if code, out, errs := p.gatehouse("test"); code != 1 || !strings.Contains(out, "app.tar.gz/authz_test.rego:5") || !strings.Contains(out, "data.authz_test.test_two") {
		t.Errorf("test: %d %q %q", code, out, errs)
	}
	if code, out, errs := p.gatehouse("check", "GET", "/"); code != 0 || !strings.Contains(out, "x-rule: one") {
		t.Errorf("check: %d %q %q", code, out, errs)
	}
	// What its own tests keep out does not serve.
	p.flags = []string{"--wait-for-policy"}
	p.start()
	eventually(t, "waiting for the failure", func() error {
		if code, body := p.get("/readyz"); code != 503 {
			return fmt.Errorf("%d %s", code, body)
		}
		if s := p.status().Bundles[0]; s.Name != "app" || s.Stage != "testing" || s.File != "authz_test.rego" || s.Line != 5 {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
}
