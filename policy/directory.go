package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
)

// directoryBuiltin is a function by which policies ask Facts.
type directoryBuiltin struct {
	name   string
	args   int
	result types.Type
}

// directoryTable lists them. Those of ds take one object and are called as in the policies of Aserto and Topaz; those of gatehouse take strings,
// "type:id" for an object.
var directoryTable = []directoryBuiltin{
	{"ds.check", 1, types.A}, {"ds.check_permission", 1, types.A}, {"ds.check_relation", 1, types.A}, {"ds.checks", 1, types.A},
	{"ds.graph", 1, types.A}, {"ds.identity", 1, types.A}, {"ds.object", 1, types.A}, {"ds.relation", 1, types.A}, {"ds.relations", 1, types.A},
	{"ds.user", 1, types.A},
	{"gatehouse.check", 3, types.B}, {"gatehouse.what", 3, types.NewArray(nil, types.S)}, {"gatehouse.who", 3, types.NewArray(nil, types.S)},
	{"gatehouse.why", 3, types.A},
}

// isDirectory reports whether a built-in asks Facts.
func isDirectory(name string) bool { return DirectoryArity(name) > 0 }

// DirectoryArity is how many arguments a built-in has that asks the directory, 0 for others.
func DirectoryArity(name string) int {
	for i := range directoryTable {
		if directoryTable[i].name == name {
			return directoryTable[i].args
		}
	}
	return 0
}

func directoryDeclarations() []*ast.Builtin {
	out := make([]*ast.Builtin, len(directoryTable))
	for i, b := range directoryTable {
		args := []types.Type{types.A}
		if b.args > 1 {
			args = slices.Repeat([]types.Type{types.S}, b.args)
		}
		out[i] = &ast.Builtin{Name: b.name, Decl: types.NewFunction(args, b.result), Nondeterministic: true}
	}
	return out
}

// directoryBuiltins implements the declarations.
func directoryBuiltins() map[string]*topdown.Builtin {
	out := make(map[string]*topdown.Builtin, len(directoryTable))
	for _, declaration := range directoryDeclarations() {
		out[declaration.Name] = &topdown.Builtin{Decl: declaration, Func: func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
			e, ok := bctx.Cancel.(*evaluation)
			if !ok {
				return nil
			}
			answer, err := e.ask(declaration, args)
			if err != nil { // undefined would turn to true under not
				return topdown.Halt{Err: &topdown.Error{Code: topdown.BuiltinErr, Message: declaration.Name + ": " + err.Error(), Location: bctx.Location}}
			}
			if answer == nil {
				return nil
			}
			return iter(ast.NewTerm(answer))
		}}
	}
	return out
}

var (
	// errTooMany ends an evaluation that asks without end.
	errTooMany = errors.New("too many questions to the directory: limit exceeded")
	errMissing = errors.New("there is no directory configured, and without an answer the policy could allow")
)

// ask puts one question to the evaluation's facts, and keeps it.
func (e *evaluation) ask(b *ast.Builtin, args []*ast.Term) (Value, error) {
	if e.facts.Directory == nil {
		e.asked.missing = true
		if e.strict {
			return nil, errMissing
		}
		return nil, nil
	}
	if e.asked.count++; e.asked.count > maxQuestions {
		return nil, errTooMany
	}
	e.looked |= lookEvery - 1 // a question may take long: the clock is looked at after each
	question := Question{Builtin: b.Name, Args: make([]Value, b.Decl.Arity())}
	for i := range question.Args {
		question.Args[i] = args[i].Value
	}
	var err error
	if question.Answer, err = e.facts.Directory.Ask(b.Name, question.Args, e.now); err != nil {
		return nil, err
	}
	e.asked.note(question)
	return question.Answer, nil
}

// directoryNotices names each place where a module asks the directory, for where there is none.
func directoryNotices(module *ast.Module) []string {
	var notices []string
	ast.WalkTerms(module, func(t *ast.Term) bool {
		if ref, ok := t.Value.(ast.Ref); ok && t.Location != nil && isBuiltin(ref) && isDirectory(ref.String()) {
			notices = append(notices, fmt.Sprintf("%s:%d: %s is undefined: there is no directory", t.Location.File, t.Location.Row, ref))
		}
		return false
	})
	return notices
}
