package bundles

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"gatehouse/panics"
	"gatehouse/policy/bundle"
	"gatehouse/upstream"
	"gatehouse/watch"
)

// Run loads all sources, publishes the snapshot, and publishes another whenever a source has changed to something that can be activated. A
// failed activation is logged and shown in Status; it does not end Run, not even when nothing has been published yet. Run returns nil when
// ctx ends, and an error only if it cannot start or a fetcher ends early. It must be called once.
func (m *Manager) Run(ctx context.Context) error {
	if m.cfg.Publish == nil {
		return errors.New("running bundles: nothing is there to publish to")
	}
	m.reportDamage()
	if before := m.cfg.Succeeds; before != nil && before.handover.Load() != m.took { // there was a rollback meanwhile
		m.loaded = nil
		m.inherit(before.handover.Load())
	}
	m.cfg.Succeeds = nil // so that it can be garbage collected

	ctx, stop := context.WithCancelCause(ctx)
	var fetching sync.WaitGroup
	defer fetching.Wait()
	defer stop(nil) // before the wait
	m.watch(ctx, &fetching)
	m.save()
	m.trim()
	arrivals := make(chan queuedDelivery)
	for _, s := range m.sources {
		if s.fetch != nil {
			fetching.Go(func() {
				if err := panics.LoopError(ctx, "fetching a bundle", func(ctx context.Context) error { return m.fetchInto(ctx, s, arrivals) }); err != nil {
					stop(err)
				}
			})
		}
	}
	if m.archiver != nil {
		fetching.Go(func() { panics.Loop(ctx, "keeping earlier bundles", m.archiver.run) })
	}
	if m.reporter != nil {
		fetching.Go(func() { panics.Loop(ctx, "reporting the bundles' state", m.reporter.run) })
	}
	m.loop(ctx, arrivals)
	if err := context.Cause(ctx); !errors.Is(err, ctx.Err()) {
		return err
	}
	return nil
}

// watch starts watching the sources with a path, and reads them for the first time.
func (m *Manager) watch(ctx context.Context, watching *sync.WaitGroup) {
	c := watch.Config{Poll: m.cfg.Poll, Logger: m.cfg.Logger}
	m.watched = m.withPath()
	for _, s := range m.watched {
		c.Targets = append(c.Targets, watch.Target{Path: s.Path, Ignored: ignored, Wanted: s.relevant, Look: func() *watch.Look {
			// An error means an empty listing; reading the source reports it.
			l, _ := look(s.Source, m.cfg.Limits)
			if l != nil {
				l.Beside = s.Verification.Look()
			}
			return l
		}})
	}
	m.watcher = watch.New(c)
	watching.Go(func() { panics.Loop(ctx, "watching bundles", m.watcher.Run) })
	if len(m.watched) == 0 {
		m.publishStatus()
		return
	}
	select {
	case due := <-m.watcher.Changed():
		m.reload(ctx, due)
	case <-ctx.Done():
	}
}

// loop handles one event at a time until ctx ends.
func (m *Manager) loop(ctx context.Context, arrivals <-chan queuedDelivery) {
	poll := time.NewTicker(m.cfg.Poll)
	defer poll.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	for ctx.Err() == nil {
		again.Stop()
		if at, pending := m.nextRetry(); pending {
			again.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
		case a := <-arrivals:
			a.tried <- m.receive(ctx, a.source, a.delivery)
		case c := <-m.commands:
			err := c.do(ctx)
			m.publishStatus()
			m.save() // before anyone is told the outcome
			c.done <- err
		case due := <-m.watcher.Changed():
			m.reload(ctx, due)
		case <-poll.C:
			m.checkStateFile()
			m.otherKeys()
		case <-again.C:
			m.retryRefused(ctx, false)
		case <-m.retrySignal:
			m.retryRefused(ctx, true)
		}
		m.save()
		m.trim()
	}
}

// trim returns the memory that loading a large bundle used, and that of the bundle before: otherwise the garbage collector keeps it for
// minutes, and the process holds three times what it needs.
func (m *Manager) trim() {
	if !m.swapped {
		return
	}
	m.swapped = false
	var size int64
	for _, r := range m.now.list {
		if r != nil {
			size += r.Size
		}
	}
	if size >= largeBundle {
		debug.FreeOSMemory()
	}
}

// largeBundle is the size, in bytes of files, from which trim collects at once. Compiled, a bundle takes about ten times as much.
const largeBundle = 8 << 20

// yieldSize is the size, in bytes of files, from which compiling uses a core for longer than a request should wait.
const yieldSize = 64 << 10

// busy reports that work of this size starts. The caller calls done at the end.
func (m *Manager) busy(size int64) (done func()) {
	if m.cfg.Busy == nil || size < yieldSize {
		return func() {}
	}
	return m.cfg.Busy()
}

// withPath returns the sources that Run reads itself.
func (m *Manager) withPath() []*source {
	return slices.DeleteFunc(slices.Clone(m.sources), func(s *source) bool { return s.fetch != nil })
}

