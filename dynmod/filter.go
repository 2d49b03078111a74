package dynmod

import (
	"context"
	"net/http"
	"time"

	"gatehouse/gate"
	"gatehouse/panics"
)

// Filter decides for one filter of Envoy's configuration. Its methods are safe for concurrent use.
type Filter struct {
	settings *Settings
	module   *Module
	broken   error // why it denies everything; nil: it does not
}

// Settings are what the filter was configured with.
func (f *Filter) Settings() *Settings { return f.settings }

// Broken is why the filter denies everything; nil: it does not.
func (f *Filter) Broken() error { return f.broken }

// trying has the gate give up where it would have to wait.
var trying = gate.Trying(context.Background())

// slowDecision is a decision that holds up what else Envoy's worker has to do. After one of them other threads decide, for slowFor.
const (
	slowDecision = 20 * time.Millisecond
	slowFor      = time.Second
)

// Decide decides about a request on the calling thread, which is one of Envoy's workers. Where something must be waited for the reply is Wait;
// Start then decides elsewhere. The reply's Ops are in ops as far as they fit.
func (f *Filter) Decide(raw *Raw, ops []byte) (reply Reply) {
	defer func() {
		if p := recover(); p != nil {
			panics.Report("deciding in Envoy", p)
			reply = failure(ops, http.StatusInternalServerError, gate.Internal)
		}
	}()
	if f.broken != nil {
		f.module.sayBroken(f.broken)
		return failure(ops, http.StatusInternalServerError, gate.Internal)
	}
	g := f.module.gate()
	if g == nil {
		return failure(ops, http.StatusServiceUnavailable, gate.NotReady)
	}
	req, path := f.request(raw)
	if !f.module.slow(req.Time) {
		answer, decided := g.Try(trying, req)
		f.module.took(req.Time)
		if decided {
			return render(&answer, path, ops)
		}
	}
	return f.module.tickets.issue(&ticket{filter: f, gate: g, req: req, path: path}, ops)
}
