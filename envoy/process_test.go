package envoy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"os/exec"
	"regexp"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// demoProcess runs `gatehouse demo` as a process and returns it when Envoy is up, with Envoy's host:port.
func demoProcess(t *testing.T) (demo *exec.Cmd, envoy string) {
	t.Helper()
	demo = exec.Command(gatehouseBinary, "demo", "--root", root, "--dir", workDir(t))
	out, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if m := regexp.MustCompile(`\$URL is http://(\S+)`).FindStringSubmatch(lines.Text()); m != nil {
			go io.Copy(io.Discard, out)
			return demo, m[1]
		}
	}
	t.Fatalf("the demo ended early: %v", demo.Wait())
	return nil, ""
}

// gone waits until nobody listens on address any more.
func gone(t *testing.T, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if ctx.Err() != nil {
			t.Fatalf("%s is still there", address)
		}
		if err != nil {
			return
		}
		conn.Close()
	}
}

// Whatever ends the demo, it takes its children along.
func TestDemoLeavesNothingBehind(t *testing.T) {
	signals := map[string]syscall.Signal{"Ctrl-C": syscall.SIGINT, "SIGTERM": syscall.SIGTERM}
	if runtime.GOOS == "linux" { // elsewhere nobody tells the children
		signals["SIGKILL"] = syscall.SIGKILL
	}
	for name, signal := range signals {
		demo, envoy := demoProcess(t)
		if err := demo.Process.Signal(signal); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = demo.Wait() // the exit code depends on how far it had come
		gone(t, envoy)
	}
}
