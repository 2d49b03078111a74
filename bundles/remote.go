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
	URL     string // of a bundle service, or of any server of files with ETags
	Image   string // instead of URL: a reference to an image in a registry, by tag or digest
	Service upstream.Service

	// CredentialFile is for images: a file like Docker's config.json. Empty: Docker's own.
	CredentialFile string

	Interval time.Duration // between two requests to a server that does not hold them; default 1 min, +-20 %
	LongPoll time.Duration // how long a bundle service is asked to hold a request; default 30 s, below zero not at all

	// MaxAge is how long a bundle counts that its source no longer confirms; 0: for ever. What happens then is only told
	// (log, Status, metric) unless Withdraw is set: then nothing is decided by it any more until the source is back.
	MaxAge   time.Duration
	Withdraw bool
}

// RemoteStatus is what is known about a remote source.
type RemoteStatus struct {
	Tag         string    `json:"tag,omitempty"`         // the ETag or digest of what was had last
	Delta       bool      `json:"delta,omitempty"`       // it came as a change to the one before
	Bytes       int       `json:"bytes,omitempty"`       // of the tarball
	LastRequest time.Time `json:"last_request,omitzero"` // when the source was asked last
	LastAnswer  time.Time `json:"last_answer,omitzero"`  // when it answered last, with a bundle or that there is none newer
	Downloaded  time.Time `json:"downloaded,omitzero"`   // when it last sent a bundle
	Confirmed   time.Time `json:"confirmed,omitzero"`    // when it last said that the bundle in use is what it has
	AgeSeconds  int64     `json:"age_seconds,omitempty"` // since then
	FromDisk    bool      `json:"from_disk,omitempty"`   // the bundle is the one kept on disk, because the source cannot be reached
	Expired     bool      `json:"expired,omitempty"`     // older than max_age
	Unreachable string    `json:"unreachable,omitempty"` // why the source could not be asked last
	NotKept     bool      `json:"not_kept,omitempty"`    // the active bundle could not be written to disk
}

const (
	startTime   = 5 * time.Second        // how long a source may take at the start before the bundle on disk is used
	minPause    = 200 * time.Millisecond // between two requests, whatever the server says
	heldTime    = time.Second            // a request that was answered later than that was held
	firstRetry  = 500 * time.Millisecond
	maxRetry    = time.Minute
	futureTrust = time.Minute // how far the clock may have been set back for a time on disk to be believed
)

// saying is what a delivery says where it brings no bundle.
type saying int

const (
	saysBundle      saying = iota // it brings one, or says why it cannot be used
	saysUnchanged                 // the source has what was delivered last
	saysUnreachable               // the source cannot be asked; what was delivered last stands
	saysExpired                   // the source has not confirmed the bundle for longer than max_age
)

// remote fetches one source and keeps its last good bundle on disk. All of it but public, good and activated belongs to
// the goroutine that runs fetch.
type remote struct {
	name string
	cfg  Remote
	from string // the source as people see it
	// identity tells it from every other.
	identity string
	origin   origin.Origin
	store    *store // nil: nothing is kept on disk
	limits   bundle.Limits
	deltas   bool // changes to the last bundle can be used
	clock    func() time.Time
	logger   *zap.Logger
	metrics  *remoteMetrics

	public    atomic.Pointer[RemoteStatus]
	good      atomic.Int64  // serial of the last delivery that became active
	active    atomic.Int64  // the highest serial of a manifest that was ever active
	activated chan struct{} // says that good has grown
	wanted    chan struct{} // says that the whole bundle is to be brought again, although the source has nothing newer

	had       had
	highest   int64            // serial that is on disk: an older one is not to become active after a restart either
	held      *delivery        // was delivered, and ctx ended before it was tried: Load's, for Run
	disk      *kept            // nil where there is nothing of use, or not any more
	opened    bool             // the store was looked into
	serial    int64            // of the last delivery
	whole     bool             // a delta did not fit: the next request is for the whole bundle
	anew      bool             // and delivered, also where it is the one that was delivered last
	holds     bool             // the server holds requests
	backoff   upstream.Backoff // after failures in a row
	confirmed time.Time        // when the source last answered
	expired   bool
}

