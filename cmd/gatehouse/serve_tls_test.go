package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/credentials"
)

const secure = `
listen: {grpc: ["$GRPC"], admin: "$ADMIN", tls: {cert: tls.crt, key: tls.key}}
policy: {bundles: [{path: policy}]}
`

func (p *process) certify(ca *authority, name string) {
	p.t.Helper()
	cert, key := ca.issue(p.t, name)
	write(p.t, p.path("tls.crt"), cert)
	write(p.t, p.path("tls.key"), key)
}

// shakes reports whether a client that speaks at most this version of TLS gets through the handshake. Clients of gRPC would
// not try the old ones.
func shakes(ca *authority, address, name string, most uint16, certs ...tls.Certificate) bool {
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: ca.pool(), ServerName: name, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS10,
		MaxVersion: most, Certificates: certs})
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func TestServeOverTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	p := newProcess(t, secure)
	p.certify(ca, "first.test")
	p.ready()
	as := func(name string) error {
		code, _, err := check(t.Context(), dial(t, p.grpc, credentials.NewTLS(&tls.Config{RootCAs: ca.pool(), ServerName: name})))
		if err == nil && code != 200 {
			err = fmt.Errorf("status %d", code)
		}
		return err
	}
	if err := as("first.test"); err != nil {
		t.Fatal(err)
	}
	if shakes(ca, p.grpc, "first.test", tls.VersionTLS11) || !shakes(ca, p.grpc, "first.test", tls.VersionTLS12) {
		t.Error("TLS 1.2 is not the least")
	}
	if _, _, err := check(t.Context(), dial(t, p.grpc, nil)); err == nil {
		t.Error("plain text is accepted")
	}

	good, err := os.ReadFile(p.path("tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	isBroken := func() error {
		if got := p.status().TLSError; !strings.Contains(got, "tls.crt") {
			return fmt.Errorf("tls_error is %q", got)
		}
		return nil
	}
	isWhole := func() error {
		if got := p.status().TLSError; got != "" {
			return errors.New(got)
		}
		return nil
	}
	write(t, p.path("tls.crt"), "half a certi")
	eventually(t, "waiting for tls_error", isBroken)
	write(t, p.path("tls.crt"), string(good))
	eventually(t, "waiting for tls_error to go with the same certificate", isWhole)
	write(t, p.path("tls.crt"), "half a certi")
	eventually(t, "waiting for tls_error again", isBroken)
	if err := as("first.test"); err != nil {
		t.Errorf("the old certificate does not stay: %v", err)
	}
	p.certify(ca, "second.test")
	eventually(t, "waiting for the new certificate", func() error { return as("second.test") })
	eventually(t, "waiting for tls_error to go", isWhole)
	if err := as("first.test"); err == nil {
		t.Error("the old certificate is still shown")
	}
}

func TestServeOverMutualTLS(t *testing.T) {
	t.Parallel()
	ca, clients, strangers := newAuthority(t), newAuthority(t), newAuthority(t)
	p := newProcess(t, strings.Replace(secure, "key: tls.key", `key: tls.key, client_ca: ca.crt, min_version: "1.3"`, 1))
	p.certify(ca, "gate.test")
	write(t, p.path("ca.crt"), clients.pem())
	p.ready()
	sessions := tls.NewLRUClientSessionCache(8) // the friend's
	connect := func(cache tls.ClientSessionCache, certs ...tls.Certificate) error {
		cfg := &tls.Config{RootCAs: ca.pool(), ServerName: "gate.test", Certificates: certs, ClientSessionCache: cache}
		_, _, err := check(t.Context(), dial(t, p.grpc, credentials.NewTLS(cfg)))
		return err
	}
	friend, stranger := clients.pair(t, "envoy"), strangers.pair(t, "envoy")
	for range 2 { // the second time by resuming the session
		if err := connect(sessions, friend); err != nil {
			t.Fatal(err)
		}
	}
	if shakes(ca, p.grpc, "gate.test", tls.VersionTLS12, friend) || !shakes(ca, p.grpc, "gate.test", tls.VersionTLS13, friend) {
		t.Error("min_version is not honoured")
	}
	if connect(nil) == nil {
		t.Error("a client without a certificate is accepted")
	}
	if connect(nil, stranger) == nil {
		t.Error("a client with another authority's certificate is accepted")
	}
	write(t, p.path("ca.crt"), strangers.pem())
	eventually(t, "waiting for the new authority", func() error { return connect(nil, stranger) })
	if connect(nil, friend) == nil {
		t.Error("the authority that was taken away is still accepted")
	}
	if connect(sessions, friend) == nil {
		t.Error("a session outlives the authority that it was begun under")
	}
}
