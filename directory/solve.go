package directory

import "slices"

// solver answers questions with cyclic relations. It collects all facts that the question depends on and computes
// their well-founded model: the least fixpoint where nothing is excluded; where an exclusion leads back into the
// cycle, the certain set (low) and the possible set (high) converge, and facts between them have no answer.
type solver struct {
	facts     []fact
	index     table // of facts
	relations table // verdicts of relations
	low, high []bool
	next      []bool
}

// fact is a node of an object, with its distance in arrows from the question.
type fact struct {
	node  node
	n     number
	depth int32
}

func (s *solver) large() bool {
	return cap(s.facts) > keepMembers || s.index.large() || s.relations.large()
}

func (a *asker) solve(o number, root node) verdict {
	s := &a.solver
	s.facts = s.facts[:0]
	s.index.reset()
	s.relations.reset()
	a.fact(o, root, 0)
	negates := false
	for i := 0; i < len(s.facts); i++ {
		f := s.facts[i]
		p := a.p.perm(f.node)
		negates = negates || p.negates
		if !a.depends(f.n, &p.expr, f.depth) {
			return stop
		}
	}
	n := len(s.facts)
	s.low, s.high, s.next = resize(s.low, n), resize(s.high, n), resize(s.next, n)
	if !negates {
		return a.least(s.low, nil)
	}
	for {
		if a.least(s.high, s.low) == stop || a.least(s.next, s.high) == stop {
			return stop
		}
		if s.next[0] || slices.Equal(s.next, s.low) {
			break
		}
		s.low, s.next = s.next, s.low
	}
	switch {
	case s.next[0]:
		return yes
	case s.high[0]:
		a.err = ErrCircular
		return stop
	}
	return no
}

func resize(b []bool, n int) []bool {
	b = slices.Grow(b[:0], n)[:n]
	clear(b)
	return b
}

// fact adds a node of an object that the question depends on.
func (a *asker) fact(o number, n node, depth int32) bool {
	if n < firstPermission {
		return true // relations are evaluated on demand
	}
	s, key := &a.solver, n.at(o)
	if _, ok := s.index.get(key); ok {
		return true
	}
	if int(depth) > a.p.depth {
		a.err = ErrLimit
		return false
	}
	s.index.put(key, uint32(len(s.facts)))
	s.facts = append(s.facts, fact{n, o, depth})
	return a.spend(1)
}

// depends adds the dependencies of an expression.
func (a *asker) depends(o number, e *expr, depth int32) bool {
	if e.op == opName {
		return a.fact(o, e.node, depth)
	}
	if e.op == opArrow {
		return a.follow(o, e, func(x number, n node) verdict {
			if !a.fact(x, n, depth+1) {
				return stop
			}
			return no
		}) != stop
	}
	for i := range e.of {
		if !a.depends(o, &e.of[i], depth) {
			return false
		}
	}
	return true
}

// follow visits the nodes that an arrow evaluates, until a result other than no.
func (a *asker) follow(o number, e *expr, each func(x number, n node) verdict) verdict {
	a.note(o)
	f := a.s.forward(o)
	sp := f.span(e.base, 0)
	for x, ok := sp.next(a.now); ok; x, ok = sp.next(a.now) {
		if !a.spend(1) {
			return stop
		}
		if v := each(x, a.targetNode(e, x)); v != no {
			return v
		}
	}
	for _, via := range e.via {
		sp := f.span(e.base, via.pair)
		for x, ok := sp.next(a.now); ok; x, ok = sp.next(a.now) {
			if !a.spend(1) {
				return stop
			}
			if v := each(x, via.node); v != no {
				return v
			}
		}
	}
	return no
}

// least computes the least fixpoint, where the facts in except count as excluded.
func (a *asker) least(holds, except []bool) verdict {
	clear(holds)
	for again := true; again; {
		again = false
		for i := len(holds) - 1; i >= 0; i-- { // later facts depend on fewer others
			if holds[i] {
				continue
			}
			f := a.solver.facts[i]
			switch a.holds(f.n, &a.p.perm(f.node).expr, holds, except) {
			case stop:
				return stop
			case yes:
				holds[i], again = true, true
			}
		}
	}
	if holds[0] {
		return yes
	}
	return no
}

func (a *asker) holds(o number, e *expr, holds, except []bool) verdict {
	switch e.op {
	case opName:
		return a.holdsNode(o, e.node, holds)
	case opArrow:
		return a.follow(o, e, func(x number, n node) verdict { return a.holdsNode(x, n, holds) })
	case opUnion:
		for i := range e.of {
			if v := a.holds(o, &e.of[i], holds, except); v != no {
				return v
			}
		}
		return no
	case opIntersection:
		for i := range e.of {
			if v := a.holds(o, &e.of[i], holds, except); v != yes {
				return v
			}
		}
		return yes
	}
	if v := a.holds(o, &e.of[0], holds, except); v != yes {
		return v
	}
	for i := range e.of[1:] {
		switch a.holds(o, &e.of[i+1], except, nil) {
		case yes:
			return no
		case stop:
			return stop
		}
	}
	return yes
}

func (a *asker) holdsNode(o number, n node, holds []bool) verdict {
	key := n.at(o)
	r, ok := n.relation()
	if !ok {
		i, _ := a.solver.index.get(key)
		if holds[i] {
			return yes
		}
		return no
	}
	if v, ok := a.solver.relations.get(key); ok {
		return verdict(v)
	}
	v := a.relation(o, r)
	if v != stop {
		a.solver.relations.put(key, uint32(v))
	}
	return v
}

// table is a hash table of keys that clears in constant time and allocates only to grow.
type table struct {
	slots []slot
	round uint32 // slots of other rounds are free
	n     int
}

type slot struct {
	key   uint64
	round uint32
	value uint32
}

func (t *table) reset() {
	t.n = 0
	if t.round++; t.round == 0 {
		clear(t.slots)
		t.round = 1
	}
}

func (t *table) large() bool { return len(t.slots) > 2*keepMembers }

// place is the slot of a key, or a free one for it.
func (t *table) place(key uint64) *slot {
	mask := uint64(len(t.slots) - 1)
	h := key * 0x9E3779B97F4A7C15
	for i := (h ^ h>>32) & mask; ; i = (i + 1) & mask {
		s := &t.slots[i]
		if s.round != t.round || s.key == key {
			return s
		}
	}
}

func (t *table) get(key uint64) (uint32, bool) {
	if t.n == 0 {
		return 0, false
	}
	s := t.place(key)
	return s.value, s.round == t.round
}

func (t *table) put(key uint64, value uint32) {
	if 4*(t.n+1) > 3*len(t.slots) {
		t.grow()
	}
	s := t.place(key)
	if s.round != t.round {
		t.n++
	}
	*s = slot{key, t.round, value}
}

func (t *table) grow() {
	old := t.slots
	t.slots = make([]slot, max(64, 2*len(old)))
	round := t.round
	if round == 0 {
		t.round, round = 1, 1
	}
	for _, s := range old {
		if s.round == round {
			*t.place(s.key) = s
		}
	}
}
