package conns

import (
	"bytes"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// looped is a connection on which the same calls come in again and again.
type looped struct {
	net.Conn
	in   []byte
	from int
}

func (c *looped) Read(p []byte) (int, error) {
	n := copy(p, c.in[c.from:])
	c.from = (c.from + n) % len(c.in)
	return n, nil
}

func (c *looped) Write(p []byte) (int, error) { return len(p), nil }
func (c *looped) Close() error                { return nil }

// callFrames are the frames of one Check as a gRPC client and a gRPC server write them.
func callFrames(tb testing.TB, id uint32, size int) (asked, answered []byte) {
	tb.Helper()
	var in, out, text bytes.Buffer
	hp := hpack.NewEncoder(&text)
	block := func(fields ...hpack.HeaderField) []byte {
		text.Reset()
		for _, f := range fields {
			if err := hp.WriteField(f); err != nil {
				tb.Fatal(err)
			}
		}
		return bytes.Clone(text.Bytes())
	}
	client, server := http2.NewFramer(&in, nil), http2.NewFramer(&out, nil)
	err := client.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: block(hpack.HeaderField{Name: ":method", Value: "POST"},
		hpack.HeaderField{Name: ":path", Value: "/envoy.service.auth.v3.Authorization/Check"}, hpack.HeaderField{Name: "content-type", Value: "application/grpc"})})
	if err == nil {
		err = client.WriteData(id, true, make([]byte, size))
	}
	if err == nil {
		err = client.WritePing(true, [8]byte{})
	}
	if err == nil {
		err = server.WriteWindowUpdate(0, uint32(size))
	}
	if err == nil {
		err = server.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: block(hpack.HeaderField{Name: ":status", Value: "200"})})
	}
	if err == nil {
		err = server.WriteData(id, false, make([]byte, 200))
	}
	if err == nil {
		err = server.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: true, BlockFragment: block(hpack.HeaderField{Name: "grpc-status", Value: "0"})})
	}
	if err != nil {
		tb.Fatal(err)
	}
	return in.Bytes(), out.Bytes()
}

// BenchmarkConnection is what looking at the frames of one call costs, next to a connection at which nobody looks, while other calls are under way.
func BenchmarkConnection(b *testing.B) {
	const size, open = 1500, 16
	asked, answered := callFrames(b, 2*open+1, size)
	raw := func() net.Conn { return &looped{in: asked} }
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"raw": func(c net.Conn) net.Conn { return c },
		"watched": func(c net.Conn) net.Conn {
			watched := newWatched()
			watched.Conn.Conn, watched.in.skip = c, 0
			for i := range uint32(open) {
				before, _ := callFrames(b, 1+2*i, size)
				watched.received(before[:len(before)-size-17-9]) // its message is yet to come
			}
			return watched
		},
	} {
		b.Run(name, func(b *testing.B) {
			c := wrap(raw())
			buf := make([]byte, 32<<10)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := io.ReadFull(c, buf[:len(asked)]); err != nil {
					b.Fatal(err)
				}
				if _, err := c.Write(answered); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
