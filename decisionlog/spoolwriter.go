package decisionlog

import (
	"context"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"gatehouse/decisionlog/record"
	"gatehouse/decisionlog/spool"
	"gatehouse/panics"
)

const (
	batchPoll        = 50 * time.Millisecond // between looks into the spool while a request fills
	pollInterval     = 5 * time.Millisecond  // between looks into the spool, so that requests do not have to wake the writer each time
	maxTail          = 64 << 20              // of the sink's file is looked at for what an earlier run wrote last
	stallAfter       = 5 * time.Second       // and so many looks: then what was reserved and is not there never comes
	stallPolls       = 100
	positionInterval = 100 * time.Millisecond // how far a file is, is saved no more often
)

// lineEnd is where a line ends in the buffer, and what in the spool it is the line of.
type lineEnd struct {
	buf int
	cur spool.Cursor
}

// runSpool is Run with a spool. What is not written when it ends stays in the spool, for the next start.
func (l *Log) runSpool(ctx context.Context) error {
	defer close(l.done)
	if !l.takeOver(ctx) {
		l.closed.Store(true)
		l.endFiles()
		l.closeSinks()
		return nil
	}
	sp := l.spool
	keeping, stopKeeper := context.WithCancel(context.Background())
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		panics.Loop(keeping, "keeping the decision log's spool", sp.Run)
	}()
	drain, cancel := context.WithCancel(context.Background())
	defer cancel()
	stopped := l.startWriters(ctx, drain)
	<-ctx.Done()
	l.last = sp.Release()
	stopKeeper()
	<-kept
	close(l.released)
	clean, ended := waitStopped(stopped, l.cfg.DrainTimeout)
	if !ended {
		cancel()
		clean, ended = waitStopped(stopped, 10*retryFirst)
	}
	l.closed.Store(l.last) // a request that comes late may still use a spool that another log has
	l.endFiles()
	if l.last && !clean {
		l.cfg.Logger.Warn("decisions wait in the spool for the next start", zap.String("sink", l.names()), zap.String("dir", l.cfg.Dir))
	}
	if l.last {
		l.endSpool(ended)
	}
	return nil
}

// takeOver waits for the log before us, and makes our sinks those that hold segments. It returns false where we end before our turn.
func (l *Log) takeOver(ctx context.Context) bool {
	if l.after != nil {
		select {
		case <-l.after.done:
		case <-ctx.Done():
			if !l.spool.Release() {
				return false
			}
			<-l.after.done // its Run is about to return, and we are the last
			l.spool.Reacquire()
		}
		l.after = nil
	}
	var readers []*spool.Reader
	for _, s := range l.sinks {
		readers = append(readers, s.reader)
	}
	l.spool.Acquire(readers)
	return true
}

// startWriters starts a writer for each sink. The channel tells whether all of them left nothing, once they have ended.
func (l *Log) startWriters(ctx, drain context.Context) (stopped <-chan bool) {
	each, all := make(chan bool, len(l.sinks)), make(chan bool, 1)
	for _, s := range l.sinks {
		go func() { each <- l.runWriter(ctx, drain, s) }() // goroutine: runWriter recovers
	}
	go func() {
		defer panics.Recover("waiting for the decision log's sinks")
		clean := true
		for range l.sinks {
			clean = <-each && clean
		}
		all <- clean
	}()
	return all
}

// runWriter writes to one sink. A writer that panicked is followed by another one, which goes on from the place that was saved last.
func (l *Log) runWriter(ctx, drain context.Context, s *sink) bool {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		w := l.newWriter(s, drain)
		w.cur, w.exact = s.reader.Claim(w)
		w.done = w.cur
		clean, panicked := w.runSafely(ctx)
		if !panicked {
			return clean
		}
		s.failing.Store(true)
		s.setError("writing panicked, and begins again: this is a bug in Gatehouse: please report it with the stack in the log")
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-drain.Done():
		}
		timer.Stop()
		if s.file != nil {
			var err error
			if s.file, err = openFile(s.cfg.File); err != nil {
				s.setError(err.Error())
				return false
			}
		}
		if drain.Err() != nil {
			s.close()
			return false
		}
	}
}

