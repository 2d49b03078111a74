package bundles

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"gatehouse/bundles/origin"
	"gatehouse/bundles/tarball"
	"gatehouse/panics"
	"gatehouse/policy/bundle"
	"gatehouse/upstream"
)

// Remote is where a bundle that is not on this machine comes from, and how it is kept current.
type Remote struct {
	URL     string // of a bundle service, or of any file server with ETags
	Image   string // instead of URL: a reference to an image in a registry, by tag or digest
	Service upstream.Service

	// Origin, instead of URL and Image, makes what fetches it: a tarball of at most limit bytes. From names it, for people and to tell it from
	// others.
	Origin func(limit int64) Origin
	From   string

	// CredentialFile is for images: a file in the format of Docker's config.json. Empty: Docker's own.
	CredentialFile string

	Interval time.Duration // between two requests to a server without long polling; default 1 min, +-20 %
	LongPoll time.Duration // long polling timeout; default 30 s, negative: no long polling

	// MaxAge is how long a bundle may be used without its source confirming it; 0: for ever. After that a warning is shown (log, Status,
	// metric); with Withdraw, no decision is made with it until the source is back.
	MaxAge   time.Duration
	Withdraw bool
}

// Origin is where a bundle comes from.
type Origin = origin.Origin

// Request is a request to an Origin.
type Request = origin.Request

// Answer is what an Origin answers.
type Answer = origin.Answer

// RemoteStatus is the state of a remote source.
type RemoteStatus struct {
	Tag         string    `json:"tag,omitempty"`         // the ETag or digest of the last bundle
	Delta       bool      `json:"delta,omitempty"`       // the last bundle came as a delta
	Bytes       int       `json:"bytes,omitempty"`       // of the tarball
	LastRequest time.Time `json:"last_request,omitzero"` // last request
	LastAnswer  time.Time `json:"last_answer,omitzero"`  // last response, with a bundle or that it is unmodified
	Downloaded  time.Time `json:"downloaded,omitzero"`   // last bundle received
	Confirmed   time.Time `json:"confirmed,omitzero"`    // when the source last confirmed that the bundle in use is current
	AgeSeconds  int64     `json:"age_seconds,omitempty"` // since Confirmed
	FromDisk    bool      `json:"from_disk,omitempty"`   // the bundle is from disk, because the source is unreachable
	Expired     bool      `json:"expired,omitempty"`     // older than max_age
	Unreachable string    `json:"unreachable,omitempty"` // why the last request failed
	NotKept     bool      `json:"not_kept,omitempty"`    // the active bundle could not be written to disk
}

const (
	startTime     = 5 * time.Second        // how long a source may take at start-up before the bundle on disk is used
	minPause      = 200 * time.Millisecond // between two requests, whatever the server says
	longPollTime  = time.Second            // a response that took longer was held by long polling
	firstRetry    = 500 * time.Millisecond
	maxRetry      = time.Minute
	maxFutureTime = time.Minute // a time on disk that is this far in the future is still trusted: the clock may have been set back
)

// deliveryKind is the kind of a delivery from a remote source.
type deliveryKind int

const (
	kindBundle      deliveryKind = iota // a bundle, or why it cannot be used
	kindUnchanged                       // the source still has what was delivered last
	kindUnreachable                     // the source is unreachable; what was delivered last stays valid
	kindExpired                         // the source has not confirmed the bundle for longer than max_age
)

// remote fetches one source and keeps its last good bundle on disk. The goroutine that runs fetch owns everything but public, good and
// activated.
type remote struct {
	name string
	cfg  Remote
	from string // the source, for people
	// identity distinguishes it from every other source.
	identity string
	origin   origin.Origin
	store    *store // nil: nothing is kept on disk
	limits   bundle.Limits
	deltas   bool // delta bundles are accepted
	clock    func() time.Time
	logger   *zap.Logger
	metrics  *remoteMetrics

	public    atomic.Pointer[RemoteStatus]
	good      atomic.Int64  // serial of the last delivery that became active
	active    atomic.Int64  // the highest manifest serial that was ever active
	activated chan struct{} // signals that good has increased
	refetch   chan struct{} // signals that the whole bundle is to be fetched again, although the source has nothing newer

	last          lastBundle
	highest       int64            // the serial on disk: a lower one must not become active after a restart either
	undelivered   *delivery        // delivered to Load, but not tried before ctx ended: kept for Run
	disk          *kept            // the bundle on disk; nil if there is none, or it is unusable
	opened        bool             // the store has been read
	serial        int64            // of the last delivery
	fetchWhole    bool             // a delta could not be applied: request the whole bundle next
	forceDelivery bool             // deliver the next whole bundle even if it is the same as the last
	longPolls     bool             // the server supports long polling
	backoff       upstream.Backoff // after consecutive failures
	confirmed     time.Time        // last response of the source
	expired       bool
}

