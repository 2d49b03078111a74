package directory

import (
	"strings"
	"time"
)

// Explanation says why a question is answered as it is.
type Explanation struct {
	Question
	Allowed bool

	// Path is the relations that lead from the subject to the object, in this order: the first one's subject is the question's subject, the
	// last one's object its object. Where a permission wants several things (&), it is the path to the first. Nil where it is not allowed, and
	// where finding it takes more steps than the limits allow.
	Path []Relation

	// Nearest is a relation that is missing. With it the answer could be yes, unless something else is missing too. Nil where there is none,
	// such as where the object does not exist.
	Nearest *Relation

	// Excluded says that the subject would be allowed, were it not excluded (-); the path to what excludes it is in ExcludedBy.
	Excluded   bool
	ExcludedBy []Relation

	Unknown []Ref // object and subject, where the directory does not have them
}

// Explain answers a question like Check, and says why.
func (s *Snapshot) Explain(q Question, now time.Time) (*Explanation, error) {
	qn, err := s.plan.question(q.Object.Type, q.Relation, q.Subject.Type, "")
	if err != nil {
		return nil, err
	}
	return s.explain(q, qn, now)
}

func (s *Snapshot) explain(q Question, qn question, now time.Time) (*Explanation, error) {
	e := &Explanation{Question: q}
	o, ok := s.find(qn.object.id, q.Object.ID)
	if !ok {
		e.Unknown = append(e.Unknown, q.Object)
	}
	a := s.asker(now)
	defer a.release()
	a.setSubject(qn.subject.id, q.Subject.ID, qn.sub)
	if !a.known {
		e.Unknown = append(e.Unknown, q.Subject)
	}
	if !ok {
		return e, nil
	}
	var err error
	if e.Allowed, err = a.ask(o, qn.node); err != nil {
		return nil, err
	}
	a.scope = s.plan.use(qn.node)
	x := &explainer{asker: a, subject: q.Subject, budget: 4 * s.plan.work}
	if e.Allowed {
		e.Path = x.path(o, qn.node, a.scope.reach)
		return e, nil
	}
	for _, groups := range []bool{true, false} {
		if e.Nearest == nil {
			x.groups, x.visited = groups, map[uint64]struct{}{}
			e.Nearest = x.missing(o, qn.node, 0)
		}
	}
	if x.excluded != nil {
		e.Excluded, e.Nearest = true, nil
		e.ExcludedBy = x.path(x.excluded.n, x.excluded.node, nil)
	}
	return e, nil
}

// explainer finds paths, and what is missing. What it cannot find within the limits it leaves out.
type explainer struct {
	*asker
	subject  Ref
	groups   bool // look for what the object already gives the relation to, rather than for the object's own relations
	visited  map[uint64]struct{}
	budget   int   // what may be spent on asking for parts of permissions
	excluded *fact // what excludes the subject; node 0: several nodes
}

// path is the shortest way from the subject to a node of an object that it has.
func (x *explainer) path(o number, n node, relevant bitset) []Relation {
	if n == 0 {
		return nil
	}
	w := x.s.walk(x.now)
	x.work = 4 * x.p.work // of all that is asked on the way
	found := -1
	w.up(x.asker, relevant, func(s step) bool {
		if s.node >= firstPermission && !unions(&x.p.perm(s.node).expr) {
			if yes, err := x.ask(s.n, s.node); err != nil || !yes {
				return false
			}
		}
		if s.node == n && s.n == o {
			found, w.end = len(w.steps), true
		}
		return true
	})
	if found < 0 {
		return nil
	}
	return w.path(found)
}

// holds asks for a part of a permission.
func (x *explainer) holds(o number, e *expr) bool {
	x.work = x.budget
	defer func() { x.budget = max(x.work, 0) }()
	if e.op == opName {
		yes, _ := x.ask(o, e.node)
		return yes
	}
	x.err, x.level = nil, 0
	x.memo.reset()
	return x.expr(o, e, 0) == yes
}

// missing finds a relation without which the subject does not have a node of an object.
func (x *explainer) missing(o number, n node, depth int) *Relation {
	if _, was := x.visited[n.at(o)]; was || x.tired() || depth > x.p.depth {
		return nil
	}
	x.visited[n.at(o)] = struct{}{}
	r, ok := n.relation()
	if !ok {
		return x.missingExpr(o, &x.p.perm(n).expr, depth)
	}
	rp := &x.p.rels[r]
	if !x.groups {
		if x.allows(r) {
			return &Relation{Object: x.s.ref(o), Relation: rp.name, Subject: x.subject}
		}
		return nil
	}
	for _, set := range rp.sets {
		if !x.allows(set) {
			continue
		}
		sp := x.s.forward(o).span(r, set)
		if group, ok := sp.next(x.now); ok {
			return &Relation{Object: x.s.ref(group), Relation: x.p.rels[set].name, Subject: x.subject}
		}
	}
	return nil
}

// tired: a relation that is found after that many places were looked at is not near.
func (x *explainer) tired() bool { return len(x.visited) > 1000 }

// allows says whether the subject can have relation r itself.
func (x *explainer) allows(r relID) bool {
	return x.sub == 0 && x.s.symbols.allows(r, x.typ, 0, x.subject.ID == wildcard)
}

func (x *explainer) missingExpr(o number, e *expr, depth int) *Relation {
	switch e.op {
	case opName:
		return x.missing(o, e.node, depth)
	case opArrow:
		var out *Relation
		x.work = x.p.work
		x.follow(o, e, func(to number, n node) verdict {
			if out = x.missing(to, n, depth+1); out != nil || x.tired() {
				return yes
			}
			return no
		})
		return out
	case opUnion:
		for i := range e.of {
			if r := x.missingExpr(o, &e.of[i], depth); r != nil {
				return r
			}
		}
		return nil
	case opIntersection:
		for i := range e.of {
			if !x.holds(o, &e.of[i]) {
				return x.missingExpr(o, &e.of[i], depth)
			}
		}
		return nil
	}
	if !x.holds(o, &e.of[0]) {
		return x.missingExpr(o, &e.of[0], depth)
	}
	for i := range e.of[1:] {
		if x.excluded == nil && x.holds(o, &e.of[i+1]) {
			x.excluded = &fact{n: o, node: e.of[i+1].node}
		}
	}
	return nil
}

// String is the path, or what is missing: alice -> group:eng#member -> doc:7#viewer.
func (e *Explanation) String() string {
	var b strings.Builder
	switch {
	case e.Allowed && e.Path == nil:
		b.WriteString("allowed; the path to it has more steps than the limits allow")
	case e.Allowed:
		writePath(&b, e.Path, e.Subject)
	case e.Excluded:
		b.WriteString("not allowed: excluded")
		if e.ExcludedBy != nil {
			b.WriteString(" by ")
			writePath(&b, e.ExcludedBy, e.Subject)
		}
	case e.Nearest != nil:
		b.WriteString("not allowed: there is no " + e.Nearest.String())
	default:
		b.WriteString("not allowed")
	}
	for i, r := range e.Unknown {
		b.WriteString([]string{"; unknown: ", ", "}[min(i, 1)] + r.String())
	}
	return b.String()
}

func writePath(b *strings.Builder, path []Relation, subject Ref) {
	if len(path) > 0 && path[0].Subject == (Ref{subject.Type, wildcard}) && subject.ID != wildcard {
		b.WriteString(path[0].Subject.String())
	} else {
		b.WriteString(subject.ID)
	}
	for _, r := range path {
		b.WriteString(" -> " + r.Object.String() + "#" + r.Relation)
	}
}
