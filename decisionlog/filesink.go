package decisionlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// What a file may be when we come to it, or become meanwhile: another log's with half a line at its end, cut off, deleted, full. In each case a
// line of ours begins where a line begins, and is there once.

var errDeleted = errors.New("the file was deleted while it was in use: it is made again")

// regular reports whether the sink is a regular file.
func (w *writer) regular() bool { return w.file != nil && w.info != nil && w.info.Mode().IsRegular() }

// tail reads the last bytes of the sink's file, at most n.
func (w *writer) tail(n int) ([]byte, error) {
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", w.file.Fd())) // that one, whatever it is called by now: ours can only be written to
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(int64(n), info.Size()))
	if _, err = f.ReadAt(b, info.Size()-int64(len(b))); errors.Is(err, io.EOF) {
		err = nil
	}
	return b, err
}

// checkTornEnd finds out whether the file ends in the middle of a line. What we write then begins with a line's end.
func (w *writer) checkTornEnd() {
	if !w.regular() {
		w.torn = false
		return
	}
	last, err := w.tail(1)
	w.torn = err == nil && len(last) == 1 && last[0] != '\n'
}

// begin is how much of the buffer was written before the line that is under way.
func (w *writer) begin() int { return bytes.LastIndexByte(w.buf[:w.sent], '\n') + 1 }

// resumeLine makes sure that the file still ends with the half line that is to be continued. Where somebody cut it off, or added to it, the line is written
// again from its beginning.
func (w *writer) resumeLine() {
	half := w.buf[w.begin():w.sent]
	if len(half) == 0 || !w.regular() {
		return
	}
	if end, err := w.tail(len(half)); err != nil || bytes.Equal(end, half) {
		return
	}
	w.sent -= len(half)
	w.checkTornEnd()
}

// removed reports whether the file has no name any more: what is written to it nobody will read. It also notes that somebody has cut it off.
func (w *writer) removed() bool {
	if !w.regular() {
		return false
	}
	info, err := w.file.Stat()
	if err != nil {
		return false
	}
	if size := info.Size(); size < w.size {
		w.resumeLine()
		if w.sent == w.begin() {
			w.checkTornEnd()
		}
	}
	w.size = info.Size()
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 0
}

// saveEnd takes half a line off the end of the file and saves how far it is, for who writes next.
func (w *writer) saveEnd() {
	if w.abandoned() {
		return
	}
	if half := w.sent - w.begin(); half > 0 && w.regular() {
		if end, err := w.tail(half); err == nil && bytes.Equal(end, w.buf[w.sent-half:w.sent]) {
			if info, err := w.file.Stat(); err == nil {
				_ = w.file.Truncate(info.Size() - int64(half)) // else who comes next ends the line
			}
		}
	}
	w.sync()
	w.changedFile()
	w.sink.reader.Left(w)
}

// sameFile refuses a file that two sinks would write to, by whichever names.
func sameFile(sinks []Sink) error {
	type known struct {
		sink Sink
		path string
		info fs.FileInfo
	}
	var all []known
	for _, s := range sinks {
		if s.File == "" {
			continue
		}
		one := known{sink: s, path: s.File}
		if s.File != "-" {
			if abs, err := filepath.Abs(s.File); err == nil {
				one.path = abs
			}
			if dir, err := filepath.EvalSymlinks(filepath.Dir(one.path)); err == nil {
				one.path = filepath.Join(dir, filepath.Base(one.path))
			}
			if one.info, _ = os.Stat(one.path); one.info != nil && !one.info.Mode().IsRegular() {
				continue // a device or a pipe takes from several
			}
		}
		for _, other := range all {
			if other.path == one.path || other.info != nil && one.info != nil && os.SameFile(other.info, one.info) {
				return fmt.Errorf("decision log: the sinks %q and %q write to the same file, %s: every line would be there twice; give each a file of its own",
					other.sink.Name, one.sink.Name, s.File)
			}
		}
		all = append(all, one)
	}
	return nil
}