// lastBundle is the last delivered bundle.
type lastBundle struct {
	tag     string
	state   string            // hash of the parts; empty: there is no bundle
	base    *bundle.Bundle    // the parsed bundle, if deltas are accepted
	files   map[string][]byte // its files without the data, likewise
	copy    *rawBundle        // the bundle as it arrived
	data    int64             // bytes of data
	parts   int               // number of tarballs
	bytes   int64             // of all tarballs
	saved   string            // the state on disk; empty: another one
	unsaved [][]byte          // the tarballs from saved to state; from nothing if fresh
	fresh   bool              // the first of unsaved is a whole bundle

	rejected bool // it was refused, and the bundle on disk was delivered instead
}

// response is the result of one request.
type response struct {
	origin.Request
	origin.Answer
	err error
}

// fetch is the source's fetcher: it requests, delivers, pauses, and repeats.
func (r *remote) fetch(ctx context.Context, deliver deliver) error {
	ctx, stop := context.WithCancel(ctx)
	answers, asked := make(chan response, 1), false
	cut := func() {} // cancels the pending request
	defer func() {
		stop()
		if asked {
			<-answers
		}
		cut()
		r.origin.Close()
	}()
	r.open()
	if r.undelivered != nil {
		if err := r.deliverLast(ctx, deliver, *r.undelivered); err != nil {
			r.fallBack(ctx, deliver, err)
		}
	}
	r.longPolls = false // the first request is answered at once
	pause, late, old := time.NewTimer(0), time.NewTimer(startTime), time.NewTimer(startTime)
	defer pause.Stop()
	defer late.Stop()
	defer old.Stop()
	for {
		old.Stop()
		if left, ok := r.untilExpired(); ok {
			old.Reset(left)
		}
		select {
		case <-ctx.Done():
			if r.current() && r.last.saved != r.last.state { // activated just now: the next process starts with what decided in this one
				r.save()
			}
			return nil
		case <-pause.C:
			asked, cut = true, r.startRequest(ctx, answers)
		case a := <-answers:
			asked = false
			cut()
			late.Stop()
			if r.forceDelivery && a.err != nil && errors.Is(a.err, context.Canceled) {
				pause.Reset(0)
				continue
			}
			pause.Reset(r.process(ctx, deliver, a))
		case <-r.refetch:
			if r.fetchWhole, r.forceDelivery = true, true; asked {
				cut()
			} else {
				pause.Reset(minPause)
			}
		case <-late.C:
			r.unreachable(ctx, deliver, fmt.Errorf("no answer for %v", startTime))
		case <-r.activated:
			r.save()
		case <-old.C:
			r.expire(ctx, deliver)
		}
	}
}

// startRequest starts a request on its own goroutine; cut cancels it.
func (r *remote) startRequest(ctx context.Context, answers chan<- response) (cut func()) {
	q := r.nextRequest()
	ctx, cut = context.WithCancel(ctx)
	go func() {
		f, err := r.doRequest(ctx, q)
		answers <- response{q, f, err}
	}()
	return cut
}

// doRequest makes one request. A panic becomes an error.
func (r *remote) doRequest(ctx context.Context, q origin.Request) (f origin.Answer, err error) {
	defer panics.Into("fetching a bundle", &err)
	return r.origin.Fetch(ctx, q)
}

// askAgain requests the whole bundle again: what was delivered last was refused, and may pass now. It never blocks.
func (r *remote) askAgain() {
	select {
	case r.refetch <- struct{}{}:
	default: // already signalled
	}
}

