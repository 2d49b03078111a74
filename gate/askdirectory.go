package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gatehouse/directory"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

// directoryRule is the name of what decides where no rule does, on record as the decision's path.
const directoryRule = "directory"

// AskDirectory has the directory decide about one question, without the policy: whether q.Subject has the relation, or permission, to the
// object. A subject of type user that is no object is looked up as an identity. Like Ask it always answers and records it, with the check
// among the facts.
func (g *Gate) AskDirectory(ctx context.Context, q *Question, object directory.Ref, relation string) Answer {
	return g.answerWith(ctx, q.Request, func(c *call) error { return g.checkDirectory(c, q, object, relation) })
}

func (g *Gate) checkDirectory(c *call, q *Question, object directory.Ref, relation string) error {
	c.fields, c.rule, c.view = g.fields, &rule{name: directoryRule}, g.view.Load()
	if c.view.Settings == nil || c.view.Directory == nil {
		return fail(NotReady, errNoDirectory)
	}
	var err error
	if c.target, err = parseTarget(q.Request.Path, c.view.Settings.Paths); err != nil {
		return fail(BadRequest, err)
	}
	about, err := membersOf(q.About)
	if err != nil {
		return fail(BadRequest, err)
	}
	c.body = rego.Object(about...)
	subject, err := c.findSubject(q.Subject)
	if err != nil {
		return err
	}
	yes, err := c.view.Directory.Check(directory.Question{Object: object, Relation: relation, Subject: subject}, c.started)
	switch {
	case errors.Is(err, directory.ErrUnknownType), errors.Is(err, directory.ErrUnknownRelation):
		return fail(NoDecision, err)
	case err != nil:
		return fail(Unavailable, err)
	}
	c.decision.Allowed, c.decision.Result = yes, rego.Bool(yes)
	c.decision.Asked = []policy.Question{{Builtin: "gatehouse.check", Answer: rego.Bool(yes),
		Args: []rego.Value{rego.String(object.String()), rego.String(relation), rego.String(subject.String())}}}
	if !yes {
		return fail(Denied, errors.New("the directory denies"))
	}
	return nil
}

// findSubject finds whom a question names in the directory, and is his name there. One that is not there is no user: the request names
// nobody else. A question that names nobody is about its caller.
func (c *call) findSubject(named directory.Ref) (subject directory.Ref, err error) {
	d := c.view.Directory
	if d == nil || named == (directory.Ref{}) {
		return named, nil
	}
	if subject, err = SubjectOf(d, named, c.started); err == nil {
		switch subject.Type {
		case "user":
			c.user, err = lookUp(d, true, subject.ID, 0, c.started)
		case "identity":
			c.user, err = lookUp(d, false, subject.ID, 0, c.started)
		}
	}
	if err != nil {
		return named, fail(Unavailable, fmt.Errorf("finding the subject in the directory: %w", err))
	}
	if c.req.User = c.user; c.user == nil {
		c.userFound, c.userParts = true, ^userParts(0)
	}
	return subject, nil
}

// SubjectOf is the name by which a directory knows a subject: that of the user to whom an identity belongs, where a subject of type user is
// no object but such an identity. Any other keeps its name. An identity of two users is an error.
func SubjectOf(d *directory.Snapshot, named directory.Ref, now time.Time) (directory.Ref, error) {
	if named.Type != "user" {
		return named, nil
	}
	if _, known := d.Object(named); known {
		return named, nil
	}
	user, known, err := d.User(named.ID, now)
	if err != nil || !known {
		return named, err
	}
	return user.Ref, nil
}