func (w *writer) runSafely(ctx context.Context) (clean, panicked bool) {
	defer func() {
		if p := recover(); p != nil {
			panics.Report("writing the decision log", p)
			panicked = true
		}
	}()
	return w.runSpool(ctx), false
}

// endSpool gives the spool back, which nobody else uses. ended says that nobody reads it either.
func (l *Log) endSpool(ended bool) {
	if ended {
		l.spool.Seal()
		if l.spool.AwaitWrites(l.cfg.DrainTimeout) {
			l.spool.Close()
			return
		}
	}
	l.spool.Abandon()
}

// endFiles lets go of files that Reopen has opened and nobody took.
func (l *Log) endFiles() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for _, s := range l.sinks {
		if s.next != nil {
			s.next.Close()
			s.next = nil
		}
	}
}

// runSpool writes until ctx ends, and then, if nobody else does, until nothing is left or drain ends. It tells whether nothing was left.
func (w *writer) runSpool(ctx context.Context) bool {
	debug.SetPanicOnFault(true) // this goroutine reads mappings: see spool.Guarded
	drain := w.drain
	defer func() {
		w.takeNext()
		if w.file != nil && !w.abandoned() {
			w.sync()
			w.file.Close()
		}
		if w.far != nil {
			w.far.Close()
		}
	}()
	w.resume()
	for ctx.Err() == nil {
		if w.step(ctx) {
			continue
		}
		w.sleep(ctx)
	}
	w.leaving = true
	if <-w.log.released; !w.log.last {
		clean := w.flushBuffer(drain)
		w.saveEnd()
		return clean
	}
	for w.step(drain) {
	}
	w.log.closed.Store(true)
	w.spool.Seal()
	for { // what was reserved before is written in no time
		for w.step(drain) {
		}
		switch {
		case drain.Err() != nil || w.abandoned() || len(w.buf) > 0:
			return false
		case w.cur.AtEnd():
			return w.finish()
		}
		w.stalled()
		time.Sleep(pollInterval)
	}
}

// finish writes the last gap, for which the spool has no room any more.
func (w *writer) finish() bool {
	if g := w.log.finalGap(); g.Dropped > 0 {
		w.gapLine(g)
		if !w.flushBuffer(w.drain) {
			return false
		}
	}
	w.sink.reader.SetOldest(time.Time{})
	w.done = spool.Cursor{} // so that the last place is durable
	w.commit()
	return true
}

// step writes what there is, at most a buffer full, and reports whether there was anything.
func (w *writer) step(ctx context.Context) bool {
	w.takeNext()
	if w.abandoned() || ctx.Err() != nil {
		return false
	}
	w.spoolGap()
	if w.far != nil && !w.leaving && w.sent == 0 {
		return w.fillBatch(ctx)
	}
	if len(w.buf) == 0 && !w.fill(ctx) && len(w.buf) == 0 {
		return false
	}
	return w.flushBuffer(ctx)
}

// fillBatch is step for a server: it waits for a while so that a request is worth its cost.
func (w *writer) fillBatch(ctx context.Context) bool {
	empty := len(w.buf) == 0
	moved := w.fill(ctx)
	if len(w.buf) == 0 {
		return moved && w.flushBuffer(ctx)
	}
	if empty {
		w.since = time.Now()
	}
	left := w.far.Delay() - time.Since(w.since)
	if len(w.buf) >= w.far.Room() || left <= 0 {
		return w.flushBuffer(ctx)
	}
	timer := time.NewTimer(min(left, batchPoll))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return true
}

// most is how much is read before it is written.
func (w *writer) most() int {
	if w.far != nil {
		return w.far.Room()
	}
	return flushBytes
}