// nextRequest asks for a change to the last delivered bundle, or else to the one on disk. The first request is not held.
func (r *remote) nextRequest() origin.Request {
	r.note(func(s *RemoteStatus) { s.LastRequest = r.clock() })
	q := origin.Request{Tag: r.last.tag, Hold: r.longPolls}
	if r.last.state == "" && r.disk != nil {
		q.Tag = r.disk.Tag
	}
	if r.fetchWhole {
		q.Tag = ""
	}
	q.Deltas = r.last.base != nil && r.last.parts <= maxDeltas && r.last.bytes < r.tarball()
	return q
}

// tarball returns the maximum bytes of a tarball.
func (r *remote) tarball() int64 { return r.limits.OrDefault().Total + 1<<20 }

// process processes a response and returns how long to pause.
func (r *remote) process(ctx context.Context, deliver deliver, a response) time.Duration {
	if a.err != nil {
		r.metrics.asked(r.name, "error")
		r.unreachable(ctx, deliver, a.err)
		return r.backoff.Failed()
	}
	if a.Raw == nil {
		r.confirm()
		r.metrics.asked(r.name, "unchanged")
		r.longPolls = r.longPolls || a.Holds
		return r.unchanged(ctx, deliver, a)
	}
	r.note(func(s *RemoteStatus) { s.Downloaded, s.Bytes = r.clock(), len(a.Raw) })
	r.longPolls = a.Holds
	files, archive, err := tarball.Unpack(r.name, bytes.NewReader(a.Raw), r.limits)
	if err != nil {
		// The download may have been damaged: fetch it again without its tag.
		r.metrics.asked(r.name, "broken")
		_ = deliver(ctx, delivery{from: r.from, err: err})
		r.fallBack(ctx, deliver, err)
		return r.backoff.Failed()
	}
	r.confirm()
	if _, delta := files[bundle.DeltaFile]; delta {
		return r.takeDelta(ctx, deliver, a, files)
	}
	again := r.forceDelivery
	if r.fetchWhole, r.forceDelivery = false, false; stateAfter("", a.Raw) == r.last.state && !again {
		r.metrics.asked(r.name, "unchanged")
		r.last.tag = a.Answer.Tag
		return r.unchanged(ctx, deliver, a)
	}
	r.metrics.asked(r.name, "new")
	d := delivery{files: files, archive: archive, from: r.from}
	d.copy = copyOf(a.Raw, archive)
	next := lastBundle{tag: a.Answer.Tag, copy: d.copy, parts: 1, bytes: int64(len(a.Raw)), unsaved: [][]byte{a.Raw}, fresh: true}
	if err := r.readBase(&next, &d); err != nil {
		d = delivery{from: r.from, err: err}
	}
	next.state = stateAfter("", a.Raw)
	r.replace(next, false)
	if err := r.deliverLast(ctx, deliver, d); err != nil && ctx.Err() == nil {
		r.fallBack(ctx, deliver, err)
	}
	return r.pauseAfter(false)
}

// readBase parses the bundle early if deltas may follow. If a signature is required, nothing is parsed before it is verified, and deltas are
// never used.
func (r *remote) readBase(next *lastBundle, d *delivery) (err error) {
	if !r.deltas {
		return nil
	}
	if next.base, err = bundle.Read(r.name, tarball.Tree(d.files), r.limits); err != nil {
		return err
	}
	d.bundle, next.files = next.base, map[string][]byte{}
	for name, content := range d.files {
		if base := path.Base(name); base != "data.json" && base != "data.yaml" && base != "data.yml" {
			next.files[name] = content
		} else {
			next.data += int64(len(content))
		}
	}
	return nil
}

