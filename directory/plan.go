package directory

import (
	"fmt"
	"slices"
	"sync"
)

// node is a relation of an object, as its relID, or a permission, numbered from firstPermission.
type node uint32

const firstPermission node = 1 << 16

func (n node) relation() (relID, bool) { return relID(n), n < firstPermission }

// at is the memo key of a node of an object.
func (n node) at(o number) uint64 { return uint64(n)<<32 | uint64(o) }

// plan is a manifest compiled against the symbols, for evaluation. It is immutable.
type plan struct {
	depth, work int
	types       map[string]*typePlan
	rels        []relPlan // by relID
	perms       []permPlan
	askers      *sync.Pool // of *asker
}

type typePlan struct {
	id    typeID
	nodes map[string]node
}

type relPlan struct {
	typ    typeID
	name   string
	direct []typeID // subjects may be objects of these types,
	any    []typeID // all objects of these,
	sets   []relID  // or sets of these relations
	up     []relID  // the relations that have this one among their sets
	use
}

type permPlan struct {
	typ     typeID
	name    string // "": a subexpression compiled as a permission
	expr    expr
	negates bool // excludes something other than a relation
	use
}

// use is common to relations and permissions.
type use struct {
	pairs  []relID   // relations with subject sets on the way to the node; sorted
	isPair bitset    // the same
	reach  bitset    // the nodes that it can derive from, exclusions ignored; of named nodes
	users  []inverse // the permissions derived from it
	listed bool      // it derives from single parts: no & or - on the way
}

// inverse is a permission derived from a node of the same object (base is 0), or of the subject of the object's
// relation base.
type inverse struct {
	perm      node
	base, sub relID
}

// expr is a permission's definition. The right side of an exclusion contains no exclusions: those are permissions of
// their own.
type expr struct {
	op      operator
	of      []expr
	node    node          // of opName
	base    relID         // of opArrow:
	targets []arrowTarget // node to evaluate on a subject, by its type,
	via     []arrowTarget // and on a subject set, by its relation
}

type arrowTarget struct {
	typ  typeID
	pair relID
	node node
}

func (p *plan) use(n node) *use {
	if r, ok := n.relation(); ok {
		return &p.rels[r].use
	}
	return &p.perms[n-firstPermission].use
}

func (p *plan) perm(n node) *permPlan { return &p.perms[n-firstPermission] }

// slot is a node's index in a bitset.
func (p *plan) slot(n node) int {
	if r, ok := n.relation(); ok {
		return int(r)
	}
	return len(p.rels) + int(n-firstPermission)
}

type bitset []uint64

func (b bitset) has(i int) bool { return i>>6 < len(b) && b[i>>6]&(1<<(i&63)) != 0 }

// add adds i and reports whether it is new.
func (b *bitset) add(i int) bool {
	for len(*b) <= i>>6 {
		*b = append(*b, 0)
	}
	was := (*b)[i>>6]
	(*b)[i>>6] |= 1 << (i & 63)
	return was != (*b)[i>>6]
}

const (
	defaultDepth = 64
	defaultWork  = 100_000
	maxSteps     = 10_000  // bounds Limits.Depth, because the stack grows with it
	maxWork      = 1 << 40 // bounds Limits.Work, to avoid overflow in products
)

// compile makes the plan of a manifest.
func compile(m *Manifest, y *symbols, l Limits) *plan {
	c := &compiler{m: m, y: y, plan: &plan{depth: l.Depth, work: l.Work, types: map[string]*typePlan{}, rels: make([]relPlan, len(y.rels))},
		follow: map[follow]node{}}
	if c.depth <= 0 {
		c.depth = defaultDepth
	}
	c.depth = min(c.depth, maxSteps)
	if c.work = min(c.work, maxWork); c.work <= 0 {
		c.work = defaultWork
	}
	c.askers = &sync.Pool{New: func() any { return new(asker) }}
	c.names()
	for _, t := range m.types {
		for _, d := range t.permissions {
			n := c.types[t.name].nodes[d.name]
			e := c.compile(t, d.expr)
			c.perm(n).expr = e
		}
	}
	c.invert()
	for _, t := range c.types {
		for _, n := range t.nodes {
			u := c.use(n)
			u.pairs, u.listed = c.pairsOf(n)
			for _, r := range u.pairs {
				u.isPair.add(int(r))
			}
			u.reach = c.reachOf(n)
		}
	}
	return c.plan
}

