package decisionlog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const (
	mostSegmentRead = 256 << 20 // of a segment is read; none that we make is near that
	mostLooks       = 20        // at a segment that is written to, for what seems damaged and may just not be whole yet
)

// frames reads a copy of a segment, which its owner may be writing to.
type frames struct {
	file   string
	at     io.ReaderAt // to read it again; nil for standard input
	closer func()

	segment
	off     uint64
	from    uint64 // where the last event began
	time    time.Time
	looks   int
	header  bool // it is damaged, and that was not told
	missing bool // the end is, and that was not told
	checked bool // nothing was behind the last event when it was last looked at
	lines   *lines
	line    []byte
}

func openFrames(name string, in io.Reader, buffered *bufio.Reader, closer func(), lines *lines) (*frames, error) {
	s := &frames{file: name, closer: closer, off: segmentHeader, lines: lines}
	s.at, _ = in.(io.ReaderAt)
	data, err := io.ReadAll(io.LimitReader(buffered, mostSegmentRead))
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
func (s *frames) readHeader() {
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

func (s *frames) close() { s.closer() }

// empty reports whether there is nothing but zeros behind the header.
func (s *frames) empty() bool {
	return !s.header && !s.missing && len(bytes.TrimLeft(s.data[min(s.bytes, segmentHeader):], "\x00")) == 0
}

func (s *frames) where() *DamageError { return &DamageError{File: s.file, Offset: int64(s.from)} }

func (s *frames) damage(n uint64, what string) error {
	d := s.where()
	d.Bytes, d.What = int64(n), what
	return d
}

func (s *frames) next() ([]byte, error) {
	s.from = s.off
	if s.header {
		s.header, s.from = false, 0
		return nil, s.damage(min(s.bytes, segmentHeader), "a segment whose header is damaged")
	}
	for {
		kind, payload, what := s.frame(s.off)
		if what == foundFrame {
			s.from, s.off = s.off, s.off+frameSize(len(payload))
			if event, err := s.event(kind, payload); err != nil || len(event) > 0 {
				return event, err
			}
			continue // the policy does not want it in the log
		}
		next, damaged := s.resync(s.off, s.bytes, what == foundDamage)
		last := next == s.bytes
		if !last || damaged {
			switch again, err := s.again(); {
			case err != nil:
				return nil, err
			case again:
				continue
			}
		}
		from := s.off
		s.from, s.off = from, next
		switch {
		case damaged && last:
			n := len(bytes.TrimRight(s.data[from:], "\x00"))
			return nil, s.damage(uint64(n), "damaged, to the end of the segment")
		case damaged:
			return nil, s.damage(next-from, "damaged")
		case !last:
			return s.hole(next - from), nil
		}
		s.off = from
		if s.missing {
			s.missing, s.from = false, s.bytes
			return nil, s.damage(s.full-s.bytes, "the segment is cut off")
		}
		return nil, io.EOF
	}
}

// again reads the segment once more, where what seems damaged may just have been in the making.
func (s *frames) again() (bool, error) {
	if s.at == nil || s.looks == mostLooks {
		return false, nil
	}
	s.looks++
	time.Sleep(time.Millisecond)
	return true, s.refresh()
}

// refresh reads again what is behind the last event.
func (s *frames) refresh() error {
	if s.at == nil || s.off > s.bytes {
		return nil
	}
	if _, err := s.at.ReadAt(s.data[s.off:], int64(s.off)); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the segment %s: %w", s.file, err)
	}
	return nil
}

func (s *frames) event(kind uint32, payload []byte) (_ []byte, err error) {
	s.checked = false
	if kind == frameGap {
		g, err := (&unpacking{packedReader: packedReader{in: payload}}).unpackGap()
		if err != nil {
			return nil, s.damage(uint64(len(payload)), "a gap of another version")
		}
		s.time = g.until
		s.line = s.lines.gap(s.line[:0], g)
	} else {
		at := cursor{s: &s.segment, off: s.off}
		if s.line, err = s.lines.entry(context.Background(), s.line[:0], at, payload); err != nil {
			return nil, s.damage(uint64(len(payload)), "an entry of another version")
		}
		s.time, _ = packedTime(kind, payload)
	}
	return bytes.TrimSuffix(s.line, []byte("\n")), nil
}

// hole tells of what was reserved and never written: it was under way when the process was killed.
func (s *frames) hole(n uint64) []byte {
	g := gap{unfinished: n, since: s.time, segment: filepath.Base(s.file)}
	if g.since.IsZero() {
		g.since = s.made
	}
	g.until = g.since
	if kind, payload, what := s.frame(s.off); what == foundFrame {
		if t, ok := packedTime(kind, payload); ok {
			g.until = t
		}
	}
	s.line = s.lines.gap(s.line[:0], g)
	return bytes.TrimSuffix(s.line, []byte("\n"))
}

// readerLines makes lines as the log itself would.
func readerLines(cfg Config) (*lines, error) {
	cfg.MaxEntry, cfg.Clock, cfg.Logger = mostLine, time.Now, zap.NewNop()
	l, err := newLines(&cfg, 1)
	if err == nil {
		l.errors = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rule_errors"}, []string{"rule"})
	}
	return l, err
}
