package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestServeThatFailsLeavesNothing: no state, no decision log and no sockets stay of a process that cannot listen.
func TestServeThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := newProcess(t, fmt.Sprintf(`state_dir: .gatehouse
listen:
  grpc: ["unix:a.sock", %q]
  admin: $ADMIN
  control: unix:control.sock
policy: {bundles: [{path: policy}]}
decision_log:
  file: decisions.jsonl
  sinks: [{opa: {url: "http://127.0.0.1:1/logs"}}]
`, taken.Addr())).start()
	if code := p.exit(); code != 2 || !strings.Contains(p.stderr.String(), "cannot listen, nothing was started") {
		t.Fatalf("%d: %s", code, p.stderr.String())
	}
	p.leftNothing(t)
}

// leftNothing: beside what it was given, nothing is in the process's folder.
func (p *process) leftNothing(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "policy" && e.Name() != "gatehouse.yaml" {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

// TestServeOutlivesWhoReadsItsLog: a log collector that ends closes the pipe that standard error is, and decisions go on.
func TestServeOutlivesWhoReadsItsLog(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "listen: {grpc: [$GRPC], admin: $ADMIN}\npolicy: {bundles: [{path: policy}]}\n")
	reads, writes, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("gatehouse", "serve", "--config", filepath.Join(p.dir, "gatehouse.yaml"))
	cmd.Dir, cmd.Stderr = p.dir, writes
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writes.Close()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	up := func() error {
		if code, body := p.get("/readyz"); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	}
	eventually(t, "waiting for /readyz", up)
	reads.Close()
	view := p.status().View
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil { // which it logs
		t.Fatal(err)
	}
	eventually(t, "waiting for the reload", func() error {
		if got := p.status().View; got == view {
			return fmt.Errorf("view %d", got)
		}
		return nil
	})
	if err := up(); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
