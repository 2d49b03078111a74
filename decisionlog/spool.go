package decisionlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	sealed       = 1 << 50 // added to a tail: beyond every segment
	mostSegment  = 4 << 20 // two or three are mapped, and populated, at any time
	prepareRetry = 100 * time.Millisecond
)

// spool is a row of segments on disk between the requests and the sinks. Requests append at its end without a lock; for each sink
// one writer reads it from the beginning; one keeper makes the next segment before it is needed, and syncs. Logs that follow each
// other over a reload share it.
type spool struct {
	dir   string
	size  int64 // of a segment
	log   *zap.Logger
	lock  *os.File
	max   atomic.Int64 // bytes on disk
	every atomic.Int64 // sync interval
	used  atomic.Int64 // bytes on disk
	count atomic.Int64 // segments

	current atomic.Pointer[segment]   // requests append here
	idle    atomic.Bool               // a reader has seen all and sleeps
	stuck   atomic.Bool               // no further segment can be made: no disk space, or MaxSize
	readers atomic.Pointer[[]*reader] // those that hold segments; replaced under mu
	low     chan struct{}             // wakes the keeper
	since   atomic.Int64              // when it got stuck, in ns of the wall clock; 0: it is not
	damages atomic.Int64              // segments that were cut off while they were in use

	mu      sync.Mutex           // guards what follows; never taken by an append that finds room
	first   *segment             // the oldest that is on disk
	known   map[string]*reader   // every reader since the spool was opened, by its sink's name
	users   int                  // logs that use the spool
	room    chan struct{}        // closed, and made anew, when there is a new segment, or it is known that there will be none
	lastErr string               // why there is no next segment, "" otherwise
	lost    []gap                // segments that could not be read at the start
	home    fs.FileInfo          // of the folder that the files are in
	wrong   string               // what was found wrong with the folder, "" otherwise
	noted   map[string]time.Time // what was mended, and when: it is said for a while. A closed list
}

// reader is where one sink is in the spool.
type reader struct {
	pos    *position
	wake   chan struct{} // wakes its writer
	oldest atomic.Int64  // time of the oldest entry that the sink does not have, in ns; 0: it has all

	s     *segment // where the sink is; guarded by the spool's mu, as is what follows
	off   uint64
	held  *segment // it and what follows must stay: what is before is safe with the sink
	owner any      // who moves it
	exact bool     // the place is exactly how far the sink is: whoever moved it last has left in order
}

// openSpool takes over what an earlier run left, and makes the segment that requests append to.
func openSpool(cfg *Config) (_ *spool, err error) {
	if !hasSpool {
		return nil, errors.New("decision log: a spool (dir) needs Linux: leave it out, and entries wait in memory")
	}
	sp := &spool{dir: cfg.Dir, log: cfg.Logger, low: make(chan struct{}, 1), room: make(chan struct{}), known: map[string]*reader{}}
	sp.readers.Store(new([]*reader))
	sp.size = (min(mostSegment, max(cfg.MaxSize/16, 4*int64(cfg.MaxEntry))) + 4095) &^ 4095
	sp.adopt(cfg)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the decision log's spool: %w", err)
	}
	if sp.lock, err = lockFile(filepath.Join(cfg.Dir, "lock")); err != nil {
		return nil, fmt.Errorf("opening the decision log's spool: %w", err)
	}
	if sp.home, err = os.Stat(cfg.Dir); err != nil {
		sp.lock.Close()
		return nil, fmt.Errorf("opening the decision log's spool: %w", err)
	}
	defer func() {
		if err != nil {
			sp.close()
		}
	}()
	last, err := sp.recover()
	if err != nil {
		return nil, fmt.Errorf("reading the decision log's spool: %w", err)
	}
	s := noSegment(last + 1)
	if sp.used.Load()+sp.size <= cfg.MaxSize {
		if s, err = newSegment(sp.dir, last+1, sp.size); err != nil {
			return nil, fmt.Errorf("opening the decision log's spool: %w", err)
		}
	}
	sp.link(s)
	sp.current.Store(s)
	return sp, nil
}

