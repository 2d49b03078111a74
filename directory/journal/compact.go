package journal

import (
	"context"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"

	"gatehouse/directory"
	"gatehouse/durable"
	"gatehouse/panics"
)

// closeWithin bounds how long the end of a Run waits for a snapshot that is being written.
const closeWithin = 2 * time.Second

// maxBeside bounds the journal while a snapshot is being written: beyond it writes wait.
const maxBeside = maxJournal / 2

// compaction writes a snapshot beside the journal, which goes on. Then a journal with what came since replaces it.
type compaction struct {
	of      *directory.Snapshot
	from    int64 // of the journal: what comes after of
	started time.Time
	cancel  context.CancelFunc
	done    chan error // has one
}

// beginCompaction starts one where the journal is long.
func (w *writer) beginCompaction() {
	s := w.store
	if w.file == nil || w.compacting != nil || w.size <= s.with.CompactAt {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &compaction{of: s.current, from: w.size, started: s.with.Clock(), cancel: cancel, done: make(chan error, 1)}
	w.compacting = c
	go func() { // goroutine: writeSnapshot recovers
		c.done <- w.writeSnapshot(ctx, c.of)
	}()
}

// compacted is where the result of a compaction comes; nil: there is none.
func (w *writer) compacted() <-chan error {
	if w.compacting == nil {
		return nil
	}
	return w.compacting.done
}

// finishCompaction takes its result.
func (w *writer) finishCompaction(err error) {
	c, before := w.compacting, w.size
	c.cancel()
	if w.compacting = nil; w.file == nil {
		return // the next write makes both anew
	}
	if err == nil {
		err = w.shortenJournal(c)
	}
	if err != nil {
		w.log.Error("the directory's journal cannot be replaced by a snapshot; it goes on growing", zap.Error(err))
		if w.file == nil {
			w.markBroken(err)
		}
		return
	}
	w.log.Info("the directory's journal was replaced by a snapshot", zap.Uint64("revision", c.of.Revision()), zap.Int64("bytes", before-(w.size-int64(headSize))),
		zap.Duration("took", w.store.with.Clock().Sub(c.started)))
	w.beginCompaction() // a long one may have come since
}

// shortenJournal replaces the journal by one with the frames after the snapshot.
func (w *writer) shortenJournal(c *compaction) error {
	frames := make([]byte, w.size-c.from)
	if _, err := w.file.ReadAt(frames, c.from); err != nil {
		return fmt.Errorf("reading the journal: %w", err)
	}
	return w.newJournal(c.of, frames)
}

// endCompaction waits for one, for a moment, and else gives it up: the journal is as good.
func (w *writer) endCompaction() {
	late := time.NewTimer(closeWithin)
	defer late.Stop()
	for w.compacting != nil {
		select {
		case err := <-w.compacting.done:
			w.finishCompaction(err)
		case <-late.C:
			w.dropCompaction()
		}
	}
}

// dropCompaction gives one up.
func (w *writer) dropCompaction() {
	if c := w.compacting; c != nil {
		c.cancel()
		if err := <-c.done; err == nil {
			w.log.Info("the directory's snapshot was replaced", zap.Uint64("revision", c.of.Revision()))
		}
		w.compacting = nil
	}
}

// writeSnapshot replaces the snapshot on disk, unless ctx ends before.
func (w *writer) writeSnapshot(ctx context.Context, s *directory.Snapshot) (err error) {
	defer panics.Into("writing a snapshot of the directory", &err)
	return durable.Write(w.path(snapshotFile), 0o600, func(to io.Writer) error {
		_, err := s.WriteTo(&cancelled{ctx, to})
		return err
	})
}

// cancelled is a writer that fails once ctx has ended.
type cancelled struct {
	ctx context.Context
	to  io.Writer
}

// Write implements io.Writer.
func (c *cancelled) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.to.Write(b)
}

// newJournal replaces the journal by one after a snapshot, which is on disk. frames come after it.
func (w *writer) newJournal(after *directory.Snapshot, frames []byte) error {
	h, size := head{after.Revision(), digestOf(after)}, int64(headSize+len(frames))
	if err := durable.WriteFile(w.path(journalFile), append(h.bytes(size), frames...), 0o600); err != nil {
		return err
	}
	w.closeJournal()
	w.head, w.pending = h, false
	return w.openJournal(size)
}

// compact replaces the journal by a snapshot, at once. Readers find either pair, or the new snapshot with the old journal, from which nothing
// is needed.
func (w *writer) compact() error {
	w.dropCompaction()
	current := w.store.current
	if err := w.writeSnapshot(context.Background(), current); err != nil {
		return err
	}
	if err := w.newJournal(current, nil); err != nil {
		w.closeJournal()
		return err
	}
	w.log.Info("the directory's journal is replaced by a snapshot", zap.Uint64("revision", current.Revision()))
	return nil
}
