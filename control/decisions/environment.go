package decisions

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"gatehouse/durable"
	"gatehouse/panics"
)

// Environment is the decisions of one environment.
type Environment struct {
	Name   string
	store  *Store
	logger *zap.Logger
	dir    string
	queue  chan *request
	ended  chan struct{} // closed when nothing is written any more
	tails  tails

	// Owned by the writer, or by open before it runs.
	journal *journal
	next    uint64      // number of the next journal
	flushed chan error  // gets the end of the flush that is under way
	orders  chan *order // changes of the chain that others want
	begun   time.Time   // when the table got its first entry

	chaining sync.Mutex // held while the chain is written
	chain    *chain     // guarded by chaining

	mu        sync.RWMutex
	table     *table     // being filled; guarded by mu, as is what follows
	full      *table     // becoming segments; nil: none is
	segments  []*Segment // the newest To first; replaced, never changed
	retention Retention
	holds     []Hold
	lastError string
}

// table is entries that are in no segment yet. Rows are only ever appended.
type table struct {
	rows     []Row
	ids      map[key]struct{}
	bytes    int
	from, to int64
	journal  uint64 // the last that has any of them
}

func newTable() *table { return &table{ids: map[key]struct{}{}} }

func (t *table) add(r Row) {
	if len(t.rows) == 0 {
		t.from, t.to = r.Time, r.Time
	}
	t.rows = append(t.rows, r)
	t.ids[r.key()] = struct{}{}
	t.bytes += r.size()
	t.from, t.to = min(t.from, r.Time), max(t.to, r.Time)
}

func (t *table) has(k key) bool {
	if t == nil {
		return false
	}
	_, ok := t.ids[k]
	return ok
}

// request is a body that an edge sent.
type request struct {
	edge     string
	received int64
	body     []byte
	rows     []Row
	taken    Taken
	done     chan error
}

// open opens an environment: its segments by the chain, what is in none by the journals.
func (s *Store) open(name, dir string) (e *Environment, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	e = &Environment{Name: name, store: s, logger: s.logger, dir: dir, queue: make(chan *request, maxQueue), ended: make(chan struct{}), table: newTable(), orders: make(chan *order)}
	done := uint64(0)
	if e.chain, err = openChain(dir, func(r *Record) { done = max(done, r.Journal); e.apply(r) }); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = e.chain.file.Close() // what is in it is synced
		}
	}()
	if err := e.clean(); err != nil {
		return nil, err
	}
	list, err := journals(dir)
	if err != nil {
		return nil, err
	}
	e.next = done + 1
	for _, n := range list {
		e.next = max(e.next, n+1)
		if n <= done {
			if err := os.Remove(journalPath(dir, n)); err != nil {
				return nil, err
			}
			continue
		}
		if err := e.replay(n); err != nil {
			return nil, fmt.Errorf("%s: %w", journalPath(dir, n), err)
		}
	}
	if e.journal, err = newJournal(dir, e.next); err != nil {
		return nil, err
	}
	e.next++
	s.running.Go(func() {
		defer close(e.ended)
		panics.Loop(s.ctx, "writing decisions", e.run)
		e.end()
	})
	return e, nil
}

// clean removes files that the chain does not name: of a flush that did not get that far, or that the retention ended.
func (e *Environment) clean() error {
	known := map[string]bool{}
	for _, s := range e.segments {
		known[s.File] = true
	}
	names, err := os.ReadDir(e.dir)
	for _, n := range names {
		if strings.HasSuffix(n.Name(), segmentSuffix) && !known[n.Name()] || strings.HasSuffix(n.Name(), temporary) {
			err = errors.Join(err, os.Remove(filepath.Join(e.dir, n.Name())))
		}
	}
	return err
}

// replay puts a journal's entries back into the table, as they were before the process ended.
func (e *Environment) replay(number uint64) error {
	p := parsing{parse: parser{words: newWords()}}
	whole, err := readJournal(journalPath(e.dir, number), func(edge string, received int64, body []byte) error {
		rows, err := p.rows(edge, received, body)
		if err != nil {
			return err
		}
		if e.table.bytes >= 2*e.store.with.Bytes { // the journal counts as one that is still needed, and its entries as known
			e.table.journal = number - 1
			if err := e.flushNow(); err != nil {
				return err
			}
		}
		_, err = e.take(rows, number)
		return err
	})
	info, statErr := os.Stat(journalPath(e.dir, number))
	if errors.Is(err, errDamaged) && statErr == nil { // what is behind the damage is kept for who can read it
		copied := journalPath(e.dir, number) + ".damaged"
		if err := os.Link(journalPath(e.dir, number), copied); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		e.logger.Error("a journal of decisions is damaged: what is before that is taken, and the file is kept", zap.String("environment", e.Name), zap.String("file", copied), zap.Int64("bytes", info.Size()-whole))
	} else if err == nil && statErr == nil && info.Size() > whole {
		e.logger.Warn("the end of a journal of decisions is no whole request: the process ended while it was written, and nobody was told that it was",
			zap.String("environment", e.Name), zap.Uint64("journal", number), zap.Int64("bytes", info.Size()-whole))
	}
	if err := errors.Join(err, statErr); err != nil && !errors.Is(err, errDamaged) {
		return err
	}
	if len(e.table.rows) >= e.store.with.Rows || e.table.bytes >= e.store.with.Bytes {
		return e.flushNow()
	}
	return nil
}

