package directory

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Object returns an object by name, its properties copied.
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

// Objects yields the objects of a type, or all for "", in the same order each time for one snapshot.
func (s *Snapshot) Objects(typ string) iter.Seq[Object] {
	return seconds(s.ObjectsFrom(typ, Position{}))
}

// seconds yields the second values of a sequence.
func seconds[K, V any](all iter.Seq2[K, V]) iter.Seq[V] {
	return func(yield func(V) bool) {
		all(func(_ K, v V) bool { return yield(v) })
	}
}

// RelationFilter selects relations. An empty field matches any. With HasSubjectRelation, an empty SubjectRelation
// matches none only.
type RelationFilter struct {
	Object             Ref
	Relation           string
	Subject            Ref
	SubjectRelation    string
	HasSubjectRelation bool
}

// filter is a RelationFilter in numbers. 0 matches any, unless a field says otherwise.
type filter struct {
	object, subject     typeID
	objectID, subjectID string
	relation            string
	sub                 string
	hasSub              bool
}

// Relations yields the relations that match the filter and have not expired, in the same order each time for one
// snapshot. With a complete object or subject in the filter, only that one's relations are read.
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

// is reports whether an object's record matches.
func (g *filter) is(r record, t typeID, id string) bool {
	if t == 0 && id == "" {
		return true
	}
	haveType, haveID := r.head()
	return (t == 0 || t == haveType) && (id == "" || id == haveID)
}

// fits reports whether an edge matches, without its objects.
func (g *filter) fits(y *symbols, e edge) bool {
	return (g.relation == "" || g.relation == y.relName(e.rel())) && (!g.hasSub || g.sub == y.relName(e.sub()))
}

// ErrAmbiguous means that an identity belongs to more than one user.
var ErrAmbiguous = errors.New("the identity belongs to more than one user")

const (
	lists       = 10 // a listing may cost this many times a question's limit
	defaultPage = 100
	maxPage     = 10_000
)

// Who lists the subjects of a type that have a relation or permission: those for which Check says yes, sorted by id,
// beginning behind after. Where every subject of the type has it, known or not, "*" comes first. It returns at most
// limit of them (0: 100; at most 10,000); next is the after of the next page, "" at the end. A page may be shorter
// where finding more would cost too much.
func (s *Snapshot) Who(object Ref, relation, subjectType, after string, limit int, now time.Time) (found []Ref, next string, err error) {
	l, err := s.who(object, relation, subjectType, "", true, now)
	if err != nil {
		return nil, "", err
	}
	return l.page(after, min(limit, maxPage))
}

// What lists the objects of a type to which the subject has a relation or permission, like Who.
func (s *Snapshot) What(subject Ref, relation, objectType, after string, limit int, now time.Time) (found []Ref, next string, err error) {
	l, err := s.what(subject, "", relation, objectType, now)
	if err != nil {
		return nil, "", err
	}
	return l.page(after, min(limit, maxPage))
}

// Members are the ids of all objects of a type to which the subject has the relation or permission, sorted.
func (s *Snapshot) Members(subject Ref, objectType, relation string, now time.Time) ([]string, error) {
	l, err := s.what(subject, "", relation, objectType, now)
	if err != nil {
		return nil, err
	}
	found, next, err := l.page("", len(l.candidates))
	if err == nil && next != "" {
		err = ErrLimit
	}
	if err != nil || len(found) == 0 {
		return nil, err
	}
	out := make([]string, len(found))
	for i, r := range found {
		out[i] = r.ID
	}
	return out, nil
}

// listing is the candidates of a listing, of one type.
type listing struct {
	s          *Snapshot
	now        time.Time
	typ        string
	candidates []candidate
	ask        func(a *asker, n number) (bool, error) // nil: all match
}

type candidate struct {
	id string // aliases the page: copied before it is returned
	n  number
}

// question is a question in numbers.
type question struct {
	object, subject *typePlan
	node            node
	sub             relID
}

func (p *plan) question(object, relation, subject, sub string) (q question, err error) {
	if q.object, err = p.typ(object); err != nil {
		return q, err
	}
	if q.node, err = p.node(q.object, object, relation); err != nil {
		return q, err
	}
	if q.subject, err = p.typ(subject); err != nil {
		return q, err
	}
	q.sub, err = p.relation(q.subject, subject, sub)
	return q, err
}

