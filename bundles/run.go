package bundles

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"gatehouse/policy"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

// Run loads all sources, publishes the snapshot, and then publishes another whenever a source has changed to something
// that can be activated. A source that cannot be activated is an event for the log and for Status, not an end; also at
// the start, when nothing has been published yet. Run returns nil when ctx ends, and an error only when it cannot begin or
// a fetcher gave up. It must be called once.
func (m *Manager) Run(ctx context.Context) error {
	if m.cfg.Publish == nil {
		return errors.New("running bundles: nothing is there to publish to")
	}
	m.watcher = newWatcher(m.cfg.Logger)
	defer m.watcher.close()
	m.reload(ctx, m.withPath())

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var fetching sync.WaitGroup
	defer fetching.Wait()
	defer stop(nil) // before the wait
	arrivals := make(chan arrival)
	for _, s := range m.sources {
		if s.fetch != nil {
			fetching.Go(func() {
				if err := m.fetchInto(ctx, s, arrivals); err != nil {
					stop(err)
				}
			})
		}
	}
	m.loop(ctx, arrivals)
	if err := context.Cause(ctx); !errors.Is(err, ctx.Err()) {
		return err
	}
	return nil
}

// loop takes one thing after the other until ctx ends.
func (m *Manager) loop(ctx context.Context, arrivals <-chan arrival) {
	poll := time.NewTicker(m.cfg.Poll)
	defer poll.Stop()
	settled := time.NewTimer(0)
	defer settled.Stop()
	for ctx.Err() == nil {
		settled.Stop()
		if due, pending := m.nextDue(); pending {
			settled.Reset(time.Until(due))
		}
		select {
		case <-ctx.Done():
		case a := <-arrivals:
			a.tried <- m.receive(ctx, a.source, a.delivery)
		case event, ok := <-m.watcher.events.Events:
			if ok {
				m.note(event)
			}
		case err, ok := <-m.watcher.events.Errors:
			if ok {
				m.noteAll(err)
			}
		case <-poll.C:
			m.look()
		case <-settled.C:
			m.reload(ctx, m.due(time.Now()))
		}
	}
}

// withPath returns the sources that Run reads itself.
func (m *Manager) withPath() []*source {
	return slices.DeleteFunc(slices.Clone(m.sources), func(s *source) bool { return s.fetch != nil })
}

// nextDue returns when the first pending source has settled.
func (m *Manager) nextDue() (due time.Time, pending bool) {
	for _, s := range m.sources {
		if !s.pending.first.IsZero() && (!pending || s.pending.due.Before(due)) {
			due, pending = s.pending.due, true
		}
	}
	return due, pending
}

// due returns the sources that have settled.
func (m *Manager) due(now time.Time) []*source {
	var list []*source
	for _, s := range m.sources {
		if !s.pending.first.IsZero() && !s.pending.due.After(now) {
			list = append(list, s)
		}
	}
	return list
}

func (m *Manager) note(event fsnotify.Event) {
	for _, s := range m.sources {
		if changed, atomic := m.watcher.judge(s, event); changed {
			s.pending.note(time.Now(), atomic)
		}
	}
}

// noteAll follows an error of the watcher. Events may be lost, so everything may have changed.
func (m *Manager) noteAll(err error) {
	m.cfg.Logger.Warn("watching directories: events may be lost, looking at all of them", zap.Error(err))
	for _, s := range m.withPath() {
		s.pending.note(time.Now(), false)
	}
}

// look compares each source with what was read last, without opening a file.
func (m *Manager) look() {
	for _, s := range m.withPath() {
		if !s.pending.first.IsZero() {
			continue
		}
		// What cannot be listed looks like nothing; trying to read it says why.
		now, _ := look(s.Source, m.cfg.Limits)
		if !now.same(s.seen) {
			s.pending.note(time.Now(), false)
		}
	}
}

// reload reads the sources and activates what they hold, as one change.
func (m *Manager) reload(ctx context.Context, sources []*source) {
	var changed []*source
	for _, s := range sources {
		if m.read(s) {
			changed = append(changed, s)
		}
	}
	if len(changed) > 0 {
		_ = m.activate(ctx, changed) // it has told everybody who wants to know
	}
	m.publishStatus()
}

// read reads one source and reports whether there is something to activate.
func (m *Manager) read(s *source) bool {
	// Watch before reading: what happens after the read is then an event, what happened before is in the read.
	m.cover(s)
	d, seen, err := readPath(s.Source, m.cfg.Limits)
	s.seen = seen
	if errors.Is(err, errChanging) && s.pending.tries < maxRestless {
		s.pending.again(time.Now())
		return false
	}
	s.pending = settling{}
	d.err = err
	changed, _ := m.take(s, d)
	return changed
}

// receive takes what a fetcher delivered and activates it.
func (m *Manager) receive(ctx context.Context, s *source, d delivery) error {
	defer m.publishStatus()
	changed, err := m.take(s, d)
	if !changed {
		return err
	}
	return m.activate(ctx, []*source{s})
}

// take makes the source's latest candidate of a delivery and reports whether that is something to activate. Where it is
// not, the error says why, or is nil because it is what is active already.
func (m *Manager) take(s *source, d delivery) (changed bool, err error) {
	s.status.LastAttempt = m.cfg.Clock()
	s.latest, err = m.prepare(s, d)
	if err != nil {
		m.fail([]*source{s}, err)
		if d.outcome != nil {
			d.outcome(err)
		}
		return false, err
	}
	if s.active != nil && s.active.Digest() == s.latest.Digest() {
		s.latest.told(nil)
		s.latest = s.active
		m.current(s)
		return false, nil
	}
	return true, nil
}

