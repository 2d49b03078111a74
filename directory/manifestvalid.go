package directory

import (
	"slices"
	"strings"
)

// validate checks what is defined against itself.
func (p *manifestParser) validate() {
	for _, t := range p.m.types {
		for _, r := range t.relations {
			p.validRelation(t, r)
		}
	}
	if len(p.errs) > 0 {
		return
	}
	reach := p.reach()
	for _, t := range p.m.types {
		for _, r := range t.relations {
			if len(reach[r].types) == 0 {
				p.fail(r.line, "%s#%s is circular: it leads to relations alone, and to no type", t.name, r.name)
			}
		}
		for _, d := range t.permissions {
			p.validExpression(t, d, d.expr, reach)
		}
		p.circles(t)
	}
	if len(p.errs) == 0 {
		p.grounded(reach)
	}
}

func (p *manifestParser) validRelation(t *typeDef, r *relationDef) {
	for _, a := range r.subjects {
		of := p.m.byName[a.typ]
		switch {
		case of == nil:
			p.fail(r.line, "%s#%s: %w %s%s", t.name, r.name, ErrUnknownType, quoted(a.typ), p.hint(a.typ, p.m.Types()))
		case a.relation == "" || of.relation(a.relation) != nil:
		case of.permission(a.relation) != nil:
			p.fail(r.line, "%s#%s: %s is a permission: after # belongs a relation of %s", t.name, r.name, quoted(a.relation), a.typ)
		default:
			p.fail(r.line, "%s#%s: %s has no relation %s%s", t.name, r.name, a.typ, quoted(a.relation), p.hint(a.relation, p.m.Relations(a.typ)))
		}
	}
}

// reached is where a relation leads to, through relations of relations.
type reached struct {
	types []*typeDef
	any   bool // every object of a type among them
	steps int  // alternatives on the way
}

// reach is where each relation leads to.
func (p *manifestParser) reach() map[*relationDef]*reached {
	out := map[*relationDef]*reached{}
	for _, t := range p.m.types {
		for _, r := range t.relations {
			out[r] = &reached{}
			seen, todo := map[*relationDef]bool{r: true}, []*relationDef{r}
			for len(todo) > 0 {
				next := todo[0]
				todo = todo[1:]
				out[r].steps += len(next.subjects)
				for _, a := range next.subjects {
					of := p.m.byName[a.typ]
					out[r].any = out[r].any || a.any
					if a.relation == "" {
						if !slices.Contains(out[r].types, of) {
							out[r].types = append(out[r].types, of)
						}
					} else if sub := of.relation(a.relation); !seen[sub] {
						seen[sub] = true
						todo = append(todo, sub)
					}
				}
			}
		}
	}
	return out
}

func (p *manifestParser) validExpression(t *typeDef, d *permissionDef, e *expression, reach map[*relationDef]*reached) {
	what := t.name + "#" + d.name
	for _, sub := range e.of {
		p.validExpression(t, d, sub, reach)
	}
	switch e.op {
	case opName:
		if _, ok := t.byName[e.name]; !ok {
			p.fail(e.line, "%s: %s has no relation or permission %s%s", what, t.name, quoted(e.name), p.hintOf(t, e.name))
		}
	case opArrow:
		base := t.relation(e.base)
		switch {
		case base == nil && t.permission(e.base) != nil:
			p.fail(e.line, "%s: %s is a permission: before -> belongs a relation", what, quoted(e.base))
			return
		case base == nil:
			p.fail(e.line, "%s: %s has no relation %s%s", what, t.name, quoted(e.base), p.hint(e.base, p.m.Relations(t.name)))
			return
		case reach[base].any:
			p.fail(e.line, "%s: %s allows every object of a type (:*): -> cannot follow it", what, quoted(e.base))
			return
		}
		before := p.steps
		if p.steps += reach[base].steps; p.steps > maxFollowed && before <= maxFollowed {
			p.fail(e.line, "%s: the relations before -> lead to more than %d others, all in all", what, maxFollowed)
		}
		for _, to := range reach[base].types {
			if _, ok := to.byName[e.name]; !ok {
				p.fail(e.line, "%s: %s leads to %s, which has no relation or permission %s%s", what, e.base, to.name, quoted(e.name), p.hintOf(to, e.name))
			}
		}
	}
}

// hintOf helps with a name that the type does not have. a-b is a name, like a_b.
func (p *manifestParser) hintOf(t *typeDef, name string) string {
	if a, b, ok := strings.Cut(name, "-"); ok {
		_, left := t.byName[a]
		if _, right := t.byName[b]; left && right {
			return " (write " + a + " - " + b + " to exclude)"
		}
	}
	return p.hint(name, t.names())
}

// circles refuses permissions that need themselves, of the same object.
func (p *manifestParser) circles(t *typeDef) {
	const open, done = 1, 2
	state := map[*permissionDef]int{}
	var path []string
	var visit func(d *permissionDef)
	var names func(e *expression)
	names = func(e *expression) {
		for _, sub := range e.of {
			names(sub)
		}
		if d := t.permission(e.name); e.op == opName && d != nil {
			visit(d)
		}
	}
	visit = func(d *permissionDef) {
		path = append(path, d.name)
		switch state[d] {
		case open:
			from := slices.Index(path, d.name)
			p.fail(d.line, "%s#%s is circular: %s", t.name, d.name, strings.Join(path[from:], " needs "))
		case 0:
			state[d] = open
			names(d.expr)
			state[d] = done
		}
		path = path[:len(path)-1]
	}
	for _, d := range t.permissions {
		visit(d)
	}
}

// grounded refuses permissions that lead to themselves alone, through -> too: nobody could ever have them.
func (p *manifestParser) grounded(reach map[*relationDef]*reached) {
	known := map[*permissionDef]bool{}
	var holds func(t *typeDef, e *expression) bool
	named := func(t *typeDef, name string) bool {
		d := t.permission(name)
		return d == nil || known[d]
	}
	holds = func(t *typeDef, e *expression) bool {
		of := func(sub *expression) bool { return holds(t, sub) }
		switch e.op {
		case opName:
			return named(t, e.name)
		case opArrow:
			return slices.ContainsFunc(reach[t.relation(e.base)].types, func(to *typeDef) bool { return named(to, e.name) })
		case opUnion, opIntersection:
			return slices.ContainsFunc(e.of, of)
		default:
			return of(e.of[0])
		}
	}
	for again := true; again; {
		again = false
		for _, t := range p.m.types {
			for _, d := range t.permissions {
				if !known[d] && holds(t, d.expr) {
					known[d], again = true, true
				}
			}
		}
	}
	for _, t := range p.m.types {
		for _, d := range t.permissions {
			if !known[d] {
				p.fail(d.line, "%s#%s is circular: it leads to permissions alone, and to no relation", t.name, d.name)
			}
		}
	}
}