// adopt takes over what may change while the spool is open.
func (sp *spool) adopt(cfg *Config) {
	sp.max.Store(cfg.MaxSize)
	sp.every.Store(int64(cfg.Sync))
}

// recover opens the segments that are there, and returns the number of the last.
func (sp *spool) recover() (last uint64, err error) {
	names, err := os.ReadDir(sp.dir)
	if err != nil {
		return 0, err
	}
	if last, err = lastPlaced(sp.dir); err != nil { // never a number again that a place may mean
		return 0, err
	}
	for _, name := range names { // in the order of their names, so of their numbers
		number, ok := segmentNumber(name.Name())
		if !ok {
			continue
		}
		last = max(last, number)
		s, err := openSegment(sp.dir, number)
		switch {
		case errors.Is(err, errSegment):
			if err := sp.setAside(name); err != nil {
				return 0, err
			}
			continue
		case err != nil:
			return 0, err
		}
		sp.link(s)
	}
	return last, nil
}

// setAside keeps a file that has no readable header out of the way. An empty one was being made when the process ended.
func (sp *spool) setAside(name fs.DirEntry) error {
	path := filepath.Join(sp.dir, name.Name())
	info, err := name.Info()
	if err != nil {
		return err
	}
	if blank(path) {
		return os.Remove(path)
	}
	sp.log.Error("a segment of the decision log's spool cannot be read", zap.String("segment", path), zap.String("kept_as", path+".damaged"))
	sp.lost = append(sp.lost, gap{damaged: uint64(info.Size()), since: info.ModTime(), until: info.ModTime(), segment: name.Name()})
	return os.Rename(path, path+".damaged")
}

// blank reports whether the beginning of a file has nothing but zeros.
func blank(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 4096)
	n, _ := f.Read(b)
	return !slices.ContainsFunc(b[:n], func(c byte) bool { return c != 0 })
}

// link puts a segment at the end of the row.
func (sp *spool) link(s *segment) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.used.Add(int64(s.size()))
	sp.count.Add(1)
	if sp.first == nil {
		sp.first = s
		return
	}
	at := sp.first
	for next := at.next.Load(); next != nil; next = at.next.Load() {
		at = next
	}
	at.next.Store(s)
}

// seek finds a place: the first segment that a sink does not have all of. What nobody has read yet begins with the oldest there is.
func (sp *spool) seek(at place) (s *segment, off uint64) {
	s = sp.first
	for s.number < at.segment && s.next.Load() != nil {
		s = s.next.Load()
	}
	if s.number == at.segment && at.offset >= segmentHeader && at.offset <= s.size() {
		return s, at.offset
	}
	return s, segmentHeader
}

