package decisionlog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"go.uber.org/zap"

	"gatehouse/decisionlog/record"
	"gatehouse/decisionlog/remote"
	"gatehouse/decisionlog/spool"
	"gatehouse/panics"
)

const (
	flushBytes    = 64 << 10
	flushAfter    = 100 * time.Millisecond
	gapEvery      = 100 * time.Millisecond // while the queue is not empty
	retryFirst    = 100 * time.Millisecond
	retryMost     = 5 * time.Second
	warnInterval  = time.Minute
	retryMostPost = 30 * time.Second // a server
)

// writer is the far side of the queue or the spool, for one sink. All of it belongs to one goroutine.
type writer struct {
	log   *Log
	sink  *sink
	drain context.Context // its end is the end of all writing
	file  *os.File        // nil where the sink is no file
	info  os.FileInfo     // of file when it was opened
	out   sinkWriter
	far   *remote.Sender // out where it is a server, else nil

	spool       *spool.Spool // nil: the entries come from the queue
	exact       bool         // cur is exactly how far the sink is
	cur         spool.Cursor // behind the last line in buf
	done        spool.Cursor // what the spool knows that we have
	ends        []lineEnd
	entries     uint64              // among the lines in buf
	seen        map[string]struct{} // what an earlier run wrote without having said so
	foreignLine bool                // something among that is no line of ours
	synced      time.Time           // when the sink's file was last synced
	placed      time.Time           // when it was last saved how far it is
	dirty       bool                // it has lines that are not synced
	since       time.Time           // when the first line in buf was put there
	leaving     bool                // this is the end: what cannot be sent stays in the spool

	stall      spool.Cursor // where nothing is that was reserved
	stallSince time.Time
	stallPolls int

	packing record.Packing
	buf     []byte // whole lines
	sent    int    // how much of buf has been written
	size    int64  // of the file, when last looked at
	torn    bool   // the file ends in half a line that is not ours to continue
	isGap   bool   // buf is one gap's line, and no entry's

	retry        time.Duration // wait before the next attempt; 0 while all is well
	lastGap      time.Time
	errorLogged  time.Time // when operators were last told
	lossLogged   time.Time
	unopenedLast error // why the file could not be opened anew, or nil
}

// Run writes entries until ctx ends, then what is left in the queue for at most
// DrainTimeout, syncs and closes the file. It may be called once. It returns
// an error only if entries were left unwritten. A write that never returns (a
// pipe that nobody reads) does not keep Run from ending; its goroutine stays
// until the write does.
func (l *Log) Run(ctx context.Context) error {
	if l == nil || len(l.sinks) == 0 {
		<-ctx.Done()
		return nil
	}
	if l.started.Swap(true) {
		return fmt.Errorf("decision log %q is already running", l.names())
	}
	if l.spool != nil {
		return l.runSpool(ctx)
	}
	drain, cancel := context.WithCancel(context.Background())
	defer cancel()
	stopped := make(chan bool, 1)
	go func() {
		clean := false
		defer func() {
			if p := recover(); p != nil {
				panics.Report("writing the decision log", p)
				l.sinks[0].failing.Store(true)
				l.sinks[0].setError("writing panicked: this is a bug in Gatehouse: please report it with the stack in the log")
			}
			stopped <- clean
		}()
		clean = l.newWriter(l.sinks[0], drain).run(ctx)
	}()
	<-ctx.Done()
	clean, ended := waitStopped(stopped, l.cfg.DrainTimeout)
	if !ended {
		cancel()
		clean, _ = waitStopped(stopped, retryFirst) // a moment to notice, unless it hangs
	}
	return l.end(clean)
}

func (l *Log) newWriter(s *sink, drain context.Context) *writer {
	w := &writer{log: l, sink: s, drain: drain, file: s.file, out: stream{l.cfg.Stdout}, spool: l.spool}
	switch {
	case w.file != nil:
		w.out = stream{w.file}
		w.info, _ = w.file.Stat()
		w.checkTornEnd()
	case s.cfg.File == "":
		w.far = s.remote()
		w.out = w.far
	}
	return w
}

// sinkWriter is where a writer's lines go. It takes lines from the first on, as many bytes as it says.
type sinkWriter interface {
	WriteLines(ctx context.Context, lines []byte) (n int, err error)
}

// stream is a sinkWriter that takes bytes.
type stream struct{ io.Writer }

func (s stream) WriteLines(_ context.Context, lines []byte) (int, error) { return s.Write(lines) }

func waitStopped(stopped <-chan bool, d time.Duration) (clean, ended bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case clean = <-stopped:
		return clean, true
	case <-timer.C:
		return false, false
	}
}

