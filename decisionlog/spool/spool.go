// Package spool keeps records on disk between those who append them and those who read them: a row of segments, which are files mapped into
// memory, and for each reader a file that says how far it is. What was appended outlives the process, however that ends.
//
// The package owns the files of its folder: their format, the space that they take, and what becomes of them where the disk is full, the
// folder is removed, or a file is cut off or damaged while it is in use. What a record is, is its owner's to say: here it is bytes, a
// kind, and a time that Config.Time reads. The package imports nothing of ours.
//
// [New] opens a spool, [Spool.Run] keeps it, [Spool.Append] adds a record without a lock, and a [Reader] for each who wants all records
// reads them with a [Cursor]. A segment goes when every reader is done with it. Who has no part in the spool, such as a tool
// that looks at it, reads it with a [DirReader] or a [Copy].
//
// A cursor reads mappings: see [Guarded].
package spool

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
	maxSegment   = 4 << 20 // two or three are mapped, and populated, at any time
	prepareRetry = 100 * time.Millisecond
)

// Config says where a spool is and how large.
type Config struct {
	Dir       string        // is made with mode 0700 where it is missing, and belongs to one process
	MaxSize   int64         // bytes on disk, at most
	MaxRecord int           // bytes of the largest record
	Sync      time.Duration // how often what was appended is synced to the disk
	Time      TimeFunc      // of a record
	Logger    *zap.Logger   // operators' events
}

// Spool is a row of segments on disk between who appends and the readers. Appends go to its end without a lock; each reader reads
// it from the beginning; Run makes the next segment before it is needed, and syncs. It may have several users, one after the other, who
// count themselves with Retain and Release.
type Spool struct {
	dir   string
	time  TimeFunc
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
	readers atomic.Pointer[[]*Reader] // those that hold segments; replaced under mu
	low     chan struct{}             // wakes the keeper
	since   atomic.Int64              // when it got stuck, in ns after born and 1; 0: it is not
	created time.Time                 // the wall clock may be set meanwhile: requests would wait for as long as it was set back
	damages atomic.Int64              // segments that were cut off while they were in use

	mu         sync.Mutex         // guards what follows; never taken by an append that finds room
	first      *segment           // the oldest that is on disk
	known      map[string]*Reader // every reader since the spool was opened, by its name
	users      int
	room       chan struct{}        // closed, and made anew, when there is a new segment, or it is known that there will be none
	lastErr    string               // why there is no next segment, "" otherwise
	lost       []Damage             // segments that could not be read at the start
	folderInfo fs.FileInfo          // of the folder that the files are in
	wrong      string               // what was found wrong with the folder, "" otherwise
	noted      map[string]time.Time // what was repaired, and when: it is said for a while. A closed list
	made       []string             // the folders that New made, dir first
	hidden     []hiddenFile         // of segments that are not needed any more and could not be removed; the last few
	unsaved    bool                 // a reader's position could not be saved, and nothing was trimmed since
}

