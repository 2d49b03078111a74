package authzen

import (
	"bytes"
	"encoding/json"
	"errors"

	"gatehouse/directory"
	"gatehouse/identity/strictjson"
)

// maxName bounds a type, an id and an action's name, in bytes.
const maxName = 1024

// decode reads the body of a request.
func decode(raw []byte) (map[string]any, error) {
	object, _, err := strictjson.Object(raw)
	if err != nil {
		if e, ok := errors.AsType[*strictjson.Error](err); ok && len(raw) > 0 {
			return nil, bad("the body %v, at byte %d", err, e.Offset)
		}
		return nil, bad("the body must be a JSON object")
	}
	return object, nil
}

func encode(out any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(out); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// question is one access evaluation. Whole are its entities as they came, for a policy.
type question struct {
	subject, resource directory.Ref
	action            string
	whole             map[string]any
	size              int // about how many bytes whole takes
}

// entities are the names of what a question is made of.
var entities = [...]string{"subject", "resource", "action", "context"}

// parts says which parts of the entities must be there. A search leaves out what it looks for.
type parts struct{ subjectID, resourceID, action bool }

func all() parts { return parts{subjectID: true, resourceID: true, action: true} }

// questionOf reads an evaluation out of an object in which what is missing is the default's.
func questionOf(object, otherwise map[string]any, need parts) (q question, err error) {
	q.whole = make(map[string]any, len(entities))
	for _, name := range entities {
		value, there := object[name]
		if !there {
			value, there = otherwise[name]
		}
		if there {
			if _, ok := value.(map[string]any); !ok {
				return q, bad("%s: must be an object", name)
			}
			q.whole[name] = value
			q.size += weight(value)
		}
	}
	if q.subject.Type, err = q.text("subject", "type", true); err != nil {
		return q, err
	}
	if q.subject.ID, err = q.text("subject", "id", need.subjectID); err != nil {
		return q, err
	}
	if q.resource.Type, err = q.text("resource", "type", true); err != nil {
		return q, err
	}
	if q.resource.ID, err = q.text("resource", "id", need.resourceID); err != nil {
		return q, err
	}
	if need.action {
		if q.action, err = q.text("action", "name", true); err != nil {
			return q, err
		}
	}
	for _, name := range entities[:3] {
		entity, _ := q.whole[name].(map[string]any)
		if properties, there := entity["properties"]; there {
			if _, ok := properties.(map[string]any); !ok {
				return q, bad("%s.properties: must be an object", name)
			}
		}
	}
	return q, nil
}

// text is a member of an entity. One that is not needed is ignored.
func (q *question) text(name, member string, needed bool) (string, error) {
	if !needed {
		return "", nil
	}
	entity, there := q.whole[name].(map[string]any)
	if !there {
		return "", bad("%s: is missing", name)
	}
	value, there := entity[member]
	if !there {
		return "", bad("%s.%s: is missing", name, member)
	}
	text, ok := value.(string)
	switch {
	case !ok:
		return "", bad("%s.%s: must be a string", name, member)
	case text == "":
		return "", bad("%s.%s: is empty", name, member)
	case len(text) > maxName:
		return "", bad("%s.%s: has more than %d bytes", name, member, maxName)
	}
	return text, nil
}

// weight is about how many bytes a value takes as JSON. Its depth is bounded.
func weight(v any) int {
	n := 8
	switch v := v.(type) {
	case string:
		n += len(v)
	case json.Number:
		n += len(v)
	case []any:
		for _, x := range v {
			n += weight(x)
		}
	case map[string]any:
		for name, x := range v {
			n += len(name) + weight(x)
		}
	}
	return n
}

// semantic says when a batch ends before its end.
type semantic string

const (
	executeAll          semantic = "execute_all"
	denyOnFirstDeny     semantic = "deny_on_first_deny"
	permitOnFirstPermit semantic = "permit_on_first_permit"
)

// ends reports whether the batch ends with a decision.
func (s semantic) ends(allowed bool) bool {
	return s == denyOnFirstDeny && !allowed || s == permitOnFirstPermit && allowed
}

func semanticOf(body map[string]any) (semantic, error) {
	value, there := body["options"]
	if !there {
		return executeAll, nil
	}
	options, ok := value.(map[string]any)
	if !ok {
		return "", bad("options: must be an object")
	}
	if value, there = options["evaluations_semantic"]; !there {
		return executeAll, nil
	}
	name, ok := value.(string)
	switch s := semantic(name); s {
	case executeAll, denyOnFirstDeny, permitOnFirstPermit:
		return s, nil
	default:
		if !ok {
			return "", bad("options.evaluations_semantic: must be a string")
		}
		return "", bad("options.evaluations_semantic: is not one of %s, %s and %s", executeAll, denyOnFirstDeny, permitOnFirstPermit)
	}
}

// item is one evaluation of a batch, or why it is none.
type item struct {
	question
	wrong error
}

// batchOf reads the evaluations of a batch; nil where there are none, and the body is one evaluation itself.
func batchOf(body map[string]any) ([]item, error) {
	value, there := body["evaluations"]
	if !there {
		return nil, nil
	}
	list, ok := value.([]any)
	if !ok {
		return nil, bad("evaluations: must be an array")
	}
	if len(list) == 0 {
		return nil, nil
	}
	if len(list) > maxEvaluations {
		return nil, bad("evaluations: has %d, more than %d", len(list), maxEvaluations)
	}
	for _, name := range entities {
		if value, there := body[name]; there {
			if _, ok := value.(map[string]any); !ok {
				return nil, bad("%s: must be an object", name)
			}
		}
	}
	items, size := make([]item, len(list)), 0
	for i := range list {
		object, ok := list[i].(map[string]any)
		if !ok {
			return nil, bad("evaluations[%d]: must be an object", i)
		}
		items[i].question, items[i].wrong = questionOf(object, body, all())
		if size += items[i].size; size > maxQuestions {
			return nil, bad("evaluations: have more than %d bytes, with the defaults in each", maxQuestions)
		}
	}
	return items, nil
}
