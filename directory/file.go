package directory

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math"
	"math/bits"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// HeadBytes is how many bytes IsSnapshot needs.
const HeadBytes = len(fileMagic)

// IsSnapshot reports whether a file with this beginning is a binary snapshot of WriteTo.
func IsSnapshot(head []byte) bool {
	return len(head) >= HeadBytes && string(head[:HeadBytes]) == fileMagic
}

// A file of a snapshot is a magic text and a version, blocks, and a checksum:
//
//	gatehdir 1
//	kind (1 byte), count (4), length (4), stored length (4), stored bytes: zstd, or as they are where the two lengths are the same
//
// Numbers of fixed size are little-endian, others are uvarints. The kinds follow each other in this order:
//
//	head       revision, digest, manifest, names of types, names of relations with their type; one block
//	objects    records with their lengths. An object's number is its place. All but the last have a multiple of 64
//	relations  of objects in order of their numbers: the distance to the object before, then runs of one relation and subject relation:
//	           both, twice the count plus one if there are times, distances of the subjects' numbers, times; 0 for the relation ends an object
//	end        SHA-256 of everything before this block
const (
	fileMagic   = "gatehdir"
	fileVersion = 1

	blockHead      = 1
	blockObjects   = 2
	blockRelations = 3
	blockEnd       = 4

	blockPrefix = 13
	blockSize   = 1 << 20  // the writer ends a block at this size
	maxBlock    = 20 << 20 // 64 objects of maximum size, and a block
	maxRatio    = 256      // maximum compression ratio, so that a small file cannot take much memory
	minRatio    = 1 << 16  // up to this length the ratio is not checked
	maxRun      = 4 << 10  // relations of a run, to keep blocks small
)

// WriteTo writes the snapshot in the format of Read.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	f, err := newFileWriter(w)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.zstd.Close() }() // its output is already written
	f.add(s.fileHead())
	ranks := s.ranks()
	s.writeObjects(f)
	s.writeRelations(f, ranks)
	return f.finish()
}

func (s *Snapshot) fileHead() block {
	b := binary.AppendUvarint(nil, s.revision)
	sum := s.digest.bytes()
	b = append(b, sum[:]...)
	b = appendText(b, s.manifest.Text())
	b = binary.AppendUvarint(b, uint64(len(s.symbols.types)-1))
	for _, t := range s.symbols.types[1:] {
		b = appendText(b, t.name)
	}
	b = binary.AppendUvarint(b, uint64(len(s.symbols.rels)-1))
	for _, r := range s.symbols.rels[1:] {
		b = binary.AppendUvarint(b, uint64(r.typ))
		b = appendText(b, r.name)
	}
	return block{kind: blockHead, raw: b}
}

// ranks is the number of objects before each page: a file has no unused numbers.
func (s *Snapshot) ranks() []number {
	out := make([]number, len(s.rows)*rowSize+1)
	n := number(0)
	s.rows.each(func(first number, p *page) bool {
		out[first>>pageBits] = n
		n += number(bits.OnesCount64(p.used))
		return true
	})
	return out
}

func (s *Snapshot) rank(ranks []number, n number) number {
	below := s.rows.page(n).used & (1<<(n&(pageSize-1)) - 1)
	return ranks[n>>pageBits] + number(bits.OnesCount64(below))
}

func (s *Snapshot) writeObjects(f *fileWriter) {
	b := block{kind: blockObjects}
	s.eachObject(func(n number, p *page) bool {
		b.raw = appendText(b.raw, p.record(n&(pageSize-1)))
		b.count++
		if b.count%pageSize == 0 && len(b.raw) >= blockSize {
			f.add(b)
			b = block{kind: blockObjects}
		}
		return f.err == nil
	})
	f.add(b)
}

func (s *Snapshot) writeRelations(f *fileWriter, ranks []number) {
	b := block{kind: blockRelations}
	last := number(0)
	s.eachObject(func(n number, p *page) bool {
		span := p.fwd.of(n & (pageSize - 1)).all()
		if span.len() == 0 {
			return true
		}
		rank := s.rank(ranks, n)
		b.raw = binary.AppendUvarint(b.raw, uint64(rank-last))
		last = rank
		var r run
		for e, at, ok := span.step(); ok; e, at, ok = span.step() {
			e = makeEdge(e.rel(), e.sub(), s.rank(ranks, e.other()))
			if len(r.edges) == maxRun || len(r.edges) > 0 && r.edges[0]>>32 != e>>32 {
				r.flush(&b)
				if len(b.raw) >= blockSize { // the object continues in the next block, at distance 0
					f.add(b.end())
					b = block{kind: blockRelations, raw: []byte{0}}
				}
			}
			r.add(e, at)
		}
		r.flush(&b)
		if b = b.end(); len(b.raw) >= blockSize {
			f.add(b)
			b = block{kind: blockRelations}
		}
		return f.err == nil
	})
	f.add(b)
}

