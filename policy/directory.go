package policy

import (
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
)

// directoryNames are the built-ins by which Aserto's and Topaz's policies ask their directory. They ask
// Facts; without a directory there each is undefined: such a policy loads, and a rule that depends on the directory does not hold.
var directoryNames = []string{"ds.check", "ds.check_permission", "ds.check_relation", "ds.checks", "ds.graph", "ds.identity", "ds.object",
	"ds.relation", "ds.relations", "ds.user"}

func directoryDeclarations() []*ast.Builtin {
	out := make([]*ast.Builtin, len(directoryNames))
	for i, name := range directoryNames {
		out[i] = &ast.Builtin{Name: name, Decl: types.NewFunction(types.Args(types.A), types.A), Nondeterministic: true}
	}
	return out
}

// directoryBuiltins implements the declarations.
func directoryBuiltins() map[string]*topdown.Builtin {
	out := make(map[string]*topdown.Builtin, len(directoryNames))
	for _, declaration := range directoryDeclarations() {
		out[declaration.Name] = &topdown.Builtin{Decl: declaration, Func: func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
			facts := factsOf(bctx)
			if facts.Directory == nil {
				return nil
			}
			answer, err := facts.Directory(declaration.Name, args[0].Value)
			if answer == nil || err != nil {
				return err
			}
			return iter(ast.NewTerm(answer))
		}}
	}
	return out
}

// watched are the directory's built-ins, with the first that is called noted.
func watched(directory map[string]*topdown.Builtin, first *string) map[string]*topdown.Builtin {
	out := make(map[string]*topdown.Builtin, len(directory))
	for name, b := range directory {
		out[name] = &topdown.Builtin{Decl: b.Decl, Func: func(bctx topdown.BuiltinContext, args []*ast.Term, iter func(*ast.Term) error) error {
			if *first == "" {
				*first = name
			}
			return b.Func(bctx, args, iter)
		}}
	}
	return out
}

// directoryNotices names each place where a module asks the directory.
func directoryNotices(module *ast.Module) []string {
	var notices []string
	ast.WalkTerms(module, func(t *ast.Term) bool {
		ref, ok := t.Value.(ast.Ref)
		if ok && len(ref) == 2 && ref[0].Value.Compare(ast.Var("ds")) == 0 && t.Location != nil && strings.HasPrefix(ref.String(), "ds.") {
			notices = append(notices, fmt.Sprintf("%s:%d: %s is undefined: there is no directory", t.Location.File, t.Location.Row, ref))
		}
		return false
	})
	return notices
}
