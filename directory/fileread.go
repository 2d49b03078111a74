package directory

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"runtime"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// errShort: a value extends past the end of its block.
var errShort = errors.New("ends within a value")

// Read reads a snapshot written by WriteTo. A truncated or altered file is rejected, with the place. Memory use is
// bounded by the bytes read: a length alone allocates nothing.
func Read(r io.Reader, l Limits) (*Snapshot, error) {
	f := &fileReader{r: r, sum: sha256.New(), limits: l}
	parts, err := f.read()
	if err != nil {
		return nil, fmt.Errorf("directory snapshot: block %d at byte %d: %w", f.blocks, f.start, err)
	}
	if object, twice, found := f.s.rows.relate(parts); found {
		return nil, fmt.Errorf("directory snapshot: %v: %w", f.s.relation(object, twice, 0), ErrDuplicate)
	}
	f.s.total()
	if f.version > 1 && f.s.digest != f.digest {
		return nil, fmt.Errorf("directory snapshot: its content has the digest %v, not %v as it says", f.s.digest, f.digest)
	}
	return f.s, nil
}

// fileReader reads a file sequentially. blocks and start are its position, for errors.
type fileReader struct {
	r        io.Reader
	sum      hash.Hash
	limits   Limits
	version  uint8
	n, start int64
	blocks   int
	s        *Snapshot
	digest   digest
	types    []uint16 // by number: the type, with anyBit for a wildcard object
	before   number   // in version 1: the last object of the block before
}

const anyBit = 1 << 15

func (f *fileReader) read() (parts []rawPart, err error) {
	if err := f.magic(); err != nil {
		return nil, err
	}
	b, err := f.next()
	if err != nil {
		return nil, err
	}
	if b.kind != blockHead {
		return nil, fmt.Errorf("is of kind %d, not the head", b.kind)
	}
	if err := f.head(b); err != nil {
		return nil, err
	}
	if b, err = f.next(); err != nil {
		return nil, err
	}
	if b, err = f.objects(b); err != nil {
		return nil, err
	}
	workers := runtime.GOMAXPROCS(0)
	if f.version == 1 {
		workers = 1 // a block needs the one before it
	}
	parts, b, err = readBlocks(f, b, blockRelations, workers, func(block) error { return nil }, f.relations)
	if err == nil && b.kind != blockEnd {
		err = fmt.Errorf("is of kind %d, which cannot be here", b.kind)
	}
	return parts, err
}

func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecodeAllCapLimit(true))
}

func (f *fileReader) magic() error {
	var b [len(fileMagic) + 1]byte
	if err := f.full(b[:]); err != nil {
		return err
	}
	if string(b[:len(fileMagic)]) != fileMagic {
		return errors.New("this is no directory snapshot")
	}
	if f.version = b[len(fileMagic)]; f.version < 1 || f.version > fileVersion {
		return fmt.Errorf("version %d; this gatehouse reads versions 1 to %d: import the directory again", f.version, fileVersion)
	}
	return nil
}

// full reads exactly len(b) bytes.
func (f *fileReader) full(b []byte) error {
	n, err := io.ReadFull(f.r, b)
	f.n += int64(n)
	f.sum.Write(b[:n])
	return cut(err)
}

// cut turns an early end into an error.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the file is cut short")
	}
	return err
}

// next reads a block without decompressing it. It verifies the end block.
func (f *fileReader) next() (block, error) {
	sum := f.sum.Sum(nil)
	f.blocks++
	f.start = f.n
	var p [blockPrefix]byte
	if err := f.full(p[:]); err != nil {
		return block{}, err
	}
	b := block{kind: p[0], count: binary.LittleEndian.Uint32(p[1:])}
	length, stored := binary.LittleEndian.Uint32(p[5:]), binary.LittleEndian.Uint32(p[9:])
	if length > maxBlock || !plausible(int(length), int(stored)) {
		return block{}, fmt.Errorf("cannot be %d bytes, stored as %d", length, stored)
	}
	if int(b.count) > int(length) {
		return block{}, fmt.Errorf("cannot have %d entries in %d bytes", b.count, length)
	}
	var err error
	if b.stored, err = f.bytes(int(stored)); err != nil {
		return block{}, err
	}
	b.length = int(length)
	if b.kind == blockEnd {
		return b, f.end(b, sum)
	}
	return b, nil
}

