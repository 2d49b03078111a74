package policy

import (
	"context"
	"errors"

	"github.com/open-policy-agent/opa/v1/ast"
	frontend "github.com/open-policy-agent/opa/v1/rego"

	"gatehouse/policy/builtins"
	"gatehouse/policy/bundle"
	"gatehouse/policy/regoerror"
)

// Query evaluates a query of Rego against the policy, for tools: its results, each with its expressions' values and variables, as JSON has them. The
// network is not reached, and what is asked of the directory is undefined.
func (s *Snapshot) Query(ctx context.Context, query string, input any) (frontend.ResultSet, error) {
	options := []func(*frontend.Rego){frontend.Query(query), frontend.Compiler(s.compiler), frontend.Store(s.store), frontend.Transaction(s.txn),
		frontend.Capabilities(withoutNetwork(s.compiler.Capabilities())), frontend.StrictBuiltinErrors(true)}
	if input != nil {
		options = append(options, frontend.Input(input))
	}
	for _, d := range builtins.DirectoryDeclarations() {
		options = append(options, frontend.FunctionDyn(&frontend.Function{Name: d.Name, Decl: d.Decl},
			func(frontend.BuiltinContext, []*ast.Term) (*ast.Term, error) { return nil, nil }))
	}
	found, err := frontend.New(options...).Eval(ctx)
	var many ast.Errors
	if errors.As(err, &many) && len(many) > 0 {
		e := regoerror.Parsing(many[len(many)-1], query)
		return nil, bundle.Problems{{Stage: "compiling", File: "query", Line: e.Line, Column: e.Column, Source: e.Source, Text: e.Text}}
	}
	return found, err
}

func withoutNetwork(c *ast.Capabilities) *ast.Capabilities {
	out := *c
	out.AllowNet = []string{}
	return &out
}
