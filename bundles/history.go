package bundles

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"gatehouse/policy"
	"gatehouse/policy/bundle"
)

// Activation is one snapshot that is active, or can be activated by a rollback.
type Activation struct {
	Revision string        `json:"revision"` // of the snapshot: the only bundle's, or name=revision of each
	Bundles  []bundle.Info `json:"bundles"`
	Since    time.Time     `json:"since"` // when it first became active
	Active   bool          `json:"active"`
}

// activation is one published snapshot, as references to its bundles. Only the active one is compiled: a rollback makes the bundles again
// and checks them by the current configuration.
type activation struct {
	id       uint64
	before   uint64 // id of the previously active one
	revision string
	list     []*record // in the order of the sources; nil for a missing bundle
	since    time.Time
	tested   bool // its bundles' tests have passed under this configuration
}

// record is one bundle of an activation.
type record struct {
	From   string      `json:"from"` // identity of its source
	Info   bundle.Info `json:"info"`
	Serial int64       `json:"serial,omitempty"`
	Size   int64       `json:"size"` // bytes of its files
	copy   *rawBundle
}

// pin keeps a source at a bundle while the source still offers the one that was rolled back.
type pin struct {
	use         *record
	held        string     // digest of the bundle that was rolled back
	contentHash string     // hash of its contents
	made        *candidate // the candidate of use; nil until it was made under this configuration
}

// recordOf returns the history's record of a candidate.
func recordOf(s *source, c *candidate) *record {
	if c == nil {
		return nil
	}
	return &record{From: s.identity(), Info: c.Info(), Serial: c.serial, Size: c.size, copy: c.copy}
}

// remake makes a bundle again from its copy. It must pass every check of a new bundle, except that it may be older than what was active
// since: that is the point of a rollback.
func (m *Manager) remake(s *source, r *record) (*candidate, error) {
	d, err := r.copy.delivery(s.Name, m.cfg.Limits)
	if err != nil {
		return nil, err
	}
	d.from, d.back = s.status.Source, true
	return m.prepare(s, d)
}

// pinned returns the bundle that a source is pinned to, made again if that was not done under this configuration.
func (m *Manager) pinned(s *source) (*candidate, error) {
	if s.pin.made == nil {
		c, err := m.remake(s, s.pin.use)
		if err != nil {
			return nil, fmt.Errorf("bundle %q is pinned to revision %q, which does not pass the current rules: %w; gatehouse bundle unpin ends the pin", s.Name, s.pin.use.Info.Revision, err)
		}
		s.pin.made = c
	}
	return s.pin.made, nil
}

// hold pins a source.
func (s *source) hold(use *record, held, what string) {
	s.pin = &pin{use: use, held: held, contentHash: what}
	s.status.Pinned, s.status.Held = true, held
}

// errPinned is the outcome of a delivery that was rolled back.
var errPinned = errors.New("the bundle was rolled back, and stays so until another arrives or it is unpinned")

// heldBack reports whether the source offers what was rolled back.
func (s *source) heldBack() bool {
	return s.pin != nil && s.latest != nil && s.pin.holds(s.latest)
}

// holds reports whether a bundle is the one rolled back. Its digest differs if signatures are required now and were not then.
func (p *pin) holds(c *candidate) bool {
	return c.Digest() == p.held || p.contentHash != "" && c.contents() == p.contentHash
}

// contents returns a hash of the bundle as it arrived; empty if it was made by deltas.
func (c *candidate) contents() string {
	if c.contentHash == "" && len(c.copy.parts) == 1 {
		if d, err := c.copy.delivery(c.Name(), bundle.Limits{Files: 1 << 30, File: maxCopy, Total: maxCopy, Depth: 1 << 20}); err == nil { // the limits were checked before
			maps.DeleteFunc(d.files, func(name string, _ []byte) bool { return !bundle.Wanted(name) })
			c.contentHash = filesKey(d.files)
		}
	}
	return c.contentHash
}

