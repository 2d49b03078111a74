package record

import (
	"encoding/binary"
	"time"
)

// packedReader reads what packing writes, in its order. After the first mistake everything is empty, and err is set.
type packedReader struct {
	in  []byte
	err bool
}

// RFC 3339 knows the years 0 to 9999.
const (
	minSeconds = -62167219200
	maxSeconds = 253402300799
)

func (r *packedReader) fail() { r.in, r.err = nil, true }

func (r *packedReader) byte() byte {
	if len(r.in) == 0 {
		r.fail()
		return 0
	}
	b := r.in[0]
	r.in = r.in[1:]
	return b
}

func (r *packedReader) uint() uint64 {
	if len(r.in) > 0 && r.in[0] < 0x80 { // most are small, and there are many
		return uint64(r.byte())
	}
	v, n := binary.Uvarint(r.in)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.in = r.in[n:]
	return v
}

func (r *packedReader) int() int64 {
	v, n := binary.Varint(r.in)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.in = r.in[n:]
	return v
}

// count reads the length of a list, each of whose members takes a byte at least.
func (r *packedReader) count() int {
	n := r.uint()
	if n > uint64(len(r.in)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *packedReader) time() time.Time {
	seconds, nanos := r.int(), r.uint()
	if nanos >= uint64(time.Second) || seconds < minSeconds || seconds > maxSeconds {
		r.fail()
		return time.Time{}
	}
	return time.Unix(seconds, int64(nanos)).UTC()
}

// packedText is a string in the packed entry's own memory, and what redaction did to it. One that is textSecret has no bytes.
type packedText struct {
	bytes   []byte
	changed uint64
}

func (r *packedReader) readText() packedText {
	if in := r.in; len(in) > 0 && in[0] < 0x80 && in[0]&3 != textSecret { // short, as most are
		if end := 1 + int(in[0]>>2); end <= len(in) {
			r.in = in[end:]
			return packedText{in[1:end:end], uint64(in[0] & 3)}
		}
	}
	return r.readLongText()
}

func (r *packedReader) readLongText() (t packedText) {
	n := r.uint()
	if t.changed = n & 3; t.changed == textSecret {
		return t
	}
	if n >>= 2; n > uint64(len(r.in)) {
		r.fail()
		return packedText{}
	}
	t.bytes, r.in = r.in[:n:n], r.in[n:]
	return t
}

// string is readText as a string of its own.
func (r *packedReader) string() (s string, changed uint64) {
	t := r.readText()
	if t.changed == textSecret {
		return redacted, t.changed
	}
	return string(t.bytes), t.changed
}
