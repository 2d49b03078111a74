package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse/config"
	"gatehouse/server/conns"
)

// ValidateListen checks all that can be known before listening.
func ValidateListen(c config.Listen) error {
	var errs []error
	if len(c.GRPC) == 0 && c.HTTP == nil {
		errs = append(errs, config.Wrong("listen.grpc", "give at least one address, or listen.http"))
	}
	if c.HTTP != nil {
		errs = append(errs, validateHTTP(c.HTTP))
	}
	if c.Directory != nil {
		errs = append(errs, validateDirectoryListen(c.Directory))
	}
	for i, a := range c.GRPC {
		if _, _, err := network(a); err != nil {
			errs = append(errs, config.Wrong(fmt.Sprintf("listen.grpc[%d]", i), "%w", err))
		}
	}
	if c.Admin != "" {
		if _, _, err := network(c.Admin); err != nil {
			errs = append(errs, config.Wrong("listen.admin", "%w", err))
		}
	}
	if path, ok := config.CutUnix(c.Control); c.Control != "" && (!ok || path == "") {
		errs = append(errs, config.Wrong("listen.control", "%q is not unix:/path.sock: what changes anything is for this machine alone", c.Control))
	}
	if c.JWKS != "" {
		if _, _, err := network(c.JWKS); err != nil {
			errs = append(errs, config.Wrong("listen.jwks", "%w", err))
		}
	}
	errs = append(errs, c.ValidateLimits()...)
	if _, err := attributesOf(c.Socket); err != nil {
		errs = append(errs, config.Wrong("listen.socket", "%w", err))
	}
	if c.TLS != nil {
		if _, err := loadTLS(c.TLS); err != nil {
			errs = append(errs, config.Wrong("listen.tls", "%w", err))
		}
	}
	return errors.Join(errs...)
}

// network splits "unix:/path" and "host:port" into what net.Listen takes.
func network(address string) (string, string, error) {
	if path, ok := config.CutUnix(address); ok {
		if path == "" {
			return "", "", fmt.Errorf("%q: the socket's path is missing", address)
		}
		return "unix", path, nil
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return "", "", fmt.Errorf("%q is not host:port or unix:/path.sock", address)
	}
	return "tcp", address, nil
}

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

// open listens on one address. A TCP listener speaks TLS where secure is given; a unix socket has its file's mode instead. name is that of the
// kind of listener; those of gRPC know what is under way on its connections.
func openListener(c config.Listen, address string, secure *tls.Config, name string, all *conns.Connections) (net.Listener, error) {
	kind, at, err := network(address)
	if err != nil {
		return nil, err
	}
	var l net.Listener
	if kind == "unix" {
		l, err = openSocket(c, at)
		secure = nil
	} else {
		l, err = net.Listen(kind, at)
	}
	if err != nil {
		return nil, err
	}
	if name == "grpc" || name == "directory" {
		return all.Guard(name, l, func(c *conns.Conn) net.Conn {
			if secure != nil {
				return conns.WatchH2(c, tls.Server(c, secure))
			}
			return conns.WatchH2(c, c)
		}), nil
	}
	l = all.Guard(name, l, nil)
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	return l, nil
}

// openSocket listens on a unix socket that has its mode and owner from the first moment on. A socket that a process left
// behind is replaced; one on which somebody answers, and any other kind of file, is not touched.
func openSocket(c config.Listen, path string) (net.Listener, error) {
	attributes, err := attributesOf(c.Socket)
	if err != nil {
		return nil, err
	}
	if err := clearStale(path); err != nil {
		return nil, err
	}
	fresh := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%d", filepath.Base(path), os.Getpid()))
	_ = os.Remove(fresh) // ours, of an earlier process with this id
	l, err := net.Listen("unix", fresh)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	err = errors.Join(os.Chmod(fresh, attributes.mode), os.Chown(fresh, attributes.uid, attributes.gid))
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		l.Close()
		_ = os.Remove(fresh)
		return nil, err
	}
	return &socket{Listener: l, path: path}, nil
}

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
	if err == nil {
		conn.Close()
		return fmt.Errorf("another process is listening on %s", path)
	}
	return nil // nobody answers: the rename replaces it
}

// socket removes its file when it closes, if the file is still its own.
type socket struct {
	net.Listener
	path string
}

// Close implements net.Listener.
func (s *socket) Close() error {
	err := s.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	if conn, dialErr := net.DialTimeout("unix", s.path, time.Second); dialErr == nil {
		conn.Close() // somebody else has taken the path over
		return err
	}
	return errors.Join(err, os.Remove(s.path))
}

// Addr implements net.Listener: the path that clients use, not the one it was made under.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// listen opens every listener, or none.
func (s *Server) listen(doc *config.Document) error {
	var errs []error
	var secure *tls.Config
	if c := s.config.Listen.TLS; c != nil {
		var err error
		if s.certificates, err = newCertificates(c); err != nil {
			return fmt.Errorf("%s: listen.tls: %w", doc.At("listen.tls"), err)
		}
		secure = s.certificates.server()
	}
	open := func(key, address string, secure *tls.Config) net.Listener {
		c := s.config.Listen
		if key == "listen.control" {
			c.Socket = config.Socket{Mode: "0600"}
		}
		l, err := openListener(c, address, secure, listenerName(key), s.conns)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", doc.At(key), key, err))
			return nil
		}
		return l
	}
	for i, address := range s.config.Listen.GRPC {
		if l := open(fmt.Sprintf("listen.grpc[%d]", i), address, secure); l != nil {
			s.listeners = append(s.listeners, l)
		}
	}
	if c := s.config.Listen.HTTP; c != nil {
		s.http.listener = open("listen.http.address", c.Address, overHTTP(secure))
	}
	if s.config.Listen.Admin != "" {
		s.admin = open("listen.admin", s.config.Listen.Admin, nil)
	}
	if path, ok := config.CutUnix(s.config.Listen.Control); ok {
		s.control = open("listen.control", "unix:"+path, nil)
	}
	if s.config.Listen.JWKS != "" {
		s.jwks = open("listen.jwks", s.config.Listen.JWKS, nil)
	}
	if err := s.directory.open(s.config.Listen.Directory, open); err != nil {
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil
	}
	for _, l := range slices.Concat(s.listeners, s.directory.listeners, s.directory.authzen.listeners) {
		l.Close()
	}
	for _, l := range []net.Listener{s.http.listener, s.admin, s.control, s.jwks} {
		if l != nil {
			l.Close()
		}
	}
	return fmt.Errorf("cannot listen, nothing was started:\n%w\nanother process may be listening there: change the address, or stop it", errors.Join(errs...))
}

// listenerName is the kind of listener that a key configures.
func listenerName(key string) string {
	if strings.HasPrefix(key, authzenKey) {
		return "authzen"
	}
	name := strings.TrimPrefix(key, "listen.")
	if end := strings.IndexAny(name, ".["); end >= 0 {
		name = name[:end]
	}
	return name
}

// addresses are what listeners are bound to.
func addresses(listeners ...net.Listener) []string {
	out := []string{}
	for _, l := range listeners {
		if l != nil {
			out = append(out, l.Addr().String())
		}
	}
	return out
}
