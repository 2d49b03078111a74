package directory

import (
	"math"
	"sync/atomic"
	"time"
)

// Dependencies is what the answers of checks depended on. Where none of it has changed, another snapshot gives the same answers, and need not be
// asked. The zero value is ready for CheckOn. It keeps no snapshot alive, nor what snapshots share.
type Dependencies struct {
	line        *lineID
	step        uint64
	from, until int64           // no relation expires in between; until is not included
	asked, lost bool            // lost: Holds is false
	n           uint8           // of keys
	keys        [maxKeys]uint16 // here and not elsewhere: Holds reads memory that is in no cache
}

// maxKeys bounds a Dependencies: a check that read more relations is asked again.
const maxKeys = 48

// line is a succession of snapshots, each made of the one before by Apply. It has the step at which each object changed last.
type line struct {
	id    *lineID
	tip   atomic.Uint64               // the newest step
	whole atomic.Uint64               // the last step that changed more than is marked
	marks [1 << keyBits]atomic.Uint64 // by key
}

type lineID struct{ _ byte } // not empty: pointers to it differ

const (
	keyBits    = 13
	maxTouched = 1024 // marks of one step
)

// keyOf is the mark of an object, which it shares with others.
func keyOf(n number) uint16 { return uint16(uint32(n) * 0x9E3779B1 >> (32 - keyBits)) }

// keyOfName is the mark of a name that no object has, by its hash.
func keyOfName(hash uint64) uint16 { return uint16(hash * 0x9E3779B97F4A7C15 >> (64 - keyBits)) }

// follow puts a new snapshot behind the one that it was made of, and marks what changed. Of two that are made of one snapshot, the second
// begins a line of its own.
func (s *Snapshot) follow(touched []uint16) {
	l := s.line
	if l == nil || !l.tip.CompareAndSwap(s.step, s.step+1) {
		s.line, s.step = &line{id: new(lineID)}, 0
		return
	}
	if s.step++; len(touched) > maxTouched {
		l.whole.Store(s.step)
		return
	}
	for _, key := range touched {
		l.marks[key].Store(s.step)
	}
}

// CheckOn is Check, and adds to a basis what the answer depends on. All questions of one basis are asked of one snapshot at one time.
func (s *Snapshot) CheckOn(b *Dependencies, q Question, now time.Time) (bool, error) {
	b.begin(s, now)
	return s.check(q, now, b)
}

// ObjectOn is Object, likewise.
func (s *Snapshot) ObjectOn(b *Dependencies, r Ref, now time.Time) (Object, bool) {
	b.begin(s, now)
	t, ok := s.symbols.typ(r.Type)
	if !ok {
		b.lost = true
		return Object{}, false
	}
	n, found := s.find(t, r.ID)
	b.name(s, t, r.ID, n, found)
	return s.Object(r)
}

func (b *Dependencies) begin(s *Snapshot, now time.Time) {
	if b.asked {
		return
	}
	b.asked, b.step, b.lost = true, s.step, s.line == nil
	if s.line != nil {
		b.line = s.line.id
	}
	b.from, b.until = s.window(now.Unix())
}

// Holds reports whether nothing that the basis has was changed between its snapshot and this one, in either direction, and no relation has
// expired. False is no statement.
func (b *Dependencies) Holds(s *Snapshot, now time.Time) bool {
	l := s.line
	if at := now.Unix(); b.lost || l == nil || b.line != l.id || at < b.from || at >= b.until {
		return false
	}
	least := min(b.step, s.step)
	if l.whole.Load() > least {
		return false
	}
	for _, key := range b.keys[:b.n] {
		if l.marks[key].Load() > least {
			return false
		}
	}
	return true
}

func (b *Dependencies) add(key uint16) {
	for _, k := range b.keys[:b.n] {
		if k == key {
			return
		}
	}
	if b.lost = b.lost || b.n == maxKeys; !b.lost {
		b.keys[b.n] = key
		b.n++
	}
}

// window is the time around now in which nothing expires.
func (s *Snapshot) window(now int64) (from, until int64) {
	from, until = math.MinInt64, math.MaxInt64
	if s.times == nil {
		return from, until
	}
	if now < 0 {
		return 0, 0 // Epoch does not count there
	}
	_, _, i := s.times.from(edge(now + 1))
	if i > 0 {
		from = int64(s.times.at(i - 1))
	}
	if i < s.times.n {
		until = int64(s.times.at(i))
	}
	return from, until
}

// at is the edge with index i.
func (h *hub) at(i int) edge {
	for c := range h.chunks {
		if i -= len(h.chunks[c].edges); i < 0 {
			return h.chunks[c].edges[i+len(h.chunks[c].edges)]
		}
	}
	return 0
}

// note adds an object whose relations are read.
func (a *asker) note(n number) {
	if a.basis != nil {
		a.basis.add(keyOf(n))
	}
}

// noteName adds what a name stands for.
func (a *asker) noteName(t typeID, id string, n number, found bool) {
	if a.basis != nil {
		a.basis.name(a.s, t, id, n, found)
	}
}

// name adds the object that has a name, or the name that none has.
func (b *Dependencies) name(s *Snapshot, t typeID, id string, n number, found bool) {
	if found {
		b.add(keyOf(n))
		return
	}
	b.add(keyOfName(hashID(s.ids.seed, t, id)))
}