// reader returns the reader of a sink, which holds nothing until it is acquired.
func (sp *spool) reader(sink string) (*reader, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if r := sp.known[sink]; r != nil {
		return r, nil
	}
	pos, err := openPosition(sp.dir, sink)
	if errors.Is(err, fs.ErrNotExist) { // somebody has just removed the folder: the keeper takes over the one that is made here
		if err = os.MkdirAll(sp.dir, 0o700); err == nil {
			pos, err = openPosition(sp.dir, sink)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening the decision log's spool: %w", err)
	}
	r := &reader{pos: pos, wake: make(chan struct{}, 1)}
	r.s, r.off = sp.seek(pos.written)
	sp.known[sink] = r
	return r, nil
}

// acquire makes these the readers that hold segments. One that did already goes on where it is.
func (sp *spool) acquire(readers []*reader) {
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

// append writes a frame. It returns false where there is no room.
func (sp *spool) append(kind uint32, payload []byte) bool {
	n := frameSize(len(payload))
	for {
		s := sp.current.Load()
		end := s.tail.Add(n)
		off := end - n
		if end <= s.size() {
			if !s.put(off, kind, payload) {
				sp.giveUp(s)
				continue
			}
			if sp.idle.Load() && sp.idle.CompareAndSwap(true, false) {
				sp.wake()
			}
			return true
		}
		if off <= s.size() { // true for one alone: it is where the segment ends
			s.end.Store(off)
		}
		if !sp.advance(s) {
			return false
		}
	}
}

// wake wakes who waits for something to read.
func (sp *spool) wake() {
	for _, r := range *sp.readers.Load() {
		notify(r.wake)
	}
}

// advance goes on to the segment after s, and reports whether there is one.
func (sp *spool) advance(s *segment) bool {
	next := s.next.Load()
	if next == nil {
		return sp.current.Load() != s
	}
	if sp.current.CompareAndSwap(s, next) {
		notify(sp.low)
	}
	return true
}

// seal ends all that is appended to, so that what is before is all there will be. The keeper must have ended.
func (sp *spool) seal() {
	for s := sp.current.Load(); s != nil; s = s.next.Load() {
		s.retire()
	}
	if sp.idle.CompareAndSwap(true, false) {
		sp.wake()
	}
}

// unread reports how many bytes a sink does not have yet.
func (sp *spool) unread(r *reader) (n uint64) {
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

// settled waits until everything that was reserved is written. The spool must be sealed.
func (sp *spool) settled(limit time.Duration) bool {
	until := time.Now().Add(limit)
	sp.mu.Lock()
	s, off := sp.first, uint64(segmentHeader)
	for _, r := range *sp.readers.Load() { // what one has read was written
		if r.s.number > s.number || r.s == s && r.off > off {
			s, off = r.s, r.off
		}
	}
	sp.mu.Unlock()
	for ; s != nil; s, off = s.next.Load(), segmentHeader {
		for !s.old && !s.lost.Load() && off < s.end.Load() {
			var n uint32
			if !guarded(func() { n = s.length(off).Load() }) {
				break // there is nothing to wait for
			}
			switch {
			case n > 0:
				off += frameSize(int(n))
			case time.Now().After(until):
				return false
			default:
				time.Sleep(time.Millisecond)
			}
		}
	}
	return true
}

// own makes somebody the one who moves a reader, and says from where, and whether that is exactly how far the sink is.
func (sp *spool) own(r *reader, owner any) (at cursor, exact bool) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	exact = r.exact
	r.owner, r.exact = owner, false
	return cursor{s: r.s, off: r.off}, exact
}

// back returns a reader to an earlier place.
func (sp *spool) back(r *reader, at place) cursor {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	r.pos.written = at
	r.s, r.off = sp.seek(at)
	return cursor{s: r.s, off: r.off}
}

// awaitRoom returns a channel that is closed when a segment was made, or could not be.
func (sp *spool) awaitRoom() <-chan struct{} {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.room
}

// keep makes the next segment ahead of time and syncs, until ctx ends.
func (sp *spool) keep(ctx context.Context) {
	tick := time.NewTimer(0)
	defer tick.Stop()
	var synced *segment
	lastSync := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sp.low:
		case <-tick.C:
		}
		every := time.Duration(sp.every.Load())
		wait := every
		sp.look()
		if !sp.prepare() {
			wait = min(wait, prepareRetry)
		}
		if time.Since(lastSync) >= every {
			synced = sp.sync(synced)
			lastSync = time.Now()
		}
		tick.Reset(wait)
	}
}

// prepare makes the segment after the current one, unless it is there, and reports whether it is. One that has lost its name is appended to
// until there is another.
func (sp *spool) prepare() bool {
	s := sp.current.Load()
	for next := s.next.Load(); next != nil; next = s.next.Load() {
		if !next.unnamed && !next.retired.Load() {
			sp.retireUnnamed()
			return true
		}
		s = next
	}
	sp.mu.Lock()
	wrong := sp.wrong
	sp.mu.Unlock()
	if wrong != "" {
		sp.setError(wrong)
		return false
	}
	if sp.used.Load()+sp.size > sp.max.Load() {
		sp.setError("the spool has reached max_size")
		return false
	}
	next, err := newSegment(sp.dir, sp.free(s.number+1), sp.size)
	if err != nil {
		sp.setError(err.Error())
		return false
	}
	sp.link(next)
	sp.retireUnnamed()
	sp.setError("")
	return true
}

