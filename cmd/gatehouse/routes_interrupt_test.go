package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestImportEndsWithItsContext: Ctrl-C and TERM cancel the context (main.go). The import ends, and so do the interpreter and what it started.
func TestImportEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	pids := filepath.Join(dir, "pids")
	app := "import os, subprocess, time\nchild = subprocess.Popen(['sleep', '600'])\n" +
		"with open('pids.part', 'w') as f:\n    f.write(f'{os.getpid()} {child.pid}')\nos.rename('pids.part', 'pids')\ntime.sleep(600)\n"
	if err := os.WriteFile(filepath.Join(dir, "hangs.py"), []byte(app), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout, stderr strings.Builder
	done := make(chan int)
	go func() {
		done <- run(ctx, []string{"routes", "import", "flask", "hangs:app", "--dir", dir, "--python", pythonWithFrameworks(t)}, &stdout, &stderr)
	}()
	var started []int
	for len(started) < 2 {
		text, err := os.ReadFile(pids)
		if err != nil {
			time.Sleep(10 * time.Millisecond) // the application tells nobody that it hangs
			continue
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			started = append(started, pid)
		}
	}
	cancel()
	if code := <-done; code != 1 || !strings.Contains(stderr.String(), "interrupted") {
		t.Errorf("%d %s", code, stderr.String())
	}
	for _, pid := range started {
		for alive(pid) {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// alive reports whether a process is there and no zombie that nobody waits for.
func alive(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestImportTimeout(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hangs.py"), []byte("import time\ntime.sleep(600)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := invoke(t, "routes", "import", "flask", "hangs:app", "--dir", dir, "--python", pythonWithFrameworks(t), "--timeout", "4s")
	if code != 1 || !strings.Contains(stderr, "not done after 4s; give it longer with --timeout") || !strings.Contains(stderr, "importing hangs:app: 3s\n") {
		t.Errorf("%d %s", code, stderr)
	}
}
