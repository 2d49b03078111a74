package format

import (
	"fmt"
	"slices"
	"strings"

	"gatehouse/directory"
)

// Asked is a question as it was typed: each is type:id, a type or a name. Empty ones were not given.
type Asked struct{ Object, Relation, Subject string }

// Hint says what is in the wrong place of a question that the manifest does not allow; "" where nothing is found.
func Hint(m *directory.Manifest, a Asked) string {
	has := func(typ string) bool {
		return slices.Contains(m.Relations(typ), a.Relation) || slices.Contains(m.Permissions(typ), a.Relation)
	}
	isType := func(text string) bool { return slices.Contains(m.Types(), text) }
	isRelation := func(text string) bool {
		return slices.ContainsFunc(m.Types(), func(t string) bool {
			return slices.Contains(m.Relations(t), text) || slices.Contains(m.Permissions(t), text)
		})
	}
	objectType, _, _ := strings.Cut(a.Object, ":")
	subjectType, _, _ := strings.Cut(a.Subject, ":")
	for _, text := range []string{a.Object, a.Subject} {
		switch {
		case text == "" || !isRelation(text):
		case isType(a.Relation) || !isRelation(a.Relation):
			return fmt.Sprintf("%q is a relation or permission, and %q is none: they are in each other's place", text, a.Relation)
		case !isType(text):
			return fmt.Sprintf("%q is a relation or permission, where an object should be", text)
		}
	}
	if isType(objectType) && !has(objectType) && isType(subjectType) && has(subjectType) {
		return fmt.Sprintf("%q is of type %s: object and subject are in each other's place", a.Relation, subjectType)
	}
	for _, text := range []string{a.Object, a.Subject} {
		if text != "" && !strings.Contains(text, ":") && !isType(text) {
			return fmt.Sprintf("%q has no type: write TYPE:ID; the types are %s", clip(text), strings.Join(m.Types(), ", "))
		}
	}
	if have := slices.DeleteFunc(m.Types(), func(t string) bool { return !has(t) }); a.Relation != "" && len(have) > 0 && isType(objectType) && !has(objectType) {
		return fmt.Sprintf("%q is of type %s", a.Relation, strings.Join(have, ", "))
	}
	return ""
}

// Members explains a subject that is meant to be a set, such as group:eng#member, in the place of one object: it does not exist, and its id
// ends with a relation of its type. "" for any other.
func Members(s *directory.Snapshot, subject directory.Ref) string {
	id, relation, found := cutLast(subject.ID, "#")
	if _, exists := s.Object(subject); !found || exists || !slices.Contains(s.Manifest().Relations(subject.Type), relation) {
		return ""
	}
	return fmt.Sprintf("%s is one object here, and does not exist; all that have %s to %s:%s are asked for by directory graph ... --subject-relation %s", subject, relation, subject.Type, id, relation)
}