// who lists subjects. all: where the wildcard is among them, all known ones are listed.
func (s *Snapshot) who(object Ref, relation, subjectType, sub string, all bool, now time.Time) (*listing, error) {
	l := &listing{s: s, now: now, typ: subjectType}
	q, err := s.plan.question(object.Type, relation, subjectType, sub)
	if err != nil {
		return nil, err
	}
	o, ok := s.find(q.object.id, object.ID)
	if !ok {
		return l, nil
	}
	w := s.walk(now.Unix())
	found, everyone := w.down(o, q.node, q.subject.id, q.sub)
	everyone = everyone && all
	if everyone && s.counts.objects[q.subject.id] > w.work {
		w.err = ErrLimit
	}
	if w.err != nil {
		return nil, w.err
	}
	if everyone {
		star, _ := s.find(q.subject.id, wildcard)
		found = append(found[:0], star)
		s.eachObject(func(n number, _ *page) bool {
			if n != star && s.typeOf(n) == q.subject.id {
				found = append(found, n)
			}
			return true
		})
	}
	l.fill(found)
	if !s.plan.use(q.node).listed {
		l.ask = func(a *asker, n number) (bool, error) {
			a.setNumber(q.subject.id, n, true, q.sub)
			return a.ask(o, q.node)
		}
	}
	return l, nil
}

func (s *Snapshot) what(subject Ref, sub, relation, objectType string, now time.Time) (*listing, error) {
	l := &listing{s: s, now: now, typ: objectType}
	q, err := s.plan.question(objectType, relation, subject.Type, sub)
	if err != nil {
		return nil, err
	}
	a := s.asker(now)
	defer a.release()
	a.setSubject(q.subject.id, subject.ID, q.sub)
	w := s.walk(now.Unix())
	w.up(a, s.plan.use(q.node).reach, nil)
	if w.err != nil {
		return nil, w.err
	}
	var found []number
	for _, f := range w.steps {
		if f.node == q.node {
			found = append(found, f.n)
		}
	}
	l.fill(found)
	if !s.plan.use(q.node).listed {
		n, known := a.n, a.known
		l.ask = func(a *asker, o number) (bool, error) {
			a.setNumber(q.subject.id, n, known, q.sub)
			return a.ask(o, q.node)
		}
	}
	return l, nil
}

func (l *listing) fill(found []number) {
	l.candidates = make([]candidate, len(found))
	for i, n := range found {
		l.candidates[i] = candidate{l.s.idOf(n), n}
	}
	slices.SortFunc(l.candidates, func(a, b candidate) int { return cmp.Compare(a.id, b.id) })
}

// page is the answers after an id. All its questions share one cost limit.
func (l *listing) page(after string, limit int) (found []Ref, next string, err error) {
	if limit <= 0 {
		limit = defaultPage
	}
	i := 0
	if after != "" {
		var ok bool
		if i, ok = slices.BinarySearchFunc(l.candidates, after, func(c candidate, id string) int { return cmp.Compare(c.id, id) }); ok {
			i++
		}
	}
	a := l.s.asker(l.now)
	defer a.release()
	left := lists * a.p.work
	for first := i; i < len(l.candidates); i++ {
		c := l.candidates[i]
		if len(found) == limit {
			return found, strings.Clone(l.candidates[i-1].id), nil
		}
		if l.ask != nil {
			work := min(left, a.p.work)
			a.work = work
			yes, err := l.ask(a, c.n)
			left -= work - a.work
			if errors.Is(err, ErrLimit) && work < a.p.work && i > first {
				return found, strings.Clone(l.candidates[i-1].id), nil
			}
			if err != nil {
				return nil, "", fmt.Errorf("%s:%s: %w", l.typ, c.id, err)
			}
			if !yes {
				continue
			}
		}
		found = append(found, Ref{l.typ, strings.Clone(c.id)})
	}
	return found, "", nil
}

// User returns the user of an identity: identity:<identity>#identifier@user:<id>, or
// user:<id>#identifier@identity:<identity>. An identity of two users is ErrAmbiguous. Where the manifest lacks these
// types, no identity has a user.
func (s *Snapshot) User(identity string, now time.Time) (Object, bool, error) {
	n, ok, err := s.userOf(identity, now)
	if !ok || err != nil {
		return Object{}, false, err
	}
	return s.record(n).object(s.symbols), true, nil
}