// had is the bundle that was delivered last.
type had struct {
	tag     string
	state   string            // empty: there is none
	base    *bundle.Bundle    // the bundle itself, where deltas can be used
	files   map[string][]byte // its files without the data, likewise
	copy    *copied           // what it came as
	data    int64             // bytes of the data
	parts   int               // tarballs that it is made of
	bytes   int64             // of them all
	saved   string            // the state that is on disk; empty: none of these
	unsaved [][]byte          // the tarballs that lead from saved to state; from nothing, where the first is a whole bundle
	fresh   bool              // the first of them is a whole bundle

	rejected bool // what was on disk was delivered after it
}

// answer is what came of one request.
type answer struct {
	origin.Request
	origin.Answer
	err error
}

// fetch is the source's fetcher: it asks, delivers, and asks again after a pause.
func (r *remote) fetch(ctx context.Context, deliver deliver) error {
	ctx, stop := context.WithCancel(ctx)
	answers, asked := make(chan answer, 1), false
	cut := func() {} // ends the request that is held
	defer func() {
		stop()
		if asked {
			<-answers
		}
		cut()
		r.origin.Close()
	}()
	r.open()
	if r.held != nil {
		if err := r.hand(ctx, deliver, *r.held); err != nil {
			r.fallBack(ctx, deliver, err)
		}
	}
	r.holds = false // the first request is answered at once
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
			return nil
		case <-pause.C:
			asked, cut = true, r.ask(ctx, answers)
		case a := <-answers:
			asked = false
			cut()
			late.Stop()
			if r.anew && a.err != nil && errors.Is(a.err, context.Canceled) {
				pause.Reset(0)
				continue
			}
			pause.Reset(r.take(ctx, deliver, a))
		case <-r.wanted:
			if r.whole, r.anew = true, true; asked {
				cut()
			} else {
				pause.Reset(minPause)
			}
		case <-late.C:
			r.unreachable(ctx, deliver, fmt.Errorf("no answer for %v", startTime))
		case <-r.activated:
			r.keep()
		case <-old.C:
			r.expire(ctx, deliver)
		}
	}
}

// ask asks in a goroutine of its own, until it is cut off.
func (r *remote) ask(ctx context.Context, answers chan<- answer) (cut func()) {
	q := r.nextRequest()
	ctx, cut = context.WithCancel(ctx)
	go func() {
		f, err := r.answered(ctx, q)
		answers <- answer{q, f, err}
	}()
	return cut
}

// answered puts a request to the source. A panic on the way is an answer that is none.
func (r *remote) answered(ctx context.Context, q origin.Request) (f origin.Answer, err error) {
	defer panics.Into("fetching a bundle", &err)
	return r.origin.Fetch(ctx, q)
}

// askAgain has the whole bundle brought again: what was delivered last was refused, and may pass now. It never waits.
func (r *remote) askAgain() {
	select {
	case r.wanted <- struct{}{}:
	default: // it was said already
	}
}

// nextRequest asks for what is newer than the bundle that was delivered last, or else than the one on disk. The first
// request is answered at once.
func (r *remote) nextRequest() origin.Request {
	r.note(func(s *RemoteStatus) { s.LastRequest = r.clock() })
	q := origin.Request{Tag: r.had.tag, Hold: r.holds}
	if r.had.state == "" && r.disk != nil {
		q.Tag = r.disk.Tag
	}
	if r.whole {
		q.Tag = ""
	}
	q.Deltas = r.had.base != nil && r.had.parts <= maxDeltas && r.had.bytes < r.tarball()
	return q
}

// tarball is the most bytes that a tarball may have.
func (r *remote) tarball() int64 { return r.limits.OrDefault().Total + 1<<20 }