type compiler struct {
	*plan
	m      *Manifest
	y      *symbols
	follow map[follow]node
}

// follow is an unnamed permission: name of the subjects of relation pair.
type follow struct {
	pair relID
	name string
}

// names numbers the named nodes, and fills in the relations.
func (c *compiler) names() {
	for _, t := range c.m.types {
		id, _ := c.y.typ(t.name)
		tp := &typePlan{id, map[string]node{}}
		c.types[t.name] = tp
		for _, r := range t.relations {
			n, _ := c.y.rel(id, r.name)
			tp.nodes[r.name] = node(n)
			c.rels[n].typ, c.rels[n].name = id, r.name
		}
		for _, d := range t.permissions {
			tp.nodes[d.name] = c.add(permPlan{typ: id, name: d.name})
		}
	}
	for _, t := range c.m.types {
		for _, r := range t.relations {
			n := relID(c.types[t.name].nodes[r.name])
			for _, a := range r.subjects {
				of := c.types[a.typ]
				switch {
				case a.relation != "":
					set := relID(of.nodes[a.relation])
					c.rels[n].sets = append(c.rels[n].sets, set)
					c.rels[set].up = append(c.rels[set].up, n)
				case a.any:
					c.rels[n].any = append(c.rels[n].any, of.id)
				default:
					c.rels[n].direct = append(c.rels[n].direct, of.id)
				}
			}
		}
	}
}

func (c *compiler) add(p permPlan) node {
	c.perms = append(c.perms, p)
	return firstPermission + node(len(c.perms)-1)
}

func (c *compiler) compile(t *typeDef, e *expression) expr {
	switch e.op {
	case opName:
		return expr{op: opName, node: c.types[t.name].nodes[e.name]}
	case opArrow:
		return c.arrow(relID(c.types[t.name].nodes[e.base]), e.name)
	}
	out := expr{op: e.op}
	for i, sub := range e.of {
		s := c.compile(t, sub)
		if e.op == opExclusion && i > 0 && excludes(&s) {
			s = expr{op: opName, node: c.add(permPlan{typ: c.types[t.name].id, expr: s})}
		}
		out.of = append(out.of, s)
	}
	return out
}

func excludes(e *expr) bool {
	return e.op == opExclusion || slices.ContainsFunc(e.of, func(sub expr) bool { return excludes(&sub) })
}

// arrow compiles base->name. Where a subject of base is a set, name is evaluated on each member: that is the
// permission pair->name of the set's object.
func (c *compiler) arrow(base relID, name string) expr {
	out := expr{op: opArrow, base: base}
	for _, t := range c.rels[base].direct {
		out.targets = append(out.targets, arrowTarget{typ: t, node: c.types[c.y.typeName(t)].nodes[name]})
	}
	for _, pair := range c.rels[base].sets {
		n, ok := c.follow[follow{pair, name}]
		if !ok {
			n = c.add(permPlan{typ: c.rels[pair].typ})
			c.follow[follow{pair, name}] = n
			e := c.arrow(pair, name)
			c.perm(n).expr = e
		}
		out.via = append(out.via, arrowTarget{pair: pair, node: n})
	}
	return out
}

// invert computes the inverse rules. Of the operands of & the first suffices to find all candidates.
func (c *compiler) invert() {
	for i := range c.perms {
		n := firstPermission + node(i)
		c.perms[i].negates = negates(&c.perms[i].expr)
		c.perms[i].expr.parts(func(e *expr) {
			if e.op == opName {
				u := c.use(e.node)
				u.users = append(u.users, inverse{perm: n})
				return
			}
			for _, t := range e.targets {
				u := c.use(t.node)
				u.users = append(u.users, inverse{perm: n, base: e.base})
			}
			for _, t := range e.via {
				u := c.use(t.node)
				u.users = append(u.users, inverse{perm: n, base: e.base, sub: t.pair})
			}
		})
	}
}

