package directory

import (
	"slices"
	"strings"
	"time"
)

// Explanation explains the answer to a question.
type Explanation struct {
	Question
	Allowed bool

	// Path is the chain of relations from the subject to the object: the subject of the first is the question's
	// subject, the object of the last its object. For an intersection (&) it is the path to the first operand. Nil
	// where the answer is no, and where finding it exceeds the limits.
	Path []Relation

	// Nearest is a missing relation that could make the answer yes, unless others are missing too. Nil where there is
	// none, such as for a missing object. With Expires set it existed until then.
	Nearest *Relation

	// Excluded says that the subject would be allowed without an exclusion (-); ExcludedBy is the path to what
	// excludes it.
	Excluded   bool
	ExcludedBy []Relation

	Unknown []Ref // the object and subject that are not in the directory
}

// Explain answers a question like Check, with an explanation.
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

// explainer finds paths and missing relations. What it cannot find within the limits it leaves out.
type explainer struct {
	*asker
	subject  Ref
	groups   bool // look for groups that have the relation already, not for the object's own relations
	visited  map[uint64]struct{}
	budget   int   // left for evaluating parts of permissions
	excluded *fact // what excludes the subject; node 0: several nodes
}

// path is the shortest path from the subject to a node of an object that it has.
func (x *explainer) path(o number, n node, relevant bitset) []Relation {
	if n == 0 {
		return nil
	}
	w := x.s.walk(x.now)
	x.work = 4 * x.p.work // shared by all questions on the path
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

// holds evaluates a part of a permission.
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

// missing finds a relation whose addition may give the subject a node of an object.
func (x *explainer) missing(o number, n node, depth int) *Relation {
	if _, was := x.visited[n.at(o)]; was || x.exhausted() || depth > x.p.depth {
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
			return x.own(o, r)
		}
		return nil
	}
	for _, set := range rp.sets {
		if !x.allows(set) {
			continue
		}
		sp := x.s.forward(o).span(r, set)
		var first *Relation
		for range nearGroups { // prefer a group that the subject was in
			group, ok := sp.next(x.now)
			if !ok {
				break
			}
			near := x.own(group, set)
			if !near.Expires.IsZero() {
				return near
			}
			if first == nil {
				first = near
			}
		}
		if first != nil {
			return first
		}
	}
	return nil
}

// nearGroups is for how many groups past membership is looked up.
const nearGroups = 16

// own is the subject's own relation r to an object, which is missing or expired; then it has the expiry.
func (x *explainer) own(o number, r relID) *Relation {
	out := &Relation{Object: x.s.ref(o), Relation: x.p.rels[r].name, Subject: x.subject}
	if x.known {
		if at, ok := x.s.forward(o).find(makeEdge(r, 0, x.n)); ok && expired(at, x.now) {
			out.Expires = time.Unix(at, 0).UTC()
		}
	}
	return out
}

// exhausted ends the search: a relation found after that many places is not near.
func (x *explainer) exhausted() bool { return len(x.visited) > 1000 }

