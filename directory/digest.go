package directory

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
)

// digest is the sum of the SHA-256 of everything in a directory, modulo 2^256: a sum does not depend on the order, and a change adds and
// subtracts. It tells two contents apart; it is no proof against who can choose billions of records to make two of the same sum.
type digest [4]uint64

func (d *digest) add(x digest) {
	var carry uint64
	for i := range d {
		d[i], carry = bits.Add64(d[i], x[i], carry)
	}
}

func (d *digest) sub(x digest) {
	var borrow uint64
	for i := range d {
		d[i], borrow = bits.Sub64(d[i], x[i], borrow)
	}
}

func (d digest) bytes() (out [sha256.Size]byte) {
	for i, v := range d {
		binary.LittleEndian.PutUint64(out[8*i:], v)
	}
	return out
}

func (d digest) String() string {
	b := d.bytes()
	return hex.EncodeToString(b[:])
}

func digestOf(b []byte) digest { return digestFrom(sha256.Sum256(b)) }

func digestFrom(sum [sha256.Size]byte) (out digest) {
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(sum[8*i:])
	}
	return out
}

func digestManifest(m *Manifest) digest {
	return digestOf(append([]byte("m"), m.Text()...))
}

// appendText appends a text with its length.
func appendText[T ~string | ~[]byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// digestRecord is what an object adds: its type by name, since numbers of types depend on history. buf is scratch.
func (y *symbols) digestRecord(buf []byte, r record) (digest, []byte) {
	t, id, name, properties := r.parts()
	buf = append(buf[:0], 'o')
	buf = appendText(buf, y.typeName(t))
	buf = appendText(buf, id)
	buf = appendText(buf, name)
	buf = append(buf, properties...)
	return digestOf(buf), buf
}

// digestEdge is what a relation adds. object and subject are the records at its ends.
func (y *symbols) digestEdge(buf []byte, object record, e edge, subject record, at int64) (digest, []byte) {
	objectType, objectID := object.head()
	subjectType, subjectID := subject.head()
	buf = append(buf[:0], 'r')
	buf = appendText(buf, y.typeName(objectType))
	buf = appendText(buf, objectID)
	buf = appendText(buf, y.relName(e.rel()))
	buf = appendText(buf, y.typeName(subjectType))
	buf = appendText(buf, subjectID)
	buf = appendText(buf, y.relName(e.sub()))
	buf = binary.AppendVarint(buf, at)
	return digestOf(buf), buf
}
