package rego

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

const (
	// MaxCopied bounds the nesting of what Copy copies.
	MaxCopied = 64
	// Memory of a value's parts, in bytes, rounded up: a term with its value's interface and its share of the containing array, set or
	// object; a member.
	termBytes   = 56
	memberBytes = 96
)

// Copy copies an input or a result, sharing no memory with it, and adds the copy's approximate bytes to size. ok is false if the value is
// nested deeper than MaxCopied, or cannot be an input.
func Copy(v Value, size *int64) (own Value, ok bool) { return copyValue(v, size, 0) }

func copyValue(v Value, size *int64, depth int) (Value, bool) {
	if depth > MaxCopied {
		return nil, false
	}
	*size += termBytes
	term := func(t *ast.Term) (*ast.Term, bool) {
		own, ok := copyValue(t.Value, size, depth+1)
		return ast.NewTerm(own), ok
	}
	terms := func(list []*ast.Term) ([]*ast.Term, bool) {
		all := true
		own := make([]*ast.Term, len(list))
		for i, t := range list {
			var ok bool
			own[i], ok = term(t)
			all = all && ok
		}
		return own, all
	}
	switch v := v.(type) {
	case ast.Null, ast.Boolean:
		return v, true
	case ast.Number:
		*size += int64(len(v))
		return ast.Number(strings.Clone(string(v))), true
	case ast.String:
		*size += int64(len(v))
		return ast.String(strings.Clone(string(v))), true
	case *ast.Array:
		own, ok := terms(slices.Collect(elements(v)))
		return ast.NewArray(own...), ok
	case ast.Set:
		own, ok := terms(v.Slice())
		return ast.NewSet(own...), ok
	case ast.Object:
		pairs := make([][2]*ast.Term, 0, v.Len())
		all := true
		v.Foreach(func(name, value *ast.Term) {
			*size += memberBytes
			k, okKey := term(name)
			x, okValue := term(value)
			pairs, all = append(pairs, [2]*ast.Term{k, x}), all && okKey && okValue
		})
		return ast.NewObject(pairs...), all
	}
	return nil, false
}

// CopyJSON copies plain JSON.
func CopyJSON(x any) any {
	switch x := x.(type) {
	case map[string]any:
		own := maps.Clone(x)
		for k, v := range own {
			own[k] = CopyJSON(v)
		}
		return own
	case []any:
		own := slices.Clone(x)
		for i, v := range own {
			own[i] = CopyJSON(v)
		}
		return own
	}
	return x
}
