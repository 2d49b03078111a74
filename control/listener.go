package control

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"gatehouse/panics"
)

// handshakes is a listener whose connections have done their TLS handshake, a bounded number of them at once: when
// thousands of edges come back together, each handshake is given the time it needs, and the others wait their turn.
type handshakes struct {
	logger *zap.Logger
	inner  net.Listener
	config *tls.Config
	ready  chan net.Conn
	slots  chan struct{} // one for each handshake
	open   chan struct{} // one for each connection
	say    *rate.Limiter // for the log

	once    sync.Once
	done    chan struct{} // closed by Close
	running sync.WaitGroup
}

// run accepts connections until Close.
func (h *handshakes) run() {
	defer h.running.Wait()
	for {
		select {
		case h.open <- struct{}{}:
		case <-h.done:
			return
		}
		raw, err := h.inner.Accept()
		if err != nil {
			<-h.open
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select { // no file descriptor, for example: there will be one
			case <-h.done:
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		c := &counted{Conn: raw, open: h.open}
		h.running.Go(func() {
			defer panics.Recover("a TLS handshake")
			if !h.handshake(c) {
				_ = c.Close()
			}
		})
	}
}

// handshake does one handshake, and hands the connection on.
func (h *handshakes) handshake(c *counted) bool {
	first := make([]byte, 1) // who sends nothing holds no slot
	_ = c.SetReadDeadline(time.Now().Add(handshakeTime))
	if n, _ := c.Read(first); n == 0 {
		return false
	}
	c.unread = first
	select {
	case h.slots <- struct{}{}:
	case <-h.done:
		return false
	}
	c.slots = h.slots
	secure := tls.Server(c, h.config)
	ctx, stop := context.WithTimeout(context.Background(), handshakeTime)
	_ = c.SetDeadline(time.Now().Add(handshakeTime))
	err := secure.HandshakeContext(ctx)
	stop()
	c.slots = nil
	<-h.slots
	if err != nil {
		if !errors.Is(err, io.EOF) && h.say.Allow() {
			h.logger.Warn("a TLS handshake was refused", zap.Stringer("peer", c.RemoteAddr()), zap.Error(err))
		}
		return false
	}
	_ = c.SetDeadline(time.Time{})
	select {
	case h.ready <- secure:
		return true
	case <-h.done:
		return false
	}
}

// Accept implements net.Listener.
func (h *handshakes) Accept() (net.Conn, error) {
	select {
	case c := <-h.ready:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handshakes) Close() error {
	h.once.Do(func() { close(h.done) })
	return h.inner.Close()
}

// Addr implements net.Listener.
func (h *handshakes) Addr() net.Addr { return h.inner.Addr() }

// counted is a connection that gives its place back.
type counted struct {
	net.Conn
	unread []byte // read already
	open   chan struct{}
	once   sync.Once

	slots chan struct{} // of the handshake that is under way: given back while it waits for the other end; nil: none is
}

func (c *counted) Read(b []byte) (int, error) {
	if len(c.unread) > 0 && len(b) > 0 {
		n := copy(b, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	if c.slots == nil {
		return c.Conn.Read(b)
	}
	<-c.slots // who waits for the other end does no work
	n, err := c.Conn.Read(b)
	c.slots <- struct{}{}
	return n, err
}

func (c *counted) Close() error {
	c.once.Do(func() { <-c.open })
	return c.Conn.Close()
}

// peer is the other end of a request's connection.
type peer struct {
	address string
	edge    string    // of a certificate of our authority; "": none was shown
	expires time.Time // that certificate
}

type peerKey struct{}

// withPeer puts the peer into a request's context.
func withPeer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := &peer{address: r.RemoteAddr}
		if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
			leaf := r.TLS.VerifiedChains[0][0]
			p.edge, p.expires = leaf.Subject.CommonName, leaf.NotAfter
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, p)))
	})
}

func peerOf(ctx context.Context) *peer {
	if p, ok := ctx.Value(peerKey{}).(*peer); ok {
		return p
	}
	return &peer{}
}