// takeDelta applies a delta to the last bundle. If that fails in any way, the whole bundle is requested.
func (r *remote) takeDelta(ctx context.Context, deliver deliver, a response, files map[string][]byte) time.Duration {
	b, err := r.patch(a, files)
	if err == nil {
		next, before := r.last, r.last.base.Digest()
		next.copy = next.copy.with(a.Raw)
		next.tag, next.base, next.data = a.Answer.Tag, b, next.data+int64(len(files[bundle.DeltaFile]))
		next.parts, next.bytes = next.parts+1, next.bytes+int64(len(a.Raw))
		next.unsaved = append(next.unsaved[:len(next.unsaved):len(next.unsaved)], a.Raw)
		next.state = stateAfter(r.last.state, a.Raw)
		r.replace(next, true)
		r.metrics.asked(r.name, "delta")
		parts := []archivePart{{digest: b.Digest(), before: before, files: files}}
		if err = r.deliverLast(ctx, deliver, delivery{files: next.files, bundle: b, data: next.data, parts: parts, copy: next.copy, from: r.from}); err == nil || errors.Is(err, errIncomplete) {
			return r.pauseAfter(false)
		}
	}
	if ctx.Err() != nil {
		return 0
	}
	r.logger.Warn("delta bundle cannot be used: fetching the whole bundle", zap.String("bundle", r.name),
		zap.String("source", r.from), zap.String("error", err.Error()))
	r.metrics.asked(r.name, "delta_refused")
	if r.fetchWhole { // the whole bundle was requested already
		_ = deliver(ctx, delivery{from: r.from, err: err})
		r.fallBack(ctx, deliver, err)
		return r.backoff.Failed()
	}
	r.fetchWhole = true
	return minPause
}

func (r *remote) patch(a response, files map[string][]byte) (*bundle.Bundle, error) {
	problem := func(text string) error {
		return bundle.Problems{{Stage: "reading", Bundle: r.name, File: bundle.DeltaFile, Text: text}}
	}
	if !a.Deltas {
		return nil, problem("a delta came where a whole bundle was asked for; where signatures are verified there is no other")
	}
	for name := range files {
		if name != bundle.DeltaFile && name != ".manifest" {
			return nil, problem("a delta holds nothing beside it but .manifest, and this one has " + name)
		}
	}
	return r.last.base.Patch(files[".manifest"], files[bundle.DeltaFile])
}

// replace records what is about to be delivered.
func (r *remote) replace(next lastBundle, delta bool) {
	if r.store == nil {
		next.unsaved = nil
	}
	r.last = next
	r.note(func(s *RemoteStatus) { s.Tag, s.Delta, s.FromDisk = displayTag(next.tag), delta, false })
	r.metrics.fromDisk(r.name, false)
}

// deliverLast delivers the bundle described by had.
func (r *remote) deliverLast(ctx context.Context, deliver deliver, d delivery) error {
	r.serial++
	serial := r.serial
	d.outcome = func(err error) {
		if err == nil {
			r.good.Store(serial)
			select {
			case r.activated <- struct{}{}:
			default: // already signalled
			}
		}
	}
	err := deliver(ctx, d)
	r.undelivered = nil
	if ctx.Err() != nil {
		r.undelivered = &d
	}
	return err
}

// current reports whether the last delivery is active.
func (r *remote) current() bool {
	return r.last.state != "" && !r.last.rejected && r.good.Load() == r.serial
}

// unchanged handles a "not modified" response.
func (r *remote) unchanged(ctx context.Context, deliver deliver, a response) time.Duration {
	if r.last.state == "" && r.disk != nil && r.disk.Tag == a.Request.Tag {
		if !r.deliverFromDisk(ctx, deliver, false) {
			r.fetchWhole = true // the bundle on disk is unusable
			return minPause
		}
		return r.pauseAfter(a.Hold)
	}
	if r.current() {
		r.save()
		if r.store != nil && r.last.saved == r.last.state {
			if err := r.store.confirm(r.last.saved, r.confirmed); err != nil {
				r.logger.Warn("noting that a bundle is current", zap.String("bundle", r.name), zap.Error(err))
			}
		}
	}
	r.note(func(s *RemoteStatus) { s.FromDisk = false })
	r.metrics.fromDisk(r.name, false)
	_ = deliver(ctx, delivery{from: r.from, says: kindUnchanged})
	return r.pauseAfter(a.Hold)
}

