package read

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	"gatehouse/decisionlog/record"
)

const (
	readBuffer = 256 << 10
	maxArrays  = 16 // arrays within each other
	maxResync  = 64 // times that a member of an array is looked for behind damage, in one file
)

// textFile reads JSON lines, and JSON arrays member by member. The two may take turns, as they do in a file of all that OPA sent.
type textFile struct {
	file   string
	in     *bufio.Reader
	closer func()

	line, off int64       // of the next byte; lines from 0
	last      DamageError // where the last event, or damage, began
	arrays    int         // that we are in
	resyncs   int
	buf       []byte // a long line, or a member of an array
	pending   error  // met while looking ahead

	path   *os.File // a file that may be followed; nil: it cannot be
	zipped bool
	live   bool   // more may come: half a line at the end is kept in part
	part   []byte // of a line that has no end yet
	done   bool   // another file is in its place
}

func (t *textFile) close()                 { t.closer() }
func (t *textFile) position() *DamageError { at := t.last; return &at }

// checkFormat refuses a file that does not begin like a log. Damage at its beginning is no reason: then there are lines of JSON behind it.
func (t *textFile) checkFormat() error {
	if _, err := t.in.Peek(1); err != nil {
		t.pending = err
		return nil
	}
	head, _ := t.in.Peek(t.in.Buffered())
	if bytes.HasPrefix(head, []byte("\xef\xbb\xbf")) { // a byte order mark
		t.skip(3)
		head = head[3:]
	}
	body := bytes.TrimLeft(head, " \t\r\n\x00")
	if len(body) == 0 || body[0] == '{' || body[0] == '[' || bytes.Contains(head, []byte("\n{")) {
		return nil
	}
	return fmt.Errorf("reading the decision log %s: %w: found %s; %s", t.file, ErrForeign, foreignFormat(head), expected)
}

// foreignFormat names a format by how it begins.
func foreignFormat(head []byte) string {
	for _, f := range []struct{ magic, name string }{
		{"\x28\xb5\x2f\xfd", "a file compressed by zstd (unzstd -c FILE | gatehouse ... -)"}, {"\xfd7zXZ", "a file compressed by xz (xzcat FILE | gatehouse ... -)"},
		{"BZh", "a file compressed by bzip2 (bzcat FILE | gatehouse ... -)"}, {"PK\x03\x04", "a zip archive"}, {"PAR1", "Parquet"}, {"SQLite format", "an SQLite database"},
		{"\x7fELF", "a program"}, {"\xff\xfe", "UTF-16"}, {"\xfe\xff", "UTF-16"}, {"<", "XML or HTML"}, {"GHPSPOS1", "the position file of a spool"},
	} {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return f.name
		}
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return "a tar archive"
	}
	line, _, _ := bytes.Cut(head, []byte("\n"))
	if line = line[:min(len(line), 40)]; utf8.Valid(line) && bytes.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\t' && r != '\r' }) < 0 {
		return fmt.Sprintf("text that begins with %q", line)
	}
	return fmt.Sprintf("bytes that begin with %q", line)
}

func (t *textFile) next() ([]byte, error) {
	for {
		if err := t.pending; err != nil {
			t.pending = nil
			return nil, t.failed(err)
		}
		if len(t.part) > 0 {
			return t.wholeLine()
		}
		first, err := t.peek()
		if err != nil {
			return nil, t.failed(err)
		}
		t.mark()
		switch {
		case first == '[' && t.arrays < maxArrays:
			t.arrays++
			t.skip(1)
		case first == ']' && t.arrays > 0:
			t.arrays--
			t.skip(1)
		case first == ',' && t.arrays > 0:
			t.skip(1)
		case first == 0:
			return t.skipZeros()
		case t.arrays > 0:
			return t.member(first)
		default:
			return t.wholeLine()
		}
	}
}

// failed ends all that was begun, where reading failed.
func (t *textFile) failed(err error) error {
	if _, ok := errors.AsType[*DamageError](err); ok {
		t.arrays = 0
		return err
	}
	if errors.Is(err, io.EOF) {
		if t.arrays == 0 {
			return io.EOF
		}
		t.arrays = 0
		return t.damage("the JSON array has no end", 0)
	}
	return fmt.Errorf("reading the decision log %s, behind line %d: %w", t.file, t.line, err)
}

// peek passes white space, and returns the byte behind it.
func (t *textFile) peek() (byte, error) {
	for {
		b, err := t.in.Peek(1)
		if err != nil {
			return 0, err
		}
		switch b[0] {
		case '\n':
			t.line++
		case ' ', '\t', '\r':
		default:
			return b[0], nil
		}
		t.skip(1)
	}
}

func (t *textFile) skip(n int) {
	n, _ = t.in.Discard(n)
	t.off += int64(n)
}

// mark notes where what follows begins.
func (t *textFile) mark() { t.last = DamageError{File: t.file, Line: t.line + 1, Offset: t.off} }

// damage tells of what began at the mark.
func (t *textFile) damage(what string, n int64) error {
	d := t.last
	d.What, d.Bytes = what, n
	return &d
}

// skipZeros passes what a file system leaves where it lost something, or a rotation that cut the file under the writer.
func (t *textFile) skipZeros() ([]byte, error) {
	n := int64(0)
	for {
		b, err := t.in.Peek(1)
		if err != nil {
			t.pending = err
		}
		if err != nil || b[0] != 0 {
			return nil, t.damage("zeros", n)
		}
		t.skip(1)
		n++
	}
}

