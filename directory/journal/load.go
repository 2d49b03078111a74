package journal

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gatehouse/directory"
	"gatehouse/watch"
)

const (
	snapshotFile = "written.snapshot"
	journalFile  = "written.journal"
	lockFile     = "written.lock"
	cutFile      = "written.cut" // the data last cut off the journal
	beginFile    = "written.new" // exists until the first snapshot and its journal do

	maxJournal = 1 << 30
)

// loaded is the state of the disk.
type loaded struct {
	snapshot *directory.Snapshot // nil: nothing was written yet
	end      int64               // of the journal's last complete frame
	tail     []byte              // after it: an unfinished frame
	start    start               // of the journal
	files    [2]os.FileInfo      // journal and snapshot when they were read
}

// Find returns the folder of a stored directory: the one that is given, or the one that a node keeps in the state_dir that is given. "" if
// neither holds one.
func Find(path string) string {
	for _, dir := range []string{path, filepath.Join(path, StateFolder)} {
		if exists(filepath.Join(dir, journalFile)) || exists(filepath.Join(dir, snapshotFile)) {
			return dir
		}
	}
	return ""
}

// StateFolder is where in its state_dir a node stores its directory.
const StateFolder = "directory"

// Read reads a stored directory, also while another process writes. It changes nothing, takes no lock, and sees a write or does not.
func Read(ctx context.Context, dir string, limits directory.Limits) (*directory.Snapshot, error) {
	l, err := load(ctx, dir, limits)
	switch {
	case err != nil:
		return nil, err
	case l.snapshot == nil:
		return nil, fmt.Errorf("%s: nothing was written yet", dir)
	}
	return l.snapshot, nil
}

// load reads the disk without changing it. The journal is read first: a concurrent writer replaces the snapshot
// before the journal, so both match.
func load(ctx context.Context, dir string, limits directory.Limits) (*loaded, error) {
	journal, snapshot := filepath.Join(dir, journalFile), filepath.Join(dir, snapshotFile)
	l := &loaded{files: statFiles(dir)}
	raw, err := watch.ReadFile(journal, maxJournal)
	noJournal := errors.Is(err, fs.ErrNotExist)
	if err != nil && !noJournal {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	f, err := os.Open(snapshot)
	switch {
	case errors.Is(err, fs.ErrNotExist) && noJournal:
		return l, nil
	case errors.Is(err, fs.ErrNotExist) && len(raw) <= headSize && exists(filepath.Join(dir, beginFile)): // created, but never written to
		return l, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s is there and %s is not: put it back from a backup, or remove both to begin anew", journal, snapshot)
	case err != nil:
		return nil, err
	}
	defer f.Close()
	if noJournal {
		return nil, fmt.Errorf("%s is there and %s is not: put it back from a backup; without it the last changes are lost, and removing both begins anew", snapshot, journal)
	}
	if l.start, err = parseStart(raw); err != nil {
		return nil, fmt.Errorf("%s: %w", journal, err)
	}
	h := l.start.head
	s, err := directory.Read(f, limits)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", snapshot, err)
	}
	if h.revision > s.Revision() || h.revision == s.Revision() && h.digest != digestOf(s) {
		return nil, fmt.Errorf("%s: offset 0: it begins after revision %d and %s is revision %d: they do not belong together; put both back from a backup", journal, h.revision, snapshot, s.Revision())
	}
	if err := l.replay(ctx, s, raw); err != nil {
		return nil, fmt.Errorf("%s: %w", journal, err)
	}
	return l, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// statFiles stats journal and snapshot; nil where one is missing.
func statFiles(dir string) (out [2]os.FileInfo) {
	for i, name := range []string{journalFile, snapshotFile} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			out[i] = info
		}
	}
	return out
}

// same reports whether two stats show the same unchanged file.
func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// replay applies a journal to the snapshot. Changes that the snapshot already has are skipped.
func (l *loaded) replay(ctx context.Context, s *directory.Snapshot, raw []byte) error {
	at := l.start.size
	for at < len(raw) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		payload, size, ok := frameAt(raw[at:])
		if !ok {
			if !torn(raw[at:], at) {
				return fmt.Errorf("offset %d: the record is damaged: what it says is not known, and nothing after it can be trusted; put the folder back from a backup", at)
			}
			l.tail = raw[at:]
			break
		}
		f, err := parsePayload(payload)
		if err == nil && f.revision > s.Revision() {
			s, err = f.apply(s)
		}
		if err != nil {
			return fmt.Errorf("offset %d: %w", at, err)
		}
		at += size
	}
	if missing := l.start.length - int64(at); missing > 0 {
		return fmt.Errorf("offset %d: the changes that were here, %d bytes of them, were on the disk and acknowledged, and are lost: "+
			"the disk or the file system lost them, or the file is an old copy; put the folder back from a backup", at, missing)
	}
	l.snapshot, l.end = s, int64(at)
	return nil
}

// apply returns the directory after a frame.
func (f *frame) apply(s *directory.Snapshot) (next *directory.Snapshot, err error) {
	if want := s.Revision() + uint64(len(f.entries)); f.revision != want {
		return nil, fmt.Errorf("the record makes revision %d of revision %d, with %d changes: records are missing", f.revision, s.Revision(), len(f.entries))
	}
	next = s
	for i := range f.entries {
		if next, err = f.entries[i].apply(next); err != nil {
			return nil, fmt.Errorf("revision %d: %w", s.Revision()+1+uint64(i), err)
		}
	}
	if digestOf(next) != f.digest {
		return nil, fmt.Errorf("the record does not lead to the directory that was written: revision %d has another digest", f.revision)
	}
	return next, nil
}

// apply returns the directory after a write.
func (e *entry) apply(s *directory.Snapshot) (*directory.Snapshot, error) {
	revision := s.Revision() + 1
	var err error
	if e.manifest == nil {
		s, err = s.Apply(e.changes)
	} else {
		var m *directory.Manifest
		if m, err = directory.ParseManifest("manifest", e.manifest); err == nil {
			s, err = s.SetManifest(m, e.force)
		}
	}
	if err != nil {
		return nil, err
	}
	return s.WithRevision(revision), nil
}

func digestOf(s *directory.Snapshot) (out [digestSize]byte) {
	b, err := hex.DecodeString(s.Digest())
	if err != nil || copy(out[:], b) != digestSize {
		panic("directory: a digest is not 32 bytes in hex")
	}
	return out
}
