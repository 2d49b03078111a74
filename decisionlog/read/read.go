// Package read reads decisions back: lines, Open Policy Agent's log, segments and spools, compressed or not, and follows what grows.
// It owns how a log is recognised and what damage is. It imports the log's configuration and its parts, and changes nothing on disk.
package read

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"gatehouse/decisionlog"
	"gatehouse/decisionlog/events"
	"gatehouse/decisionlog/spool"
)

// ErrForeign says that a file is no decision log. The error that wraps it names what was found and what was expected.
var ErrForeign = errors.New("this is not a decision log")

const expected = "expected JSON lines, Open Policy Agent's decision log (lines, or the JSON arrays that it sends), either of them by gzip or not, " +
	"or a segment of a spool"

// DamageError names what could not be read of a log. What comes behind it is read by the next call of [Reader.Next].
type DamageError struct {
	File   string
	Line   int64 // the line that it begins in, from 1; 0 in a segment and in a file of gzip
	Offset int64 // where it begins, in bytes from the beginning of the file, or of what it unpacks to where there is a Line
	Bytes  int64 // how many bytes could not be read, at least
	What   string
}

func (e *DamageError) Error() string {
	where := fmt.Sprintf("%s: offset %d", e.File, e.Offset)
	if e.Line > 0 {
		where = fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	return fmt.Sprintf("%s: %s (%d bytes)", where, e.What, e.Bytes)
}

// Reader reads decisions back: JSON lines, the decision log of Open Policy Agent (what it prints, or the arrays that it sends), either of
// them compressed by gzip or not, a segment of a spool, a spool, or a folder of such files. It changes nothing and takes no lock:
// the log may be in use. It keeps one event in memory, and two segments. A Reader belongs to one goroutine.
type Reader struct {
	stdin io.Reader
	parts []string     // files still to be read
	spool *spoolReader // is read behind them; nil: none
	one   bool         // one file was named: a foreign one is an error at once
	live  bool         // Follow was called
	watch *fsnotify.Watcher

	at     source // being read; nil: none
	events int64
	other  int64    // lines of JSON that are no events
	last   []string // ids of the last events before the spool's; nil where nobody asks
}

// source is one file's events.
type source interface {
	// next returns an event, or io.EOF, or *DamageError and may be called again.
	next() ([]byte, error)
	// where names the event that was returned last.
	position() *DamageError
	close()
}

// OpenReader opens a log. A path of "-" is stdin; a directory is a spool, or a folder of logs, which are read in the order of their
// first timestamps. What is no decision log is [ErrForeign]; in a folder, Next tells so when it comes there.
func OpenReader(path string, stdin io.Reader) (*Reader, error) {
	r := &Reader{stdin: stdin}
	if path == "-" {
		r.parts, r.one = []string{path}, true
		return r, r.open()
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the decision log: %w", err)
	}
	if !info.IsDir() {
		r.parts, r.one = []string{path}, true
		return r, r.open()
	}
	isSpool, err := spool.IsSpool(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the decision log: %w", err)
	case isSpool:
		r.spool, err = openSpoolReader(path, decisionlog.Config{})
		return r, err
	}
	if r.parts, err = logFiles(path); err != nil {
		return nil, fmt.Errorf("reading the decision logs: %w", err)
	}
	if len(r.parts) == 0 {
		return nil, fmt.Errorf("reading the decision logs in %s: %w: there is no file in it; %s", path, ErrForeign, expected)
	}
	return r, nil
}

// OpenLog opens what a [decisionlog.Log] of this configuration has written: the first of its files, and then what only its spool has yet, each event
// once, with what the configuration says of labels, masks and rules. Of these two, one may not be there.
func OpenLog(cfg decisionlog.Config) (*Reader, error) {
	r := &Reader{one: true}
	for _, sink := range append([]decisionlog.Sink{{File: cfg.File}}, cfg.Sinks...) {
		if sink.File != "" && sink.File != "-" {
			r.parts = []string{sink.File}
			break
		}
	}
	if isSpool, err := spool.IsSpool(cfg.Dir); err == nil && isSpool {
		if r.spool, err = openSpoolReader(cfg.Dir, cfg); err != nil {
			return nil, err
		}
	}
	if len(r.parts) == 0 {
		if r.spool == nil {
			return nil, errors.New("reading the decision log: there is neither a file nor a spool")
		}
		return r, nil
	}
	r.last = []string{}
	err := r.open()
	if errors.Is(err, fs.ErrNotExist) && r.spool != nil {
		return r, nil
	}
	return r, err
}

// Next returns one event as a JSON object without a line's end, which is good until the next call; io.EOF at the end. A gap that the log
// recorded is an event, {"gap":...}. Damage is passed over and told as a *DamageError; reading goes on with the next call. A line is not
// parsed: who does, and fails, gets the error to tell from [Reader.Damaged].
func (r *Reader) Next() ([]byte, error) {
	for {
		if r.at == nil {
			switch err := r.open(); {
			case errors.Is(err, fs.ErrNotExist):
				continue // a file that was just rotated
			case err != nil:
				return nil, err
			}
		}
		event, err := r.at.next()
		switch {
		case err == nil && isEvent(event):
			r.events++
			r.note(event)
			return event, nil
		case err == nil:
			r.other++
		case !errors.Is(err, io.EOF):
			return nil, err
		default:
			if more, err := r.nextFile(); !more {
				return nil, err
			}
		}
	}
}

// Damaged says that the event which Next returned last is none: err is why.
func (r *Reader) Damaged(err error) *DamageError {
	d := &DamageError{}
	if r.at != nil {
		d = r.at.position()
	}
	d.What = "no decision: " + err.Error()
	return d
}

// Close lets go of what is open.
func (r *Reader) Close() error {
	if r.at != nil {
		r.at.close()
	}
	if r.spool != nil {
		r.spool.close()
	}
	if r.watch != nil {
		r.watch.Close()
	}
	r.at, r.parts, r.spool = nil, nil, nil
	return nil
}

// isEvent tells a decision, or a gap, from what else Open Policy Agent prints. It looks at what every line of ours begins with first.
func isEvent(line []byte) bool {
	return bytes.HasPrefix(line, []byte(`{"decision_id"`)) || bytes.Contains(line, []byte(`"decision_id"`)) || bytes.Contains(line, []byte(`"gap"`))
}

// note remembers the ids of the last events, by which the place in the spool is found where its file ends.
func (r *Reader) note(event []byte) {
	if r.last == nil || r.at == r.spool {
		return
	}
	if len(r.last) == maxLast {
		r.last = append(r.last[:0], r.last[maxLast/2:]...)
	}
	r.last = append(r.last, idOf(event))
}

const maxLast = 128

// idOf is the decision_id of an event; "" where it has none.
func idOf(event []byte) string {
	if rest, ours := bytes.CutPrefix(event, []byte(`{"decision_id":"`)); ours {
		if id, _, whole := bytes.Cut(rest, []byte(`"`)); whole && bytes.IndexByte(id, '\\') < 0 {
			return string(id)
		}
	}
	var e events.Event
	_ = e.Parse(event) // damaged: it has none
	return e.DecisionID.Decode()
}

// nextFile goes on from the end of a file, and reports whether there is anything to go on to. Before the spool is read, what it has is held
// and the file is read to its end once more: what the spool loses meanwhile is in the file.
func (r *Reader) nextFile() (more bool, err error) {
	switch {
	case r.at == r.spool:
		return false, io.EOF
	case len(r.parts) == 0 && r.spool != nil && r.last != nil && !r.spool.dir.Holding():
		return true, r.spool.dir.HoldAll()
	case len(r.parts) == 0 && r.spool != nil:
		if err := r.spool.skip(r.last); err != nil {
			return false, err
		}
	case len(r.parts) == 0 && r.live:
		return r.rotated()
	}
	r.at.close()
	r.at = nil
	return true, nil
}

// open goes on to the next file; io.EOF where there is none.
func (r *Reader) open() error {
	if len(r.parts) == 0 {
		switch {
		case r.spool != nil:
			r.at = r.spool
			return nil
		case r.one && r.events == 0 && r.other > 0:
			other := r.other
			r.other = 0
			return fmt.Errorf("%w: %d lines of JSON and none with a decision_id; %s", ErrForeign, other, expected)
		}
		return io.EOF
	}
	path := r.parts[0]
	r.parts = r.parts[1:]
	in, name, closer := r.stdin, "standard input", func() {}
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("reading the decision log: %w", err)
		}
		in, name, closer = f, path, func() { f.Close() }
	}
	at, err := openSource(name, in, closer)
	if err != nil {
		closer()
		return err
	}
	if t, ok := at.(*textFile); ok && !t.zipped {
		t.path, _ = in.(*os.File)
	}
	r.at = at
	return nil
}

