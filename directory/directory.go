// Package directory holds the users, groups, roles and resources that policies query, and the relations between them:
// group membership, ownership, access through groups.
//
// A Snapshot is the complete directory at one moment. It is immutable: Apply returns the next one, which shares
// unchanged parts. It answers questions without locks, within Limits, and Check does not allocate. The model is that
// of Aserto's Topaz, version 3: a Manifest of types with their relations and permissions, Objects, and Relations
// between them.
//
// It imports no other package of this module but the foundations, and knows neither file formats (directory/format)
// nor policies (gate/facts).
package directory

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"
)

// Ref names an object: user:alice.
type Ref struct{ Type, ID string }

// String is type:id.
func (r Ref) String() string { return r.Type + ":" + r.ID }

// Object is one object.
type Object struct {
	Ref
	DisplayName string
	Properties  []byte // a JSON object without white space; nil: none
}

// Relation is a subject's relation to an object: group:eng#member@user:alice. With a SubjectRelation the subjects are
// all that have that relation to the subject: doc:7#viewer@group:eng#member. A SubjectID of "*" means every subject
// of its type.
type Relation struct {
	Object          Ref
	Relation        string
	Subject         Ref
	SubjectRelation string
	Expires         time.Time // whole seconds; the relation no longer holds from then on. Zero: never
}

// String is object#relation@subject, with #relation after the subject where it has one.
func (r Relation) String() string {
	s := r.Object.String() + "#" + r.Relation + "@" + r.Subject.String()
	if r.SubjectRelation != "" {
		s += "#" + r.SubjectRelation
	}
	return s
}

// Question asks whether a subject has a relation to an object or, where Relation names a permission of its type, that permission.
type Question struct {
	Object   Ref
	Relation string
	Subject  Ref
}

// String is object#relation@subject.
func (q Question) String() string {
	return q.Object.String() + "#" + q.Relation + "@" + q.Subject.String()
}

// Limits bound the cost of one question. Exceeding them is an error (ErrLimit), never "no".
type Limits struct {
	Depth int // steps from the object to the subject; 0: 64
	Work  int // relations read; 0: 100,000
}

// Errors of questions. A question about a missing object is no error: its answer is no.
var (
	ErrLimit           = errors.New("the question needs more steps than directory.limits allow")
	ErrUnknownType     = errors.New("unknown type")
	ErrUnknownRelation = errors.New("unknown relation or permission")
)

// Change is one change of a directory. Exactly one field is set.
type Change struct {
	SetObject      *Object   // adds it, or replaces its display name and properties
	DeleteObject   *Ref      // with all its relations
	SetRelation    *Relation // adds it, or changes its expiry
	DeleteRelation *Relation
}

// ChangeError means that a change cannot be applied.
type ChangeError struct {
	Index int    // of the change, from 0
	What  string // the change as text
	Err   error
}

func (e *ChangeError) Error() string {
	return fmt.Sprintf("change %d (%s): %v", e.Index+1, e.What, e.Err)
}

func (e *ChangeError) Unwrap() error { return e.Err }

// Snapshot is a directory at one moment. It is immutable.
type Snapshot struct {
	revision uint64
	limits   Limits
	manifest *Manifest
	symbols  *symbols
	plan     *plan // the manifest, compiled against the symbols

	rows   rows // the objects with their relations
	next   number
	free   *freeNumbers
	ids    ids
	times  *hub // expiry times, as edges; nil: none
	digest digest
	counts counts
	line   *line // nil: it is the first
	step   uint64
}

// counts are maintained with each change.
type counts struct {
	bytes     int64
	objects   []int // by typeID; without wildcard objects
	relations []int // by relID
}

// New returns an empty directory.
func New(m *Manifest, l Limits) *Snapshot {
	s := &Snapshot{limits: l, manifest: m, symbols: newSymbols(m), ids: newIDs()}
	s.digest = digestManifest(m)
	s.fit()
	return s
}

// fit sets what depends on the symbols.
func (s *Snapshot) fit() {
	s.counts.objects = grow(s.counts.objects, len(s.symbols.types))
	s.counts.relations = grow(s.counts.relations, len(s.symbols.rels))
	s.plan = compile(s.manifest, s.symbols, s.limits)
}