// run is relations of one object that differ only in their subjects.
type run struct {
	edges []edge
	at    []int64
	times bool
}

func (r *run) add(e edge, at int64) {
	r.edges, r.at = append(r.edges, e), append(r.at, at)
	r.times = r.times || at != 0
}

func (r *run) flush(b *block) {
	if len(r.edges) == 0 {
		return
	}
	count := uint64(len(r.edges)) << 1
	if r.times {
		count |= 1
	}
	b.count += uint32(len(r.edges))
	b.raw = binary.AppendUvarint(b.raw, uint64(r.edges[0].rel()))
	b.raw = binary.AppendUvarint(b.raw, uint64(r.edges[0].sub()))
	b.raw = binary.AppendUvarint(b.raw, count)
	last := number(0)
	for _, e := range r.edges {
		b.raw = binary.AppendUvarint(b.raw, uint64(e.other()-last))
		last = e.other()
	}
	if r.times {
		for _, at := range r.at {
			b.raw = binary.AppendUvarint(b.raw, uint64(at))
		}
	}
	*r = run{edges: r.edges[:0], at: r.at[:0]}
}

// block is a part of a file. count is its objects, or relations.
type block struct {
	kind        uint8
	count       uint32
	length      int // of raw, before decompression
	raw, stored []byte
}

// end marks the end of an object's relations.
func (b block) end() block {
	b.raw = append(b.raw, 0)
	return b
}

func (b *block) prefix() []byte {
	p := append(make([]byte, 0, blockPrefix), b.kind)
	p = binary.LittleEndian.AppendUint32(p, b.count)
	p = binary.LittleEndian.AppendUint32(p, uint32(len(b.raw)))
	return binary.LittleEndian.AppendUint32(p, uint32(len(b.stored)))
}

// fileWriter compresses several blocks concurrently, and writes them in order. err is the first error; nothing is
// written after it.
type fileWriter struct {
	w       io.Writer
	sum     hash.Hash
	zstd    *zstd.Encoder
	waiting []block
	n       int64
	err     error
}

func newFileWriter(w io.Writer) (*fileWriter, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	f := &fileWriter{w: w, sum: sha256.New(), zstd: z}
	f.write([]byte(fileMagic))
	f.write([]byte{fileVersion})
	return f, nil
}

func (f *fileWriter) write(b []byte) {
	if f.err != nil {
		return
	}
	var n int
	n, f.err = f.w.Write(b)
	f.n += int64(n)
	f.sum.Write(b)
}

func (f *fileWriter) add(b block) {
	f.waiting = append(f.waiting, b)
	if len(f.waiting) >= runtime.GOMAXPROCS(0) {
		f.flush()
	}
}

func (f *fileWriter) flush() {
	var work parallel
	for i := range f.waiting {
		work.run(func() { f.waiting[i].compress(f.zstd) })
	}
	work.wait()
	for _, b := range f.waiting {
		f.write(b.prefix())
		f.write(b.stored)
	}
	f.waiting = f.waiting[:0]
}

func (b *block) compress(z *zstd.Encoder) {
	b.stored = z.EncodeAll(b.raw, nil)
	if len(b.stored) >= len(b.raw) || !plausible(len(b.raw), len(b.stored)) {
		b.stored = b.raw
	}
}

// plausible reports whether a block of this length may have so few stored bytes.
func plausible(raw, stored int) bool {
	return raw <= maxBlock && stored <= raw && (raw <= minRatio || raw/maxRatio <= stored)
}

func (f *fileWriter) finish() (int64, error) {
	f.flush()
	sum := f.sum.Sum(nil)
	end := block{kind: blockEnd, raw: sum, stored: sum}
	f.write(end.prefix())
	f.write(sum)
	if f.err != nil {
		return f.n, fmt.Errorf("writing a directory snapshot: %w", f.err)
	}
	return f.n, nil
}

// pageReader collects the relations of one page, which arrive in order.
type pageReader struct {
	rows   rows
	slot   number // of the current object in the current page
	page   *page
	object list // the current object's relations
	list   list // those of the page's previous objects
}

// to advances to an object's page and slot. Numbers never decrease.
func (r *pageReader) to(n number) {
	p := r.rows.page(n)
	slot := n & (pageSize - 1)
	if p == r.page && slot == r.slot {
		return
	}
	r.endObject()
	if p != r.page {
		r.endPage()
		r.page, r.slot = p, 0
	}
	for ; r.slot < slot; r.slot++ {
		p.fwd.ends[r.slot+1] = uint16(len(r.list.edges))
	}
}

