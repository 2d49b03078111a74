package bundles

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"gatehouse/policy"
	"gatehouse/upstream"
	"gatehouse/watch"

	"go.uber.org/zap"
)

// retry is when a source's candidate that was refused is tried again although nothing has changed of it: what it failed on may have.
type retry struct {
	at    time.Time // zero: only when something changes
	tries int
}

const (
	firstTryAgain = time.Second
	lastTryAgain  = 30 * time.Second
	// tryAgainShare bounds the time that attempts take all together: after one, so many times as long is waited.
	tryAgainShare = 10
)

// mayPass reports whether a candidate that failed so may pass another time, as it is: its tests may call a backend that was away, a key
// may come later, a signature may begin to count, the routes may not have had its rules yet. What does not parse or compile never will.
func mayPass(err error) bool {
	stage := stageReading
	if e, ok := errors.AsType[*stageError](err); ok {
		stage = e.stage
	}
	if problems, _ := errors.AsType[policy.Problems](err); len(problems) > 0 && stage == stageReading {
		stage = problems[0].Stage
	}
	switch stage {
	case stageVerifying, stageTesting, stageSmoke, stageWarming, stagePublishing:
		return true
	}
	return false
}

// again sets when a source is tried again, after an attempt that took so long.
func (s *source) again(mayPass bool, took time.Duration) {
	if !mayPass {
		s.retry = retry{}
		return
	}
	pause := min(firstTryAgain<<min(s.retry.tries, 10), lastTryAgain)
	s.retry.tries++
	s.retry.at = time.Now().Add(upstream.Jitter(max(pause, tryAgainShare*took)))
}

// TryAgain says that something has changed that a bundle may have failed on: routes, keys. What was refused is tried again soon. It
// never waits.
func (m *Manager) TryAgain() {
	select {
	case m.nudged <- struct{}{}:
	default: // it was said already
	}
}

// nextRetry returns when the first source is to be tried again.
func (m *Manager) nextRetry() (at time.Time, pending bool) {
	for _, s := range m.sources {
		if !s.retry.at.IsZero() && (!pending || s.retry.at.Before(at)) {
			at, pending = s.retry.at, true
		}
	}
	return at, pending
}

// tryAgain tries what was refused again: what is due, or all of it.
func (m *Manager) tryAgain(ctx context.Context, all bool) {
	now := time.Now()
	var ready []*source
	for _, s := range m.sources {
		if s.retry.at.IsZero() || !all && s.retry.at.After(now) {
			continue
		}
		if all {
			s.retry.tries = 0
		}
		s.retry.at, s.trying = time.Time{}, true
		m.metrics.retries.WithLabelValues(s.Name).Inc()
		m.cfg.Logger.Debug("a bundle that was refused is tried again", zap.String("bundle", s.Name), zap.Int("attempt", s.retry.tries))
		switch {
		case s.latest != nil && s.latest != s.active && !s.heldBack():
			s.trying = false
			ready = append(ready, s)
		case s.latest != nil && s.heldBack() && s.active == nil:
			s.trying = false
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
		_ = m.activate(ctx, ready) // it has told everybody who wants to know
	}
	m.publishStatus()
}

// otherKeys has sources whose key files have changed verified again: a remote source answers that nothing has changed, and it is right.
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

// tellDegraded works out what Degraded says.
func (m *Manager) tellDegraded() {
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

// firstLine bounds an error to one line.
func firstLine(text string) string {
	const limit = 300
	for i, c := range text {
		if c == '\n' || i >= limit {
			return text[:i] + " ..."
		}
	}
	return text
}

// Degraded lists what is not as configured, one sentence each: a source that cannot be read, or what it has is refused, while the policy
// before it decides. A bundle that is pinned is as somebody wants it: Status tells.
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