// Local reports whether all sources are files on this machine.
func (m *Manager) Local() bool { return len(m.withPath()) == len(m.sources) }

// reload reads sources, given by their index in watched, and activates them as one change.
func (m *Manager) reload(ctx context.Context, due []int) {
	var changed []*source
	for _, i := range due {
		if s := m.watched[i]; m.read(ctx, i, s) {
			changed = append(changed, s)
		}
	}
	if len(changed) > 0 {
		_ = m.activate(ctx, changed) // activate has reported its error
	}
	m.publishStatus()
}

// read reads one source and reports whether there is something to activate.
func (m *Manager) read(ctx context.Context, i int, s *source) bool {
	d, _, err := readPath(s.Source, m.cfg.Limits)
	if errors.Is(err, errChanging) && s.unstableReads < maxUnstableReads {
		s.unstableReads++
		m.watcher.LookAgain(i, unstablePause)
		return false
	}
	s.unstableReads = 0
	d.err = err
	changed, failed := m.accept(s, d)
	if failed != nil && s.latest == nil && s.pin != nil && s.active == nil {
		m.usePin(ctx, s)
	}
	return changed
}

// receive takes a fetcher's delivery and activates it.
func (m *Manager) receive(ctx context.Context, s *source, d delivery) error {
	defer m.publishStatus()
	if d.says != kindBundle {
		return m.handleStatus(ctx, s, d)
	}
	if d.err == nil {
		s.expired = false // cleared first, or publish would refuse
	}
	changed, err := m.accept(s, d)
	if changed {
		err = m.activate(ctx, []*source{s})
	}
	m.back(ctx)
	return err
}

// accept makes the source's latest candidate from a delivery and reports whether it is to be activated. If not, err says why, or is nil if it
// is active already.
func (m *Manager) accept(s *source, d delivery) (changed bool, err error) {
	s.status.LastAttempt = m.cfg.Clock()
	began := time.Now()
	if !s.retrying {
		s.retry, s.lastProblem = retry{}, ""
	}
	s.retrying = false
	if s.remote != nil {
		s.keys = s.Verification.Look()
	}
	s.latest, err = m.prepare(s, d)
	if err != nil {
		m.fail([]*source{s}, err)
		// A remote source with an unusable bundle is requested again in any case.
		s.scheduleRetry(d.err == nil && retryable(err) || d.err != nil && s.fetch == nil, time.Since(began))
		if d.outcome != nil {
			d.outcome(err)
		}
		return false, err
	}
	if s.heldBack() {
		if _, err := m.pinned(s); err != nil {
			m.fail([]*source{s}, err)
			s.scheduleRetry(retryable(err), time.Since(began))
			s.latest.report(err)
			return false, err
		}
		if s.active == s.pin.made {
			s.latest.report(errPinned)
			m.current(s)
			return false, errPinned
		}
	}
	if s.active != nil && s.active.Digest() == s.latest.Digest() {
		s.latest.report(nil)
		m.resigned(s)
		s.latest = s.active
		m.release(s)
		m.current(s)
		return false, nil
	}
	return true, nil
}

// resigned updates the active bundle's copy: it may have been signed with another key.
func (m *Manager) resigned(s *source) {
	if s.latest == s.active || s.latest.key == s.active.key {
		return
	}
	s.active.copy, s.active.key, s.active.keys, s.active.verified = s.latest.copy, s.latest.key, s.latest.keys, s.latest.verified
	s.active.serial, s.highest = s.latest.serial, max(s.highest, s.latest.serial)
	s.active.tests, s.active.archive = s.latest.tests, s.latest.archive
	s.status.Archive, s.status.Serial = s.active.archive, s.active.serial
	if s.remote != nil {
		s.remote.active.Store(s.highest)
	}
	at := slices.Index(m.sources, s)
	m.now.list = slices.Clone(m.now.list)
	m.now.list[at] = recordOf(s, s.active)
	m.dirty = true
}

// retry says when a refused bundle is tried again although it has not changed: the cause may have gone away.
type retry struct {
	at    time.Time // zero: only when something changes
	tries int
}

const (
	firstTryAgain = time.Second
	lastTryAgain  = 30 * time.Second
	// retryShare limits the time spent on attempts: after each, wait this many times as long.
	retryShare = 10
)

// retryable reports whether a bundle with this error may pass later unchanged: its tests may call a backend that was down, a key may be added,
// a signature's nbf may pass, the routes may gain its rules. What does not parse or compile never will.
func retryable(err error) bool {
	stage := stageReading
	if e, ok := errors.AsType[*stageError](err); ok {
		stage = e.stage
	}
	if problems, _ := errors.AsType[bundle.Problems](err); len(problems) > 0 && stage == stageReading {
		stage = problems[0].Stage
	}
	switch stage {
	case stageVerifying, stageTesting, stageSmoke, stageWarming, stagePublishing:
		return true
	}
	return false
}