// sleep waits until there is something to do. A moment passes first: at any load worth the name there is then more to write, and no request
// has to wake us.
func (w *writer) sleep(ctx context.Context) {
	pause := time.NewTimer(pollInterval)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
		return
	}
	if w.stalled() {
		return
	}
	w.spool.RequestWake() // and whoever appends wakes all that may have said so
	peek := w.cur
	more := true
	spool.CatchFault(func() { _, more = peek.Next() })
	if more || !peek.SameSegment(w.cur) {
		return
	}
	if w.dirty {
		pause.Reset(max(pollInterval, time.Until(w.synced.Add(w.log.cfg.Sync))))
	} else {
		w.sink.reader.SetOldest(time.Time{})
		pause.Stop()
	}
	select {
	case <-w.sink.reader.Wake():
	case <-w.log.lossy:
	case <-w.sink.wake:
	case <-pause.C:
		w.commit()
	case <-ctx.Done():
	}
}

// stalled reports whether something was reserved where the writer is and is not there yet, and gives it up in the end: that takes a
// request microseconds, unless somebody has put another file's bytes under the mapping.
func (w *writer) stalled() bool {
	if !w.cur.Pending() {
		return false
	}
	if !w.stall.Same(w.cur) {
		w.stall, w.stallSince, w.stallPolls = w.cur, time.Now(), 0
	}
	looks, after := stallPolls, stallAfter
	if w.cur.Lost() {
		looks, after = stallPolls/10, stallAfter/20
	}
	if w.stallPolls++; w.stallPolls > looks && time.Since(w.stallSince) > after {
		w.spool.AbandonReserved(w.cur)
	}
	return true
}

// fill turns frames into lines, and reports whether it came any further.
func (w *writer) fill(ctx context.Context) (moved bool) {
	start, from := time.Now(), w.cur
	defer func() {
		p := recover()
		switch {
		case p == nil:
		case spool.IsFault(p):
			if d := w.spool.SkipTruncated(&w.cur, w.log.cfg.Clock()); d.Bytes > 0 {
				w.damage(d)
			}
			moved = true
		default:
			panic(p)
		}
	}()
	for most := w.most(); len(w.buf) < most && time.Since(start) < flushAfter; {
		at := w.cur
		p, ok := w.cur.Next()
		if !ok {
			break
		}
		switch {
		case p.Record == nil:
			w.damage(p.Damage)
		case p.Kind == record.KindGap:
			g, err := record.UnpackGap(p.Record)
			if err != nil {
				g = record.GapOf(w.cur.Damage(uint64(len(p.Record))))
			}
			w.gapLine(g)
		default:
			if !w.entryLine(ctx, p.Record) {
				w.cur = at
				return false
			}
		}
	}
	return !w.cur.Same(from)
}

// entryLine adds an entry's line. It returns false where ctx ended before it was known.
func (w *writer) entryLine(ctx context.Context, packed []byte) bool {
	if len(w.buf) == 0 { // else there is an older one before it
		if t, ok := record.Time(record.KindEntry, packed); ok && t.Unix() > 0 {
			w.sink.reader.SetOldest(t)
		}
	}
	before := len(w.buf)
	var err error
	w.buf, err = w.log.lines.AppendSafely(ctx, w.buf, w.cur, packed)
	switch {
	case err != nil && ctx.Err() != nil:
		return false
	case err != nil:
		w.gapLine(record.GapOf(w.cur.Damage(uint64(len(packed))))) // a later version's
	case len(w.buf) > before:
		w.entries++
		w.ends = append(w.ends, lineEnd{len(w.buf), w.cur})
	}
	return true
}

// damage records what could not be read of a segment.
func (w *writer) damage(d spool.Damage) {
	w.log.cfg.Logger.Error("a segment of the decision log's spool has a gap", zap.String("segment", d.Segment),
		zap.Uint64("bytes", d.Bytes), zap.Uint64("unfinished", d.Unfinished), zap.Time("since", d.Since), zap.Time("until", d.Until))
	w.sink.damaged.Add(float64(d.Bytes))
	w.gapLine(record.GapOf(d))
}

