package directory

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gatehouse/nearest"
)

// Bounds of a manifest, far above practical sizes. They keep the compiled form small.
const (
	maxManifest  = 1 << 20 // bytes
	maxNames     = 2048    // types, relations and permissions together
	maxTerms     = 1 << 13 // terms of all definitions together
	maxFollowed  = 1 << 16 // relations reached by all arrows
	maxNested    = 32      // parentheses in parentheses
	maxNameBytes = 64
)

// Manifest is the model of a directory: types with their relations and permissions. docs/directory.md defines its
// grammar. It is immutable.
type Manifest struct {
	text   []byte
	types  []*typeDef // in textual order
	byName map[string]*typeDef
}

type typeDef struct {
	name        string
	line        int
	relations   []*relationDef
	permissions []*permissionDef
	byName      map[string]int // 0 and up: a relation; -1 and down: a permission
}

type relationDef struct {
	name     string
	line     int
	subjects []allowedSubject
}

// allowedSubject is one alternative of a relation: user, group#member, or user:*.
type allowedSubject struct {
	typ, relation string
	any           bool
}

func (a allowedSubject) String() string {
	switch {
	case a.relation != "":
		return a.typ + "#" + a.relation
	case a.any:
		return a.typ + ":*"
	}
	return a.typ
}

type permissionDef struct {
	name string
	line int
	expr *expression
}

// expression is a permission's definition, or a part of it.
type expression struct {
	op   operator
	of   []*expression // two or more operands of opUnion, opIntersection and opExclusion
	base string        // of opArrow: a relation of the type
	name string        // of opName: a relation or permission of the type; of opArrow: one of the types that base refers to
	line int
}

type operator uint8

const (
	opName operator = iota
	opArrow
	opUnion
	opIntersection
	opExclusion // (a - b) - c
)

//go:embed default.yaml
var defaultManifest []byte

// DefaultManifest is the default model: users with identities, nested groups, roles, and resources.
func DefaultManifest() *Manifest {
	m, err := ParseManifest("default.yaml", defaultManifest)
	if err != nil {
		panic(err) // cannot happen: tested
	}
	return m
}

// Text is the manifest's source text.
func (m *Manifest) Text() []byte { return m.text }

// Types are the names of its types, in the order of the text.
func (m *Manifest) Types() []string {
	out := make([]string, len(m.types))
	for i, t := range m.types {
		out[i] = t.name
	}
	return out
}

// Relations are the names of a type's relations, in the order of the text.
func (m *Manifest) Relations(typ string) []string {
	t := m.byName[typ]
	if t == nil {
		return nil
	}
	out := make([]string, len(t.relations))
	for i, r := range t.relations {
		out[i] = r.name
	}
	return out
}

// Permissions are the names of a type's permissions, in the order of the text.
func (m *Manifest) Permissions(typ string) []string {
	t := m.byName[typ]
	if t == nil {
		return nil
	}
	out := make([]string, len(t.permissions))
	for i, p := range t.permissions {
		out[i] = p.name
	}
	return out
}

// Allows reports whether objects of a type may be the subjects of a relation.
func (m *Manifest) Allows(typ, relation, subjectType string) bool {
	return slices.Contains(m.subjects(typ, relation), allowedSubject{typ: subjectType})
}

// subjects are the allowed subjects of a relation.
func (m *Manifest) subjects(typ, relation string) []allowedSubject {
	if t := m.byName[typ]; t != nil {
		if r := t.relation(relation); r != nil {
			return r.subjects
		}
	}
	return nil
}

func (t *typeDef) relation(name string) *relationDef {
	if i, ok := t.byName[name]; ok && i >= 0 {
		return t.relations[i]
	}
	return nil
}

func (t *typeDef) permission(name string) *permissionDef {
	if i, ok := t.byName[name]; ok && i < 0 {
		return t.permissions[-1-i]
	}
	return nil
}

// names are the names of relations and permissions.
func (t *typeDef) names() []string {
	out := make([]string, 0, len(t.byName))
	for _, r := range t.relations {
		out = append(out, r.name)
	}
	for _, p := range t.permissions {
		out = append(out, p.name)
	}
	return out
}

// ManifestError is an error in a manifest, with its line.
type ManifestError struct {
	File string
	Line int // from 1; 0: the file as a whole
	Err  error
}

func (e *ManifestError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err)
}

func (e *ManifestError) Unwrap() error { return e.Err }

var errManifestSyntax = errors.New("not a manifest")

// maxHints bounds the cost of a hint about an unknown name.
const maxHints = 200

// hint names the nearest known word, or all where they are few: it ends an error about an unknown word.
func hint(word string, known []string) string {
	if len(known) > maxHints {
		return ""
	}
	switch best := nearest.Word(word, known, 3); {
	case best != "":
		return fmt.Sprintf(" (did you mean %q?)", best)
	case len(known) > 0 && len(known) <= 12:
		return fmt.Sprintf(" (known: %s)", strings.Join(known, ", "))
	}
	return ""
}

// validate checks the definitions against each other.
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
		p.rejectCycles(t)
	}
	if len(p.errs) == 0 {
		p.rejectUngrounded(reach)
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

// reached is the objects that a relation leads to, through relations of relations.
type reached struct {
	types []*typeDef
	any   bool // includes every object of a type
	steps int  // alternatives visited
}

// reach computes what each relation leads to.
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

// hintOf is the hint for a name that the type lacks. a-b is a name, like a_b.
func (p *manifestParser) hintOf(t *typeDef, name string) string {
	if a, b, ok := strings.Cut(name, "-"); ok {
		_, left := t.byName[a]
		if _, right := t.byName[b]; left && right {
			return " (write " + a + " - " + b + " to exclude)"
		}
	}
	return p.hint(name, t.names())
}

// rejectCycles rejects permissions that depend on themselves on the same object.
func (p *manifestParser) rejectCycles(t *typeDef) {
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

// rejectUngrounded rejects permissions that derive only from themselves, through arrows too: they could never hold.
func (p *manifestParser) rejectUngrounded(reach map[*relationDef]*reached) {
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
