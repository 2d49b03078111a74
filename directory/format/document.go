package format

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
)

// readDocument reads JSON documents: Topaz's {"objects": [...]} and {"relations": [...]}, both in one, an array of
// these as ds-load writes it, an array of records, or a sequence of any of them. It parses only as deep as needed to
// find the records.
func readDocument(file string, in io.Reader, want kind) reader {
	return func(_ context.Context, emit func(*batch) error) error {
		d := document{file: file, in: bufio.NewReaderSize(in, 1<<16), line: 1, want: want, emit: emit}
		err := d.read()
		var syntax *syntaxError
		if errors.As(err, &syntax) {
			d.addProblem(syntax.at, syntax.what)
			err = nil
		}
		if err != nil {
			return err
		}
		return d.flush()
	}
}

func (e *syntaxError) Error() string { return e.what }

// document finds the records of a document. The position of its syntaxError is a line.
type document struct {
	file    string
	in      *bufio.Reader
	line    int
	want    kind
	emit    func(*batch) error
	buf     []byte
	spans   []span
	values  int // top-level values
	pending []problem
}

func (d *document) addProblem(line int, what string) {
	d.pending = append(d.pending, problem{kindAny, Problem{d.file, line, what}})
}

func (d *document) fail(format string, args ...any) error {
	return &syntaxError{d.line, fmt.Sprintf(format, args...)}
}

func (d *document) flush() error {
	if d.spans != nil {
		b := &batch{file: d.file, want: d.want, text: string(d.buf), spans: d.spans}
		d.buf, d.spans = d.buf[:0], nil
		if err := d.emit(b); err != nil {
			return err
		}
	}
	if d.pending == nil {
		return nil
	}
	b := &batch{file: d.file, want: d.want, problems: d.pending, done: decoded()}
	d.pending = nil
	return d.emit(b)
}

// next is the next byte after white space; io.EOF at the end.
func (d *document) next() (byte, error) {
	for {
		c, err := d.byte()
		if err != nil || !isSpace(c) {
			return c, err
		}
	}
}

func (d *document) byte() (byte, error) {
	c, err := d.in.ReadByte()
	if c == '\n' && err == nil {
		d.line++
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("reading %s: %w", d.file, err)
	}
	return c, err
}

// must is next where the end is an error.
func (d *document) must(want string) (byte, error) {
	c, err := d.next()
	if errors.Is(err, io.EOF) {
		return 0, d.fail("the JSON ends before it is complete (want %s)", want)
	}
	return c, err
}

func (d *document) read() error {
	for ; ; d.values++ {
		c, err := d.next()
		switch {
		case errors.Is(err, io.EOF) && d.values == 0:
			return d.fail("empty: not a JSON document; write {\"objects\": [], \"relations\": []} for a directory without any")
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case c == '{':
			err = d.object()
		case c == '[':
			err = d.array(func(c byte) error {
				if c != '{' {
					return d.fail("not an object, where a record or {\"objects\": [...]} should be")
				}
				return d.object()
			})
		default:
			return d.fail("not valid JSON: %q where an object or an array should be", c)
		}
		if err != nil {
			return err
		}
	}
}

// array reads an array after its opening bracket, and calls element with the first byte of each element.
func (d *document) array(element func(first byte) error) error {
	for n := 0; ; n++ {
		c, err := d.must(`a value or "]"`)
		if err != nil {
			return err
		}
		if c == ']' && n == 0 {
			return nil
		}
		if err := element(c); err != nil {
			return err
		}
		if c, err = d.must(`"," or "]"`); err != nil {
			return err
		}
		if c == ']' {
			return nil
		}
		if c != ',' {
			return d.fail("not valid JSON: %q where \",\" or \"]\" should be", c)
		}
	}
}

