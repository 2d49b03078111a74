package decisionlog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"gatehouse/decisionlog/events"
	"gatehouse/decisionlog/record"
	"gatehouse/decisionlog/spool"
)

// resume finds what an earlier run wrote to the sink after it had last said how far it was, and tells of segments that could not be read.
// Whoever writes to a file that another sink, or an earlier process, wrote to begins behind what is there.
func (w *writer) resume() {
	w.synced = time.Now()
	lost := w.spool.TakeLost()
	if !w.exact {
		if err := w.readTail(); err != nil {
			w.log.cfg.Logger.Warn("decisions that were written to the decision log before the last end may be written again", zap.String("sink", w.sink.cfg.String()), zap.Error(err))
		}
	}
	spool.CatchFault(w.skip)
	w.seen = nil
	w.sync()
	w.place(w.cur, true) // before anything is written, so that the next start looks for it in the file that it goes to
	for _, d := range lost {
		w.damage(d)
	}
}

// skip passes what the sink has: it is written in order, so everything before the last of it is done with. (Not all of that has a line:
// a policy may not have wanted some.)
func (w *writer) skip() {
	for at := w.cur; len(w.seen) > 0; {
		p, ok := at.Next()
		if !ok {
			return
		}
		_, has := w.seen[keyOf(p)]
		if !has && w.foreignLine {
			return // it may be what is broken
		}
		if has {
			delete(w.seen, keyOf(p))
			w.cur = at
		}
	}
}

// readTail reads the lines beyond the saved place. Half a line at the end is cut off: it is written again, as a whole.
func (w *writer) readTail() error {
	if w.info == nil || !w.info.Mode().IsRegular() {
		return nil
	}
	was, known := w.sink.reader.Saved()
	path, err := w.wasFile(was, known)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := uint64(info.Size())
	if size < was.Size { // the power failed: what the disk has is less than what was written
		w.cur, was = w.sink.reader.Rewind()
		w.done = w.cur
	}
	from := min(was.Size, size)
	if !known || size-from > maxTail {
		from = size - min(size, maxTail)
	}
	whole, err := w.readIDs(f, from, size)
	if err != nil {
		return err
	}
	if whole < size && os.SameFile(info, w.info) && known {
		err = w.file.Truncate(int64(whole))
		w.checkTornEnd()
	}
	return err
}

// wasFile finds the file that was written to: the one that the log has, or one that it was moved to in the same directory.
func (w *writer) wasFile(was spool.File, known bool) (string, error) {
	path := w.sink.cfg.File
	if !known || was.Ino == 0 || was.Same(spool.FileOf(w.info)) {
		return fmt.Sprintf("/proc/self/fd/%d", w.file.Fd()), nil // that one, whatever it is called by now
	}
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	for _, name := range names {
		info, err := name.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if was.Same(spool.FileOf(info)) {
			return filepath.Join(filepath.Dir(path), name.Name()), nil
		}
	}
	return "", errors.New("the file that was written to then is gone")
}

// readIDs notes what the lines between two offsets are of, and returns where the last whole one ends.
func (w *writer) readIDs(f io.ReaderAt, from, size uint64) (whole uint64, err error) {
	w.seen = map[string]struct{}{}
	in := bufio.NewReaderSize(io.NewSectionReader(f, int64(from), int64(size-from)), 64<<10)
	for whole = from; ; {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		if err != nil {
			return whole, fmt.Errorf("reading what was written last: %w", err)
		}
		whole += uint64(len(line))
		id, ok := keyOfLine(line)
		if !ok {
			w.foreignLine = true // or not ours
			continue
		}
		w.seen[id] = struct{}{}
	}
}

// keyOfLine is the key of the piece that a line was made of; "" where it is another's, and false where it is damaged.
func keyOfLine(line []byte) (key string, ok bool) {
	var e events.Event
	if !json.Valid(line) {
		return "", false
	}
	_ = e.Parse(line) // another's has neither id nor gap
	if !e.Gap.Recorded {
		return e.DecisionID.Decode(), true
	}
	since, err := time.Parse(time.RFC3339Nano, e.Gap.Since.Decode())
	until, err2 := time.Parse(time.RFC3339Nano, e.Gap.Until.Decode())
	return gapKey(since, until, e.Gap.Segment.Decode()), err == nil && err2 == nil
}

// readLine reads a line with its end.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line bytes.Buffer
	for {
		part, err := in.ReadSlice('\n')
		if line.Len()+len(part) > record.MaxLine {
			return nil, fmt.Errorf("a line has more than %d bytes", record.MaxLine)
		}
		line.Write(part)
		switch {
		case err == nil:
			return line.Bytes(), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}
