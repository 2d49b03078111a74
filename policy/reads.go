package policy

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// reads is the set of input paths that a policy may read, as a tree. OPA's own dependency analysis is not sound for this:
// it follows aliases, and reports for `u := input.user; not u.profile.level` only input.user.profile.level, although
// the rule also tells an input without user from one with an empty user. Here an alias ends a path: that rule reads all
// of input.user.
type reads struct {
	whole bool // this value is read as it is
	below map[string]*reads
}

// Reads is a part of the input with what a decision may depend on in it. It errs to more: what it leaves out is a promise
// that the decision is the same whatever the input holds there, present or absent. The zero value is all of it.
type Reads struct{ at *reads }

var (
	everything = &reads{whole: true}
	nothing    = &reads{}
)

// Any reports whether anything at, above or below a path from here is read.
func (r Reads) Any(path ...string) bool { return r.at.has(path) }

// Below returns what is read of a member.
func (r Reads) Below(key string) Reads {
	switch {
	case r.at == nil || r.at.whole:
		return Reads{everything}
	case r.at.below[key] == nil:
		return Reads{nothing}
	}
	return Reads{r.at.below[key]}
}

// has reports whether the value at the path, a part of it, or one that holds it is read.
func (r *reads) has(path []string) bool {
	if r == nil {
		return true
	}
	node := r
	for _, key := range path {
		if node.whole {
			return true
		}
		if node = node.below[key]; node == nil {
			return false
		}
	}
	return node.whole || len(node.below) > 0
}

// add notes that the value at the path is read.
func (r *reads) add(path []string) {
	node := r
	for _, key := range path {
		if node.below == nil {
			node.below = map[string]*reads{}
		}
		if node.below[key] == nil {
			node.below[key] = &reads{}
		}
		node = node.below[key]
	}
	node.whole = true
}

// collector walks everything that a query can reach.
type collector struct {
	compiler *ast.Compiler
	reads    *reads
	rules    map[*ast.Rule]bool
	queue    []*ast.Rule
}

// collectReads returns what the query may read of its input. A reference to data may reach every rule that the compiler
// cannot rule out, in packages hidden from data's own document too.
func collectReads(compiler *ast.Compiler, query ast.Body) *reads {
	return reachable(compiler, query).reads
}

// reachable walks the query and every rule that it can reach.
func reachable(compiler *ast.Compiler, query ast.Body) *collector {
	c := &collector{compiler: compiler, reads: &reads{}, rules: map[*ast.Rule]bool{}}
	c.walk(query)
	for len(c.queue) > 0 {
		rule := c.queue[0]
		c.queue = c.queue[1:]
		c.walk(rule.Head)
		c.walk(rule.Head.Reference) // OPA's visitor leaves it out
		c.walk(rule.Body)
		c.enqueue(rule.Else)
	}
	return c
}

func (c *collector) enqueue(rule *ast.Rule) {
	if rule != nil && !c.rules[rule] {
		c.rules[rule] = true
		c.queue = append(c.queue, rule)
	}
}

// walk visits x and everything in it, including the terms within references.
func (c *collector) walk(x any) {
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case ast.Ref:
			c.ref(x)
			return c.inner(x)
		case ast.Var:
			if x == ast.InputRootDocument.Value.(ast.Var) {
				c.reads.add(nil)
			}
		case *ast.With:
			c.with(x)
			return true
		}
		return false
	}).Walk(x)
}

// inner visits the elements of a reference but not its head, which ref has judged, and tells the visitor so.
func (c *collector) inner(ref ast.Ref) bool {
	if len(ref) > 0 {
		if _, isVar := ref[0].Value.(ast.Var); !isVar {
			c.walk(ref[0])
		}
		for _, t := range ref[1:] {
			c.walk(t)
		}
	}
	return true
}

func (c *collector) ref(ref ast.Ref) {
	switch {
	case len(ref) == 0:
	case ref[0].Equal(ast.InputRootDocument):
		c.reads.add(refPath(ref))
	case ref[0].Equal(ast.DefaultRootDocument):
		options := ast.RulesOptions{IncludeHiddenModules: true}
		for _, rule := range c.compiler.GetRulesDynamicWithOpts(ref, options) {
			c.enqueue(rule)
		}
		for _, rule := range c.compiler.GetRules(ref.ConstantPrefix()) {
			c.enqueue(rule)
		}
	}
}

// with notes what a replacement reads: putting a value into a part of the input reads what the part is put into, while
// replacing all of the input reads nothing of it.
func (c *collector) with(w *ast.With) {
	c.walk(w.Value)
	ref, ok := w.Target.Value.(ast.Ref)
	switch {
	case !ok || !ref[0].Equal(ast.InputRootDocument):
		c.walk(w.Target)
	case len(ref) > 1:
		c.reads.add(refPath(ref[:len(ref)-1]))
	}
}
