package directory

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
)

const (
	tableBits = 12 // 4096 tables, so that a change copies a small one
	tableRow  = 6  // 64 of them per row
)

// ids finds objects by type and id. It consists of many small hash tables. A table has buckets of 64 bytes, one cache
// line, so that most lookups read a single line.
type ids struct {
	seed maphash.Seed
	rows *[1 << (tableBits - tableRow)]*[1 << tableRow]idTable // a nil row has empty tables
}

// idTable holds the objects whose hashes have one prefix. What does not fit into its home bucket goes to the next
// that is not full.
type idTable struct {
	buckets []bucket
	n       int
}

const bucketSlots = 12

// bucket holds numbers of objects, each with a byte of its hash, to avoid reading other objects' records.
type bucket struct {
	marks   [bucketSlots]uint8 // 0: the slot is free
	_       [4]uint8
	numbers [bucketSlots]number
}

func newIDs() ids {
	return ids{seed: maphash.MakeSeed(), rows: new([1 << (tableBits - tableRow)]*[1 << tableRow]idTable)}
}

func hashID(seed maphash.Seed, t typeID, id string) uint64 {
	return maphash.String(seed, id) ^ uint64(t)*0x9E3779B97F4A7C15
}

func hashRecord(seed maphash.Seed, r record) uint64 {
	t, id := r.head()
	return maphash.String(seed, id) ^ uint64(t)*0x9E3779B97F4A7C15
}

// tableOf is the position of a hash's table.
func tableOf(h uint64) (row, i int) {
	n := int(h >> (64 - tableBits))
	return n >> tableRow, n & (1<<tableRow - 1)
}

func markOf(h uint64) uint8 { return max(uint8(h>>32), 1) }

// table is a hash's table, for reading.
func (d *ids) table(h uint64) idTable {
	row, i := tableOf(h)
	if d.rows[row] == nil {
		return idTable{}
	}
	return d.rows[row][i]
}

// own is a hash's table, of ids that are not shared.
func (d *ids) own(h uint64) *idTable {
	row, i := tableOf(h)
	if d.rows[row] == nil {
		d.rows[row] = new([1 << tableRow]idTable)
	}
	return &d.rows[row][i]
}

// home is the bucket of a hash.
func (t *idTable) home(h uint64) int { return int(uint64(uint32(h)) * uint64(len(t.buckets)) >> 32) }

func (t *idTable) after(i int) int {
	if i++; i == len(t.buckets) {
		return 0
	}
	return i
}

const everyByte = 0x0101010101010101

// zeros sets the lowest bit of each byte of x that is 0. Above such a byte there may be false positives.
func zeros(x uint64) uint64 { return (x - everyByte) &^ x >> 7 & everyByte }

// first is the first slot with a mark; bucketSlots if none. It has no branches, which would be guessed wrong.
func (b *bucket) first(mark uint8) int {
	want := uint64(mark) * everyByte
	low := bits.TrailingZeros64(zeros(binary.LittleEndian.Uint64(b.marks[:])^want)) >> 3 // 8 if none
	rest := uint64(binary.LittleEndian.Uint32(b.marks[8:])) ^ want
	high := bits.TrailingZeros64(zeros(rest&math.MaxUint32)) >> 3 // the bytes above are 0: 4 if none
	return low + low>>3*high
}

func (b *bucket) full() bool { return b.first(0) == bucketSlots }

// find is the number of an object.
func (s *Snapshot) find(t typeID, id string) (number, bool) {
	return s.ids.find(s.rows, t, id)
}

func (d *ids) find(pages rows, t typeID, id string) (number, bool) {
	h := hashID(d.seed, t, id)
	table := d.table(h)
	return table.find(h, pages, t, id)
}

func (t *idTable) find(h uint64, pages rows, typ typeID, id string) (number, bool) {
	if t.n == 0 {
		return 0, false
	}
	mark := markOf(h)
	for i := t.home(h); ; i = t.after(i) {
		b := &t.buckets[i]
		for j := b.first(mark); j < bucketSlots; j++ {
			if b.marks[j] != mark {
				continue
			}
			n := b.numbers[j]
			if pages.page(n).record(n&(pageSize-1)).is(typ, id) {
				return n, true
			}
		}
		if !b.full() {
			return 0, false
		}
	}
}

// find finds the two objects of a question. Memory latency dominates, so what is read of both is prefetched before
// either is needed: their records and, where the answer may be in sets, the relations of the first and those of which
// the second is the subject.
func (a *asker) find(t typeID, id string, t2 typeID, id2 string, sets bool) (n number, ok bool, n2 number, ok2 bool) {
	s := a.s
	if len(s.rows) == 0 {
		return 0, false, 0, false
	}
	h, h2 := hashID(s.ids.seed, t, id), hashID(s.ids.seed, t2, id2)
	n, n2 = s.ids.guess(h), s.ids.guess(h2)
	if sets {
		a.touch(s.forward(n))
		a.touch(s.reverse(n2))
	}
	r, r2 := s.record(n), s.record(n2)
	if ok = r.is(t, id); !ok {
		n, ok = s.find(t, id)
	}
	if ok2 = r2.is(t2, id2); !ok2 {
		n2, ok2 = s.find(t2, id2)
	}
	return n, ok, n2, ok2
}