// New takes over what an earlier run left, and makes the segment that is appended to. The spool has one user then.
func New(cfg Config) (_ *Spool, err error) {
	if !hasSpool {
		return nil, errors.New("decision log: a spool (dir) needs Linux: leave it out, and entries wait in memory")
	}
	sp := &Spool{dir: cfg.Dir, created: time.Now(), time: cfg.Time, users: 1, log: cfg.Logger, low: make(chan struct{}, 1), room: make(chan struct{}), known: map[string]*Reader{}}
	sp.readers.Store(new([]*Reader))
	sp.size = (min(maxSegment, max(cfg.MaxSize/16, 4*int64(cfg.MaxRecord))) + 4095) &^ 4095
	sp.Reconfigure(cfg)
	sp.made = missing(cfg.Dir)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the decision log's spool: %w", err)
	}
	if sp.lock, err = lockFile(filepath.Join(cfg.Dir, "lock")); err != nil {
		return nil, fmt.Errorf("opening the decision log's spool: %w", err)
	}
	if sp.folderInfo, err = os.Stat(cfg.Dir); err != nil {
		sp.lock.Close()
		return nil, fmt.Errorf("opening the decision log's spool: %w", err)
	}
	defer func() {
		if err != nil {
			sp.Discard()
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

// Reconfigure takes over what may change while the spool is open: MaxSize and Sync.
func (sp *Spool) Reconfigure(cfg Config) {
	sp.max.Store(cfg.MaxSize)
	sp.every.Store(int64(cfg.Sync))
}

// recover opens the segments that are there, and returns the number of the last.
func (sp *Spool) recover() (last uint64, err error) {
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
func (sp *Spool) setAside(name fs.DirEntry) error {
	path := filepath.Join(sp.dir, name.Name())
	info, err := name.Info()
	if err != nil {
		return err
	}
	if isZero(path) {
		return os.Remove(path)
	}
	sp.log.Error("a segment of the decision log's spool cannot be read", zap.String("segment", path), zap.String("kept_as", path+".damaged"))
	sp.lost = append(sp.lost, Damage{Bytes: uint64(info.Size()), Since: info.ModTime(), Until: info.ModTime(), Segment: name.Name()})
	return os.Rename(path, path+".damaged")
}

// isZero reports whether the beginning of a file has nothing but zeros.
func isZero(path string) bool {
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
func (sp *Spool) link(s *segment) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	s.time = sp.time
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

// seek finds a place: the first segment that a reader is not done with. What nobody has read yet begins with the oldest there is.
func (sp *Spool) seek(at place) (s *segment, off uint64) {
	s = sp.first
	for s.number < at.segment && s.next.Load() != nil {
		s = s.next.Load()
	}
	if s.number == at.segment && at.offset >= segmentHeader && at.offset <= s.size() {
		return s, at.offset
	}
	return s, segmentHeader
}

// Append adds a record, which is not empty. It returns false where there is no room.
func (sp *Spool) Append(kind Kind, payload []byte) bool {
	n := frameSize(len(payload))
	for {
		s := sp.current.Load()
		end := s.tail.Add(n)
		off := end - n
		if end <= s.size() {
			if !s.put(off, kind, payload) {
				sp.retireCut(s)
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
func (sp *Spool) wake() {
	for _, r := range *sp.readers.Load() {
		notify(r.wake)
	}
}

// advance goes on to the segment after s, and reports whether there is one.
func (sp *Spool) advance(s *segment) bool {
	next := s.next.Load()
	if next == nil {
		return sp.current.Load() != s
	}
	if sp.current.CompareAndSwap(s, next) {
		notify(sp.low)
	}
	return true
}

// Seal ends all that is appended to, so that what is before is all there will be. Run must have ended.
func (sp *Spool) Seal() {
	for s := sp.current.Load(); s != nil; s = s.next.Load() {
		s.retire()
	}
	if sp.idle.CompareAndSwap(true, false) {
		sp.wake()
	}
}

// AwaitWrites waits until everything that was reserved is written. The spool must be sealed.
func (sp *Spool) AwaitWrites(limit time.Duration) bool {
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
			if !CatchFault(func() { n = s.length(off).Load() }) {
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

// RoomChanged returns a channel that is closed when a segment was made, or could not be.
func (sp *Spool) RoomChanged() <-chan struct{} {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.room
}

// RequestSegment asks Run for the next segment.
func (sp *Spool) RequestSegment() { notify(sp.low) }

// Full reports whether it is known that there is no room for more: MaxSize, or no disk space.
func (sp *Spool) Full() bool { return sp.stuck.Load() }

// RequestWake has every reader woken by the next Append. Who says so and then sleeps looks for more in between.
func (sp *Spool) RequestWake() { sp.idle.Store(true) }

// Run makes the next segment ahead of time and syncs, until ctx ends.
func (sp *Spool) Run(ctx context.Context) {
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
		sp.checkFolder()
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
func (sp *Spool) prepare() bool {
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

func (sp *Spool) retireUnnamed() {
	for s := sp.current.Load(); s != nil; s = s.next.Load() {
		if s.unnamed {
			s.retire()
		}
	}
}

func (sp *Spool) setError(text string) {
	sp.mu.Lock()
	was := sp.lastErr
	sp.lastErr = text
	switch {
	case text == "":
		sp.since.Store(0)
	case was == "":
		sp.since.Store(int64(time.Since(sp.created)) + 1)
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
func (sp *Spool) sync(from *segment) *segment {
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

// trim removes the segments that no reader needs any more. Its caller holds mu.
func (sp *Spool) trim() error {
	keep := uint64(noEnd)
	for _, r := range *sp.readers.Load() {
		keep = min(keep, r.held.number)
	}
	for sp.first.number < keep && sp.first.next.Load() != nil {
		gone := sp.first
		sp.first = gone.next.Load()
		sp.used.Add(-int64(gone.size()))
		sp.count.Add(-1)
		left, err := gone.remove()
		gone.close()
		if left != nil {
			sp.hidden = append(sp.hidden[max(0, len(sp.hidden)-maxHidden+1):], hiddenFile{gone.path, left})
		}
		if err != nil {
			return fmt.Errorf("removing segments that all sinks have read: %w", err)
		}
	}
	notify(sp.low)
	return nil
}

// Retain counts one more user, unless there is none any longer: then the spool is closed, or is about to be.
func (sp *Spool) Retain() bool {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.users == 0 {
		return false
	}
	sp.users++
	return true
}

// Reacquire makes who has just released the spool as the last its user again.
func (sp *Spool) Reacquire() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.users = 1
}

// Release ends one's use, and reports whether it was the last: then it is for the caller to close the spool.
func (sp *Spool) Release() bool {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.users--
	return sp.users == 0
}

// TakeLost returns, once, the segments that could not be read when the spool was opened.
func (sp *Spool) TakeLost() []Damage {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	lost := sp.lost
	sp.lost = nil
	return lost
}

// Status is how large a spool is.
type Status struct {
	Bytes, MaxBytes int64
	Segments        int64
	Error           string // why there is no room for more, else ""
}

// Status may be called at any time.
func (sp *Spool) Status() Status {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return Status{Bytes: sp.used.Load(), MaxBytes: sp.max.Load(), Segments: sp.count.Load(), Error: sp.lastErr}
}

// Abandon lets another process have the spool, and leaves the mappings to who may still look at them.
func (sp *Spool) Abandon() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	for _, r := range sp.known {
		r.owner = nil
		r.pos.file.Close()
	}
	sp.lock.Close()
}

// Close gives everything back but what is on disk. Nobody may append or read any more.
func (sp *Spool) Close() {
	for s := sp.first; s != nil; s = s.next.Load() {
		s.close()
	}
	for _, r := range sp.known {
		r.pos.file.Close()
	}
	sp.lock.Close()
}

// Discard closes a spool that nothing was appended to, and removes the folders that New has made. The lock is held meanwhile: they are nobody else's.
func (sp *Spool) Discard() {
	if len(sp.made) > 0 {
		_ = os.RemoveAll(sp.dir) // what stays is as good as new
		for _, parent := range sp.made[1:] {
			_ = os.Remove(parent) // not where others have put something into it
		}
	}
	sp.Close()
}

// missing are the folders that are to be made for dir, dir first.
func missing(dir string) (list []string) {
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			return list
		}
		list = append(list, dir)
	}
}

// notify leaves a note in a channel of capacity one, unless there is one already.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
