package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"gatehouse/config"
)

// few are limits that a test can reach; tight has deadlines, too, that it can wait for.
const (
	few   = "max_connections: 24, max_connections_per_peer: 24, max_streams: 200, max_requests: 500, max_pending: 4MiB, "
	tight = few + "handshake_timeout: 2s, first_request_timeout: 3s, request_timeout: 2s, "
)

// peer is a client of HTTP/2 that does only what it is told.
type peer struct {
	net.Conn
	*http2.Framer
	text bytes.Buffer
	hp   *hpack.Encoder
}

func newPeer(c net.Conn, settings ...http2.Setting) (*peer, error) {
	p := &peer{Conn: c, Framer: http2.NewFramer(c, c)}
	p.hp = hpack.NewEncoder(&p.text)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return nil, err
	}
	return p, p.WriteSettings(settings...)
}

// begin sends the headers of a Check.
func (p *peer) begin(id uint32, ends bool, more ...hpack.HeaderField) error {
	p.text.Reset()
	for _, h := range append([]hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/envoy.service.auth.v3.Authorization/Check"},
		{Name: ":authority", Value: "gatehouse"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}}, more...) {
		if err := p.hp.WriteField(h); err != nil {
			return err
		}
	}
	return p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.text.Bytes(), EndHeaders: true, EndStream: ends})
}

// announced is the beginning of a message of so many bytes.
func announced(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{0}, n) }

// misdeeds are what peers do that hold up others.
var misdeeds = []struct {
	name string
	do   func(c net.Conn) error
	goes bool // its connections are cut off by a deadline
}{
	{"says nothing", func(net.Conn) error { return nil }, true},
	{"half a preface", func(c net.Conn) error { _, err := io.WriteString(c, http2.ClientPreface[:10]); return err }, true},
	{"byte by byte", func(c net.Conn) error {
		for _, b := range []byte(strings.Repeat(http2.ClientPreface, 2)) {
			if _, err := c.Write([]byte{b}); err != nil {
				return err
			}
			time.Sleep(200 * time.Millisecond)
		}
		return nil
	}, true},
	{"garbage", func(c net.Conn) error { _, err := io.WriteString(c, "GET / HTTP/1.1\r\n\x00\xff\r\n\r\n"); return err }, true},
	{"asks nothing", func(c net.Conn) error { _, err := newPeer(c); return err }, true},
	{"requests without an end", func(c net.Conn) error {
		p, err := newPeer(c)
		for i := range uint32(150) {
			err = errors.Join(err, p.begin(2*i+1, false))
		}
		return err
	}, true},
	{"announces a message", func(c net.Conn) error {
		p, err := newPeer(c)
		for i := range uint32(100) {
			err = errors.Join(err, p.begin(2*i+1, false), p.WriteData(2*i+1, false, announced(4<<20)))
		}
		return err
	}, true},
	{"sends messages for ever", func(c net.Conn) error {
		p, err := newPeer(c)
		for i := range uint32(8) {
			err = errors.Join(err, p.begin(2*i+1, false), p.WriteData(2*i+1, false, announced(1<<30)))
		}
		go io.Copy(io.Discard, c)
		for i := uint32(0); err == nil; i++ {
			err = p.WriteData(2*(i%8)+1, false, make([]byte, 2000))
		}
		return nil
	}, true},
	{"takes no answer", func(c net.Conn) error {
		p, err := newPeer(c, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		for i := range uint32(150) {
			err = errors.Join(err, p.begin(2*i+1, false), p.WriteData(2*i+1, true, announced(0)))
		}
		return err
	}, false},
	{"resets", func(c net.Conn) error {
		p, err := newPeer(c)
		go io.Copy(io.Discard, c)
		for i := uint32(0); err == nil && i < 20000; i++ {
			err = errors.Join(p.begin(2*i+1, false), p.WriteRSTStream(2*i+1, http2.ErrCodeCancel))
		}
		return nil
	}, true},
	{"settings", func(c net.Conn) error {
		p, err := newPeer(c)
		for i := 0; err == nil && i < 100000; i++ { // the answers are not read
			err = p.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 15})
		}
		return nil
	}, true},
	{"pings", func(c net.Conn) error {
		p, err := newPeer(c)
		for i := 0; err == nil && i < 100000; i++ {
			err = p.WritePing(false, [8]byte{})
		}
		return nil
	}, true},
	{"continuations", func(c net.Conn) error {
		p, err := newPeer(c)
		if err == nil {
			err = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: nil})
		}
		p.text.Reset()
		_ = p.hp.WriteField(hpack.HeaderField{Name: "x", Value: "y"})
		for i := 0; err == nil && i < 200000; i++ {
			err = p.WriteContinuation(1, false, p.text.Bytes())
		}
		return nil
	}, true},
	{"large headers", func(c net.Conn) error {
		p, err := newPeer(c)
		for i := uint32(0); err == nil && i < 100; i++ {
			err = p.begin(2*i+1, false, hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 12<<10)})
		}
		return nil
	}, true},
}