// command is a function to run on Run's goroutine.
type command struct {
	do   func(context.Context) error
	done chan error // buffered
}

// order runs a function on Run's goroutine and waits for it.
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

// History returns the active snapshot and those available for rollback, newest first. The caller owns the slice.
func (m *Manager) History() []Activation {
	if list := m.earlier.Load(); list != nil {
		return slices.Clone(*list)
	}
	return nil
}

// Rollback activates an earlier snapshot, and pins the bundles that changed: each stays until its source offers another bundle than the one
// rolled back, or until Unpin. The snapshot is made again and must pass the current checks. An empty name means the snapshot that was active
// before the active one. A name is a snapshot's revision, a bundle's revision, or a prefix of at least six digits of a bundle's or a
// tarball's digest. Run must be running.
func (m *Manager) Rollback(ctx context.Context, to string) (a Activation, err error) {
	err = m.order(ctx, func(ctx context.Context) error {
		target, err := m.find(to)
		if err != nil {
			return fmt.Errorf("rolling back: %w", err)
		}
		list, snapshot, err := m.rebuild(ctx, target)
		if err != nil {
			return fmt.Errorf("rolling back to revision %q: it does not pass the current rules: %w", target.revision, err)
		}
		if err := m.publish(ctx, snapshot); err != nil {
			return fmt.Errorf("rolling back to revision %q: it does not fit the rest of the configuration any more: %w", target.revision, err)
		}
		m.rolledBack(target, list, snapshot)
		a = target.describe(true)
		return nil
	})
	return a, err
}

// rebuild makes an earlier snapshot again, through every stage before publishing.
func (m *Manager) rebuild(ctx context.Context, target *activation) ([]*candidate, *policy.Snapshot, error) {
	list := make([]*candidate, len(m.sources))
	for i, s := range m.sources {
		r := target.list[i]
		if r == nil {
			continue
		}
		if s.active != nil && s.active.Digest() == r.Info.Digest {
			list[i] = s.active
			continue
		}
		var err error
		if list[i], err = m.remake(s, r); err != nil {
			return nil, nil, err
		}
	}
	snapshot, err := m.checked(ctx, list, !target.tested)
	return list, snapshot, err
}

// find returns the activation with a name, the newest of several.
func (m *Manager) find(to string) (*activation, error) {
	if m.now == nil {
		return nil, errors.New("no policy has been active yet")
	}
	for _, a := range slices.Backward(m.history) {
		if a != m.now && (to == "" && a.id == m.now.before || to != "" && a.matches(to)) {
			return a, nil
		}
	}
	switch {
	case to == "":
		return nil, errors.New("there is no earlier snapshot any more, or none yet")
	case m.now.matches(to):
		return nil, fmt.Errorf("%q is active already", to)
	}
	return nil, fmt.Errorf("no snapshot of %q is kept: the history shows what there is", to)
}

// matches reports whether a name identifies the snapshot or one of its bundles.
func (a *activation) matches(name string) bool {
	const least = 6
	digest := strings.ToLower(strings.TrimPrefix(name, "sha256:"))
	return name == a.revision || slices.ContainsFunc(a.list, func(r *record) bool {
		return r != nil && (name == r.Info.Revision || len(digest) >= least && (strings.HasPrefix(r.Info.Digest, digest) || strings.HasPrefix(r.copy.archive, digest)))
	})
}