// end closes the log for every Append, and counts what was left behind. After a
// clean end that can only be what came too late.
func (l *Log) end(clean bool) error {
	l.closed.Store(true)
	l.endFiles()
	l.mu.Lock()
	lastErr := l.sinks[0].lastErr
	left := l.discard() + uint64(max(0, l.held.Swap(0)))
	l.mu.Unlock()
	close(l.done)
	if clean {
		l.count(causeClosed, left)
		return nil
	}
	l.count(causeDrain, left)
	if lastErr == "" {
		lastErr = "the sink does not take them"
	}
	return fmt.Errorf("decision log %q: %d entries were not written: %s", l.names(), left, lastErr)
}

// run writes until ctx ends, and then until nothing is left or drain ends. It
// tells whether nothing was left.
func (w *writer) run(ctx context.Context) bool {
	l := w.log
	for ctx.Err() == nil {
		select {
		case e := <-l.queue:
			w.batch(e)
			w.flushBuffer(ctx)
		case <-l.lossy:
			if len(l.queue) == 0 { // else the gap goes behind what was queued before it
				w.flushBuffer(ctx)
			}
		case <-w.sink.wake:
		case <-ctx.Done():
		}
		w.takeNext()
	}
	clean := w.flushQueue()
	l.closed.Store(true) // an entry that is queued before this is seen below
	clean = clean && w.flushQueue()
	w.takeNext()
	if w.file != nil {
		w.sync()
		w.file.Close()
	}
	return clean
}

// flushQueue writes what is in the buffer and in the queue.
func (w *writer) flushQueue() bool {
	for w.flushBuffer(w.drain) && !w.abandoned() {
		if len(w.log.queue) > 0 && w.drain.Err() != nil {
			return false
		}
		select {
		case e := <-w.log.queue:
			w.batch(e)
		default:
			return true
		}
	}
	return false
}

// batch encodes the entry and those that wait behind it, up to what is written
// in one go.
func (w *writer) batch(e *record.Entry) {
	start := time.Now()
	for {
		w.log.packer.Pack(&w.packing, e)
		before := len(w.buf)
		var err error
		if w.buf, err = w.log.lines.AppendSafely(context.Background(), w.buf, spool.Cursor{}, w.packing.Bytes()); err != nil { // we packed it ourselves: it panicked
			w.log.count(causeBroken, 1)
		}
		if len(w.buf) > before {
			w.log.held.Add(1)
		}
		w.log.release(e)
		if len(w.buf) >= flushBytes || time.Since(start) >= flushAfter {
			return
		}
		select {
		case e = <-w.log.queue:
		default:
			return
		}
	}
}

// flushBuffer writes the buffer, and then a gap's line where one is due. It keeps
// trying until ctx ends and tells whether it succeeded. Meanwhile the queue
// fills up, and OnFull says what becomes of further entries.
func (w *writer) flushBuffer(ctx context.Context) bool {
	for {
		err := w.flush()
		if err == nil {
			w.recovered()
			w.commit()
			if !w.addGap() {
				return true
			}
			continue
		}
		if w.drain.Err() != nil {
			return false // the end is no failure of the sink's
		}
		if w.failed(err); w.far != nil && w.leaving {
			return false // it is in the spool for the next start
		}
		timer := time.NewTimer(w.retry)
		select {
		case <-timer.C:
		case <-w.sink.wake:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
		timer.Stop()
		if !w.takeNext() {
			w.reopen()
		}
	}
}

// flush writes what has not been written. A write that fails in the middle of a
// line is continued there by the next one.
func (w *writer) flush() error {
	if len(w.buf) > 0 && w.removed() {
		if w.sent = w.begin(); w.spool != nil {
			w.sent = 0
		}
		return errDeleted
	}
	if w.torn && len(w.buf) > 0 {
		if _, err := w.out.WriteLines(w.drain, []byte("\n")); err != nil {
			return err
		}
		w.torn = false
	}
	for w.sent < len(w.buf) {
		n, err := w.out.WriteLines(w.drain, w.buf[w.sent:])
		w.progress(max(0, min(n, len(w.buf)-w.sent)))
		if w.far != nil && err == nil {
			w.sentSome()
		}
		if err == nil && n <= 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return err
		}
	}
	if len(w.buf) > 0 && w.removed() && w.spool != nil {
		w.sent = 0
		return errDeleted
	}
	w.buf, w.sent, w.isGap = w.buf[:0], 0, false
	return nil
}

