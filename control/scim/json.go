package scim

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"
)

// Bounds of a body, besides its bytes.
const (
	maxDepth  = 16
	maxValues = 300_000
)

// decode reads one JSON object, and nothing else: no name twice in one object, also in other letters, as the attributes of
// SCIM are the same then; no more values and depth than a resource needs.
func decode(body []byte) (map[string]any, error) {
	if !utf8.Valid(body) {
		return nil, invalid("invalidSyntax", "the body is no UTF-8")
	}
	r := &reader{d: json.NewDecoder(bytes.NewReader(body)), left: maxValues}
	r.d.UseNumber()
	v, err := r.value(0)
	if err == nil {
		if _, end := r.d.Token(); end != io.EOF { //nolint:errorlint // it is never wrapped
			err = errors.New("there is more behind the object")
		}
	}
	if err != nil {
		return nil, invalid("invalidSyntax", "the body is no JSON object: %v", err)
	}
	out, ok := v.(map[string]any)
	if !ok {
		return nil, invalid("invalidSyntax", "the body is no JSON object")
	}
	return out, nil
}

type reader struct {
	d    *json.Decoder
	left int
}

func (r *reader) value(depth int) (any, error) {
	t, err := r.d.Token()
	if err != nil {
		return nil, err
	}
	if r.left--; r.left < 0 || depth > maxDepth {
		return nil, errors.New("it has too many values, or is too deep")
	}
	switch t {
	case json.Delim('{'):
		return r.object(depth)
	case json.Delim('['):
		list := []any{}
		for r.d.More() {
			v, err := r.value(depth + 1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := r.d.Token()
		return list, err
	}
	return t, nil
}

func (r *reader) object(depth int) (any, error) {
	out, seen := map[string]any{}, map[string]bool{}
	for r.d.More() {
		t, err := r.d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string) // what else is no JSON
		if folded := strings.ToLower(name); seen[folded] {
			return nil, errors.New("the name " + name + " is there twice")
		} else { //nolint:revive // folded is of this line
			seen[folded] = true
		}
		if out[name], err = r.value(depth + 1); err != nil {
			return nil, err
		}
	}
	_, err := r.d.Token()
	return out, err
}