// scheduleRetry schedules the next attempt, after one that took this long.
func (s *source) scheduleRetry(retryable bool, took time.Duration) {
	if !retryable {
		s.retry = retry{}
		return
	}
	pause := min(firstTryAgain<<min(s.retry.tries, 10), lastTryAgain)
	s.retry.tries++
	s.retry.at = time.Now().Add(upstream.Jitter(max(pause, retryShare*took)))
}

// RetryRefused says that something has changed that a bundle may have failed on: routes, keys. Refused bundles are tried again soon. It never
// blocks.
func (m *Manager) RetryRefused() {
	select {
	case m.retrySignal <- struct{}{}:
	default: // already signalled
	}
}

// nextRetry returns when the next source is due for another attempt.
func (m *Manager) nextRetry() (at time.Time, pending bool) {
	for _, s := range m.sources {
		if !s.retry.at.IsZero() && (!pending || s.retry.at.Before(at)) {
			at, pending = s.retry.at, true
		}
	}
	return at, pending
}

// retryRefused tries refused bundles again: those that are due, or all.
func (m *Manager) retryRefused(ctx context.Context, all bool) {
	now := time.Now()
	var ready []*source
	for _, s := range m.sources {
		if s.retry.at.IsZero() || !all && s.retry.at.After(now) {
			continue
		}
		if all {
			s.retry.tries = 0
		}
		s.retry.at, s.retrying = time.Time{}, true
		m.metrics.retries.WithLabelValues(s.Name).Inc()
		m.cfg.Logger.Debug("a bundle that was refused is tried again", zap.String("bundle", s.Name), zap.Int("attempt", s.retry.tries))
		switch {
		case s.latest != nil && s.latest != s.active && !s.heldBack():
			s.retrying = false
			ready = append(ready, s)
		case s.latest != nil && s.heldBack() && s.active == nil:
			s.retrying = false
			if _, err := m.pinned(s); err != nil {
				m.fail([]*source{s}, err)
			} else {
				ready = append(ready, s)
			}
		case s.remote != nil:
			s.remote.askAgain()
		case s.fetch == nil:
			m.watcher.LookAgain(slices.Index(m.watched, s), 0)
		}
	}
	if len(ready) > 0 {
		_ = m.activate(ctx, ready) // activate has reported its error
	}
	m.publishStatus()
}

// otherKeys triggers verification of sources whose key files have changed: a remote source correctly answers "not modified".
func (m *Manager) otherKeys() {
	for _, s := range m.sources {
		if s.remote == nil || s.Verification == nil || s.latest == nil && s.status.Stage == "" {
			continue
		}
		if now := s.Verification.Look(); !slices.EqualFunc(now, s.keys, watch.SameFile) {
			s.keys = now
			s.remote.askAgain()
		}
	}
}

// updateDegraded updates what Degraded returns.
func (m *Manager) updateDegraded() {
	var list []string
	for _, s := range m.sources {
		if s.status.Stage == "" {
			s.since = time.Time{}
			continue
		}
		if s.since.IsZero() {
			s.since = m.cfg.Clock()
		}
		what := "is refused"
		if s.status.Stage == stageFetching || s.status.Stage == stageReading && s.latest == nil && s.status.File == "" {
			what = "cannot be read"
		}
		then := "the previous one decides"
		if s.active == nil {
			then = "no policy of it is active"
		}
		list = append(list, fmt.Sprintf("bundle %q %s since %s (%s): %s; %s", s.Name, what, s.since.UTC().Format(time.RFC3339), s.status.Stage, firstLine(s.status.Error), then))
	}
	if m.stateLost != "" {
		list = append(list, m.stateLost)
	}
	if m.unsaved != "" {
		list = append(list, "the history of bundles cannot be kept on disk: "+firstLine(m.unsaved))
	}
	m.degraded.Store(&list)
}

// firstLine returns an error's first line, bounded.
func firstLine(text string) string {
	const limit = 300
	for i, c := range text {
		if c == '\n' || i >= limit {
			return text[:i] + " ..."
		}
	}
	return text
}

// Degraded lists what is not as configured, one sentence each: an unreadable source, or a refused bundle while the previous policy stays
// active. A pinned bundle is intended and only shown in Status.
func (m *Manager) Degraded() []string {
	list := slices.Clone(*m.degraded.Load())
	for _, s := range m.sources {
		if s.remote == nil {
			continue
		}
		r := s.remote.public.Load()
		say := func(format string, args ...any) {
			list = append(list, fmt.Sprintf("bundle %q ", s.Name)+fmt.Sprintf(format, args...))
		}
		switch {
		case r.Unreachable != "" && !r.Confirmed.IsZero():
			say("cannot be fetched, last confirmed %s: %s", r.Confirmed.UTC().Format(time.RFC3339), firstLine(r.Unreachable))
		case r.Unreachable != "":
			say("cannot be fetched: %s", firstLine(r.Unreachable))
		}
		if r.Expired {
			say("is older than its max_age")
		}
		if r.FromDisk {
			say("is the one that was kept on disk")
		}
		if r.NotKept {
			say("cannot be kept on disk")
		}
	}
	return list
}
