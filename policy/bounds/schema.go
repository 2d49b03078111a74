package bounds

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

const (
	maxSchemaWork  = 1 << 22
	maxSchemaText  = 1 << 20
	maxSchemaDepth = 500 // nested schemas that apply to one value
	maxSchemaSize  = 20_000
)

// sized checks json.match_schema and json.verify_schema: a schema that is large or has references runs apart.
func sized(args []*ast.Term) verdict {
	v := verdict{}
	for _, t := range args {
		w, refused := tooLarge(t.Value)
		if refused != "" {
			return verdict{refused: refused}
		}
		v.work += w.text*16 + w.nodes*64
	}
	if refers(args[len(args)-1].Value) {
		v.work += isolatedWork
	}
	return v
}

// refers reports whether a schema has a reference.
func refers(v ast.Value) (found bool) {
	switch v := v.(type) {
	case ast.String:
		return strings.Contains(string(v), "$ref")
	case *ast.Array:
		return v.Until(func(t *ast.Term) bool { return refers(t.Value) })
	case ast.Object:
		return v.Until(func(k, t *ast.Term) bool { return refers(k.Value) || refers(t.Value) })
	}
	return false
}

// schemas is json.match_schema. It first counts how often the validator will apply a part of the schema to a part of the document. A schema
// may refer to itself: {"$ref": "#"} overflows the stack, two such references double the work at each level.
func schemas(original topdown.BuiltinFunc) topdown.BuiltinFunc {
	return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		root, refused := verified(args[1])
		if refused == "" {
			var document any
			if document, refused = plainJSON(args[0]); refused == "" {
				w := walker{root: root, cancel: bctx.Cancel, found: map[string][]any{}}
				w.identified(root, 0)
				w.apply(root, document, 0)
				refused = w.refused
			}
		}
		if refused != "" {
			return limit("json.match_schema", bctx.Location, refused)
		}
		return original(bctx, args, iter)
	}
}

// schemasAlone is json.verify_schema, which only compiles the schema.
func schemasAlone(original topdown.BuiltinFunc) topdown.BuiltinFunc {
	return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		if _, refused := verified(args[0]); refused != "" {
			return limit("json.verify_schema", bctx.Location, refused)
		}
		return original(bctx, args, iter)
	}
}

// verified parses a schema and checks its size.
func verified(t *ast.Term) (root any, refused string) {
	if _, ok := weigh(t.Value, weight{nodes: maxSchemaSize, text: maxSchemaText, depth: maxSchemaDepth}); !ok {
		return nil, fmt.Sprintf("a schema of more than %d values, %d bytes or %d levels", maxSchemaSize, maxSchemaText, maxSchemaDepth)
	}
	if root, refused = plainJSON(t); refused != "" {
		return nil, refused
	}
	w := walker{}
	w.patterns(root, 0)
	return root, w.refused
}

// plainJSON converts an operand as the library does: JSON text, or a value; nil if it is neither.
func plainJSON(t *ast.Term) (any, string) {
	var out any
	content := []byte(stringOf(t))
	if _, isText := t.Value.(ast.String); !isText {
		if _, refused := tooLarge(t.Value); refused != "" {
			return nil, refused
		}
		x, err := ast.JSON(t.Value)
		if err != nil {
			return nil, ""
		}
		return x, ""
	}
	if len(content) > MaxText/8 {
		return nil, fmt.Sprintf("a document of more than %d bytes", MaxText/8)
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.UseNumber()
	if d.Decode(&out) != nil {
		return nil, ""
	}
	return out, numbers(out)
}

// numbers returns what is wrong with a document's numbers, "" if nothing is.
func numbers(x any) string {
	switch x := x.(type) {
	case json.Number:
		if _, err := ast.NumberChecked(string(x)); len(x) > MaxNumber || err != nil {
			return "a number that is too long"
		}
	case []any:
		for _, e := range x {
			if text := numbers(e); text != "" {
				return text
			}
		}
	case map[string]any:
		for _, e := range x {
			if text := numbers(e); text != "" {
				return text
			}
		}
	}
	return ""
}

// walker counts the steps of a validation. It overestimates: it follows every branch.
type walker struct {
	root    any
	ids     []any            // parts with an identifier that a reference may name
	found   map[string][]any // resolved references
	cancel  topdown.Cancel
	work    int
	refused string
}

func (w *walker) spend(n int) bool {
	if w.work += n; w.work > maxSchemaWork || w.cancel != nil && w.cancel.Cancelled() {
		w.refused = "checking the document against the schema would take too long"
	}
	return w.refused == ""
}

// identified collects the parts of a schema that have their own identifier.
func (w *walker) identified(x any, depth int) {
	if depth > MaxNesting {
		return
	}
	switch x := x.(type) {
	case []any:
		for _, e := range x {
			w.identified(e, depth+1)
		}
	case map[string]any:
		_, old := x["id"].(string)
		if _, id := x["$id"].(string); id || old || x["$anchor"] != nil {
			w.ids = append(w.ids, x)
		}
		for _, e := range x {
			w.identified(e, depth+1)
		}
	}
}

// patterns adds up a schema's regular expressions.
func (w *walker) patterns(x any, depth int) {
	if depth > MaxNesting || w.refused != "" {
		return
	}
	one := func(pattern string) {
		n, refused := program(pattern)
		if w.work += n; refused != "" || w.work > MaxProgram {
			w.refused = "the schema's patterns are too large"
		}
	}
	switch x := x.(type) {
	case []any:
		for _, e := range x {
			w.patterns(e, depth+1)
		}
	case map[string]any:
		if s, ok := x["pattern"].(string); ok {
			one(s)
		}
		if m, ok := x["patternProperties"].(map[string]any); ok {
			for s := range m {
				one(s)
			}
		}
		for _, e := range x {
			w.patterns(e, depth+1)
		}
	}
}

// apply counts one part of the schema applied to one part of the document; here is the number of schemas already applied to this value.
func (w *walker) apply(schema, value any, here int) {
	if here > maxSchemaDepth {
		w.refused = "the schema refers to itself, or its parts are nested too deeply"
	}
	object, ok := schema.(map[string]any)
	if !ok || w.refused != "" || !w.spend(1+len(object)) {
		return
	}
	w.keywords(object, value)
	for _, key := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := object[key].([]any)
		for _, s := range list {
			w.apply(s, value, here+1)
		}
	}
	for _, key := range []string{"not", "if", "then", "else"} {
		if s, ok := object[key]; ok {
			w.apply(s, value, here+1)
		}
	}
	if depends, ok := object["dependencies"].(map[string]any); ok {
		for _, s := range depends {
			w.apply(s, value, here+1)
		}
	}
	if ref, ok := object["$ref"].(string); ok {
		for _, s := range w.targets(ref) {
			w.apply(s, value, here+1)
		}
	}
	w.children(object, value)
}

