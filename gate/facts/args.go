package facts

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gatehouse/directory"
	"gatehouse/policy"
)

// The fields of arguments and answers.
var (
	objectType      = policy.NewField("object_type")
	objectID        = policy.NewField("object_id")
	relationField   = policy.NewField("relation")
	permissionField = policy.NewField("permission")
	subjectType     = policy.NewField("subject_type")
	subjectID       = policy.NewField("subject_id")
	subjectRelation = policy.NewField("subject_relation")
	idField         = policy.NewField("id")
	traceField      = policy.NewField("trace")
	explainField    = policy.NewField("explain")
	withRelations   = policy.NewField("with_relations")
	withObjects     = policy.NewField("with_objects")
	withoutSets     = policy.NewField("with_empty_subject_relation")
	defaultField    = policy.NewField("default")
	checksField     = policy.NewField("checks")
)

// reader takes the fields of one argument. The first thing that is wrong is what end says.
type reader struct {
	value policy.Value
	seen  int // how many of its fields were read
	err   error
}

func (r *reader) fail(f policy.Field, what string) {
	if r.err == nil {
		r.err = fmt.Errorf("field %s %s", f.Name, what)
	}
}

func (r *reader) of(f policy.Field) policy.Value {
	v := f.Of(r.value)
	if v != nil {
		r.seen++
	}
	return v
}

// text is a string, "" where it is not there.
func (r *reader) text(f policy.Field) string {
	s, _ := r.textOf(f)
	return s
}

func (r *reader) textOf(f policy.Field) (s string, found bool) {
	v := r.of(f)
	if v == nil {
		return "", false
	}
	s, ok := policy.Text(v)
	if !ok {
		r.fail(f, "is not a string")
	}
	return s, true
}

// id is a string that must be there. It may be empty: of a caller of whom nothing is known, which is no object.
func (r *reader) id(f policy.Field) string {
	s, found := r.textOf(f)
	if !found {
		r.fail(f, "is missing")
	}
	return s
}

// name is a string that must be there.
func (r *reader) name(f policy.Field) string {
	s := r.text(f)
	if s == "" {
		r.fail(f, "is missing")
	}
	return s
}

// truth is a boolean, false where it is not there.
func (r *reader) truth(f policy.Field) bool {
	v := r.of(f)
	if v == nil {
		return false
	}
	b, ok := policy.Truth(v)
	if !ok {
		r.fail(f, "is not a boolean")
	}
	return b
}

// end says what was wrong. Fields that were not read are unknown.
func (r *reader) end() error {
	switch n := policy.Fields(r.value); {
	case n < 0:
		return errors.New("the argument is not an object")
	case r.err != nil || n == r.seen:
		return r.err
	}
	return r.unknown()
}

// unknown names a field that there is not, the first by its name.
func (r *reader) unknown() error {
	var list []string
	for name := range policy.Keys(r.value) {
		if !slices.ContainsFunc(fields, func(f policy.Field) bool { return f.Name == name }) {
			list = append(list, name)
		}
	}
	if len(list) == 0 {
		return errors.New("the argument has a field of another question")
	}
	return fmt.Errorf("unknown field %q", slices.Min(list))
}

// fields are all of any question.
var fields = []policy.Field{objectType, objectID, relationField, permissionField, subjectType, subjectID, subjectRelation, idField, traceField, explainField,
	withRelations, withObjects, withoutSets, defaultField, checksField}

// refOf reads type:id.
func refOf(v policy.Value, what string) (directory.Ref, error) {
	s, ok := policy.Text(v)
	typ, id, cut := strings.Cut(s, ":")
	if !ok || !cut || typ == "" {
		return directory.Ref{}, fmt.Errorf("%s is not a string type:id", what)
	}
	return directory.Ref{Type: typ, ID: id}, nil
}

func nameOf(v policy.Value, what string) (string, error) {
	s, ok := policy.Text(v)
	if !ok || s == "" {
		return "", fmt.Errorf("%s is not a string, or is empty", what)
	}
	return s, nil
}

// knownType refuses a type that the manifest has not.
func (c *call) knownType(typ string) error {
	if !slices.Contains(c.s.Manifest().Types(), typ) {
		return fmt.Errorf("%w %q", directory.ErrUnknownType, typ)
	}
	return nil
}

// knownRelation refuses a relation that a type has not, or no type where typ is empty.
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
