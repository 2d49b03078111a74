package policy

import (
	"fmt"
	"strings"
)

// QuestionsJSON are questions in plain JSON, as a decision log has them: a list of {"question": {"ds.check": argument}, "answer": answer}. A
// built-in with several arguments has the list of them; instead of an answer that is undefined there is "undefined": true.
func QuestionsJSON(list []Question) (any, error) {
	out := make([]any, 0, len(list))
	for i := range list {
		q := &list[i]
		args := make([]any, len(q.Args))
		for j, arg := range q.Args {
			var err error
			if args[j], err = JSON(arg); err != nil {
				return nil, err
			}
		}
		fact := map[string]any{}
		if len(args) == 1 {
			fact["question"] = map[string]any{q.Builtin: args[0]}
		} else {
			fact["question"] = map[string]any{q.Builtin: args}
		}
		if q.Answer == nil {
			fact["undefined"] = true
		} else {
			answer, err := JSON(q.Answer)
			if err != nil {
				return nil, err
			}
			fact["answer"] = answer
		}
		out = append(out, fact)
	}
	return out, nil
}

// ParseQuestions reads what QuestionsJSON made, as it stands in a decision log. Questions of which the log does not have all, and those of
// built-ins that there are not, are left out: they are not on record.
func ParseQuestions(text []byte) ([]Question, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var list []any
	if _, err := decodeJSON(text, &list); err != nil {
		return nil, fmt.Errorf("reading what was asked of the directory: %w", err)
	}
	var out []Question
	for _, fact := range list[:min(len(list), maxAsked)] {
		if q, ok := parseQuestion(fact); ok {
			out = append(out, q)
		}
	}
	return out, nil
}

func parseQuestion(fact any) (q Question, ok bool) {
	members, _ := fact.(map[string]any)
	question, _ := members["question"].(map[string]any)
	answer, answered := members["answer"]
	if undefined := members["undefined"] == true; len(question) != 1 || answered == undefined || hidden(fact) {
		return q, false
	}
	for name, args := range question {
		q.Builtin = name
		list := []any{args}
		if arity := DirectoryArity(name); arity > 1 {
			list, _ = args.([]any)
		}
		if len(list) == 0 || len(list) != DirectoryArity(name) {
			return q, false
		}
		for _, arg := range list {
			v, err := FromJSON(arg)
			if err != nil {
				return q, false
			}
			q.Args = append(q.Args, v)
		}
	}
	if answered {
		var err error
		q.Answer, err = FromJSON(answer)
		return q, err == nil
	}
	return q, true
}

// hidden reports whether something was taken out of plain JSON.
func hidden(x any) bool {
	switch x := x.(type) {
	case string:
		return strings.Contains(x, leftOut)
	case []any:
		for _, e := range x {
			if hidden(e) {
				return true
			}
		}
	case map[string]any:
		for k, e := range x {
			if strings.Contains(k, leftOut) || hidden(e) {
				return true
			}
		}
	}
	return false
}
