// Package facts implements the built-ins that policies query the directory with: ds.*, with the arguments and results
// of Aserto's Topaz, version 3, and gatehouse.*. docs/directory.md documents them.
//
// It is part of the gate, between policies, which know no directory, and the directory, which knows no Rego. It
// imports these two.
//
// Whatever cannot be answered is an error, which fails the evaluation and denies the request: an invalid argument, an
// unknown type, a limit of the directory or of this package exceeded. It is never "false", which a not would turn
// into true.
package facts

import (
	"errors"
	"fmt"
	"time"

	"gatehouse/directory"
	"gatehouse/policy"
	"gatehouse/policy/builtins"
	"gatehouse/policy/rego"
)

// Bounds of an answer.
const (
	maxResults = 1000 // checks, objects or relations
	maxBytes   = 256 << 10
)

// Of gives policies access to a directory. version must be unique to each directory that a process uses. A nil
// snapshot is no directory. Questions without an answer are counted, unless failed is nil.
func Of(s *directory.Snapshot, version uint64, failed *Failures) policy.Facts {
	if s == nil {
		return policy.Facts{}
	}
	return policy.Facts{Directory: source{s, failed}, Version: version}
}

// source implements policy.Directory.
type source struct {
	s      *directory.Snapshot
	failed *Failures
}

// Epoch implements policy.Directory.
func (d source) Epoch(now time.Time) uint64 { return d.s.Epoch(now) }

// Ask implements policy.Directory.
func (d source) Ask(builtin string, args []rego.Value, now time.Time) (rego.Value, error) {
	return d.ask(nil, builtin, args, now)
}

// basis implements policy.Dependencies.
type basis struct{ directory.Dependencies }

// Holds implements policy.Dependencies.
func (b *basis) Holds(d policy.Directory, now time.Time) bool {
	s, ok := d.(source)
	return ok && b.Dependencies.Holds(s.s, now)
}

// Trace implements policy.Tracer. What the answers to other questions than checks, and to those about one object, depend on is unknown.
func (d source) Trace(on policy.Dependencies, q *policy.Question, now time.Time) (rego.Value, policy.Dependencies, error) {
	if !traced[q.Builtin] {
		answer, err := d.ask(nil, q.Builtin, q.Args, now)
		return answer, nil, err
	}
	b, _ := on.(*basis)
	if b == nil {
		b = &basis{}
	}
	if check, ok := q.Prepared.(*directory.Question); ok {
		yes, err := d.check(&b.Dependencies, *check, now)
		if err != nil {
			d.failed.Note(err)
			return nil, b, err
		}
		return rego.Bool(yes), b, nil
	}
	answer, err := d.ask(&b.Dependencies, q.Builtin, q.Args, now)
	return answer, b, err
}

// Prepare implements policy.Tracer: a check that is well formed.
func (d source) Prepare(builtin string, args []rego.Value) any {
	q, is, err := question(builtin, args)
	if !is || err != nil {
		return nil
	}
	return &q
}

// ask answers, and adds to on, which may be nil, what a traced answer depends on.
func (d source) ask(on *directory.Dependencies, builtin string, args []rego.Value, now time.Time) (rego.Value, error) {
	answer, err := d.answer(on, builtin, args, now)
	if err != nil {
		d.failed.Note(err)
	}
	return answer, err
}

func (d source) answer(on *directory.Dependencies, builtin string, args []rego.Value, now time.Time) (rego.Value, error) {
	if q, is, err := question(builtin, args); is {
		if err != nil {
			return nil, err
		}
		yes, err := d.check(on, q, now)
		if err != nil {
			return nil, err
		}
		return rego.Bool(yes), nil
	}
	ask := questions[builtin]
	if ask == nil || len(args) != builtins.DirectoryArity(builtin) {
		return nil, errors.New("the directory has no such question")
	}
	return ask(&call{s: d.s, on: on, now: now, args: args, arg: reader{value: args[0]}})
}

// question is the check behind a call. is is false where the call is not one check.
func question(builtin string, args []rego.Value) (q directory.Question, is bool, err error) {
	if len(args) != builtins.DirectoryArity(builtin) {
		return q, false, nil
	}
	switch builtin {
	case "ds.check", "ds.check_relation":
		q, err = checkOf(args[0], relationField)
	case "ds.check_permission":
		q, err = checkOf(args[0], permissionField)
	case "gatehouse.check":
		q, err = questionOf(args)
	default:
		return q, false, nil
	}
	return q, true, err
}

// checkOf reads the argument of a check.
func checkOf(arg rego.Value, relation rego.Field) (q directory.Question, err error) {
	r := reader{value: arg}
	q.Object = directory.Ref{Type: r.name(objectType), ID: r.id(objectID)}
	q.Relation = r.name(relation)
	q.Subject = directory.Ref{Type: r.name(subjectType), ID: r.id(subjectID)}
	r.truth(traceField)
	return q, r.end()
}

// questionOf reads object, relation and subject.
func questionOf(args []rego.Value) (q directory.Question, err error) {
	if q.Object, err = refOf(args[0], "object"); err != nil {
		return q, err
	}
	if q.Relation, err = nameOf(args[1], "relation or permission"); err != nil {
		return q, err
	}
	q.Subject, err = refOf(args[2], "subject")
	return q, err
}

// check queries the directory. No object has an empty id: it lacks even what all objects of its type have.
func (d source) check(on *directory.Dependencies, q directory.Question, now time.Time) (yes bool, err error) {
	if on == nil {
		yes, err = d.s.Check(q, now)
	} else {
		yes, err = d.s.CheckOn(on, q, now)
	}
	return yes && q.Object.ID != "" && q.Subject.ID != "", err
}

// call is one call of a built-in other than a single check.
type call struct {
	s     *directory.Snapshot
	on    *directory.Dependencies // of a traced question; nil: nobody wants to know
	now   time.Time
	args  []rego.Value
	arg   reader // of the first argument
	bytes int    // of the result so far
}

// questions are the built-ins other than single checks. Read-only.
var questions = map[string]func(*call) (rego.Value, error){
	"ds.checks":      (*call).checks,
	"ds.object":      (*call).object,
	"ds.user":        (*call).user,
	"ds.identity":    (*call).identity,
	"ds.relation":    (*call).relation,
	"ds.relations":   (*call).relations,
	"ds.graph":       (*call).graph,
	"gatehouse.why":  (*call).why,
	"gatehouse.who":  (*call).who,
	"gatehouse.what": (*call).what,
}

// traced are the built-ins that add what they depend on to a basis. Read-only.
var traced = map[string]bool{"ds.check": true, "ds.check_relation": true, "ds.check_permission": true, "gatehouse.check": true, "ds.checks": true, "ds.user": true}

var (
	errMany  = fmt.Errorf("more than %d results: limit exceeded", maxResults)
	errLarge = fmt.Errorf("the answer is larger than %d bytes: limit exceeded", maxBytes)
)

// take counts the bytes of the result.
func (c *call) take(texts ...string) error {
	c.bytes += 32
	for _, t := range texts {
		c.bytes += len(t)
	}
	if c.bytes > maxBytes {
		return errLarge
	}
	return nil
}
