package directory

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
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
//	gatehdir 2
//	kind (1 byte), count (4), length (4), stored length (4), stored bytes: zstd, or as they are where the two lengths are the same
//
// Numbers of fixed size are little-endian, others are uvarints. The kinds follow each other in this order:
//
//	head       revision, digest, manifest, names of types, names of relations with their type; one block
//	objects    records with their lengths. An object's number is its place. All but the last have a multiple of 64
//	relations  of objects in order of their numbers: the distance to the object before in the block, for the first one the number,
//	           then runs of one relation and subject relation: both, twice the count plus one if there are times, distances of the
//	           subjects' numbers, times; 0 for the relation ends an object
//	end        SHA-256 of everything before this block
//
// Version 1 counts the first object of a block from the last one of the block before, and has another kind of digest in its head.
const (
	fileMagic   = "gatehdir"
	fileVersion = 2

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
	var b block
	last := number(0)
	// begin names an object, and ends the block before it where that is large enough.
	begin := func(rank number) {
		if len(b.raw) >= blockSize {
			f.add(b)
			b = block{}
		}
		if b.raw == nil { // a block can be read without those before it
			b.kind, last = blockRelations, 0
		}
		b.raw = binary.AppendUvarint(b.raw, uint64(rank-last))
		last = rank
	}
	s.eachObject(func(n number, p *page) bool {
		span := p.forward(n & (pageSize - 1)).all()
		if span.len() == 0 {
			return true
		}
		rank := s.rank(ranks, n)
		begin(rank)
		var r run
		for e, at, ok := span.step(); ok; e, at, ok = span.step() {
			e = makeEdge(e.rel(), e.sub(), s.rank(ranks, e.other()))
			if len(r.edges) == maxRun || len(r.edges) > 0 && r.edges[0]>>32 != e>>32 {
				r.flush(&b)
				if len(b.raw) >= blockSize { // the object continues in the next block
					b = b.end()
					begin(rank)
				}
			}
			r.add(e, at)
		}
		r.flush(&b)
		b = b.end()
		return f.err == nil
	})
	if b.raw != nil {
		f.add(b)
	}
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
