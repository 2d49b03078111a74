package read

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	pollInterval = 200 * time.Millisecond // into a spool: what is stored to a mapping wakes nobody
	fallbackPoll = time.Second            // at a file, for file systems that tell nobody of changes
)

// Follow makes the end of the log one that may be passed: io.EOF then says that there is nothing more for now, and [Reader.Wait] waits.
// A file is followed over a rotation, a spool from segment to segment. It is called before the first Next.
func (r *Reader) Follow() error {
	if r.spool != nil {
		r.live, r.spool.dir.Live = true, true
		return nil
	}
	t, ok := r.at.(*textFile)
	if !ok || t.path == nil || len(r.parts) > 0 {
		return errors.New("only a file of JSON lines and a spool can be followed")
	}
	w, err := fsnotify.NewWatcher()
	if err == nil {
		err = w.Add(filepath.Dir(t.file))
	}
	if err != nil {
		return fmt.Errorf("watching %s: %w", t.file, err)
	}
	r.live, r.watch, t.live = true, w, true
	return nil
}

// Wait waits until there may be more. Its error is that of ctx.
func (r *Reader) Wait(ctx context.Context) error {
	every := fallbackPoll
	if r.spool != nil {
		every = pollInterval
		r.spool.dir.ReleaseHeld()
	}
	look := time.NewTimer(every)
	defer look.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-look.C:
			return nil
		case <-r.changeErrors(): //nolint:errcheck // whatever it is: events may be lost, so look
			return nil
		case event := <-r.changes():
			if t, ok := r.at.(*textFile); ok && filepath.Base(event.Name) == filepath.Base(t.file) {
				return nil
			}
		}
	}
	return ctx.Err()
}

func (r *Reader) changes() <-chan fsnotify.Event {
	if r.watch == nil {
		return nil
	}
	return r.watch.Events
}

func (r *Reader) changeErrors() <-chan error {
	if r.watch == nil {
		return nil
	}
	return r.watch.Errors
}

// rotated looks whether another file has come into the place of the one that was read to its end. Once that has something in it, nobody
// writes to the old one any more.
func (r *Reader) rotated() (more bool, err error) {
	t, ok := r.at.(*textFile)
	if !ok {
		return false, io.EOF
	}
	if t.done {
		return r.follower(t)
	}
	now, err := os.Stat(t.file)
	if err != nil {
		return false, io.EOF // it is not there yet
	}
	was, err := t.path.Stat()
	if err != nil {
		return false, io.EOF
	}
	at, err := t.path.Seek(0, io.SeekCurrent)
	switch {
	case err != nil:
		return false, io.EOF
	case !os.SameFile(was, now):
		t.done = now.Size() > 0 // after one more look
		return t.done, io.EOF
	case now.Size() < at: // it was cut
		t.line, t.off, t.part = 0, 0, nil
		_, err = t.path.Seek(0, io.SeekStart)
		return err == nil, err
	}
	return false, io.EOF
}

// follower opens the file that has come into the place of another.
func (r *Reader) follower(was *textFile) (more bool, err error) {
	r.parts = []string{was.file}
	err = r.open()
	r.parts = nil
	if errors.Is(err, fs.ErrNotExist) {
		return false, io.EOF // gone again; we come back
	}
	if err != nil {
		return false, err
	}
	was.close()
	if next, ok := r.at.(*textFile); ok {
		next.live = true
	}
	return true, nil
}
