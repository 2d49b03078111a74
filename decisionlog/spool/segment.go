package spool

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"
)

// A segment is a file of the spool, mapped into memory: 64 bytes of header, then frames, then zeros.
//
//	header  magic "GHSPOOL1", number, salt, time of creation in ns, size of the file (8 bytes each), CRC of these
//	frame   length of the payload, CRC, kind, magic (4 bytes each), payload, zeros up to a multiple of 8
//
// All numbers are little endian. The CRC is CRC-32C over salt, kind and payload: the salt is random, so that nothing that a client sends
// can pass for a frame where one is looked for behind damage. The length is stored last, atomically: a frame is there or it is
// not. A kill between reservation and that store leaves a hole, which is nobody's decision: its answer never went out.
const (
	segmentMagic  = "GHSPOOL1"
	segmentHeader = 64
	frameMagic    = 0xa7f5c39e
	frameHeader   = 16

	kinds = 2
)

// Kind is 1 or 2: what a record of it is, is its owner's to say. Another one is damage.
type Kind uint32

// TimeFunc reads the time of a record; false where it has none.
type TimeFunc func(kind Kind, record []byte) (time.Time, bool)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errSegment = errors.New("this is not a segment of a decision log")

type segment struct {
	number uint64
	path   string
	file   *os.File
	data   []byte            // the mapping
	bytes  uint64            // its length; an append may look at it when the mapping is gone
	full   uint64            // the length that it had when it was made
	sums   [kinds + 1]uint32 // CRCs of the salt and each kind
	made   time.Time
	old    bool // of an earlier run: nobody writes to it any more
	time   TimeFunc

	unnamed bool        // its file was removed; the keeper's alone
	retired atomic.Bool // nobody appends to it any more, although it has room
	lost    atomic.Bool // its file was cut off
	hollow  atomic.Bool // and something else may be where frames were: what is not written by now never will be

	_    [64]byte                // tail is what every request writes to
	tail atomic.Uint64           // where the next frame goes; beyond the end: the segment is full
	end  atomic.Uint64           // where the last frame ends, once that is certain; else noEnd
	next atomic.Pointer[segment] // the one that follows, once it is there
	_    [64]byte
}

const noEnd = 1<<64 - 1

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x.seg", number))
}

// segmentNumber is that of the segment with a file name; false where it is none's.
func segmentNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, ".seg")
	number, err := strconv.ParseUint(digits, 16, 64)
	return number, ok && err == nil && len(digits) == 16
}

// newSegment makes the file, with all of its space taken from the disk, so that no store to the mapping can fail.
func newSegment(dir string, number uint64, size int64) (_ *segment, err error) {
	s := &segment{number: number, path: segmentPath(dir, number), made: time.Now()}
	if s.file, err = os.OpenFile(s.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.file.Close()
			_ = os.Remove(s.path) // it has nothing in it
		}
	}()
	if err = preallocate(s.file, size); err != nil {
		return nil, fmt.Errorf("allocating %d bytes for segment %q: %w", size, s.path, err)
	}
	if s.data, err = mapFile(s.file, size); err != nil {
		return nil, fmt.Errorf("mapping segment %q: %w", s.path, err)
	}
	populate(s.data)
	s.tail.Store(segmentHeader)
	s.end.Store(noEnd)
	h := make([]byte, segmentHeader)
	binary.LittleEndian.PutUint64(h[8:], number)
	_, _ = rand.Read(h[16:24]) // never fails
	s.seed(h[16:24])
	binary.LittleEndian.PutUint64(h[24:], uint64(s.made.UnixNano()))
	copy(h, segmentMagic)
	binary.LittleEndian.PutUint64(h[32:], uint64(size))
	binary.LittleEndian.PutUint32(h[40:], crc32.Checksum(h[:40], castagnoli))
	s.bytes, s.full = uint64(size), uint64(size)
	if !CatchFault(func() { copy(s.data, h) }) {
		unmap(s.data)
		return nil, fmt.Errorf("making segment %q: the file was cut off meanwhile", s.path)
	}
	return s, syncDir(dir)
}

