package format

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

const blockSize = 1 << 20 // lines decoded as one batch

// readLines reads JSON lines.
func readLines(file string, in io.Reader, want kind) reader {
	return func(_ context.Context, emit func(*batch) error) error {
		r := lineReader{file: file, in: in, line: 1}
		for {
			b, err := r.next()
			if err != nil {
				return err
			}
			if b == nil {
				return nil
			}
			b.want = want
			if err := emit(b); err != nil {
				return err
			}
		}
	}
}

// lineReader cuts a stream into blocks of whole lines.
type lineReader struct {
	file string
	in   io.Reader
	line int    // of the next line
	rest []byte // read but not yet used
	end  bool
}

// next is the next block; nil: there is none.
func (r *lineReader) next() (*batch, error) {
	buf := append(make([]byte, 0, max(blockSize, 2*len(r.rest))), r.rest...)
	r.rest = nil
	for {
		var err error
		if buf, err = r.fill(buf); err != nil {
			return nil, err
		}
		switch cut := bytes.LastIndexByte(buf, '\n'); {
		case r.end && len(buf) == 0:
			return nil, nil
		case r.end:
			return r.block(buf), nil
		case cut >= 0:
			r.rest = buf[cut+1:]
			return r.block(buf[:cut+1]), nil
		case len(buf) > maxRecord:
			return r.tooLong(buf)
		}
		buf = append(make([]byte, 0, 2*cap(buf)), buf...)
	}
}

// fill reads until buf is full, or the stream ends.
func (r *lineReader) fill(buf []byte) ([]byte, error) {
	for !r.end && len(buf) < cap(buf) {
		n, err := r.in.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			r.end = true
		} else if err != nil {
			return nil, fmt.Errorf("reading %s: %w", r.file, err)
		}
	}
	return buf, nil
}

func (r *lineReader) block(buf []byte) *batch {
	b := &batch{file: r.file, line: r.line, text: string(buf)}
	r.line += bytes.Count(buf, []byte{'\n'})
	return b
}

// tooLong skips a line without buffering it.
func (r *lineReader) tooLong(buf []byte) (*batch, error) {
	b := &batch{file: r.file, line: r.line, done: decoded()}
	b.addProblem(kindAny, r.line, fmt.Sprintf("a line of more than %d bytes, which is the most that an object or a relation may have; shorten it", maxRecord))
	for {
		var err error
		if buf, err = r.fill(buf[:0]); err != nil {
			return nil, err
		}
		if cut := bytes.IndexByte(buf, '\n'); cut >= 0 {
			r.rest = buf[cut+1:]
			r.line++
			return b, nil
		}
		if r.end {
			return b, nil
		}
	}
}
