package bounds

import (
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

const (
	maxOperations = 20_000
	maxPointer    = 1000 // steps
)

// patches is json.patch. Each copy operation may double the document: whenever it may be too large, the operations so far are applied and
// the result is measured.
func patches(original topdown.BuiltinFunc) topdown.BuiltinFunc {
	return func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
		operations, ok := args[1].Value.(*ast.Array)
		if !ok {
			return original(bctx, args, iter)
		}
		document := args[0]
		size, _ := weigh(document.Value, most)
		first := 0
		flush := func(end int) error {
			var made *ast.Term
			err := original(bctx, []*ast.Term{document, ast.NewTerm(operations.Slice(first, end))}, func(t *ast.Term) error { made = t; return nil })
			if err != nil || made == nil {
				return err
			}
			w, refused := tooLarge(made.Value)
			if refused != "" {
				return limit("json.patch", bctx.Location, refused)
			}
			document, size, first = made, w, end
			return nil
		}
		for i := range operations.Len() {
			grown := grows(size, operations.Elem(i))
			if i > first && (grown.nodes > MaxNodes || grown.text > MaxText || grown.depth > MaxNesting) {
				if err := flush(i); err != nil {
					return err
				}
				grown = grows(size, operations.Elem(i))
			}
			if size = grown; grown.nodes > MaxNodes || grown.text > MaxText || grown.depth > MaxNesting {
				if err := flush(i + 1); err != nil {
					return err
				}
			}
		}
		return original(bctx, []*ast.Term{document, ast.NewTerm(operations.Slice(first, -1))}, func(t *ast.Term) error {
			if _, refused := tooLarge(t.Value); refused != "" {
				return limit("json.patch", bctx.Location, refused)
			}
			return iter(t)
		})
	}
}

// grows bounds the document's size after one more operation.
func grows(w weight, operation *ast.Term) weight {
	object, ok := operation.Value.(ast.Object)
	if !ok {
		return w
	}
	w.depth += steps(member(object, "path"))
	if op, _ := member(object, "op").(ast.String); op == "copy" || op == "move" {
		return weight{nodes: 2*w.nodes + 1, text: 2*w.text + 2, depth: 2 * w.depth}
	}
	if value := member(object, "value"); value != nil {
		added, _ := weigh(value, most)
		w.nodes, w.text, w.depth = w.nodes+added.nodes, w.text+added.text, w.depth+added.depth
	}
	return w
}

// steps returns the number of steps of a path.
func steps(path ast.Value) int {
	switch path := path.(type) {
	case ast.String:
		return strings.Count(string(path), "/")
	case *ast.Array:
		return path.Len()
	}
	return 0
}

// patched checks json.patch.
func patched(args []*ast.Term) verdict {
	v := walked(4, 0, 1)(args)
	operations, ok := args[1].Value.(*ast.Array)
	if v.refused != "" || !ok {
		return v
	}
	if operations.Len() > maxOperations {
		return verdict{refused: fmt.Sprintf("more than %d operations", maxOperations)}
	}
	refused := operations.Until(func(t *ast.Term) bool {
		object, ok := t.Value.(ast.Object)
		return ok && (steps(member(object, "path")) > maxPointer || steps(member(object, "from")) > maxPointer)
	})
	if refused {
		return verdict{refused: fmt.Sprintf("a path of more than %d steps", maxPointer)}
	}
	v.work += operations.Len() * 256
	return v
}

// pointers checks json.filter and json.remove: each step of a path makes an object.
func pointers(args []*ast.Term) verdict {
	v := walked(4, 0, 1)(args)
	if v.refused != "" {
		return v
	}
	deep := false
	each(args[1].Value, func(t *ast.Term) bool {
		deep = steps(t.Value) > maxPointer
		return deep
	})
	if deep {
		return verdict{refused: fmt.Sprintf("a path of more than %d steps", maxPointer)}
	}
	if list := listed(1)(args); list.refused != "" || list.work > v.work {
		return list
	}
	return v
}