// take takes an answer in and returns how long to pause.
func (r *remote) take(ctx context.Context, deliver deliver, a answer) time.Duration {
	if a.err != nil {
		r.metrics.asked(r.name, "error")
		r.unreachable(ctx, deliver, a.err)
		return r.backoff.Failed()
	}
	if a.Raw == nil {
		r.confirm()
		r.metrics.asked(r.name, "unchanged")
		return r.unchanged(ctx, deliver, a)
	}
	r.note(func(s *RemoteStatus) { s.Downloaded, s.Bytes = r.clock(), len(a.Raw) })
	r.holds = a.Holds
	files, archive, err := tarball.Unpack(r.name, bytes.NewReader(a.Raw), r.limits)
	if err != nil {
		// What arrived may have been damaged on the way: it is not asked about, but asked for again.
		r.metrics.asked(r.name, "broken")
		_ = deliver(ctx, delivery{from: r.from, err: err})
		r.fallBack(ctx, deliver, err)
		return r.backoff.Failed()
	}
	r.confirm()
	if _, delta := files[bundle.DeltaFile]; delta {
		return r.takeDelta(ctx, deliver, a, files)
	}
	again := r.anew
	if r.whole, r.anew = false, false; stateAfter("", a.Raw) == r.had.state && !again {
		r.metrics.asked(r.name, "unchanged")
		r.had.tag = a.Answer.Tag
		return r.unchanged(ctx, deliver, a)
	}
	r.metrics.asked(r.name, "new")
	d := delivery{files: files, archive: archive, from: r.from}
	d.copy = copyOf(a.Raw, archive)
	next := had{tag: a.Answer.Tag, copy: d.copy, parts: 1, bytes: int64(len(a.Raw)), unsaved: [][]byte{a.Raw}, fresh: true}
	if err := r.readBase(&next, &d); err != nil {
		d = delivery{from: r.from, err: err}
	}
	next.state = stateAfter("", a.Raw)
	r.replace(next, false)
	if err := r.hand(ctx, deliver, d); err != nil && ctx.Err() == nil {
		r.fallBack(ctx, deliver, err)
	}
	return r.rest(false)
}

