package scim

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// Bounds of a resource.
const (
	maxList = 100 // values of one attribute, but for the members of a group
	maxText = 64 << 10
)

// document makes a resource of what a client sends: attributes by their right names, each of its type. What is read-only or
// not known is left out, as RFC 7644, section 3.3 has it: a password, for one, is not kept.
func (k *kind) document(in map[string]any) (map[string]any, error) {
	out, err := values(k.all, in)
	if err != nil {
		return nil, err
	}
	for name, v := range in {
		if strings.EqualFold(strings.TrimSpace(name), k.core.urn) {
			return nil, invalid("invalidSyntax", "%s: its attributes stand in the resource itself (RFC 7643 section 3)", k.core.urn)
		}
		s := k.extension(name)
		if s == nil {
			continue
		}
		if v == nil {
			continue
		}
		object, ok := v.(map[string]any)
		if !ok {
			return nil, invalid("invalidValue", "%s is no object", s.urn)
		}
		of, err := values(s.attributes, object)
		if err != nil {
			return nil, err
		}
		if len(of) > 0 {
			out[s.urn] = of
		}
	}
	return out, nil
}

// complete checks what a resource must have.
func (k *kind) complete(doc map[string]any) error {
	for _, a := range k.core.attributes {
		if a.required {
			if v, ok := doc[a.name].(string); !ok || strings.TrimSpace(v) == "" {
				return invalid("invalidValue", "%s is required", a.name)
			}
		}
	}
	return nil
}

func values(attributes []*attribute, in map[string]any) (map[string]any, error) {
	out := map[string]any{}
	for name, v := range in {
		a := find(attributes, name)
		if a == nil || a.readOnly || v == nil {
			continue
		}
		v, err := a.value(v)
		if err != nil {
			return nil, err
		}
		if v != nil {
			out[a.name] = v
		}
	}
	return out, nil
}

// value makes a value of the attribute's type; nil: it is unassigned.
func (a *attribute) value(v any) (any, error) {
	if !a.multi {
		return a.single(v)
	}
	given, ok := v.([]any)
	if !ok {
		given = []any{v}
	}
	if len(given) > maxList && a.name != "members" {
		return nil, invalid("invalidValue", "%s has %d values: %d are possible", a.name, len(given), maxList)
	}
	out := []any{}
	primary := 0
	for _, one := range given {
		if one == nil {
			continue
		}
		v, err := a.single(one)
		if err != nil {
			return nil, err
		}
		if object, ok := v.(map[string]any); ok && object["primary"] == true {
			if primary++; primary > 1 {
				return nil, invalid("invalidValue", "%s has two primary values", a.name)
			}
		}
		if v != nil {
			out = append(out, v)
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

func (a *attribute) single(v any) (any, error) {
	wrong := func() error { return invalid("invalidValue", "%s is no %s", a.name, a.typ) }
	switch a.typ {
	case "complex":
		if s, ok := v.(string); ok && a.find("value") != nil { // as Entra sends a manager
			v = map[string]any{"value": s}
		}
		object, ok := v.(map[string]any)
		if !ok {
			return nil, wrong()
		}
		out, err := values(a.sub, object)
		if err != nil || len(out) == 0 {
			return nil, err
		}
		return out, nil
	case "boolean":
		switch v := v.(type) {
		case bool:
			return v, nil
		case string: // as Entra sends them
			switch strings.ToLower(v) {
			case "true":
				return true, nil
			case "false":
				return false, nil
			}
		}
		return nil, wrong()
	}
	if n, ok := v.(json.Number); ok && a.typ == "string" {
		v = n.String()
	}
	s, ok := v.(string)
	if !ok {
		return nil, wrong()
	}
	switch {
	case len(s) > maxText:
		return nil, invalid("invalidValue", "%s has %d bytes: %d are possible", a.name, len(s), maxText)
	case strings.ContainsRune(s, 0):
		return nil, invalid("invalidValue", "%s has a NUL", a.name)
	case a.typ == "binary":
		if _, err := base64.StdEncoding.DecodeString(s); err != nil {
			return nil, wrong()
		}
	case a.typ == "dateTime":
		if _, err := time.Parse(time.RFC3339Nano, s); err != nil {
			return nil, wrong()
		}
	}
	return s, nil
}

func equal(a, b any) bool { return reflect.DeepEqual(a, b) }
