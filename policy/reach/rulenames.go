package reach

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/nearest"
	"gatehouse/policy/rego"
)

// Asked names a rule that requests are decided by.
type Asked struct {
	Package []string // below data
	Name    string
	Below   bool // in every package below Package instead of in it
}

func (a *Asked) in(pkg []string) bool {
	if a.Below {
		return len(pkg) > len(a.Package) && slices.Equal(pkg[:len(a.Package)], a.Package)
	}
	return slices.Equal(pkg, a.Package)
}

// RuleNotices reports rules whose name is almost that of a rule that requests are decided by, in a package that may hold one, where no other
// rule and no test refers to them: such a rule compiles, and decides nothing. Functions are skipped. The modules must be compiled, so that
// references have their full names.
func RuleNotices(modules map[string]*ast.Module, asked []Asked, notice func(string)) {
	var refs []ast.Ref // of all modules; collected only where a rule is suspicious
	said := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		module := modules[name]
		pkg := rego.Path(module.Package.Path)
		for _, rule := range module.Rules {
			path := rego.Path(rule.Ref().GroundPrefix())
			if len(path) != len(pkg)+1 || len(rule.Head.Args) > 0 || rule.Location == nil || strings.HasSuffix(rule.Location.File, "_test.rego") {
				continue
			}
			own, meant := path[len(pkg)], misspelt(path, asked)
			key := name + "\x00" + own
			if meant == "" || said[key] {
				continue
			}
			said[key] = true
			if refs == nil {
				refs = references(modules)
			}
			if full := rule.Ref().GroundPrefix(); !slices.ContainsFunc(refs, func(r ast.Ref) bool { return r.HasPrefix(full) || full.HasPrefix(r) }) {
				notice(fmt.Sprintf("%s:%d: rule %q is used by nobody; did you mean %q?", rule.Location.File, rule.Location.Row, own, meant))
			}
		}
	}
}

// misspelt returns the name that a rule's was probably meant to be; "" where it is asked for itself, or resembles none.
func misspelt(path []string, asked []Asked) (meant string) {
	pkg, own := path[:len(path)-1], path[len(path)-1]
	if len(own) > maxName {
		return ""
	}
	for i := range asked {
		if a := &asked[i]; a.in(pkg) {
			if own == a.Name {
				return ""
			}
			if near := nearest.Word(own, []string{a.Name}, max(1, len(own)/3, len(a.Name)/3)+1); near != "" && meant == "" { // at most a third of the letters may differ
				meant = near
			}
		}
	}
	return meant
}

// references returns the constant part of every reference to rules and data.
func references(modules map[string]*ast.Module) []ast.Ref {
	refs := []ast.Ref{}
	for _, m := range modules {
		for _, rule := range m.Rules {
			ast.WalkRefs(rule, func(ref ast.Ref) bool {
				if ref.HasPrefix(ast.DefaultRootRef) && !ref.Equal(rule.Head.Reference) {
					refs = append(refs, ref.ConstantPrefix())
				}
				return false
			})
		}
	}
	return refs
}
