package bundles

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"gatehouse/bundles/origin"
	"gatehouse/policy"
	"gatehouse/upstream"

	"go.uber.org/zap"
)

// newRemote checks a remote source and reads the files that its service names.
func (m *Manager) newRemote(s Source) (*remote, error) {
	wrong := func(err error) (*remote, error) { return nil, fmt.Errorf("bundle %q: %w", s.Name, err) }
	c := *s.Remote
	c.Interval, c.LongPoll = cmp.Or(c.Interval, time.Minute), cmp.Or(c.LongPoll, 30*time.Second)
	switch {
	case s.Path != "", c.URL != "" && c.Image != "", c.URL == "" && c.Image == "" && c.Origin == nil:
		return wrong(errors.New("give one of path, url and image"))
	case c.Interval < time.Second:
		return wrong(fmt.Errorf("interval %v: at least 1s", c.Interval))
	case c.LongPoll > 0 && c.LongPoll < time.Second, c.LongPoll > 10*time.Minute:
		return wrong(fmt.Errorf("long_poll %v: between 1s and 10m, or below zero for none", c.LongPoll))
	case c.MaxAge < 0, c.MaxAge > 0 && c.MaxAge < c.Interval+max(0, c.LongPoll):
		return wrong(fmt.Errorf("max_age %v: more than the time between two questions, which is up to %v", c.MaxAge, c.Interval+max(0, c.LongPoll)))
	case c.Withdraw && c.MaxAge == 0:
		return wrong(errors.New("max_age says when the bundle is too old: without it there is nothing to withdraw"))
	}
	c.LongPoll = max(0, c.LongPoll)
	r := &remote{name: s.Name, cfg: c, limits: m.cfg.Limits, clock: m.cfg.Clock, logger: m.cfg.Logger, metrics: m.remotes,
		activated: make(chan struct{}, 1), refetch: make(chan struct{}, 1), backoff: upstream.Backoff{First: firstRetry, Most: max(maxRetry, c.Interval)}}
	r.public.Store(&RemoteStatus{})
	var err error
	if c.Origin != nil {
		r.from, r.identity, r.origin, r.backoff.Most = c.From, c.From, c.Origin(r.tarball()), originRetry
	} else if c.Image != "" {
		r.from, r.identity = c.Image, c.Image
		r.origin, err = origin.NewImage(c.Service, c.Image, c.CredentialFile, r.tarball())
	} else {
		r.deltas = s.Verification == nil // a signature covers a whole bundle
		var o *origin.HTTP
		if o, err = origin.NewHTTP(c.Service, c.URL, c.LongPoll, r.tarball()); err == nil {
			r.from, r.identity, r.origin = upstream.Redacted(o.URL()), identityOf(o.URL()), o
		}
	}
	if err != nil {
		return wrong(err)
	}
	if m.cfg.Dir != "" {
		dir, err := filepath.Abs(m.cfg.Dir)
		if err != nil {
			return wrong(err)
		}
		r.store = &store{dir: dir, name: s.Name, source: r.identity, limit: r.tarball()}
	}
	return r, nil
}

// originRetry bounds the pause between two requests to an Origin that is given, and that is made for many clients.
const originRetry = 16 * time.Second

// identityOf returns a URL's identity without secrets: the query is hashed, so URLs that differ only there are different.
func identityOf(u *url.URL) string {
	if u.RawQuery == "" {
		return upstream.Redacted(u)
	}
	sum := sha256.Sum256([]byte(u.String()))
	return upstream.Redacted(u) + "?" + hex.EncodeToString(sum[:8])
}

// usePin activates the pinned bundle of a source that is unreachable, if nothing of that source is active yet.
func (m *Manager) usePin(ctx context.Context, s *source) {
	if s.active != nil || s.latest != nil || s.pin == nil {
		return
	}
	if _, err := m.pinned(s); err != nil {
		m.fail([]*source{s}, err)
		return
	}
	_ = m.activate(ctx, []*source{s}) // activate has reported its error
}

// handleStatus handles a remote source's delivery without a bundle.
func (m *Manager) handleStatus(ctx context.Context, s *source, d delivery) error {
	s.status.LastAttempt = m.cfg.Clock()
	switch d.says {
	case kindExpired:
		m.expire(ctx, s)
	case kindUnreachable:
		m.usePin(ctx, s)
		// The active bundle stays, and so does the known error of a newer one.
		if s.active == nil && (s.status.Stage == "" || s.status.Stage == stageFetching) {
			s.status.Stage, s.status.Error = stageFetching, d.err.Error()
		}
	case kindUnchanged:
		if s.latest != nil && s.latest == s.active {
			m.current(s)
		}
		s.expired = false
		m.back(ctx)
	}
	return d.err
}

// errExpired withholds a policy while one of its bundles is too old.
var errExpired = errors.New("a bundle is older than its max_age, and nothing is decided until its source is back")

// expire withdraws the policy if a bundle that is too old must not be used.
func (m *Manager) expire(ctx context.Context, s *source) {
	if !s.Remote.Withdraw {
		return
	}
	s.expired = true
	if m.now == nil || m.withdrawn {
		return
	}
	if err := m.cfg.Publish(ctx, nil); err != nil {
		m.cfg.Logger.Error("the policy could not be withdrawn", zap.String("bundle", s.Name), zap.Error(err))
		return
	}
	m.withdrawn = true
}

// back publishes a withdrawn policy again once none of its bundles is expired.
func (m *Manager) back(ctx context.Context) {
	if !m.withdrawn || m.anyExpired() {
		return
	}
	if err := m.putBack(ctx); err != nil {
		m.cfg.Logger.Error("the withdrawn policy could not be put back", zap.Error(err))
	}
	// Bundles that arrived from other sources meanwhile were withheld.
	var waiting []*source
	for _, other := range m.sources {
		if other.latest != nil && other.latest != other.active {
			waiting = append(waiting, other)
		}
	}
	if len(waiting) > 0 {
		_ = m.activate(ctx, waiting) // activate has reported its error
	}
}

// putBack publishes the withdrawn policy, if its signatures are still valid.
func (m *Manager) putBack(ctx context.Context) error {
	for _, s := range m.sources {
		if s.active == nil || s.Verification == nil {
			continue
		}
		if err := m.reverify(s, s.active); err != nil {
			m.fail([]*source{s}, err)
			return err
		}
	}
	return m.publish(ctx, m.snapshot)
}

func (m *Manager) anyExpired() bool {
	for _, s := range m.sources {
		if s.expired {
			return true
		}
	}
	return false
}

// publish publishes a snapshot, unless one of its bundles is expired.
func (m *Manager) publish(ctx context.Context, snapshot *policy.Snapshot) error {
	if m.anyExpired() {
		return errExpired
	}
	if err := m.cfg.Publish(ctx, snapshot); err != nil {
		return err
	}
	m.withdrawn = false
	return nil
}
