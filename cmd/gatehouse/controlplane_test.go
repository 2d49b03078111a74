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
	page, err := os.ReadFile("../../docs/control.md")
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
	script = strings.NewReplacer("127.0.0.1:8443", port, "control.log &\n", "control.log & control=$!\n", "edge.log &\n", "edge.log & edge=$!\n", "control serve --data ./control-data", "control serve --data ./control-data --listen "+port,
		"state_dir: ./state\n", "state_dir: ./state\nlisten: {grpc: [\""+freeAddress(t)+"\"], admin: \""+freeAddress(t)+"\"}\n").Replace(script)
	script += `
kill -9 $control; kill $edge; wait || true
gatehouse check --as alice GET /orders || echo "still out"
gatehouse serve 2>again.log & edge=$!
until grep -q 'there is no connection to control' again.log; do sleep 0.1; done
kill $edge; wait || true
! grep -q "$GATEHOUSE_CONTROL_TOKEN" control.log edge.log
echo "end of the script"
`
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	c := exec.CommandContext(ctx, "bash", "-c", script)
	c.Dir = t.TempDir()
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.Env = append(os.Environ(), "GATEHOUSE_CONTROL_TOKEN=", "NO_COLOR=1")
	out, err := c.CombinedOutput()
	for _, want := range []string{"in force at 1 edge", "default/prod  3", "web-1", "current", "allow\n", "alice is out", "delete group:eng#member@user:alice", "still out", "end of the script"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if err != nil || t.Failed() {
		edge, _ := os.ReadFile(c.Dir + "/edge.log")
		log, _ := os.ReadFile(c.Dir + "/control.log")
		t.Errorf("%v\n%s\nedge:\n%s\ncontrol:\n%s", err, out, edge, log)
	}
}
