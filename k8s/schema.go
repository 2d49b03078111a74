package k8s

import (
	"fmt"
	"maps"
	"slices"

	"github.com/agnivade/levenshtein"
)

// valueSchema is the part of JSON Schema that values.schema.json uses; Helm reads the same file.
type valueSchema struct {
	Type       string                 `json:"type"`
	Enum       []string               `json:"enum"`
	Minimum    *float64               `json:"minimum"`
	Properties map[string]valueSchema `json:"properties"`
	// Closed is set where a key that is not a property is a mistake.
	Open *bool `json:"additionalProperties"`
}

// check says what is wrong with a value, each with the path of its key.
func (s valueSchema) check(at string, value any) []error {
	if !s.fits(value) {
		return []error{fmt.Errorf("values: %s: %v is no %s", at, value, s.Type)}
	}
	if text, ok := value.(string); ok && len(s.Enum) > 0 && !slices.Contains(s.Enum, text) {
		return []error{fmt.Errorf("values: %s: %q is none of %v", at, text, s.Enum)}
	}
	if n, ok := value.(int); ok && s.Minimum != nil && float64(n) < *s.Minimum {
		return []error{fmt.Errorf("values: %s: %d is less than %v", at, n, *s.Minimum)}
	}
	m, ok := value.(map[string]any)
	if !ok {
		return nil
	}
	var problems []error
	for _, key := range slices.Sorted(maps.Keys(m)) {
		below, known := s.Properties[key]
		where := key
		if at != "" {
			where = at + "." + key
		}
		switch {
		case known:
			problems = append(problems, below.check(where, m[key])...)
		case s.Open != nil && !*s.Open:
			problems = append(problems, fmt.Errorf("values: %s: there is no such key%s", where, s.suggestion(key)))
		}
	}
	return problems
}

func (s valueSchema) suggestion(key string) string {
	for _, known := range slices.Sorted(maps.Keys(s.Properties)) {
		if levenshtein.ComputeDistance(key, known) <= 2 {
			return "; " + known + " is meant?"
		}
	}
	return ""
}

func (s valueSchema) fits(value any) bool {
	switch s.Type {
	case "string":
		_, ok := value.(string)
		return ok
	case "boolean":
		_, ok := value.(bool)
		return ok
	case "integer":
		_, ok := value.(int)
		return ok
	case "array":
		_, ok := value.([]any)
		return ok
	case "object":
		_, ok := value.(map[string]any)
		return ok
	}
	return true
}
