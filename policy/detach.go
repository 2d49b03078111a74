package policy

import (
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
)

// What the parts of an entry take in memory, in bytes, rounded up.
const (
	entryBytes    = 160 // remembered with its slot
	decisionBytes = 320
	questionBytes = 88 // with its list of arguments
	termBytes     = 56 // a term with its value's interface, and its share of the array, set or object that holds it
	memberBytes   = 96
	maxDetached   = 64 // nesting
)

// plainAllow and plainDeny are the decisions of policies that say no more than true or false.
var plainDecisions = map[bool]*Decision{
	true:  {Allowed: true, Result: ast.InternedBooleanTrueValue},
	false: {Result: ast.InternedBooleanFalseValue},
}

// detached is a copy of a decision that shares no memory with it, so that neither a request nor what it came in is kept alive or
// seen again, and about how many bytes it takes; nil where it is nested too deeply.
func detached(d *Decision) (*Decision, int64) {
	if b, ok := d.Result.(ast.Boolean); ok && bool(b) == d.Allowed {
		return plainDecisions[d.Allowed], 0
	}
	size := int64(decisionBytes)
	result, ok := detach(d.Result, &size, 0)
	if !ok {
		return nil, 0
	}
	size += min(size, MaxKept)
	text := func(s string) string {
		size += int64(len(s)) + 8
		return strings.Clone(s)
	}
	headers := func(list []Header) []Header {
		list = slices.Clone(list)
		for i, h := range list {
			size += 48
			list[i] = Header{Name: text(h.Name), Value: text(h.Value), AppendAction: text(h.AppendAction)}
		}
		return list
	}
	names := func(list []string) []string {
		list = slices.Clone(list)
		for i, s := range list {
			size += 16
			list[i] = text(s)
		}
		return list
	}
	own := &Decision{Allowed: d.Allowed, Reason: text(d.Reason), Headers: headers(d.Headers), ResponseHeaders: headers(d.ResponseHeaders),
		RemoveHeaders: names(d.RemoveHeaders), SetQuery: slices.Clone(d.SetQuery), RemoveQuery: names(d.RemoveQuery), Body: text(d.Body),
		Status: d.Status, Result: result, Kept: new(atomic.Value)}
	for i, q := range own.SetQuery {
		size += 32
		own.SetQuery[i] = QueryParameter{Name: text(q.Name), Value: text(q.Value)}
	}
	if d.Metadata != nil {
		plain, err := toJSON(member(result.(ast.Object), "dynamic_metadata"), 0)
		if err != nil {
			return nil, 0
		}
		own.Metadata, _ = plain.(map[string]any)
		size += size / 2 // the same again, in other words
	}
	return own, size
}

// detach copies a value that came of an evaluation, or goes into one, and adds up about how many bytes the copy takes.
func detach(v Value, size *int64, depth int) (Value, bool) {
	if depth > maxDetached {
		return nil, false
	}
	*size += termBytes
	term := func(t *ast.Term) (*ast.Term, bool) {
		own, ok := detach(t.Value, size, depth+1)
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

// cloneJSON copies plain JSON.
func cloneJSON(x any) any {
	switch x := x.(type) {
	case map[string]any:
		own := maps.Clone(x)
		for k, v := range own {
			own[k] = cloneJSON(v)
		}
		return own
	case []any:
		own := slices.Clone(x)
		for i, v := range own {
			own[i] = cloneJSON(v)
		}
		return own
	}
	return x
}