// object reads an object after its opening brace: a record, or lists of records. The first name decides.
func (d *document) object() error {
	start, line := len(d.buf), d.line
	d.buf = append(d.buf, '{')
	c, err := d.must("a name")
	if err != nil || c == '}' {
		d.buf = d.buf[:start]
		return err
	}
	d.buf = append(d.buf, c)
	if c != '"' {
		return d.fail("not valid JSON: %q where a name in quotes should be", c)
	}
	name := len(d.buf)
	if err := d.str(start); err != nil {
		return err
	}
	first := string(d.buf[name : len(d.buf)-1])
	if first != "objects" && first != "relations" {
		return d.rest(start, line, d.want, 1)
	}
	d.buf = d.buf[:start]
	return d.lists(first)
}

// lists reads {"objects": [...], "relations": [...]} after the first name.
func (d *document) lists(name string) error {
	seen := map[string]bool{}
	for {
		is := kindObject
		switch {
		case seen[name]:
			return d.fail("%q is there twice in one object; put their lists together", name)
		case name == "relations":
			is = kindRelation
		case name != "objects":
			return d.fail("unknown field %q beside objects and relations; remove it", clip(name))
		}
		seen[name] = true
		if err := d.list(is); err != nil {
			return err
		}
		c, err := d.must(`"," or "}"`)
		if err != nil || c == '}' {
			return err
		}
		if c != ',' {
			return d.fail("not valid JSON: %q where \",\" or \"}\" should be", c)
		}
		if c, err = d.must("a name"); err != nil {
			return err
		}
		if c != '"' {
			return d.fail("not valid JSON: %q where a name in quotes should be", c)
		}
		start := len(d.buf)
		if err := d.str(start); err != nil {
			return err
		}
		name = string(d.buf[start : len(d.buf)-1])
		d.buf = d.buf[:start]
	}
}

func (d *document) list(is kind) error {
	c, err := d.must(`":"`)
	if err != nil {
		return err
	}
	if c != ':' {
		return d.fail("not valid JSON: %q where \":\" should be", c)
	}
	if c, err = d.must("an array"); err != nil {
		return err
	}
	switch {
	case c == 'n': // null: some exporters' empty list
		for _, want := range []byte("ull") {
			if c, err := d.byte(); err != nil || c != want {
				return d.fail("not valid JSON: objects and relations are arrays")
			}
		}
		return nil
	case c != '[':
		return d.fail("objects and relations are arrays; %q is none", c)
	case d.want != kindAny && d.want != is:
		return d.fail("a list of the other kind; objects belong into the file of objects, relations into that of relations")
	}
	return d.array(func(c byte) error {
		if c != '{' {
			return d.fail("not an object, where a record should be")
		}
		start := len(d.buf)
		d.buf = append(d.buf, c)
		return d.rest(start, d.line, is, 1)
	})
}

// rest reads a record to its end and keeps it for the decoders, beginning at this depth.
func (d *document) rest(start, line int, want kind, depth int) error {
	for depth > 0 {
		c, err := d.byte()
		if errors.Is(err, io.EOF) {
			return &syntaxError{line, "the JSON ends before it is complete: this record has no end"}
		}
		if err != nil {
			return err
		}
		if d.buf = append(d.buf, c); len(d.buf)-start > maxRecord {
			return tooLarge(line)
		}
		switch c {
		case '"':
			err = d.str(start)
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if err != nil {
			return err
		}
	}
	d.spans = append(d.spans, span{start, len(d.buf), line, want})
	if len(d.buf) >= blockSize {
		return d.flush()
	}
	return nil
}

func tooLarge(line int) error {
	return &syntaxError{line, fmt.Sprintf("a record of more than %d bytes, which is the most that an object or a relation may have; shorten it", maxRecord)}
}

// str reads a string after its opening quote. start is the start of its record.
func (d *document) str(start int) error {
	line := d.line
	for {
		c, err := d.byte()
		if errors.Is(err, io.EOF) {
			return &syntaxError{line, "the JSON ends before it is complete: this string has no end"}
		}
		if err != nil {
			return err
		}
		if d.buf = append(d.buf, c); len(d.buf)-start > maxRecord {
			return tooLarge(line)
		}
		switch c {
		case '"':
			return nil
		case '\\':
			if c, err = d.byte(); err == nil {
				d.buf = append(d.buf, c)
			}
		}
	}
}
