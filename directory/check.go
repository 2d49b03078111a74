package directory

import (
	"errors"
	"math"
	"slices"
	"time"
)

// ErrCircular means that the answer would depend on its own negation, because a permission excludes subjects through relations
// that lead back to the object.
var ErrCircular = errors.New("the permission excludes those who have it: the relations of the objects lead in a circle")

// errAgain: an evaluation met a node that is being evaluated, or got too deep; solve decides instead.
var errAgain = errors.New("again")

// Check reports whether the subject has the relation or permission. It does not allocate. An unknown subject has what
// every subject of its type has (user:*); an unknown object gives nothing.
func (s *Snapshot) Check(q Question, now time.Time) (bool, error) { return s.check(q, now, nil) }

func (s *Snapshot) check(q Question, now time.Time, b *Dependencies) (bool, error) {
	p := s.plan
	t, err := p.typ(q.Object.Type)
	if err != nil {
		return false, err
	}
	n, err := p.node(t, q.Object.Type, q.Relation)
	if err != nil {
		return false, err
	}
	st, err := p.typ(q.Subject.Type)
	if err != nil {
		return false, err
	}
	a := s.asker(now)
	o, ok, subject, known := a.find(t.id, q.Object.ID, st.id, q.Subject.ID, len(p.use(n).pairs) > 0)
	if a.basis = b; b != nil {
		a.noteName(t.id, q.Object.ID, o, ok)
		a.noteName(st.id, q.Subject.ID, subject, known)
	}
	yes := false
	if ok {
		a.setNumber(st.id, subject, known, 0)
		yes, err = a.ask(o, n)
	}
	a.release()
	return yes, err
}

// verdict is an intermediate result.
type verdict uint8

const (
	no verdict = iota
	yes
	stop   // no result; the reason is asker.err
	unsure // of descend: it stopped before it had seen everything
)

// asker evaluates questions one after the other. It is scratch space from the plan's pool.
type asker struct {
	s     *Snapshot
	p     *plan
	now   int64
	work  int // relations that may still be read
	level int // permissions being evaluated
	err   error
	typ   typeID // the subject's type,
	sub   relID  // or of a subject set, its relation
	n     number // the subject's number,
	known bool   // if it exists
	all   number // the wildcard object of the subject's type
	isAll presence

	scope      *use     // of the named node whose parts are evaluated; nil: each question is a named node itself
	use        *use     // of the evaluated node
	climbing   bool     // sets has the subject's own sets
	partial    bool     // sets is incomplete because of the limits
	sets       []member // sets that contain the subject, nearest first
	inSets     table    // the same by key
	expanded   int      // so many of sets were looked up: the sets that contain them are there too
	prefetched int      // and so many are on their way
	climbWork  int      // relations that may still be read for sets
	memo       table    // verdicts of permissions; open during evaluation
	seen       table    // of descend: visited without success
	queue      []member
	solver     solver

	basis   *Dependencies // what is read is added to it; nil: nobody wants to know
	touched edge          // a sink, so that reads are not optimized away
}

type presence uint8

const (
	presenceUnknown presence = iota
	present
	absent
)

// member is a visited node of an object.
type member struct {
	rel   relID
	depth uint16
	n     number
}

func (m member) key() uint64 { return node(m.rel).at(m.n) }

func (s *Snapshot) asker(now time.Time) *asker {
	a := s.plan.askers.Get().(*asker)
	a.s, a.p, a.now = s, s.plan, now.Unix()
	a.work = a.p.work
	return a
}

// release returns the asker to the pool. It must not keep a snapshot alive.
func (a *asker) release() {
	p := a.p
	a.s, a.p, a.scope, a.use, a.err, a.basis = nil, nil, nil, nil, nil, nil
	if cap(a.sets) > keepMembers || cap(a.queue) > keepMembers || a.memo.large() || a.seen.large() || a.inSets.large() || a.solver.large() {
		return // do not keep the memory of a large question
	}
	p.askers.Put(a)
}

const keepMembers = 1 << 14

func (a *asker) setSubject(t typeID, id string, sub relID) {
	n, known := a.s.find(t, id)
	a.setNumber(t, n, known, sub)
}

