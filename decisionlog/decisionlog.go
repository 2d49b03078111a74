// Package decisionlog keeps the record of every decision: who asked for what,
// what was answered and why, under which revision of everything the answer
// depended on. It is the audit trail, and what explain and replay read.
//
// The package owns the way of an entry: what Append does when there is no room, the order of what reaches each sink, the files. Its parts own
// the rest: record packs entries, takes secrets out and makes lines of them; spool keeps them on disk; events reads and masks a line; remote
// sends lines to servers; read reads logs back. Of ours it imports its parts and the foundations, and nobody but its own reaches its parts,
// except for events and read.
//
// # Life of an entry
//
// The gate builds one [Entry] per Check and hands it to [Log.Append] before
// the reply goes out. With Config.Dir, Append redacts and encodes it there and
// then and copies it into a memory-mapped file, without a lock: what Append
// has taken outlives the process, however that ends. [Log.Run] owns everything
// after that: for each sink it reads the files, writes one line per entry, and
// keeps beside them how far the sink is; the next start goes on from there. A
// sink that is slow or away holds up no other. A line is in a sink's file
// exactly once; on standard output, at a server, or where that file is gone at
// the next start, at least once. docs/decisionlog.md has the format.
//
// Between the spool and the sinks, masks take out of an event what
// Config.Masks and the policy (Config.Rules) say, and leave out what the policy
// does not want. A rule that fails costs the event its documents, never the
// event itself.
//
// Without Config.Dir, Append only puts a pointer into a bounded queue, and what
// Run has not written is lost with the process.
//
// Lines are written as soon as there is nothing more to read, and at the latest
// after 64 KiB or 100 ms while there is.
//
// # When there is no room
//
// A queue that is full, and a spool that has reached Config.MaxSize or a full
// disk, mean that the sink is slower than the decisions, or refuses them.
// Config.OnFull says what Append does then:
//
//   - wait (the default): waits for room, for at most half of the time that
//     the request has left and at most Config.MaxWait, so that an answer still
//     reaches the proxy in time; then the entry is lost. It does not wait
//     while the sink is known to refuse writes: that helps nobody.
//   - drop: the entry is lost at once.
//   - deny: the entry is lost at once, and Append's error is [ErrDeny]: the
//     caller must not let a request through that is not on record.
//
// Every loss is counted by cause in gatehouse_decision_log_dropped_total and,
// when there is room again, recorded in the log itself:
//
//	{"gap":{"dropped":17,"since":"2026-03-01T10:00:00.1Z","until":"2026-03-01T10:00:02.9Z"}}
//
// A sink that fails (disk full, directory gone, server away) is retried, first after
// 100 ms, then ever more slowly up to every 5 s, a server up to every 30 s, with the file opened anew; the
// lines that it refused are kept and go first, each of them whole and, in a file, once.
// Only where another file has come into its place meanwhile may the old one
// end in half a line; that line is then whole in the new one.
//
// What a line has is in package events, what never appears in one is in package record.
package decisionlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gatehouse/decisionlog/events"
	"gatehouse/decisionlog/record"
	"gatehouse/decisionlog/spool"
	"gatehouse/input"
)

var (
	// ErrFull says that an entry was lost: there was no room for it, or the
	// log has ended. The loss is already counted; the answer stands.
	ErrFull = errors.New("decision log is full")
	// ErrDeny is ErrFull where Config.OnFull is "deny": the request must be
	// denied. errors.Is(ErrDeny, ErrFull) holds.
	ErrDeny = fmt.Errorf("%w and on_full is deny", ErrFull)

	errClosed = fmt.Errorf("%w: it has been closed", ErrFull)
)

// What Config.OnFull may say.
const (
	OnFullWait = "wait"
	OnFullDrop = "drop"
	OnFullDeny = "deny"
)

const (
	defaultQueue      = 8192
	defaultQueueBytes = 64 << 20
	defaultMaxEntry   = 64 << 10
	minMaxEntry       = 8 << 10
	defaultMaxWait    = time.Second
	defaultDrain      = 5 * time.Second
	defaultSync       = time.Second
	defaultMaxSize    = 1 << 30
)

