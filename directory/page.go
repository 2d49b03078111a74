package directory

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"unsafe"
)

const (
	pageBits = 6
	pageSize = 1 << pageBits // objects on a page
	rowBits  = 8
	rowSize  = 1 << rowBits // pages in a row
)

// page holds the objects of 64 numbers with their relations. It is written once. It holds few pointers, so that the garbage collector has
// little to look at: a hundred thousand pages are millions of objects.
type page struct {
	used  uint64 // which of the numbers are objects
	ends  [pageSize + 1]uint32
	bytes []byte // the records, one after the other; that of slot i is bytes[ends[i]:ends[i+1]]
	fwd   side   // relations of these objects
	rev   side   // relations of which they are the subject
}

// side is the relations of a page's objects in one direction.
type side struct {
	ends [pageSize + 1]uint16 // a page has 64 times 128 edges at most; longer lists are hubs
	list
	hubs []slotHub // by slot
}

type slotHub struct {
	slot uint8
	hub  *hub
}

func (d *side) of(slot number) edges {
	for _, h := range d.hubs {
		if number(h.slot) == slot {
			return edges{hub: h.hub}
		}
	}
	return edges{list: d.slice(int(d.ends[slot]), int(d.ends[slot+1]))}
}

func (p *page) record(slot number) record { return p.bytes[p.ends[slot]:p.ends[slot+1]] }

// size is roughly how many bytes a page takes.
func (p *page) size() int64 {
	n := int64(unsafe.Sizeof(*p)) + int64(len(p.bytes))
	for _, d := range [...]*side{&p.fwd, &p.rev} {
		n += int64(8 * (len(d.edges) + len(d.at)))
		for _, h := range d.hubs {
			n += int64(unsafe.Sizeof(h))
			for _, c := range h.hub.chunks {
				n += int64(unsafe.Sizeof(c)) + int64(8*(len(c.edges)+len(c.at)))
			}
		}
	}
	return n
}

// rows are the pages, by number, in two levels so that a change copies little.
type rows []*[rowSize]*page

func (r rows) page(n number) *page {
	return r[n>>(pageBits+rowBits)][(n>>pageBits)&(rowSize-1)]
}

// each calls f for every page, with its first number.
func (r rows) each(f func(first number, p *page) bool) {
	for i, row := range r {
		for j, p := range row {
			if p != nil && !f(number(i<<rowBits|j)<<pageBits, p) {
				return
			}
		}
	}
}

// slots calls f for each object of a page.
func (p *page) slots(f func(slot number) bool) bool {
	for used := p.used; used != 0; used &= used - 1 {
		if !f(number(bits.TrailingZeros64(used))) {
			return false
		}
	}
	return true
}

// record is an object as bytes: its type, its id and its display name with their lengths, and its properties.
type record []byte

// wildcard is the id of the object that stands for all of its type as a subject. It is in no listing.
const wildcard = "*"

func appendRecord(dst []byte, t typeID, o *Object) []byte {
	dst = binary.AppendUvarint(dst, uint64(t))
	dst = binary.AppendUvarint(dst, uint64(len(o.ID)))
	dst = append(dst, o.ID...)
	dst = binary.AppendUvarint(dst, uint64(len(o.DisplayName)))
	dst = append(dst, o.DisplayName...)
	return append(dst, o.Properties...)
}

// uvarint is binary.Uvarint, quicker for the small numbers that most are.
func uvarint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return binary.Uvarint(b)
}

// is says whether this is the object of that type and id.
func (r record) is(t typeID, id string) bool {
	have, rest := r.head()
	return have == t && string(rest) == id
}

// head is the type and the id.
func (r record) head() (typeID, []byte) {
	t, i := uvarint(r)
	n, j := uvarint(r[i:])
	i += j
	return typeID(t), r[i : i+int(n)]
}

// parts are all of it, as parts of the record.
func (r record) parts() (t typeID, id, name, properties []byte) {
	u, i := uvarint(r)
	n, j := uvarint(r[i:])
	i += j
	id = r[i : i+int(n)]
	i += int(n)
	n, j = uvarint(r[i:])
	i += j
	return typeID(u), id, r[i : i+int(n)], r[i+int(n):]
}

// object is the record as an Object of its own.
func (r record) object(y *symbols) Object {
	t, id, name, properties := r.parts()
	o := Object{Ref: Ref{y.typeName(t), string(id)}, DisplayName: string(name)}
	if len(properties) > 0 {
		o.Properties = slices.Clone(properties)
	}
	return o
}
