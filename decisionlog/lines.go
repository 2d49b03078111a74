package decisionlog

import "sync"

// lines makes the line of each entry, for all sinks: where several read at about the same pace, once.
type lines struct {
	mu    sync.Mutex // guards what follows; held while a line is made, never while it is written
	codec codec
	cache []cachedLine // by where the entry is in the spool; nil where there is one sink
}

// cachedLine is the line of an entry that another sink may be about to ask for.
type cachedLine struct {
	segment, off uint64 // where the entry ends
	line         []byte
}

const (
	cachedLines = 512
	largestKept = 16 << 10 // a longer line is made again
)

func newLines(cfg *Config, sinks int) *lines {
	l := &lines{codec: newCodec(cfg)}
	if sinks > 1 {
		l.cache = make([]cachedLine, cachedLines)
	}
	return l
}

// entry appends the line of a packed entry that ends at a place in the spool. An error means that this is no packed entry.
func (l *lines) entry(dst []byte, at cursor, packed []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.kept(at)
	if kept != nil && kept.segment == at.s.number && kept.off == at.off {
		return append(dst, kept.line...), nil
	}
	from := len(dst)
	dst, err := l.codec.appendLine(dst, packed)
	if err != nil {
		return dst, err
	}
	if line := dst[from:]; kept != nil && len(line) <= largestKept {
		kept.segment, kept.off, kept.line = at.s.number, at.off, append(kept.line[:0], line...)
	}
	return dst, nil
}

// kept is the only place of the cache where an entry's line may be; nil: there is none.
func (l *lines) kept(at cursor) *cachedLine {
	if l.cache == nil || at.s == nil {
		return nil
	}
	return &l.cache[at.off/8*0x9e3779b97f4a7c15>>55] // 9 bits: frames begin at multiples of 8
}

// gap appends the line that stands for lost entries.
func (l *lines) gap(dst []byte, g gap) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.codec.appendGap(dst, g)
}