// progress counts the lines that are now complete.
func (w *writer) progress(n int) {
	lines := bytes.Count(w.buf[w.sent:w.sent+n], []byte("\n"))
	w.sent += n
	if w.spool != nil {
		return // commit counts
	}
	if !w.isGap && !w.abandoned() { // else they are already counted as lost
		w.log.held.Add(-int64(lines))
		w.sink.written.Add(uint64(lines))
	}
}

// abandoned tells that Run has left without us.
func (w *writer) abandoned() bool {
	select {
	case <-w.log.done:
		return true
	default:
		return false
	}
}

// addGap puts a gap's line into the empty buffer if one is due.
func (w *writer) addGap() bool {
	if w.spool != nil {
		return w.spoolGap()
	}
	now := time.Now()
	if w.abandoned() || len(w.log.queue) > 0 && now.Sub(w.lastGap) < gapEvery {
		return false
	}
	w.log.mu.Lock()
	g := w.log.gap
	w.log.gap = record.Gap{}
	w.log.mu.Unlock()
	if g.Dropped == 0 {
		return false
	}
	w.lastGap = now
	w.buf = w.log.lines.AppendGap(w.buf, g)
	w.isGap = true
	w.logLoss(g)
	return true
}

func (w *writer) logLoss(g record.Gap) {
	if w.mayLog(&w.lossLogged) {
		w.log.cfg.Logger.Warn("decisions were not recorded",
			zap.String("sink", w.sink.cfg.String()), zap.Uint64("dropped", g.Dropped),
			zap.Time("since", g.Since), zap.Time("until", g.Until))
	}
}

// takeNext goes over to the file that Reopen has opened, if there is one.
func (w *writer) takeNext() bool {
	w.log.mu.Lock()
	f := w.sink.next
	w.sink.next = nil
	w.log.mu.Unlock()
	if f == nil {
		return false
	}
	w.use(f)
	return true
}

// reopen is the answer to a write that failed. Where it fails too, the old
// file stays: it may recover, and has not stopped being the log.
func (w *writer) reopen() {
	if w.file == nil {
		return
	}
	f, err := openFile(w.sink.cfg.File)
	w.unopenedLast = err
	if err == nil {
		w.use(f)
	}
}

// use goes over to a file that was opened anew. If it is another file than
// before, a line that was begun there is written here from its beginning.
func (w *writer) use(f *os.File) {
	info, err := f.Stat()
	if err != nil || !os.SameFile(info, w.info) {
		w.sync()
		w.sent = w.begin()
		defer w.changedFile()
		defer w.checkTornEnd()
	}
	w.file.Close()
	w.file, w.out, w.info = f, stream{f}, info
	w.resumeLine()
}

// sync is for what the file system has not yet put on disk. Its error is only
// told: the lines cannot be written again without writing them twice. Pipes and
// devices have nothing to sync.
func (w *writer) sync() {
	if w.info == nil || !w.info.Mode().IsRegular() {
		return
	}
	if err := w.file.Sync(); err != nil && w.mayLog(&w.errorLogged) {
		w.log.cfg.Logger.Error("syncing decision log", zap.String("sink", w.sink.cfg.String()), zap.Error(err))
	}
}

// failed makes the failure visible and lengthens the wait.
func (w *writer) failed(err error) {
	if w.unopenedLast != nil {
		err = w.unopenedLast
	}
	l := w.log
	w.retry = w.pause(err)
	w.sink.failing.Store(true)
	w.sink.errors.Inc()
	w.sink.setError(err.Error())
	if w.mayLog(&w.errorLogged) {
		l.cfg.Logger.Error("writing decision log; will keep trying",
			zap.String("sink", w.sink.cfg.String()), zap.Int("queued", l.queued()),
			zap.Uint64("dropped", l.dropped.Load()), zap.Error(err))
	}
}

// pause is how long to wait after a failure. Servers get longer pauses, and not all of us at once.
func (w *writer) pause(err error) time.Duration {
	if w.far == nil {
		return min(max(2*w.retry, retryFirst), retryMost)
	}
	pause := min(max(2*w.retry, retryFirst), retryMostPost)
	pause -= rand.N(pause / 4)
	return max(pause, remote.RetryAfter(err))
}

func (w *writer) recovered() {
	if w.retry == 0 {
		return
	}
	w.retry, w.unopenedLast = 0, nil
	w.sink.setError("")
	w.sink.failing.Store(false)
	w.log.cfg.Logger.Info("decision log is being written again", zap.String("sink", w.sink.cfg.String()))
}

// mayLog says whether operators may be told of a thing again: once a minute.
func (w *writer) mayLog(last *time.Time) bool {
	now := w.log.cfg.Clock()
	if !last.IsZero() && now.Sub(*last) < warnInterval {
		return false
	}
	*last = now
	return true
}
