package spool

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// DirReader reads a spool from its folder, which may be in use: segments go when the log's file has them, and others come.
type DirReader struct {
	dir       string
	time      TimeFunc
	held      []heldSegment // opened before they could go; nil: none
	at, ahead *Copy         // being read, and the one behind it that has something in it; nil: none

	Live bool // what is gone before it was read is told
}

// heldSegment is a segment's file. It can be read when its name is gone.
type heldSegment struct {
	number uint64
	path   string
	file   *os.File // nil: it is opened when it is read
}

// OpenDir reads the spool of a folder from its beginning. It changes nothing and takes no lock.
func OpenDir(dir string, time TimeFunc) *DirReader { return &DirReader{dir: dir, time: time} }

// Close lets go of what is open.
func (s *DirReader) Close() {
	for _, f := range []*Copy{s.at, s.ahead} {
		if f != nil {
			f.Close()
		}
	}
	for _, h := range s.held {
		h.file.Close()
	}
	s.at, s.ahead, s.held = nil, nil, nil
}

// Where names the piece that was returned last.
func (s *DirReader) Where() *DamageError {
	if s.at == nil {
		return &DamageError{File: s.dir}
	}
	return s.at.Where()
}

// Next is that of [Copy], over all segments.
func (s *DirReader) Next() (_ Piece, err error) {
	for {
		if s.at == nil {
			if s.at, err = s.after(0); err != nil {
				return Piece{}, err
			}
			if s.at == nil {
				return Piece{}, io.EOF
			}
		}
		piece, err := s.at.Next()
		if !errors.Is(err, io.EOF) {
			return piece, err
		}
		if err := s.nextSegment(); err != nil {
			return Piece{}, err
		}
	}
}

// nextSegment goes on from the end of a segment. It may have got more since it was read, and is done once the next one has something in it.
func (s *DirReader) nextSegment() (err error) {
	if !s.at.checked {
		s.at.checked = true
		if s.ahead == nil {
			if s.ahead, err = s.after(s.at.number); err != nil {
				return err
			}
		}
		return s.at.refresh()
	}
	s.at.checked = false
	if s.ahead == nil {
		return io.EOF
	}
	was := s.at.number
	s.at.Close()
	s.at, s.ahead = s.ahead, nil
	if s.Live && s.held == nil && s.at.number > was+1 {
		return &DamageError{File: s.dir, What: fmt.Sprintf("segments %x to %x are gone already: what was in them is in the log's file", was+1, s.at.number-1)}
	}
	return nil
}

// after opens the first segment with a higher number that has anything in it; nil where there is none. One that is gone by now was in
// the log's file first.
func (s *DirReader) after(number uint64) (*Copy, error) {
	list := s.held
	if list == nil {
		var err error
		if list, err = segmentFiles(s.dir); err != nil {
			return nil, fmt.Errorf("reading the decision log: %w", err)
		}
	}
	for i, h := range list {
		if h.number <= number {
			continue
		}
		f, err := s.open(h, i == len(list)-1)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("reading the decision log: %w", err)
		case !f.empty():
			return f, nil
		default:
			f.Close()
		}
	}
	return nil, nil
}

// open reads a segment into memory; of the last one only the beginning where that is empty: it was made ahead of time.
func (s *DirReader) open(h heldSegment, last bool) (*Copy, error) {
	file, closer := h.file, func() {}
	if file == nil {
		f, err := os.Open(h.path)
		if err != nil {
			return nil, err
		}
		file, closer = f, func() { f.Close() }
	}
	size := int64(maxSegmentRead)
	if begin := make([]byte, 4096); last {
		n, _ := file.ReadAt(begin, 0)
		if n == len(begin) && len(bytes.TrimLeft(begin[segmentHeader:], "\x00")) == 0 {
			size = segmentHeader
		}
	}
	f, err := OpenCopy(h.path, file, bufio.NewReader(io.NewSectionReader(file, 0, size)), closer, s.time)
	if err != nil {
		closer()
		return nil, err
	}
	if f.number = h.number; size == segmentHeader {
		f.missing = false
	}
	return f, nil
}

// HoldAll opens all that is there, so that it can be read when it is in the log's file and gone.
func (s *DirReader) HoldAll() error {
	list, err := segmentFiles(s.dir)
	if err != nil {
		return fmt.Errorf("reading the decision log: %w", err)
	}
	s.held = []heldSegment{}
	for _, h := range list {
		if h.file, err = os.Open(h.path); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return fmt.Errorf("reading the decision log: %w", err)
		}
		s.held = append(s.held, h)
	}
	return nil
}

// Holding reports whether Hold was called, and Settle was not since.
func (s *DirReader) Holding() bool { return s.held != nil }

// ReleaseHeld lets go of what was held, but for what is being read.
func (s *DirReader) ReleaseHeld() {
	for _, h := range s.held {
		switch {
		case s.at != nil && s.at.number == h.number:
			s.at.closer = func() { h.file.Close() }
		case s.ahead != nil && s.ahead.number == h.number:
			s.ahead.closer = func() { h.file.Close() }
		default:
			h.file.Close()
		}
	}
	s.held = nil
}

// Skip passes what is up to the last of the records that somebody has.
func (s *DirReader) Skip(has func(kind Kind, record []byte) bool) error {
	number, off := uint64(0), uint64(0)
	for at := uint64(0); ; {
		f, err := s.after(at)
		if err != nil {
			return err
		}
		if f == nil {
			break
		}
		at = f.number
		c := Cursor{s: &f.segment, off: segmentHeader}
		f.segment.end.Store(f.bytes)
		f.old = true
		for p, ok := c.Next(); ok; p, ok = c.Next() {
			if p.Record != nil && has(p.Kind, p.Record) {
				number, off = f.number, c.off
			}
		}
		f.Close()
	}
	if number == 0 {
		return nil
	}
	f, err := s.after(number - 1)
	if err == nil && f != nil {
		f.off = off
		s.at = f
	}
	return err
}

// IsSpool reports whether a directory has a spool's files.
func IsSpool(dir string) (bool, error) {
	if dir == "" {
		return false, nil
	}
	list, err := segmentFiles(dir)
	if err != nil {
		return false, err
	}
	positions, err := filepath.Glob(filepath.Join(dir, "position*"))
	return len(positions)+len(list) > 0, err
}

// segmentFiles are the segments of a spool, oldest first.
func segmentFiles(dir string) (list []heldSegment, err error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if number, ok := segmentNumber(name.Name()); ok {
			list = append(list, heldSegment{number: number, path: filepath.Join(dir, name.Name())})
		}
	}
	return list, nil
}
