package bundles

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse/policy"

	"go.uber.org/zap"
)

// Activation is one snapshot that is active, or was and can be again.
type Activation struct {
	Revision string              `json:"revision"` // of the snapshot: of the only bundle, or name=revision of each
	Bundles  []policy.BundleInfo `json:"bundles"`
	Since    time.Time           `json:"since"` // when it was made active first
	Active   bool                `json:"active"`
}

// activation is what an Activation tells of. It is kept as it was compiled, so that going back to it takes no time.
type activation struct {
	id       uint64
	before   uint64 // the id of the one that was active before
	snapshot *policy.Snapshot
	list     []*candidate
	since    time.Time
}

// pin keeps a source at a bundle while what it offers is another that was rolled back.
type pin struct {
	use  *candidate
	held string // digest of what is held back
}

// legacy is what a source leaves to the manager of the next configuration.
type legacy struct {
	pin     *pin
	highest int64
}

// inherit takes over what the sources of these names left.
func (m *Manager) inherit(before *Manager) {
	if before == nil {
		return
	}
	for _, s := range m.sources {
		left := (*before.legacy.Load())[s.Name]
		s.highest = left.highest
		if left.pin != nil {
			use := *left.pin.use
			use.outcome = nil // whoever delivered it is gone
			s.hold(&use, left.pin.held)
			m.metrics.pin(s.Name, true)
		}
	}
}

// hold pins a source.
func (s *source) hold(use *candidate, held string) {
	s.pin = &pin{use: use, held: held}
	s.status.Pinned, s.status.Held = true, held
}

// errPinned is the end of a delivery that brought what was rolled back.
var errPinned = errors.New("the bundle was rolled back, and stays so until another arrives or it is unpinned")

// heldBack reports whether what the source offers is what was rolled back.
func (s *source) heldBack() bool {
	return s.pin != nil && s.latest != nil && s.latest.Digest() == s.pin.held
}

// command is something to do on Run's goroutine.
type command struct {
	do   func(context.Context) error
	done chan error // buffered
}

