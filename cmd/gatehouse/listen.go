package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"gatehouse/config"
)

// validate checks all that can be known before listening.
func validateListen(c config.Listen) error {
	var errs []error
	if len(c.GRPC) == 0 && c.HTTP == nil {
		errs = append(errs, errors.New("listen.grpc: give at least one address, or listen.http"))
	}
	if c.HTTP != nil {
		errs = append(errs, validateHTTP(c.HTTP))
	}
	for i, a := range c.GRPC {
		if _, _, err := network(a); err != nil {
			errs = append(errs, fmt.Errorf("listen.grpc[%d]: %w", i, err))
		}
	}
	if c.Admin != "" {
		if _, _, err := network(c.Admin); err != nil {
			errs = append(errs, fmt.Errorf("listen.admin: %w", err))
		}
	}
	if path, ok := config.CutUnix(c.Control); c.Control != "" && (!ok || path == "") {
		errs = append(errs, fmt.Errorf("listen.control: %q is not unix:/path.sock: what changes anything is for this machine alone", c.Control))
	}
	if c.JWKS != "" {
		if _, _, err := network(c.JWKS); err != nil {
			errs = append(errs, fmt.Errorf("listen.jwks: %w", err))
		}
	}
	errs = append(errs, c.ValidateLimits()...)
	if _, err := attributesOf(c.Socket); err != nil {
		errs = append(errs, fmt.Errorf("listen.socket: %w", err))
	}
	if c.TLS != nil {
		if _, err := loadTLS(c.TLS); err != nil {
			errs = append(errs, fmt.Errorf("listen.tls: %w", err))
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
// kind of listener; that of gRPC knows what is under way on its connections.
func openListener(c config.Listen, address string, secure *tls.Config, name string, all *connections) (net.Listener, error) {
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
	if name == "grpc" {
		return all.guard(name, l, func(c *conn) net.Conn {
			if secure != nil {
				return watchH2(c, tls.Server(c, secure))
			}
			return watchH2(c, c)
		}), nil
	}
	l = all.guard(name, l, nil)
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

// tlsFiles holds the files of a TLS listener as they were read.
type tlsFiles struct{ cert, key, ca []byte }

func readTLS(c *config.TLS) (out tlsFiles, err error) {
	if c.Cert == "" || c.Key == "" {
		return out, errors.New("cert and key are both needed")
	}
	if out.cert, err = config.ReadBounded(c.Cert); err != nil {
		return out, fmt.Errorf("cert: %w", err)
	}
	if out.key, err = config.ReadBounded(c.Key); err != nil {
		return out, fmt.Errorf("key: %w", err)
	}
	if c.ClientCA != "" {
		if out.ca, err = config.ReadBounded(c.ClientCA); err != nil {
			return out, fmt.Errorf("client_ca: %w", err)
		}
	}
	return out, nil
}

func (p tlsFiles) equal(q tlsFiles) bool {
	return bytes.Equal(p.cert, q.cert) && bytes.Equal(p.key, q.key) && bytes.Equal(p.ca, q.ca)
}

func loadTLS(c *config.TLS) (*tls.Config, error) {
	files, err := readTLS(c)
	if err != nil {
		return nil, err
	}
	return buildTLS(c, files)
}

// build makes a TLS configuration of what was read. With client_ca a client must show a certificate that it signed.
func buildTLS(c *config.TLS, files tlsFiles) (*tls.Config, error) {
	cert, err := tls.X509KeyPair(files.cert, files.key)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", c.Cert, c.Key, err)
	}
	versions := map[string]uint16{"": tls.VersionTLS12, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}
	version, ok := versions[c.MinVersion]
	if !ok {
		return nil, fmt.Errorf("min_version: %q is neither \"1.2\" nor \"1.3\"", c.MinVersion)
	}
	out := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: version, NextProtos: []string{"h2"}}
	if files.ca != nil {
		out.ClientAuth, out.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if !out.ClientCAs.AppendCertsFromPEM(files.ca) {
			return nil, fmt.Errorf("client_ca: %s holds no certificate in PEM form", c.ClientCA)
		}
	}
	return out, nil
}

// certificates serves the newest good state of the TLS files.
type certificates struct {
	config  *config.TLS
	active  atomic.Pointer[tls.Config]
	seen    tlsFiles // by watch alone, once it runs
	problem atomic.Pointer[string]
}

func newCertificates(c *config.TLS) (*certificates, error) {
	files, err := readTLS(c)
	if err != nil {
		return nil, err
	}
	active, err := buildTLS(c, files)
	if err != nil {
		return nil, err
	}
	out := &certificates{config: c, seen: files}
	out.active.Store(active)
	return out, nil
}

// server is the configuration for a listener: each handshake takes the active one.
func (c *certificates) server() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.active.Load(), nil }}
}

// watchInterval is how often the TLS files are looked at. They are small, change rarely, and are often mounted where file
// events get lost.
const watchInterval = time.Second

// watch takes changed files over once they fit together. Until then the old certificate stays in use.
func (c *certificates) watch(ctx context.Context, logger *zap.Logger) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		files, err := readTLS(c.config)
		if err == nil && files.equal(c.seen) {
			continue
		}
		var next *tls.Config
		if err == nil {
			next, err = buildTLS(c.config, files)
		}
		if err != nil {
			text := err.Error()
			if old := c.problem.Swap(&text); old == nil || *old != text {
				logger.Error("TLS files changed and cannot be used, the old certificate stays", zap.Error(err))
			}
			continue
		}
		c.seen = files
		c.active.Store(next)
		c.problem.Store(nil)
		logger.Info("TLS certificate replaced", zap.String("cert", c.config.Cert))
	}
}
