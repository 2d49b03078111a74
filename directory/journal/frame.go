package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"gatehouse/directory"
)

// A journal is a head, its length, and frames, one after the other:
//
//	gatehjnl 2, revision (8) and digest (32) of the snapshot after which it begins, checksum of these (4)
//	length that the journal has at least (8), checksum of it and of revision and digest (4)
//	"GHJF", length of the payload (4), checksum of the payload (4), checksum of these (4); payload
//
// Numbers of fixed size are little-endian, checksums are CRC-32C. A frame is what one flush to the disk made durable: a frame that another one
// follows was on the disk, whole. Its payload is the revision and the digest of the directory after it, the time in milliseconds, and entries,
// each of them one write.
//
// The length is written after each flush, and reaches the disk with the next one, or a moment later. It tells an unfinished frame, which
// nobody was told of, from frames that a disk or file system lost: those are below it. Head and length are in one sector, which disks write
// whole. Version 1 has no length.
const (
	magic   = "gatehjnl"
	version = 2

	oldSize   = len(magic) + 1 + 8 + digestSize + 4 // of version 1, and where the length is
	headSize  = oldSize + lengthSize
	frameMark = "GHJF"
	frameHead = 16
	maxFrame  = 64 << 20

	digestSize = 32
	lengthSize = 12
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// head is the start of a journal.
type head struct {
	revision uint64
	digest   [digestSize]byte
}

// bytes is the head of a journal of that length.
func (h head) bytes(length int64) []byte {
	b := append([]byte(magic), version)
	b = binary.LittleEndian.AppendUint64(b, h.revision)
	b = append(b, h.digest[:]...)
	b = binary.LittleEndian.AppendUint32(b, checksum(b))
	return append(b, h.length(length)...)
}

// length is the part of the head that says how long the journal is at least.
func (h head) length(n int64) []byte {
	sum := checksum(h.digest[:]) ^ uint32(h.revision)
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, lengthSize), uint64(n))
	return binary.LittleEndian.AppendUint32(b, checksum(b)^sum)
}

var (
	errHead   = errors.New("this is not the beginning of a journal, or it is damaged")
	errLength = errors.New("what it says of its own length is damaged, so that it is not known whether anything is missing at its end")
)

// start is what a journal begins with.
type start struct {
	head
	size   int   // of it
	length int64 // that the journal has at least
}

// parseStart returns an error with the offset of what is wrong.
func parseStart(b []byte) (is start, err error) {
	if len(b) < oldSize || string(b[:len(magic)]) != magic {
		return is, fmt.Errorf("offset 0: %w", errHead)
	}
	v := b[len(magic)]
	if v != 1 && v != version {
		return is, fmt.Errorf("offset 0: a journal of version %d: this release reads versions 1 and %d", v, version)
	}
	if binary.LittleEndian.Uint32(b[oldSize-4:]) != checksum(b[:oldSize-4]) {
		return is, fmt.Errorf("offset 0: %w", errHead)
	}
	is.revision = binary.LittleEndian.Uint64(b[len(magic)+1:])
	copy(is.digest[:], b[len(magic)+9:])
	if is.size = oldSize; v == 1 {
		return is, nil
	}
	if is.size = headSize; len(b) >= headSize {
		is.length = int64(binary.LittleEndian.Uint64(b[oldSize:]))
	}
	if len(b) < headSize || is.length < int64(headSize) || !bytes.Equal(is.head.length(is.length), b[oldSize:headSize]) {
		return is, fmt.Errorf("offset %d: %w", oldSize, errLength)
	}
	return is, nil
}

// frame is the unit that one flush makes durable.
type frame struct {
	revision uint64
	digest   [digestSize]byte
	at       time.Time
	entries  []entry
}

// entry is one write: changes, or a manifest.
type entry struct {
	by       string
	changes  []directory.Change
	manifest []byte // its text
	force    bool   // drop data that the manifest does not allow
}

// The kinds of entries, and of changes.
const (
	kindChanges       = 1
	kindManifest      = 2
	kindManifestForce = 3

	opSetObject      = 1
	opDeleteObject   = 2
	opSetRelation    = 3
	opDeleteRelation = 4
)