// cover sets the watches of a source for the folders that it has now.
func (m *Manager) cover(s *source) {
	if now, err := look(s.Source, m.cfg.Limits); err == nil {
		s.seen = now
	}
	m.watcher.cover(s)
}

// activate compiles what was read together with the other sources and publishes it. Where another source holds something
// that could not be activated by itself, both together are tried first: two sources may only fit together. Then the
// others count as they were published last.
func (m *Manager) activate(ctx context.Context, read []*source) error {
	began := time.Now()
	waiting := m.candidates(func(*source) bool { return true })
	snapshot, err := m.compile(ctx, waiting)
	if err != nil {
		changed := map[*source]bool{}
		for _, s := range read {
			changed[s] = true
		}
		alone := m.candidates(func(s *source) bool { return changed[s] })
		if complete(alone) && !slices.Equal(alone, waiting) {
			waiting = alone
			snapshot, err = m.compile(ctx, waiting)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		if refused := m.cfg.Publish(ctx, snapshot); refused != nil {
			err = &refusedError{refused}
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		m.fail(read, err)
		for _, s := range read {
			s.latest.told(err)
		}
		return err
	}
	m.published(snapshot, waiting, time.Since(began))
	return nil
}

// candidates picks for each source what was read last, or else what is active.
func (m *Manager) candidates(useLatest func(*source) bool) (list []*candidate) {
	for _, s := range m.sources {
		c := s.active
		if useLatest(s) && s.latest != nil {
			c = s.latest
		}
		list = append(list, c)
	}
	return list
}

// errIncomplete keeps a policy back until each of its bundles has been read once.
var errIncomplete = errors.New("waiting for another bundle that could not be read yet")

func (m *Manager) compile(ctx context.Context, list []*candidate) (*policy.Snapshot, error) {
	if !complete(list) {
		return nil, errIncomplete
	}
	return policy.Compile(ctx, m.cfg.Policy, bundlesOf(list))
}

// refusedError is a snapshot that compiles and was not taken, because the rest of the configuration does not fit it.
type refusedError struct{ cause error }

func (e *refusedError) Error() string { return e.cause.Error() }
func (e *refusedError) Unwrap() error { return e.cause }

// published says that a snapshot is active.
func (m *Manager) published(snapshot *policy.Snapshot, list []*candidate, took time.Duration) {
	m.logNotices(snapshot)
	m.active = snapshot
	now := m.cfg.Clock()
	for i, s := range m.sources {
		if b := list[i]; s.active != b {
			s.active = b
			s.highest = max(s.highest, b.serial)
			b.told(nil)
			s.status.Revision, s.status.Digest, s.status.ActiveSince = b.Revision(), b.Digest(), now
			m.metrics.activated(s.Name, b.Revision())
			m.cfg.Logger.Info("policy bundle activated", zap.String("bundle", s.Name), zap.String("source", b.from),
				zap.String("revision", b.Revision()), zap.String("digest", b.Digest()), zap.Duration("compiled_in", took))
		}
		if s.active == s.latest {
			m.current(s)
		}
	}
}

// logNotices logs what the snapshot before this one had not said already.
func (m *Manager) logNotices(snapshot *policy.Snapshot) {
	said := map[string]bool{}
	if m.active != nil {
		for _, notice := range m.active.Notices() {
			said[notice] = true
		}
	}
	for _, notice := range snapshot.Notices() {
		if !said[notice] {
			m.cfg.Logger.Warn("policy notice", zap.String("notice", notice))
		}
	}
}

// current notes that what is active is what the source holds.
func (m *Manager) current(s *source) {
	s.status.Stage, s.status.Error = "", ""
	m.metrics.current(s.Name, m.cfg.Clock())
}

// fail notes that sources could not be activated. A problem in one bundle of several is told of that one alone.
func (m *Manager) fail(sources []*source, err error) {
	for _, s := range sources {
		first, ok := problemIn(s, err)
		if !ok && len(sources) > 1 {
			first = policy.Problem{Stage: first.Stage}
		}
		s.status.Stage, s.status.Error = first.Stage, err.Error()
		m.metrics.failed(s.Name)
		fields := []zap.Field{zap.String("bundle", s.Name), zap.String("source", s.status.Source), zap.String("stage", first.Stage),
			zap.String("file", first.File), zap.Int("line", first.Line), zap.String("error", err.Error())}
		if s.active == nil {
			m.cfg.Logger.Error("policy bundle not activated: no policy of it is active", fields...)
			continue
		}
		m.cfg.Logger.Error("policy bundle not activated: the previous one stays active", append(fields,
			zap.String("active_revision", s.active.Revision()), zap.Time("active_since", s.status.ActiveSince))...)
	}
}

// problemIn returns the first problem of an error that belongs to the source, or else the first one.
func problemIn(s *source, err error) (first policy.Problem, ok bool) {
	var problems policy.Problems
	if !errors.As(err, &problems) {
		stage := "reading"
		if errors.Is(err, errIncomplete) {
			stage = "waiting"
		}
		if _, refused := errors.AsType[*refusedError](err); refused {
			stage = "publishing"
		}
		return policy.Problem{Stage: stage}, false
	}
	for _, p := range problems {
		if p.Bundle == s.Name {
			return p, true
		}
	}
	return problems[0], false
}
