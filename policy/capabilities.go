package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/builtins"
)

// Capabilities enables built-ins that reach out of the process or reveal its state. The zero value enables none.
type Capabilities struct {
	// HTTPSend lists the hosts (names or addresses, without port) that http.send may call; empty disables it.
	HTTPSend []string
	// HTTPSendPrivate allows those hosts to have loopback, private and link-local addresses. Otherwise such connections are refused when
	// dialling, so that no DNS record can point inside.
	HTTPSendPrivate bool
	// HTTPSendCache bounds, in bytes, the http.send responses and their requests that are cached where the policy asks for it (cache,
	// force_cache); 0: 10 MiB. The cache belongs to the snapshot.
	HTTPSendCache int64
	// NetLookup lists the names that net.lookup_ip_addr may resolve; empty disables it.
	NetLookup []string
	// Runtime enables opa.runtime; its result is always empty.
	Runtime bool
}

func (c Capabilities) grant(name string) bool {
	switch name {
	case "http.send":
		return len(c.HTTPSend) > 0
	case "net.lookup_ip_addr":
		return len(c.NetLookup) > 0
	case "opa.runtime":
		return c.Runtime
	}
	return true
}

// HostError is an invalid host in Capabilities.
type HostError struct{ Host string }

func (e *HostError) Error() string {
	return fmt.Sprintf("%q is not a host: give names or addresses, without scheme, port and wildcards", e.Host)
}

func (c Capabilities) validate() error {
	for _, host := range slices.Concat(c.HTTPSend, c.NetLookup) {
		if host == "" || strings.ContainsAny(host, "/ *@") {
			return &HostError{host}
		}
	}
	return nil
}

// compiler returns OPA's capabilities without the disabled built-ins, plus the directory's. AllowNet is never nil: nil would allow every
// host.
func (c Capabilities) compiler() *ast.Capabilities {
	all := ast.CapabilitiesForThisVersion()
	all.Builtins = slices.DeleteFunc(all.Builtins, func(b *ast.Builtin) bool { return !c.grant(b.Name) })
	all.Builtins = append(all.Builtins, builtins.DirectoryDeclarations()...)
	all.AllowNet = append(append([]string{}, c.HTTPSend...), c.NetLookup...)
	return all
}

var errPrivate = errors.New("the address is private, and policy.capabilities.http_send.private is not set")

// transport restricts http.send to the listed hosts when dialling: after redirects and DNS. Proxies from the environment are not used,
// because the check would only see the proxy's address. OPA passes nil where the call needs no transport of its own.
func (c Capabilities) transport(t *http.Transport) http.RoundTripper {
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if c.HTTPSendPrivate || public(at.Addr()) {
			return nil
		}
		return errPrivate
	}}
	if t == nil {
		t = http.DefaultTransport.(*http.Transport).Clone()
	}
	t.Proxy = nil
	t.DisableKeepAlives = true // the transport is used for one call: no connection may stay open
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil || !slices.Contains(c.HTTPSend, host) || !strings.HasPrefix(network, "tcp") {
			return nil, fmt.Errorf("host %q is not in policy.capabilities.http_send.hosts", host)
		}
		return dialer.DialContext(ctx, network, address)
	}
	t.DialTLSContext = nil
	return bounded{t}
}

// shared are ranges that netip does not call private but that lead inside: shared address space (RFC 6598), and IPv6 addresses that embed
// IPv4 ones (RFC 6052, RFC 8215, RFC 3056).
var shared = [...]netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2002::/16")}

// public reports whether an address is on the public Internet.
func public(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !slices.ContainsFunc(shared[:], func(p netip.Prefix) bool { return p.Contains(ip) })
}

// maxAnswer bounds the decompressed body of an http.send response, in bytes.
const maxAnswer = 10 << 20

// bounded is a transport that does not read responses beyond maxAnswer.
type bounded struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.Transport.RoundTrip(req)
	if err == nil {
		resp.Body = &boundedBody{resp.Body, maxAnswer}
	}
	return resp, err
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	}
	return n, err
}
