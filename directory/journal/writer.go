package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"gatehouse/directory"
	"gatehouse/durable"
	"gatehouse/panics"
)

// writer is the state of one Run.
type writer struct {
	store   *Store
	log     *zap.Logger
	publish func(*directory.Snapshot) error
	lock    *os.File
	file    *os.File // the journal; nil: unreliable, replaced before the next write
	head    head     // of it
	size    int64    // of its complete part
	pending bool     // its length is written, and perhaps not on the disk
	buffer  []byte

	compacting *compaction // in progress; nil: none
}

func (w *writer) path(name string) string { return filepath.Join(w.store.with.Dir, name) }

// open takes the lock, and prepares the journal for writing.
func (w *writer) open(ctx context.Context) error {
	s := w.store
	if err := os.MkdirAll(s.with.Dir, 0o700); err != nil {
		return err
	}
	if err := durable.SyncFolder(filepath.Dir(s.with.Dir)); err != nil {
		return err
	}
	if err := w.takeLock(); err != nil {
		return err
	}
	if now := statFiles(s.with.Dir); s.disk == nil || !same(now[0], s.disk.files[0]) || !same(now[1], s.disk.files[1]) {
		if err := s.read(ctx); err != nil { // another process wrote in the meantime
			return err
		}
	}
	if s.disk.snapshot == nil {
		return w.begin()
	}
	return w.resume()
}

// errLocked is the error while another process is the writer.
var errLocked = errors.New("another process writes here")

// takeLock makes this process the writer. The lock ends with the process.
func (w *writer) takeLock() error {
	if w.lock != nil {
		return nil
	}
	f, err := os.OpenFile(w.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // has no lock
		return fmt.Errorf("%s: %w: %w", f.Name(), errLocked, err)
	}
	w.lock = f
	return nil
}

// refuse rejects requests with a problem for a while. It reports false where ctx ended.
func (w *writer) refuse(ctx context.Context, problem error) bool {
	t := time.NewTimer(openEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			return true
		case r := <-w.store.queue:
			r.answer(nil, fmt.Errorf("%w: %w", ErrUnavailable, problem))
		}
	}
}

// pause waits, and reports false where ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// begin writes the first snapshot and an empty journal. The journal comes first: a snapshot without a journal means lost changes. A
// journal without a snapshot means that too, except while beginFile exists.
func (w *writer) begin() error {
	s := w.store
	if err := durable.WriteFile(w.path(beginFile), nil, 0o600); err != nil {
		return err
	}
	if err := w.newJournal(s.current, nil); err != nil {
		return err
	}
	if err := w.writeSnapshot(context.Background(), s.current); err != nil {
		return err
	}
	if err := w.removeBeginFile(); err != nil {
		return err
	}
	w.log.Info("the first directory is written", zap.String("dir", s.with.Dir), zap.Uint64("revision", s.current.Revision()), zap.String("digest", s.current.Digest()))
	return nil
}

