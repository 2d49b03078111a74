package directory

import (
	"iter"
	"math"
	"strconv"
	"strings"
	"time"
)

// Position is where the next page of a listing of one snapshot begins. The zero value is the beginning. In another
// snapshot it may be a different place.
type Position struct {
	object number
	edge   edge
}

// String formats the position for ParsePosition.
func (p Position) String() string {
	return strconv.FormatUint(uint64(p.object), 36) + "." + strconv.FormatUint(uint64(p.edge), 36)
}

// ParsePosition parses a Position. Any result is a valid start of a listing.
func ParsePosition(text string) (p Position, ok bool) {
	object, rest, found := strings.Cut(text, ".")
	n, err := strconv.ParseUint(object, 36, 32)
	e, err2 := strconv.ParseUint(rest, 36, 64)
	return Position{number(n), edge(e)}, found && err == nil && err2 == nil
}

// ObjectsFrom is Objects with Positions, beginning at one of them.
func (s *Snapshot) ObjectsFrom(typ string, from Position) iter.Seq2[Position, Object] {
	return func(yield func(Position, Object) bool) {
		t, ok := s.symbols.typ(typ)
		if !ok && typ != "" || ok && s.counts.objects[t] == 0 {
			return
		}
		s.eachObjectFrom(from.object, func(n number, p *page) bool {
			r := p.record(n & (pageSize - 1))
			have, id := r.head()
			if ok && have != t || id == wildcard {
				return true
			}
			return yield(Position{object: n}, r.object(s.symbols))
		})
	}
}

// eachObjectFrom calls f for each object from this number on.
func (s *Snapshot) eachObjectFrom(from number, f func(n number, p *page) bool) {
	for first := from &^ (pageSize - 1); first < s.next; first += pageSize {
		p := s.rows.at(first)
		if p == nil {
			continue
		}
		if !p.slots(func(slot number) bool { return first|slot < from || f(first|slot, p) }) {
			return
		}
	}
}

// RelationsFrom is Relations with Positions, beginning at one of them.
func (s *Snapshot) RelationsFrom(f RelationFilter, from Position, now time.Time) iter.Seq2[Position, Relation] {
	return func(yield func(Position, Relation) bool) {
		g, ok := s.filter(f)
		if !ok {
			return
		}
		switch unix := now.Unix(); {
		case g.object != 0 && g.objectID != "":
			if n, ok := s.find(g.object, g.objectID); ok {
				s.relationsOf(g, n, from.edge, unix, yield)
			}
		case g.subject != 0 && g.subjectID != "":
			if n, ok := s.find(g.subject, g.subjectID); ok {
				s.relationsTo(g, n, from.edge, unix, yield)
			}
		default:
			s.eachObjectFrom(from.object, func(n number, _ *page) bool {
				first := edge(0)
				if n == from.object {
					first = from.edge
				}
				return s.relationsOf(g, n, first, unix, yield)
			})
		}
	}
}

// relationsOf visits the relations of object n, from an edge on, and reports whether to continue.
func (s *Snapshot) relationsOf(g filter, n number, from edge, now int64, yield func(Position, Relation) bool) bool {
	if !g.is(s.record(n), g.object, g.objectID) {
		return true
	}
	span := s.forward(n).between(from, math.MaxUint64)
	for e, at, ok := span.step(); ok; e, at, ok = span.step() {
		if expired(at, now) || !g.fits(s.symbols, e) || !g.is(s.record(e.other()), g.subject, g.subjectID) {
			continue
		}
		if !yield(Position{n, e}, s.relation(n, e, at)) {
			return false
		}
	}
	return true
}

// relationsTo visits the relations of which n is the subject, from an edge on.
func (s *Snapshot) relationsTo(g filter, n number, from edge, now int64, yield func(Position, Relation) bool) {
	span := s.reverse(n).between(from, math.MaxUint64)
	for e, at, ok := span.step(); ok; e, at, ok = span.step() {
		if expired(at, now) || !g.fits(s.symbols, e) || !g.is(s.record(e.other()), g.object, g.objectID) {
			continue
		}
		if !yield(Position{n, e}, s.relation(e.other(), makeEdge(e.rel(), e.sub(), n), at)) {
			return
		}
	}
}

// Relation returns the stored relation of that object, name and subject, with its expiry. An expired one is not
// found.
func (s *Snapshot) Relation(r Relation, now time.Time) (Relation, bool) {
	x, err := s.symbols.relation(&Relation{Object: r.Object, Relation: r.Relation, Subject: r.Subject, SubjectRelation: r.SubjectRelation})
	if err != nil {
		return Relation{}, false
	}
	object, ok := s.find(x.object, r.Object.ID)
	if !ok {
		return Relation{}, false
	}
	subject, ok := s.find(x.subject, r.Subject.ID)
	if !ok {
		return Relation{}, false
	}
	e := makeEdge(x.rel, x.sub, subject)
	at, ok := s.forward(object).find(e)
	if !ok || expired(at, now.Unix()) {
		return Relation{}, false
	}
	return s.relation(object, e, at), true
}
