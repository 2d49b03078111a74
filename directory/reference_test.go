package directory_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"gatehouse/directory"
)

// What follows answers questions a second time: from the definition, over plain maps, everything again for each subject. It shares nothing
// with the package but the types of its door.

// schema is a manifest as a structure.
type schema struct {
	types []string
	rels  map[string][]string           // type -> names
	perms map[string][]string           // type -> names
	allow map[[2]string][]subjectOf     // type, relation
	defs  map[[2]string]*permissionTerm // type, permission
}

type subjectOf struct {
	typ, rel string
	any      bool
}

type permissionTerm struct {
	op         string // "", "->", "|", "&", "-"
	base, name string
	of         []*permissionTerm
}

func (p *permissionTerm) String() string {
	switch p.op {
	case "":
		return p.name
	case "->":
		return p.base + "->" + p.name
	}
	var parts []string
	for _, sub := range p.of {
		s := sub.String()
		if len(sub.of) > 0 {
			s = "(" + s + ")"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " "+p.op+" ")
}

func (m *schema) String() string {
	var b strings.Builder
	b.WriteString("model: {version: 3}\ntypes:\n")
	for _, t := range m.types {
		fmt.Fprintf(&b, "  %s:\n    relations:\n", t)
		for _, r := range m.rels[t] {
			var parts []string
			for _, a := range m.allow[[2]string{t, r}] {
				switch {
				case a.rel != "":
					parts = append(parts, a.typ+"#"+a.rel)
				case a.any:
					parts = append(parts, a.typ+":*")
				default:
					parts = append(parts, a.typ)
				}
			}
			fmt.Fprintf(&b, "      %s: %q\n", r, strings.Join(parts, " | "))
		}
		b.WriteString("    permissions:\n")
		for _, p := range m.perms[t] {
			fmt.Fprintf(&b, "      %s: %q\n", p, m.defs[[2]string{t, p}])
		}
	}
	return b.String()
}

// leads are the types that a relation leads to through sets, and whether to all of one.
func (m *schema) leads(t, r string) (types []string, any bool) {
	seen := map[[2]string]bool{}
	var visit func(k [2]string)
	visit = func(k [2]string) {
		if seen[k] {
			return
		}
		seen[k] = true
		for _, a := range m.allow[k] {
			any = any || a.any
			if a.rel != "" {
				visit([2]string{a.typ, a.rel})
			} else if !slices.Contains(types, a.typ) {
				types = append(types, a.typ)
			}
		}
	}
	visit([2]string{t, r})
	return types, any
}

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// randomSchema is a manifest of up to four types. The manifest's parser may refuse it.
func randomSchema(r *rand.Rand) *schema {
	m := &schema{rels: map[string][]string{}, perms: map[string][]string{}, allow: map[[2]string][]subjectOf{}, defs: map[[2]string]*permissionTerm{}}
	m.types = []string{"user", "group", "folder", "doc"}[:2+r.IntN(3)]
	for _, t := range m.types {
		m.rels[t] = []string{"member", "parent", "owner", "doc"}[:1+r.IntN(4)] // doc is a type, too
		m.perms[t] = []string{"read", "write", "share", "group"}[:r.IntN(5)]
	}
	for _, t := range m.types {
		for _, rel := range m.rels[t] {
			var subjects []subjectOf
			for range 1 + r.IntN(3) {
				a := subjectOf{typ: pick(r, m.types)}
				switch n := r.IntN(6); {
				case rel == "parent" && n > 0:
					a.typ = t // folders in folders
				case n < 2:
					a.rel = pick(r, m.rels[a.typ])
				case n < 3:
					a.any = true
				}
				if !slices.Contains(subjects, a) {
					subjects = append(subjects, a)
				}
			}
			m.allow[[2]string{t, rel}] = subjects
		}
	}
	for _, t := range m.types {
		for i, p := range m.perms[t] {
			m.defs[[2]string{t, p}] = m.randomTerm(r, t, i, 3)
		}
	}
	return m
}

// randomTerm is a definition of the i-th permission of a type.
func (m *schema) randomTerm(r *rand.Rand, t string, i, depth int) *permissionTerm {
	if depth > 0 && r.IntN(3) > 0 {
		p := &permissionTerm{op: pick(r, []string{"|", "|", "&", "-"})}
		for range 2 + r.IntN(2) {
			p.of = append(p.of, m.randomTerm(r, t, i, depth-1))
		}
		return p
	}
	if r.IntN(2) == 0 {
		base := pick(r, m.rels[t])
		types, any := m.leads(t, base)
		var names []string
		for n, to := range types {
			have := append(slices.Clone(m.rels[to]), m.perms[to]...)
			if n == 0 {
				names = have
			}
			names = slices.DeleteFunc(slices.Clone(names), func(s string) bool { return !slices.Contains(have, s) })
		}
		if !any && len(names) > 0 {
			return &permissionTerm{op: "->", base: base, name: pick(r, names)}
		}
	}
	if i > 0 && r.IntN(3) == 0 {
		return &permissionTerm{name: m.perms[t][r.IntN(i)]}
	}
	return &permissionTerm{name: pick(r, m.rels[t])}
}

// subject is who a question is about: an object, or who has a relation to it.
type subject struct {
	directory.Ref
	rel string
}

// node is a relation or permission of an object.
type node struct {
	directory.Ref
	name string
}

// world is a model with its data.
type world struct {
	*schema
	objects   map[directory.Ref]bool
	relations map[directory.Relation]time.Time // without Expires -> when it expires
}

func (w *world) live(now time.Time) []directory.Relation {
	var out []directory.Relation
	for r, at := range w.relations {
		if at.IsZero() || now.Before(at) {
			out = append(out, r)
		}
	}
	return out
}

// answers is what a subject has. A permission that is in high and not in low has no answer.
type answers struct {
	w         *world
	relations []directory.Relation
	of        map[node][]directory.Relation   // relations by object
	leaves    map[node]map[directory.Ref]bool // what subjects found
	has       map[node]bool                   // relations
	low, high map[part]bool
}

// part is a part of a permission's definition, of an object.
type part struct {
	directory.Ref
	of *permissionTerm
}

func (w *world) answers(s subject, now time.Time) *answers {
	a := &answers{w: w, relations: w.live(now), of: map[node][]directory.Relation{}, leaves: map[node]map[directory.Ref]bool{},
		has: map[node]bool{}, low: map[part]bool{}}
	for _, r := range a.relations {
		n := node{r.Object, r.Relation}
		a.of[n] = append(a.of[n], r)
	}
	for again := true; again; {
		again = false
		for _, r := range a.relations {
			n := node{r.Object, r.Relation}
			if a.has[n] {
				continue
			}
			var yes bool
			if r.SubjectRelation == "" {
				yes = s.rel == "" && r.Subject.Type == s.Type && (r.Subject.ID == s.ID || r.Subject.ID == "*")
			} else {
				yes = a.has[node{r.Subject, r.SubjectRelation}] || s == subject{r.Subject, r.SubjectRelation}
			}
			if yes {
				a.has[n], again = true, true
			}
		}
	}
	for {
		a.high = a.least(a.low)
		next := a.least(a.high)
		if len(next) == len(a.low) { // it only grows
			return a
		}
		a.low = next
	}
}

// least is the least set of parts that hold, where those in except are what is excluded.
func (a *answers) least(except map[part]bool) map[part]bool {
	holds := map[part]bool{}
	for again := true; again; {
		again = false
		for o := range a.w.objects {
			for _, p := range a.w.perms[o.Type] {
				again = a.derive(o, a.w.defs[[2]string{o.Type, p}], holds, except) || again
			}
		}
	}
	return holds
}

// derive adds the parts of a definition that hold, and says whether there were any new ones.
func (a *answers) derive(o directory.Ref, p *permissionTerm, holds, except map[part]bool) bool {
	added := false
	for _, sub := range p.of {
		added = a.derive(o, sub, holds, except) || added
	}
	if holds[part{o, p}] {
		return added
	}
	yes := false
	switch p.op {
	case "":
		yes = a.named(o, p.name, holds)
	case "->":
		base := node{o, p.base}
		if a.leaves[base] == nil {
			a.leaves[base] = a.subjects(o, p.base, map[node]bool{})
		}
		for x := range a.leaves[base] {
			yes = yes || a.named(x, p.name, holds)
		}
	case "|":
		yes = slices.ContainsFunc(p.of, func(sub *permissionTerm) bool { return holds[part{o, sub}] })
	case "&":
		yes = !slices.ContainsFunc(p.of, func(sub *permissionTerm) bool { return !holds[part{o, sub}] })
	case "-":
		yes = holds[part{o, p.of[0]}] && !slices.ContainsFunc(p.of[1:], func(sub *permissionTerm) bool { return except[part{o, sub}] })
	}
	if yes {
		holds[part{o, p}] = true
	}
	return added || yes
}

func (a *answers) named(o directory.Ref, name string, holds map[part]bool) bool {
	if def := a.w.defs[[2]string{o.Type, name}]; def != nil {
		return holds[part{o, def}]
	}
	return a.has[node{o, name}]
}

// subjects are the objects that have a relation to o, through sets too.
func (a *answers) subjects(o directory.Ref, rel string, seen map[node]bool) map[directory.Ref]bool {
	out := map[directory.Ref]bool{}
	if seen[node{o, rel}] {
		return out
	}
	seen[node{o, rel}] = true
	for _, r := range a.of[node{o, rel}] {
		if r.SubjectRelation == "" {
			out[r.Subject] = true
			continue
		}
		for x := range a.subjects(r.Subject, r.SubjectRelation, seen) {
			out[x] = true
		}
	}
	return out
}

// answer is "yes", "no", or "circular".
func (a *answers) answer(o directory.Ref, name string) string {
	def := a.w.defs[[2]string{o.Type, name}]
	switch {
	case def == nil && a.has[node{o, name}], def != nil && a.low[part{o, def}]:
		return "yes"
	case def != nil && a.high[part{o, def}]:
		return "circular"
	}
	return "no"
}
