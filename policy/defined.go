package policy

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Defined returns where the policy has rules that are one value each: their paths below data, terms joined by PathSeparator. A
// package is not among them, although data has a value there as well.
func (s *Snapshot) Defined() map[string]bool {
	found := map[string]bool{}
	for _, module := range s.compiler.Modules {
		for _, rule := range module.Rules {
			if ref := rule.Ref(); rule.Head.DocKind() == ast.CompleteDoc && ref.IsGround() {
				found[strings.Join(refPath(ref), PathSeparator)] = true
			}
		}
	}
	return found
}

// PathSeparator joins the terms of a path where one text is needed. No term of a route's rule has it.
const PathSeparator = "\x00"
