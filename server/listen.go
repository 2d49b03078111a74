package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"gatehouse/config"
	"gatehouse/server/conns"
)

// ValidateListen checks all that can be known before listening.
func ValidateListen(c config.Listen) error {
	err := validateRest(c)
	if len(c.GRPC) == 0 && c.HTTP == nil {
		err = errors.Join(config.Wrong("listen.grpc", "give at least one address, or listen.http"), err)
	}
	return err
}

// validateListen is ValidateListen; a proxy that asks by itself needs no address to ask at.
func (c Config) validateListen(listen config.Listen) error {
	if c.Embedded {
		return validateRest(listen)
	}
	return ValidateListen(listen)
}

func validateRest(c config.Listen) error {
	var errs []error
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
	_, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return "", "", fmt.Errorf("%q is not host:port or unix:/path.sock", address)
	}
	if n, err := strconv.Atoi(port); err == nil && (n < 0 || n > 65535) {
		return "", "", fmt.Errorf("%q: a port is from 0 to 65535", address)
	}
	return "tcp", address, nil
}

// openListener listens on one address. A TCP listener speaks TLS where secure is given; a unix socket has its file's mode instead. name is that of the
// kind of listener; those of gRPC know what is under way on its connections.
func (s *Server) openListener(c config.Listen, address string, secure *tls.Config, name string) (net.Listener, error) {
	kind, at, err := network(address)
	if err != nil {
		return nil, err
	}
	var l net.Listener
	if kind == "unix" {
		var opened *socket
		if opened, err = openSocket(c.Socket, at); err == nil {
			s.sockets = append(s.sockets, opened)
		}
		l, secure = opened, nil
	} else {
		l, err = net.Listen(kind, at)
	}
	if err != nil {
		return nil, err
	}
	if name == "grpc" || name == "directory" {
		return s.conns.Guard(name, l, func(c *conns.Conn) net.Conn {
			if secure != nil {
				return conns.WatchH2(c, tls.Server(c, secure))
			}
			return conns.WatchH2(c, c)
		}), nil
	}
	l = s.conns.Guard(name, l, nil)
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	return l, nil
}

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
		l, err := s.openListener(c, address, secure, listenerName(key))
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
	s.closeListeners()
	return fmt.Errorf("cannot listen, nothing was started:\n%w\nchange the address, or stop what listens there", errors.Join(errs...))
}

// closeListeners is for listeners that nobody serves.
func (s *Server) closeListeners() {
	for _, l := range slices.Concat(s.listeners, s.directory.listeners, s.directory.authzen.listeners, []net.Listener{s.http.listener, s.admin, s.control, s.jwks}) {
		if l != nil {
			l.Close()
		}
	}
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
