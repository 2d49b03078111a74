// Package directory holds the users, groups, roles and resources that policies ask about, and the relations between them: who is a member
// of which group, who owns what, who may reach what through which group.
//
// A Snapshot is all of it at one moment. It is immutable: Apply makes the next one, which shares with the one before whatever did not
// change. It answers questions without locks, within Limits, and allocates nothing for Check. The model is that of Aserto's Topaz,
// version 3: a Manifest of types with their relations and permissions, Objects, and Relations between them.
//
// It imports nothing of ours but the foundations, and knows neither files' formats (directory/format) nor policies (gate/facts).
package directory

import (
	"errors"
	"fmt"
	"time"
)

// Ref names an object: user:alice.
type Ref struct{ Type, ID string }

// String is type:id.
func (r Ref) String() string { return r.Type + ":" + r.ID }

// Object is one object.
type Object struct {
	Ref
	DisplayName string
	Properties  []byte // a JSON object without white space; nil: none
}

// Relation says that a subject has a relation to an object: group:eng#member@user:alice. With a SubjectRelation the subjects are all
// that have that relation to the subject: doc:7#viewer@group:eng#member. A SubjectID of "*" is every subject of its type.
type Relation struct {
	Object          Ref
	Relation        string
	Subject         Ref
	SubjectRelation string
	Expires         time.Time // whole seconds; from then on the relation does not hold. Zero: it does not expire
}

// String is object#relation@subject, with #relation after the subject where it has one.
func (r Relation) String() string {
	s := r.Object.String() + "#" + r.Relation + "@" + r.Subject.String()
	if r.SubjectRelation != "" {
		s += "#" + r.SubjectRelation
	}
	return s
}

// Question asks whether a subject has a relation to an object or, where Relation names a permission of its type, that permission.
type Question struct {
	Object   Ref
	Relation string
	Subject  Ref
}

// String is object#relation@subject.
func (q Question) String() string {
	return q.Object.String() + "#" + q.Relation + "@" + q.Subject.String()
}

// Limits bound what one question may cost. A question that needs more is an error (ErrLimit), never "no".
type Limits struct {
	Depth int // steps from the object to the subject; 0: 64
	Work  int // relations looked at; 0: 100,000
}

// Errors of questions. A question about an object that does not exist is no error: its answer is no.
var (
	ErrLimit           = errors.New("the question needs more steps than directory.limits allow")
	ErrUnknownType     = errors.New("unknown type")
	ErrUnknownRelation = errors.New("unknown relation or permission")
)

// Change is one change of a directory. Exactly one field is set.
type Change struct {
	SetObject      *Object   // adds it, or replaces display name and properties
	DeleteObject   *Ref      // with the relations from and to it
	SetRelation    *Relation // adds it, or changes when it expires
	DeleteRelation *Relation
}

// ChangeError is a change that cannot be applied.
type ChangeError struct {
	Index int    // of the change, from 0
	What  string // it, as text
	Err   error
}

func (e *ChangeError) Error() string {
	return fmt.Sprintf("change %d (%s): %v", e.Index+1, e.What, e.Err)
}

func (e *ChangeError) Unwrap() error { return e.Err }
