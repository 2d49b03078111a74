package directory

import (
	"iter"
	"time"
)

// Object is the object of that name, its properties copied.
func (s *Snapshot) Object(r Ref) (Object, bool) {
	t, ok := s.symbols.typ(r.Type)
	if !ok || r.ID == wildcard {
		return Object{}, false
	}
	n, ok := s.find(t, r.ID)
	if !ok {
		return Object{}, false
	}
	return s.record(n).object(s.symbols), true
}

// Objects are the objects of a type, or all for "". Their order is the same each time, of one snapshot.
func (s *Snapshot) Objects(typ string) iter.Seq[Object] {
	return func(yield func(Object) bool) {
		t, ok := s.symbols.typ(typ)
		if !ok && typ != "" || ok && s.counts.objects[t] == 0 {
			return
		}
		s.eachObject(func(n number, p *page) bool {
			r := p.record(n & (pageSize - 1))
			have, id := r.head()
			if ok && have != t || string(id) == wildcard {
				return true
			}
			return yield(r.object(s.symbols))
		})
	}
}

// RelationFilter chooses relations. An empty field is any. With HasSubjectRelation, an empty SubjectRelation is none.
type RelationFilter struct {
	Object             Ref
	Relation           string
	Subject            Ref
	SubjectRelation    string
	HasSubjectRelation bool
}

// filter is a RelationFilter in numbers. 0 is any, except where a field says otherwise.
type filter struct {
	object, subject     typeID
	objectID, subjectID string
	relation            string
	sub                 string
	hasSub              bool
}

// Relations are the relations that the filter chooses and that have not expired. Where it has a whole object or a whole subject, only that
// one's relations are looked at. Their order is the same each time, of one snapshot.
func (s *Snapshot) Relations(f RelationFilter, now time.Time) iter.Seq[Relation] {
	return func(yield func(Relation) bool) {
		g, ok := s.filter(f)
		if !ok {
			return
		}
		switch unix := now.Unix(); {
		case g.object != 0 && g.objectID != "":
			if n, ok := s.find(g.object, g.objectID); ok {
				s.relationsOf(g, n, unix, yield)
			}
		case g.subject != 0 && g.subjectID != "":
			if n, ok := s.find(g.subject, g.subjectID); ok {
				s.relationsTo(g, n, unix, yield)
			}
		default:
			s.eachObject(func(n number, _ *page) bool { return s.relationsOf(g, n, unix, yield) })
		}
	}
}

func (s *Snapshot) filter(f RelationFilter) (g filter, ok bool) {
	if f.Object.Type != "" {
		if g.object, ok = s.symbols.typ(f.Object.Type); !ok {
			return g, false
		}
	}
	if f.Subject.Type != "" {
		if g.subject, ok = s.symbols.typ(f.Subject.Type); !ok {
			return g, false
		}
	}
	g.objectID, g.subjectID, g.relation = f.Object.ID, f.Subject.ID, f.Relation
	g.sub, g.hasSub = f.SubjectRelation, f.HasSubjectRelation || f.SubjectRelation != ""
	return g, true
}

// is says whether an object's record fits.
func (g *filter) is(r record, t typeID, id string) bool {
	if t == 0 && id == "" {
		return true
	}
	haveType, haveID := r.head()
	return (t == 0 || t == haveType) && (id == "" || id == string(haveID))
}

// fits says whether an edge fits, its objects aside.
func (g *filter) fits(y *symbols, e edge) bool {
	return (g.relation == "" || g.relation == y.relName(e.rel())) && (!g.hasSub || g.sub == y.relName(e.sub()))
}

// relationsOf goes through the relations of object n, and says whether to go on.
func (s *Snapshot) relationsOf(g filter, n number, now int64, yield func(Relation) bool) bool {
	if !g.is(s.record(n), g.object, g.objectID) {
		return true
	}
	span := s.forward(n).all()
	for e, at, ok := span.step(); ok; e, at, ok = span.step() {
		if expired(at, now) || !g.fits(s.symbols, e) || !g.is(s.record(e.other()), g.subject, g.subjectID) {
			continue
		}
		if !yield(s.relation(n, e, at)) {
			return false
		}
	}
	return true
}

// relationsTo goes through the relations of which n is the subject.
func (s *Snapshot) relationsTo(g filter, n number, now int64, yield func(Relation) bool) {
	span := s.reverse(n).all()
	for e, at, ok := span.step(); ok; e, at, ok = span.step() {
		if expired(at, now) || !g.fits(s.symbols, e) || !g.is(s.record(e.other()), g.object, g.objectID) {
			continue
		}
		if !yield(s.relation(e.other(), makeEdge(e.rel(), e.sub(), n), at)) {
			return
		}
	}
}