// grow copies l with length n.
func grow(l []int, n int) []int {
	out := make([]int, n)
	copy(out, l)
	return out
}

// WithLimits returns the same directory with other limits.
func (s *Snapshot) WithLimits(l Limits) *Snapshot {
	if l == s.limits {
		return s
	}
	out := *s
	out.limits, out.line = l, nil
	out.plan = compile(out.manifest, out.symbols, l)
	return &out
}

// WithRevision returns the same directory with another revision.
func (s *Snapshot) WithRevision(revision uint64) *Snapshot {
	out := *s
	out.revision = revision
	return &out
}

// Revision counts changes: each Apply and SetManifest adds one.
func (s *Snapshot) Revision() uint64 { return s.revision }

// Manifest is the model.
func (s *Snapshot) Manifest() *Manifest { return s.manifest }

// Digest is a hash of manifest, objects and relations. Equal content has the same digest, whatever its history.
func (s *Snapshot) Digest() string { return s.digest.String() }

// Stats are counts of a directory's content.
type Stats struct {
	Objects, Relations int
	Expiring           int            // relations with an expiry, past ones included
	Bytes              int64          // approximate memory of the snapshot without the table of ids
	ByType             map[string]int // objects
	ByRelation         map[string]int // by type#relation
}

// Stats counts the content.
func (s *Snapshot) Stats() Stats {
	out := Stats{Bytes: s.counts.bytes, ByType: map[string]int{}, ByRelation: map[string]int{}}
	for t, n := range s.counts.objects {
		if n > 0 {
			out.ByType[s.symbols.typeName(typeID(t))] = n
		}
		out.Objects += n
	}
	for r, n := range s.counts.relations {
		if n > 0 {
			out.ByRelation[s.symbols.typeName(s.symbols.relType(relID(r)))+"#"+s.symbols.relName(relID(r))] = n
		}
		out.Relations += n
	}
	if s.times != nil {
		out.Expiring = s.times.n
	}
	return out
}

func (s *Snapshot) record(n number) record { return s.rows.page(n).record(n & (pageSize - 1)) }

func (s *Snapshot) typeOf(n number) typeID {
	t, _ := s.record(n).head()
	return t
}

// idOf is an object's id. It aliases the page and keeps it alive.
func (s *Snapshot) idOf(n number) string {
	_, id := s.record(n).head()
	return id
}

// ref is an object's name, copied.
func (s *Snapshot) ref(n number) Ref {
	t, id := s.record(n).head()
	return Ref{s.symbols.typeName(t), strings.Clone(id)}
}

// forward are the relations of object n: edges with the number of the subject.
func (s *Snapshot) forward(n number) edges { return s.rows.page(n).forward(n & (pageSize - 1)) }

// reverse are the relations of which n is the subject: edges with the number of the object.
func (s *Snapshot) reverse(n number) edges { return s.rows.page(n).reverse(n & (pageSize - 1)) }

// relation converts an edge of object n to a Relation.
func (s *Snapshot) relation(n number, e edge, at int64) Relation {
	return s.relationOf(s.ref(n), e, at)
}

func (s *Snapshot) relationOf(object Ref, e edge, at int64) Relation {
	r := Relation{Object: object, Relation: s.symbols.relName(e.rel()), Subject: s.ref(e.other())}
	if e.sub() != 0 {
		r.SubjectRelation = s.symbols.relName(e.sub())
	}
	if at != 0 {
		r.Expires = time.Unix(at, 0).UTC()
	}
	return r
}

// Epoch is the number of relations expired by now. While it is unchanged, a revision gives the same answers.
func (s *Snapshot) Epoch(now time.Time) uint64 {
	if s.times == nil || now.Unix() < 0 {
		return 0
	}
	_, _, past := s.times.from(edge(now.Unix() + 1))
	return uint64(past)
}

// tally is the counts, digest and expiry times of a part of a directory.
type tally struct {
	digest digest
	counts counts
	times  []edge
}

