package directory

import (
	"errors"
	"math"
	"slices"
	"time"
)

// ErrCircular is a question whose answer would depend on its own opposite: a permission that excludes those who have it, through relations
// that lead back to the object.
var ErrCircular = errors.New("the permission excludes those who have it: the relations of the objects lead in a circle")

// errAgain is an evaluation that met a node which is being evaluated, or was too deep to go on: solve decides.
var errAgain = errors.New("again")

// Check says whether the subject has the relation or permission. It allocates nothing. A subject that the directory does not know has what
// every subject of its type has (user:*); an object that it does not know gives nothing.
func (s *Snapshot) Check(q Question, now time.Time) (bool, error) {
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
	o, ok, subject, known := s.findBoth(t.id, q.Object.ID, st.id, q.Subject.ID)
	yes := false
	if ok {
		a.setNumber(st.id, subject, known, 0)
		yes, err = a.ask(o, n)
	}
	a.release()
	return yes, err
}

// verdict is an answer on its way.
type verdict uint8

const (
	no verdict = iota
	yes
	stop   // asker.err says why there is none
	unsure // of descend: there is more than it was to look at
)

// asker answers one question after the other. It is scratch space, out of the plan's pool.
type asker struct {
	s     *Snapshot
	p     *plan
	now   int64
	work  int // how many relations may still be looked at
	level int // permissions being evaluated
	err   error
	typ   typeID // the subject,
	sub   relID  // or who has this relation to it;
	n     number // its number,
	known bool   // if it has one
	all   number // the object that stands for all of the subject's type
	isAll presence

	scope   *use     // of a named node that all questions are about parts of; nil: each is about a named node itself
	use     *use     // of the node that was asked for
	climbed bool     // sets is filled in
	partial bool     // sets is not all, because of the limits
	sets    []member // the sets that the subject is in
	inSets  table    // and the same by key
	memo    table    // verdicts of permissions; open while evaluated
	seen    table    // of descend: what leads to no
	queue   []member
	solver  solver

	touched edge // nobody reads it, but it must be read for
}

type presence uint8

const (
	notLooked presence = iota
	present
	absent
)

// member is a node of an object on a walk.
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

// release gives the asker back. It keeps no snapshot alive.
func (a *asker) release() {
	p := a.p
	a.s, a.p, a.scope, a.use, a.err = nil, nil, nil, nil, nil
	if cap(a.sets) > keepMembers || cap(a.queue) > keepMembers || a.memo.large() || a.seen.large() || a.inSets.large() || a.solver.large() {
		return // one large question should not cost memory from then on
	}
	p.askers.Put(a)
}

const keepMembers = 1 << 14

func (a *asker) setSubject(t typeID, id string, sub relID) {
	n, known := a.s.find(t, id)
	a.setNumber(t, n, known, sub)
}

func (a *asker) setNumber(t typeID, n number, known bool, sub relID) {
	a.typ, a.sub, a.n, a.known, a.isAll = t, sub, n, known, notLooked
	a.climbed, a.partial, a.use = false, false, nil
}