// Config says where decisions are recorded. Its zero value records nothing.
type Config struct {
	// File is the path of the log, "-" for standard output, "" for none: short for the first of Sinks.
	File string
	// Sinks are further places that decisions are written to, each at its own pace. Several need Dir.
	Sinks []Sink
	// OnFull is "wait" (or ""), "drop" or "deny"; see the package comment.
	OnFull string
	// Queue is how many entries may wait to be written; 0 means 8192.
	Queue int
	// QueueBytes bounds what the inputs of waiting entries keep in memory, by
	// their Entry.InputSize; 0 means 64 MiB. Beyond it entries are kept
	// but their inputs are erased.
	QueueBytes int64
	// MaxEntry is the most bytes a line may have; 0 means 64 KiB, and less
	// than 8 KiB is an error.
	MaxEntry int
	// MaxWait bounds the waiting of OnFull "wait"; 0 means 1 s.
	MaxWait time.Duration
	// DrainTimeout is how long Run goes on writing when it is told to end;
	// 0 means 5 s.
	DrainTimeout time.Duration
	// Redact names credentials beyond those known by default.
	Redact record.Redact
	// Schema is the table of the input's fields; nil: input.Standard.
	Schema *input.Schema
	// Masks are applied to each entry when it leaves the spool for a sink.
	Masks []events.Mask
	// Rules asks the policy what of an event, which is a line, is to be masked, and whether it is recorded at all. It is called off the
	// request path by one goroutine at a time, for each entry once or, where sinks are far from each other, more often. It may wait for
	// a policy until ctx ends. nil: the policy is not asked.
	Rules func(ctx context.Context, event []byte) record.Ruling
	// Claims names the claims of the caller that are recorded; nil: none.
	Claims []string

	// Dir is the directory of the spool, "" for none: entries then wait in memory. It is made with mode 0700 where it is missing,
	// and belongs to one process.
	Dir string
	// Sync is how often the spool is synced to the disk: what a loss of power may cost at most. 0 means 1 s.
	Sync time.Duration
	// MaxSize bounds the spool's bytes on disk; 0 means 1 GiB, and less than sixteen times MaxEntry is an error.
	MaxSize int64
	// Succeeds is the log that this one comes after, where both have the same Dir: they share the spool, and this one writes once the
	// other's Run has ended.
	Succeeds *Log
	// Labels are written with every entry, such as the instance's id.
	Labels map[string]string
	// Plain makes every line by way of values: slower, and the reference for how it is done otherwise.
	Plain bool

	Clock      func() time.Time      // nil means time.Now
	Logger     *zap.Logger           // operators' events; nil means none
	Registerer prometheus.Registerer // nil means no metrics
	Stdout     io.Writer             // what "-" means; nil means os.Stdout
}

// Log takes entries from requests and writes them to its sinks. A nil Log, and
// one without a sink, take everything and record nothing.
type Log struct {
	cfg      Config
	queue    chan *record.Entry // nil: there is a spool, or nothing is recorded
	spool    *spool.Spool       // nil: there is none
	after    *Log               // has the spool before us
	packer   *record.Packer
	packings sync.Pool // of *packing
	done     chan struct{}
	lines    *record.Lines
	sinks    []*sink
	met      metrics

	started atomic.Bool
	closed  atomic.Bool  // set by Run once nothing later in the queue is sure to be written
	kept    atomic.Int64 // bytes that queued inputs keep
	held    atomic.Int64 // entries encoded but not yet written
	dropped atomic.Uint64
	lostAt  atomic.Pointer[time.Time] // when the last entry was lost; nil: none was

	lossy    chan struct{} // tells a writer that gap is set
	released chan struct{} // closed by Run when its use of the spool has ended
	last     bool          // nobody else uses the spool; set before released is closed

	mu    sync.Mutex // guards what follows, and Entry.lost; never taken by an Append that finds room
	ended bool
	gap   record.Gap
	final *record.Gap // what was lost when the spool had no room for it any more: every sink gets it
}

// New checks the configuration and opens the file. It starts nothing: entries
// wait in the queue until Run is called, and Run closes the file.
func New(cfg Config) (*Log, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	sinks, err := cfg.sinks()
	if err != nil || len(sinks) == 0 {
		return &Log{cfg: cfg, packer: record.NewPacker(cfg.Record())}, err
	}
	lines, err := record.NewLines(cfg.Record(), len(sinks))
	if err != nil {
		return nil, err
	}
	l := &Log{
		cfg:      cfg,
		done:     make(chan struct{}),
		lossy:    make(chan struct{}, 1),
		released: make(chan struct{}),
		lines:    lines,
		packer:   record.NewPacker(cfg.Record()),
	}
	l.packings.New = func() any { return new(record.Packing) }
	l.cfg.Succeeds = nil // it is not needed for longer than it runs
	for _, s := range sinks {
		l.sinks = append(l.sinks, &sink{cfg: s, log: l, wake: make(chan struct{}, 1)})
	}
	if err := l.open(cfg.Succeeds); err != nil {
		for _, s := range l.sinks {
			s.discard()
		}
		return nil, err
	}
	return l, nil
}

// open opens the sinks and what is between them and the requests.
func (l *Log) open(before *Log) error {
	for _, s := range l.sinks {
		if err := s.open(); err != nil {
			return err
		}
	}
	if err := l.openSpool(before); err != nil {
		return err
	}
	err := l.openReaders()
	if err == nil {
		l.met = newMetrics(l)
		err = l.met.register(l.cfg.Registerer)
	}
	if err != nil && l.spool != nil && l.spool.Release() {
		l.spool.Discard()
	}
	return err
}

// Discard closes a log whose Run is never called, and removes the files and folders that New has made.
func (l *Log) Discard() {
	for _, s := range l.sinks {
		s.discard()
	}
	if l.spool != nil && l.spool.Release() {
		l.spool.Discard()
	}
}

