package reach

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// AllowsUnanswered reports whether the decision at root could allow because a directory query is undefined: under not, in a comprehension,
// or where another rule or a default takes over. Without a directory, queries of such a decision fail instead of being undefined. If it is
// false, an undefined answer only makes fewer rules hold, and none of those denies. It overestimates.
func (f *Found) AllowsUnanswered(root ast.Ref) bool {
	if !f.Asks {
		return false
	}
	rules := f.compiler.GetRulesExact(root)
	i := &inversion{compiler: f.compiler, reach: map[*ast.Rule]bool{}, seen: map[*ast.Rule]bool{}}
	return len(rules) == 0 || i.among(rules, true)
}

type inversion struct {
	compiler *ast.Compiler
	reach    map[*ast.Rule]bool // whether it can query the directory
	seen     map[*ast.Rule]bool
}

// asks reports whether x can reach a directory query.
func (i *inversion) asks(x any) bool {
	return collect(i.compiler, x).asks
}

func (i *inversion) ruleAsks(rule *ast.Rule) bool {
	asks, known := i.reach[rule]
	if !known {
		asks = i.asks(rule)
		i.reach[rule] = asks
	}
	return asks
}

// among examines the rules of one name; decides says that they are the decision's.
func (i *inversion) among(rules []*ast.Rule, decides bool) bool {
	if !slices.ContainsFunc(rules, i.ruleAsks) {
		return false
	}
	for _, rule := range rules {
		switch {
		case i.seen[rule]:
			continue
		case rule.Default && decides && denies(rule.Head.Value):
			continue
		case rule.Default:
			return true
		case !i.ruleAsks(rule):
			continue
		case rule.Else != nil, rule.Head.RuleKind() != ast.SingleValue, !rule.Head.Ref().IsGround(), !affirms(rule.Head.Value, decides):
			return true
		}
		i.seen[rule] = true
		if slices.ContainsFunc(rule.Body, i.expression) {
			return true
		}
	}
	return false
}

func (i *inversion) expression(e *ast.Expr) bool {
	if !i.asks(e) {
		return false
	}
	if e.Negated || len(e.With) > 0 || e.IsEvery() {
		return true
	}
	found := false
	ast.WalkClosures(e, func(any) bool {
		found = true
		return true
	})
	ast.WalkRefs(e, func(ref ast.Ref) bool {
		if !found && len(ref) > 0 && ref[0].Equal(ast.DefaultRootDocument) {
			rules := i.compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{IncludeHiddenModules: true})
			rules = append(rules, i.compiler.GetRules(ref.ConstantPrefix())...)
			// A reference to a package or a prefix would lack a part, instead of being undefined.
			found = i.among(rules, false) || slices.ContainsFunc(rules, func(r *ast.Rule) bool { return len(ref) < len(r.Ref()) && i.ruleAsks(r) })
		}
		return false
	})
	return found
}

// affirms reports whether a rule's value is true or, for the decision, an object that allows.
func affirms(value *ast.Term, decides bool) bool {
	is := allows(value)
	return is != nil && *is && (decides || value.Equal(ast.BooleanTerm(true)))
}

func denies(value *ast.Term) bool {
	is := allows(value)
	return is != nil && !*is
}

// allows returns the outcome of a constant decision; nil if it is unknown.
func allows(value *ast.Term) *bool {
	if value == nil {
		return nil
	}
	v := value.Value
	if object, ok := v.(ast.Object); ok {
		member := object.Get(ast.StringTerm("allowed"))
		if member == nil {
			return nil
		}
		v = member.Value
	}
	if b, ok := v.(ast.Boolean); ok {
		is := bool(b)
		return &is
	}
	return nil
}
