// Package journal keeps a directory that is written: a snapshot of it on disk, and beside that a journal of the changes since.
//
// A write is in the journal, flushed to the disk, before it is in force and before its caller hears of it. Writes are made one after the other,
// each against the directory as the one before left it, whole or not at all. Those that wait at the same time share one flush. Where the journal
// is long, a new snapshot takes its place.
//
// Whenever the process dies, the next one finds every write that was acknowledged, and no half of any. The end of a journal that was not written
// whole is cut off: nobody was told of it. A journal that is damaged is refused, with the place.
//
// One process writes. Others may read, as tools do; a second one that would write waits until the first has ended.
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

// Bounds of what waits to be written.
const (
	// MaxWrite bounds one write, in bytes of its Size.
	MaxWrite   = 8 << 20
	maxQueue   = 256      // writes that wait
	maxPending = 64 << 20 // bytes of them
	maxGroup   = 8 << 20  // bytes that share a flush, but for the last write of them
	compactAt  = 16 << 20 // bytes of a journal
	openEvery  = time.Second
	tryAgain   = 100 * time.Millisecond
)

// Errors of writes.
var (
	// ErrBusy is that of too many writes at once.
	ErrBusy = errors.New("too many writes are waiting")
	// ErrReadOnly is that of a write to a directory that this process does not own.
	ErrReadOnly = errors.New("the directory of this node is read from directory.file: change that, or set directory.writable")
	// ErrTooLarge is that of a write of more than MaxWrite.
	ErrTooLarge = errors.New("too large for one write")
	// ErrUnavailable is that of a write which did not get to the disk. Where that is not known for sure the error says so.
	ErrUnavailable = errors.New("the directory cannot be written")
)

// Config is what a Store is made of.
type Config struct {
	Dir    string // made where it is not there
	Limits directory.Limits
	// Seed makes the first directory, where nothing was ever written.
	Seed      func(context.Context) (*directory.Snapshot, error)
	Logger    *zap.Logger
	Clock     func() time.Time // nil: time.Now
	CompactAt int64            // bytes of the journal from which on a snapshot takes its place; 0: 16 MiB
}

// Write is one write.
type Write struct {
	By   string // who: on record
	Size int    // bytes that it keeps in memory while it waits, about
	// Make says what to do with the directory as it is when the write's turn comes. An error of it is the write's. It must not block.
	Make func(*directory.Snapshot) (Edit, error)
}

// Edit is what a write does: a manifest or changes, or nothing.
type Edit struct {
	Changes  []directory.Change
	Manifest *directory.Manifest
	Force    bool // what the manifest does not allow is dropped
}

// Store is a directory that is written. It is made by Open, and writes while Run runs.
type Store struct {
	with    Config
	queue   chan *request
	pending atomic.Int64 // bytes that wait
	problem atomic.Pointer[string]

	// Owned by Open, then by Run.
	current *directory.Snapshot // what is on disk, or the seed
	inForce *directory.Snapshot // what was published last; at first what Open found, which is for its caller to publish
	disk    *loaded             // as it was left; nil: it has to be read again
	waiting []*request          // they are on disk and not yet in force
}

type request struct {
	Write
	ctx    context.Context
	done   chan struct{}
	result *directory.Snapshot
	err    error
	edit   Edit
}

// Open reads the directory that is kept in a folder, or makes the first one. It changes nothing on disk.
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
	s.inForce = s.current
	return s, nil
}

// read takes what is on disk, if anything is.
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

// Snapshot is the directory as Open found it. It is for who opened it, before Run.
func (s *Store) Snapshot() *directory.Snapshot { return s.current }

// Problem says why nothing can be written; "" where it can.
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

// Write makes one write, and returns the directory after it when it is on disk and in force. Where ctx ends before, the write may still be made.
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

// Run writes until ctx ends. Where the folder cannot be used it says so, refuses what is to be written, and tries again. publish puts a directory
// in force; it is called again where it fails. What is still to be put in force at the end the next Run puts in force, of which there is one at a time.
func (s *Store) Run(ctx context.Context, limits directory.Limits, publish func(*directory.Snapshot) error) {
	s.with.Limits = limits
	w := &writer{store: s, log: s.with.Logger, publish: publish}
	defer w.close()
	for err := w.open(ctx); err != nil; err = w.open(ctx) {
		w.broken(err)
		if !w.refuse(ctx, err) {
			return
		}
	}
	s.setProblem("")
	s.current = s.current.WithLimits(limits)
	w.putInForce(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-s.queue:
			w.group(ctx, first)
		}
	}
}

// answer ends a request.
func (r *request) answer(result *directory.Snapshot, err error) {
	r.result, r.err = result, err
	close(r.done)
}