// bytes reads n bytes, and allocates as they arrive.
func (f *fileReader) bytes(n int) ([]byte, error) {
	if n <= blockSize {
		b := make([]byte, n)
		return b, f.full(b)
	}
	var b bytes.Buffer
	got, err := io.CopyN(io.MultiWriter(&b, f.sum), f.r, int64(n))
	f.n += got
	return b.Bytes(), cut(err)
}

func (f *fileReader) end(b block, sum []byte) error {
	if b.count != 0 || b.length != len(sum) || !bytes.Equal(b.stored, sum) {
		return errors.New("the checksum is not that of the file: it was changed, or damaged")
	}
	var more [1]byte
	if n, err := io.ReadFull(f.r, more[:]); n > 0 {
		return errors.New("more follows after the end")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// unpacker decompresses blocks. What it returns is valid until the next one.
type unpacker struct {
	decoder *zstd.Decoder
	scratch []byte
}

func (u *unpacker) close() {
	if u.decoder != nil {
		u.decoder.Close()
	}
}

func (u *unpacker) unpack(b block) (cursor, error) {
	if len(b.stored) == b.length {
		return cursor{rest: b.stored}, nil
	}
	if u.decoder == nil {
		var err error
		if u.decoder, err = newDecoder(); err != nil {
			return cursor{}, err
		}
	}
	if cap(u.scratch) < b.length {
		u.scratch = make([]byte, 0, b.length)
	}
	out, err := u.decoder.DecodeAll(b.stored, u.scratch[:0:b.length])
	if err != nil {
		return cursor{}, fmt.Errorf("cannot be decompressed: %w", err)
	}
	if len(out) != b.length {
		return cursor{}, fmt.Errorf("is %d bytes, not %d as it says", len(out), b.length)
	}
	return cursor{rest: out}, nil
}

// readBlocks reads all blocks of one kind, of which b is the first, and returns the one after them. accept checks them
// in order; workers decode them.
func readBlocks[T any](f *fileReader, b block, kind uint8, workers int, accept func(block) error,
	decode func(*unpacker, block) (T, error)) (parts []T, after block, err error) {
	type job struct {
		block
		blocks int
		start  int64
		part   T
		err    error
	}
	var all []*job
	var work parallel
	var failed atomic.Bool
	jobs := make(chan *job)
	for range workers {
		work.run(func() {
			var u unpacker
			defer u.close()
			defer func() { // senders must not block on a finished worker
				if v := recover(); v != nil {
					work.note(v)
					for range jobs {
					}
				}
			}()
			for j := range jobs {
				if j.part, j.err = decode(&u, j.block); j.err != nil {
					failed.Store(true)
				}
				j.stored = nil
			}
		})
	}
	for b.kind == kind && !failed.Load() {
		if err = accept(b); err != nil {
			break
		}
		all = append(all, &job{block: b, blocks: f.blocks, start: f.start})
		jobs <- all[len(all)-1]
		if b, err = f.next(); err != nil {
			break
		}
	}
	close(jobs)
	work.wait()
	for _, j := range all {
		if j.err != nil {
			f.blocks, f.start = j.blocks, j.start
			return nil, block{}, j.err
		}
		parts = append(parts, j.part)
	}
	return parts, b, err
}

// cursor reads values from a block. After the first error all values are 0.
type cursor struct {
	rest []byte
	err  error
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.rest)
	if n <= 0 {
		c.fail(errShort)
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

// upTo reads a number and rejects one above limit.
func (c *cursor) upTo(limit int, what string) int {
	v := c.uvarint()
	if v > uint64(limit) {
		c.fail(fmt.Errorf("%s is %d; %d at most are possible here", what, v, limit))
		return 0
	}
	return int(v)
}

func (c *cursor) take(n int) []byte {
	if n > len(c.rest) {
		c.fail(errShort)
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) text() []byte { return c.take(c.upTo(len(c.rest), "a length")) }

func (c *cursor) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.rest = nil
}

// done returns the error, also for trailing bytes.
func (c *cursor) done() error {
	if c.err == nil && len(c.rest) > 0 {
		return fmt.Errorf("has %d bytes too many", len(c.rest))
	}
	return c.err
}

func (f *fileReader) head(b block) error {
	var u unpacker
	defer u.close()
	c, err := u.unpack(b)
	if err != nil {
		return err
	}
	revision := c.uvarint()
	var sum [sha256.Size]byte
	copy(sum[:], c.take(sha256.Size))
	text := bytes.Clone(c.text())
	y := &symbols{types: make([]typeSymbol, 1), rels: make([]relSymbol, 1), ids: map[string]typeID{}}
	for range c.upTo(min(len(c.rest), anyBit-1), "the number of types") {
		y.addType(string(c.text()))
	}
	for range c.upTo(min(len(c.rest), 1<<16-2), "the number of relations") {
		t := c.upTo(len(y.types)-1, "a relation's type")
		if name := string(c.text()); t > 0 {
			y.addRel(typeID(t), name)
		}
	}
	if err := c.done(); err != nil {
		return err
	}
	m, err := ParseManifest("the snapshot's manifest", text)
	if err != nil {
		return err
	}
	f.digest = digestFrom(sum)
	f.s = &Snapshot{revision: revision, limits: f.limits, manifest: m, symbols: y.with(m), ids: newIDs(), digest: digestManifest(m)}
	f.s.fit()
	return nil
}

// objectPart is a block of objects.
type objectPart struct {
	pages  []*page
	hashes []uint64
	types  []uint16
}

// objects reads all blocks of objects. Workers make the pages.
func (f *fileReader) objects(b block) (after block, err error) {
	whole, total := true, 0
	parts, after, err := readBlocks(f, b, blockObjects, runtime.GOMAXPROCS(0), func(b block) error {
		if total += int(b.count); !whole || total >= maxObjects {
			return errors.New("objects after the last of them")
		}
		whole = b.count%pageSize == 0
		return nil
	}, f.objectPart)
	if err != nil {
		return block{}, err
	}
	hashes := make([]uint64, 0, total)
	f.types = make([]uint16, 0, total)
	n := 0
	for _, p := range parts {
		for _, made := range p.pages {
			if n%rowSize == 0 {
				f.s.rows = append(f.s.rows, new(row))
			}
			f.s.rows[n/rowSize][n%rowSize] = made
			n++
		}
		hashes, f.types = append(hashes, p.hashes...), append(f.types, p.types...)
	}
	f.s.next = number(total)
	if twice, found := f.s.ids.fill(hashes, f.s.rows); found {
		return block{}, fmt.Errorf("object %v %w", f.s.ref(twice), ErrDuplicate)
	}
	return after, nil
}

func (f *fileReader) objectPart(u *unpacker, b block) (out objectPart, err error) {
	c, err := u.unpack(b)
	if err != nil {
		return out, err
	}
	for i := 0; i < int(b.count); i += pageSize {
		p, err := f.objectPage(&c, min(pageSize, int(b.count)-i), &out)
		if err != nil {
			return out, fmt.Errorf("object %d of the block: %w", len(out.types)+1, err)
		}
		out.pages = append(out.pages, p)
	}
	return out, c.done()
}

func (f *fileReader) objectPage(c *cursor, n int, out *objectPart) (*page, error) {
	p := &page{}
	var records [pageSize][]byte
	size := 0
	for i := range n {
		r := c.text()
		if c.err != nil {
			return nil, c.err
		}
		t, err := f.s.symbols.checkRecord(r)
		if err != nil {
			return nil, err
		}
		records[i] = r
		size += len(r)
		out.types, out.hashes = append(out.types, t), append(out.hashes, hashRecord(f.s.ids.seed, record(alias(r))))
	}
	all := make([]byte, 0, size)
	for i, r := range records {
		all = append(all, r...)
		p.starts[i+1].record = uint32(len(all))
		if i < n {
			p.used |= 1 << i
		}
	}
	p.records = alias(all)
	return p, nil
}

// relations reads a block of relations.
func (f *fileReader) relations(u *unpacker, b block) (out rawPart, err error) {
	c, err := u.unpack(b)
	if err != nil {
		return out, err
	}
	out.edges = make([]rawEdge, 0, min(int(b.count), len(c.rest)))
	n := uint64(f.before)
	for first := true; len(c.rest) > 0; first = false {
		gap := c.upTo(math.MaxInt32, "the distance to the next object")
		if c.err != nil {
			break
		}
		if gap == 0 && !first {
			return out, fmt.Errorf("object %d comes twice", n)
		}
		if n += uint64(gap); n >= uint64(f.s.next) {
			return out, fmt.Errorf("relations of object %d of %d", n, f.s.next)
		}
		for more := true; more && c.err == nil; {
			if more, err = f.run(&c, number(n), &out); err != nil {
				return out, fmt.Errorf("relations of %v: %w", f.s.ref(number(n)), err)
			}
		}
	}
	if f.version == 1 {
		f.before = number(n)
	}
	if c.err == nil && len(out.edges) != int(b.count) {
		return out, fmt.Errorf("has %d relations, not %d as it says", len(out.edges), b.count)
	}
	return out, c.done()
}

// run reads relations of an object, and reports whether there may be more.
func (f *fileReader) run(c *cursor, object number, out *rawPart) (more bool, err error) {
	rels := f.s.symbols.rels
	rel := relID(c.upTo(len(rels)-1, "a relation"))
	if rel == 0 {
		return false, c.err
	}
	sub := relID(c.upTo(len(rels)-1, "a subject relation"))
	count := c.upTo(2*len(c.rest)+1, "a number of relations")
	if c.err == nil && count < 2 {
		c.fail(errors.New("no relations where some are due"))
	}
	if c.err != nil {
		return false, c.err
	}
	of := f.types[object]
	possible := of&anyBit == 0 && rels[rel].declared && rels[rel].typ == typeID(of)
	from, subject := len(out.edges), uint64(0)
	var checked uint16 // the type of the last subject, which is allowed; 0: none
	for range count >> 1 {
		subject += uint64(c.upTo(math.MaxInt32, "the distance to the next subject"))
		if c.err != nil {
			return false, c.err
		}
		if subject >= uint64(f.s.next) {
			return false, fmt.Errorf("subject %d of %d", subject, f.s.next)
		}
		if t := f.types[subject]; t != checked {
			if !possible || !f.s.symbols.allows(rel, typeID(t&^anyBit), sub, t&anyBit != 0) {
				return false, fmt.Errorf("relation to %v: %w", f.s.ref(number(subject)), ErrNotAllowed)
			}
			checked = t
		}
		out.add(rawEdge{object, number(subject), rel, sub}, 0)
	}
	if count&1 == 0 {
		return true, nil
	}
	if out.at == nil {
		out.at = make([]int64, len(out.edges), cap(out.edges))
	}
	for i := from; i < len(out.edges); i++ {
		out.at[i] = int64(c.upTo(endOfTime, "a time"))
	}
	return true, c.err
}

// checkRecord applies the checks of Builder and Apply to a record, and returns its type.
func (y *symbols) checkRecord(r []byte) (uint16, error) {
	c := cursor{rest: r}
	t := c.upTo(len(y.types)-1, "the type")
	id := c.text()
	name := c.text()
	if c.err != nil {
		return 0, c.err
	}
	if t == 0 || !y.types[t].declared {
		return 0, fmt.Errorf("%w: number %d", ErrUnknownType, t)
	}
	if string(id) == wildcard {
		if len(name)+len(c.rest) > 0 {
			return 0, invalid(`"*" is no object`)
		}
		return uint16(t) | anyBit, nil
	}
	if err := checkID(alias(id)); err != nil {
		return 0, err
	}
	if err := checkName(alias(name)); err != nil {
		return 0, err
	}
	if len(c.rest) == 0 {
		return uint16(t), nil
	}
	if string(c.rest) == "{}" {
		return 0, invalid("properties are {}, which is none")
	}
	return uint16(t), checkProperties(c.rest)
}
