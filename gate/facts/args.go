package facts

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gatehouse/directory"
	"gatehouse/policy/rego"
)

// The fields of arguments and results.
var (
	objectType      = rego.NewField("object_type")
	objectID        = rego.NewField("object_id")
	relationField   = rego.NewField("relation")
	permissionField = rego.NewField("permission")
	subjectType     = rego.NewField("subject_type")
	subjectID       = rego.NewField("subject_id")
	subjectRelation = rego.NewField("subject_relation")
	idField         = rego.NewField("id")
	traceField      = rego.NewField("trace")
	explainField    = rego.NewField("explain")
	withRelations   = rego.NewField("with_relations")
	withObjects     = rego.NewField("with_objects")
	withoutSets     = rego.NewField("with_empty_subject_relation")
	defaultField    = rego.NewField("default")
	checksField     = rego.NewField("checks")
)

// reader reads the fields of one argument. end returns the first error.
type reader struct {
	value rego.Value
	seen  int // the fields read so far
	err   error
}

func (r *reader) fail(f rego.Field, what string) {
	if r.err == nil {
		r.err = fmt.Errorf("field %s %s", f.Name, what)
	}
}

func (r *reader) of(f rego.Field) rego.Value {
	v := f.Of(r.value)
	if v != nil {
		r.seen++
	}
	return v
}

// text is a string, "" where it is absent.
func (r *reader) text(f rego.Field) string {
	s, _ := r.textOf(f)
	return s
}

func (r *reader) textOf(f rego.Field) (s string, found bool) {
	v := r.of(f)
	if v == nil {
		return "", false
	}
	s, ok := rego.Text(v)
	if !ok {
		r.fail(f, "is not a string")
	}
	return s, true
}

// id is a required string. It may be empty: an unknown caller, who is no object.
func (r *reader) id(f rego.Field) string {
	s, found := r.textOf(f)
	if !found {
		r.fail(f, "is missing")
	}
	return s
}

// name is a required string.
func (r *reader) name(f rego.Field) string {
	s := r.text(f)
	if s == "" {
		r.fail(f, "is missing")
	}
	return s
}

// truth is a boolean, false where it is absent.
func (r *reader) truth(f rego.Field) bool {
	v := r.of(f)
	if v == nil {
		return false
	}
	b, ok := rego.Truth(v)
	if !ok {
		r.fail(f, "is not a boolean")
	}
	return b
}

// end returns the error. Fields that were not read are unknown, which is one.
func (r *reader) end() error {
	switch n := rego.Fields(r.value); {
	case n < 0:
		return errors.New("the argument is not an object")
	case r.err != nil || n == r.seen:
		return r.err
	}
	return r.unknown()
}

// unknown names an unknown field, the first by name.
func (r *reader) unknown() error {
	var list []string
	for name := range rego.Keys(r.value) {
		if !slices.ContainsFunc(fields, func(f rego.Field) bool { return f.Name == name }) {
			list = append(list, name)
		}
	}
	if len(list) == 0 {
		return errors.New("the argument has a field of another question")
	}
	return fmt.Errorf("unknown field %q", slices.Min(list))
}

// fields are the fields of all questions.
var fields = []rego.Field{objectType, objectID, relationField, permissionField, subjectType, subjectID, subjectRelation, idField, traceField, explainField,
	withRelations, withObjects, withoutSets, defaultField, checksField}

// refOf parses type:id.
func refOf(v rego.Value, what string) (directory.Ref, error) {
	s, ok := rego.Text(v)
	typ, id, cut := strings.Cut(s, ":")
	if !ok || !cut || typ == "" {
		return directory.Ref{}, fmt.Errorf("%s is not a string type:id", what)
	}
	return directory.Ref{Type: typ, ID: id}, nil
}

func nameOf(v rego.Value, what string) (string, error) {
	s, ok := rego.Text(v)
	if !ok || s == "" {
		return "", fmt.Errorf("%s is not a string, or is empty", what)
	}
	return s, nil
}

// knownType rejects a type that is not in the manifest.
func (c *call) knownType(typ string) error {
	if !slices.Contains(c.s.Manifest().Types(), typ) {
		return fmt.Errorf("%w %q", directory.ErrUnknownType, typ)
	}
	return nil
}

// knownRelation rejects a relation that the type lacks, or every type where typ is empty.
func (c *call) knownRelation(typ, relation string) error {
	m := c.s.Manifest()
	types := []string{typ}
	if typ == "" {
		types = m.Types()
	}
	for _, t := range types {
		if slices.Contains(m.Relations(t), relation) {
			return nil
		}
	}
	return fmt.Errorf("%w %q", errNoRelation, relation)
}

var errNoRelation = errors.New("unknown relation")