// allows reports whether the subject can have relation r itself.
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
			if out = x.missing(to, n, depth+1); out != nil || x.exhausted() {
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

// String formats the path, or what is missing: alice -> group:eng#member -> doc:7#viewer.
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
	case e.Nearest != nil && !e.Nearest.Expires.IsZero():
		b.WriteString("not allowed: " + e.Nearest.String() + " expired at " + e.Nearest.Expires.Format(time.RFC3339))
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

// walk finds the candidates of a listing: all nodes of objects below an object, or all above a subject. It treats &
// and - as their first operand alone, so it finds a superset; where a plan's use is not listed, each candidate is
// checked.
type walk struct {
	s     *Snapshot
	p     *plan
	now   int64
	work  int
	steps []step
	index map[uint64]struct{}
	err   error
	end   bool // the target was found
}

// step is a visited node of an object, with the step and relation that led to it.
type step struct {
	fact
	from int  // the previous step, -1: the subject itself
	via  edge // the relation of object n of this step to the subject of the previous step; 0: none, the same object
}

func (s *Snapshot) walk(now int64) *walk {
	return &walk{s: s, p: s.plan, now: now, work: lists * s.plan.work, index: map[uint64]struct{}{}}
}

func (w *walk) open() bool { return w.err == nil && !w.end }

// reach adds a node of an object, unless it is there already or accept rejects it.
func (w *walk) reach(s step, accept func(step) bool) {
	key := s.node.at(s.n)
	if _, ok := w.index[key]; ok || !w.open() {
		return
	}
	if w.work--; w.work < 0 || int(s.depth) > w.p.depth {
		w.err = ErrLimit
		return
	}
	w.index[key] = struct{}{}
	if accept == nil || accept(s) {
		w.steps = append(w.steps, s)
	}
}

// each calls f for the objects at the other end of relations.
func (w *walk) each(sp span, f func(number)) {
	for x, ok := sp.next(w.now); ok && w.open(); x, ok = sp.next(w.now) {
		if w.work--; w.work < 0 {
			w.err = ErrLimit
			return
		}
		f(x)
	}
}

// down finds the subjects of a type, or subject sets of a relation to it, below a node of an object. everyone: the
// type's wildcard is among them.
func (w *walk) down(o number, root node, t typeID, sub relID) (found []number, everyone bool) {
	seen := map[number]struct{}{}
	add := func(x number) {
		if _, ok := seen[x]; ok || sub == 0 && w.s.typeOf(x) != t {
			return
		}
		seen[x] = struct{}{}
		if w.s.idOf(x) == wildcard {
			everyone = true
		}
		found = append(found, x)
	}
	w.reach(step{fact: fact{root, o, 1}}, nil)
	for i := 0; i < len(w.steps) && w.open(); i++ {
		f := w.steps[i].fact
		forward := w.s.forward(f.n)
		r, ok := f.node.relation()
		if !ok {
			w.p.perm(f.node).expr.parts(func(e *expr) { w.below(f, forward, e) })
			continue
		}
		rp := &w.p.rels[r]
		if sub == 0 && (slices.Contains(rp.direct, t) || slices.Contains(rp.any, t)) {
			w.each(forward.span(r, 0), add)
		}
		for _, set := range rp.sets {
			w.each(forward.span(r, set), func(x number) {
				if set == sub {
					add(x)
				}
				w.reach(step{fact: fact{node(set), x, f.depth + 1}}, nil)
			})
		}
	}
	return found, everyone
}

// below adds the nodes that a part of a permission's definition derives from.
func (w *walk) below(f fact, forward edges, e *expr) {
	if e.op == opName {
		w.reach(step{fact: fact{e.node, f.n, f.depth}}, nil)
		return
	}
	w.each(forward.span(e.base, 0), func(x number) {
		t := w.s.typeOf(x)
		for i := range e.targets {
			if e.targets[i].typ == t {
				w.reach(step{fact: fact{e.targets[i].node, x, f.depth + 1}}, nil)
			}
		}
	})
	for _, via := range e.via {
		w.each(forward.span(e.base, via.pair), func(x number) { w.reach(step{fact: fact{via.node, x, f.depth + 1}}, nil) })
	}
}

// up finds nodes of objects above a subject, nearest first, among the relevant ones; nil: all. accept may reject a
// step; nil: none is.
func (w *walk) up(a *asker, relevant bitset, accept func(step) bool) {
	matters := func(n node) bool { return relevant == nil || relevant.has(w.p.slot(n)) }
	reach := func(s step) {
		if matters(s.node) {
			w.reach(s, accept)
		}
	}
	begin := func(n number, r, sub relID) {
		w.each(w.s.reverse(n).span(r, sub), func(o number) {
			reach(step{fact: fact{node(r), o, 1}, from: -1, via: makeEdge(r, sub, n)})
		})
	}
	for i := range w.p.rels {
		r, rp := relID(i), &w.p.rels[i]
		if !matters(node(r)) {
			continue
		}
		if a.known && a.sub == 0 && slices.Contains(rp.direct, a.typ) || a.known && a.sub != 0 && slices.Contains(rp.sets, a.sub) {
			begin(a.n, r, a.sub)
		}
		if a.sub == 0 && slices.Contains(rp.any, a.typ) {
			if all, ok := a.wildcardObject(); ok {
				begin(all, r, 0)
			}
		}
	}
	for i := 0; i < len(w.steps) && w.open(); i++ {
		f := w.steps[i].fact
		reverse := w.s.reverse(f.n)
		above := func(n node, base, sub relID) {
			w.each(reverse.span(base, sub), func(o number) {
				reach(step{fact: fact{n, o, f.depth + 1}, from: i, via: makeEdge(base, sub, f.n)})
			})
		}
		for _, u := range w.p.use(f.node).users {
			if u.base == 0 {
				reach(step{fact: fact{u.perm, f.n, f.depth}, from: i})
			} else if matters(u.perm) {
				above(u.perm, u.base, u.sub)
			}
		}
		if set, ok := f.node.relation(); ok {
			for _, r := range w.p.rels[set].up {
				if matters(node(r)) {
					above(node(r), r, set)
				}
			}
		}
	}
}

// path is the chain of relations from the subject to step i.
func (w *walk) path(i int) []Relation {
	var out []Relation
	for ; i >= 0; i = w.steps[i].from {
		if s := w.steps[i]; s.via != 0 {
			at, _ := w.s.forward(s.n).find(s.via)
			out = append(out, w.s.relation(s.n, s.via, at))
		}
	}
	slices.Reverse(out)
	return out
}
