// Package decisions keeps what the edges decided: it takes their decision logs, each entry once, and searches them.
//
// Each environment has a folder and a goroutine of its own. A request is appended to a journal and synced before it is
// acknowledged; its entries are then in a table in memory, from which they go, sorted by time, into segments: Parquet files,
// one for each outcome, which are written once and never changed. The chain of a folder names its segments with their
// hashes; what it does not name does not count. docs/decisions/0019-decision-segments.md has the reasons.
//
// Nothing that was acknowledged is lost, whenever the process ends: a journal goes when the chain says that its entries are
// in segments. An entry is known by its edge and its id; one that is sent again is acknowledged and not taken again.
//
// It imports nothing of ours but the foundations.
package decisions

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

// Config is what a Store is made of.
type Config struct {
	Dir    string // made where it is missing
	Signer Signer
	Logger *zap.Logger
	Clock  func() time.Time // nil: time.Now
	// Rows and Bytes are how much of one environment is in memory before it becomes a segment; 0: 50,000 and 32 MiB.
	Rows, Bytes int
	// Age is after how long it becomes one all the same; 0: an hour.
	Age time.Duration
	// MinFree is how many bytes of the disk entries leave for others; 0: 256 MiB.
	MinFree uint64
	// Free is how many bytes a folder's disk has left; nil: the system is asked.
	Free func(dir string) (uint64, error)
}

// Bounds of a store.
const (
	defaultRows  = 50_000
	defaultBytes = 32 << 20
	defaultAge   = time.Hour
	defaultFree  = 256 << 20
	maxParsing   = 4 // requests whose bodies are unpacked at once
	maxSearching = 4 // searches at once
	maxExports   = 2
	maxFlight    = 64 << 20
	maxQueue     = 64 // requests that wait for the journal of one environment
	maxBatch     = 16 << 20
	freeEvery    = time.Second
	waitForDisk  = 5 * time.Second // for a segment that is being written, before requests are refused
)

// Errors of a request.
var (
	ErrFull   = errors.New("there is no room for decisions: the disk is full")
	ErrEnded  = errors.New("control is stopping")
	ErrBusy   = errors.New("control has more to do with decisions than it can")
	ErrFilter = errors.New("the search cannot be made")
)

// Store keeps the decisions of all environments.
type Store struct {
	with    Config
	logger  *zap.Logger
	parsing chan *parsing
	search  chan struct{}
	export  chan struct{}
	flight  *semaphore.Weighted // bytes of JSON in requests that are not on disk yet
	memory  atomic.Int64        // bytes of all tables
	done    chan struct{}
	stop    context.CancelFunc
	ctx     context.Context
	running sync.WaitGroup
	files   *files

	mu   sync.Mutex
	envs map[string]*Environment // guarded by mu

	freeAt atomic.Int64 // when the disk was last looked at, ns
	free   atomic.Bool  // and had room
}

// parsing is what unpacking a body needs; there is a bounded number of them.
type parsing struct {
	zip   *gzip.Reader
	plain bytes.Buffer
	parse parser
}

