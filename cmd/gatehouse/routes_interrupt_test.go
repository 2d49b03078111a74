package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
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
	if code := <-done; code != 2 || !strings.Contains(stderr.String(), "interrupted") {
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

// hanging returns the folder of an application whose import never ends.
func hanging(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hangs.py"), []byte("import time\ntime.sleep(600)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestImportTimeout(t *testing.T) {
	t.Parallel()
	_, stderr, code := invoke(t, "routes", "import", "flask", "hangs:app", "--dir", hanging(t), "--python", pythonWithFrameworks(t), "--timeout", "100ms")
	if code != 2 || !strings.Contains(stderr, "not done after 100ms; give it longer with --timeout") {
		t.Errorf("%d %s", code, stderr)
	}
}

// calledWith calls a func with all that is written.
type calledWith func(text string)

func (f calledWith) Write(p []byte) (int, error) { f(string(p)); return len(p), nil }

// TestImportSaysThatItGoesOn: an import that takes long reports progress; the test waits for the first report and then interrupts.
func TestImportSaysThatItGoesOn(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	printed := ""
	stderr := calledWith(func(text string) {
		if printed += text; strings.Contains(printed, "importing hangs:app: ") {
			cancel()
		}
	})
	code := run(ctx, []string{"routes", "import", "flask", "hangs:app", "--dir", hanging(t), "--python", pythonWithFrameworks(t), "--timeout", "10m"}, io.Discard, stderr)
	if code != 2 || !regexp.MustCompile(`importing hangs:app: \d+s\n`).MatchString(printed) || !strings.Contains(printed, "interrupted") {
		t.Errorf("%d %s", code, printed)
	}
}
