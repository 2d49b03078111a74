package directory

import "slices"

// walk finds what may be an answer of a listing: all nodes of objects below an object, or all above a subject. It looks at & and - as if only
// their first part were there, so that it finds too much rather than too little; where a plan's use is not listed, each find is asked for.
type walk struct {
	s     *Snapshot
	p     *plan
	now   int64
	work  int
	steps []step
	index map[uint64]struct{}
	err   error
	end   bool // what was looked for is there
}

// step is a node of an object that was reached, from where and through which relation.
type step struct {
	fact
	from int  // the step before, -1: the subject itself
	via  edge // the relation that leads here, of the object n of this step, to the subject of the step before; 0: none, the same object
}

func (s *Snapshot) walk(now int64) *walk {
	return &walk{s: s, p: s.plan, now: now, work: lists * s.plan.work, index: map[uint64]struct{}{}}
}

func (w *walk) open() bool { return w.err == nil && !w.end }

// reach adds a node of an object, unless it is there or, where accept is given, is not accepted.
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

// each goes through the objects at the other end of relations.
func (w *walk) each(sp span, f func(number)) {
	for x, ok := sp.next(w.now); ok && w.open(); x, ok = sp.next(w.now) {
		if w.work--; w.work < 0 {
			w.err = ErrLimit
			return
		}
		f(x)
	}
}

// down finds the subjects of a type, or who has a relation to it, below a node of an object. everyone: all of the type are among them.
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

// below adds what a part of a permission's definition follows from.
func (w *walk) below(f fact, forward edges, e *expr) {
	if e.op == opName {
		w.reach(step{fact: fact{e.node, f.n, f.depth}}, nil)
		return
	}
	w.each(forward.span(e.base, 0), func(x number) {
		t := w.s.typeOf(x)
		for i := range e.tips {
			if e.tips[i].typ == t {
				w.reach(step{fact: fact{e.tips[i].node, x, f.depth + 1}}, nil)
			}
		}
	})
	for _, via := range e.via {
		w.each(forward.span(e.base, via.pair), func(x number) { w.reach(step{fact: fact{via.node, x, f.depth + 1}}, nil) })
	}
}

// up finds nodes of objects above a subject, nearest first, of those that are relevant; nil: all. accept may turn a step down; nil: none.
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
			if all, ok := a.everyone(); ok {
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

// path is the relations that lead from the subject to step i.
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