func (a *asker) setNumber(t typeID, n number, known bool, sub relID) {
	a.typ, a.sub, a.n, a.known, a.isAll = t, sub, n, known, presenceUnknown
	a.climbing, a.partial, a.use = false, false, nil
}

// wildcardObject is the wildcard object of the subject's type.
func (a *asker) wildcardObject() (number, bool) {
	if a.isAll == presenceUnknown {
		a.isAll = absent
		n, ok := a.s.find(a.typ, wildcard)
		if a.noteName(a.typ, wildcard, n, ok); ok {
			a.all, a.isAll = n, present
		}
	}
	return a.all, a.isAll == present
}

func (a *asker) spend(n int) bool {
	if a.work -= n; a.work < 0 {
		a.err = ErrLimit
		return false
	}
	return true
}

// ask evaluates one node of an object. It may be called repeatedly for one subject.
func (a *asker) ask(o number, n node) (bool, error) {
	a.err, a.level = nil, 0
	u := a.scope
	if u == nil {
		u = a.p.use(n)
	}
	if u != a.use {
		a.use, a.climbing, a.partial = u, false, false
		a.seen.reset()
	}
	if n >= firstPermission {
		a.memo.reset()
	}
	v := a.eval(o, n, 0)
	if v == stop && a.err == errAgain {
		a.err = nil
		v = a.solve(o, n)
	}
	return v == yes, a.err
}

const (
	open     = 2      // marks a permission under evaluation
	maxLevel = 20_000 // bounds the stack regardless of the limits
)

func (a *asker) eval(o number, n node, depth int) verdict {
	if r, ok := n.relation(); ok {
		return a.relation(o, r)
	}
	key := n.at(o)
	if known, ok := a.memo.get(key); ok {
		if known == open {
			a.err = errAgain
			return stop
		}
		return verdict(known)
	}
	if a.level++; a.level > maxLevel {
		a.err = ErrLimit
	}
	if a.err != nil || !a.spend(1) {
		return stop
	}
	a.memo.put(key, open)
	v := a.expr(o, &a.p.perm(n).expr, depth)
	a.level--
	if v != stop {
		a.memo.put(key, uint32(v))
	}
	return v
}

func (a *asker) expr(o number, e *expr, depth int) verdict {
	switch e.op {
	case opName:
		return a.eval(o, e.node, depth)
	case opArrow:
		return a.arrow(o, e, depth+1)
	case opUnion:
		for i := range e.of {
			if v := a.expr(o, &e.of[i], depth); v != no {
				return v
			}
		}
		return no
	case opIntersection:
		for i := range e.of {
			if v := a.expr(o, &e.of[i], depth); v != yes {
				return v
			}
		}
		return yes
	}
	if v := a.expr(o, &e.of[0], depth); v != yes {
		return v
	}
	for i := range e.of[1:] {
		switch a.expr(o, &e.of[i+1], depth) {
		case yes:
			return no
		case stop:
			return stop
		}
	}
	return yes
}

// arrow evaluates the subjects of relation base, until one holds.
func (a *asker) arrow(o number, e *expr, depth int) verdict {
	a.note(o)
	f := a.s.forward(o)
	sp := f.span(e.base, 0)
	for x, ok := sp.next(a.now); ok; x, ok = sp.next(a.now) {
		if depth > a.p.depth {
			a.err = errAgain // solve finds the shortest path
			return stop
		}
		if !a.spend(1) {
			return stop
		}
		if v := a.eval(x, a.targetNode(e, x), depth); v != no {
			return v
		}
	}
	for _, via := range e.via {
		sp := f.span(e.base, via.pair)
		for x, ok := sp.next(a.now); ok; x, ok = sp.next(a.now) {
			if depth > a.p.depth {
				a.err = errAgain
				return stop
			}
			if !a.spend(1) {
				return stop
			}
			if v := a.eval(x, via.node, depth); v != no {
				return v
			}
		}
	}
	return no
}

// targetNode is the node that an arrow evaluates on x.
func (a *asker) targetNode(e *expr, x number) node {
	if len(e.targets) == 1 {
		return e.targets[0].node
	}
	t := a.s.typeOf(x)
	for i := range e.targets {
		if e.targets[i].typ == t {
			return e.targets[i].node
		}
	}
	return node(0) // not in the manifest: relation 0 has no subjects
}

