package decisionlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// spoolReader reads a spool, which may be in use: segments go when the log's file has them, and others come.
type spoolReader struct {
	dir       string
	lines     *lines
	held      []heldSegment // opened before they could go; nil: none
	at, ahead *frames       // being read, and the one behind it that has something in it; nil: none
	live      bool          // what is gone before it was read is told
}

// heldSegment is a segment's file. It can be read when its name is gone.
type heldSegment struct {
	number uint64
	path   string
	file   *os.File // nil: it is opened when it is read
}

func openSpoolReader(dir string, cfg Config) (*spoolReader, error) {
	lines, err := readerLines(cfg)
	return &spoolReader{dir: dir, lines: lines}, err
}

func (s *spoolReader) close() {
	for _, f := range []*frames{s.at, s.ahead} {
		if f != nil {
			f.close()
		}
	}
	for _, h := range s.held {
		h.file.Close()
	}
	s.at, s.ahead, s.held = nil, nil, nil
}

func (s *spoolReader) where() *DamageError {
	if s.at == nil {
		return &DamageError{File: s.dir}
	}
	return s.at.where()
}

// next returns io.EOF at the end, and may be called again: there may be more by then.
func (s *spoolReader) next() (_ []byte, err error) {
	for {
		if s.at == nil {
			if s.at, err = s.after(0); err != nil {
				return nil, err
			}
			if s.at == nil {
				return nil, io.EOF
			}
		}
		event, err := s.at.next()
		if !errors.Is(err, io.EOF) {
			return event, err
		}
		if err := s.leave(); err != nil {
			return nil, err
		}
	}
}

// leave goes on from the end of a segment. It may have got more since it was read, and is done once the next one has something in it.
func (s *spoolReader) leave() (err error) {
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
	s.at.close()
	s.at, s.ahead = s.ahead, nil
	if s.live && s.held == nil && s.at.number > was+1 {
		return &DamageError{File: s.dir, What: fmt.Sprintf("segments %x to %x are gone already: what was in them is in the log's file", was+1, s.at.number-1)}
	}
	return nil
}

// after opens the first segment with a higher number that has anything in it; nil where there is none. One that is gone by now was in
// the log's file first.
func (s *spoolReader) after(number uint64) (*frames, error) {
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
			f.close()
		}
	}
	return nil, nil
}

// open reads a segment into memory; of the last one only the beginning where that is empty: it was made ahead of time.
func (s *spoolReader) open(h heldSegment, last bool) (*frames, error) {
	file, closer := h.file, func() {}
	if file == nil {
		f, err := os.Open(h.path)
		if err != nil {
			return nil, err
		}
		file, closer = f, func() { f.Close() }
	}
	size := int64(mostSegmentRead)
	if begin := make([]byte, 4096); last {
		n, _ := file.ReadAt(begin, 0)
		if n == len(begin) && len(bytes.TrimLeft(begin[segmentHeader:], "\x00")) == 0 {
			size = segmentHeader
		}
	}
	f, err := openFrames(h.path, file, bufio.NewReader(io.NewSectionReader(file, 0, size)), closer, s.lines)
	if err != nil {
		closer()
		return nil, err
	}
	if f.number = h.number; size == segmentHeader {
		f.missing = false
	}
	return f, nil
}

// hold opens all that is there, so that it can be read when it is in the log's file and gone.
func (s *spoolReader) hold() error {
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

// settle lets go of what was held, but for what is being read.
func (s *spoolReader) settle() {
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

// skip passes what is up to the last of these events, the last ones of the log's file: it has all that is before.
func (s *spoolReader) skip(ids []string) error {
	number, off := uint64(0), uint64(0)
	for at := uint64(0); len(ids) > 0; {
		f, err := s.after(at)
		if err != nil {
			return err
		}
		if f == nil {
			break
		}
		at = f.number
		c := cursor{s: &f.segment, off: segmentHeader}
		f.segment.end.Store(f.bytes)
		f.old = true
		for p, ok := c.next(); ok; p, ok = c.next() {
			if p.kind == frameEntry && slices.Contains(ids, packedID(p.payload)) {
				number, off = f.number, c.off
			}
		}
		f.close()
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

// isSpool reports whether a directory has a spool's files.
func isSpool(dir string) (bool, error) {
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