// pauseAfter returns the pause after a response. With long polling the next request follows at once, unless the server answered "not modified"
// without holding a request that it was asked to hold (unheld).
func (r *remote) pauseAfter(unheld bool) time.Duration {
	r.backoff.Reset()
	asked := r.public.Load().LastRequest
	if r.longPolls && (!unheld || r.clock().Sub(asked) >= longPollTime) {
		return minPause
	}
	return upstream.Jitter(r.cfg.Interval)
}

// confirm records that the source has responded.
func (r *remote) confirm() {
	r.confirmed = r.clock()
	if r.expired {
		r.logger.Info("bundle source is back", zap.String("bundle", r.name), zap.String("source", r.from))
	}
	r.expired = false
	r.note(func(s *RemoteStatus) {
		s.LastAnswer, s.Confirmed, s.Expired, s.Unreachable = r.confirmed, r.confirmed, false, ""
	})
	r.metrics.reachable(r.name, r.confirmed)
}

// unreachable handles a failed request.
func (r *remote) unreachable(ctx context.Context, deliver deliver, err error) {
	if ctx.Err() != nil {
		return
	}
	if text := err.Error(); r.public.Load().Unreachable != text {
		r.logger.Warn("bundle source cannot be reached", zap.String("bundle", r.name), zap.String("source", r.from), zap.String("error", text))
		r.note(func(s *RemoteStatus) { s.Unreachable = text })
	}
	r.metrics.unreachable.WithLabelValues(r.name).Set(1)
	if r.last.state == "" {
		r.deliverFromDisk(ctx, deliver, true)
	}
	_ = deliver(ctx, delivery{from: r.from, says: kindUnreachable,
		err: bundle.Problems{{Stage: stageFetching, Bundle: r.name, Text: err.Error()}}})
}

// fallBack delivers the bundle on disk if nothing is active and the source's bundle cannot be activated. The source's error stays in Status.
func (r *remote) fallBack(ctx context.Context, deliver deliver, why error) {
	if r.good.Load() > 0 || r.disk == nil || errors.Is(why, errIncomplete) || errors.Is(why, errPinned) || ctx.Err() != nil {
		return
	}
	rejected := r.last
	if r.deliverFromDisk(ctx, deliver, true) {
		r.last, r.last.rejected = rejected, true // keeps the refused bundle's tag for the next request
		_ = deliver(ctx, delivery{from: r.from, err: why})
	}
}

// untilExpired returns the time left until max_age, if there is one.
func (r *remote) untilExpired() (time.Duration, bool) {
	if r.cfg.MaxAge == 0 || r.expired || r.last.state == "" {
		return 0, false
	}
	return max(0, r.confirmed.Add(r.cfg.MaxAge).Sub(r.clock())), true
}

// expire reports that the bundle is older than max_age and, if configured, withdraws it.
func (r *remote) expire(ctx context.Context, deliver deliver) {
	if left, ok := r.untilExpired(); !ok || left > 0 {
		return
	}
	r.setExpired()
	_ = deliver(ctx, delivery{from: r.from, says: kindExpired})
}

func (r *remote) setExpired() {
	r.expired = true
	r.note(func(s *RemoteStatus) { s.Expired = true })
	r.metrics.expired.WithLabelValues(r.name).Set(1)
	then := "it goes on deciding"
	if r.cfg.Withdraw {
		then = "nothing is decided by it until the source is back"
	}
	r.logger.Error("bundle is older than its max_age: "+then, zap.String("bundle", r.name), zap.String("source", r.from),
		zap.Time("confirmed", r.confirmed), zap.Duration("max_age", r.cfg.MaxAge))
}

// displayTag formats a tag for people: one from another host includes that host.
func displayTag(tag string) string { return strings.ReplaceAll(tag, "\n", " ") }

// note changes the public status.
func (r *remote) note(change func(*RemoteStatus)) {
	next := *r.public.Load()
	change(&next)
	r.public.Store(&next)
}

// status returns the public status, with the current age.
func (r *remote) status() *RemoteStatus {
	s := *r.public.Load()
	if !s.Confirmed.IsZero() {
		s.AgeSeconds = max(0, int64(r.clock().Sub(s.Confirmed).Seconds()))
	}
	return &s
}
