package directory

import (
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"gatehouse/nearest"
)

// Bounds of a manifest. They lie far above what people write, and keep the compiled form small.
const (
	maxManifest  = 1 << 20 // bytes
	maxNames     = 2048    // types, relations and permissions together
	maxTerms     = 1 << 13 // terms of all definitions together
	maxFollowed  = 1 << 16 // relations that all -> lead through
	maxNested    = 32      // parentheses in parentheses
	maxNameBytes = 64
)

// Manifest is the model of a directory: types with their relations and permissions. docs/directory.md has its grammar. It is immutable.
type Manifest struct {
	text   []byte
	types  []*typeDef // in the order of the text
	byName map[string]*typeDef
}

type typeDef struct {
	name        string
	line        int
	relations   []*relationDef
	permissions []*permissionDef
	byName      map[string]int // 0..: a relation; -1..: a permission
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

// expression is the definition of a permission, or a part of it.
type expression struct {
	op   operator
	of   []*expression // of opUnion, opIntersection and opExclusion, two or more
	base string        // of opArrow: a relation of the type
	name string        // of opName: a relation or permission of the type; of opArrow: one of the types that base leads to
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

// DefaultManifest is the model where none is given: users with their identities, groups of users and of groups, roles, and resources.
func DefaultManifest() *Manifest {
	m, err := ParseManifest("default.yaml", defaultManifest)
	if err != nil {
		panic(err) // a test parses it
	}
	return m
}

// Text is the manifest as it was given.
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

// subjects are what a relation allows as its subjects.
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

// ManifestError is what is wrong with a manifest, and where.
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

// maxHints bounds what a question about an unknown name may cost.
const maxHints = 200

// hint names the nearest of the known words, or all where they are few: the end of an error about a word that is not known.
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