func (l *Log) openReaders() (err error) {
	for _, s := range l.sinks {
		if l.spool == nil {
			return nil
		}
		if s.reader, err = l.spool.Reader(s.cfg.Name); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) closeSinks() {
	for _, s := range l.sinks {
		s.close()
	}
}

// openSpool opens what is between requests and sinks: a queue, a spool, or the one that the log before us has open.
func (l *Log) openSpool(before *Log) (err error) {
	switch {
	case l.cfg.Dir == "":
		l.queue = make(chan *record.Entry, l.cfg.Queue)
		return nil
	case before != nil && before.spool != nil && before.cfg.Dir == l.cfg.Dir && before.spool.Retain():
		l.spool, l.after = before.spool, before
		l.spool.Reconfigure(l.cfg.spool())
		return nil
	}
	if l.spool, err = spool.New(l.cfg.spool()); err != nil {
		return err
	}
	if l.sinks[0].cfg.File == "" {
		return nil
	}
	if err := l.spool.AdoptPosition(l.sinks[0].cfg.Name); err != nil {
		l.spool.Discard()
		return fmt.Errorf("opening the decision log's spool: %w", err)
	}
	return nil
}

// Record says how entries are packed, and become lines.
func (c *Config) Record() record.Config {
	return record.Config{Schema: c.Schema, Redact: c.Redact, Claims: c.Claims, MaxEntry: c.MaxEntry, Labels: c.Labels, Masks: c.Masks, Rules: c.Rules,
		Plain: c.Plain, Clock: c.Clock, Logger: c.Logger}
}

func (c *Config) spool() spool.Config {
	return spool.Config{Dir: c.Dir, MaxSize: c.MaxSize, MaxRecord: c.MaxEntry, Sync: c.Sync, Time: record.Time, Logger: c.Logger}
}

// check refuses what cannot be honoured and fills in the defaults.
func (c *Config) check() error {
	switch c.OnFull {
	case "":
		c.OnFull = OnFullWait
	case OnFullWait, OnFullDrop, OnFullDeny:
	default:
		return fmt.Errorf("decision log: on_full is %q: must be wait, drop or deny", c.OnFull)
	}
	if c.Queue < 0 || c.QueueBytes < 0 || c.MaxWait < 0 || c.DrainTimeout < 0 {
		return errors.New("decision log: queue sizes and times must not be negative")
	}
	if c.MaxEntry != 0 && c.MaxEntry < minMaxEntry {
		return fmt.Errorf("decision log: an entry of at most %d bytes is too small: must be at least %d", c.MaxEntry, minMaxEntry)
	}
	if c.Sync < 0 || c.MaxSize < 0 {
		return errors.New("decision log: sync and max_size must not be negative")
	}
	c.Queue = cmp.Or(c.Queue, defaultQueue)
	c.QueueBytes = cmp.Or(c.QueueBytes, defaultQueueBytes)
	c.MaxEntry = cmp.Or(c.MaxEntry, defaultMaxEntry)
	c.MaxWait = cmp.Or(c.MaxWait, defaultMaxWait)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, defaultDrain)
	c.Sync, c.MaxSize = cmp.Or(c.Sync, defaultSync), cmp.Or(c.MaxSize, defaultMaxSize)
	if least := 16 * int64(c.MaxEntry); c.Dir != "" && c.MaxSize < least {
		return fmt.Errorf("decision log: max_size is %d bytes: must be at least %d, sixteen times max_entry", c.MaxSize, least)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Stdout == nil {
		c.Stdout = os.Stdout
	}
	return nil
}

// openFile opens a log for appending. A named pipe without a reader is an
// error (O_NONBLOCK), not a process that hangs before it has said a word.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o600)
	if err == nil {
		return f, nil
	}
	if dir := filepath.Dir(path); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("opening decision log %q: directory %q does not exist: %w", path, dir, os.ErrNotExist)
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return nil, fmt.Errorf("opening decision log %q: %w", path, err)
}

// Status is what the status page shows of a log.
type Status struct {
	Sink    string `json:"sink"`            // path of the file, "stdout", the URL, several of these with commas, or "" for none
	Queued  int    `json:"queued"`          // entries that wait in memory
	Written uint64 `json:"written"`         // entries written since the start, to the sink that has the fewest
	Dropped uint64 `json:"dropped"`         // entries lost since the start
	Spool   *Spool `json:"spool,omitempty"` // nil: there is none
	Error   string `json:"error,omitempty"` // what a sink says while it refuses to write, else ""

	Sinks []SinkStatus `json:"sinks,omitempty"` // with a spool
}

// Spool is what the status page shows of a spool.
type Spool struct {
	Dir      string    `json:"dir"`
	Bytes    int64     `json:"bytes"`           // on disk
	MaxBytes int64     `json:"max_bytes"`       // that it may have there
	Segments int64     `json:"segments"`        // files
	Unread   uint64    `json:"unread_bytes"`    // of entries that not every sink has yet
	Oldest   time.Time `json:"oldest,omitzero"` // when the oldest of these was; zero: there is none
	Error    string    `json:"error,omitempty"` // why there is no room for more, else ""
}

func (l *Log) queued() int { return len(l.queue) + int(max(0, l.held.Load())) }