// keywords counts what a schema checks without its subschemas.
func (w *walker) keywords(object map[string]any, value any) {
	size := 1
	switch x := value.(type) {
	case string:
		size += len(x) / 16
		if pattern, ok := object["pattern"].(string); ok {
			n, _ := program(pattern)
			w.spend(n * (len(x) + 1) / 8)
		}
	case []any:
		size += len(x)
		if unique, _ := object["uniqueItems"].(bool); unique {
			w.spend(len(x)*len(x)/4 + textSize(x))
		}
	case map[string]any:
		size += len(x)
	}
	if list, ok := object["enum"].([]any); ok {
		w.spend(len(list) + textSize(value)/8)
	}
	if list, ok := object["required"].([]any); ok {
		w.spend(len(list))
	}
	if object["const"] != nil {
		w.spend(textSize(value) / 8)
	}
	w.spend(size)
}

// textSize estimates a value's size as text.
func textSize(x any) int {
	n := 2
	switch x := x.(type) {
	case string:
		n += len(x)
	case json.Number:
		n += len(x)
	case []any:
		for _, e := range x {
			n += textSize(e)
		}
	case map[string]any:
		for k, e := range x {
			n += len(k) + textSize(e)
		}
	}
	return n
}

// children applies subschemas to a value's members and elements.
func (w *walker) children(object map[string]any, value any) {
	switch x := value.(type) {
	case []any:
		for i, e := range x {
			for _, key := range []string{"items", "additionalItems", "contains"} {
				if tuple, ok := object[key].([]any); ok {
					if i < len(tuple) {
						w.apply(tuple[i], e, 0)
					}
					continue
				}
				w.apply(object[key], e, 0)
			}
			if w.refused != "" {
				return
			}
		}
	case map[string]any:
		properties, _ := object["properties"].(map[string]any)
		patterns, _ := object["patternProperties"].(map[string]any)
		for k, e := range x {
			w.apply(properties[k], e, 0)
			w.apply(object["additionalProperties"], e, 0)
			w.apply(object["propertyNames"], k, 0)
			for pattern, s := range patterns {
				n, _ := program(pattern)
				if !w.spend(n * (len(k) + 1) / 8) {
					return
				}
				w.apply(s, e, 0)
			}
			if w.refused != "" {
				return
			}
		}
	}
}

// targets returns the parts of the schema that a reference may mean: one for a pointer into this schema, otherwise all that have an
// identifier.
func (w *walker) targets(ref string) []any {
	out, known := w.found[ref]
	if !known {
		out = w.resolve(ref)
		w.found[ref] = out
	}
	return out
}

func (w *walker) resolve(ref string) []any {
	base, fragment, _ := strings.Cut(ref, "#")
	if unescaped, err := url.PathUnescape(fragment); err == nil {
		fragment = unescaped
	}
	from := w.ids
	if base == "" {
		from = append([]any{w.root}, w.ids...)
	}
	if fragment == "" || fragment[0] != '/' {
		return from
	}
	var out []any
	for _, at := range from {
		if target, ok := pointed(at, fragment); ok {
			out = append(out, target)
		}
	}
	return out
}

func pointed(x any, pointer string) (any, bool) {
	for step := range strings.SplitSeq(pointer[1:], "/") {
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		switch at := x.(type) {
		case map[string]any:
			next, ok := at[step]
			if !ok {
				return nil, false
			}
			x = next
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(at) {
				return nil, false
			}
			x = at[i]
		default:
			return nil, false
		}
	}
	return x, true
}
