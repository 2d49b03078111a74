package directory

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// errShort: a value extends past the end of its block.
var errShort = errors.New("ends within a value")

// Read reads a snapshot written by WriteTo. A truncated or altered file is rejected, with the place. Memory use is
// bounded by the bytes read: a length alone allocates nothing.
func Read(r io.Reader, l Limits) (*Snapshot, error) {
	f := &fileReader{r: r, sum: sha256.New(), limits: l}
	if err := f.read(); err != nil {
		return nil, fmt.Errorf("directory snapshot: block %d at byte %d: %w", f.blocks, f.start, err)
	}
	f.s.rows.fill(f.s.next, true, f.s.backward)
	f.s.total()
	if f.s.digest != f.digest {
		return nil, fmt.Errorf("directory snapshot: its content has the digest %v, not %v as it says", f.s.digest, f.digest)
	}
	return f.s, nil
}

// fileReader reads a file sequentially. blocks and start are its position, for errors.
type fileReader struct {
	r           io.Reader
	sum         hash.Hash
	limits      Limits
	n, start    int64
	blocks      int
	s           *Snapshot
	digest      digest
	types       []uint16      // by number: the type, with anyBit for a wildcard object
	known       map[edge]bool // what the manifest allows, by edge without object
	last        edge          // most recent key of known
	lastAllowed bool
	before      number // the last object with relations
	page        pageReader
	decoder     *zstd.Decoder
	scratch     []byte
}

const anyBit = 1 << 15

func (f *fileReader) read() error {
	if err := f.magic(); err != nil {
		return err
	}
	var err error
	if f.decoder, err = newDecoder(); err != nil {
		return err
	}
	defer f.decoder.Close()
	b, err := f.next()
	if err != nil {
		return err
	}
	if b.kind != blockHead {
		return fmt.Errorf("is of kind %d, not the head", b.kind)
	}
	if err := f.head(b); err != nil {
		return err
	}
	if b, err = f.objects(); err != nil {
		return err
	}
	for b.kind == blockRelations {
		if err := f.relations(b); err != nil {
			return err
		}
		if b, err = f.next(); err != nil {
			return err
		}
	}
	if b.kind != blockEnd {
		return fmt.Errorf("is of kind %d, which cannot be here", b.kind)
	}
	f.page.endObject()
	f.page.endPage()
	return nil
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
	if v := b[len(fileMagic)]; v != fileVersion {
		return fmt.Errorf("version %d; this gatehouse reads version %d", v, fileVersion)
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

// unpack decompresses the block, into dst if there is room.
func (b *block) unpack(z *zstd.Decoder, dst []byte) (cursor, error) {
	if len(b.stored) == b.length {
		return cursor{rest: b.stored}, nil
	}
	if cap(dst) < b.length {
		dst = make([]byte, 0, b.length)
	}
	out, err := z.DecodeAll(b.stored, dst[:0:b.length])
	if err != nil {
		return cursor{}, fmt.Errorf("cannot be decompressed: %w", err)
	}
	if len(out) != b.length {
		return cursor{}, fmt.Errorf("is %d bytes, not %d as it says", len(out), b.length)
	}
	return cursor{rest: out}, nil
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
	c, err := b.unpack(f.decoder, nil)
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
	f.known = map[edge]bool{}
	return nil
}

// part is a worker's result for a block of objects.
type part struct {
	pages  []*page
	hashes []uint64
	types  []uint16
	err    error
}

// objects reads all blocks of objects, and the block after them. Workers build the pages.
func (f *fileReader) objects() (after block, err error) {
	type job struct {
		b   block
		out *part
	}
	type place struct {
		block int
		start int64
	}
	jobs := make(chan job)
	var work parallel
	for range runtime.GOMAXPROCS(0) {
		work.run(func() {
			w := objectReader{y: f.s.symbols, ids: &f.s.ids}
			defer func() { // senders must not block on a finished reader
				if v := recover(); v != nil {
					work.note(v)
					for range jobs {
					}
				}
			}()
			for j := range jobs {
				w.read(j.b, j.out)
			}
			w.close()
		})
	}
	var parts []*part
	var places []place
	whole, total := true, 0
	for {
		if after, err = f.next(); err != nil || after.kind != blockObjects {
			break
		}
		if total += int(after.count); !whole || total >= maxObjects {
			err = errors.New("objects after the last of them")
			break
		}
		whole = after.count%pageSize == 0
		parts, places = append(parts, &part{}), append(places, place{f.blocks, f.start})
		jobs <- job{after, parts[len(parts)-1]}
	}
	close(jobs)
	work.wait()
	for i, p := range parts {
		if p.err != nil {
			f.blocks, f.start = places[i].block, places[i].start
			return block{}, p.err
		}
	}
	if err != nil {
		return block{}, err
	}
	return after, f.index(parts, total)
}

// index joins the parts and builds the table of ids.
func (f *fileReader) index(parts []*part, total int) error {
	hashes := make([]uint64, 0, total)
	f.types = make([]uint16, 0, total)
	n := 0
	for _, p := range parts {
		for _, made := range p.pages {
			if n%rowSize == 0 {
				f.s.rows = append(f.s.rows, new([rowSize]*page))
			}
			f.s.rows[n/rowSize][n%rowSize] = made
			n++
		}
		hashes, f.types = append(hashes, p.hashes...), append(f.types, p.types...)
	}
	f.s.next = number(total)
	f.page.rows = f.s.rows
	if twice, ok := f.s.ids.fill(hashes, f.s.rows); !ok {
		return fmt.Errorf("object %v %w", f.s.ref(twice), ErrDuplicate)
	}
	return nil
}

// objectReader builds pages from blocks of objects.
type objectReader struct {
	y       *symbols
	ids     *ids
	decoder *zstd.Decoder
	scratch []byte
}

func (w *objectReader) close() {
	if w.decoder != nil {
		w.decoder.Close()
	}
}

func (w *objectReader) read(b block, out *part) {
	if w.decoder == nil {
		if w.decoder, out.err = newDecoder(); out.err != nil {
			return
		}
	}
	c, err := b.unpack(w.decoder, w.scratch)
	if err != nil {
		out.err = err
		return
	}
	w.scratch = c.rest
	for i := 0; i < int(b.count); i += pageSize {
		n := min(pageSize, int(b.count)-i)
		p, err := w.page(&c, n, out)
		if err != nil {
			out.err = fmt.Errorf("object %d of the block: %w", len(out.types)+1, err)
			return
		}
		out.pages = append(out.pages, p)
	}
	out.err = c.done()
}

func (w *objectReader) page(c *cursor, n int, out *part) (*page, error) {
	p := &page{}
	var records [pageSize]record
	size := 0
	for i := range n {
		r := record(c.text())
		if c.err != nil {
			return nil, c.err
		}
		t, err := w.y.checkRecord(r)
		if err != nil {
			return nil, err
		}
		records[i] = r
		size += len(r)
		out.types, out.hashes = append(out.types, t), append(out.hashes, hashRecord(w.ids.seed, r))
	}
	p.bytes = make([]byte, 0, size)
	for i, r := range records {
		p.bytes = append(p.bytes, r...)
		p.ends[i+1] = uint32(len(p.bytes))
		if r != nil {
			p.used |= 1 << i
		}
	}
	return p, nil
}

// checkRecord applies the checks of Builder and Apply to a record, and returns its type.
func (y *symbols) checkRecord(r record) (uint16, error) {
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
