package rego

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Value is one immutable value of a policy's input or result. It is OPA's own type, so that an input is built once and evaluated without
// conversion; other packages build it with the functions below instead of importing OPA.
type Value = ast.Value

// Member is a key of an object with its value. A member whose Value is nil is absent.
type Member struct {
	Key   string
	Value Value
}

const (
	// MaxDepth bounds the nesting of external arrays and objects. Everything that walks a value recurses.
	MaxDepth = 1000

	// maxNumber bounds the digits of external numbers, because arithmetic on long numbers is not linear.
	maxNumber = 1000

	// quadratic is the number of members up to which Object compares all pairs to find duplicate keys.
	quadratic = 24
)

// String returns a string. It aliases s: bytes that are reused must be copied first.
func String(s string) Value {
	if s == "" {
		return ast.InternedEmptyStringValue
	}
	return ast.String(s)
}

// Bool returns true or false.
func Bool(b bool) Value {
	if b {
		return ast.InternedBooleanTrueValue
	}
	return ast.InternedBooleanFalseValue
}

// Null returns null, which is a value; an absent value is a nil Value.
func Null() Value { return ast.InternedNullValue }

// Int returns an integer number.
func Int(i int64) Value {
	if int64(int(i)) == i {
		return ast.InternedValue(int(i))
	}
	return ast.Number(strconv.FormatInt(i, 10))
}

// Number returns n with all its digits. What FromJSON would refuse (no JSON number, too long, exponent too large) becomes null.
func Number(n json.Number) Value {
	v, err := number(n)
	if err != nil {
		return Null()
	}
	return v
}

// Strings returns an array of strings. It aliases the strings, not the slice.
func Strings(list []string) Value {
	if len(list) == 0 {
		return ast.InternedEmptyArrayValue
	}
	terms := make([]ast.Term, len(list))
	refs := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i].Value = String(s)
		refs[i] = &terms[i]
	}
	return ast.NewArray(refs...)
}

// Array returns an array. A nil value becomes null, so that the others keep their positions.
func Array(list ...Value) Value {
	if len(list) == 0 {
		return ast.InternedEmptyArrayValue
	}
	terms := make([]ast.Term, len(list))
	refs := make([]*ast.Term, len(list))
	for i, v := range list {
		if v == nil {
			v = Null()
		}
		terms[i].Value = v
		refs[i] = &terms[i]
	}
	return ast.NewArray(refs...)
}

// Object returns an object of the members that are not absent. Of duplicate keys the last wins. The keys that gatehouse itself uses do not
// allocate.
func Object(members ...Member) Value {
	if repeats(members) {
		members = lastOfEach(members)
	}
	// NewObject retains the terms but not the slice of pairs: with a fixed array it stays on the stack.
	var fixed [32][2]*ast.Term
	pairs := fixed[:0]
	if len(members) > len(fixed) {
		pairs = make([][2]*ast.Term, 0, len(members))
	}
	terms := make([]ast.Term, 0, 2*len(members))
	for _, m := range members {
		if m.Value == nil {
			continue
		}
		key := keyTerms[m.Key]
		if key == nil {
			terms = append(terms, ast.Term{Value: ast.String(m.Key)})
			key = &terms[len(terms)-1]
		}
		terms = append(terms, ast.Term{Value: m.Value})
		pairs = append(pairs, [2]*ast.Term{key, &terms[len(terms)-1]})
	}
	if len(pairs) == 0 {
		return ast.InternedEmptyObjectValue
	}
	return ast.NewObject(pairs...)
}

// repeats reports duplicate keys. OPA's constructor does not check and would build an object that answers differently depending on how it is
// read.
func repeats(members []Member) bool {
	if len(members) > quadratic {
		seen := make(map[string]struct{}, len(members))
		for _, m := range members {
			seen[m.Key] = struct{}{}
		}
		return len(seen) != len(members)
	}
	for i := range members {
		for j := range i {
			if members[i].Key == members[j].Key {
				return true
			}
		}
	}
	return false
}

// lastOfEach returns the last member with each key, in the order of the keys' first appearance.
func lastOfEach(members []Member) []Member {
	at := make(map[string]int, len(members))
	unique := make([]Member, 0, len(members))
	for _, m := range members {
		if i, ok := at[m.Key]; ok {
			unique[i] = m
			continue
		}
		at[m.Key] = len(unique)
		unique = append(unique, m)
	}
	return unique
}

// keyTerms holds the terms of common keys. It is filled once and only read.
var keyTerms = func(names ...string) map[string]*ast.Term {
	terms := make(map[string]*ast.Term, len(names))
	for _, name := range names {
		terms[name] = ast.StringTerm(name)
	}
	return terms
}(
	"attributes", "version", "parsed_path", "parsed_query", "parsed_body", "truncated_body", "source_principal",
	"identity", "user", "peer", "app", "route", "resource", "policy",
	"ext_authz", "encoding", "type", "subject", "issuer", "roles", "groups", "scopes", "claims", "authenticated",
	"id", "display_name", "properties", "spiffe_id", "sans", "name", "method", "template", "params", "path",
	"source", "destination", "request", "contextExtensions", "metadataContext", "routeMetadataContext", "tlsSession",
	"address", "socketAddress", "portValue", "protocol", "principal", "service", "labels", "certificate", "pipe",
	"time", "http", "seconds", "nanos", "headers", "host", "scheme", "query", "fragment", "size", "body", "rawBody",
	"headerMap", "filterMetadata", "typedFilterMetadata", "sni",
	":authority", ":method", ":path", ":scheme", "accept", "accept-encoding", "accept-language", "authorization",
	"cache-control", "connection", "content-length", "content-type", "cookie", "forwarded", "if-none-match", "origin",
	"referer", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "traceparent", "tracestate", "user-agent",
	"x-b3-sampled", "x-b3-spanid", "x-b3-traceid", "x-envoy-auth-partial-body", "x-envoy-decorator-operation",
	"x-envoy-expected-rq-timeout-ms", "x-envoy-external-address", "x-forwarded-client-cert", "x-forwarded-for",
	"x-forwarded-host", "x-forwarded-proto", "x-request-id",
)