func (s *Snapshot) userOf(identity string, now time.Time) (user number, ok bool, err error) {
	it, ut := s.plan.types["identity"], s.plan.types["user"]
	if it == nil || ut == nil {
		return 0, false, nil
	}
	n, ok := s.find(it.id, identity)
	if !ok {
		return 0, false, nil
	}
	users := 0
	add := func(sp span) {
		for x, ok := sp.next(now.Unix()); ok; x, ok = sp.next(now.Unix()) {
			if users > 1 || users == 1 && x == user {
				continue
			}
			if s.typeOf(x) == ut.id && s.idOf(x) != wildcard {
				user = x
				users++
			}
		}
	}
	if r, ok := it.nodes["identifier"].relation(); ok && r != 0 {
		add(s.forward(n).span(r, 0))
	}
	if r, ok := ut.nodes["identifier"].relation(); ok && r != 0 {
		add(s.reverse(n).span(r, 0))
	}
	switch users {
	case 0:
		return 0, false, nil
	case 1:
		return user, true, nil
	}
	return 0, false, fmt.Errorf("%w: %q", ErrAmbiguous, identity)
}

// GraphQuery is the query of Topaz's GetGraph. The id of the object or of the subject may be empty: the answer lists
// those.
type GraphQuery struct {
	Object          Ref
	Relation        string
	Subject         Ref
	SubjectRelation string // subjects are those with this relation to Subject
	Explain         bool   // with a path for each result
	Trace           bool   // with the questions asked
}

// GraphAnswer is the answer of Topaz's GetGraph.
type GraphAnswer struct {
	Results     []Ref                 // sorted by id
	Explanation map[string][][]string // type:id of a result -> its single path, of relations; for at most 100 results
	Trace       []string              // at most 1,000 lines
}

// ErrGraphQuery means that a GraphQuery has neither id.
var ErrGraphQuery = errors.New("one of the object's and the subject's id is needed")

const (
	maxExplained = 100
	maxTraced    = 1000
)

// Graph lists the objects or the subjects that complete a query. With both ids the answer is the subject, if it has
// the relation. Where every subject of the type has it, the answer is "*" and, as in Topaz, those that also have it
// in another way.
func (s *Snapshot) Graph(q GraphQuery, now time.Time) (*GraphAnswer, error) {
	qn, err := s.plan.question(q.Object.Type, q.Relation, q.Subject.Type, q.SubjectRelation)
	if err != nil {
		return nil, err
	}
	var l *listing
	switch {
	case q.Object.ID == "" && q.Subject.ID == "":
		return nil, ErrGraphQuery
	case q.Object.ID == "":
		l, err = s.what(q.Subject, q.SubjectRelation, q.Relation, q.Object.Type, now)
	case q.Subject.ID == "":
		l, err = s.who(q.Object, q.Relation, q.Subject.Type, q.SubjectRelation, false, now)
	default:
		l, err = s.one(q, qn, now)
	}
	if err != nil {
		return nil, err
	}
	out := &GraphAnswer{}
	for next := ""; ; {
		var found []Ref
		if found, next, err = l.page(next, maxPage); err != nil {
			return nil, err
		}
		out.Results = append(out.Results, found...)
		if next == "" {
			break
		}
		if len(found) < maxPage {
			return nil, ErrLimit // a short page: the cost limit was reached
		}
	}
	return out, s.annotate(out, q, qn, now)
}

// one is the listing for one subject.
func (s *Snapshot) one(q GraphQuery, qn question, now time.Time) (*listing, error) {
	l := &listing{s: s, now: now, typ: q.Subject.Type}
	o, ok := s.find(qn.object.id, q.Object.ID)
	if !ok {
		return l, nil
	}
	n, known := s.find(qn.subject.id, q.Subject.ID)
	l.candidates = []candidate{{q.Subject.ID, n}}
	l.ask = func(a *asker, n number) (bool, error) {
		a.setNumber(qn.subject.id, n, known, qn.sub)
		return a.ask(o, qn.node)
	}
	return l, nil
}

// annotate adds explanation and trace.
func (s *Snapshot) annotate(out *GraphAnswer, q GraphQuery, qn question, now time.Time) error {
	if q.Explain {
		out.Explanation = map[string][][]string{}
	}
	for i, r := range out.Results {
		one := Question{q.Object, q.Relation, q.Subject}
		if q.Object.ID == "" {
			one.Object = r
		} else {
			one.Subject = r
		}
		if q.Trace && i < maxTraced {
			sub := ""
			if q.SubjectRelation != "" {
				sub = "#" + q.SubjectRelation
			}
			out.Trace = append(out.Trace, one.String()+sub+" = true")
		}
		if q.Explain && i < maxExplained {
			e, err := s.explain(one, qn, now)
			if err != nil {
				return err
			}
			path := make([]string, len(e.Path))
			for j, relation := range e.Path {
				path[len(path)-1-j] = relation.String() // from the object to the subject
			}
			out.Explanation[r.String()] = [][]string{path}
		}
	}
	return nil
}

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