// negates reports whether something other than a relation of the object is excluded.
func negates(e *expr) bool {
	if e.op == opExclusion {
		for i := range e.of[1:] {
			if others(&e.of[i+1]) {
				return true
			}
		}
	}
	return slices.ContainsFunc(e.of, func(sub expr) bool { return negates(&sub) })
}

// others reports whether an expression depends on other permissions.
func others(e *expr) bool {
	return e.op == opArrow || e.op == opName && e.node >= firstPermission ||
		slices.ContainsFunc(e.of, func(sub expr) bool { return others(&sub) })
}

// parts visits the names and arrows that an expression can derive from.
func (e *expr) parts(each func(*expr)) {
	switch e.op {
	case opName, opArrow:
		each(e)
	case opUnion:
		for i := range e.of {
			e.of[i].parts(each)
		}
	default:
		e.of[0].parts(each)
	}
}

// nodes visits all nodes that an expression refers to.
func (e *expr) nodes(each func(node)) {
	if e.op == opName {
		each(e.node)
	}
	for _, t := range e.targets {
		each(t.node)
	}
	for _, t := range e.via {
		each(t.node)
	}
	for i := range e.of {
		e.of[i].nodes(each)
	}
}

// closure is a node with everything reachable from it. next visits a node's direct successors.
func (c *compiler) closure(root node, next func(n node, visit func(node))) bitset {
	var seen bitset
	seen.add(c.slot(root))
	todo := []node{root}
	visit := func(n node) {
		if seen.add(c.slot(n)) {
			todo = append(todo, n)
		}
	}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		next(n, visit)
	}
	return seen
}

// pairsOf are the relations whose subject sets are relevant for a node, and whether it is listed (see use).
func (c *compiler) pairsOf(root node) (pairs []relID, listed bool) {
	var sets bitset
	listed = true
	c.closure(root, func(n node, visit func(node)) {
		r, ok := n.relation()
		if !ok {
			e := &c.perm(n).expr
			listed = listed && unions(e)
			e.nodes(visit)
			return
		}
		for _, set := range c.rels[r].sets {
			if sets.add(int(set)) {
				pairs = append(pairs, set)
			}
			visit(node(set))
		}
	})
	slices.Sort(pairs)
	return pairs, listed
}

func unions(e *expr) bool {
	return e.op != opIntersection && e.op != opExclusion && !slices.ContainsFunc(e.of, func(sub expr) bool { return !unions(&sub) })
}

// reachOf are the nodes that a node can derive from.
func (c *compiler) reachOf(root node) bitset {
	return c.closure(root, func(n node, visit func(node)) {
		r, ok := n.relation()
		if !ok {
			c.perm(n).expr.parts(func(e *expr) { e.nodes(visit) })
			return
		}
		for _, set := range c.rels[r].sets {
			visit(node(set))
		}
	})
}

// typ is the type of that name.
func (p *plan) typ(name string) (*typePlan, error) {
	t, ok := p.types[name]
	if !ok {
		return nil, p.unknownType(name)
	}
	return t, nil
}

func (p *plan) unknownType(name string) error {
	return fmt.Errorf("%w %s%s", ErrUnknownType, quoted(name), hint(name, sortedKeys(p.types)))
}

// node is the relation or permission of that name.
func (p *plan) node(t *typePlan, typ, name string) (node, error) {
	n, ok := t.nodes[name]
	if !ok {
		return 0, fmt.Errorf("%w %s of type %s%s", ErrUnknownRelation, quoted(name), quoted(typ), hint(name, sortedKeys(t.nodes)))
	}
	return n, nil
}

// relation is the relation of that name; 0 for "".
func (p *plan) relation(t *typePlan, typ, name string) (relID, error) {
	if name == "" {
		return 0, nil
	}
	n, err := p.node(t, typ, name)
	if err != nil {
		return 0, err
	}
	r, ok := n.relation()
	if !ok {
		return 0, fmt.Errorf("%w: %s is a permission of %s: a subject can have a relation", ErrUnknownRelation, quoted(name), quoted(typ))
	}
	return r, nil
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
