package directory

import (
	"hash/maphash"
	"runtime"
)

const (
	shardBits = 13 // 8192 tables, so that a change copies a small one
	shardRow  = 7  // of which 128 are in a row
)

// ids finds objects by type and id. It is many small open-addressed tables; an absent one is empty. A slot has a byte of the hash beside the
// number, so that few records are looked at in vain.
type ids struct {
	seed maphash.Seed
	rows *[1 << (shardBits - shardRow)]*[1 << shardRow]*shard
}

type shard struct {
	n       int
	marks   []uint8 // a byte of the hash; 0: the slot is free
	numbers []number
}

func newIDs() ids {
	return ids{seed: maphash.MakeSeed(), rows: new([1 << (shardBits - shardRow)]*[1 << shardRow]*shard)}
}

func hashID(seed maphash.Seed, t typeID, id string) uint64 {
	return maphash.String(seed, id) ^ uint64(t)*0x9E3779B97F4A7C15
}

func hashRecord(seed maphash.Seed, r record) uint64 {
	t, id := r.head()
	return maphash.Bytes(seed, id) ^ uint64(t)*0x9E3779B97F4A7C15
}

func shardOf(h uint64) (row, i int) {
	n := int(h >> (64 - shardBits))
	return n >> shardRow, n & (1<<shardRow - 1)
}

func markOf(h uint64) uint8 { return max(uint8(h>>32), 1) }

// find is the number of an object.
func (s *Snapshot) find(t typeID, id string) (number, bool) {
	return s.ids.find(s.rows, t, id)
}

func (d *ids) find(pages rows, t typeID, id string) (number, bool) {
	h := hashID(d.seed, t, id)
	row, i := shardOf(h)
	if d.rows[row] == nil || d.rows[row][i] == nil {
		return 0, false
	}
	return d.rows[row][i].find(h, pages, t, id)
}

func (sh *shard) find(h uint64, pages rows, t typeID, id string) (number, bool) {
	mark := markOf(h)
	mask := uint64(len(sh.marks) - 1)
	for j := h & mask; sh.marks[j] != 0; j = (j + 1) & mask {
		if sh.marks[j] != mark {
			continue
		}
		n := sh.numbers[j]
		if pages.page(n).record(n&(pageSize-1)).is(t, id) {
			return n, true
		}
	}
	return 0, false
}

const shardMin = 8

func newShard(size int) *shard {
	return &shard{marks: make([]uint8, size), numbers: make([]number, size)}
}

// shardSize is how many slots hold n objects. An eighth stays free: slots that are looked at one after the other are neighbouring bytes.
func shardSize(n int) int {
	size := shardMin
	for n*8 > size*7 {
		size *= 2
	}
	return size
}

// grown is the shard with room for one more, or itself. hash tells the hash of a number.
func (sh *shard) grown(hash func(number) uint64) *shard {
	if (sh.n+1)*8 <= len(sh.marks)*7 {
		return sh
	}
	out := newShard(len(sh.marks) * 2)
	for j, mark := range sh.marks {
		if mark != 0 {
			out.put(hash(sh.numbers[j]), sh.numbers[j])
		}
	}
	return out
}

// put adds a number that is not there, to a shard with room.
func (sh *shard) put(h uint64, n number) {
	mask := uint64(len(sh.marks) - 1)
	j := h & mask
	for sh.marks[j] != 0 {
		j = (j + 1) & mask
	}
	sh.marks[j], sh.numbers[j] = markOf(h), n
	sh.n++
}

// remove takes a number out and moves those up that had to make way for it.
func (sh *shard) remove(h uint64, n number, hash func(number) uint64) {
	mask := uint64(len(sh.marks) - 1)
	j := h & mask
	for sh.marks[j] == 0 || sh.numbers[j] != n {
		j = (j + 1) & mask
	}
	sh.n--
	for k := (j + 1) & mask; sh.marks[k] != 0; k = (k + 1) & mask {
		home := hash(sh.numbers[k]) & mask
		if (k-home)&mask >= (k-j)&mask { // its home is not after the gap
			sh.marks[j], sh.numbers[j] = sh.marks[k], sh.numbers[k]
			j = k
		}
	}
	sh.marks[j], sh.numbers[j] = 0, 0
}

// fill makes the tables of numbers from 0 with these hashes. It says which one is there twice.
func (d *ids) fill(hashes []uint64, pages rows) (twice number, ok bool) {
	var ends [1<<shardBits + 1]int
	for _, h := range hashes {
		ends[h>>(64-shardBits)+1]++
	}
	for i := 1; i < len(ends); i++ {
		ends[i] += ends[i-1]
	}
	sorted := make([]number, len(hashes)) // by shard
	next := ends
	for n, h := range hashes {
		i := h >> (64 - shardBits)
		sorted[next[i]] = number(n)
		next[i]++
	}
	found := make([]number, runtime.GOMAXPROCS(0))
	fine := make([]bool, len(found))
	var work parallel
	for w := range found {
		work.run(func() {
			fine[w] = true
			for row := w; row < len(d.rows); row += len(found) {
				for i := range 1 << shardRow {
					k := row<<shardRow | i
					if n, ok := d.fillShard(row, i, sorted[ends[k]:ends[k+1]], hashes, pages); !ok {
						found[w], fine[w] = n, false
					}
				}
			}
		})
	}
	work.wait()
	for w := range found {
		if !fine[w] {
			return found[w], false
		}
	}
	return 0, true
}

func (d *ids) fillShard(row, i int, numbers []number, hashes []uint64, pages rows) (twice number, ok bool) {
	if len(numbers) == 0 {
		return 0, true
	}
	if d.rows[row] == nil {
		d.rows[row] = new([1 << shardRow]*shard)
	}
	sh := newShard(shardSize(len(numbers)))
	d.rows[row][i] = sh
	for _, n := range numbers {
		t, id := pages.page(n).record(n & (pageSize - 1)).head()
		if _, there := sh.find(hashes[n], pages, t, alias(id)); there {
			return n, false
		}
		sh.put(hashes[n], n)
	}
	return 0, true
}