// guess is the most likely number for a hash; any number where there is none.
func (d *ids) guess(h uint64) number {
	t := d.table(h)
	if t.n == 0 {
		return 0
	}
	b := &t.buckets[t.home(h)]
	return b.numbers[b.first(markOf(h))%bucketSlots]
}

// bucketsFor is how many buckets hold n objects. A quarter stays free, so that few objects leave their home bucket.
func bucketsFor(n int) int { return n*4/(bucketSlots*3) + 1 }

// reserve makes room for one more. hash returns the hash of a number.
func (t *idTable) reserve(hash func(number) uint64) {
	if (t.n+1)*8 <= len(t.buckets)*bucketSlots*7 {
		return
	}
	out := idTable{buckets: make([]bucket, bucketsFor(t.n+t.n/4+4))}
	for i := range t.buckets {
		b := &t.buckets[i]
		for j, mark := range b.marks {
			if mark != 0 {
				out.put(hash(b.numbers[j]), b.numbers[j])
			}
		}
	}
	*t = out
}

// put adds a new number to a table that has room and is not shared.
func (t *idTable) put(h uint64, n number) {
	for i := t.home(h); ; i = t.after(i) {
		b := &t.buckets[i]
		if j := b.first(0); j < bucketSlots {
			b.marks[j], b.numbers[j] = markOf(h), n
			t.n++
			return
		}
	}
}

// remove removes a number from a table that is not shared, and moves back those that it displaced.
func (t *idTable) remove(h uint64, n number, hash func(number) uint64) {
	i := t.home(h)
	j := t.buckets[i].slot(n)
	for j < 0 {
		i = t.after(i)
		j = t.buckets[i].slot(n)
	}
	t.n--
	full := t.buckets[i].full()
	t.buckets[i].marks[j] = 0
	for k := i; full; { // displaced numbers may be in the buckets up to the first that is not full
		k = t.after(k)
		b := &t.buckets[k]
		full = b.full()
		if s := t.movable(k, i, hash); s >= 0 {
			t.buckets[i].marks[j], t.buckets[i].numbers[j] = b.marks[s], b.numbers[s]
			b.marks[s] = 0
			i, j = k, s
		}
	}
}

// slot is the slot of a number in a bucket; -1 if missing.
func (b *bucket) slot(n number) int {
	for j, mark := range b.marks {
		if mark != 0 && b.numbers[j] == n {
			return j
		}
	}
	return -1
}

// movable is a slot of bucket k whose number may move to the earlier bucket i, as its home is not after i; -1: none.
func (t *idTable) movable(k, i int, hash func(number) uint64) int {
	away := func(from int) int { return (k - from + len(t.buckets)) % len(t.buckets) }
	for s, mark := range t.buckets[k].marks {
		if mark != 0 && away(t.home(hash(t.buckets[k].numbers[s]))) >= away(i) {
			return s
		}
	}
	return -1
}

// fill builds the tables of numbers from 0 with these hashes. It returns a duplicate, if any.
func (d *ids) fill(hashes []uint64, pages rows) (twice number, found bool) {
	var ends [1 << tableBits]int // of each table's objects
	for _, h := range hashes {
		ends[h>>(64-tableBits)]++
	}
	most, total := 0, 0
	next := ends
	for i, n := range ends {
		next[i] = total
		total += n
		ends[i] = total
		most = max(most, n)
	}
	sorted := make([]hashed, len(hashes)) // by table
	for n, h := range hashes {
		i := h >> (64 - tableBits)
		sorted[next[i]] = hashed{h, number(n)}
		next[i]++
	}
	var mu sync.Mutex // guards the results
	each(len(d.rows), func(row int) {
		d.rows[row] = new([1 << tableRow]idTable)
		there := make([]uint64, bucketsFor(most)*bucketSlots)
		for i := range d.rows[row] {
			k := row<<tableRow | i
			first := 0
			if k > 0 {
				first = ends[k-1]
			}
			if n, ok := d.rows[row][i].fill(sorted[first:ends[k]], there, pages); ok {
				mu.Lock()
				twice, found = n, true
				mu.Unlock()
			}
		}
	})
	return twice, found
}

// hashed is a number with its hash.
type hashed struct {
	hash uint64
	n    number
}

// fill puts objects into an empty table. It compares hashes, kept in there by slot, and records only where those are
// equal.
func (t *idTable) fill(objects []hashed, there []uint64, pages rows) (twice number, found bool) {
	if len(objects) == 0 {
		return 0, false
	}
	t.buckets = make([]bucket, bucketsFor(len(objects)))
	t.n = len(objects)
	for _, x := range objects {
		mark := markOf(x.hash)
		for i := t.home(x.hash); ; i = t.after(i) {
			b := &t.buckets[i]
			used := b.first(0)
			for j := b.first(mark); j < used; j++ {
				if there[i*bucketSlots+j] == x.hash && pages.same(b.numbers[j], x.n) {
					return x.n, true
				}
			}
			if used < bucketSlots {
				b.marks[used], b.numbers[used], there[i*bucketSlots+used] = mark, x.n, x.hash
				break
			}
		}
	}
	return 0, false
}

// same reports whether two records have the same type and id.
func (r rows) same(n, other number) bool {
	t, id := r.page(n).record(n & (pageSize - 1)).head()
	return r.page(other).record(other&(pageSize-1)).is(t, id)
}