// openSegment maps a segment of an earlier run. What it has is read; nothing is added to it.
func openSegment(dir string, number uint64) (_ *segment, err error) {
	s := &segment{number: number, path: segmentPath(dir, number), old: true}
	if s.file, err = os.OpenFile(s.path, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.file.Close()
		}
	}()
	info, err := s.file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() < segmentHeader || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("reading %q: %w", s.path, errSegment)
	}
	if s.data, err = mapFile(s.file, info.Size()); err != nil {
		return nil, fmt.Errorf("mapping segment %q: %w", s.path, err)
	}
	h := make([]byte, segmentHeader) // zeros are no header
	CatchFault(func() { copy(h, s.data) })
	if !bytes.Equal(h[:8], []byte(segmentMagic)) || binary.LittleEndian.Uint32(h[40:]) != crc32.Checksum(h[:40], castagnoli) ||
		binary.LittleEndian.Uint64(h[8:]) != number {
		unmap(s.data)
		return nil, fmt.Errorf("reading %q: %w", s.path, errSegment)
	}
	s.seed(h[16:24])
	s.made = time.Unix(0, int64(binary.LittleEndian.Uint64(h[24:])))
	s.bytes, s.full = uint64(len(s.data)), binary.LittleEndian.Uint64(h[32:])
	s.end.Store(s.bytes)
	s.tail.Store(1 << 60)
	return s, nil
}

// noSegment has room for nothing. It stands where the disk has none.
func noSegment(number uint64) *segment {
	s := &segment{number: number, old: true, made: time.Now()}
	s.tail.Store(1 << 60)
	return s
}

func (s *segment) size() uint64 { return s.bytes }

// close gives the mapping back. Nobody may read or write the segment any more.
func (s *segment) close() {
	if s.file != nil {
		unmap(s.data)
		s.file.Close()
	}
}

// frameSize is what a payload takes in a segment.
func frameSize(payload int) uint64 { return uint64(frameHeader+payload+7) &^ 7 }

// seed works out what every CRC of the segment begins with, for each kind of frame.
func (s *segment) seed(salt []byte) {
	for kind := range s.sums {
		s.sums[kind] = crc32.Checksum(binary.LittleEndian.AppendUint32(bytes.Clone(salt), uint32(kind)), castagnoli)
	}
}

func (s *segment) sum(kind Kind, payload []byte) uint32 {
	return crc32.Update(s.sums[kind], castagnoli, payload)
}

// length is the first word of the frame at off, which is a multiple of 8 in a mapping that begins at a page. The format is that of
// little endian machines, as is every one that this is built for.
func (s *segment) length(off uint64) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&s.data[off]))
}

// What is found where a frame may be.
type found int

const (
	foundNothing found = iota // zeros: nothing yet, or a hole
	foundFrame
	foundDamage
)

// frame reads the frame at off.
func (s *segment) frame(off uint64) (kind Kind, payload []byte, what found) {
	if off+frameHeader > s.size() {
		return 0, nil, foundNothing
	}
	n := uint64(s.length(off).Load())
	if n == 0 {
		return 0, nil, foundNothing
	}
	at := s.data[off:]
	if binary.LittleEndian.Uint32(at[12:]) != frameMagic || n > uint64(len(at)-frameHeader) {
		return 0, nil, foundDamage
	}
	kind, payload = Kind(binary.LittleEndian.Uint32(at[8:])), at[frameHeader:frameHeader+n]
	if kind < 1 || kind > kinds || s.sum(kind, payload) != binary.LittleEndian.Uint32(at[4:]) {
		return 0, nil, foundDamage
	}
	return kind, payload, foundFrame
}

// resync looks for the next frame from off on, up to limit. damaged says whether what lies between was anything but a hole: a
// length was stored there, so that it was a frame once.
func (s *segment) resync(off, limit uint64, damaged bool) (next uint64, isDamage bool) {
	var magic [4]byte
	binary.LittleEndian.PutUint32(magic[:], frameMagic)
	from := off
	for limit = min(limit, s.size()); from+frameHeader <= limit; {
		i := bytes.Index(s.data[from:limit], magic[:])
		if i < 0 {
			break
		}
		at := from + uint64(i)
		if start := at - 12; at >= off+12 && start%8 == 0 {
			switch _, _, what := s.frame(start); what {
			case foundFrame:
				return start, damaged
			case foundDamage:
				damaged = true
			}
		}
		from = at + 1
	}
	return limit, damaged
}
