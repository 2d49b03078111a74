package conns

import (
	"encoding/binary"
	"net"
	"slices"
	"sync"
)

// h2Watch looks at the frames that go over one HTTP/2 connection and keeps what is under way on it. It changes nothing, and does not look into
// frames: their headers say which requests there are, which of them are complete, and which have had their answer. The gRPC server says
// none of this before a request is complete.
type h2Watch struct {
	*Conn
	served net.Conn // the connection in the clear: conn itself, or TLS on it

	in, out h2Frames // of one goroutine each: whoever reads, and whoever writes

	mu      sync.Mutex // guards what follows; of this connection alone
	streams []h2Stream // by id: a client's ids rise, so that a new one comes last
	bytes   int64      // of incomplete requests
	gone    bool
}

type h2Stream struct {
	since    int64 // tick
	bytes    int64
	id       uint32
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

// WatchH2 looks at the frames of HTTP/2 on a connection, which served has in clear: a request that is not complete counts until it is.
func WatchH2(c *Conn, served net.Conn) net.Conn {
	w := &h2Watch{Conn: c, served: served, in: h2Frames{skip: h2Preface}}
	c.frames = w
	return w
}

// h2Frames takes a stream of bytes apart into frames.
type h2Frames struct {
	head [h2Header]byte
	have int
	skip uint32
}

// within reports whether bytes are all inside of a frame, and passes over them if so.
func (f *h2Frames) within(p []byte) bool {
	if uint64(len(p)) > uint64(f.skip) {
		return false
	}
	f.skip -= uint32(len(p))
	return true
}

// next takes bytes until the header of a frame is whole.
func (f *h2Frames) next(p []byte) (rest []byte, ok bool) {
	if !f.within(p) {
		p = p[f.skip:]
		f.skip = 0
		switch {
		case f.have == 0 && len(p) >= h2Header:
			f.head = [h2Header]byte(p)
			p = p[h2Header:]
		default:
			n := copy(f.head[f.have:], p)
			f.have += n
			p = p[n:]
			if f.have < h2Header {
				return nil, false
			}
			f.have = 0
		}
		f.skip = f.length()
		return p, true
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

// find is where the stream with an id is, or belongs. Its caller holds mu.
func (w *h2Watch) find(id uint32) (at int, known bool) {
	end := len(w.streams)
	for at < end {
		if half := (at + end) / 2; w.streams[half].id < id {
			at = half + 1
		} else {
			end = half
		}
	}
	return at, at < len(w.streams) && w.streams[at].id == id
}

// remove takes a stream off the books. Its caller holds mu.
func (w *h2Watch) remove(at int) {
	w.bytes -= w.streams[at].bytes
	w.streams = slices.Delete(w.streams, at, at+1)
}

// received notes what a client begins, completes and takes back. It reports whether there is too much under way.
func (w *h2Watch) received(p []byte) (tooMuch bool) {
	if w.in.within(p) {
		return false
	}
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
		kind := w.in.kind()
		if kind != h2Headers && kind != h2Data && kind != h2Reset {
			continue
		}
		at, known := w.find(w.in.stream())
		switch {
		case kind == h2Headers && !known:
			w.streams = slices.Insert(w.streams, at, h2Stream{id: w.in.stream(), since: w.all.tick.Load(), complete: w.in.ends()})
		case !known:
		case kind == h2Reset:
			w.remove(at)
		case w.in.ends():
			s := &w.streams[at]
			w.bytes -= s.bytes
			s.since, s.bytes, s.complete = w.all.tick.Load(), 0, true
		case kind == h2Data && !w.streams[at].complete:
			w.streams[at].bytes += int64(w.in.length())
			w.bytes += int64(w.in.length())
		}
	}
	if n := len(w.streams) - begun; n != 0 {
		tooMuch = w.all.requests.Add(int64(n)) > w.all.limits.requests && n > 0
	}
	if w.bytes != bytes {
		tooMuch = w.all.bytes.Add(w.bytes-bytes) > w.all.limits.bytes || tooMuch
	}
	return tooMuch
}

// sent notes which requests have their answer.
func (w *h2Watch) sent(p []byte) {
	if w.out.within(p) {
		return
	}
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
		ends := kind == h2Reset || w.out.ends() && (kind == h2Headers || kind == h2Data)
		if !ends && (kind != h2Data || w.answered.Load()) {
			continue
		}
		at, known := w.find(w.out.stream())
		if !known {
			continue
		}
		if kind != h2Reset && w.streams[at].complete && !w.answered.Load() {
			w.answered.Store(true)
		}
		if ends {
			w.remove(at)
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
