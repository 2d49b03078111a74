package input

import (
	"fmt"
	"slices"
	"strings"
)

// maxNumber is the largest number of a field. Those above it are for what the decision log packs beside the input.
const maxNumber = 1<<16 - 1

// Schema is a table of fields, checked and in the forms in which it is followed. It is never changed.
type Schema struct {
	Fields []Field // as they were given
	Root   []Node  // as an input has them

	Head  []*Field // of Fields, those that a packed entry has in front of its input
	Input []*Field // those of version 1 that it has there
	Added []*Field // those that have a Number, in its order
}

// Node is a member of an object of the input: a field, or an object of others.
type Node struct {
	Kind  Kind   // the field's; KindGroup where there are others below
	Name  string // of the member
	Below []Node // in the order of their names
	*Field
}

var theStandard = func() *Schema {
	s, err := New(standard()...)
	if err != nil {
		panic(err) // the table is wrong, which every test finds
	}
	return s
}()

// Standard is the schema of the input that policies get.
func Standard() *Schema { return theStandard }

// With returns a schema that has more fields. Each needs a Number.
func (s *Schema) With(more ...Field) (*Schema, error) {
	for _, f := range more {
		if f.Number == 0 {
			return nil, fmt.Errorf("field %s: has no number: the packed entry's fixed part takes no more fields", f.Path)
		}
	}
	return New(slices.Concat(s.Fields, more)...)
}

// New checks a table.
func New(fields ...Field) (*Schema, error) {
	s := &Schema{Fields: slices.Clone(fields)}
	paths, numbers, root := map[string]*Field{}, map[int]bool{}, &Node{Kind: KindGroup, Field: &Field{Kind: KindGroup}}
	for i := range s.Fields {
		f := &s.Fields[i]
		f.Index, f.Pointer = i, "/input/"+strings.ReplaceAll(f.Path, ".", "/")
		if err := f.setKind(); err != nil {
			return nil, fmt.Errorf("field %s: %w", f.Path, err)
		}
		if f.Path == "" || paths[f.Path] != nil {
			return nil, fmt.Errorf("field %q: must have a path of its own", f.Path)
		}
		if f.Number != 0 && (f.Number < 0 || f.Number > maxNumber || numbers[f.Number]) {
			return nil, fmt.Errorf("field %s: its number is %d: must be above zero and its own", f.Path, f.Number)
		}
		paths[f.Path], numbers[f.Number] = f, true
		if err := root.put(f); err != nil {
			return nil, err
		}
		switch {
		case f.Unlogged || f.Of != "":
		case f.Number > 0:
			s.Added = append(s.Added, f)
		case !f.packed():
		case f.Head:
			s.Head = append(s.Head, f)
		default:
			s.Input = append(s.Input, f)
		}
	}
	for i := range s.Fields {
		f := &s.Fields[i]
		f.Slot = i
		switch of := paths[f.Of]; {
		case f.Of == "":
		case of == nil:
			return nil, fmt.Errorf("field %s: there is no field %s", f.Path, f.Of)
		default:
			f.Slot = of.Index
		}
	}
	slices.SortFunc(s.Added, func(a, b *Field) int { return a.Number - b.Number })
	root.sort()
	s.Root = root.Below
	return s, nil
}

// Field returns the field with this path; nil where there is none.
func (s *Schema) Field(path string) *Field {
	if i := slices.IndexFunc(s.Fields, func(f Field) bool { return f.Path == path }); i >= 0 {
		return &s.Fields[i]
	}
	return nil
}

// Numbered returns the field that packed entries have under this number; nil where there is none.
func (s *Schema) Numbered(number uint64) *Field {
	for _, f := range s.Added {
		if uint64(f.Number) == number {
			return f
		}
	}
	return nil
}

// put puts a field at its path.
func (n *Node) put(f *Field) error {
	rest := f.Path
	for {
		name, below, more := strings.Cut(rest, ".")
		i := slices.IndexFunc(n.Below, func(n Node) bool { return n.Name == name })
		if i < 0 {
			n.Below = append(n.Below, Node{Kind: KindGroup, Name: name, Field: &Field{Kind: KindGroup}})
			i = len(n.Below) - 1
		}
		if n = &n.Below[i]; more {
			if n.Kind != KindGroup {
				return fmt.Errorf("field %s: it is below another", f.Path)
			}
			rest = below
			continue
		}
		if f.Kind != KindGroup && len(n.Below) > 0 {
			return fmt.Errorf("field %s: there are others below it", f.Path)
		}
		n.Field, n.Kind = f, f.Kind
		return nil
	}
}

func (n *Node) sort() {
	slices.SortFunc(n.Below, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	computed := len(n.Below) > 0
	for i := range n.Below {
		below := &n.Below[i]
		below.sort()
		computed = computed && below.Computed
	}
	if computed {
		n.Computed = true // nothing below is read back
	}
}

// setKind takes the kind from the function.
func (f *Field) setKind() error {
	given := f.Kind
	for _, of := range []struct {
		is   bool
		kind Kind
	}{{f.Text != nil, KindText}, {f.Int != nil, KindInt}, {f.Bool != nil, KindBool}, {f.List != nil, KindList}, {f.Labels != nil, KindLabels},
		{f.Object != nil && given != KindClaims, KindObject}, {f.Address != nil, KindPlace}, {f.Time != nil, KindMoment}} {
		switch {
		case !of.is:
		case f.Kind != 0 && f.Kind != of.kind:
			return fmt.Errorf("has more than one kind")
		default:
			f.Kind = of.kind
		}
	}
	switch {
	case f.Kind == 0:
		return fmt.Errorf("says nowhere where its value comes from")
	case f.Number != 0 && (f.Kind > KindObject || f.Head || f.Bit != NoBit || f.Of != ""):
		return fmt.Errorf("a field with a number must be one of text, integer, boolean, list, labels and object")
	}
	return nil
}

// packed reports whether a packed entry of version 1 holds the value, rather than what it is worked out from or a flag.
func (f *Field) packed() bool {
	switch f.Kind {
	case KindGroup, KindBool, KindFixed, KindHeaderMap, KindBody, KindRawBody, KindParsedPath, KindParsedQuery, KindRouteMethod, KindParams:
		return false
	}
	return true
}

// TextIn is the field's text in an input; "" also where there is no place for it.
func (f *Field) TextIn(in *Input) string { return value(f.Text(in)) }

// IntIn is the field's number in an input.
func (f *Field) IntIn(in *Input) int64 { return value(f.Int(in)) }

// BoolIn is the field's truth in an input.
func (f *Field) BoolIn(in *Input) bool { return value(f.Bool(in)) }

// ListIn is the field's list in an input.
func (f *Field) ListIn(in *Input) []string { return value(f.List(in)) }

// LabelsIn are the field's labels in an input.
func (f *Field) LabelsIn(in *Input) map[string]string { return value(f.Labels(in)) }

// ObjectIn is the field's plain JSON in an input.
func (f *Field) ObjectIn(in *Input) map[string]any { return value(f.Object(in)) }

func value[V any](at *V) (v V) {
	if at != nil {
		v = *at
	}
	return v
}
