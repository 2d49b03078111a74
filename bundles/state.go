package bundles

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"go.uber.org/zap"

	"gatehouse/durable"
	"gatehouse/policy/bundle"
)

// handover is what a manager passes to its successor, in memory at a reload and on disk at a restart: the highest serials, the pins and the
// history. It identifies bundles but does not vouch for them: what becomes active is made again from its copy and must pass all checks of
// the current configuration.
type handover struct {
	Sources []sourceLegacy    `json:"sources"`
	History []savedActivation `json:"history"` // oldest first
	Active  uint64            `json:"active"`  // id of the active activation
	Serial  uint64            `json:"serial"`  // of the last activation
}

// sourceLegacy is the persisted state of one source.
type sourceLegacy struct {
	Name    string    `json:"name"`
	From    string    `json:"from"` // the source's identity
	Highest int64     `json:"highest,omitempty"`
	Pin     *savedPin `json:"pin,omitempty"`
}

type savedPin struct {
	Use         *record `json:"use"`
	Held        string  `json:"held"`
	ContentHash string  `json:"what,omitempty"`
}

type savedActivation struct {
	ID       uint64    `json:"id"`
	Before   uint64    `json:"before"`
	Revision string    `json:"revision"`
	Since    time.Time `json:"since"`
	Bundles  []*record `json:"bundles"`
}

const (
	stateFormat = "gatehouse history 1\n"
	stateEnding = ".json"
	stateName   = "history"
	copiesName  = "history" // directory below Config.Dir
	maxState    = 4 << 20
)

// identity names where a source's bundles come from: state from one location does not apply to another.
func (s *source) identity() string {
	if s.remote != nil {
		return s.remote.identity
	}
	return s.Path
}

// prepareHandover returns what the manager passes on.
func (m *Manager) prepareHandover() *handover {
	l := &handover{Serial: m.serial}
	for _, s := range m.sources {
		left := sourceLegacy{Name: s.Name, From: s.identity(), Highest: s.highest}
		if s.pin != nil {
			left.Pin = &savedPin{Use: s.pin.use, Held: s.pin.held, ContentHash: s.pin.contentHash}
		}
		l.Sources = append(l.Sources, left)
	}
	for _, a := range m.history {
		l.History = append(l.History, savedActivation{a.id, a.before, a.revision, a.since,
			slices.DeleteFunc(slices.Clone(a.list), func(r *record) bool { return r == nil })})
	}
	switch {
	case m.now != nil:
		l.Active = m.now.id
	case m.last != nil:
		l.Active = m.last.id
	}
	return l
}

// inherit takes over what applies to the current sources. Sources are matched by location: a renamed source is the same, another location
// under the same name is not.
func (m *Manager) inherit(l *handover) {
	if l == nil {
		return
	}
	m.history, m.last, m.serial = nil, nil, l.Serial
	for _, s := range m.sources {
		left, same := l.of(s, m.sources)
		if left == nil {
			continue
		}
		s.highest = max(s.highest, left.Highest) // even from another location: moving a bundle must not reset its serial
		if s.pin != nil {
			m.release(s)
		}
		switch p := left.Pin; {
		case p == nil:
		case !same:
			m.cfg.Logger.Warn("policy bundle no longer pinned: it comes from somewhere else now", zap.String("bundle", s.Name), zap.String("source", s.status.Source))
		default:
			s.hold(p.Use, p.Held, p.ContentHash)
			m.metrics.pin(s.Name, true)
			m.cfg.Logger.Warn("policy bundle is pinned to what was rolled back to", zap.String("bundle", s.Name), zap.String("revision", p.Use.Info.Revision))
		}
	}
	for _, left := range l.History {
		list, ok := m.placed(left.Bundles)
		if !ok {
			continue
		}
		a := &activation{id: left.ID, before: left.Before, revision: left.Revision, since: left.Since, list: list}
		if m.history = append(m.history, a); a.id == l.Active {
			m.last = a
		}
	}
	m.bound()
}

