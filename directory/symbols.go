package directory

import (
	"maps"
	"slices"
)

type (
	// number is an object's number in one Snapshot. Numbers of deleted objects are used again.
	number uint32
	// typeID numbers the names of types, from 1.
	typeID uint16
	// relID numbers pairs of a type and a relation of it, from 1. 0 is none: the subject itself.
	relID uint16
)

// symbols numbers the names of types and relations. It is immutable. A number, once given, stays: data is stored with numbers and survives
// a manifest that no longer has the name, so that the names of what such a manifest orphans can still be told.
type symbols struct {
	types []typeSymbol // by typeID
	rels  []relSymbol  // by relID
	ids   map[string]typeID
}

type typeSymbol struct {
	name     string
	declared bool // in the manifest of this snapshot
	rels     map[string]relID
}

type relSymbol struct {
	typ      typeID
	name     string
	declared bool
	subjects []subjectRule // what the manifest allows as a subject
}

// subjectRule is one alternative of a relation's definition: user, group#member, or user:*.
type subjectRule struct {
	typ typeID
	rel relID
	any bool
}

func newSymbols(m *Manifest) *symbols {
	none := &symbols{types: make([]typeSymbol, 1), rels: make([]relSymbol, 1)}
	return none.with(m)
}

// with adds the names of a manifest, and takes over what it declares and allows.
func (y *symbols) with(m *Manifest) *symbols {
	out := &symbols{types: slices.Clone(y.types), rels: slices.Clone(y.rels), ids: maps.Clone(y.ids)}
	if out.ids == nil {
		out.ids = map[string]typeID{}
	}
	for i := range out.types {
		out.types[i].declared = false
		out.types[i].rels = maps.Clone(out.types[i].rels)
	}
	for i := range out.rels {
		out.rels[i].declared, out.rels[i].subjects = false, nil
	}
	for _, name := range m.Types() {
		t := out.addType(name)
		out.types[t].declared = true
		for _, relation := range m.Relations(name) {
			out.rels[out.addRel(t, relation)].declared = true
		}
	}
	for i := range out.rels {
		if out.rels[i].declared {
			out.rels[i].subjects = out.rules(m.subjects(out.types[out.rels[i].typ].name, out.rels[i].name))
		}
	}
	return out
}

func (y *symbols) addType(name string) typeID {
	t, ok := y.ids[name]
	if !ok {
		t = typeID(len(y.types))
		y.types = append(y.types, typeSymbol{name: name, rels: map[string]relID{}})
		y.ids[name] = t
	}
	return t
}

func (y *symbols) addRel(t typeID, name string) relID {
	r, ok := y.types[t].rels[name]
	if !ok {
		r = relID(len(y.rels))
		y.rels = append(y.rels, relSymbol{typ: t, name: name})
		y.types[t].rels[name] = r
	}
	return r
}

func (y *symbols) rules(allowed []allowedSubject) []subjectRule {
	var out []subjectRule
	for _, a := range allowed {
		r := subjectRule{typ: y.ids[a.typ], any: a.any}
		if a.relation != "" {
			r.rel = y.types[r.typ].rels[a.relation]
		}
		out = append(out, r)
	}
	return out
}

// typ is the number of a type's name.
func (y *symbols) typ(name string) (typeID, bool) {
	t, ok := y.ids[name]
	return t, ok
}

// rel is the number of a relation of a type.
func (y *symbols) rel(t typeID, name string) (relID, bool) {
	r, ok := y.types[t].rels[name]
	return r, ok
}

func (y *symbols) typeName(t typeID) string { return y.types[t].name }

// relName is a relation's name; "" for none.
func (y *symbols) relName(r relID) string { return y.rels[r].name }

// relType is the type that a relation belongs to.
func (y *symbols) relType(r relID) typeID { return y.rels[r].typ }

// allows says whether the manifest allows this subject of relation r. any: the subject is every object of its type.
func (y *symbols) allows(r relID, subject typeID, sub relID, any bool) bool {
	for _, rule := range y.rels[r].subjects {
		if rule == (subjectRule{subject, sub, any}) {
			return true
		}
	}
	return false
}
