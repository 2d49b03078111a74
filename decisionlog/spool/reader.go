package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// Reader is where one reader is in the spool, and what it is done with. One owner at a time moves it.
type Reader struct {
	spool  *Spool
	pos    *position
	wake   chan struct{} // wakes its owner
	oldest atomic.Int64  // time of the oldest record that the reader is not done with, in ns; 0: it is done with all

	s     *segment // where it is; guarded by the spool's mu, as is what follows
	off   uint64
	held  *segment // it and what follows must stay: what is before is safe
	owner any      // who moves it
	exact bool     // the place is exactly how far the reader is: whoever moved it last has left in order
}

// Reader returns the reader of a name, which holds nothing until it is acquired.
func (sp *Spool) Reader(name string) (*Reader, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if r := sp.known[name]; r != nil {
		return r, nil
	}
	pos, err := openPosition(sp.dir, name)
	if errors.Is(err, fs.ErrNotExist) { // somebody has just removed the folder: the keeper takes over the one that is made here
		if err = os.MkdirAll(sp.dir, 0o700); err == nil {
			pos, err = openPosition(sp.dir, name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening the decision log's spool: %w", err)
	}
	r := &Reader{spool: sp, pos: pos, wake: make(chan struct{}, 1)}
	r.s, r.off = sp.seek(pos.written)
	sp.known[name] = r
	return r, nil
}

// Acquire makes these the readers that hold segments. One that did already goes on where it is.
func (sp *Spool) Acquire(readers []*Reader) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	before := *sp.readers.Load()
	for _, r := range readers {
		if slices.Contains(before, r) {
			continue
		}
		r.s, r.off = sp.seek(r.pos.written)
		r.held, _ = sp.seek(r.pos.durable)
	}
	sp.readers.Store(&readers)
}

// Claim makes somebody the one who moves it, and says from where, and whether that is exactly how far it is: whoever moved it before may have
// ended without a word.
func (r *Reader) Claim(owner any) (at Cursor, exact bool) {
	sp := r.spool
	sp.mu.Lock()
	defer sp.mu.Unlock()
	exact = r.exact
	r.owner, r.exact = owner, false
	return Cursor{s: r.s, off: r.off}, exact
}

// Saved is the file that it said it wrote to last; false where it has never said so.
func (r *Reader) Saved() (file File, known bool) {
	r.spool.mu.Lock()
	defer r.spool.mu.Unlock()
	return r.pos.written.file, r.pos.known
}

// Rewind returns it to the place where it last said that all before was safe, and to the file of that time.
func (r *Reader) Rewind() (at Cursor, file File) {
	sp := r.spool
	sp.mu.Lock()
	defer sp.mu.Unlock()
	r.pos.written = r.pos.durable
	r.s, r.off = sp.seek(r.pos.written)
	return Cursor{s: r.s, off: r.off}, r.pos.written.file
}

// Advance is Commit for a place that need not be saved.
func (r *Reader) Advance(owner any, at Cursor) {
	sp := r.spool
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if r.owner == owner {
		r.s, r.off = at.s, at.off
	}
}

// Commit says that a reader is done with everything before a place, and which file that is in. durable says that it is safe there: the
// file is synced. Segments that no reader holds any more go.
func (r *Reader) Commit(owner any, at Cursor, file File, durable bool) error {
	sp := r.spool
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if r.owner != owner {
		return nil // whoever came after one that hangs decides
	}
	r.s, r.off = at.s, at.off
	r.pos.written = place{segment: at.s.number, offset: at.off, file: file}
	if durable {
		r.pos.durable, r.held = r.pos.written, at.s
	}
	if err := r.pos.save(); err != nil {
		sp.unsaved = true // look tries again: the reader has perhaps nothing more to commit
		return fmt.Errorf("saving the decision log's position: %w", err)
	}
	if !durable {
		return nil
	}
	return sp.trim()
}

// Unread reports how many bytes it is not done with.
func (r *Reader) Unread() (n uint64) {
	sp := r.spool
	sp.mu.Lock()
	defer sp.mu.Unlock()
	off := r.off
	for s := r.s; s != nil; s = s.next.Load() {
		if end := min(s.end.Load(), s.tail.Load(), s.size()); end > off {
			n += end - off
		}
		off = segmentHeader
	}
	return n
}

// Left says that the owner has saved exactly how far it is, and ends.
func (r *Reader) Left(owner any) {
	r.spool.mu.Lock()
	defer r.spool.mu.Unlock()
	r.exact = r.owner == owner
}

// Wake is sent to when there may be more to read, after RequestWake.
func (r *Reader) Wake() <-chan struct{} { return r.wake }

// SetOldest says when the oldest record was that the reader is not done with; the zero time: it is done with all.
func (r *Reader) SetOldest(t time.Time) {
	if t.IsZero() {
		r.oldest.Store(0)
		return
	}
	r.oldest.Store(t.UnixNano())
}

// Oldest is what SetOldest said last, by whichever owner.
func (r *Reader) Oldest() time.Time {
	if ns := r.oldest.Load(); ns != 0 {
		return time.Unix(0, ns).UTC()
	}
	return time.Time{}
}
