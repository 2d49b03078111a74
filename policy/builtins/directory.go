package builtins

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"
)

// directoryBuiltin is a function that queries the directory.
type directoryBuiltin struct {
	name   string
	args   int
	result types.Type
}

// directoryTable lists them. Those of ds take one object, as in policies for Aserto and Topaz; those of gatehouse take strings, with
// "type:id" for an object.
var directoryTable = []directoryBuiltin{
	{"ds.check", 1, types.A}, {"ds.check_permission", 1, types.A}, {"ds.check_relation", 1, types.A}, {"ds.checks", 1, types.A},
	{"ds.graph", 1, types.A}, {"ds.identity", 1, types.A}, {"ds.object", 1, types.A}, {"ds.relation", 1, types.A}, {"ds.relations", 1, types.A},
	{"ds.user", 1, types.A},
	{"gatehouse.check", 3, types.B}, {"gatehouse.what", 3, types.NewArray(nil, types.S)}, {"gatehouse.who", 3, types.NewArray(nil, types.S)},
	{"gatehouse.why", 3, types.A},
}

// AsksDirectory reports whether a built-in queries the directory.
func AsksDirectory(name string) bool { return DirectoryArity(name) > 0 }

// DirectoryArity returns the number of arguments of a built-in that queries the directory, 0 for others.
func DirectoryArity(name string) int {
	for i := range directoryTable {
		if directoryTable[i].name == name {
			return directoryTable[i].args
		}
	}
	return 0
}

// DirectoryDeclarations declares the built-ins that query the directory.
func DirectoryDeclarations() []*ast.Builtin {
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
