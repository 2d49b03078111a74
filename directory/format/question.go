package format

import (
	"errors"

	"gatehouse/directory"
)

// QuestionReader parses questions as JSON lines: objects with object_type, object_id, relation, subject_type and
// subject_id. It reuses memory, so each goroutine needs its own.
type QuestionReader struct{ d decoder }

// Read parses one question.
func (r *QuestionReader) Read(line string) (directory.Question, error) {
	_, err := r.d.record(line, kindRelation)
	switch {
	case err != nil:
		return directory.Question{}, err
	case r.d.relation.SubjectRelation != "":
		return directory.Question{}, errors.New("subject_relation: a question has one object as its subject; ask for each")
	case r.d.seen&fieldExpiresAt != 0:
		return directory.Question{}, errors.New("expires_at: a question has none")
	}
	q := r.d.relation
	return directory.Question{Object: q.Object, Relation: q.Relation, Subject: q.Subject}, nil
}