// everyone is the object that stands for all of the subject's type.
func (a *asker) everyone() (number, bool) {
	if a.isAll == notLooked {
		a.isAll = absent
		if n, ok := a.s.find(a.typ, wildcard); ok {
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

// ask answers for one node of an object. Within one subject it may be called again.
func (a *asker) ask(o number, n node) (bool, error) {
	a.err, a.level = nil, 0
	u := a.scope
	if u == nil {
		u = a.p.use(n)
	}
	if u != a.use {
		a.use, a.climbed, a.partial = u, false, false
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
	open     = 2      // marks a permission that is being evaluated
	maxLevel = 20_000 // bounds the stack, whatever the limits are
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

// arrow asks the subjects of relation base, until one of them says yes.
func (a *asker) arrow(o number, e *expr, depth int) verdict {
	f := a.s.forward(o)
	sp := f.span(e.base, 0)
	for x, ok := sp.next(a.now); ok; x, ok = sp.next(a.now) {
		if depth > a.p.depth {
			a.err = errAgain // solve finds the shortest way
			return stop
		}
		if !a.spend(1) {
			return stop
		}
		if v := a.eval(x, a.tip(e, x), depth); v != no {
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

// tip is what an arrow asks of x.
func (a *asker) tip(e *expr, x number) node {
	if len(e.tips) == 1 {
		return e.tips[0].node
	}
	t := a.s.typeOf(x)
	for i := range e.tips {
		if e.tips[i].typ == t {
			return e.tips[i].node
		}
	}
	return node(0) // not in the manifest: relation 0 has no subjects
}

// relation says whether the subject has the relation to the object.
func (a *asker) relation(o number, r relID) verdict {
	if !a.spend(1) {
		return stop
	}
	f, rp := a.s.forward(o), &a.p.rels[r]
	if len(rp.sets) > 0 && a.known && !a.climbed {
		a.touch(a.n)
	}
	if a.direct(f, r, rp) {
		return yes
	}
	found := false
	for _, set := range rp.sets {
		sp := f.span(r, set)
		if sp.len() == 0 {
			continue
		}
		if !found && !a.climbed {
			if v := a.begin(o, r); v != unsure {
				return v
			}
		}
		found = true
		if v := a.member(f, r, set, sp); v != no {
			return v
		}
	}
	if found && a.partial {
		return a.descend(o, r, math.MaxInt)
	}
	return no
}

const (
	wide   = 64 // sets that a subject is in itself; for more, a look from the object's side comes first
	glance = 64 // and that many sets there
)

// begin climbs, unless the subject is in many sets and the object has few of them: then it has the verdict at once.
func (a *asker) begin(o number, r relID) verdict {
	n := 0
	if a.known {
		reverse := a.s.reverse(a.n)
		if reverse.len() > wide {
			for _, pair := range a.use.pairs {
				sp := reverse.span(pair, a.sub)
				n += sp.len()
			}
		}
	}
	if n > wide {
		if v := a.descend(o, r, glance); v != unsure {
			return v
		}
	}
	a.climb()
	return unsure
}

// direct says whether the subject itself, or all of its type, are subjects of the relation.
func (a *asker) direct(f edges, r relID, rp *relPlan) bool {
	if a.sub != 0 {
		return a.known && slices.Contains(rp.sets, a.sub) && f.has(r, a.sub, a.n, a.now)
	}
	sp := f.span(r, 0)
	if sp.len() == 0 {
		return false
	}
	if a.known && slices.Contains(rp.direct, a.typ) && f.has(r, 0, a.n, a.now) {
		return true
	}
	if slices.Contains(rp.any, a.typ) {
		if all, ok := a.everyone(); ok && f.has(r, 0, all, a.now) {
			return true
		}
	}
	return false
}

// isIn says whether the subject is known to be in a set.
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

// few sets are compared one after the other, which is faster than the table. It is filled when there are more.
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

// member says whether one of the sets on the object's list is one that the subject is in. It goes through the shorter of the two.
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

// climb finds the sets that the subject is in, of those that matter to what was asked: from the subject upwards, nearest first. Where
// limits end it, what was found stays, and descend looks from the other side.
func (a *asker) climb() {
	a.climbed, a.sets = true, a.sets[:0]
	a.inSets.reset()
	least := a.work / 2
	if a.known {
		for _, r := range a.use.pairs {
			if a.sub == 0 && slices.Contains(a.p.rels[r].direct, a.typ) || a.sub != 0 && slices.Contains(a.p.rels[r].sets, a.sub) {
				a.join(a.n, r, a.sub, 1, least)
			}
		}
	}
	if a.sub == 0 {
		for _, r := range a.use.pairs {
			if slices.Contains(a.p.rels[r].any, a.typ) {
				if all, ok := a.everyone(); ok {
					a.join(all, r, 0, 1, least)
				}
			}
		}
	}
	for i, touched := 0, 0; i < len(a.sets) && !a.partial; i++ {
		if i == touched {
			for ; touched < min(i+ahead, len(a.sets)); touched++ {
				a.touch(a.sets[touched].n)
			}
		}
		m := a.sets[i]
		for _, r := range a.p.rels[m.rel].up {
			if _, ok := slices.BinarySearch(a.use.pairs, r); ok {
				a.join(m.n, r, m.rel, int(m.depth)+1, least)
			}
		}
	}
}

// ahead is for how many sets memory is asked for before the first of them is looked at: it answers while others wait.
const ahead = 16

// touch asks for the memory of the relations of which n is the subject.
func (a *asker) touch(n number) {
	if e := a.s.reverse(n); len(e.edges) > 0 {
		a.touched ^= e.edges[0]
	}
}

// join adds the sets of relation r that n, or who has relation sub to it, is in.
func (a *asker) join(n number, r, sub relID, depth, least int) {
	sp := a.s.reverse(n).span(r, sub)
	for x, ok := sp.next(a.now); ok && !a.partial; x, ok = sp.next(a.now) {
		if a.work--; a.work <= least {
			a.partial = true
			return
		}
		m := member{r, uint16(depth), x}
		if a.isIn(m) {
			continue
		}
		if depth >= a.p.depth { // with the object's own relation it would be one step too many
			a.partial = true
			return
		}
		a.add(m)
	}
}

// descend looks for the subject from the object downwards, at no more than most sets.
func (a *asker) descend(o number, r relID, most int) verdict {
	a.queue = append(a.queue[:0], member{r, 1, o})
	deep := false
	for i := 0; i < len(a.queue); i++ {
		m := a.queue[i]
		if !a.spend(1) {
			a.seen.reset()
			return stop
		}
		f, rp := a.s.forward(m.n), &a.p.rels[m.rel]
		if a.direct(f, m.rel, rp) {
			a.seen.reset() // what is left in the queue was not looked at
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
					deep = true // what is left in the queue may still have the subject
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
