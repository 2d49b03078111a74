// Package replay makes a log's decisions again: with another policy, to show what would change (New and Run), and to
// see which routes and rules are used (NewCoverage). It is the library behind gatehouse replay and gatehouse log
// coverage.
//
// It owns the comparison of recorded and new verdicts, the counting of changes, and the archived policies compiled
// for that. Which rule decides and how its result becomes a verdict is the gate's: see [gate.Replayer]. It may import
// gate, decisionlog, policy and bundles. It prints nothing and reads no flags.
package replay

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"gatehouse/decisionlog/read"
)

const batchBytes = 512 << 10 // bytes of events per batch

// Config is what a Replay is made of.
type Config struct {
	Candidate *Candidate
	// Old is the policy to compare with, nil where it is not in the archive. Without it the recorded verdict is used.
	// It must be safe for concurrent use.
	Old     func(*Record) (*Candidate, error)
	Wants   func(*Record) bool // which decisions are replayed; nil: all. Safe for concurrent use
	Enough  func([]byte) bool  // whether an event is the last one wanted; nil: never. Called by one goroutine, for each event in order
	Expect  []Expected
	Partial bool // also where the policy reads what the log does not keep
	Answers bool // compare complete answers
}

// Replay evaluates the decisions of a log with a policy, and reports those that change.
type Replay struct {
	Config
	read  atomic.Int64 // events, for progress
	bytes atomic.Int64
}

// New returns a Replay of one log.
func New(cfg Config) *Replay { return &Replay{Config: cfg} }

// Progress is how many events and bytes have been read.
func (p *Replay) Progress() (events, bytes int64) { return p.read.Load(), p.bytes.Load() }

// batch is a sequence of events.
type batch struct {
	first int64 // the number of the first event
	data  []byte
	ends  []int
}

// Run reads the log to its end, or to the requested number of decisions.
func (p *Replay) Run(ctx context.Context, log *read.Reader) (*Report, error) {
	workers := max(runtime.GOMAXPROCS(0), 1)
	full, free := make(chan *batch, workers), make(chan *batch, 2*workers+2)
	for range cap(free) {
		free <- &batch{}
	}
	total := newReport()
	var mu sync.Mutex // guards total
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var work sync.WaitGroup
	for range workers {
		work.Go(func() { // goroutine: of a command that a panic may end
			w := &worker{Replay: p, Report: newReport(), asked: map[*Candidate]map[string]*asked{}}
			for b := range full {
				if err := w.take(ctx, b); err != nil {
					stop(err)
				}
				free <- b
			}
			mu.Lock()
			defer mu.Unlock()
			total.add(w.Report)
		})
	}
	reading := newReport()
	err := p.feed(ctx, log, reading, full, free)
	close(full)
	work.Wait()
	if failed := context.Cause(ctx); failed != nil {
		return nil, failed
	}
	if err != nil {
		return nil, err
	}
	total.add(reading)
	total.finish()
	return total, nil
}

// feed copies events into batches. Only it reads the log.
func (p *Replay) feed(ctx context.Context, log *read.Reader, t *Report, full chan<- *batch, free <-chan *batch) error {
	var b *batch
	send := func() error {
		if b == nil {
			return nil
		}
		select {
		case full <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
		b = nil
		return nil
	}
	for number := int64(1); ; {
		event, err := log.Next()
		if damage, ok := errors.AsType[*read.DamageError](err); ok {
			t.damaged(damage.Error())
			continue
		}
		if errors.Is(err, io.EOF) {
			return send()
		}
		if err != nil {
			return err
		}
		if b == nil {
			select {
			case b = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
			*b = batch{first: number, data: b.data[:0], ends: b.ends[:0]}
		}
		b.data = append(b.data, event...)
		b.ends = append(b.ends, len(b.data))
		number++
		p.read.Add(1)
		p.bytes.Add(int64(len(event)) + 1)
		if p.Enough != nil && p.Enough(event) {
			return send()
		}
		if len(b.data) >= batchBytes {
			if err := send(); err != nil {
				return err
			}
		}
	}
}