// removeBeginFile removes beginFile, before the first write.
func (w *writer) removeBeginFile() error {
	if err := os.Remove(w.path(beginFile)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return durable.SyncFolder(w.store.with.Dir)
}

func (w *writer) openJournal(end int64) (err error) {
	if w.file, err = os.OpenFile(w.path(journalFile), os.O_RDWR, 0); err != nil {
		return err
	}
	if _, err = w.file.Seek(end, io.SeekStart); err != nil {
		w.closeJournal()
		return err
	}
	w.size = end
	return nil
}

// resume opens the existing journal, and cuts off an unfinished frame.
func (w *writer) resume() error {
	disk := w.store.disk
	if err := w.removeBeginFile(); err != nil {
		return err
	}
	if disk.start.size != headSize { // of version 1
		return w.compact()
	}
	w.head = disk.start.head
	if err := w.openJournal(disk.end); err != nil {
		return err
	}
	if len(disk.tail) == 0 {
		return w.setLength(true)
	}
	if err := durable.WriteFile(w.path(cutFile), disk.tail, 0o600); err != nil {
		return err
	}
	w.log.Warn("the journal's last record was not written whole, and nobody was told that it was: it is cut off", zap.String("file", w.path(journalFile)),
		zap.Int64("offset", disk.end), zap.Int("bytes", len(disk.tail)), zap.String("kept_as", w.path(cutFile)))
	return w.cut()
}

// cut removes the incomplete end of the journal.
func (w *writer) cut() error {
	if err := w.file.Truncate(w.size); err != nil {
		return err
	}
	if _, err := w.file.Seek(w.size, io.SeekStart); err != nil {
		return err
	}
	return w.setLength(true)
}

// setLength writes what is complete of the journal into its head, and flushes that or leaves it to the next flush.
func (w *writer) setLength(flush bool) error {
	if _, err := w.file.WriteAt(w.head.length(w.size), int64(oldSize)); err != nil {
		return err
	}
	if w.pending = !flush; flush {
		return w.file.Sync()
	}
	return nil
}

// settle flushes the journal's length, after a moment without writes.
func (w *writer) settle() {
	if !w.pending || w.file == nil {
		return
	}
	if w.pending = false; w.file.Sync() != nil {
		w.markBroken(errors.New("the journal's length cannot be flushed to the disk"))
	}
}

// markBroken marks the journal as unusable.
func (w *writer) markBroken(err error) {
	w.closeJournal()
	if w.store.Problem() != err.Error() {
		w.log.Error("the directory cannot be written", zap.Error(err))
	}
	w.store.setProblem(err.Error())
}

func (w *writer) closeJournal() {
	if w.file != nil {
		_ = w.file.Close() // complete frames are already flushed
		w.file = nil
	}
}

// close ends what goes on, closes the files, and leaves the state that the next Run needs to continue without reading everything.
func (w *writer) close() {
	s := w.store
	w.endCompaction()
	w.settle()
	healthy := w.file != nil
	w.closeJournal()
	if healthy {
		s.disk = &loaded{snapshot: s.current, start: start{head: w.head, size: headSize}, end: w.size, files: statFiles(s.with.Dir)}
	} else {
		s.disk = nil
	}
	if w.lock != nil {
		_ = w.lock.Close() // releases the lock
	}
}

// group executes the first request and queued ones with one flush.
func (w *writer) group(ctx context.Context, first *request) {
	s := w.store
	if w.file == nil {
		if err := w.compact(); err != nil { // disk space may have been freed
			w.markBroken(err)
			first.answer(nil, fmt.Errorf("%w: %w", ErrUnavailable, err))
			return
		}
		s.setProblem("")
	}
	f := &frame{at: s.with.Clock()}
	next, made, idle := s.current, []*request(nil), []*request(nil)
	for r, size := first, 0; r != nil; {
		after, e, err := r.make(next)
		switch {
		case err != nil:
			r.answer(nil, err)
		case e == nil:
			r.result, idle = next, append(idle, r)
		default:
			next, f.entries, made = after, append(f.entries, *e), append(made, r)
			r.result = next
		}
		if size += r.Size; size > maxGroup || len(made)+len(idle) >= maxQueue {
			break
		}
		select {
		case r = <-s.queue:
		default:
			r = nil
		}
	}
	if len(made) > 0 {
		f.revision, f.digest = next.Revision(), digestOf(next)
		if err := w.append(f); err != nil {
			for _, r := range append(made, idle...) {
				r.answer(nil, err)
			}
			return
		}
		s.current = next
	}
	s.waiting = append(s.waiting, append(made, idle...)...)
	if w.publishCurrent(ctx) {
		w.beginCompaction()
	}
}

// make returns the directory after a request, nil where nothing changes.
func (r *request) make(s *directory.Snapshot) (after *directory.Snapshot, e *entry, err error) {
	defer panics.Into("making a write to the directory", &err)
	if r.ctx.Err() != nil {
		return nil, nil, r.ctx.Err() // the caller gave up
	}
	if r.edit, err = r.Make(s); err != nil {
		return nil, nil, err
	}
	e = &entry{by: r.By, changes: r.edit.Changes}
	if m := r.edit.Manifest; m != nil {
		e.manifest, e.force = append([]byte{}, m.Text()...), r.edit.Force
	} else if len(e.changes) == 0 {
		return s, nil, nil
	}
	if after, err = e.apply(s); err != nil || after.Digest() == s.Digest() {
		r.edit = Edit{} // nothing to log
		return s, nil, err
	}
	return after, e, nil
}

// append writes a frame and flushes it.
func (w *writer) append(f *frame) error {
	var err error
	if w.buffer, err = appendFrame(w.buffer[:0], f); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if _, err = w.file.Write(w.buffer); err != nil {
		if w.cut() != nil {
			return w.abandon(err)
		}
		w.store.setProblem(err.Error()) // such as a full disk: the next write retries
		w.log.Error("the directory cannot be written", zap.Error(err))
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err = w.file.Sync(); err != nil {
		return w.abandon(err)
	}
	w.store.setProblem("")
	w.size += int64(len(w.buffer))
	if err := w.setLength(false); err != nil {
		w.markBroken(err) // the write itself is durable
	}
	if cap(w.buffer) > 2*maxGroup {
		w.buffer = nil
	}
	return nil
}

// abandon abandons the journal, because it is unknown what reached the disk. Before the next write a new snapshot and
// journal replace it.
func (w *writer) abandon(err error) error {
	_ = w.cut() // best effort, so that a restart does not find the write
	w.markBroken(err)
	return fmt.Errorf("%w: it is not known whether the write will be there after a restart: %w", ErrUnavailable, err)
}

// publishCurrent publishes the directory and answers the waiting requests. It reports false where ctx ended before.
func (w *writer) publishCurrent(ctx context.Context) bool {
	s := w.store
	for s.published != s.current {
		err := w.publish(s.current)
		if err == nil {
			s.published = s.current
			break
		}
		if ctx.Err() == nil && !errors.Is(err, context.Canceled) {
			w.log.Error("the directory is written and cannot be put in force", zap.Error(err))
		}
		if !pause(ctx, retryInterval) {
			return false
		}
	}
	for _, r := range s.waiting {
		w.record(r)
		r.answer(r.result, nil)
	}
	clear(s.waiting)
	s.waiting = s.waiting[:0]
	return true
}

// maxShown bounds the changes listed in one log line.
const maxShown = 10

// record logs one line for each write that changed something.
func (w *writer) record(r *request) {
	if len(r.edit.Changes) == 0 && r.edit.Manifest == nil {
		return
	}
	what := make([]string, 0, min(len(r.edit.Changes), maxShown))
	for _, c := range r.edit.Changes[:cap(what)] {
		what = append(what, shortened(c.String()))
	}
	if r.edit.Manifest != nil {
		what = append(what, "manifest")
	}
	w.log.Info("directory written", zap.String("by", r.By), zap.Uint64("revision", r.result.Revision()), zap.Int("changes", max(len(r.edit.Changes), 1)),
		zap.String("what", strings.Join(what, "; ")))
}

func shortened(s string) string {
	const most = 300
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
