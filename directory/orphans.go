package directory

import (
	"fmt"
	"slices"
	"strings"
)

// maxOrphans bounds what an OrphanError lists.
const maxOrphans = 100

// OrphanError is a manifest that does not allow what the directory holds.
type OrphanError struct {
	Objects   []Ref      // whose type it does not have; the first 100
	Relations []Relation // that it does not have or whose subject it does not allow; the first 100
	Total     int        // of both
}

func (e *OrphanError) Error() string {
	var names []string
	for _, o := range e.Objects[:min(len(e.Objects), 3)] {
		names = append(names, o.String())
	}
	for _, r := range e.Relations[:min(len(e.Relations), 3)] {
		names = append(names, r.String())
	}
	if len(names) < e.Total {
		names = append(names, "...")
	}
	return fmt.Sprintf("the manifest does not allow %d objects and relations that are there: %s", e.Total, strings.Join(names, ", "))
}

// SetManifest is the same data under another manifest. What that does not allow is an *OrphanError, or with force is dropped.
func (s *Snapshot) SetManifest(m *Manifest, force bool) (*Snapshot, error) {
	y := s.symbols.with(m)
	if len(y.types) >= anyBit || len(y.rels) > 1<<16-1 {
		return nil, fmt.Errorf("%w: its manifests have named %d types and %d relations", ErrFull, len(y.types), len(y.rels))
	}
	orphans := s.needsOrphans(y)
	if orphans && !force {
		if err := s.orphans(y); err.Total > 0 {
			return nil, err
		}
	}
	t := s.begin()
	next := t.s
	next.manifest, next.symbols = m, y
	next.digest.sub(digestManifest(s.manifest))
	next.digest.add(digestManifest(m))
	next.fit()
	if orphans && force {
		t.dropOrphans(s)
	}
	return t.finish(), nil
}

// needsOrphans says whether there may be orphans: names that have data are gone, or what was allowed is not.
func (s *Snapshot) needsOrphans(y *symbols) bool {
	for t, n := range s.counts.objects {
		if n > 0 && !y.types[t].declared {
			return true
		}
	}
	for r, n := range s.counts.relations {
		if n == 0 {
			continue
		}
		for _, rule := range s.symbols.rels[r].subjects {
			if !slices.Contains(y.rels[r].subjects, rule) {
				return true
			}
		}
	}
	return false
}

// orphanRelation says whether a manifest's symbols do not allow a relation.
func (s *Snapshot) orphanRelation(y *symbols, e edge) bool {
	t, id := s.record(e.other()).head()
	return !y.rels[e.rel()].declared || !y.allows(e.rel(), t, e.sub(), string(id) == wildcard)
}

func (s *Snapshot) orphans(y *symbols) *OrphanError {
	out := &OrphanError{}
	s.eachObject(func(n number, p *page) bool {
		t, id := p.record(n & (pageSize - 1)).head()
		if !y.types[t].declared && string(id) != wildcard {
			if out.Total++; len(out.Objects) < maxOrphans {
				out.Objects = append(out.Objects, s.ref(n))
			}
		}
		span := p.fwd.of(n & (pageSize - 1)).all()
		for e, at, ok := span.step(); ok; e, at, ok = span.step() {
			if !s.orphanRelation(y, e) {
				continue
			}
			if out.Total++; len(out.Relations) < maxOrphans {
				out.Relations = append(out.Relations, s.relation(n, e, at))
			}
		}
		return true
	})
	return out
}

// dropOrphans takes out what the new symbols do not allow of the snapshot before.
func (t *txn) dropOrphans(before *Snapshot) {
	y := t.s.symbols
	before.eachObject(func(n number, p *page) bool {
		span := p.fwd.of(n & (pageSize - 1)).all()
		for e, _, ok := span.step(); ok; e, _, ok = span.step() {
			if before.orphanRelation(y, e) {
				t.removeEdge(n, e)
			}
		}
		return true
	})
	before.eachObject(func(n number, p *page) bool {
		typ, id := p.record(n & (pageSize - 1)).head()
		if y.types[typ].declared {
			return true
		}
		if string(id) != wildcard {
			t.s.counts.objects[typ]--
			t.countRecord(n, false)
		}
		t.removeObject(n)
		return true
	})
}