// wholeLine returns a line. One of "{" alone begins an object over several lines.
func (t *textFile) wholeLine() ([]byte, error) {
	line, size, err := t.readLine()
	end := errors.Is(err, io.EOF)
	if len(t.part) > 0 {
		line = append(t.part, line...)
		size, t.part = int64(len(line)), nil
	}
	if end && t.live && size <= record.MaxLine {
		t.part = bytes.Clone(line)
		return nil, io.EOF
	}
	if err != nil && !end {
		t.pending = err
	}
	trimmed := bytes.TrimRight(line, " \t\r\n")
	switch {
	case size > record.MaxLine:
		return nil, t.damage(fmt.Sprintf("a line longer than %d MiB", record.MaxLine>>20), size)
	case len(trimmed) == 1 && trimmed[0] == '{' && !end:
		t.buf = append(t.buf[:0], line...)
		return t.object(1)
	case len(trimmed) > 1 && trimmed[0] == '{' && trimmed[len(trimmed)-1] == '}':
		return trimmed, nil
	case trimmed[0] == '{':
		return nil, t.damage("half a line of JSON", size)
	}
	return nil, t.damage("a line that is no JSON object", size)
}

// readLine returns a line with its end, and how long it is; of one that is too long nothing is kept.
func (t *textFile) readLine() (line []byte, size int64, err error) {
	line, err = t.in.ReadSlice('\n')
	size = int64(len(line))
	if errors.Is(err, bufio.ErrBufferFull) {
		t.buf = append(t.buf[:0], line...)
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = t.in.ReadSlice('\n')
			if size += int64(len(line)); size <= record.MaxLine {
				t.buf = append(t.buf, line...)
			}
		}
		line = t.buf
	}
	if t.off += size; err == nil {
		t.line++
	}
	return line, size, err
}

// member returns a member of an array.
func (t *textFile) member(first byte) ([]byte, error) {
	if first == '{' {
		t.buf = t.buf[:0]
		return t.object(0)
	}
	n := int64(0)
	for first != ',' && first != '{' && first != ']' || n == 0 {
		t.skip(1)
		n++
		var err error
		if first, err = t.peek(); err != nil {
			t.pending = err
			break
		}
	}
	return nil, t.damage("a member of an array that is no JSON object", n)
}

// object reads on until as many objects are closed as were opened, of which buf has the first open ones.
func (t *textFile) object(open int) ([]byte, error) {
	s := scanner{open: open}
	for {
		if _, err := t.in.Peek(1); err != nil {
			t.pending = err
			return t.skipDamaged("half a JSON object")
		}
		chunk, _ := t.in.Peek(t.in.Buffered())
		n, done := s.scan(chunk)
		t.buf = append(t.buf, chunk[:n]...)
		t.line += int64(bytes.Count(chunk[:n], []byte("\n")))
		t.skip(n)
		switch {
		case len(t.buf) > record.MaxLine:
			return t.skipDamaged(fmt.Sprintf("a JSON object larger than %d MiB", record.MaxLine>>20))
		case !done:
		case !json.Valid(t.buf):
			return t.skipDamaged("a JSON object that does not parse")
		case bytes.IndexByte(t.buf, '\n') >= 0:
			return compacted(t.buf), nil
		default:
			return t.buf, nil
		}
	}
}

// scanner counts the braces of JSON outside of strings.
type scanner struct {
	open            int
	quoted, escaped bool
}

// scan returns how far it came, and whether the object ends there.
func (s *scanner) scan(chunk []byte) (n int, done bool) {
	for i, c := range chunk {
		switch {
		case s.escaped:
			s.escaped = false
		case s.quoted:
			s.escaped, s.quoted = c == '\\', c != '"'
		case c == '"':
			s.quoted = true
		case c == '{':
			s.open++
		case c == '}':
			if s.open--; s.open == 0 {
				return i + 1, true
			}
		}
	}
	return len(chunk), false
}

func compacted(object []byte) []byte {
	var b bytes.Buffer
	_ = json.Compact(&b, object) // it is valid
	return b.Bytes()
}

// starts are how an event begins: ours, and that of OPA.
var starts = [][]byte{[]byte(`{"decision_id":`), []byte(`{"labels":`)}

// skipDamaged passes over an object that is none, up to where the next seems to begin.
func (t *textFile) skipDamaged(what string) ([]byte, error) {
	next := -1
	for _, start := range starts {
		if i := bytes.Index(t.buf[1:], start); i >= 0 && (next < 0 || i+1 < next) {
			next = i + 1
		}
	}
	if t.resyncs++; next < 0 || t.resyncs > maxResync {
		if t.pending != nil {
			t.arrays = 0
		}
		return nil, t.damage(what, int64(len(t.buf)))
	}
	rest := bytes.Clone(t.buf[next:])
	err := t.damage(what, int64(next))
	t.off -= int64(len(rest))
	t.line -= int64(bytes.Count(rest, []byte("\n")))
	pending := t.pending
	t.pending = nil
	t.in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(rest), &errorReader{pending}, t.in), readBuffer)
	return nil, err
}

// errorReader fails once, with an error that was met before its time; nil is none.
type errorReader struct{ err error }

func (f *errorReader) Read([]byte) (int, error) {
	err := f.err
	if f.err = nil; err == nil {
		err = io.EOF
	}
	return 0, err
}
