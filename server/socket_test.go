package server

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"

	"gatehouse/config"
)

func openTestSocket(t *testing.T) *socket {
	t.Helper()
	s, err := openSocket(config.Socket{Mode: "0600"}, filepath.Join(t.TempDir(), "x.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// meet has a client connect while the server accepts.
func meet(t *testing.T, s *socket) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		c, err := s.Accept()
		if err == nil {
			c.Close()
		}
		done <- err
	}()
	c, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestSocketThatIsRemovedComesAgain: also for who is accepting when it happens, with the same mode.
func TestSocketThatIsRemovedComesAgain(t *testing.T) {
	s := openTestSocket(t)
	meet(t, s)
	accepted := make(chan error, 1)
	go func() {
		c, err := s.Accept()
		if err == nil {
			c.Close()
		}
		accepted <- err
	}()
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); (&Server{sockets: []*socket{s}, logger: zap.NewNop()}).watchSockets(ctx) }()
	for {
		if c, err := net.Dial("unix", s.path); err == nil {
			c.Close()
			break
		}
	}
	if err := <-accepted; err != nil {
		t.Error(err)
	}
	cancel()
	<-ended
	meet(t, s)
	if info, err := os.Stat(s.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(s.path)); len(left) != 1 {
		t.Errorf("beside the socket there is %v", left)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if again, err := s.renew(); again || err != nil {
		t.Errorf("after its end it was made again: %t, %v", again, err)
	}
}

// TestSocketOfAnotherStays: what is at the path by now is not removed and not replaced.
func TestSocketOfAnotherStays(t *testing.T) {
	s := openTestSocket(t)
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if again, err := s.renew(); again || err != nil {
		t.Errorf("%t, %v", again, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(s.path); err != nil {
		t.Error(err)
	}
}

// TestSocketOfABusyProcessIsNotTaken: its queue is full, so that it does not answer; it is there even so.
func TestSocketOfABusyProcessIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		defer c.Close()
	}
	if s, err := openSocket(config.Socket{Mode: "0600"}, path); err == nil || !strings.Contains(err.Error(), "another process may be listening on "+path) {
		t.Errorf("%v, %v", s, err)
	}
}

// TestSocketThatAProcessLeft is replaced; another kind of file, and a path that is too long, are errors that say what to do.
func TestSocketThatAProcessLeft(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.sock")
	left, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close()
	s, err := openSocket(config.Socket{Mode: "0600"}, path)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{path: "is not a socket: remove it or choose another path", filepath.Join(dir, strings.Repeat("x", 120)): "is too long: use a shorter one"} {
		if _, err := openSocket(config.Socket{Mode: "0600"}, at); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", at, err)
		}
	}
}
