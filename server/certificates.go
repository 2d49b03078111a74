package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"gatehouse/config"
	"gatehouse/watch"
)

// maxPEM bounds each of the TLS files, in bytes.
const maxPEM = 1 << 20

// tlsFiles holds the files of a TLS listener as they were read.
type tlsFiles struct{ cert, key, ca []byte }

func readTLS(c *config.TLS) (out tlsFiles, err error) {
	if c.Cert == "" || c.Key == "" {
		return out, errors.New("cert and key are both needed")
	}
	if out.cert, err = watch.ReadFile(c.Cert, maxPEM); err != nil {
		return out, fmt.Errorf("cert: %w", err)
	}
	if out.key, err = watch.ReadFile(c.Key, maxPEM); err != nil {
		return out, fmt.Errorf("key: %w", err)
	}
	if c.ClientCA != "" {
		if out.ca, err = watch.ReadFile(c.ClientCA, maxPEM); err != nil {
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

// buildTLS makes a TLS configuration of what was read. With client_ca a client must show a certificate that it signed.
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
		out.ClientAuth = tls.RequireAndVerifyClientCert
		if out.ClientCAs, err = authorities(files.ca); err != nil {
			return nil, fmt.Errorf("client_ca: %s: %w", c.ClientCA, err)
		}
	}
	return out, nil
}

// authorities reads certificates in PEM form. One that is damaged is an error: without it some clients would be refused and nobody told.
func authorities(text []byte) (*x509.CertPool, error) {
	pool, found := x509.NewCertPool(), 0
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		found++
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be read: %w", found, err)
		}
		pool.AddCert(certificate)
	}
	if bytes.Contains(text, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("what follows certificate %d is cut off or damaged", found)
	}
	if found == 0 {
		return nil, errors.New("no certificate in PEM form")
	}
	return pool, nil
}

// expired reports whether a certificate is too old at a time.
func expired(c *tls.Config, now time.Time) bool {
	leaf := c.Certificates[0].Leaf
	return leaf != nil && now.After(leaf.NotAfter)
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

// watchInterval is how often the TLS files are looked at without any event: they are often mounted where events get lost.
const watchInterval = time.Second

// watch takes changed files over once they fit together. Until then the old certificate stays in use.
func (c *certificates) watch(ctx context.Context, logger *zap.Logger) {
	targets := watch.Paths(c.config.Cert, c.config.Key)
	if c.config.ClientCA != "" {
		targets = append(targets, watch.Paths(c.config.ClientCA)...)
	}
	watch.Files(ctx, watch.Config{Targets: targets, Poll: watchInterval, Logger: logger}, func() { c.follow(logger) })
}

// follow reads the files again. Each problem is told once. A certificate that has expired does not replace one that has not.
func (c *certificates) follow(logger *zap.Logger) {
	files, err := readTLS(c.config)
	if err == nil && files.equal(c.seen) {
		if c.problem.Swap(nil) != nil {
			logger.Info("the TLS files are again those of the active certificate", zap.String("cert", c.config.Cert))
		}
		return
	}
	var next *tls.Config
	if err == nil {
		next, err = buildTLS(c.config, files)
	}
	if now := time.Now(); err == nil && expired(next, now) && !expired(c.active.Load(), now) {
		err = fmt.Errorf("%s has expired: renew it", c.config.Cert)
	}
	if err != nil {
		text := err.Error()
		if old := c.problem.Swap(&text); old == nil || *old != text {
			logger.Error("TLS files changed and cannot be used, the old certificate stays", zap.Error(err))
		}
		return
	}
	c.seen = files
	c.active.Store(next)
	c.problem.Store(nil)
	logger.Info("TLS certificate replaced", zap.String("cert", c.config.Cert))
}

// degraded says that the files of a key changed and cannot be used. Without TLS there is nothing to say.
func (c *certificates) degraded(key string) []string {
	if c == nil {
		return nil
	}
	if text := c.problem.Load(); text != nil {
		return []string{key + ": the files changed and cannot be used, the old certificate stays: " + *text}
	}
	return nil
}
