package format

import (
	"errors"

	"gatehouse/directory"
)

// QuestionReader reads questions as JSON, as a line of a file has them: an object with object_type, object_id, relation, subject_type and
// subject_id. It keeps memory from one to the next, so each goroutine has its own.
type QuestionReader struct{ d decoder }

// Read reads one.
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