// readBase reads the bundle at once where deltas may follow it. Where a signature is wanted that comes first, and deltas
// never.
func (r *remote) readBase(next *had, d *delivery) (err error) {
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

// takeDelta makes the next bundle of the last one and a delta. Where that fails in any way, the whole bundle is asked for.
func (r *remote) takeDelta(ctx context.Context, deliver deliver, a answer, files map[string][]byte) time.Duration {
	b, err := r.patch(a, files)
	if err == nil {
		next, before := r.had, r.had.base.Digest()
		next.copy = next.copy.with(a.Raw)
		next.tag, next.base, next.data = a.Answer.Tag, b, next.data+int64(len(files[bundle.DeltaFile]))
		next.parts, next.bytes = next.parts+1, next.bytes+int64(len(a.Raw))
		next.unsaved = append(next.unsaved[:len(next.unsaved):len(next.unsaved)], a.Raw)
		next.state = stateAfter(r.had.state, a.Raw)
		r.replace(next, true)
		r.metrics.asked(r.name, "delta")
		parts := []archivePart{{digest: b.Digest(), before: before, files: files}}
		if err = r.hand(ctx, deliver, delivery{files: next.files, bundle: b, data: next.data, parts: parts, copy: next.copy, from: r.from}); err == nil || errors.Is(err, errIncomplete) {
			return r.rest(false)
		}
	}
	if ctx.Err() != nil {
		return 0
	}
	r.logger.Warn("delta bundle cannot be used: fetching the whole bundle", zap.String("bundle", r.name),
		zap.String("source", r.from), zap.String("error", err.Error()))
	r.metrics.asked(r.name, "delta_refused")
	if r.whole { // it was asked for already
		_ = deliver(ctx, delivery{from: r.from, err: err})
		r.fallBack(ctx, deliver, err)
		return r.backoff.Failed()
	}
	r.whole = true
	return minPause
}

func (r *remote) patch(a answer, files map[string][]byte) (*bundle.Bundle, error) {
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
	return r.had.base.Patch(files[".manifest"], files[bundle.DeltaFile])
}

// replace notes what is about to be delivered.
func (r *remote) replace(next had, delta bool) {
	if r.store == nil {
		next.unsaved = nil
	}
	r.had = next
	r.note(func(s *RemoteStatus) { s.Tag, s.Delta, s.FromDisk = shownTag(next.tag), delta, false })
	r.metrics.fromDisk(r.name, false)
}

// hand delivers what had describes.
func (r *remote) hand(ctx context.Context, deliver deliver, d delivery) error {
	r.serial++
	serial := r.serial
	d.outcome = func(err error) {
		if err == nil {
			r.good.Store(serial)
			select {
			case r.activated <- struct{}{}:
			default: // it was said already
			}
		}
	}
	err := deliver(ctx, d)
	r.held = nil
	if ctx.Err() != nil {
		r.held = &d
	}
	return err
}

// current reports whether what was delivered last is active.
func (r *remote) current() bool {
	return r.had.state != "" && !r.had.rejected && r.good.Load() == r.serial
}

// unchanged follows an answer that there is nothing newer.
func (r *remote) unchanged(ctx context.Context, deliver deliver, a answer) time.Duration {
	if r.had.state == "" && r.disk != nil && r.disk.Tag == a.Request.Tag {
		if !r.handDisk(ctx, deliver, false) {
			r.whole = true // the copy is of no use
			return minPause
		}
		return r.rest(true)
	}
	if r.current() {
		r.keep()
		if r.store != nil && r.had.saved == r.had.state {
			if err := r.store.confirm(r.had.saved, r.confirmed); err != nil {
				r.logger.Warn("noting that a bundle is current", zap.String("bundle", r.name), zap.Error(err))
			}
		}
	}
	r.note(func(s *RemoteStatus) { s.FromDisk = false })
	r.metrics.fromDisk(r.name, false)
	_ = deliver(ctx, delivery{from: r.from, says: saysUnchanged})
	return r.rest(true)
}

// rest returns the pause after an answer. A server that holds requests is asked again at once, unless it answered that
// nothing had changed without having held the request.
func (r *remote) rest(unchanged bool) time.Duration {
	r.backoff.Reset()
	asked := r.public.Load().LastRequest
	if r.holds && (!unchanged || r.clock().Sub(asked) >= heldTime) {
		return minPause
	}
	return upstream.Jitter(r.cfg.Interval)
}

// confirm notes that the source has answered.
func (r *remote) confirm() {
	r.confirmed = r.clock()
	if r.expired {
		r.logger.Info("bundle source is back", zap.String("bundle", r.name), zap.String("source", r.from))
	}
	r.expired = false
	r.note(func(s *RemoteStatus) {
		s.LastAnswer, s.Confirmed, s.Expired, s.Unreachable = r.confirmed, r.confirmed, false, ""
	})
	r.metrics.answered(r.name, r.confirmed)
}

// unreachable follows a request without an answer.
func (r *remote) unreachable(ctx context.Context, deliver deliver, err error) {
	if ctx.Err() != nil {
		return
	}
	if text := err.Error(); r.public.Load().Unreachable != text {
		r.logger.Warn("bundle source cannot be reached", zap.String("bundle", r.name), zap.String("source", r.from), zap.String("error", text))
		r.note(func(s *RemoteStatus) { s.Unreachable = text })
	}
	r.metrics.unreachable.WithLabelValues(r.name).Set(1)
	if r.had.state == "" {
		r.handDisk(ctx, deliver, true)
	}
	_ = deliver(ctx, delivery{from: r.from, says: saysUnreachable,
		err: bundle.Problems{{Stage: stageFetching, Bundle: r.name, Text: err.Error()}}})
}

// fallBack uses the bundle on disk where nothing is active and what the source has cannot be activated. What is wrong with
// that stays in Status.
func (r *remote) fallBack(ctx context.Context, deliver deliver, why error) {
	if r.good.Load() > 0 || r.disk == nil || errors.Is(why, errIncomplete) || errors.Is(why, errPinned) || ctx.Err() != nil {
		return
	}
	rejected := r.had
	if r.handDisk(ctx, deliver, true) {
		r.had, r.had.rejected = rejected, true // what the source is asked about
		_ = deliver(ctx, delivery{from: r.from, err: why})
	}
}

// untilExpired returns the time that is left to the bundle, where it has an end.
func (r *remote) untilExpired() (time.Duration, bool) {
	if r.cfg.MaxAge == 0 || r.expired || r.had.state == "" {
		return 0, false
	}
	return max(0, r.confirmed.Add(r.cfg.MaxAge).Sub(r.clock())), true
}

// expire says, and where so configured sees to it, that the bundle no longer counts.
func (r *remote) expire(ctx context.Context, deliver deliver) {
	if left, ok := r.untilExpired(); !ok || left > 0 {
		return
	}
	r.setExpired()
	_ = deliver(ctx, delivery{from: r.from, says: saysExpired})
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

// shownTag is a tag for people: of another host than the source's it names that.
func shownTag(tag string) string { return strings.ReplaceAll(tag, "\n", " ") }

// note changes the public status.
func (r *remote) note(change func(*RemoteStatus)) {
	next := *r.public.Load()
	change(&next)
	r.public.Store(&next)
}

// status returns the public status with the age as of now.
func (r *remote) status() *RemoteStatus {
	s := *r.public.Load()
	if !s.Confirmed.IsZero() {
		s.AgeSeconds = max(0, int64(r.clock().Sub(s.Confirmed).Seconds()))
	}
	return &s
}
