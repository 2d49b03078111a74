package main

import (
	"encoding/binary"
	"net"
	"sync"
)

// h2Watch looks at the frames that go over one HTTP/2 connection and keeps what is under way on it. It changes nothing, and does not look into
// frames: their headers say which requests there are, which of them are complete, and which have had their answer. The gRPC server says
// none of this before a request is complete.
type h2Watch struct {
	*conn
	served net.Conn // the connection in the clear: conn itself, or TLS on it

	in, out h2Frames // of one goroutine each: whoever reads, and whoever writes

	mu      sync.Mutex // guards what follows; of this connection alone
	streams map[uint32]h2Stream
	bytes   int64 // of incomplete requests
	gone    bool
}

type h2Stream struct {
	since    int64 // tick
	bytes    int64
	complete bool
}

// The parts of RFC 9113 that matter here.
const (
	h2Preface   = 24
	h2Header    = 9
	h2Data      = 0
	h2Headers   = 1
	h2Reset     = 3
	h2EndStream = 1
)

func watchH2(c *conn, served net.Conn) net.Conn {
	w := &h2Watch{conn: c, served: served, streams: map[uint32]h2Stream{}, in: h2Frames{skip: h2Preface}}
	c.frames = w
	return w
}

// h2Frames takes a stream of bytes apart into frames.
type h2Frames struct {
	head [h2Header]byte
	have int
	skip uint32
}

// next takes bytes until the header of a frame is whole.
func (f *h2Frames) next(p []byte) (rest []byte, ok bool) {
	for len(p) > 0 {
		if f.skip > 0 {
			n := min(uint32(len(p)), f.skip)
			f.skip -= n
			p = p[n:]
			continue
		}
		n := copy(f.head[f.have:], p)
		f.have += n
		p = p[n:]
		if f.have == h2Header {
			f.have = 0
			f.skip = f.length()
			return p, true
		}
	}
	return nil, false
}

func (f *h2Frames) length() uint32 {
	return uint32(f.head[0])<<16 | uint32(f.head[1])<<8 | uint32(f.head[2])
}
func (f *h2Frames) kind() byte          { return f.head[3] }
func (f *h2Frames) ends() bool          { return f.head[4]&h2EndStream != 0 }
func (f *h2Frames) stream() uint32      { return binary.BigEndian.Uint32(f.head[5:]) & 0x7fffffff }
func (w *h2Watch) Close() error         { return w.served.Close() }
func (w *h2Watch) LocalAddr() net.Addr  { return w.served.LocalAddr() }
func (w *h2Watch) RemoteAddr() net.Addr { return w.served.RemoteAddr() }

// Read implements net.Conn.
func (w *h2Watch) Read(p []byte) (int, error) {
	n, err := w.served.Read(p)
	if n > 0 && w.received(p[:n]) {
		w.all.shed()
	}
	return n, err
}

// Write implements net.Conn.
func (w *h2Watch) Write(p []byte) (int, error) {
	w.sent(p)
	return w.served.Write(p)
}

// received notes what a client begins, completes and takes back. It reports whether there is too much under way.
func (w *h2Watch) received(p []byte) (tooMuch bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return false
	}
	begun, bytes := len(w.streams), w.bytes
	for {
		var ok bool
		if p, ok = w.in.next(p); !ok {
			break
		}
		id := w.in.stream()
		s, known := w.streams[id]
		switch kind := w.in.kind(); {
		case kind == h2Headers && !known:
			w.streams[id] = h2Stream{since: w.all.tick.Load(), complete: w.in.ends()}
		case known && (kind == h2Data || kind == h2Headers) && w.in.ends():
			w.bytes -= s.bytes
			w.streams[id] = h2Stream{since: w.all.tick.Load(), complete: true}
		case known && kind == h2Data && !s.complete:
			s.bytes += int64(w.in.length())
			w.bytes += int64(w.in.length())
			w.streams[id] = s
		case known && kind == h2Reset:
			w.bytes -= s.bytes
			delete(w.streams, id)
		}
	}
	requests := w.all.requests.Add(int64(len(w.streams) - begun))
	total := int64(0)
	if w.bytes != bytes {
		total = w.all.bytes.Add(w.bytes - bytes)
	}
	return requests > w.all.limits.requests && len(w.streams) > begun || total > w.all.limits.bytes
}

// sent notes which requests have their answer.
func (w *h2Watch) sent(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return
	}
	begun, bytes := len(w.streams), w.bytes
	for {
		var ok bool
		if p, ok = w.out.next(p); !ok {
			break
		}
		kind := w.out.kind()
		ends := w.out.ends() && (kind == h2Headers || kind == h2Data)
		if kind != h2Reset && kind != h2Data && !ends {
			continue
		}
		id := w.out.stream()
		s, known := w.streams[id]
		if known && kind != h2Reset && s.complete && !w.answered.Load() {
			w.answered.Store(true)
		}
		if known && (ends || kind == h2Reset) {
			w.bytes -= s.bytes
			delete(w.streams, id)
		}
	}
	if n := len(w.streams) - begun; n != 0 {
		w.all.requests.Add(int64(n))
	}
	if w.bytes != bytes {
		w.all.bytes.Add(w.bytes - bytes)
	}
}

// incomplete is for how many looks the oldest request has not been complete, and whether one is that may be decided right now.
func (w *h2Watch) incomplete(tick int64) (oldest int64, deciding bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.streams {
		if s.complete {
			deciding = deciding || tick-s.since <= 3*unreadAfter
		} else {
			oldest = max(oldest, tick-s.since)
		}
	}
	return oldest, deciding
}

// holds is how many requests are not complete, or have had an answer for long that nobody takes, and the bytes of the former.
func (w *h2Watch) holds(tick int64) (stuck int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.streams {
		if !s.complete || tick-s.since > unreadAfter {
			stuck++
		}
	}
	return stuck, w.bytes
}

func (w *h2Watch) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all.requests.Add(-int64(len(w.streams)))
	w.all.bytes.Add(-w.bytes)
	w.streams, w.bytes, w.gone = nil, 0, true
}