// openSource looks at how a file begins.
func openSource(name string, in io.Reader, closer func()) (source, error) {
	lines := bufio.NewReaderSize(in, readBuffer)
	head, _ := lines.Peek(spool.HeadSize) // an error comes again
	switch {
	case spool.IsSegment(head) || strings.HasSuffix(name, ".seg") || strings.HasSuffix(name, ".seg.damaged"):
		return openSegment(name, in, lines, closer)
	case bytes.HasPrefix(head, gzipStart[:2]):
		lines = bufio.NewReaderSize(&unzip{file: name, in: &counter{in: lines}}, readBuffer)
	}
	t := &textFile{file: name, in: lines, closer: closer, zipped: bytes.HasPrefix(head, gzipStart[:2])}
	return t, t.checkFormat()
}

// logFiles are the files of a folder in the order of what they record.
func logFiles(dir string) (list []string, err error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	first := map[string]time.Time{}
	for _, name := range names {
		info, err := name.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() == 0 || strings.HasPrefix(name.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, name.Name())
		first[path] = cmp.Or(firstTime(path), info.ModTime())
		list = append(list, path)
	}
	slices.SortStableFunc(list, func(a, b string) int { return first[a].Compare(first[b]) })
	return list, nil
}

var timestamp = regexp.MustCompile(`"timestamp"\s*:\s*"([^"]{20,40})"`)

// firstTime is the time of the first event that a file begins with; the zero time where it cannot be told.
func firstTime(path string) (at time.Time) {
	f, err := os.Open(path)
	if err != nil {
		return at
	}
	defer f.Close()
	s, err := openSource(path, f, func() {})
	if err != nil {
		return at
	}
	for range 100 {
		event, err := s.next()
		if _, damaged := errors.AsType[*DamageError](err); err != nil && !damaged {
			return at
		}
		if found := timestamp.FindSubmatch(event); found != nil {
			at, _ = time.Parse(time.RFC3339Nano, string(found[1]))
			return at
		}
	}
	return at
}