// order has something done on Run's goroutine and waits for it.
func (m *Manager) order(ctx context.Context, do func(context.Context) error) error {
	c := command{do: do, done: make(chan error, 1)}
	select {
	case m.commands <- c:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// History returns the snapshots that can be rolled back to and the active one, the newest first. The slice is the caller's.
func (m *Manager) History() []Activation {
	if list := m.earlier.Load(); list != nil {
		return slices.Clone(*list)
	}
	return nil
}

// Rollback makes an earlier snapshot active again, at once and as it was, and pins the bundles that changed by it: each
// stays until its source offers another bundle than the one rolled back, or until Unpin. Without a name it is the snapshot
// that was active before the active one. A name is a snapshot's revision, a bundle's revision, or the beginning of a
// bundle's digest or of its tarball's, six digits at least. Run must be running.
func (m *Manager) Rollback(ctx context.Context, to string) (a Activation, err error) {
	err = m.order(ctx, func(ctx context.Context) error {
		target, err := m.find(to)
		if err != nil {
			return fmt.Errorf("rolling back: %w", err)
		}
		if err := m.publish(ctx, target.snapshot); err != nil {
			return fmt.Errorf("rolling back to revision %q: it does not fit the rest of the configuration any more: %w", target.snapshot.Revision(), err)
		}
		m.rolledBack(target)
		a = target.describe(true)
		return nil
	})
	return a, err
}

// find returns the activation of a name, the newest of several.
func (m *Manager) find(to string) (*activation, error) {
	if m.now == nil {
		return nil, errors.New("nothing has been active yet")
	}
	for _, a := range slices.Backward(m.history) {
		if a != m.now && (to == "" && a.id == m.now.before || to != "" && a.named(to)) {
			return a, nil
		}
	}
	switch {
	case to == "":
		return nil, errors.New("there is no earlier snapshot any more, or none yet")
	case m.now.named(to):
		return nil, fmt.Errorf("%q is active already", to)
	}
	return nil, fmt.Errorf("no snapshot of %q is kept: the history shows what there is", to)
}

// named reports whether a name is the snapshot's or one of its bundles'.
func (a *activation) named(name string) bool {
	const least = 6
	digest := strings.ToLower(strings.TrimPrefix(name, "sha256:"))
	return name == a.snapshot.Revision() || slices.ContainsFunc(a.list, func(c *candidate) bool {
		return c != nil && (name == c.Revision() || len(digest) >= least && (strings.HasPrefix(c.Digest(), digest) || strings.HasPrefix(c.archive, digest)))
	})
}

func (a *activation) describe(active bool) Activation {
	return Activation{Revision: a.snapshot.Revision(), Bundles: a.snapshot.Bundles(), Since: a.since, Active: active}
}

// rolledBack notes that an earlier snapshot is active, and pins what changed.
func (m *Manager) rolledBack(target *activation) {
	from := m.now
	m.now = target
	for i, s := range m.sources {
		c := target.list[i]
		if c == nil || c == s.active {
			continue
		}
		offered := s.latest
		if offered == nil {
			offered = s.active
		}
		m.activated(s, c, 0)
		m.release(s)
		if offered != nil && offered.Digest() != c.Digest() {
			s.hold(c, offered.Digest())
			m.metrics.pin(s.Name, true)
			m.current(s)
		}
	}
	m.cfg.Logger.Warn("policy rolled back and pinned", zap.String("from", from.snapshot.Revision()), zap.String("to", target.snapshot.Revision()))
	m.tellHistory()
}

// Unpin lets the sources' own bundles become active again. It returns why one of them could not; then the active snapshot
// stays. Run must be running.
func (m *Manager) Unpin(ctx context.Context) error {
	return m.order(ctx, func(ctx context.Context) error {
		var changed []*source
		for _, s := range m.sources {
			if s.pin == nil {
				continue
			}
			m.release(s)
			if s.latest != nil && s.latest != s.active {
				changed = append(changed, s)
			}
		}
		if len(changed) == 0 {
			return nil
		}
		return m.activate(ctx, changed)
	})
}

// release ends a source's pin.
func (m *Manager) release(s *source) {
	if s.pin != nil {
		m.cfg.Logger.Info("policy bundle no longer pinned", zap.String("bundle", s.Name))
	}
	s.pin = nil
	s.status.Pinned, s.status.Held = false, ""
	m.metrics.pin(s.Name, false)
}

// remember adds a snapshot that was published to the history, and drops the oldest ones beyond the bounds. The one that
// was active before stays in any case.
func (m *Manager) remember(snapshot *policy.Snapshot, list []*candidate) {
	m.serial++
	a := &activation{id: m.serial, snapshot: snapshot, list: list, since: m.cfg.Clock()}
	if m.now != nil {
		a.before = m.now.id
	}
	m.history, m.now = append(m.history, a), a
	for len(m.history) > 1 && (len(m.history)-1 > m.cfg.Keep || m.keptBytes() > m.cfg.KeepBytes) {
		at := slices.IndexFunc(m.history, func(h *activation) bool { return h != a && (h.id != a.before || m.cfg.Keep == 0) })
		if at < 0 {
			break
		}
		m.history = slices.Delete(m.history, at, at+1)
	}
	m.tellHistory()
}

// keptBytes is the size of the files of all bundles that are kept beside the active ones.
func (m *Manager) keptBytes() (total int64) {
	seen := map[*candidate]bool{}
	for _, c := range m.now.list {
		seen[c] = true
	}
	for _, a := range m.history {
		for _, c := range a.list {
			if c != nil && !seen[c] {
				seen[c] = true
				total += c.size
			}
		}
	}
	return total
}

func (m *Manager) tellHistory() {
	var list []Activation
	for _, a := range slices.Backward(m.history) {
		list = append(list, a.describe(a == m.now))
	}
	m.earlier.Store(&list)
	m.past.remembered(m.history)
}
