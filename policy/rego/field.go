package rego

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Field is the key of an object that is looked for again and again: it is made once.
type Field struct {
	Name string
	key  *ast.Term
}

// NewField returns the field of that name.
func NewField(name string) Field { return Field{name, ast.StringTerm(name)} }

// Of is the field's value; nil where v is no object, or has no such field. It does not allocate.
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

// Fields is how many fields an object has, -1 for other values.
func Fields(v Value) int {
	if o, ok := v.(ast.Object); ok {
		return o.Len()
	}
	return -1
}

// Keys are an object's keys. Those that are no strings are as Rego writes them.
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

// Elements are those of an array; ok is false for other values.
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

// Text is the text of a string; ok is false for other values.
func Text(v Value) (text string, ok bool) {
	s, ok := v.(ast.String)
	return string(s), ok
}

// Truth is the value of a boolean; ok is false for other values.
func Truth(v Value) (truth, ok bool) {
	b, ok := v.(ast.Boolean)
	return bool(b), ok
}

// ParseJSON reads one value that is text. It refuses what FromJSON refuses.
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
