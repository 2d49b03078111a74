package dynmod

import (
	"context"
	"net/http"
	"sync"
	"time"

	"gatehouse/gate"
	"gatehouse/panics"
)

// ticket is a decision that is made in a goroutine, for a request that Envoy keeps meanwhile.
type ticket struct {
	filter *Filter
	gate   *gate.Gate
	req    *gate.Request
	path   string

	mu     sync.Mutex // held while Envoy is woken, so that nobody is woken who has gone
	wake   func()     // nil: not started, or gone
	cancel context.CancelFunc
	reply  Reply
}

// tickets are those of all requests that wait, by number: what Envoy holds is never a pointer.
type tickets struct {
	mu   sync.Mutex // guards what follows
	last uint64
	live map[uint64]*ticket
}

// maxTickets bounds the requests that wait. Envoy's bounds on connections and streams are usually lower.
const maxTickets = 10_000

func (t *tickets) issue(one *ticket, ops []byte) Reply {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.live) >= maxTickets {
		return failure(ops, http.StatusServiceUnavailable, gate.Overloaded)
	}
	if t.live == nil {
		t.live = map[uint64]*ticket{}
	}
	t.last++
	t.live[t.last] = one
	return Reply{Verdict: Wait, Ticket: t.last, Ops: ops[:0]}
}

func (t *tickets) find(number uint64, last bool) *ticket {
	t.mu.Lock()
	defer t.mu.Unlock()
	one := t.live[number]
	if last {
		delete(t.live, number)
	}
	return one
}

func (t *tickets) waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.live)
}

// Start has a ticket's request decided in a goroutine. wake is called once when Take has the reply, from that goroutine, unless Cancel is called
// before.
func (m *Module) Start(number uint64, wake func()) {
	one := m.tickets.find(number, false)
	if one == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(one.filter.settings.Timeout))
	one.mu.Lock()
	one.wake, one.cancel = wake, cancel
	one.mu.Unlock()
	go func() {
		defer panics.Recover("waking Envoy")
		defer cancel()
		reply := one.decide(ctx)
		one.mu.Lock()
		defer one.mu.Unlock()
		one.reply = reply
		if one.wake != nil {
			one.wake()
		}
	}()
}

func (t *ticket) decide(ctx context.Context) (reply Reply) {
	defer func() {
		if p := recover(); p != nil {
			panics.Report("deciding beside Envoy", p)
			reply = failure(nil, http.StatusInternalServerError, gate.Internal)
		}
	}()
	answer := t.gate.Check(ctx, t.req)
	return render(&answer, t.path, nil)
}

// Take gives the reply to a ticket, whose number then means nothing any more.
func (m *Module) Take(number uint64) Reply {
	one := m.tickets.find(number, true)
	if one == nil {
		return failure(nil, http.StatusInternalServerError, gate.Internal)
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	one.wake = nil
	return one.reply
}

// Cancel says that nobody waits for a ticket any more: its request has ended. When it returns wake is not being called, and never will be.
func (m *Module) Cancel(number uint64) {
	one := m.tickets.find(number, true)
	if one == nil {
		return
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	one.wake = nil
	if one.cancel != nil {
		one.cancel()
	}
}