func (sp *spool) retireUnnamed() {
	for s := sp.current.Load(); s != nil; s = s.next.Load() {
		if s.unnamed {
			s.retire()
		}
	}
}

func (sp *spool) setError(text string) {
	sp.mu.Lock()
	was := sp.lastErr
	sp.lastErr = text
	switch {
	case text == "":
		sp.since.Store(0)
	case was == "":
		sp.since.Store(time.Now().UnixNano())
	}
	sp.stuck.Store(text != "")
	close(sp.room)
	sp.room = make(chan struct{})
	sp.mu.Unlock()
	switch {
	case text != "" && was == "":
		sp.log.Warn("the decision log's spool has no further segment", zap.String("dir", sp.dir), zap.String("error", text))
	case text == "" && was != "":
		sp.log.Info("the decision log's spool has room again", zap.String("dir", sp.dir))
	}
}

// sync writes what was appended to the disk: from the segment that was current the last time to the one that is now.
func (sp *spool) sync(from *segment) *segment {
	to := sp.current.Load()
	if from == nil {
		from = to
	}
	for s := from; s != nil; s = s.next.Load() {
		// A segment that the sinks have passed is closed; that is no error, they have what was in it.
		if err := s.file.Sync(); s.file != nil && err != nil && !errors.Is(err, os.ErrClosed) {
			sp.log.Error("syncing the decision log's spool", zap.String("segment", s.path), zap.Error(err))
		}
		if s == to {
			break
		}
	}
	return to
}

// moved is commit for a place that need not be saved.
func (sp *spool) moved(r *reader, owner any, s *segment, off uint64) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if r.owner == owner {
		r.s, r.off = s, off
	}
}

// commit says that a sink has everything before a place. durable says that it is safe there: the sink's file is synced.
func (sp *spool) commit(r *reader, owner any, s *segment, off uint64, at place, durable bool) error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if r.owner != owner {
		return nil // whoever came after a sink that hangs decides
	}
	at.segment, at.offset = s.number, off
	r.s, r.off = s, off
	r.pos.written = at
	if durable {
		r.pos.durable, r.held = at, s
	}
	if err := r.pos.save(); err != nil {
		return fmt.Errorf("saving the decision log's position: %w", err)
	}
	if !durable {
		return nil
	}
	return sp.trim()
}

// trim removes the segments that no sink needs any more. Its caller holds mu.
func (sp *spool) trim() error {
	keep := uint64(noEnd)
	for _, r := range *sp.readers.Load() {
		keep = min(keep, r.held.number)
	}
	for sp.first.number < keep && sp.first.next.Load() != nil {
		gone := sp.first
		sp.first = gone.next.Load()
		sp.used.Add(-int64(gone.size()))
		sp.count.Add(-1)
		err := gone.remove()
		gone.close()
		if err != nil {
			return fmt.Errorf("removing what the sinks have: %w", err)
		}
	}
	notify(sp.low)
	return nil
}

// retain counts one more log that uses the spool, unless nobody does any longer.
func (sp *spool) retain() bool {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.users == 0 {
		return false
	}
	sp.users++
	return true
}

// release ends a log's use, and reports whether it was the last.
func (sp *spool) release() bool {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.users--
	return sp.users == 0
}

func (sp *spool) status() *Spool {
	if sp == nil {
		return nil
	}
	st := &Spool{Dir: sp.dir, Bytes: sp.used.Load(), MaxBytes: sp.max.Load(), Segments: sp.count.Load()}
	sp.mu.Lock()
	st.Error = sp.lastErr
	sp.mu.Unlock()
	return st
}

// abandon lets another process have the spool, and leaves the mappings to who may still look at them.
func (sp *spool) abandon() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	for _, r := range sp.known {
		r.owner = nil
		r.pos.file.Close()
	}
	sp.lock.Close()
}

// close gives everything back but what is on disk.
func (sp *spool) close() {
	for s := sp.first; s != nil; s = s.next.Load() {
		s.close()
	}
	for _, r := range sp.known {
		r.pos.file.Close()
	}
	sp.lock.Close()
}