// appendFrame encodes a frame with its head.
func appendFrame(to []byte, f *frame) ([]byte, error) {
	from := len(to)
	to = append(to, make([]byte, frameHead)...)
	to = binary.AppendUvarint(to, f.revision)
	to = append(to, f.digest[:]...)
	to = binary.AppendVarint(to, f.at.UnixMilli())
	to = binary.AppendUvarint(to, uint64(len(f.entries)))
	for i := range f.entries {
		to = f.entries[i].appendTo(to)
	}
	payload := to[from+frameHead:]
	if len(payload) > maxFrame {
		return nil, fmt.Errorf("%d bytes at once: %d are possible", len(payload), maxFrame)
	}
	h := to[from : from+frameHead]
	copy(h, frameMark)
	binary.LittleEndian.PutUint32(h[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(h[8:], checksum(payload))
	binary.LittleEndian.PutUint32(h[12:], checksum(h[:12]))
	return to, nil
}

func (e *entry) appendTo(to []byte) []byte {
	to = appendText(to, e.by)
	if e.manifest != nil {
		kind := byte(kindManifest)
		if e.force {
			kind = kindManifestForce
		}
		return appendText(append(to, kind), e.manifest)
	}
	to = binary.AppendUvarint(append(to, kindChanges), uint64(len(e.changes)))
	for i := range e.changes {
		to = appendChange(to, &e.changes[i])
	}
	return to
}

func appendText[T ~string | ~[]byte](to []byte, s T) []byte {
	return append(binary.AppendUvarint(to, uint64(len(s))), s...)
}

func appendRef(to []byte, r directory.Ref) []byte { return appendText(appendText(to, r.Type), r.ID) }

func appendChange(to []byte, c *directory.Change) []byte {
	switch {
	case c.SetObject != nil:
		to = appendRef(append(to, opSetObject), c.SetObject.Ref)
		to = appendText(to, c.SetObject.DisplayName)
		return appendText(to, c.SetObject.Properties)
	case c.DeleteObject != nil:
		return appendRef(append(to, opDeleteObject), *c.DeleteObject)
	case c.SetRelation != nil:
		to = appendRelation(append(to, opSetRelation), c.SetRelation)
		at := int64(0)
		if !c.SetRelation.Expires.IsZero() {
			at = c.SetRelation.Expires.Unix()
		}
		return binary.AppendVarint(to, at)
	}
	return appendRelation(append(to, opDeleteRelation), c.DeleteRelation)
}

func appendRelation(to []byte, r *directory.Relation) []byte {
	to = appendText(appendRef(to, r.Object), r.Relation)
	return appendText(appendRef(to, r.Subject), r.SubjectRelation)
}

// errFrame: a payload has a valid checksum and invalid content.
var errFrame = errors.New("the record has another form than this release writes")

// cursor reads a payload. After an error it returns zeros.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail() {
	c.b, c.err = nil, errFrame
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) varint() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) bytes(n uint64) []byte {
	if n > uint64(len(c.b)) {
		c.fail()
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) byte() byte {
	b := c.bytes(1)
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

// raw is a text's bytes, copied.
func (c *cursor) raw() []byte { return bytes.Clone(c.bytes(c.uvarint())) }

func (c *cursor) text() string { return string(c.bytes(c.uvarint())) }

func (c *cursor) ref() directory.Ref {
	typ := c.text()
	return directory.Ref{Type: typ, ID: c.text()}
}

func (c *cursor) relation() *directory.Relation {
	r := &directory.Relation{Object: c.ref()}
	r.Relation = c.text()
	r.Subject = c.ref()
	r.SubjectRelation = c.text()
	return r
}

func (c *cursor) change() (out directory.Change) {
	switch c.byte() {
	case opSetObject:
		o := &directory.Object{Ref: c.ref()}
		o.DisplayName = c.text()
		o.Properties = c.raw()
		out.SetObject = o
	case opDeleteObject:
		r := c.ref()
		out.DeleteObject = &r
	case opSetRelation:
		r := c.relation()
		if at := c.varint(); at != 0 {
			r.Expires = time.Unix(at, 0).UTC()
		}
		out.SetRelation = r
	case opDeleteRelation:
		out.DeleteRelation = c.relation()
	default:
		c.fail()
	}
	return out
}

func (c *cursor) entry() (e entry) {
	e.by = c.text()
	switch kind := c.byte(); kind {
	case kindChanges:
		for n := c.uvarint(); n > 0 && c.err == nil; n-- {
			e.changes = append(e.changes, c.change())
		}
	case kindManifest, kindManifestForce:
		e.manifest, e.force = c.raw(), kind == kindManifestForce
		if e.manifest == nil {
			e.manifest = []byte{}
		}
	default:
		c.fail()
	}
	return e
}

// parsePayload is the inverse of appendFrame's payload.
func parsePayload(b []byte) (*frame, error) {
	c := &cursor{b: b}
	f := &frame{revision: c.uvarint()}
	copy(f.digest[:], c.bytes(digestSize))
	f.at = time.UnixMilli(c.varint())
	for n := c.uvarint(); n > 0 && c.err == nil; n-- {
		f.entries = append(f.entries, c.entry())
	}
	if c.err == nil && len(c.b) > 0 {
		c.fail()
	}
	return f, c.err
}

// frameAt is the payload of the complete frame at the beginning of b, and its length with head; false where there is
// none.
func frameAt(b []byte) (payload []byte, size int, ok bool) {
	if len(b) < frameHead || string(b[:4]) != frameMark || binary.LittleEndian.Uint32(b[12:]) != checksum(b[:12]) {
		return nil, 0, false
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n > maxFrame || uint64(len(b)) < frameHead+uint64(n) {
		return nil, 0, false
	}
	size = frameHead + int(n)
	payload = b[frameHead:size]
	return payload, size, checksum(payload) == binary.LittleEndian.Uint32(b[8:])
}

const (
	sector   = 512
	fewZeros = 4 // fewer are no evidence: a record may end with them
)

// torn reports whether the data after the last complete frame is an unfinished write (of the process or the machine):
// it is short, or has runs of zeros, which a file system leaves where data did not arrive. at is its offset in the
// file. A complete frame that was altered is damage, and so is anything followed by a complete frame.
func torn(b []byte, at int) bool {
	for i := bytes.Index(b, []byte(frameMark)); i >= 0; {
		if _, _, ok := frameAt(b[i:]); ok {
			return false
		}
		next := bytes.Index(b[i+1:], []byte(frameMark))
		if next < 0 {
			break
		}
		i += 1 + next
	}
	if len(b) < frameHead {
		return true
	}
	if string(b[:4]) == frameMark && binary.LittleEndian.Uint32(b[12:]) == checksum(b[:12]) {
		n := uint64(binary.LittleEndian.Uint32(b[4:]))
		if n <= maxFrame && frameHead+n > uint64(len(b)) {
			return true
		}
	}
	for from := 0; from < len(b); {
		to := min(len(b), from+sector-(at+from)%sector)
		if to-from >= fewZeros && len(bytes.Trim(b[from:to], "\x00")) == 0 {
			return true
		}
		from = to
	}
	return false
}
