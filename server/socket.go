package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"gatehouse/config"
)

// socketAttributes are the mode and the owner of a unix socket, -1 for an id that stays as it is.
type socketAttributes struct {
	mode     fs.FileMode
	uid, gid int
}

func attributesOf(c config.Socket) (socketAttributes, error) {
	out := socketAttributes{uid: -1, gid: -1}
	mode, err := strconv.ParseUint(c.Mode, 8, 32)
	if err != nil || mode > 0o777 {
		return out, fmt.Errorf("mode: %q is not a file mode such as \"0660\"", c.Mode)
	}
	out.mode = fs.FileMode(mode)
	if c.Owner != "" {
		u, err := user.Lookup(c.Owner)
		if err != nil {
			return out, fmt.Errorf("owner: %w", err)
		}
		if out.uid, err = strconv.Atoi(u.Uid); err != nil {
			return out, fmt.Errorf("owner %q: %w", c.Owner, err)
		}
	}
	if c.Group != "" {
		g, err := user.LookupGroup(c.Group)
		if err != nil {
			return out, fmt.Errorf("group: %w", err)
		}
		if out.gid, err = strconv.Atoi(g.Gid); err != nil {
			return out, fmt.Errorf("group %q: %w", c.Group, err)
		}
	}
	return out, nil
}

// socket listens on a unix socket. Its file may be removed while it is in use: then it is made again.
type socket struct {
	with config.Socket
	path string

	mu       sync.Mutex // guards what follows
	listener net.Listener
	file     fs.FileInfo // of path, as it was made
	closed   bool
}

// maxSocketPath is the longest path of a unix socket on Linux, in bytes.
const maxSocketPath = 107

// openSocket listens on a unix socket that has its mode and owner from the first moment on. A socket that a process left behind is replaced; one
// that is in use, and any other kind of file, is not touched.
func openSocket(c config.Socket, path string) (*socket, error) {
	s := &socket{with: c, path: path}
	if err := clearStale(path); err != nil {
		return nil, err
	}
	return s, s.bind()
}

// bind makes the socket in a folder that nobody else can enter, and moves it to its place.
func (s *socket) bind() error {
	attributes, err := attributesOf(s.with)
	if err != nil {
		return err
	}
	private, err := os.MkdirTemp(filepath.Dir(s.path), ".g")
	if err != nil {
		return fmt.Errorf("listen unix %s: its folder must be there, and be ours to write to: %w", s.path, err)
	}
	defer os.RemoveAll(private)
	fresh := filepath.Join(private, "s")
	if len(s.path) > maxSocketPath || len(fresh) > maxSocketPath {
		return fmt.Errorf("the path %s is too long: use a shorter one, a unix socket's has at most %d bytes", s.path, maxSocketPath)
	}
	l, err := net.Listen("unix", fresh)
	if err != nil {
		return err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	err = errors.Join(os.Chmod(fresh, attributes.mode), os.Chown(fresh, attributes.uid, attributes.gid))
	if err == nil {
		s.file, err = os.Lstat(fresh)
	}
	if err == nil {
		err = os.Rename(fresh, s.path)
	}
	if err != nil {
		l.Close()
		return err
	}
	s.listener = l
	return nil
}

// clearStale reports whether a socket may be put at path. Only one that refuses connections is nobody's: a process that is busy, and one that we may
// not talk to, is there even so.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket: remove it or choose another path", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("another process is listening on %s", path)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("another process may be listening on %s (%w): stop it, or remove the socket", path, err)
}

// Accept implements net.Listener.
func (s *socket) Accept() (net.Conn, error) {
	for {
		l, _ := s.current()
		conn, err := l.Accept()
		if next, closed := s.current(); err != nil && next != l && !closed {
			continue // the socket was made again
		}
		return conn, err
	}
}

func (s *socket) current() (l net.Listener, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener, s.closed
}

// Close implements net.Listener. It removes the file, if that is still its own.
func (s *socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	err := s.listener.Close()
	if now, statErr := os.Lstat(s.path); statErr == nil && os.SameFile(now, s.file) {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}

// Addr implements net.Listener: the path that clients use, not the one it was made under.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// renew makes the socket again where its file was removed, and reports whether it did. What another process put there is left alone.
func (s *socket) renew() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := os.Lstat(s.path); s.closed || !errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	old := s.listener
	if err := s.bind(); err != nil {
		return false, err
	}
	_ = old.Close() // nobody can connect to it
	return true, nil
}

// watchSockets makes sockets again that were removed, until ctx ends: by a cleaner of temporary folders, for one. Without that the proxy could not
// connect any more.
func (s *Server) watchSockets(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, one := range s.sockets {
			switch renewed, err := one.renew(); {
			case renewed:
				said = ""
				s.logger.Warn("a socket was removed while it was in use, and made again", zap.String("socket", one.path))
			case err != nil && err.Error() != said:
				said = err.Error()
				s.logger.Error("a socket was removed and cannot be made again: will keep trying", zap.String("socket", one.path), zap.Error(err))
			}
		}
	}
}
