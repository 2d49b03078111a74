package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// overUnix and overTLS are clients that behave as a proxy does.
func overUnix(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
}

func overTLS(c *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: c, ForceAttemptHTTP2: true}}
}

func authorized(c *http.Client, url string) (*http.Response, error) {
	resp, err := c.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("x-rule") != "one" {
		return resp, fmt.Errorf("%s %v", resp.Status, resp.Header)
	}
	return resp, nil
}

// Over a unix socket, without any gRPC listener, and through a reload.
func TestHTTPModeOnSocket(t *testing.T) {
	t.Parallel()
	const config = `
listen: {grpc: [], http: {address: "unix:http.sock", proxy: envoy}, admin: "$ADMIN", socket: {mode: "0600"}}
policy: {bundles: [{path: ./policy}]}
`
	p := newProcess(t, config).ready()
	ask := func() error { _, err := authorized(overUnix(p.path("http.sock")), "http://h/orders"); return err }
	if err := ask(); err != nil {
		t.Error(err)
	}
	p.signal(syscall.SIGHUP)
	eventually(t, "after a reload", ask)
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := net.Dial("unix", p.path("http.sock")); err == nil {
		t.Error("the socket still answers")
	}
}

// listen.tls holds for http too, and speaks HTTP/1.1 there: also to a client that offers HTTP/2.
func TestHTTPModeOverTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	cert, key := a.issue(t, "gatehouse.test")
	address := freeAddress(t)
	p := newProcess(t, `
listen:
  grpc: ["$GRPC"]
  http: {address: "`+address+`", proxy: envoy}
  admin: "$ADMIN"
  tls: {cert: tls.crt, key: tls.key, client_ca: ca.crt}
policy: {bundles: [{path: ./policy}]}
`)
	write(t, p.path("tls.crt"), cert)
	write(t, p.path("tls.key"), key)
	write(t, p.path("ca.crt"), a.pem())
	p.ready()
	known := &tls.Config{RootCAs: a.pool(), ServerName: "gatehouse.test", Certificates: []tls.Certificate{a.pair(t, "proxy")}}
	resp, err := authorized(overTLS(known), "https://"+address+"/orders")
	if err != nil {
		t.Fatal(err)
	}
	if resp.Proto != "HTTP/1.1" {
		t.Errorf("it speaks %s", resp.Proto)
	}
	for name, c := range map[string]*http.Client{
		"without a certificate": overTLS(&tls.Config{RootCAs: a.pool(), ServerName: "gatehouse.test"}),
		"with somebody else's":  overTLS(&tls.Config{RootCAs: a.pool(), ServerName: "gatehouse.test", Certificates: []tls.Certificate{newAuthority(t).pair(t, "proxy")}}),
		"with TLS 1.1":          overTLS(&tls.Config{RootCAs: a.pool(), ServerName: "gatehouse.test", MaxVersion: tls.VersionTLS11, Certificates: known.Certificates}),
	} {
		if resp, err := authorized(c, "https://"+address+"/orders"); err == nil {
			t.Errorf("a client %s is answered: %v", name, resp.Header)
		}
	}
	if resp, err := http.Get("http://" + address + "/orders"); err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("without TLS it allows")
		}
	}
}

// A request under way at SIGTERM gets its answer, which ends the connection; then the process ends.
func TestHTTPModeDrains(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	p := newProcess(t, `
listen: {grpc: ["$GRPC"], http: {address: "`+address+`", proxy: envoy}, admin: "$ADMIN", drain_delay: 1s}
policy: {bundles: [{path: ./policy}]}
`).ready()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(hangGuard))
	send := func(s string) {
		t.Helper()
		if _, err := io.WriteString(conn, s); err != nil {
			t.Fatal(err)
		}
	}
	send("POST /orders HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab")
	p.signal(syscall.SIGTERM)
	eventually(t, "draining", func() error {
		if code, body := p.get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "draining") {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	send("cd")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !resp.Close {
		t.Errorf("%s, closes: %t", resp.Status, resp.Close)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// What listen.http cannot mean stops the start, with the line and the reason.
func TestHTTPModeRefusesConfig(t *testing.T) {
	t.Parallel()
	for http, want := range map[string]string{
		`{address: "127.0.0.1:0"}`:                                "listen.http.proxy: say which one asks",
		`{address: "127.0.0.1:0", proxy: caddy}`:                  `listen.http.proxy: "caddy" is none of envoy, nginx, traefik`,
		`{address: "127.0.0.1:0", proxy: nginx, path_prefix: /a}`: `listen.http.path_prefix: "/a": only Envoy has one`,
		`{address: "127.0.0.1:0", proxy: envoy, path_prefix: a}`:  `listen.http.path_prefix: "a"`,
		`{proxy: envoy}`: `listen.http.address: "" is not host:port`,
		`{address: "127.0.0.1:0", proxy: envoy, trust_forwarded: always}`: "trust_forwarded",
	} {
		p := newProcess(t, "listen:\n  http: "+http+"\npolicy: {bundles: [{path: ./policy}]}\n").start()
		if code := p.exit(); code != 2 || !strings.Contains(p.stderr.String(), want) || !strings.Contains(p.stderr.String(), "gatehouse.yaml:") {
			t.Errorf("%s: exit code %d, %q; want %q", http, code, p.stderr.String(), want)
		}
	}
}
