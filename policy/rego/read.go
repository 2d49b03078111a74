package rego

import (
	"bytes"
	"encoding/json"
	"runtime"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

const (
	// yieldEvery is the number of values after which the reader of a large document yields: a goroutine that does not pause would keep a
	// processor from requests for ten milliseconds at a time.
	yieldEvery = 256
	// Short repeated texts share one term; at most this many different ones are tracked.
	maxShared     = 1 << 16
	maxSharedText = 64
	manyPairs     = 2000 // larger objects are built with pauses
)

// valueReader parses JSON text straight into a value. Going through plain JSON takes twice the time and leaves several times the document's
// size as garbage at each activation. It is at least as strict as encoding/json: what it rejects is parsed again by encoding/json, which
// reports what is wrong and where.
type valueReader struct {
	Scanner
	count  int
	pairs  [][2]*ast.Term // members of the open objects, innermost last
	terms  []*ast.Term    // elements of the open arrays, likewise
	keys   map[string]*ast.Term
	values map[string]*ast.Term // by their text in the document
}

// ReadJSON parses exactly one JSON value with exact numbers; false for invalid JSON or a value beyond the limits.
func ReadJSON(text []byte) (ast.Value, bool) {
	r := &valueReader{Scanner: Scanner{Text: bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))}, keys: map[string]*ast.Term{}, values: map[string]*ast.Term{}}
	term := r.value(0)
	if term == nil || r.Peek() != 0 || r.At != len(r.Text) {
		return nil, false
	}
	return term.Value, true
}

// value returns nil if there is no valid value.
func (r *valueReader) value(depth int) *ast.Term {
	r.count++
	yield(r.count)
	if depth > MaxDepth {
		return nil
	}
	switch r.Peek() {
	case '{':
		return r.object(depth)
	case '[':
		return r.array(depth)
	case '"':
		raw, plain := r.Quoted()
		return r.share(r.values, raw, func() ast.Value { return Unquote(raw, plain) })
	}
	raw := r.Bare()
	return r.share(r.values, raw, func() ast.Value { return bareValue(raw) })
}

// share returns the shared term for a text, or nil if build fails.
func (r *valueReader) share(terms map[string]*ast.Term, raw []byte, build func() ast.Value) *ast.Term {
	if len(raw) > maxSharedText {
		return newTerm(build())
	}
	if term := terms[string(raw)]; term != nil {
		return term
	}
	term := newTerm(build())
	if term != nil && len(terms) < maxShared {
		terms[string(raw)] = term
	}
	return term
}

func newTerm(v ast.Value) *ast.Term {
	if v == nil {
		return nil
	}
	return ast.NewTerm(v)
}

// object parses the members up to the closing brace. Of duplicate keys the last wins, as in encoding/json.
func (r *valueReader) object(depth int) *ast.Term {
	base := len(r.pairs)
	defer func() { r.pairs = r.pairs[:base] }()
	r.At++
	for r.Peek() != '}' {
		if len(r.pairs) > base && !r.Take(',') || r.Peek() != '"' {
			return nil
		}
		raw, plain := r.Quoted()
		key := r.share(r.keys, raw, func() ast.Value { return Unquote(raw, plain) })
		if key == nil || !r.Take(':') {
			return nil
		}
		value := r.value(depth + 1)
		if value == nil {
			return nil
		}
		r.pairs = append(r.pairs, [2]*ast.Term{key, value})
	}
	r.At++
	return ast.NewTerm(objectOf(r.pairs[base:]))
}

func (r *valueReader) array(depth int) *ast.Term {
	base := len(r.terms)
	defer func() { r.terms = r.terms[:base] }()
	r.At++
	for r.Peek() != ']' {
		if len(r.terms) > base && !r.Take(',') {
			return nil
		}
		value := r.value(depth + 1)
		if value == nil {
			return nil
		}
		r.terms = append(r.terms, value)
	}
	r.At++
	return ast.ArrayTerm(slices.Clone(r.terms[base:])...)
}

// Unquote decodes a quoted string.
func Unquote(raw []byte, plain bool) ast.Value {
	if plain && raw != nil {
		return ast.String(raw[1 : len(raw)-1])
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return nil
	}
	return ast.String(s)
}

func bareValue(raw []byte) ast.Value {
	switch string(raw) {
	case "true":
		return Bool(true)
	case "false":
		return Bool(false)
	case "null":
		return Null()
	}
	v, err := number(json.Number(raw))
	if err != nil {
		return nil
	}
	return v
}

// objectOf makes an object of pairs with possibly duplicate keys. OPA's fast constructor does not check for these.
func objectOf(pairs [][2]*ast.Term) ast.Value {
	switch {
	case len(pairs) == 0:
		return ast.InternedEmptyObjectValue
	case len(pairs) <= manyPairs && !repeatsKey(pairs):
		return ast.NewObject(pairs...)
	}
	// A duplicate key makes OPA walk the whole object, so the last of each is picked first.
	last := make(map[ast.Value]int, len(pairs))
	for i, pair := range pairs {
		last[pair[0].Value] = i
		yield(i)
	}
	object := ast.NewObjectWithCapacity(len(last))
	for i, pair := range pairs {
		if last[pair[0].Value] == i {
			object.Insert(pair[0], pair[1])
		}
		yield(i)
	}
	return object
}

// yield yields to requests now and then.
func yield(count int) {
	if count%yieldEvery == 0 {
		runtime.Gosched()
	}
}

func repeatsKey(pairs [][2]*ast.Term) bool {
	if len(pairs) > quadratic {
		seen := make(map[ast.Value]struct{}, len(pairs))
		for _, pair := range pairs {
			seen[pair[0].Value] = struct{}{}
		}
		return len(seen) != len(pairs)
	}
	for i := range pairs {
		for j := range i {
			if pairs[i][0].Value == pairs[j][0].Value {
				return true
			}
		}
	}
	return false
}