// TestServeBadPeers has every place taken by peers that do one thing or the other. Who has a request to ask gets an answer, a connection that had one
// before stays, and the bad ones go.
func TestServeBadPeers(t *testing.T) {
	t.Parallel()
	for _, tt := range misdeeds {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			limits := tight
			if !tt.goes { // nothing waits for a deadline, so none is short enough to cut off the good connections of a busy machine
				limits = few + "first_request_timeout: 1m, request_timeout: 1m, "
			}
			p := newProcess(t, strings.Replace(plain, "listen: {", "listen: {"+limits, 1)).ready()
			old, dials := countedDial(t, p.grpc)
			mustAllow(t, old)
			var wait sync.WaitGroup
			var cut atomic.Int64
			for range 40 {
				wait.Go(func() {
					c, err := net.DialTimeout("tcp", p.grpc, hangGuard)
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					_ = c.SetDeadline(time.Now().Add(hangGuard))
					_ = tt.do(c)
					if !tt.goes {
						_ = c.SetDeadline(time.Now().Add(3 * time.Second))
					}
					if _, err := io.Copy(io.Discard, c); !errors.Is(err, os.ErrDeadlineExceeded) {
						cut.Add(1)
					}
				})
			}
			for range 20 {
				fresh := dial(t, p.grpc, nil)
				code, _, err := check(t.Context(), fresh)
				for end := time.Now().Add(hangGuard); err != nil && time.Now().Before(end); { // 40 of the same address came in its first millisecond
					code, _, err = check(t.Context(), fresh)
				}
				if err != nil || code != 200 {
					t.Errorf("%d %v", code, err)
				}
				fresh.Close()
			}
			mustAllow(t, old)
			wait.Wait()
			if tt.goes && cut.Load() != 40 {
				t.Errorf("%d of 40 connections were cut off", cut.Load())
			}
			mustAllow(t, old)
			if dials.Load() != 1 {
				t.Errorf("the good connection was made %d times", dials.Load())
			}
			if code, body := p.get("/readyz"); code != 200 {
				t.Errorf("%d %s", code, body)
			}
		})
	}
}

// countedDial is a connection with one channel, and how often it was dialled.
func countedDial(t *testing.T, address string) (*grpc.ClientConn, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	c, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			n.Add(1)
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, &n
}

func mustAllow(t *testing.T, c *grpc.ClientConn) {
	t.Helper()
	if code, _, err := check(t.Context(), c); err != nil || code != 200 {
		t.Errorf("%d %v", code, err)
	}
}

