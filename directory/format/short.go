package format

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"gatehouse/directory"
)

var (
	refForm      = regexp.MustCompile(`^([A-Za-z_][\w./-]*):(.+)$`)
	relationName = regexp.MustCompile(`^[A-Za-z_][\w./-]*$`)
	middle       = regexp.MustCompile(`#([A-Za-z_][\w./-]*)@([A-Za-z_][\w./-]*):`)
)

// ErrForm means that a text is not in the short form.
var ErrForm = errors.New("not in the short form")

// ParseRef parses type:id.
func ParseRef(text string) (directory.Ref, error) {
	m := refForm.FindStringSubmatch(text)
	if m == nil {
		return directory.Ref{}, fmt.Errorf("%q is %w type:id, as user:alice", clip(text), ErrForm)
	}
	return directory.Ref{Type: m[1], ID: m[2]}, nil
}

// ParseQuestion parses object#relation@subject, as doc:7#can_read@user:alice.
func ParseQuestion(text string) (directory.Question, error) {
	r, err := parseShort(text, "doc:7#can_read@user:alice")
	return directory.Question{Object: r.Object, Relation: r.Relation, Subject: r.Subject}, err
}

// RelationName rejects an object in place of a relation or permission name. order is the expected argument order.
func RelationName(text, order string) error {
	if strings.Contains(text, ":") {
		return fmt.Errorf("%q is an object, where the name of a relation or permission should be; the order is %s", clip(text), order)
	}
	return nil
}

// ParseRelation parses object#relation@subject, or object#relation@subject#relation, as
// doc:7#viewer@group:eng#member.
func ParseRelation(text string) (directory.Relation, error) {
	r, err := parseShort(text, "doc:7#viewer@group:eng#member")
	if err != nil {
		return r, err
	}
	id, relation, ok := cutLast(r.Subject.ID, "#")
	if ok && id != "" && relationName.MatchString(relation) {
		r.Subject.ID, r.SubjectRelation = id, relation
	}
	return r, nil
}

// parseShort parses a relation; the subject's id extends to the end. Ids may contain any character, so an ambiguous
// text is rejected.
func parseShort(text, example string) (r directory.Relation, err error) {
	found := middle.FindAllStringSubmatchIndex(text, -1)
	switch {
	case len(found) == 0:
		return r, fmt.Errorf("%q is %w object#relation@subject, as %s", clip(text), ErrForm, example)
	case len(found) > 1:
		return r, fmt.Errorf("%q can be read in more than one way; write it as JSON, with object_type, object_id, relation, subject_type and subject_id", clip(text))
	}
	m := found[0]
	if r.Object, err = ParseRef(text[:m[0]]); err != nil {
		return r, err
	}
	r.Relation = text[m[2]:m[3]]
	r.Subject = directory.Ref{Type: text[m[4]:m[5]], ID: text[m[1]:]}
	if r.Subject.ID == "" {
		return r, fmt.Errorf("%q is %w: the subject has no id", clip(text), ErrForm)
	}
	return r, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
