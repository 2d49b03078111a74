// Package conns counts and bounds the connections of the listeners: how many there are, of whom, and what their requests hold. It owns which
// one is cut when there are too many. Of ours it imports config, whose limits it keeps; the server imports it.
package conns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gatehouse/config"
)

// Why a connection was refused or cut: the closed list of values of the metric's label.
const (
	causeFull       = "full"       // all connections of the listener are taken, and each of them has had an answer
	causePeer       = "peer"       // likewise those of one peer
	causeEvicted    = "gave_way"   // it had no answer yet, and another one wanted its place
	causeSilent     = "silent"     // it has asked nothing for too long after it was made
	causeIncomplete = "incomplete" // it began a request and did not send the rest of it
	causeStalled    = "stalled"    // it does not read what it is sent
	causeRequests   = "requests"   // there are too many requests under way, and it has most of those that do not get on
	causeMemory     = "memory"     // there is too much of unfinished requests, and it has most of that
	causeAccept     = "accept"     // the system had no room for it, such as no file descriptor
)

var connectionCauses = []string{causeFull, causePeer, causeEvicted, causeSilent, causeIncomplete, causeStalled, causeRequests, causeMemory, causeAccept}

const (
	deadlineInterval = time.Second // how often deadlines are looked at
	stalledAfter     = 30          // looks: a write that did not get on
	exhaustionNotice = time.Minute // how long it is said that connections ran out
	unreadAfter      = 10          // looks: an answer that is not taken after that counts as one that is not read
)

// Connections are those of all listeners: how many there are, who has them, and what they hold. A connection that has had an answer is never cut
// for being idle, only for what it does to others; one that has not must get on, and gives way.
type Connections struct {
	limits   connectionLimits
	tick     atomic.Int64 // looks since the start: a clock that costs nothing
	requests atomic.Int64 // under way on all of them
	bytes    atomic.Int64 // of requests that are not complete
	refused  *prometheus.CounterVec
	opened   *prometheus.GaugeVec

	mu    sync.Mutex // guards what follows; taken when a connection comes and goes, and by looks
	all   map[*Conn]struct{}
	count map[string]int // by listener
	peers map[peerOf]int
	out   map[string]*exhaustion // by listener
}

type peerOf struct{ listener, peer string }

// exhaustion is when connections of a listener last ran out, and how often.
type exhaustion struct {
	at    time.Time
	times int
}

// Watch looks at the connections until the process leaves.
func (c *Connections) Watch(ctx context.Context) {
	tick := time.NewTicker(deadlineInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.enforceDeadlines()
		}
	}
}

// StateOf is what a server of HTTP/1 tells of its connections.
func StateOf(nc net.Conn, state http.ConnState) {
	if secure, ok := nc.(*tls.Conn); ok {
		nc = secure.NetConn()
	}
	if c, ok := nc.(*Conn); ok && state == http.StateIdle {
		c.hasAnswer()
	}
}

type connectionLimits struct {
	perListener, perPeer int
	requests             int64
	bytes                int64
	first, request       time.Duration
}

// New is for all listeners of a server.
func New(c config.Listen, r prometheus.Registerer) *Connections {
	out := &Connections{all: map[*Conn]struct{}{}, count: map[string]int{}, peers: map[peerOf]int{}, out: map[string]*exhaustion{},
		limits: connectionLimits{perListener: c.MaxConnections, perPeer: c.PerPeer(), requests: int64(c.MaxRequests), bytes: int64(c.MaxPending),
			first: time.Duration(c.FirstRequest), request: time.Duration(c.RequestTimeout)},
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_connections_refused_total",
			Help: "Connections that were refused or cut, by listener and cause."}, []string{"listener", "cause"}),
		opened: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "gatehouse_connections",
			Help: "Connections that are open, by listener."}, []string{"listener"})}
	for _, listener := range listenerNames {
		out.opened.WithLabelValues(listener)
		for _, cause := range connectionCauses {
			out.refused.WithLabelValues(listener, cause)
		}
	}
	r.MustRegister(out.refused, out.opened)
	return out
}

// listenerNames is the closed list of values of the metrics' label.
var listenerNames = []string{"grpc", "http", "admin", "control", "jwks", "directory", "authzen"}

// Guard makes a listener whose connections are counted and bounded.
func (c *Connections) Guard(name string, l net.Listener, wrap func(*Conn) net.Conn) net.Listener {
	return &guarded{Listener: l, name: name, all: c, wrap: wrap}
}

