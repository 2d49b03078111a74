package facts

import (
	"time"

	"gatehouse/directory"
	"gatehouse/policy"
	"gatehouse/policy/rego"
)

// why answers gatehouse.why: a check with its explanation.
func (c *call) why() (rego.Value, error) {
	q, err := questionOf(c.args)
	if err != nil {
		return nil, err
	}
	e, err := c.s.Explain(q, c.now)
	if err != nil {
		return nil, err
	}
	allowed := e.Allowed && q.Object.ID != "" && q.Subject.ID != ""
	path := make([]string, 0, len(e.Path))
	if allowed {
		for _, r := range e.Path {
			path = append(path, r.String())
		}
	}
	answer := []rego.Member{{Key: "allowed", Value: rego.Bool(allowed)}, {Key: "path", Value: rego.Strings(path)}}
	if e.Nearest != nil && !allowed {
		answer = append(answer, rego.Member{Key: "missing", Value: rego.String(e.Nearest.String())})
	}
	return rego.Object(answer...), c.take(path...)
}

// who answers gatehouse.who(object, permission, type): the ids of the subjects of a type that have a relation or permission, sorted.
func (c *call) who() (rego.Value, error) {
	return c.list("object", func(ref directory.Ref, relation, typ string) ([]directory.Ref, string, error) {
		return c.s.Who(ref, relation, typ, "", maxResults, c.now)
	})
}

// what answers gatehouse.what(subject, permission, type): the ids of the objects of a type on which the subject has a relation or permission, sorted.
func (c *call) what() (rego.Value, error) {
	return c.list("subject", func(ref directory.Ref, relation, typ string) ([]directory.Ref, string, error) {
		return c.s.What(ref, relation, typ, "", maxResults, c.now)
	})
}

func (c *call) list(of string, ask func(ref directory.Ref, relation, typ string) ([]directory.Ref, string, error)) (rego.Value, error) {
	ref, err := refOf(c.args[0], of)
	if err != nil {
		return nil, err
	}
	relation, err := nameOf(c.args[1], "relation or permission")
	if err != nil {
		return nil, err
	}
	typ, err := nameOf(c.args[2], "type")
	if err != nil {
		return nil, err
	}
	found, next, err := ask(ref, relation, typ)
	switch {
	case err != nil:
		return nil, err
	case next != "":
		return nil, errMany
	case ref.ID == "":
		found = nil
	}
	ids := make([]string, len(found))
	for i, r := range found {
		if err := c.take(r.ID); err != nil {
			return nil, err
		}
		ids[i] = r.ID
	}
	return rego.Strings(ids), nil
}

// Why explains the directory's answer to a check in words: the path from the subject to the object, or the relation
// that is missing. It is empty for other questions. It is for tools.
func Why(s *directory.Snapshot, q policy.Question, now time.Time) string {
	if s == nil {
		return ""
	}
	builtin := q.Builtin
	if builtin == "gatehouse.why" {
		builtin = "gatehouse.check"
	}
	ask, is, err := question(builtin, q.Args)
	if !is || err != nil {
		return ""
	}
	if ask.Object.ID == "" || ask.Subject.ID == "" {
		return "not allowed: an id is empty"
	}
	e, err := s.Explain(ask, now)
	if err != nil {
		return err.Error()
	}
	return e.String()
}
