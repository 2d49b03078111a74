// Package journal stores a writable directory: a snapshot on disk, and a journal of the changes since.
//
// A write is flushed to the journal before it is active and before its caller gets the result. Writes are serialized
// and atomic, each applied to the result of the one before. Waiting writes share one flush. A long journal is
// replaced by a new snapshot.
//
// After a crash at any time, every acknowledged write is recovered, and no write is recovered in part. An unfinished
// write at the journal's end is cut off: it was never acknowledged. A damaged journal is rejected, with the place.
//
// One process writes. Others, such as tools, may read; a second writer waits until the first has ended.
//
// It imports package directory and the foundations.
package journal

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"gatehouse/directory"
)

// Bounds of the queue of writes.
const (
	// MaxWrite bounds the Size of one write, in bytes.
	MaxWrite      = 8 << 20
	maxQueue      = 256      // queued writes
	maxPending    = 64 << 20 // bytes of queued writes
	maxGroup      = 8 << 20  // bytes per flush, exceeded by at most the last write
	compactAt     = 16 << 20 // journal size for a new snapshot, in bytes
	openEvery     = time.Second
	retryInterval = 100 * time.Millisecond
	settleAfter   = 20 * time.Millisecond // without writes, for the journal's length to reach the disk
)

// Errors of writes.
var (
	// ErrBusy: too many writes are queued.
	ErrBusy = errors.New("too many writes are waiting")
	// ErrReadOnly: this process does not own the directory.
	ErrReadOnly = errors.New("the directory of this node is read from directory.file: change that, or set directory.writable")
	// ErrTooLarge: a write exceeds MaxWrite.
	ErrTooLarge = errors.New("too large for one write")
	// ErrUnavailable: a write did not reach the disk. Where that is uncertain, the error says so.
	ErrUnavailable = errors.New("the directory cannot be written")
)

// Config is what a Store is made of.
type Config struct {
	Dir    string // created if missing
	Limits directory.Limits
	// Seed makes the initial directory, where nothing was written yet.
	Seed      func(context.Context) (*directory.Snapshot, error)
	Logger    *zap.Logger
	Clock     func() time.Time // nil: time.Now
	CompactAt int64            // journal size for a new snapshot, in bytes; 0: 16 MiB
}

// Write is one write request.
type Write struct {
	By   string // the author, for the log
	Size int    // approximate memory while queued, in bytes
	// Make computes the edit from the current directory when the write's turn comes. Its error is returned to the
	// caller. It must not block.
	Make func(*directory.Snapshot) (Edit, error)
}

// Edit is the effect of a write: a manifest, changes, or nothing.
type Edit struct {
	Changes  []directory.Change
	Manifest *directory.Manifest
	Force    bool // drop data that the manifest does not allow
}

// Store is a writable directory. Open makes it; it writes while Run runs.
type Store struct {
	with    Config
	queue   chan *request
	pending atomic.Int64 // queued bytes
	problem atomic.Pointer[string]

	// Owned by Open, then by Run.
	current   *directory.Snapshot // the directory on disk, or the seed
	published *directory.Snapshot // the directory published last; initially what Open found, which the caller publishes
	disk      *loaded             // the state of the disk; nil: it must be read again
	waiting   []*request          // on disk but not yet active
}

type request struct {
	Write
	ctx    context.Context
	done   chan struct{}
	result *directory.Snapshot
	err    error
	edit   Edit
}

// Open reads the stored directory of a folder, or makes the seed. It changes nothing on disk.
func Open(ctx context.Context, with Config) (*Store, error) {
	if with.Clock == nil {
		with.Clock = time.Now
	}
	if with.Logger == nil {
		with.Logger = zap.NewNop()
	}
	if with.CompactAt == 0 {
		with.CompactAt = compactAt
	}
	s := &Store{with: with, queue: make(chan *request, maxQueue)}
	if err := s.read(ctx); err != nil {
		return nil, err
	}
	if s.current == nil {
		seed, err := with.Seed(ctx)
		if err != nil {
			return nil, fmt.Errorf("the first directory: %w", err)
		}
		s.current = seed
	}
	s.published = s.current
	return s, nil
}

// read loads the directory from disk, if there is one.
func (s *Store) read(ctx context.Context) error {
	disk, err := load(ctx, s.with.Dir, s.with.Limits)
	if err != nil {
		return err
	}
	if s.disk = disk; disk.snapshot != nil {
		s.current = disk.snapshot
	}
	return nil
}

// Snapshot is the directory found by Open. Only valid before Run.
func (s *Store) Snapshot() *directory.Snapshot { return s.current }

// Problem says why writes fail; "" where they work.
func (s *Store) Problem() string {
	if p := s.problem.Load(); p != nil {
		return *p
	}
	return ""
}

func (s *Store) setProblem(text string) {
	if s.Problem() != text {
		s.problem.Store(&text)
	}
}

// Write executes one write, and returns the resulting directory once it is on disk and active. If ctx ends before,
// the write may still happen.
func (s *Store) Write(ctx context.Context, w Write) (*directory.Snapshot, error) {
	if w.Size > MaxWrite {
		return nil, fmt.Errorf("%w: %d bytes, and %d are possible", ErrTooLarge, w.Size, MaxWrite)
	}
	size := int64(w.Size)
	defer s.pending.Add(-size)
	if s.pending.Add(size) > maxPending {
		return nil, ErrBusy
	}
	r := &request{Write: w, ctx: ctx, done: make(chan struct{})}
	select {
	case s.queue <- r:
	default:
		return nil, ErrBusy
	}
	select {
	case <-r.done:
		return r.result, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: the write may still be made", ctx.Err())
	}
}

// Run writes until ctx ends. Where the folder is unusable it reports that, rejects writes, and retries. publish
// activates a directory; it is retried on failure. While another process writes, it is given nil: what Open found may
// be outdated by now. A directory not yet active at the end is activated by the next
// Run. One Run at a time.
func (s *Store) Run(ctx context.Context, limits directory.Limits, publish func(*directory.Snapshot) error) {
	s.with.Limits = limits
	w := &writer{store: s, log: s.with.Logger, publish: publish}
	defer w.close()
	for err := w.open(ctx); err != nil; err = w.open(ctx) {
		w.markBroken(err)
		if errors.Is(err, errLocked) && s.published != nil && publish(nil) == nil {
			s.published = nil
		}
		if !w.refuse(ctx, err) {
			return
		}
	}
	s.setProblem("")
	s.current = s.current.WithLimits(limits)
	w.publishCurrent(ctx)
	quiet := time.NewTimer(settleAfter)
	defer quiet.Stop()
	for {
		queue := s.queue
		if w.compacting != nil && w.size > maxBeside {
			queue = nil
		}
		select {
		case <-ctx.Done():
			return
		case err := <-w.compacted():
			w.finishCompaction(err)
		case <-quiet.C:
			w.settle()
		case first := <-queue:
			w.group(ctx, first)
			quiet.Reset(settleAfter)
		}
	}
}

// answer completes a request.
func (r *request) answer(result *directory.Snapshot, err error) {
	r.result, r.err = result, err
	close(r.done)
}