// TestServeSilentPeersOfEveryListener has the places of each listener taken by peers that say nothing.
func TestServeSilentPeersOfEveryListener(t *testing.T) {
	t.Parallel()
	ca, clients := newAuthority(t), newAuthority(t)
	http, jwks := freeAddress(t), freeAddress(t)
	p := newProcess(t, `
listen:
  {`+tight+`grpc: ["$GRPC", "unix:grpc.sock"], admin: "$ADMIN", control: "unix:control.sock", jwks: "`+jwks+`", http: {address: "`+http+`", proxy: nginx},
   tls: {cert: tls.crt, key: tls.key, client_ca: ca.crt}}
policy: {bundles: [{path: policy}]}
`)
	p.certify(ca, "gate.test")
	write(t, p.path("ca.crt"), clients.pem())
	p.ready()
	secure := &tls.Config{RootCAs: ca.pool(), ServerName: "gate.test", Certificates: []tls.Certificate{clients.pair(t, "envoy")}}
	var all []net.Conn
	for _, at := range []string{p.grpc, http, jwks, p.admin, "unix:" + p.path("grpc.sock"), "unix:" + p.path("control.sock")} {
		for range 30 {
			kind, address := "tcp", at
			if path, ok := config.CutUnix(at); ok {
				kind, address = "unix", path
			}
			c, err := net.Dial(kind, address)
			if err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			defer c.Close()
			if strings.HasPrefix(at, "127.") && at != p.admin && at != jwks {
				_, _ = c.Write([]byte("\x16\x03\x01\x02\x00\x01\x00")) // half a ClientHello
			}
			all = append(all, c)
		}
	}
	mustAllow(t, dial(t, p.grpc, credentials.NewTLS(secure)))
	mustAllow(t, unixDial(t, p.path("grpc.sock")))
	if _, body := p.get("/readyz"); !strings.HasPrefix(body, "ready (degraded: ") || !strings.Contains(body, "listen.grpc: connections ran out: ") {
		t.Errorf("readyz: %s", body)
	}
	_, text := p.get("/metrics")
	for _, want := range []string{`gatehouse_degraded{part="listeners"} 1`, `gatehouse_connections_refused_total{cause="gave_way",listener="admin"} `,
		`gatehouse_connections{listener="grpc"} `} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	history := exec.Command("gatehouse", "bundle", "history", "--control", "unix:"+p.path("control.sock"))
	if out, err := history.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	for _, c := range all {
		_ = c.SetReadDeadline(time.Now().Add(hangGuard))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a silent connection to %s stays", c.RemoteAddr())
		}
	}
}

// TestServeManyRequestsThatDoNotCome begins many requests on many connections: what they may hold is bounded, and so is memory.
func TestServeManyRequestsThatDoNotCome(t *testing.T) {
	t.Parallel()
	p := newProcess(t, strings.Replace(plain, "listen: {", "listen: {max_requests: 2000, request_timeout: 1m, first_request_timeout: 1m, ", 1)).ready()
	for range 20 {
		c, err := net.Dial("tcp", p.grpc)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		bad, err := newPeer(c)
		for i := range uint32(1000) {
			err = errors.Join(err, bad.begin(2*i+1, false))
		}
		if err != nil && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "broken pipe") {
			t.Fatal(err)
		}
	}
	mustAllow(t, dial(t, p.grpc, nil))
	eventually(t, "waiting for connections to be cut", func() error {
		_, text := p.get("/metrics")
		for line := range strings.Lines(text) {
			var n float64
			if _, err := fmt.Sscanf(line, `gatehouse_connections_refused_total{cause="requests",listener="grpc"} %g`, &n); err == nil && n >= 18 {
				return nil
			}
		}
		return errors.New("not all of them were")
	})
}

// TestServeRefuses holds what becomes of one connection too many where all that are there have had an answer.
func TestServeRefuses(t *testing.T) {
	t.Parallel()
	p := newProcess(t, strings.Replace(plain, "listen: {", "listen: {max_connections: 3, max_connections_per_peer: 2, ", 1)).ready()
	var good []*grpc.ClientConn
	for range 2 {
		c, _ := countedDial(t, p.grpc)
		mustAllow(t, c)
		good = append(good, c)
	}
	c, err := net.Dial("tcp", p.grpc)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(hangGuard))
	if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a third connection of one peer is served: %v", err)
	}
	other, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp", p.grpc)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	greeted(t, other, true)
	for _, c := range good {
		mustAllow(t, c)
	}
	if _, body := p.get("/readyz"); !strings.Contains(body, "listen.grpc: connections ran out: 3 of 3 are open") {
		t.Error(body)
	}
}

// TestServeIdleAndAge ends connections that are idle or old, with GOAWAY: no request fails of it.
func TestServeIdleAndAge(t *testing.T) {
	t.Parallel()
	p := newProcess(t, strings.Replace(plain, "listen: {", "listen: {idle_timeout: 300ms, max_age: 1s, ", 1)).ready()
	c, dials := countedDial(t, p.grpc)
	for end := time.Now().Add(hangGuard); dials.Load() < 4 && time.Now().Before(end); {
		for range 200 {
			mustAllow(t, c)
		}
		time.Sleep(400 * time.Millisecond) // idle for too long
	}
	if dials.Load() < 4 {
		t.Errorf("%d connections", dials.Load())
	}
}