// relation reports whether the subject has the relation to the object.
func (a *asker) relation(o number, r relID) verdict {
	if !a.spend(1) {
		return stop
	}
	a.note(o)
	f, rp := a.s.forward(o), &a.p.rels[r]
	if a.direct(f, r, rp) {
		return yes
	}
	found, compared := false, 0
	for _, set := range rp.sets {
		sp := f.span(r, set)
		if sp.len() == 0 {
			continue
		}
		found = true
		if a.climbing {
			if v := a.member(f, r, set, sp); v != no {
				return v
			}
			compared = len(a.sets)
		}
	}
	if !found {
		return no
	}
	if !a.climbing {
		if v := a.begin(o, r); v != unsure {
			return v
		}
	}
	for more := true; more; more = a.climb() {
		for _, m := range a.sets[compared:] {
			if slices.Contains(rp.sets, m.rel) && f.has(r, m.rel, m.n, a.now) {
				return yes
			}
		}
		compared = len(a.sets)
	}
	if a.partial {
		return a.descend(o, r, math.MaxInt)
	}
	return no
}

const (
	wide    = 64 // sets that directly contain the subject; with more, the object's side is tried first
	maxPeek = 64 // and sets read there at most
)

// begin finds the sets that the subject itself is in, unless those are many and the object has few: then it returns the
// verdict at once.
func (a *asker) begin(o number, r relID) verdict {
	n := 0
	if a.known {
		a.note(a.n)
		reverse := a.s.reverse(a.n)
		if reverse.len() > wide {
			for _, pair := range a.use.pairs {
				sp := reverse.span(pair, a.sub)
				n += sp.len()
			}
		}
	}
	if n > wide {
		if v := a.descend(o, r, maxPeek); v != unsure {
			return v
		}
	}
	a.climbing, a.expanded, a.prefetched, a.sets = true, 0, 0, a.sets[:0]
	a.inSets.reset()
	a.climbWork = a.work / 2
	for _, r := range a.use.pairs {
		if a.known && (a.sub == 0 && slices.Contains(a.p.rels[r].direct, a.typ) || a.sub != 0 && slices.Contains(a.p.rels[r].sets, a.sub)) {
			a.join(a.n, r, a.sub, 1)
		}
	}
	for _, r := range a.use.pairs {
		if a.sub == 0 && slices.Contains(a.p.rels[r].any, a.typ) {
			if all, ok := a.wildcardObject(); ok {
				a.join(all, r, 0, 1)
			}
		}
	}
	return unsure
}

// direct reports whether the subject itself, or the wildcard of its type, is a subject of the relation.
func (a *asker) direct(f edges, r relID, rp *relPlan) bool {
	if a.sub != 0 {
		return a.known && slices.Contains(rp.sets, a.sub) && f.has(r, a.sub, a.n, a.now)
	}
	if a.known && slices.Contains(rp.direct, a.typ) && f.has(r, 0, a.n, a.now) {
		return true
	}
	if slices.Contains(rp.any, a.typ) && !f.empty() {
		if all, ok := a.wildcardObject(); ok && f.has(r, 0, all, a.now) {
			return true
		}
	}
	return false
}

// isIn reports whether the subject is known to be in a set.
func (a *asker) isIn(m member) bool {
	if len(a.sets) > few {
		_, in := a.inSets.get(m.key())
		return in
	}
	for i := range a.sets {
		if a.sets[i].n == m.n && a.sets[i].rel == m.rel {
			return true
		}
	}
	return false
}

// few sets are compared linearly, which is faster than the table. With more the table is filled.
const few = 12

func (a *asker) add(m member) {
	a.sets = append(a.sets, m)
	switch {
	case len(a.sets) == few+1:
		for _, m := range a.sets {
			a.inSets.put(m.key(), 0)
		}
	case len(a.sets) > few:
		a.inSets.put(m.key(), 0)
	}
}

