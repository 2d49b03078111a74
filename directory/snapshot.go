package directory

import (
	"time"
)

// Snapshot is a directory at one moment. It is never written again.
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
	times  *hub // when relations expire, as edges; nil: none does
	digest digest
	counts counts
}

// counts are kept up to date with each change.
type counts struct {
	bytes     int64
	objects   []int // by typeID; without those that stand for all of a type
	relations []int // by relID
}

// New is an empty directory.
func New(m *Manifest, l Limits) *Snapshot {
	s := &Snapshot{limits: l, manifest: m, symbols: newSymbols(m), ids: newIDs()}
	s.digest = digestManifest(m)
	s.fit()
	return s
}

// fit makes what depends on the symbols.
func (s *Snapshot) fit() {
	s.counts.objects = grow(s.counts.objects, len(s.symbols.types))
	s.counts.relations = grow(s.counts.relations, len(s.symbols.rels))
	s.plan = compile(s.manifest, s.symbols, s.limits)
}

// grow copies l, n long.
func grow(l []int, n int) []int {
	out := make([]int, n)
	copy(out, l)
	return out
}

// WithLimits is the same directory with other limits of questions.
func (s *Snapshot) WithLimits(l Limits) *Snapshot {
	if l == s.limits {
		return s
	}
	out := *s
	out.limits = l
	out.plan = compile(out.manifest, out.symbols, l)
	return &out
}

// WithRevision is the same directory under another revision.
func (s *Snapshot) WithRevision(revision uint64) *Snapshot {
	out := *s
	out.revision = revision
	return &out
}

// Revision counts changes: each Apply and SetManifest adds one.
func (s *Snapshot) Revision() uint64 { return s.revision }

// Manifest is the model.
func (s *Snapshot) Manifest() *Manifest { return s.manifest }

// Digest is a hash of the content: manifest, objects and relations. The same content has the same digest, however it came about.
func (s *Snapshot) Digest() string { return s.digest.String() }

// Stats counts what is there.
type Stats struct {
	Objects, Relations int
	Expiring           int            // relations that expire, or have
	Bytes              int64          // about what the snapshot takes in memory, the table of ids aside
	ByType             map[string]int // objects
	ByRelation         map[string]int // by type#relation
}

// Stats counts what is there.
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

// idOf is an object's id, as a part of the page: whoever keeps it keeps the page.
func (s *Snapshot) idOf(n number) string {
	_, id := s.record(n).head()
	return alias(id)
}

// ref is an object's name, copied.
func (s *Snapshot) ref(n number) Ref {
	t, id := s.record(n).head()
	return Ref{s.symbols.typeName(t), string(id)}
}

// forward are the relations of object n: edges with the number of the subject.
func (s *Snapshot) forward(n number) edges { return s.rows.page(n).fwd.of(n & (pageSize - 1)) }

// reverse are the relations of which n is the subject: edges with the number of the object.
func (s *Snapshot) reverse(n number) edges { return s.rows.page(n).rev.of(n & (pageSize - 1)) }

// relation is an edge of object n as a Relation.
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

// Epoch is how many relations have expired by now. While it is the same, a revision answers every question the same.
func (s *Snapshot) Epoch(now time.Time) uint64 {
	if s.times == nil || now.Unix() < 0 {
		return 0
	}
	return uint64(s.times.from(edge(now.Unix() + 1)))
}
