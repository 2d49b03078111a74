package main

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestControlPage runs the quick start of docs/control.md, control and edge as processes, and goes on where it ends: control
// is killed, and the edge starts again and decides as before.
func TestControlPage(t *testing.T) {
	t.Parallel()
	script := quickStart(t, "../../docs/control.md")
	script += `
kill -9 $control; kill $edge; wait || true
gatehouse check --as alice GET /orders || echo "still out"
gatehouse serve 2>again.log & edge=$!
until grep -q 'there is no connection to control' again.log; do sleep 0.1; done
kill $edge; wait || true
! grep -q "$GATEHOUSE_CONTROL_TOKEN" control.log edge.log
echo "end of the script"
`
	out, logs, err := runQuickStart(t, script)
	for _, want := range []string{"in force at 1 edge", "default/prod  3", "web-1", "current", "allow\n", "alice is out", "delete group:eng#member@user:alice", "still out", "end of the script"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if err != nil || t.Failed() {
		t.Errorf("%v\n%s\n%s", err, out, logs)
	}
}

// TestControlPoliciesPage runs the quick start of docs/control-policies.md, and goes on where it ends: control is killed, and the edge starts
// again and decides as before.
func TestControlPoliciesPage(t *testing.T) {
	t.Parallel()
	// gatehouse check reads the edge's copy, which is written just after a policy is in force: faster than people type, and slower than a script.
	const sum, copied = `"$(cksum <state/bundles/control.bundle)"`, "gatehouse check --as mia"
	script := strings.NewReplacer("gatehouse check GET /orders\n", "until [ -f state/bundles/control.bundle ]; do sleep 0.1; done; sum="+sum+"\ngatehouse check GET /orders\n",
		copied, "until [ "+sum+` != "$sum" ]; do sleep 0.1; done; sum=`+sum+"; "+copied).Replace(quickStart(t, "../../docs/control-policies.md")) + `
kill -9 $control; kill $edge; wait || true
gatehouse serve 2>again.log & edge=$!
until grep -q 'using the bundle kept on disk' again.log; do sleep 0.1; done
gatehouse check GET /orders && gatehouse check DELETE /orders/1 || echo "as before"
kill $edge; wait || true
echo "end of the script"
`
	out, logs, err := runQuickStart(t, script)
	for _, want := range []string{"refused\n", "policy/authz.rego:6: compiling: ", "rule  changed  data.envoy.authz.allow", "rule  added", "in force at 1 edge", "back at the first", "the sale is over",
		"rollback", "default/prod", "as before", "end of the script"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if err != nil || t.Failed() {
		t.Errorf("%v\n%s\n%s", err, out, logs)
	}
}

// quickStart is a script of the blocks of a page's quick start, with ports of its own.
func quickStart(t *testing.T, file string) string {
	t.Helper()
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\n## Quick start\n")
	text, _, _ = strings.Cut(text, "\n## ")
	script := "set -e; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1) {
		script += block[1]
	}
	if strings.Count(script, "gatehouse ") < 8 {
		t.Fatalf("the quick start is gone:\n%s", script)
	}
	port := freeAddress(t)
	return strings.NewReplacer("127.0.0.1:8443", port, "control.log &\n", "control.log & control=$!\n", "edge.log &\n", "edge.log & edge=$!\n", "control serve --data ./control-data", "control serve --data ./control-data --listen "+port,
		"state_dir: ./state\n", "state_dir: ./state\nlisten: {grpc: [\""+freeAddress(t)+"\"], admin: \""+freeAddress(t)+"\"}\n").Replace(script)
}

// runQuickStart runs a script in a folder of its own. logs is what control and edge logged.
func runQuickStart(t *testing.T, script string) (out, logs string, err error) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	c := exec.CommandContext(ctx, "bash", "-c", script)
	c.Dir = t.TempDir()
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.Env = append(os.Environ(), "GATEHOUSE_CONTROL_TOKEN=", "NO_COLOR=1")
	text, err := c.CombinedOutput()
	for _, name := range []string{"edge.log", "again.log", "control.log"} {
		log, _ := os.ReadFile(c.Dir + "/" + name)
		logs += name + ":\n" + string(log) + "\n"
	}
	return string(text), logs, err
}