// member reports whether one of the object's sets contains the subject. It iterates over the shorter of the two
// lists.
func (a *asker) member(f edges, r, set relID, sp span) verdict {
	if sp.len() <= len(a.sets) {
		for x, ok := sp.next(a.now); ok; x, ok = sp.next(a.now) {
			if !a.spend(1) {
				return stop
			}
			if a.isIn(member{rel: set, n: x}) {
				return yes
			}
		}
		return no
	}
	for _, m := range a.sets {
		if m.rel != set {
			continue
		}
		if !a.spend(1) {
			return stop
		}
		if f.has(r, set, m.n, a.now) {
			return yes
		}
	}
	return no
}

// climb looks one of the sets up, so that those that contain it are among the sets too, and reports whether there was
// one: from the subject upwards, breadth first, so far as a question needs. Where a limit ends it, the sets found stay,
// and descend searches from the other side.
func (a *asker) climb() bool {
	if a.partial || a.expanded == len(a.sets) {
		return false
	}
	if a.expanded == a.prefetched {
		for ; a.prefetched < min(a.expanded+ahead, len(a.sets)); a.prefetched++ {
			a.touch(a.s.reverse(a.sets[a.prefetched].n))
		}
	}
	m := a.sets[a.expanded]
	a.expanded++
	for _, r := range a.p.rels[m.rel].up {
		if a.use.isPair.has(int(r)) {
			a.join(m.n, r, m.rel, int(m.depth)+1)
		}
	}
	return true
}

// ahead is how many sets are prefetched before the first is read, to overlap memory latency.
const ahead = 16

// touch prefetches relations.
func (a *asker) touch(e edges) {
	if len(e.edges) > 0 {
		a.touched ^= e.edges[0]
	}
}

// join adds the sets of relation r that contain n, or the set sub of n.
func (a *asker) join(n number, r, sub relID, depth int) {
	a.note(n)
	e := a.s.reverse(n)
	if e.hub == nil { // as below, without a span: most lists are short
		from := makeEdge(r, sub, 0)
		i, j := bounds(e.edges, from, beyond(from))
		for ; i < j && !a.partial; i++ {
			if e.at == nil || !expired(e.at[i], a.now) {
				a.joinSet(member{r, uint16(depth), e.edges[i].other()})
			}
		}
		return
	}
	sp := e.span(r, sub)
	for x, ok := sp.next(a.now); ok && !a.partial; x, ok = sp.next(a.now) {
		a.joinSet(member{r, uint16(depth), x})
	}
}

func (a *asker) joinSet(m member) {
	a.work--
	if a.climbWork--; a.climbWork <= 0 || a.work <= 0 {
		a.partial = true
		return
	}
	if a.isIn(m) {
		return
	}
	if int(m.depth) >= a.p.depth { // the object's own relation would exceed the depth by one
		a.partial = true
		return
	}
	a.add(m)
}

// descend searches for the subject from the object downwards, through at most most sets.
func (a *asker) descend(o number, r relID, most int) verdict {
	a.queue = append(a.queue[:0], member{r, 1, o})
	deep := false
	for i := 0; i < len(a.queue); i++ {
		m := a.queue[i]
		if !a.spend(1) {
			a.seen.reset()
			return stop
		}
		a.note(m.n)
		f, rp := a.s.forward(m.n), &a.p.rels[m.rel]
		if a.direct(f, m.rel, rp) {
			a.seen.reset() // the rest of the queue was not visited
			return yes
		}
		for _, set := range rp.sets {
			sp := f.span(m.rel, set)
			for x, ok := sp.next(a.now); ok; x, ok = sp.next(a.now) {
				if !a.spend(1) {
					a.seen.reset()
					return stop
				}
				next := member{set, m.depth + 1, x}
				if _, was := a.seen.get(next.key()); was {
					continue
				}
				if int(next.depth) > a.p.depth {
					deep = true // the rest of the queue may contain the subject
					continue
				}
				if len(a.queue) > most {
					a.seen.reset()
					return unsure
				}
				a.seen.put(next.key(), 0)
				a.queue = append(a.queue, next)
			}
		}
	}
	if !deep {
		return no
	}
	a.seen.reset()
	if most < math.MaxInt {
		return unsure
	}
	a.err = ErrLimit
	return stop
}
