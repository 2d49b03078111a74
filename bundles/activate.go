package bundles

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
	"gatehouse/policy/rego"
	"gatehouse/watch"
)

// The stages of an activation, in order, as in log, Status and metrics. "reading" includes limits and parsing, "compiling" the capabilities
// and the decision paths; both are reported by package policy.
const (
	stageFetching   = "downloading" // from a remote source
	stageReading    = "reading"
	stageVerifying  = "verifying"
	stageWaiting    = "waiting" // for another bundle
	stageCompiling  = "compiling"
	stageTesting    = "testing"
	stageSmoke      = "smoke"
	stageWarming    = "warming"
	stagePublishing = "publishing"
)

// activate takes new bundles through all further stages together with the other sources, and publishes the result. If another source holds a
// bundle that could not be activated alone, both are tried together first: two sources may depend on each other's change. After that the
// other sources are used as last published.
func (m *Manager) activate(ctx context.Context, read []*source) error {
	began := time.Now()
	list := m.candidates(func(*source) bool { return true })
	snapshot, err := m.check(ctx, list)
	if err == nil {
		err = withStage(stagePublishing, m.publish(ctx, snapshot))
	}
	if err != nil && ctx.Err() == nil {
		alone := m.candidates(func(s *source) bool { return slices.Contains(read, s) })
		if m.complete(alone) && !slices.Equal(alone, list) {
			list = alone
			if snapshot, err = m.check(ctx, list); err == nil {
				err = withStage(stagePublishing, m.publish(ctx, snapshot))
			}
		}
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		m.fail(read, err)
		for _, s := range read {
			s.scheduleRetry(retryable(err), time.Since(began))
			_ = s.latest.copy.store("") // compressed it takes less memory while it waits
			s.latest.report(err)
		}
		return err
	}
	m.published(snapshot, list, time.Since(began))
	for _, s := range read {
		if s.heldBack() {
			err = errPinned
			s.latest.report(err)
		}
	}
	return err
}

// candidates picks for each source its latest bundle or the active one; for a pinned source the pinned bundle.
func (m *Manager) candidates(useLatest func(*source) bool) (list []*candidate) {
	for _, s := range m.sources {
		c := s.active
		switch {
		case s.pin != nil && (s.latest == nil || s.heldBack()):
			c = s.pin.made
		case useLatest(s) && s.latest != nil:
			c = s.latest
		}
		list = append(list, c)
	}
	return list
}

// complete reports whether the list has a bundle of every required source, including optional ones that are pinned.
func (m *Manager) complete(list []*candidate) bool {
	for i, s := range m.sources {
		if list[i] == nil && (!s.Optional || s.pin != nil) {
			return false
		}
	}
	return true
}

// check takes candidates through every stage before publishing, as one policy, and returns the snapshot.
func (m *Manager) check(ctx context.Context, list []*candidate) (*policy.Snapshot, error) {
	if !m.complete(list) {
		return nil, errIncomplete
	}
	if l := m.loaded; l != nil && slices.EqualFunc(l.list, list, sameFiles) {
		return l.snapshot, nil
	}
	return m.checked(ctx, list, true)
}

func (m *Manager) checked(ctx context.Context, list []*candidate, test bool) (*policy.Snapshot, error) {
	var size int64
	for _, c := range list {
		if c != nil {
			size += c.size
		}
	}
	defer m.busy(size)()
	if err := m.verified(list); err != nil {
		return nil, err
	}
	snapshot, err := policy.Compile(ctx, m.cfg.Policy, bundlesOf(list))
	if err != nil {
		return nil, err
	}
	if test {
		if err := m.test(ctx, list); err != nil {
			return nil, err
		}
	}
	if m.cfg.Smoke != nil {
		if err := withStage(stageSmoke, m.cfg.Smoke(ctx, snapshot)); err != nil {
			return nil, err
		}
	}
	return snapshot, withStage(stageWarming, m.warm(ctx, snapshot))
}

// sameFiles reports whether two candidates were made of the same files, including tests and signature.
func sameFiles(a, b *candidate) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.key == b.key
}

// verified verifies the signatures again of bundles about to become active, if their verification is old or the keys have changed: a bundle
// may have waited for another one.
func (m *Manager) verified(list []*candidate) error {
	for i, s := range m.sources {
		c := list[i]
		if c == nil || s.Verification == nil || c == s.active {
			continue
		}
		if since := m.cfg.Clock().Sub(c.verified); since >= 0 && since < verifiedFor && slices.EqualFunc(s.Verification.Look(), c.keys, watch.SameFile) {
			continue
		}
		if err := m.reverify(s, c); err != nil {
			return err
		}
	}
	return nil
}

const verifiedFor = time.Minute

// reverify verifies a candidate's signature with the current keys.
func (m *Manager) reverify(s *source, c *candidate) error {
	keys := s.Verification.Look()
	d, err := c.copy.delivery(s.Name, m.cfg.Limits)
	if err != nil {
		return err
	}
	if err := s.Verification.Verify(s.Name, d.files, m.cfg.Clock()); err != nil {
		return err
	}
	c.keys, c.verified = keys, m.cfg.Clock()
	return nil
}