func (r *pageReader) endObject() {
	if r.page == nil {
		return
	}
	if len(r.object.edges) > hubMin {
		r.page.fwd.hubs = append(r.page.fwd.hubs, slotHub{uint8(r.slot), newHub(r.object)})
	} else {
		r.list.add(r.object)
	}
	r.object.edges = r.object.edges[:0]
	r.object.at = nil
	r.page.fwd.ends[r.slot+1] = uint16(len(r.list.edges))
	r.slot++
}

func (r *pageReader) endPage() {
	if r.page == nil {
		return
	}
	d := &r.page.fwd
	for ; r.slot < pageSize; r.slot++ {
		d.ends[r.slot+1] = uint16(len(r.list.edges))
	}
	if !r.list.expiring() {
		r.list.at = nil
	}
	d.list = r.list.clone(0)
	r.list = list{edges: r.list.edges[:0]}
}

// relations reads a block of relations.
func (f *fileReader) relations(b block) error {
	c, err := b.unpack(f.decoder, f.scratch)
	if err != nil {
		return err
	}
	f.scratch = c.rest
	count := 0
	for first := true; len(c.rest) > 0 && c.err == nil; first = false {
		gap := c.upTo(math.MaxInt32, "the distance to the next object")
		if gap == 0 && !first {
			return fmt.Errorf("object %d comes twice", f.before)
		}
		n := uint64(f.before) + uint64(gap)
		if n >= uint64(f.s.next) {
			return fmt.Errorf("relations of object %d of %d", n, f.s.next)
		}
		f.before = number(n)
		f.page.to(f.before)
		for c.err == nil {
			n, err := f.run(&c)
			if err != nil {
				return fmt.Errorf("relations of %v: %w", f.s.ref(f.before), err)
			}
			if n == 0 {
				break
			}
			count += n
		}
	}
	if c.err == nil && count != int(b.count) {
		return fmt.Errorf("has %d relations, not %d as it says", count, b.count)
	}
	return c.done()
}

// run reads relations of the current object, and returns their number.
func (f *fileReader) run(c *cursor) (int, error) {
	rel := relID(c.upTo(len(f.s.symbols.rels)-1, "a relation"))
	if rel == 0 {
		return 0, c.err
	}
	sub := relID(c.upTo(len(f.s.symbols.rels)-1, "a subject relation"))
	count := c.upTo(2*len(c.rest)+1, "a number of relations")
	if c.err == nil && count < 2 {
		c.fail(fmt.Errorf("no relations where some are due"))
	}
	l := &f.page.object
	from, subject := len(l.edges), uint64(0)
	for range count >> 1 {
		subject += uint64(c.upTo(math.MaxInt32, "the distance to the next subject"))
		if c.err != nil {
			return 0, c.err
		}
		if subject >= uint64(f.s.next) {
			return 0, fmt.Errorf("subject %d of %d", subject, f.s.next)
		}
		e := makeEdge(rel, sub, number(subject))
		if n := len(l.edges); n > 0 && l.edges[n-1] >= e {
			return 0, fmt.Errorf("relation to %v: %w, or out of order", f.s.ref(e.other()), ErrDuplicate)
		}
		if !f.allows(e) {
			return 0, fmt.Errorf("relation to %v: %w", f.s.ref(e.other()), ErrNotAllowed)
		}
		l.edges = append(l.edges, e)
		if l.at != nil {
			l.at = append(l.at, 0)
		}
	}
	if count&1 == 0 {
		return count >> 1, c.err
	}
	if l.at == nil {
		l.at = make([]int64, len(l.edges))
	}
	for i := from; i < len(l.edges); i++ {
		l.at[i] = int64(c.upTo(endOfTime, "a time"))
	}
	return count >> 1, c.err
}

// allows reports whether the manifest allows an edge of the current object. Results are cached: edges are many, kinds
// few.
func (f *fileReader) allows(e edge) bool {
	object, subject := f.types[f.before], f.types[e.other()]
	rels := f.s.symbols.rels
	if object&anyBit != 0 || !rels[e.rel()].declared || rels[e.rel()].typ != typeID(object) {
		return false
	}
	kind := e&^math.MaxUint32 | edge(subject)
	if kind == f.last {
		return f.lastAllowed
	}
	ok, looked := f.known[kind]
	if !looked {
		typ := typeID(subject &^ anyBit)
		ok = f.s.symbols.allows(e.rel(), typ, e.sub(), subject&anyBit != 0)
		f.known[kind] = ok
	}
	f.last, f.lastAllowed = kind, ok
	return ok
}