// Open opens a folder. Environments are opened as they are asked for.
func Open(with Config) (*Store, error) {
	if with.Clock == nil {
		with.Clock = time.Now
	}
	if with.Logger == nil {
		with.Logger = zap.NewNop()
	}
	if with.Rows == 0 {
		with.Rows = defaultRows
	}
	if with.Bytes == 0 {
		with.Bytes = defaultBytes
	}
	if with.Age == 0 {
		with.Age = defaultAge
	}
	if with.MinFree == 0 {
		with.MinFree = defaultFree
	}
	if with.Free == nil {
		with.Free = freeBytes
	}
	if err := os.MkdirAll(with.Dir, 0o700); err != nil {
		return nil, err
	}
	s := &Store{with: with, logger: with.Logger, parsing: make(chan *parsing, maxParsing), search: make(chan struct{}, maxSearching), export: make(chan struct{}, maxExports), done: make(chan struct{}),
		envs: map[string]*Environment{}, files: newFiles(), flight: semaphore.NewWeighted(maxFlight)}
	for range maxParsing {
		s.parsing <- &parsing{parse: parser{words: newWords()}}
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

func freeBytes(dir string) (uint64, error) {
	var st syscall.Statfs_t
	err := syscall.Statfs(dir, &st)
	return st.Bavail * uint64(st.Bsize), err
}

// room reports whether the disk has room for entries.
func (s *Store) room() bool {
	now := time.Now().UnixNano()
	was := s.freeAt.Load()
	if now-was > int64(freeEvery) && s.freeAt.CompareAndSwap(was, now) {
		n, err := s.with.Free(s.with.Dir)
		s.free.Store(err != nil || n >= s.with.MinFree) // where the system does not say, writing will
	}
	return s.free.Load()
}

// Close ends all writing. What was acknowledged is on disk.
func (s *Store) Close() {
	s.stop()
	s.running.Wait()
	s.files.close()
}

// folder is that of an environment, whose name is project/name.
func (s *Store) folder(environment string) (string, error) {
	project, name, ok := strings.Cut(environment, "/")
	for _, part := range []string{project, name} {
		if !ok || part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\\\x00") {
			return "", fmt.Errorf("%w: %q names no environment", ErrFilter, environment)
		}
	}
	return filepath.Join(s.with.Dir, project, name), nil
}

// Environment is the one of a name, whose folder is made where it is missing.
func (s *Store) Environment(name string) (*Environment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, ErrEnded
	}
	if e := s.envs[name]; e != nil {
		return e, nil
	}
	dir, err := s.folder(name)
	if err != nil {
		return nil, err
	}
	e, err := s.open(name, dir)
	if err != nil {
		return nil, fmt.Errorf("the decisions of %s: %w", name, err)
	}
	s.envs[name] = e
	return e, nil
}

// Has reports whether there is anything of an environment.
func (s *Store) Has(name string) bool {
	dir, err := s.folder(name)
	if err != nil {
		return false
	}
	_, err = os.Stat(dir)
	return !errors.Is(err, fs.ErrNotExist)
}

// Taken is what became of a request.
type Taken struct {
	New, Known int // entries
}

// Add takes the gzipped JSON array of an edge into its environment, and returns when it is durable.
func (s *Store) Add(ctx context.Context, environment, edge string, body []byte) (Taken, error) {
	if len(body) > MaxBody {
		return Taken{}, fmt.Errorf("%w: more than %d bytes", ErrLarge, MaxBody)
	}
	if !s.room() {
		return Taken{}, ErrFull
	}
	e, err := s.Environment(environment)
	if err != nil {
		return Taken{}, err
	}
	weight := min(int64(len(body))*16+64<<10, maxPlain) // about what it is unpacked
	if s.flight.Acquire(ctx, weight) != nil {
		return Taken{}, ErrBusy
	}
	defer s.flight.Release(weight)
	r := &request{edge: edge, body: body, received: s.with.Clock().UnixNano(), done: make(chan error, 1)}
	if r.rows, err = s.unpack(ctx, r.edge, r.received, body); err != nil {
		return Taken{}, err
	}
	select {
	case e.queue <- r:
	case <-ctx.Done():
		return Taken{}, ErrBusy
	case <-e.ended:
		return Taken{}, ErrEnded
	}
	select { // it is written now, whatever becomes of who asked
	case err := <-r.done:
		return r.taken, err
	case <-e.ended:
		select {
		case err := <-r.done:
			return r.taken, err
		default:
			return Taken{}, ErrEnded
		}
	}
}

// unpack makes rows of a body.
func (s *Store) unpack(ctx context.Context, edge string, received int64, body []byte) ([]Row, error) {
	var p *parsing
	select {
	case p = <-s.parsing:
	case <-ctx.Done():
		return nil, ErrBusy
	}
	defer func() { s.parsing <- p }()
	return p.rows(edge, received, body)
}

func (p *parsing) rows(edge string, received int64, body []byte) (rows []Row, err error) {
	in := bytes.NewReader(body)
	if p.zip == nil {
		p.zip, err = gzip.NewReader(in)
	} else {
		err = p.zip.Reset(in)
	}
	if err != nil {
		p.zip = nil
		return nil, fmt.Errorf("%w: %w", ErrBody, err)
	}
	if p.plain.Cap() > 2<<20 {
		p.plain = bytes.Buffer{} // a large one is the exception
	}
	p.plain.Reset()
	if _, err := p.plain.ReadFrom(io.LimitReader(p.zip, maxPlain+1)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBody, err)
	}
	p.parse.edge, p.parse.received = edge, received
	return p.parse.parse(p.plain.Bytes())
}