// of finds the persisted state of a source, and reports whether it is from the same location.
func (l *handover) of(s *source, all []*source) (left *sourceLegacy, same bool) {
	for i := range l.Sources {
		switch o := &l.Sources[i]; {
		case o.From == s.identity() && o.Name == s.Name:
			return o, true
		case o.From == s.identity():
			left, same = o, true
		case left == nil && o.Name == s.Name && !slices.ContainsFunc(all, func(other *source) bool { return other.identity() == o.From }):
			left = o
		}
	}
	return left, same
}

// placed puts an activation's bundles in the order of the sources; false if they do not match the current sources.
func (m *Manager) placed(records []*record) ([]*record, bool) {
	list, used := make([]*record, len(m.sources)), 0
	for i, s := range m.sources {
		at := slices.IndexFunc(records, func(r *record) bool { return r.From == s.identity() && r.Info.Name == s.Name })
		if at < 0 {
			at = slices.IndexFunc(records, func(r *record) bool { return r.From == s.identity() })
		}
		if at >= 0 {
			r := *records[at]
			r.Info.Name = s.Name
			list[i] = &r
			used++
		} else if !s.Optional {
			return nil, false
		}
	}
	return list, used == len(records)
}

// MarshalJSON and UnmarshalJSON store the copy as its file names.
func (r *record) MarshalJSON() ([]byte, error) {
	type plain record
	out := struct {
		*plain
		Archive string   `json:"archive,omitempty"`
		Parts   []string `json:"parts"`
	}{plain: (*plain)(r)}
	if r.copy != nil {
		out.Archive = r.copy.archive
		for _, b := range r.copy.parts {
			out.Parts = append(out.Parts, b.name())
		}
	}
	return json.Marshal(out)
}

func (r *record) UnmarshalJSON(text []byte) error {
	type plain record
	in := struct {
		*plain
		Archive string   `json:"archive"`
		Parts   []string `json:"parts"`
	}{plain: (*plain)(r)}
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	r.copy = &rawBundle{archive: in.Archive}
	for _, sum := range in.Parts {
		if !isDigest(sum) {
			return fmt.Errorf("%.80q is not a digest", sum)
		}
		r.copy.parts = append(r.copy.parts, &blob{sum: sum})
	}
	return nil
}

