package directory

import "slices"

// txn is a snapshot while a batch changes it. What the batch does not touch it shares with the one before; what it touches it copies, once.
// Its objects and ids are right at each moment, its relations where edges reads them.
type txn struct {
	s      *Snapshot
	drafts map[number]*draft // by the number of the page
	last   *draft            // the one that was asked for last
	lastID number

	ownRows   []uint64 // bits: rows that are copies
	ownTables map[int]bool
	ownIDs    bool
	ownIDRows [len(ids{}.rows)]bool

	come, gone []edge // times at which relations expire
	buf        []byte
}

func (s *Snapshot) begin() *txn {
	next := *s
	next.revision++
	next.rows = slices.Clone(s.rows)
	next.counts.objects, next.counts.relations = slices.Clone(s.counts.objects), slices.Clone(s.counts.relations)
	return &txn{s: &next, drafts: make(map[number]*draft, 4), ownRows: make([]uint64, len(s.rows)/64+1)}
}

// finish is the snapshot.
func (t *txn) finish() *Snapshot {
	t.freeze()
	t.s.times = changeTimes(t.s.times, t.come, t.gone)
	return t.s
}

// maxDrafts bounds what a large batch holds as drafts at once.
const maxDrafts = 4096

// relieve freezes the drafts if there are many. Nobody may hold one.
func (t *txn) relieve() {
	if len(t.drafts) > maxDrafts {
		t.freeze()
	}
}

func (t *txn) freeze() {
	for _, d := range t.drafts {
		t.s.counts.bytes += d.freeze().size()
	}
	clear(t.drafts)
	t.last = nil
}

// draft is the draft of a number's page.
func (t *txn) draft(n number) *draft {
	id := n >> pageBits
	if t.last != nil && t.lastID == id {
		return t.last
	}
	d := t.drafts[id]
	if d == nil {
		d = t.newDraft(n)
		t.drafts[id] = d
	}
	t.last, t.lastID = d, id
	return d
}

func (t *txn) newDraft(n number) *draft {
	i, j := int(n>>(pageBits+rowBits)), (n>>pageBits)&(rowSize-1)
	switch {
	case i == len(t.s.rows):
		t.s.rows = append(t.s.rows, new([rowSize]*page))
		if len(t.ownRows) < i/64+1 {
			t.ownRows = append(t.ownRows, 0)
		}
	case t.ownRows[i/64]&(1<<(i%64)) == 0:
		row := *t.s.rows[i]
		t.s.rows[i] = &row
	}
	t.ownRows[i/64] |= 1 << (i % 64)
	p := new(page)
	if was := t.s.rows[i][j]; was != nil {
		t.s.counts.bytes -= was.size()
		*p = *was
	}
	t.s.rows[i][j] = p
	return &draft{page: p}
}

// edges are the relations of an object as they are now. They may be read until the next change.
func (t *txn) edges(n number) edges {
	if d := t.drafts[n>>pageBits]; d != nil {
		return d.fwd.of(n&(pageSize-1), &d.page.fwd)
	}
	return t.s.forward(n)
}

func (t *txn) hash(n number) uint64 { return hashRecord(t.s.ids.seed, t.s.record(n)) }

// table is the table of a hash, to be changed.
func (t *txn) table(h uint64) *idTable {
	if !t.ownIDs {
		all := *t.s.ids.rows
		t.s.ids.rows, t.ownIDs, t.ownTables = &all, true, map[int]bool{}
	}
	row, i := tableOf(h)
	if was := t.s.ids.rows[row]; was != nil && !t.ownIDRows[row] {
		mine := *was
		t.s.ids.rows[row] = &mine
	}
	t.ownIDRows[row] = true
	out := t.s.ids.own(h)
	if key := row<<tableRow | i; !t.ownTables[key] {
		t.ownTables[key] = true
		out.buckets = slices.Clone(out.buckets)
	}
	return out
}

// countRecord adds an object to the digest, or takes it from it.
func (t *txn) countRecord(n number, add bool) {
	var d digest
	d, t.buf = t.s.symbols.digestRecord(t.buf, t.s.record(n))
	if add {
		t.s.digest.add(d)
	} else {
		t.s.digest.sub(d)
	}
}

// countEdge adds a relation to what is counted, or takes it from it.
func (t *txn) countEdge(object number, e edge, at int64, add bool) {
	s := t.s
	var d digest
	d, t.buf = s.symbols.digestEdge(t.buf, s.record(object), e, s.record(e.other()), at)
	if add {
		s.digest.add(d)
		s.counts.relations[e.rel()]++
		if at != 0 {
			t.come = append(t.come, edge(at))
		}
		return
	}
	s.digest.sub(d)
	s.counts.relations[e.rel()]--
	if at != 0 {
		t.gone = append(t.gone, edge(at))
	}
}

// freeNumbers is a stack of the numbers of deleted objects, in parts that are never written again.
type freeNumbers struct {
	numbers []number
	below   *freeNumbers
}

const freePart = 256

func (t *txn) pushFree(n number) {
	f := t.s.free
	if f == nil || len(f.numbers) == freePart {
		t.s.free = &freeNumbers{numbers: []number{n}, below: f}
		return
	}
	t.s.free = &freeNumbers{numbers: append(slices.Clip(f.numbers), n), below: f.below}
}

func (t *txn) popFree() (number, bool) {
	f := t.s.free
	if f == nil {
		return 0, false
	}
	last := len(f.numbers) - 1
	n := f.numbers[last]
	if t.s.free = f.below; last > 0 {
		t.s.free = &freeNumbers{numbers: f.numbers[:last], below: f.below}
	}
	return n, true
}
