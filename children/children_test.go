package children_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatehouse/children"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines is a writer that says when something was written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	l.more <- struct{}{}
	return len(p), nil
}

func start(t *testing.T, script string, whole bool) (*children.Child, *lines) {
	t.Helper()
	out := &lines{more: make(chan struct{}, 16)}
	p, err := children.Start(children.Command{Name: "it", Argv: []string{"/bin/sh", "-c", script}, Env: os.Environ(), Output: out, Whole: whole})
	if err != nil {
		t.Fatal(err)
	}
	<-out.more
	return p, out
}

// TestStop ends a program and what it has started, by SIGTERM or else by force.
func TestStop(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		whole  bool
		killed bool
		exit   int
	}{
		"ends":                    {`trap 'exit 7' TERM; sleep 100 & echo $!; wait`, false, false, 7},
		"ends with all":           {`trap 'exit 7' TERM; sleep 100 & echo $!; wait`, true, false, 7},
		"does not end":            {`trap '' TERM; sleep 100 & echo $!; while :; do wait; done`, false, true, -1},
		"has ended":               {`sleep 100 >/dev/null 2>&1 & echo $!; exit 3`, false, false, 3},
		"leaves an output behind": {`sleep 100 & echo $!; exit 3`, false, false, 3},
	} {
		p, out := start(t, c.script, c.whole)
		if c.exit == 3 {
			<-p.Done()
		} else if p.State() != nil {
			t.Errorf("%s: it has ended", name)
		}
		grace := 30 * time.Second
		if c.killed {
			grace = 200 * time.Millisecond
		}
		err := p.Stop(grace)
		if (err != nil) != c.killed || c.killed && !strings.Contains(err.Error(), "it did not end within 200ms of SIGTERM and was killed") {
			t.Errorf("%s: %v", name, err)
		}
		if err := p.Stop(time.Second); err != nil {
			t.Errorf("%s: again: %v", name, err)
		}
		if got := p.State().ExitCode(); got != c.exit {
			t.Errorf("%s: exit code %d, want %d", name, got, c.exit)
		}
		child, err := strconv.Atoi(strings.TrimSpace(out.text.String()))
		if err != nil {
			t.Fatal(err)
		}
		for running(child) { // until the kernel has ended it
			time.Sleep(time.Millisecond)
		}
	}
}

// running reports whether a process is there that is no zombie.
func running(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	return !strings.Contains(string(text), ") Z")
}

func TestStartFails(t *testing.T) {
	if _, err := children.Start(children.Command{Name: "it", Argv: []string{"/nowhere/it"}}); err == nil || !strings.Contains(err.Error(), "starting it: ") {
		t.Error(err)
	}
}

// TestLock: one process at a time, and who waits gives up with its context.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := children.TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := children.TryLock(path); !errors.Is(err, children.ErrLocked) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := children.Lock(ctx, path); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	unlock()
	if unlock, err = children.Lock(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	unlock()
}

// TestFreePort gives no port twice, and none that is in use.
func TestFreePort(t *testing.T) {
	seen := map[int]bool{}
	for range 20 {
		port, err := children.FreePort()
		if err != nil || seen[port] || !children.IsFree(port) {
			t.Fatal(port, err)
		}
		seen[port] = true
	}
}