func (a *activation) describe(active bool) Activation {
	out := Activation{Revision: a.revision, Since: a.since, Active: active}
	for _, r := range a.list {
		if r != nil {
			out.Bundles = append(out.Bundles, r.Info)
		}
	}
	slices.SortFunc(out.Bundles, func(a, b bundle.Info) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// rolledBack records that an earlier snapshot is active, and pins what changed.
func (m *Manager) rolledBack(target *activation, list []*candidate, snapshot *policy.Snapshot) {
	from := m.now
	m.now, m.snapshot, target.tested = target, snapshot, true
	for i, s := range m.sources {
		c := list[i]
		if c == nil || c == s.active {
			continue
		}
		offered := s.latest
		if offered == nil {
			offered = s.active
		}
		if s.latest != nil && s.latest.Digest() == c.Digest() {
			c.outcome, s.latest = s.latest.outcome, c
		}
		m.activated(s, c, 0)
		m.release(s)
		if offered != nil && offered.Digest() != c.Digest() {
			s.hold(target.list[i], offered.Digest(), offered.contents())
			s.pin.made = c
			m.metrics.pin(s.Name, true)
			m.current(s)
		}
	}
	m.cfg.Logger.Warn("policy rolled back and pinned", zap.String("from", from.revision), zap.String("to", target.revision))
	m.updateHistory()
}

// Unpin lets the sources' own bundles become active again. It returns an error if one cannot be activated; the active snapshot then stays.
// Run must be running.
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
		m.dirty = true
		if len(changed) == 0 {
			return nil
		}
		return m.activate(ctx, changed)
	})
}

// release removes a source's pin.
func (m *Manager) release(s *source) {
	if s.pin != nil {
		m.cfg.Logger.Info("policy bundle no longer pinned", zap.String("bundle", s.Name))
	}
	m.dirty = m.dirty || s.pin != nil
	s.pin = nil
	s.status.Pinned, s.status.Held = false, ""
	m.metrics.pin(s.Name, false)
}

// remember adds a published snapshot to the history, and drops the oldest ones beyond the limits. The previously active one always stays.
// After a restart or a reload the active one is not added twice.
func (m *Manager) remember(snapshot *policy.Snapshot, list []*candidate) {
	m.snapshot = snapshot
	records := make([]*record, len(list))
	for i, c := range list {
		records[i] = recordOf(m.sources[i], c)
	}
	before := m.now
	if before == nil {
		before = m.last
	}
	if m.now == nil && m.last != nil && slices.EqualFunc(m.last.list, records, sameRecord) {
		m.now = m.last
		m.now.list, m.now.tested = records, true
	} else {
		m.serial++
		m.now = &activation{id: m.serial, revision: snapshot.Revision(), list: records, since: m.cfg.Clock(), tested: true}
		if before != nil {
			m.now.before = before.id
		}
		m.history = append(m.history, m.now)
	}
	m.bound()
	m.updateHistory()
}

// sameRecord reports whether two records are of one bundle. Its digest differs if signatures are required now and were not then.
func sameRecord(a, b *record) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Info.Digest == b.Info.Digest || a.Info.Revision == b.Info.Revision && a.copy.same(b.copy)
}

// bound drops the oldest snapshots beyond the limits.
func (m *Manager) bound() {
	a := m.now
	if a == nil {
		a = m.last
	}
	if a == nil {
		return
	}
	for len(m.history) > 1 && (len(m.history)-1 > m.cfg.Keep || m.keptBytes(a) > m.cfg.KeepBytes) {
		at := slices.IndexFunc(m.history, func(h *activation) bool { return h != a && (h.id != a.before || m.cfg.Keep == 0) })
		if at < 0 {
			break
		}
		m.history = slices.Delete(m.history, at, at+1)
	}
}

// keptBytes returns the size of the files of all bundles kept besides the active ones.
func (m *Manager) keptBytes(active *activation) (total int64) {
	seen := map[string]bool{}
	for _, r := range active.list {
		if r != nil {
			seen[r.Info.Digest] = true
		}
	}
	for _, a := range m.history {
		for _, r := range a.list {
			if r != nil && !seen[r.Info.Digest] {
				seen[r.Info.Digest] = true
				total += r.Size
			}
		}
	}
	return total
}

func (m *Manager) updateHistory() {
	m.swapped = m.now != nil
	var list []Activation
	for _, a := range slices.Backward(m.history) {
		list = append(list, a.describe(a == m.now))
	}
	m.earlier.Store(&list)
	m.archiver.setAvailable(m.history)
	m.dirty = true
}