// test runs the tests of the bundles that are not active yet, compiled together with all others.
func (m *Manager) test(ctx context.Context, list []*candidate) error {
	var tests []*bundle.Tests
	for i, c := range list {
		if c != nil && c.tests != nil && c != m.sources[i].active {
			tests = append(tests, c.tests)
		}
	}
	if len(tests) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.TestTimeout)
	defer cancel()
	results, err := policy.RunTests(ctx, m.cfg.Policy, bundlesOf(list), tests, nil)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return withStage(stageTesting, fmt.Errorf("the bundles' own tests were not done after %v", m.cfg.TestTimeout))
	case err != nil:
		return withStage(stageTesting, err)
	}
	return failures(results)
}

// warm makes one decision, so that the first request does not pay for lazy initialisation. The result, or that there is none for such an
// input, does not matter.
func (m *Manager) warm(ctx context.Context, snapshot *policy.Snapshot) error {
	if m.cfg.Policy.Decision == "" {
		return nil
	}
	once, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	_, _ = snapshot.Decide(once, rego.Object(), m.cfg.Clock())
	return ctx.Err()
}

const warmTimeout = time.Second

// errIncomplete delays a policy until each of its bundles has been read once.
var errIncomplete = &stageError{stageWaiting, errors.New("waiting for another bundle that could not be read yet")}

// stageError is a failure in a stage outside package policy.
type stageError struct {
	stage string
	cause error
}

func (e *stageError) Error() string { return e.cause.Error() }
func (e *stageError) Unwrap() error { return e.cause }

// withStage wraps an error with its stage, if there is one.
func withStage(stage string, err error) error {
	if err == nil {
		return nil
	}
	return &stageError{stage, err}
}

// published records that a snapshot is active.
func (m *Manager) published(snapshot *policy.Snapshot, list []*candidate, took time.Duration) {
	m.loaded = nil
	m.logNotices(snapshot)
	m.remember(snapshot, list)
	for i, s := range m.sources {
		if c := list[i]; c != nil && s.active != c {
			m.activated(s, c, took)
		}
		if s.active != nil && s.active == s.latest {
			m.release(s)
			m.current(s)
		}
	}
}

// activated records a source's bundle in the published snapshot.
func (m *Manager) activated(s *source, c *candidate, took time.Duration) {
	s.active, s.highest = c, max(s.highest, c.serial)
	m.dirty = true
	if s.remote != nil {
		s.remote.active.Store(s.highest)
	}
	c.report(nil)
	m.archiver.activated(s.Name, c)
	s.status.Revision, s.status.Digest, s.status.Archive, s.status.Serial = c.Revision(), c.Digest(), c.archive, c.serial
	s.status.ActiveSince = m.cfg.Clock()
	m.metrics.activated(s.Name, c.Revision())
	m.cfg.Logger.Info("policy bundle activated", zap.String("bundle", s.Name), zap.String("source", c.from),
		zap.String("revision", c.Revision()), zap.String("digest", c.Digest()), zap.Duration("compiled_in", took))
}

// logNotices logs the notices that the previous snapshot did not have.
func (m *Manager) logNotices(snapshot *policy.Snapshot) {
	said := map[string]bool{}
	if m.snapshot != nil {
		for _, notice := range m.snapshot.Notices() {
			said[notice] = true
		}
	}
	for _, notice := range snapshot.Notices() {
		if !said[notice] {
			m.cfg.Logger.Warn("policy notice", zap.String("notice", notice))
		}
	}
}

// current records that nothing is wrong with the source's bundle.
func (m *Manager) current(s *source) {
	s.status.Stage, s.status.Error, s.status.File, s.status.Line = "", "", "", 0
	s.retry, s.lastProblem = retry{}, ""
	m.metrics.current(s.Name, m.cfg.Clock())
}

// fail records that sources could not be activated. A problem in one of several bundles is reported for that one only.
func (m *Manager) fail(sources []*source, err error) {
	for _, s := range sources {
		first, ok := problemIn(s, err)
		if !ok && len(sources) > 1 {
			first = bundle.Problem{Stage: first.Stage}
		}
		if text := first.Stage + ": " + err.Error(); s.lastProblem == text {
			continue // the same problem, logged already
		} else {
			s.lastProblem = text
		}
		s.status.Stage, s.status.File, s.status.Line, s.status.Error = first.Stage, first.File, first.Line, err.Error()
		m.metrics.failed(s.Name, first.Stage)
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
func problemIn(s *source, err error) (first bundle.Problem, ok bool) {
	stage := stageReading
	if e, ok := errors.AsType[*stageError](err); ok {
		stage = e.stage
	}
	problems, _ := errors.AsType[bundle.Problems](err)
	if len(problems) == 0 {
		return bundle.Problem{Stage: stage}, false
	}
	first = problems[0]
	for _, p := range problems {
		if p.Bundle == s.Name {
			first, ok = p, true
			break
		}
	}
	if stage != stageReading { // tests that do not compile count as failed tests
		first.Stage = stage
	}
	return first, ok
}

// failures returns the tests that did not pass as an error, nil if all did.
func failures(results []policy.TestResult) error {
	const most = 10
	var problems bundle.Problems
	for _, r := range results {
		if !r.Failed {
			continue
		}
		if len(problems) == most {
			problems = append(problems, bundle.Problem{Stage: stageTesting, Text: "further tests fail"})
			break
		}
		name, file, _ := strings.Cut(r.File, "/")
		problems = append(problems, bundle.Problem{Stage: stageTesting, Bundle: name, File: file, Line: r.Line, Text: r.Name + ": " + r.Problem})
	}
	if len(problems) == 0 {
		return nil
	}
	return problems
}