// FromJSON converts plain JSON: map[string]any, []any, string, json.Number, float64, bool and nil, also []string, int and int64. It refuses
// other types, nesting deeper than 1000, and numbers that are invalid JSON, longer than 1000 characters or with too large an exponent.
// Strings are aliased.
func FromJSON(x any) (Value, error) { return FromJSONAt(x, 0) }

// FromJSONAt is FromJSON for a part at this depth of a document.
func FromJSONAt(x any, depth int) (Value, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	switch x := x.(type) {
	case nil:
		return Null(), nil
	case bool:
		return Bool(x), nil
	case string:
		return String(x), nil
	case json.Number:
		return number(x)
	case float64:
		return float(x)
	case int:
		return Int(int64(x)), nil
	case int64:
		return Int(x), nil
	case []string:
		return Strings(x), nil
	case []any:
		return fromArray(x, depth)
	case map[string]any:
		return fromObject(x, depth)
	}
	return nil, fmt.Errorf("a %T is not plain JSON", x)
}

func fromArray(list []any, depth int) (Value, error) {
	if len(list) == 0 {
		return ast.InternedEmptyArrayValue, nil
	}
	terms := make([]ast.Term, len(list))
	refs := make([]*ast.Term, len(list))
	for i := range list {
		v, err := FromJSONAt(list[i], depth+1)
		if err != nil {
			return nil, err
		}
		terms[i].Value = v
		refs[i] = &terms[i]
	}
	return ast.NewArray(refs...), nil
}

func fromObject(object map[string]any, depth int) (Value, error) {
	if len(object) == 0 {
		return ast.InternedEmptyObjectValue, nil
	}
	terms := make([]ast.Term, 0, 2*len(object))
	pairs := make([][2]*ast.Term, 0, len(object))
	for k, x := range object {
		v, err := FromJSONAt(x, depth+1)
		if err != nil {
			return nil, err
		}
		key := keyTerms[k]
		if key == nil {
			terms = append(terms, ast.Term{Value: ast.String(k)})
			key = &terms[len(terms)-1]
		}
		terms = append(terms, ast.Term{Value: v})
		pairs = append(pairs, [2]*ast.Term{key, &terms[len(terms)-1]})
	}
	return ast.NewObject(pairs...), nil
}

func number(n json.Number) (Value, error) {
	s := string(n)
	if len(s) > maxNumber {
		return nil, fmt.Errorf("a number of %d characters is longer than %d", len(s), maxNumber)
	}
	if i, err := strconv.Atoi(s); err == nil && strconv.Itoa(i) == s {
		return ast.InternedValue(i), nil
	}
	digit := func(c byte) bool { return '0' <= c && c <= '9' }
	if s == "" || !digit(s[len(s)-1]) || !digit(s[0]) && s[0] != '-' || !json.Valid([]byte(s)) {
		return nil, fmt.Errorf("%q is not a number", s)
	}
	v, err := ast.NumberChecked(s)
	if err != nil {
		return nil, fmt.Errorf("the number %q: %w", s, err)
	}
	return v, nil
}

func float(f float64) (Value, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, fmt.Errorf("%v is not a number in JSON", f)
	}
	return ast.Number(strconv.FormatFloat(f, 'g', -1, 64)), nil
}

// JSON converts a value to plain JSON that shares nothing with it: map[string]any, []any, string, json.Number, bool, nil. A set becomes a
// sorted array, and a non-string key its JSON text, as in OPA. A nil Value is nil.
func JSON(v Value) (any, error) { return JSONAt(v, 0) }

// JSONAt is JSON for a part at this depth of a document.
func JSONAt(v Value, depth int) (any, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	switch v := v.(type) {
	case nil, ast.Null:
		return nil, nil
	case ast.Boolean:
		return bool(v), nil
	case ast.Number:
		return json.Number(v), nil
	case ast.String:
		return string(v), nil
	case *ast.Array:
		return arrayJSON(slices.Collect(elements(v)), depth)
	case ast.Set:
		return arrayJSON(v.Slice(), depth)
	case ast.Object:
		return objectJSON(v, depth)
	}
	return nil, fmt.Errorf("a value of type %s is not plain JSON", ast.ValueName(v))
}

func elements(a *ast.Array) func(func(*ast.Term) bool) {
	return func(yield func(*ast.Term) bool) {
		for i := range a.Len() {
			if !yield(a.Elem(i)) {
				return
			}
		}
	}
}

func arrayJSON(terms []*ast.Term, depth int) (any, error) {
	list := make([]any, len(terms))
	for i, t := range terms {
		x, err := JSONAt(t.Value, depth+1)
		if err != nil {
			return nil, err
		}
		list[i] = x
	}
	return list, nil
}

func objectJSON(object ast.Object, depth int) (any, error) {
	m := make(map[string]any, object.Len())
	err := object.Iter(func(k, v *ast.Term) error {
		key, err := KeyText(k.Value)
		if err != nil {
			return err
		}
		m[key], err = JSONAt(v.Value, depth+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// KeyText returns an object key's text in JSON. Rego allows keys of any type.
func KeyText(k Value) (string, error) {
	if s, ok := k.(ast.String); ok {
		return string(s), nil
	}
	x, err := JSONAt(k, 0)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(x)
	return string(text), err
}
