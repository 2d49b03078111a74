package decisionlog

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
)

// ErrForeign says that a file is no decision log. The error that wraps it names what was found and what was expected.
var ErrForeign = errors.New("this is no decision log")

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
// the spool may be in use. It keeps one event in memory, and one segment. A Reader belongs to one goroutine.
type Reader struct {
	stdin io.Reader
	parts []string // files still to be read
	dir   string   // or a spool, "" for none
	one   bool     // one file was named: a foreign one is an error at once

	at     stream  // being read; nil: none
	ahead  *frames // the segment behind it, which has something in it; or nil
	events int64
	other  int64 // lines of JSON that are no events
}

// stream is one file's events.
type stream interface {
	// next returns an event, or io.EOF, or *DamageError and may be called again.
	next() ([]byte, error)
	// where names the event that was returned last.
	where() *DamageError
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
	segments, err := spoolSegments(path, 0)
	if err != nil {
		return nil, fmt.Errorf("reading the decision log: %w", err)
	}
	if _, err := os.Stat(filepath.Join(path, "position")); err == nil || len(segments) > 0 {
		r.dir = path
		return r, nil
	}
	if r.parts, err = logFiles(path); err != nil {
		return nil, fmt.Errorf("reading the decision logs: %w", err)
	}
	if len(r.parts) == 0 {
		return nil, fmt.Errorf("reading the decision logs in %s: %w: there is no file in it, %s", path, ErrForeign, expected)
	}
	return r, nil
}

// Next returns one event as a JSON object without a line's end, which is good until the next call; io.EOF at the end. A gap that the log
// recorded is an event, {"gap":...}. Damage is passed over and told as a *DamageError; reading goes on with the next call. A line is not
// parsed: who does, and fails, gets the error to tell from [Reader.Damaged].
func (r *Reader) Next() ([]byte, error) {
	for {
		if r.at == nil {
			switch err := r.open(); {
			case errors.Is(err, fs.ErrNotExist):
				continue // a segment that is in the log's file by now, or a file that was just rotated
			case err != nil:
				return nil, err
			}
		}
		event, err := r.at.next()
		switch {
		case err == nil && !isEvent(event):
			r.other++
		case errors.Is(err, io.EOF):
			if err := r.leave(); err != nil {
				return nil, err
			}
		default:
			if err == nil {
				r.events++
			}
			return event, err
		}
	}
}

// Damaged says that the event which Next returned last is none: err is why.
func (r *Reader) Damaged(err error) *DamageError {
	d := &DamageError{}
	if r.at != nil {
		d = r.at.where()
	}
	d.What = "no decision: " + err.Error()
	return d
}

// Close lets go of what is open.
func (r *Reader) Close() error {
	if r.at != nil {
		r.at.close()
		r.at = nil
	}
	if r.ahead != nil {
		r.ahead.close()
		r.ahead = nil
	}
	r.parts, r.dir = nil, ""
	return nil
}

// isEvent tells a decision, or a gap, from what else Open Policy Agent prints. It looks at what every line of ours begins with first.
func isEvent(line []byte) bool {
	return bytes.HasPrefix(line, []byte(`{"decision_id"`)) || bytes.Contains(line, []byte(`"decision_id"`)) || bytes.Contains(line, []byte(`"gap"`))
}

// leave closes a file that was read to its end. A segment may have got more since it was read, and is done once the next one has
// something in it.
func (r *Reader) leave() error {
	s, ok := r.at.(*frames)
	if ok && r.dir != "" && !s.checked {
		s.checked = true
		if r.ahead == nil {
			var err error
			if r.ahead, err = r.segmentAfter(s.number); err != nil {
				return err
			}
		}
		return s.refresh()
	}
	r.at.close()
	if r.at = nil; r.ahead != nil {
		r.at, r.ahead = r.ahead, nil
	} else if ok {
		r.dir = "" // nothing more
	}
	return nil
}

// open goes on to the next file; io.EOF where there is none.
func (r *Reader) open() error {
	if r.dir != "" {
		s, err := r.segmentAfter(0)
		if err != nil {
			return err
		}
		if s == nil {
			return io.EOF
		}
		r.at = s
		return nil
	}
	if len(r.parts) == 0 {
		if r.one && r.events == 0 && r.other > 0 {
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
	at, err := openStream(name, in, closer)
	if err != nil {
		closer()
		return err
	}
	r.at = at
	return nil
}

// segmentAfter opens the first segment with a higher number that has anything in it; nil where there is none. One that is gone
// by now was in the log's file first.
func (r *Reader) segmentAfter(number uint64) (*frames, error) {
	list, err := spoolSegments(r.dir, number+1)
	if err != nil {
		return nil, fmt.Errorf("reading the decision log: %w", err)
	}
	for i, path := range list {
		if i == len(list)-1 && noFrame(path) {
			break // it was made ahead of time
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the decision log: %w", err)
		}
		s, err := openFrames(path, f, bufio.NewReader(f), func() { f.Close() })
		if err != nil {
			f.Close()
			return nil, err
		}
		if s.number, _ = segmentNumber(filepath.Base(path)); !s.empty() {
			return s, nil
		}
		s.close()
	}
	return nil, nil
}

// openStream looks at how a file begins.
func openStream(name string, in io.Reader, closer func()) (stream, error) {
	lines := bufio.NewReaderSize(in, readBuffer)
	head, _ := lines.Peek(len(segmentMagic)) // an error comes again
	switch {
	case bytes.Equal(head, []byte(segmentMagic)) || strings.HasSuffix(name, ".seg") || strings.HasSuffix(name, ".seg.damaged"):
		return openFrames(name, in, lines, closer)
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		lines = bufio.NewReaderSize(&unzip{file: name, in: &counter{in: lines}}, readBuffer)
	}
	t := &text{file: name, in: lines, closer: closer}
	return t, t.look()
}

// spoolSegments are the segments of a spool from a number on, oldest first.
func spoolSegments(dir string, from uint64) (list []string, err error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if number, ok := segmentNumber(name.Name()); ok && number >= from {
			list = append(list, filepath.Join(dir, name.Name()))
		}
	}
	return list, nil
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
	s, err := openStream(path, f, func() {})
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