// gapLine adds a gap's line.
func (w *writer) gapLine(g record.Gap) {
	w.buf = w.log.lines.AppendGap(w.buf, g)
	w.ends = append(w.ends, lineEnd{len(w.buf), w.cur})
}

// keyOf is by what a piece's line is recognised.
func keyOf(p spool.Piece) string {
	switch {
	case p.Record == nil:
		return gapKey(p.Damage.Since, p.Damage.Until, p.Damage.Segment)
	case p.Kind == record.KindGap:
		g, _ := record.UnpackGap(p.Record)
		return gapKey(g.Since, g.Until, g.Segment)
	}
	return record.ID(p.Record)
}

func gapKey(since, until time.Time, segment string) string {
	return "gap " + record.Stamp(since) + " " + record.Stamp(until) + " " + segment
}

// commit tells the spool what the sink has: all lines are written. Before a segment goes, and each Sync, the sink's file is synced.
func (w *writer) commit() {
	if w.spool == nil || w.abandoned() {
		return
	}
	w.dirty = w.dirty || len(w.ends) > 0
	w.sink.written.Add(w.entries)
	w.entries, w.ends = 0, w.ends[:0]
	durable := !w.cur.SameSegment(w.done) || w.dirty && time.Since(w.synced) >= w.log.cfg.Sync
	if !durable && w.cur.Offset() == w.done.Offset() {
		return
	}
	if durable {
		w.sync()
		w.synced, w.dirty = time.Now(), false
	}
	w.place(w.cur, durable)
}

// sentSome saves how far a server is within the buffer.
func (w *writer) sentSome() {
	at := w.done
	for _, end := range w.ends {
		if end.buf <= w.sent {
			at = end.cur
		}
	}
	if w.sent < len(w.buf) && !w.abandoned() {
		w.place(at, false)
	}
}

// place saves how far the sink is. For a file that need not be each time: the next start looks into it for what was written since.
func (w *writer) place(at spool.Cursor, durable bool) {
	w.done = at
	if regular := w.info != nil && w.info.Mode().IsRegular(); regular && !durable && time.Since(w.placed) < positionInterval {
		w.sink.reader.Advance(w, at)
		return
	}
	w.placed = time.Now()
	if err := w.sink.reader.Commit(w, at, w.sinkFile(), durable); err != nil && w.mayLog(&w.errorLogged) {
		w.log.cfg.Logger.Error("the decision log's spool", zap.String("dir", w.log.cfg.Dir), zap.Error(err))
	}
}

// sinkFile says which file the sink is, and how long.
func (w *writer) sinkFile() spool.File {
	if w.file == nil {
		return spool.File{}
	}
	info, err := w.file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return spool.File{}
	}
	return spool.FileOf(info)
}

// changedFile saves that the lines written so far are in another file than those that follow.
func (w *writer) changedFile() {
	if w.spool == nil || w.abandoned() {
		return
	}
	at := w.done
	for _, end := range w.ends {
		if end.buf <= w.sent {
			at = end.cur
		}
	}
	w.place(at, true)
}

// finalGap is what was lost that the spool has no room for any more: the same for every sink.
func (l *Log) finalGap() record.Gap {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.final == nil {
		g := l.gap
		l.final, l.gap = &g, record.Gap{}
	}
	return *l.final
}

func (w *writer) takeGap() record.Gap {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	g := w.log.gap
	w.log.gap = record.Gap{}
	return g
}

// spoolGap puts what was lost into the spool, behind what was appended before. Where there is no room it is kept. It never adds to
// the buffer.
func (w *writer) spoolGap() bool {
	g := w.takeGap()
	if g.Dropped == 0 || w.abandoned() {
		return false
	}
	if w.packing.PackGap(g); w.spool.Append(record.KindGap, w.packing.Bytes()) {
		w.logLoss(g)
		return false
	}
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	if now := w.log.gap; now.Dropped > 0 {
		g.Dropped, g.Until = g.Dropped+now.Dropped, now.Until
	}
	w.log.gap = g
	return false
}
