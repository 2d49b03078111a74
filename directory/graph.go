package directory

import (
	"errors"
	"time"
)

// GraphQuery is what Topaz's GetGraph takes. Either the id of the object or that of the subject may be empty: its objects are the answer.
type GraphQuery struct {
	Object          Ref
	Relation        string
	Subject         Ref
	SubjectRelation string // the subjects are those who have this relation to Subject
	Explain         bool   // with a path for each result
	Trace           bool   // with what was asked
}

// GraphAnswer is what Topaz's GetGraph answers.
type GraphAnswer struct {
	Results     []Ref                 // in the order of their ids
	Explanation map[string][][]string // type:id of a result -> paths, of which there is one, of relations; for at most 100 of them
	Trace       []string              // at most 1,000 lines
}

// ErrGraphQuery is a GraphQuery with neither id.
var ErrGraphQuery = errors.New("one of the object's and the subject's id is needed")

const (
	maxExplained = 100
	maxTraced    = 1000
)

// Graph lists the objects or the subjects that complete a query. With both ids the answer is the subject, if it has the relation. Where every
// subject of the type has it, the answer is "*" and, as in Topaz, those of them who have it in another way too.
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
			return nil, ErrLimit // a page that is not full: the work that a question may take is done
		}
	}
	return out, s.annotate(out, q, qn, now)
}

// one is the listing of one subject.
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