// each calls do for every record.
func (l *handover) each(do func(*record) error) error {
	for _, s := range l.Sources {
		if s.Pin != nil {
			if err := do(s.Pin.Use); err != nil {
				return err
			}
		}
	}
	for _, a := range l.History {
		for _, r := range a.Bundles {
			if err := do(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// stateFile keeps a legacy on disk.
type stateFile struct {
	dir     string
	damaged error // what is wrong with the existing file, which is to be set aside
	written []byte
}

func (f *stateFile) store() *store    { return &store{dir: f.dir, name: stateName} }
func (f *stateFile) copies() string   { return filepath.Join(f.dir, copiesName) }
func (f *stateFile) path() string     { return f.store().file(stateEnding) }
func (f *stateFile) setAside() string { return f.path() + ".damaged" }

// load reads the file; nil if there is none or it is unusable.
func (f *stateFile) load() *handover {
	text, err := readLimited(f.path(), bundle.Limits{Total: maxState})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	l := &handover{}
	if err == nil {
		err = l.decode(text, f.copies())
	}
	if err != nil {
		f.damaged = err
		return nil
	}
	return l
}

// decode validates everything: the file may be damaged, or written by another program.
func (l *handover) decode(text []byte, copies string) error {
	body, ok := bytes.CutPrefix(text, []byte(stateFormat))
	if !ok {
		return fmt.Errorf("%w: its format is unknown", errDamaged)
	}
	body, sum, _ := bytes.Cut(body, []byte("\n"))
	if want := sha256.Sum256(body); hex.EncodeToString(want[:]) != string(bytes.TrimSpace(sum)) {
		return fmt.Errorf("%w: its checksum does not match", errDamaged)
	}
	if err := json.Unmarshal(body, l); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return l.each(func(r *record) error {
		if r == nil || r.copy == nil || !isDigest(r.Info.Digest) || len(r.copy.parts) > 1+maxDeltas {
			return fmt.Errorf("%w: a bundle in it is not described", errDamaged)
		}
		for _, b := range r.copy.parts {
			b.file = filepath.Join(copies, b.sum+copyEnding)
		}
		return nil
	})
}

// save writes the referenced copies, then the state, and removes unreferenced copies.
func (f *stateFile) save(l *handover) error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	used := map[string]bool{}
	err := l.each(func(r *record) error {
		if err := r.copy.store(f.copies()); err != nil {
			if _, lost := errors.AsType[*fs.PathError](err); lost && errors.Is(err, fs.ErrNotExist) {
				return nil // a copy in the history that was lost: a rollback to it will fail and say so
			}
			return err
		}
		for _, b := range r.copy.parts {
			used[b.name()] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	l.hold()
	body, err := json.Marshal(l)
	if err != nil || bytes.Equal(body, f.written) && !f.removed() {
		return err
	}
	if len(body) > maxState {
		return fmt.Errorf("the state to save is larger than %d bytes: lower policy.keep", maxState)
	}
	sum := sha256.Sum256(body)
	if err := durable.Write(f.path(), 0o600, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s%s\n%x\n", stateFormat, body, sum)
		return err
	}); err != nil {
		return err
	}
	f.written = body
	return pruneCopies(f.copies(), used)
}

// hold keeps the copies of active and pinned bundles open, so that they survive removal of their files.
func (l *handover) hold() {
	held := map[*blob]bool{}
	note := func(r *record) {
		for _, b := range r.copy.parts {
			held[b] = true
		}
	}
	for _, s := range l.Sources {
		if s.Pin != nil {
			note(s.Pin.Use)
		}
	}
	for _, a := range l.History {
		if a.ID == l.Active {
			for _, r := range a.Bundles {
				note(r)
			}
		}
	}
	_ = l.each(func(r *record) error { // do always returns nil
		for _, b := range r.copy.parts {
			b.hold(held[b])
		}
		return nil
	})
}

// removed reports whether the written file was removed.
func (f *stateFile) removed() bool {
	_, err := os.Lstat(f.path())
	return f.written != nil && errors.Is(err, fs.ErrNotExist)
}

// checkStateFile has the state written again if its file was removed.
func (m *Manager) checkStateFile() {
	if m.state == nil || m.unsaved != "" || !m.state.removed() {
		return
	}
	m.cfg.Logger.Warn("the history of bundles was removed while it was in use; it is written again, without the copies that are lost",
		zap.String("file", m.state.path()))
	m.dirty = true
}

// reportDamage logs what was wrong with the existing file, and sets it aside.
func (m *Manager) reportDamage() {
	if m.state == nil || m.state.damaged == nil {
		return
	}
	m.stateLost = fmt.Sprintf("what was known of rollbacks, pins and serials before the start is lost: %v", m.state.damaged)
	err := os.Rename(m.state.path(), m.state.setAside())
	m.cfg.Logger.Error("the history of bundles on disk cannot be used; starting a new one without the earlier pins and serials",
		zap.String("file", m.state.path()), zap.String("set_aside", m.state.setAside()), zap.Error(errors.Join(m.state.damaged, err)))
}

// save persists the state if it has changed. A failure is reported, and retried with the next event.
func (m *Manager) save() {
	if !m.dirty && m.unsaved == "" {
		return
	}
	l := m.prepareHandover()
	m.handover.Store(l)
	m.dirty = false
	var err error
	if m.state == nil {
		err = l.each(func(r *record) error { return r.copy.store("") })
	} else {
		err = m.state.save(l)
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != m.unsaved {
		m.cfg.Logger.Error("the history of bundles cannot be kept on disk: a restart would not know of a rollback", zap.Error(err))
	}
	m.unsaved = text
	m.updateDegraded()
}
