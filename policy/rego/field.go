package rego

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Field is an object's key whose term is made once, for repeated lookups.
type Field struct {
	Name string
	key  *ast.Term
}

// NewField returns the field with this name.
func NewField(name string) Field { return Field{name, ast.StringTerm(name)} }

// Of returns the field's value; nil if v is no object, or has no such field. It does not allocate.
func (f Field) Of(v Value) Value {
	o, ok := v.(ast.Object)
	if !ok {
		return nil
	}
	if t := o.Get(f.key); t != nil {
		return t.Value
	}
	return nil
}

// Fields returns an object's number of fields, -1 for other values.
func Fields(v Value) int {
	if o, ok := v.(ast.Object); ok {
		return o.Len()
	}
	return -1
}

// Keys yields an object's keys; those that are no strings as Rego text.
func Keys(v Value) iter.Seq[string] {
	return func(yield func(string) bool) {
		o, ok := v.(ast.Object)
		if !ok {
			return
		}
		o.Until(func(k, _ *ast.Term) bool {
			name, ok := Text(k.Value)
			if !ok {
				name = k.String()
			}
			return !yield(name)
		})
	}
}

// Elements returns an array's elements; ok is false for other values.
func Elements(v Value) (list []Value, ok bool) {
	a, ok := v.(*ast.Array)
	if !ok {
		return nil, false
	}
	list = make([]Value, a.Len())
	for i := range list {
		list[i] = a.Elem(i).Value
	}
	return list, true
}

// Text returns a string's text; ok is false for other values.
func Text(v Value) (text string, ok bool) {
	s, ok := v.(ast.String)
	return string(s), ok
}

// Truth returns a boolean's value; ok is false for other values.
func Truth(v Value) (truth, ok bool) {
	b, ok := v.(ast.Boolean)
	return bool(b), ok
}

// ParseJSON parses one value. It refuses what FromJSON refuses.
func ParseJSON(text string) (Value, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var x any
	if err := d.Decode(&x); err != nil {
		return nil, fmt.Errorf("parsing JSON: %w", err)
	}
	if d.More() {
		return nil, errors.New("parsing JSON: there is more than one value")
	}
	return FromJSON(x)
}