type guarded struct {
	net.Listener
	name string
	all  *Connections
	wrap func(*Conn) net.Conn // what is served; nil: the connection itself
}

// Accept implements net.Listener. It accepts every connection, also one too many: what waits in the kernel's queue holds up those behind it.
func (g *guarded) Accept() (net.Conn, error) {
	for {
		raw, err := g.Listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				g.all.countRefused(g.name, causeAccept)
			}
			return nil, err
		}
		c := &Conn{Conn: raw, all: g.all, listener: g.name, peer: peerName(raw), since: time.Now()}
		served := net.Conn(c)
		if g.wrap != nil {
			served = g.wrap(c) // before others see it
		}
		if !g.all.admit(c) {
			raw.Close()
			continue
		}
		return served, nil
	}
}

// peerName is by what connections count as one peer's: an address, of IPv6 a /64 (one machine has as many addresses as it likes); on a unix socket,
// where there is none, the user that the kernel names.
func peerName(c net.Conn) string {
	if u, ok := c.(*net.UnixConn); ok {
		return peerUser(u)
	}
	at, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	ip := at.Addr().Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

// admit takes a connection in, in the place of one that has had no answer yet where there is none left.
func (c *Connections) admit(n *Conn) bool {
	key := peerOf{n.listener, n.peer}
	c.mu.Lock()
	var victim *Conn
	cause := ""
	switch {
	case c.peers[key] >= c.limits.perPeer:
		if victim = c.yields(n.listener, n.peer); victim == nil {
			cause = causePeer
		}
	case c.count[n.listener] >= c.limits.perListener:
		if victim = c.yields(n.listener, c.busiestUnanswered(n.listener)); victim == nil {
			cause = causeFull
		}
	}
	if victim != nil {
		c.remove(victim)
	}
	if cause == "" {
		c.all[n] = struct{}{}
		c.count[n.listener]++
		c.peers[key]++
		c.opened.WithLabelValues(n.listener).Inc()
	}
	c.mu.Unlock()
	switch {
	case cause != "":
		c.countRefused(n.listener, cause)
		return false
	case victim != nil:
		c.countRefused(n.listener, causeEvicted)
		_ = victim.Close() // whoever serves it finds it closed
	}
	return true
}

// yields is the connection that gives way: the oldest one of a peer that has had no answer. Its caller holds mu.
func (c *Connections) yields(listener, peer string) (victim *Conn) {
	for one := range c.all {
		if one.listener == listener && one.peer == peer && !one.answered.Load() && (victim == nil || one.since.Before(victim.since)) {
			victim = one
		}
	}
	return victim
}

// busiestUnanswered is the peer that has most connections without an answer. Its caller holds mu.
func (c *Connections) busiestUnanswered(listener string) (peer string) {
	count := map[string]int{}
	for one := range c.all {
		if one.listener == listener && !one.answered.Load() {
			if count[one.peer]++; count[one.peer] > count[peer] {
				peer = one.peer
			}
		}
	}
	return peer
}

// remove takes a connection off the books. Its caller holds mu.
func (c *Connections) remove(n *Conn) {
	if _, there := c.all[n]; !there {
		return
	}
	delete(c.all, n)
	c.count[n.listener]--
	c.opened.WithLabelValues(n.listener).Dec()
	key := peerOf{n.listener, n.peer}
	if c.peers[key]--; c.peers[key] <= 0 {
		delete(c.peers, key)
	}
}

// exhaustion notes that there was no connection left for somebody.
func (c *Connections) countRefused(listener, cause string) {
	c.refused.WithLabelValues(listener, cause).Inc()
	c.noteExhausted(listener)
}

// noteExhausted has it said for a while that a listener ran out of connections.
func (c *Connections) noteExhausted(listener string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out[listener] == nil {
		c.out[listener] = &exhaustion{}
	}
	c.out[listener].at = time.Now()
	c.out[listener].times++
}

// Degraded says which listeners had no connection left within the last minute.
func (c *Connections) Degraded() (list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, listener := range listenerNames {
		if out := c.out[listener]; out != nil && time.Since(out.at) < exhaustionNotice {
			list = append(list, fmt.Sprintf("listen.%s: connections ran out: %d of %d are open, %d were refused or had to give way since the start",
				listener, c.count[listener], c.limits.perListener, out.times))
		}
	}
	return list
}

// enforceDeadlines cuts off what does not get on.
func (c *Connections) enforceDeadlines() {
	tick := c.tick.Add(1)
	now := time.Now()
	c.mu.Lock()
	all := make([]*Conn, 0, len(c.all))
	for one := range c.all {
		all = append(all, one)
	}
	c.mu.Unlock()
	for _, one := range all {
		if cause := one.overdue(now, tick); cause != "" {
			one.cut(cause)
		}
	}
	c.shed()
}

// shed cuts off who holds most, while all of them hold too much, and nobody who holds no more than an equal part of the limit: a request of which
// the rest is on its way holds as much as one whose rest never comes, and all equal parts are within the limit. Where nobody holds anything that
// does not get on, the load is honest, and limits.concurrent is what bounds it.
func (c *Connections) shed() {
	tick := c.tick.Load()
	for range 16 {
		var cause string
		var limit int64
		switch {
		case c.bytes.Load() > c.limits.bytes:
			cause, limit = causeMemory, c.limits.bytes
		case c.requests.Load() > c.limits.requests:
			cause, limit = causeRequests, c.limits.requests
		default:
			return
		}
		c.mu.Lock()
		var victim *Conn
		most := limit / int64(max(len(c.all), 1))
		for one := range c.all {
			stuck, bytes := one.holds(tick)
			n := int64(stuck)
			if cause == causeMemory {
				n = bytes
			}
			if n > most {
				victim, most = one, n
			}
		}
		c.mu.Unlock()
		if victim == nil {
			return
		}
		victim.cut(cause)
		c.noteExhausted(victim.listener)
	}
}

// Conn is a connection as it was accepted.
type Conn struct {
	net.Conn
	all      *Connections
	listener string
	peer     string
	since    time.Time
	answered atomic.Bool  // it has had an answer to a request
	writing  atomic.Int64 // the tick at which the write that is under way began, and 1; 0: none is
	cutOnce  atomic.Bool
	frames   *h2Watch     // nil: this is no HTTP/2
	pending  atomic.Int64 // bytes of a request over HTTP/1 that has no answer yet
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	c.all.mu.Lock()
	c.all.remove(c)
	c.all.mu.Unlock()
	c.release()
	return c.Conn.Close()
}

// release gives back what the connection counts for.
func (c *Conn) release() {
	if c.frames != nil {
		c.frames.release()
	}
	c.all.bytes.Add(-c.pending.Swap(0))
}

// cut ends a connection that is not to be waited for.
func (c *Conn) cut(cause string) {
	if c.cutOnce.Swap(true) {
		return
	}
	c.all.refused.WithLabelValues(c.listener, cause).Inc()
	_ = c.Close() // whoever serves it finds it closed
}

// overdue says why a connection is to be cut off; "" where it is not.
func (c *Conn) overdue(now time.Time, tick int64) string {
	if since := c.writing.Load(); since != 0 && tick-(since-1) > stalledAfter {
		return causeStalled
	}
	if c.frames == nil {
		return "" // net/http has deadlines of its own
	}
	oldest, deciding := c.frames.incomplete(tick)
	switch {
	case oldest > int64(c.all.limits.request/deadlineInterval)+1:
		return causeIncomplete
	case !c.answered.Load() && !deciding && now.Sub(c.since) > c.all.limits.first:
		return causeSilent
	}
	return ""
}

// holds is how many requests of the connection do not get on, and how many bytes of unfinished ones it has sent.
func (c *Conn) holds(tick int64) (stuck int, bytes int64) {
	if c.frames == nil {
		return 0, c.pending.Load()
	}
	return c.frames.holds(tick)
}

// Read implements net.Conn. For HTTP/1 it counts what comes until there is an answer.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.frames == nil && n > 0 && c.listener == "http" {
		c.pending.Add(int64(n))
		if c.all.bytes.Add(int64(n)) > c.all.limits.bytes {
			c.all.shed()
		}
	}
	return n, err
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Store(c.all.tick.Load() + 1)
	n, err := c.Conn.Write(p)
	c.writing.Store(0)
	return n, err
}

// hasAnswer notes that a request over HTTP/1 had its answer.
func (c *Conn) hasAnswer() {
	c.answered.Store(true)
	c.all.bytes.Add(-c.pending.Swap(0))
}