// total counts and digests everything, after a bulk build.
func (s *Snapshot) total() {
	keys := make([]objectKey, s.next) // by number: they are read in any order
	tallies := make([]tally, len(s.rows))
	each(len(s.rows), func(i int) {
		t := &tallies[i]
		t.counts = counts{objects: make([]int, len(s.symbols.types)), relations: make([]int, len(s.symbols.rels))}
		t.objects(s, i, keys)
	})
	each(len(s.rows), func(i int) { tallies[i].relations(s, i, keys) })
	var times []edge
	for i := range tallies {
		s.digest.add(tallies[i].digest)
		s.counts.add(tallies[i].counts)
		times = append(times, tallies[i].times...)
	}
	slices.Sort(times)
	s.times = newTimes(times)
}

func (c *counts) add(more counts) {
	c.bytes += more.bytes
	for i, n := range more.objects {
		c.objects[i] += n
	}
	for i, n := range more.relations {
		c.relations[i] += n
	}
}

// objects adds the objects of a row, and sets their keys.
func (t *tally) objects(s *Snapshot, row int, keys []objectKey) {
	var d digest
	var buf []byte
	s.eachInRow(row, func(n number, p *page) {
		r := p.record(n & (pageSize - 1))
		keys[n], buf = s.symbols.key(buf, r)
		if typ, id := r.head(); id != wildcard {
			t.counts.objects[typ]++
			d, buf = s.symbols.digestRecord(buf, r)
			t.digest.add(d)
		}
	})
}

// relations adds the relations of a row's objects, and the sizes of its pages.
func (t *tally) relations(s *Snapshot, row int, keys []objectKey) {
	var d digest
	var buf []byte
	s.eachInRow(row, func(n number, p *page) {
		span := p.forward(n & (pageSize - 1)).all()
		for e, at, ok := span.step(); ok; e, at, ok = span.step() {
			t.counts.relations[e.rel()]++
			if at != 0 {
				t.times = append(t.times, edge(at))
			}
			d, buf = s.symbols.digestEdge(buf, &keys[n], e, &keys[e.other()], at)
			t.digest.add(d)
		}
	})
	for _, p := range s.rows[row] {
		if p != nil {
			t.counts.bytes += p.size()
		}
	}
}

// eachInRow calls f for each object of a row, with its page.
func (s *Snapshot) eachInRow(row int, f func(n number, p *page)) {
	s.rows[row : row+1].each(func(first number, p *page) bool {
		return p.slots(func(slot number) bool {
			f(number(row)<<(rowBits+pageBits)|first|slot, p)
			return true
		})
	})
}

// digest is the sum of the SHA-256 of all records, modulo 2^256: independent of order, and updated by adding and
// subtracting. It distinguishes contents; it does not resist an attacker who can choose billions of records to force
// a collision.
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

// appendText appends a length-prefixed text.
func appendText[T ~string | ~[]byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// objectKey stands for an object's type and id in the digests of relations: the first half of a SHA-256.
type objectKey [sha256.Size / 2]byte

// key is an object's key: with its type's name, because type numbers depend on history. buf is scratch.
func (y *symbols) key(buf []byte, r record) (key objectKey, _ []byte) {
	t, id := r.head()
	buf = appendText(append(buf[:0], 'k'), y.typeName(t))
	buf = append(buf, id...)
	sum := sha256.Sum256(buf)
	copy(key[:], sum[:])
	return key, buf
}

// digestRecord is an object's digest.
func (y *symbols) digestRecord(buf []byte, r record) (digest, []byte) {
	t, id, name, properties := r.parts()
	buf = append(buf[:0], 'o')
	buf = appendText(buf, y.typeName(t))
	buf = appendText(buf, id)
	buf = appendText(buf, name)
	buf = append(buf, properties...)
	return digestOf(buf), buf
}

// digestEdge is a relation's digest. object and subject are the keys at its ends. With names of the usual length it is
// one block of SHA-256.
func (y *symbols) digestEdge(buf []byte, object *objectKey, e edge, subject *objectKey, at int64) (digest, []byte) {
	buf = append(buf[:0], 'r')
	buf = append(buf, object[:]...)
	buf = append(buf, subject[:]...)
	buf = appendText(buf, y.relName(e.rel()))
	buf = appendText(buf, y.relName(e.sub()))
	buf = binary.AppendVarint(buf, at)
	return digestOf(buf), buf
}
