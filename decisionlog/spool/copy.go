package spool

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

const (
	maxSegmentRead = 256 << 20 // of a segment is read; none that we make is near that
	maxLooks       = 20        // at a segment that is written to, for what seems damaged and may just not be whole yet
)

// Copy reads a copy of a segment, which its owner may be writing to.
type Copy struct {
	file   string
	at     io.ReaderAt // to read it again; nil for standard input
	closer func()

	segment
	off     uint64
	from    uint64    // where the last piece began
	last    time.Time // of the last record before
	looks   int
	header  bool // it is damaged, and that was not told
	missing bool // the end is, and that was not told
	checked bool // nothing was behind the last record when it was last looked at
}

// DamageError names what could not be read of a segment.
type DamageError struct {
	File   string
	Offset int64 // where it begins, in bytes from the beginning of the file
	Bytes  int64 // how many bytes could not be read, at least
	What   string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s: offset %d: %s (%d bytes)", e.File, e.Offset, e.What, e.Bytes)
}

// HeadSize is how many bytes of a file IsSegment wants.
const HeadSize = len(segmentMagic)

// IsSegment reports whether a file that begins like this is a segment.
func IsSegment(head []byte) bool { return bytes.HasPrefix(head, []byte(segmentMagic)) }

// OpenCopy reads a segment into memory: what is buffered of in, which is a file or a stream. closer is called by Close.
func OpenCopy(name string, in io.Reader, buffered *bufio.Reader, closer func(), time TimeFunc) (*Copy, error) {
	s := &Copy{file: name, closer: closer, off: segmentHeader}
	s.time = time
	s.at, _ = in.(io.ReaderAt)
	data, err := io.ReadAll(io.LimitReader(buffered, maxSegmentRead))
	if err != nil {
		return nil, fmt.Errorf("reading the segment %s: %w", name, err)
	}
	s.path, s.data, s.bytes, s.full = name, data, uint64(len(data)), uint64(len(data))
	if len(data) < segmentHeader {
		s.header = len(bytes.Trim(data, "\x00")) > 0
		s.off = s.bytes
		return s, nil
	}
	s.readHeader()
	return s, nil
}

// readHeader takes over what the header says. Where it is damaged its salt may not be, and then every frame can still be told.
func (s *Copy) readHeader() {
	h := s.data[:segmentHeader]
	s.seed(h[16:24])
	switch {
	case bytes.Equal(h[:8], []byte(segmentMagic)) && binary.LittleEndian.Uint32(h[40:]) == crc32.Checksum(h[:40], castagnoli):
		s.made = time.Unix(0, int64(binary.LittleEndian.Uint64(h[24:])))
		s.full = binary.LittleEndian.Uint64(h[32:])
		s.missing = s.full > s.bytes
	default:
		s.header = len(bytes.TrimLeft(s.data[segmentHeader:], "\x00")) > 0 // else it is being made, or has nothing to lose
	}
}

// Close lets go of the file.
func (s *Copy) Close() { s.closer() }

// empty reports whether there is nothing but zeros behind the header.
func (s *Copy) empty() bool {
	return !s.header && !s.missing && len(bytes.TrimLeft(s.data[min(s.bytes, segmentHeader):], "\x00")) == 0
}

// Where names the piece that was returned last.
func (s *Copy) Where() *DamageError { return &DamageError{File: s.file, Offset: int64(s.from)} }

func (s *Copy) damage(n uint64, what string) error {
	d := s.Where()
	d.Bytes, d.What = int64(n), what
	return d
}

// Next returns a piece, which is good until the next call; io.EOF at the end, and may be called again: there may be more by then. What
// cannot be read is a *DamageError, and reading goes on behind it; a piece of damage is what was reserved and never written.
func (s *Copy) Next() (Piece, error) {
	s.from = s.off
	if s.header {
		s.header, s.from = false, 0
		return Piece{}, s.damage(min(s.bytes, segmentHeader), "a segment whose header is damaged")
	}
	for {
		kind, payload, what := s.frame(s.off)
		if what == foundFrame {
			s.from, s.off = s.off, s.off+frameSize(len(payload))
			s.checked = false
			if t, ok := s.time(kind, payload); ok {
				s.last = t
			}
			return Piece{Kind: kind, Record: payload}, nil
		}
		next, damaged := s.resync(s.off, s.bytes, what == foundDamage)
		last := next == s.bytes
		if !last || damaged {
			switch again, err := s.reread(); {
			case err != nil:
				return Piece{}, err
			case again:
				continue
			}
		}
		from := s.off
		s.from, s.off = from, next
		switch {
		case damaged && last:
			n := len(bytes.TrimRight(s.data[from:], "\x00"))
			return Piece{}, s.damage(uint64(n), "damaged, to the end of the segment")
		case damaged:
			return Piece{}, s.damage(next-from, "damaged")
		case !last:
			return Piece{Damage: s.unwritten(next - from)}, nil
		}
		s.off = from
		if s.missing {
			s.missing, s.from = false, s.bytes
			return Piece{}, s.damage(s.full-s.bytes, "the segment is cut off")
		}
		return Piece{}, io.EOF
	}
}

// reread reads the segment once more, where what seems damaged may just have been in the making.
func (s *Copy) reread() (bool, error) {
	if s.at == nil || s.looks == maxLooks {
		return false, nil
	}
	s.looks++
	time.Sleep(time.Millisecond)
	return true, s.refresh()
}

// refresh reads again what is behind the last record.
func (s *Copy) refresh() error {
	if s.at == nil || s.off > s.bytes {
		return nil
	}
	if _, err := s.at.ReadAt(s.data[s.off:], int64(s.off)); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the segment %s: %w", s.file, err)
	}
	return nil
}

// unwritten tells of what was reserved and never written: it was under way when the process was killed.
func (s *Copy) unwritten(n uint64) Damage {
	c := Cursor{s: &s.segment, off: s.off, last: s.last}
	hole := c.damage(&s.segment, 0)
	hole.Unfinished = n
	return hole
}
