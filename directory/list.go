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
	return seconds(s.ObjectsFrom(typ, Position{}))
}

// seconds are the second values of a sequence.
func seconds[K, V any](all iter.Seq2[K, V]) iter.Seq[V] {
	return func(yield func(V) bool) {
		all(func(_ K, v V) bool { return yield(v) })
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
	return seconds(s.RelationsFrom(f, Position{}, now))
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
