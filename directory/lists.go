package directory

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ErrAmbiguous is an identity that belongs to more than one user.
var ErrAmbiguous = errors.New("the identity belongs to more than one user")

const (
	lists       = 10 // a listing may look at so many times what one question may
	defaultPage = 100
	maxPage     = 10_000
)

// Who lists the subjects of a type that have a relation or permission: those for which Check says yes, in the order of their ids, from the
// one after on. Where every subject of the type has it, known or not, "*" is the first. At most limit of them (0: 100; at most 10,000);
// next is what to give as after for those that follow, "" at the end. A page may hold fewer where finding more would take too much work.
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

// listing is objects of one type that may be answers.
type listing struct {
	s          *Snapshot
	now        time.Time
	typ        string
	candidates []candidate
	ask        func(a *asker, n number) (bool, error) // nil: all of them are
}

type candidate struct {
	id string // a part of the page: copied before it is given away
	n  number
}

// question is the parts of a question in numbers.
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

// who lists subjects. all: where everyone is among them, all that are known are listed.
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

// page is the answers after an id. All of its questions share what one may cost.
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

// User is the user to whom an identity belongs: identity:<identity>#identifier@user:<id>, or user:<id>#identifier@identity:<identity>. An
// identity of two users is ErrAmbiguous. Where the manifest has no such types, no identity belongs to anyone.
func (s *Snapshot) User(identity string, now time.Time) (Object, bool, error) {
	it, ut := s.plan.types["identity"], s.plan.types["user"]
	if it == nil || ut == nil {
		return Object{}, false, nil
	}
	n, ok := s.find(it.id, identity)
	if !ok {
		return Object{}, false, nil
	}
	var user number
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
		return Object{}, false, nil
	case 1:
		return s.record(user).object(s.symbols), true, nil
	}
	return Object{}, false, fmt.Errorf("%w: %q", ErrAmbiguous, identity)
}
