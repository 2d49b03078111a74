package policy

import (
	"slices"
	"strings"

	"gatehouse/policy/rego"
)

// Module is one file of a policy.
type Module struct {
	ID   string   // the bundle's name and the path in it
	Path []string // of its package, below data
}

// Modules returns the policy's modules, sorted by ID.
func (s *Snapshot) Modules() []Module {
	out := make([]Module, 0, len(s.compiler.Modules))
	for id, module := range s.compiler.Modules {
		out = append(out, Module{ID: id, Path: rego.Path(module.Package.Path)})
	}
	slices.SortFunc(out, func(a, b Module) int { return strings.Compare(a.ID, b.ID) })
	return out
}