// apply takes a record of the chain in.
func (e *Environment) apply(r *Record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(r.Add) > 0 || len(r.Remove) > 0 {
		next := make([]*Segment, 0, len(e.segments)+len(r.Add))
		for _, s := range e.segments {
			if !slices.Contains(r.Remove, s.File) {
				next = append(next, s)
			}
		}
		for i := range r.Add {
			next = append(next, &r.Add[i])
		}
		slices.SortStableFunc(next, func(a, b *Segment) int { return compare(b.To, a.To) })
		e.segments = next
	}
	if r.Retention != nil {
		e.retention = *r.Retention
	}
	if r.Hold != nil {
		e.holds = append(slices.Clone(e.holds), *r.Hold)
	}
	if r.Release != "" {
		e.holds = slices.DeleteFunc(slices.Clone(e.holds), func(h Hold) bool { return h.Name == r.Release })
	}
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// record appends to the chain, and takes it in.
func (e *Environment) record(r *Record) error {
	e.chaining.Lock()
	defer e.chaining.Unlock()
	r.At, r.Environment = e.store.with.Clock().UTC(), e.Name
	if err := e.chain.add(r, e.store.with.Signer); err != nil {
		return err
	}
	e.apply(r)
	return nil
}

// run writes until ctx ends.
func (e *Environment) run(ctx context.Context) {
	tick := time.NewTicker(min(time.Minute, e.store.with.Age/4+time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-e.queue:
			e.write(r)
			e.turn(ctx, false)
		case o := <-e.orders:
			o.done <- o.do()
		case <-tick.C:
			e.turn(ctx, true)
			e.retain()
		case err := <-e.flushed:
			e.settle(err)
		}
	}
}

// end answers who still waits, and closes files.
func (e *Environment) end() {
	if e.flushed != nil {
		e.settle(<-e.flushed)
	}
	for {
		select {
		case r := <-e.queue:
			r.done <- ErrEnded
		default:
			_ = e.journal.file.Close() // all that was acknowledged is synced
			_ = e.chain.file.Close()
			return
		}
	}
}

// write writes a request, with others that wait, into the journal, syncs it once for all of them, and takes their entries.
func (e *Environment) write(first *request) {
	batch, bytes := []*request{first}, len(first.body)
more:
	for bytes < maxBatch && len(batch) < maxQueue {
		select {
		case r := <-e.queue:
			batch, bytes = append(batch, r), bytes+len(r.body)
		default:
			break more
		}
	}
	defer func() { // whatever happens, who asked is answered: a first answer counts
		for _, r := range batch {
			select {
			case r.done <- ErrBusy:
			default:
			}
		}
	}()
	size, err := e.journal.size, error(nil)
	for _, r := range batch {
		if err = e.journal.add(r); err != nil {
			break
		}
	}
	if err == nil {
		err = e.journal.file.Sync()
	}
	if err != nil {
		e.refuse(batch, size, err)
		return
	}
	for _, r := range batch {
		var err error
		r.taken, err = e.take(r.rows, e.journal.number)
		r.done <- err
	}
}

// refuse answers requests that could not be written. None of them is half there.
func (e *Environment) refuse(batch []*request, size int64, err error) {
	e.say("decisions cannot be written; the edges keep them, and send them again", err)
	if again := e.journal.back(size); again != nil { // its end cannot be told: nothing more goes behind it
		_ = e.journal.file.Close()
		if j, err := newJournal(e.dir, e.next); err == nil {
			e.journal = j
			e.next++
		}
	}
	for _, r := range batch {
		r.done <- fmt.Errorf("%w: %w", ErrFull, err)
	}
}

// say logs an error once, until there is another or none.
func (e *Environment) say(what string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	e.mu.Lock()
	same := e.lastError == text
	e.lastError = text
	e.mu.Unlock()
	if !same && err != nil {
		e.logger.Error(what, zap.String("environment", e.Name), zap.Error(err))
	}
}

// take puts entries into the table that are not known yet.
func (e *Environment) take(rows []Row, journal uint64) (taken Taken, err error) {
	old, err := e.inSegments(rows)
	if err != nil {
		return taken, err
	}
	added := rows[:0:0]
	e.mu.Lock()
	before := e.table.bytes
	if len(e.table.rows) == 0 {
		e.begun = time.Now()
	}
	for i := range rows {
		k := rows[i].key()
		if _, is := old[k]; is || e.table.has(k) || e.full.has(k) {
			taken.Known++
			continue
		}
		e.table.add(rows[i])
		added = append(added, rows[i])
		taken.New++
	}
	e.table.journal = journal
	e.store.memory.Add(int64(e.table.bytes - before))
	e.mu.Unlock()
	e.tails.send(added)
	return taken, nil
}

// turn makes the table one that becomes segments, where it is full or old. Where the one before still does, requests wait for
// a while, and then are refused.
func (e *Environment) turn(ctx context.Context, aged bool) {
	with := &e.store.with
	limit := with.Bytes
	if e.store.memory.Load() > 3*int64(with.Bytes) { // many environments share what there is
		limit /= 8
	}
	n, bytes := len(e.table.rows), e.table.bytes // only this goroutine changes them
	if n == 0 || n < with.Rows && bytes < limit && (!aged || time.Since(e.begun) < with.Age) {
		return
	}
	for e.flushed != nil {
		select {
		case err := <-e.flushed:
			e.settle(err)
			continue
		case <-ctx.Done():
			return
		case <-time.After(waitForDisk):
		}
		for waiting := len(e.queue); waiting > 0; waiting-- { // who waits is told, and comes again
			(<-e.queue).done <- ErrBusy
		}
	}
	j, err := newJournal(e.dir, e.next)
	if err != nil {
		e.say("a new journal of decisions cannot be made", err)
		return
	}
	e.next++
	_ = e.journal.file.Close() // synced
	e.journal = j
	e.mu.Lock()
	e.full, e.table = e.table, newTable()
	e.mu.Unlock()
	e.begin()
}

// begin starts to make segments of the full table.
func (e *Environment) begin() {
	flushed := make(chan error, 1)
	e.flushed = flushed
	go func() {
		err := errors.New("writing segments panicked: this is a bug in Gatehouse: please report it with the stack in the log")
		defer func() { flushed <- err }()
		defer panics.Recover("writing segments of decisions")
		err = e.flush(e.full)
	}()
}

// settle takes in how a flush ended. One that failed begins again after a while.
func (e *Environment) settle(err error) {
	e.flushed = nil
	if err == nil {
		e.say("", nil)
		return
	}
	if e.store.ctx.Err() != nil {
		return
	}
	e.say("decisions cannot be written into a segment: they stay in the journal", err)
	wait, again := time.NewTimer(waitForDisk), make(chan error, 1)
	e.flushed = again
	go func() {
		defer panics.Recover("waiting to write segments")
		defer wait.Stop()
		failed := errors.New("writing segments panicked")
		defer func() { again <- failed }()
		select {
		case <-wait.C:
			failed = e.flush(e.full)
		case <-e.store.ctx.Done():
			failed = ErrEnded
		}
	}()
}

// flushNow is a flush before the writer runs.
func (e *Environment) flushNow() error {
	e.full, e.table = e.table, newTable()
	return e.flush(e.full)
}

// flush makes segments of a table, names them in the chain, and removes the journals that had its entries.
func (e *Environment) flush(t *table) error {
	list, err := e.writeSegments(t)
	if err == nil {
		err = e.record(&Record{Add: list, Journal: t.journal})
	}
	if err != nil {
		for i := range list {
			_ = os.Remove(filepath.Join(e.dir, list[i].File)) // else the next start does
		}
		return err
	}
	e.mu.Lock()
	e.full = nil
	e.store.memory.Add(-int64(t.bytes))
	e.mu.Unlock()
	all, err := journals(e.dir)
	for _, n := range all {
		if n <= t.journal {
			err = errors.Join(err, os.Remove(journalPath(e.dir, n)))
		}
	}
	if err != nil {
		e.logger.Warn("journals whose decisions are in segments cannot be removed: the next start does", zap.String("environment", e.Name), zap.Error(err))
	}
	return nil
}

// order is a change of the chain.
type order struct {
	do   func() error
	done chan error
}

// Waiting is how many entries are in no segment yet.
func (e *Environment) Waiting() (n int) {
	for _, rows := range e.view().tables {
		n += len(rows)
	}
	return n
}

// syncFolder makes the names of new files durable.
func (e *Environment) syncFolder() error { return durable.SyncFolder(e.dir) }
