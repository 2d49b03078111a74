// Package reach finds what a compiled query can reach: which parts of the input it reads, which built-ins it calls, whether it queries the
// directory, which rules it may evaluate. It may overestimate, never underestimate: the memo, partial input and replays depend on that. It
// is a part of the policy and imports policy/builtins and policy/rego.
package reach

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/builtins"
	"gatehouse/policy/rego"
)

// reads is the set of input paths that a policy may read, as a tree. OPA's own dependency analysis is not sound for this: it follows
// aliases, and reports for `u := input.user; not u.profile.level` only input.user.profile.level, although the rule also distinguishes an
// input without user from one with an empty user. Here an alias ends a path: that rule reads all of input.user.
type reads struct {
	whole bool // the value itself is read, with all of below
	below []child
	names map[string]*reads // index of below, if that is long
}

// child is what is read of one member.
type child struct {
	key string
	at  *reads
}

// few is the number of members up to which a linear search is used.
const few = 8

// member returns what is read of a member, nil if nothing is.
func (r *reads) member(key string) *reads {
	if r.names != nil {
		return r.names[key]
	}
	for i := range r.below {
		if r.below[i].key == key {
			return r.below[i].at
		}
	}
	return nil
}

// Reads is what a decision may read of the input, or of a part of it. It overestimates: what it leaves out cannot change the decision,
// whether present or absent. The zero value reads everything.
type Reads struct{ at *reads }

var (
	everything = &reads{whole: true}
	nothing    = &reads{}
)

// Any reports whether anything at, above or below this path is read.
func (r Reads) Any(path ...string) bool { return r.at.has(path) }

// AnyFunc is Any with same deciding whether member names are equal.
func (r Reads) AnyFunc(same func(a, b string) bool, path ...string) bool {
	if r.Whole() {
		return true
	}
	if len(path) == 0 {
		return len(r.at.below) > 0
	}
	return slices.ContainsFunc(r.at.below, func(c child) bool {
		return same(c.key, path[0]) && Reads{c.at}.AnyFunc(same, path[1:]...)
	})
}

// Below returns what is read of a member.
func (r Reads) Below(key string) Reads {
	switch {
	case r.at == nil || r.at.whole:
		return Reads{everything}
	}
	if at := r.at.member(key); at != nil {
		return Reads{at}
	}
	return Reads{nothing}
}

// Has is Any for one member.
func (r Reads) Has(key string) bool {
	return r.at == nil || r.at.whole || r.at.member(key) != nil
}

// Member is Has and Below in one lookup.
func (r Reads) Member(key string) (Reads, bool) {
	if r.at == nil || r.at.whole {
		return Reads{everything}, true
	}
	at := r.at.member(key)
	return Reads{at}, at != nil
}

// Whole reports whether the value itself is read, rather than only some of its members.
func (r Reads) Whole() bool { return r.at == nil || r.at.whole }

// has reports whether the value at the path, a part of it, or an ancestor is read.
func (r *reads) has(path []string) bool {
	if r == nil {
		return true
	}
	node := r
	for _, key := range path {
		if node.whole {
			return true
		}
		if node = node.member(key); node == nil {
			return false
		}
	}
	return node.whole || len(node.below) > 0
}

// add records that the value at the path is read.
func (r *reads) add(path []string) {
	node := r
	for _, key := range path {
		next := node.member(key)
		if next == nil {
			next = &reads{}
			node.grow(key, next)
		}
		node = next
	}
	node.whole = true
}

func (r *reads) grow(key string, at *reads) {
	r.below = append(r.below, child{key, at})
	switch {
	case r.names != nil:
		r.names[key] = at
	case len(r.below) > few:
		r.names = make(map[string]*reads, len(r.below))
		for _, c := range r.below {
			r.names[c.key] = c.at
		}
	}
}

// collector walks everything that a query can reach.
type collector struct {
	compiler *ast.Compiler
	reads    *reads
	inputs   []Use         // each reference to the input, with its location
	impure   []Use         // each use of a built-in that is not pure
	asks     bool          // a directory built-in is used
	near     *ast.Location // current location, for nodes without one
	rules    map[*ast.Rule]bool
	queue    []*ast.Rule
}

// Found is everything that a query can reach.
type Found struct {
	Reads    Reads
	Impure   []Use // uses of built-ins whose result depends on more than their arguments and the directory
	Changing []Use // reads of input that differs in each request
	Asks     bool  // the directory is queried
	Rules    map[*ast.Rule]bool
	compiler *ast.Compiler
}

// From walks the query and every rule that it can reach. A reference to data may reach every rule that the compiler cannot rule out,
// including rules of packages that are hidden from data's own document.
func From(compiler *ast.Compiler, query ast.Body) *Found {
	c := collect(compiler, query)
	return &Found{Reads: Reads{c.reads}, Impure: c.impure, Changing: c.changingReads(), Asks: c.asks, Rules: c.rules, compiler: compiler}
}

func collect(compiler *ast.Compiler, from any) *collector {
	c := &collector{compiler: compiler, reads: &reads{}, rules: map[*ast.Rule]bool{}}
	c.walk(from)
	c.drain()
	return c
}

// Builtins returns the names of the built-ins that the rules can call, including those that replace another function.
func (f *Found) Builtins() map[string]bool {
	names := map[string]bool{}
	note := func(ref ast.Ref) bool {
		if name := ref.String(); builtins.Is(ref) {
			names[name] = true
		}
		return false
	}
	for rule := range f.Rules {
		ast.WalkRefs(rule.Body, note)
		ast.WalkRefs(rule.Head, note)
	}
	return names
}

// drain walks the queued rules.
func (c *collector) drain() {
	for len(c.queue) > 0 {
		rule := c.queue[0]
		c.queue = c.queue[1:]
		c.near = rule.Location
		c.walk(rule.Head)
		c.walk(rule.Head.Reference) // OPA's visitor skips it
		c.walk(rule.Body)
		c.enqueue(rule.Else)
	}
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
				c.input(nil, nil)
			}
		case *ast.Expr:
			if x.IsCall() {
				c.call(x.Operator())
			}
		case ast.Call:
			if ref, ok := x[0].Value.(ast.Ref); ok {
				c.call(ref)
			}
		case *ast.With:
			c.with(x)
			return true
		}
		return false
	}).Walk(x)
}

// inner visits the elements of a reference but not its head, which ref has handled; the result stops the caller's visitor.
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
		c.input(rego.Path(ref), ref[0].Location)
	case ref[0].Equal(ast.DefaultRootDocument):
		options := ast.RulesOptions{IncludeHiddenModules: true}
		for _, rule := range c.compiler.GetRulesDynamicWithOpts(ref, options) {
			c.enqueue(rule)
		}
		for _, rule := range c.compiler.GetRules(ref.ConstantPrefix()) {
			c.enqueue(rule)
		}
	case builtins.Is(ref): // also as the target or the value of a with
		c.call(ref)
	}
}

func (c *collector) input(path []string, at *ast.Location) {
	c.reads.add(path)
	c.inputs = append(c.inputs, c.use(strings.Join(append([]string{"input"}, path...), "."), at))
}

// with records what a replacement reads: replacing a part of the input reads the value around it, replacing all of the input reads nothing.
func (c *collector) with(w *ast.With) {
	c.walk(w.Value)
	ref, ok := w.Target.Value.(ast.Ref)
	switch {
	case !ok || !ref[0].Equal(ast.InputRootDocument):
		c.walk(w.Target)
	case len(ref) > 1:
		c.input(rego.Path(ref[:len(ref)-1]), ref[0].Location)
	}
}
