package explain

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"gatehouse/policy/rego"
)

// kinds are the values of Near.Kind, in the order in which they are tried.
var kinds = []string{"login", "role", "group", "scope", "relation", "input", "method", "subject"}

// personal are the kinds that need an authenticated caller.
var personal = []string{"login", "role", "group", "scope", "subject"}

// fixed are the parts of the input that no small change affects: another path is another request.
var fixed = [][]string{{"parsed_path"}, {"route"}, {"resource"}, {"policy"}, {"version"}, {"app"}, {"truncated_body"}, {"identity", "type"},
	{"identity", "issuer"}, {"attributes", "request", "http", "path"}, {"attributes", "request", "http", "headers", ":path"},
	{"attributes", "request", "time"}, {"attributes", "destination"}}

// candidate is one change to try.
type candidate struct {
	kind  string
	at    []string
	each  bool // add the value to the list at the path
	value rego.Value
}

// candidates collects the changes that the failed rules suggest.
type candidates struct {
	x     *explainer
	list  []candidate
	lists map[string][][]string // the lists of roles, groups and scopes that the policy reads
}

// nearest finds single changes that would allow. Each one returned was verified with the whole policy.
func (x *explainer) nearest() []Near {
	c := &candidates{x: x, lists: map[string][][]string{}}
	for _, failed := range x.failed {
		for i := range failed.frame.body {
			c.expression(failed.frame, failed.env, failed.frame.body[i])
		}
	}
	slices.SortStableFunc(c.list, func(a, b candidate) int { return slices.Index(kinds, a.kind) - slices.Index(kinds, b.kind) })
	ctx, cancel := context.WithTimeout(x.ctx, nearestTime)
	defer cancel()
	outer := x.ctx
	x.ctx = ctx
	defer func() { x.ctx = outer }()

	anonymous := x.anonymous()
	if anonymous {
		c.list = slices.Insert(c.list, 0, candidate{kind: "login"})
	}
	return c.try(anonymous)
}

// try evaluates the policy with each change.
func (c *candidates) try(anonymous bool) (found []Near) {
	tried, told := 0, 0
	for i, one := range c.list {
		if slices.ContainsFunc(c.list[:i], func(o candidate) bool { return o.same(&one) }) {
			continue
		}
		if tried++; tried > maxCandidates || told == maxNearest || c.x.ctx.Err() != nil {
			c.x.cut = true
			break
		}
		input, changed := c.apply(&one, anonymous)
		if !changed {
			continue
		}
		if d, err := c.x.inspect.Decide(c.x.ctx, input); err != nil || !d.Allowed {
			continue
		}
		found = c.merge(found, &one)
		found[len(found)-1].Login = anonymous && one.personal()
		told++
		if one.kind == "login" {
			break // every other change for an anonymous caller includes a login
		}
	}
	return found
}

func (c *candidate) same(o *candidate) bool {
	if c.kind != o.kind || c.kind != "login" && c.value.Compare(o.value) != 0 {
		return false
	}
	return c.kind != "input" && c.kind != "relation" || slices.Equal(c.at, o.at) && c.each == o.each
}

// personal reports whether the change needs an authenticated caller: nobody has roles without one, and only who is known has a user.
func (c *candidate) personal() bool {
	return slices.Contains(personal, c.kind) || c.kind == "input" && c.at[0] == "user"
}

// merge merges a change into those found of the same kind.
func (c *candidates) merge(found []Near, one *candidate) []Near {
	near := Near{Kind: one.kind}
	if one.kind == "input" {
		near.Member = one.each
		ref := ast.Ref{ast.InputRootDocument}
		for _, segment := range one.at {
			ref = append(ref, ast.StringTerm(segment))
		}
		near.Path = c.x.refText(ref)
	}
	value := ""
	if one.value != nil {
		value = c.x.show(one.value)
		if s, isString := one.value.(ast.String); isString && one.kind != "input" && plainName(strings.NewReplacer("-", "_", ":", "_", ".", "_").Replace(string(s))) {
			value = c.x.hide.Replace(string(s))
		}
		if one.kind == "relation" {
			value = c.relation(one)
		}
	}
	for i := range found {
		if found[i].Kind == near.Kind && found[i].Path == near.Path && found[i].Member == near.Member {
			found[i].Values = append(found[i].Values, value)
			return found
		}
	}
	if value != "" {
		near.Values = []string{value}
	}
	return append(found, near)
}

// relation is what makes the caller's user a member of a role or group of the directory.
func (c *candidates) relation(one *candidate) string {
	name, _ := rego.Text(one.value)
	typ := strings.TrimSuffix(one.at[len(one.at)-1], "s")
	return c.x.line(typ + ":" + name + "#member@user:" + c.x.user())
}

// user is the id of the caller's user in the directory, "" where there is none.
func (x *explainer) user() string {
	doc, _ := rego.JSON(x.input)
	input, _ := doc.(map[string]any)
	user, _ := input["user"].(map[string]any)
	id, _ := user["id"].(string)
	return id
}

// expression derives changes from one expression of a failed rule.
func (c *candidates) expression(f *frame, env env, e *ast.Expr) {
	if len(e.With) > 0 {
		return
	}
	ast.WalkRefs(e, func(ref ast.Ref) bool { c.keys(f, env, ref); return false })
	if e.Negated {
		return
	}
	switch terms := e.Terms.(type) {
	case *ast.Term:
		c.offer(f, terms, []rego.Value{ast.Boolean(true)})
	case []*ast.Term:
		if operands := e.Operands(); len(operands) == 2 {
			c.comparison(f, env, e.Operator().String(), operands[0], operands[1])
		}
	}
}

// comparison offers each side of a comparison to the other.
func (c *candidates) comparison(f *frame, env env, name string, a, b *ast.Term) {
	valuesOf := func(t *ast.Term) []rego.Value {
		if unbound(t, env) {
			return nil
		}
		values, _ := c.x.values(t, env)
		return values
	}
	switch name {
	case "eq", "equal", "lte", "gte":
		c.offer(f, a, valuesOf(b))
		c.offer(f, b, valuesOf(a))
	case "lt":
		c.offer(f, a, nextTo(valuesOf(b), -1))
		c.offer(f, b, nextTo(valuesOf(a), 1))
	case "gt":
		c.offer(f, a, nextTo(valuesOf(b), 1))
		c.offer(f, b, nextTo(valuesOf(a), -1))
	case "internal.member_2":
		for _, collection := range valuesOf(b) {
			var members []rego.Value
			eachMember(collection, func(_, v *ast.Term) bool { members = append(members, v.Value); return len(members) < maxCandidates })
			c.offer(f, a, members)
		}
		if at, each, ok := c.x.origin(f, b, 0); ok && !each {
			c.add(at, true, valuesOf(a))
		}
	}
}

// nextTo returns the neighbours of whole numbers.
func nextTo(values []rego.Value, step int) []rego.Value {
	var out []rego.Value
	for _, v := range values {
		if n, isNumber := v.(ast.Number); isNumber {
			if i, ok := n.Int(); ok {
				out = append(out, rego.Int(int64(i+step)))
			}
		}
	}
	return out
}

// keys offers the keys of data where part of the input selects one of them: data.roles[role].
func (c *candidates) keys(f *frame, env env, ref ast.Ref) {
	if len(ref) < 3 || !ref[0].Equal(ast.DefaultRootDocument) {
		return
	}
	for i := 2; i < len(ref); i++ {
		if _, isString := ref[i].Value.(ast.String); isString {
			continue
		}
		at, each, ok := c.x.origin(f, ref[i], 0)
		if !ok {
			continue
		}
		prefix := c.x.ground(ref[:i], env)
		if !prefix.IsGround() {
			continue
		}
		values, _ := c.x.values(ast.NewTerm(prefix), env)
		for _, v := range values {
			var names []rego.Value
			if _, isArray := v.(*ast.Array); isArray {
				continue
			}
			eachMember(v, func(k, _ *ast.Term) bool { names = append(names, k.Value); return len(names) < maxCandidates })
			c.add(at, each, names)
		}
	}
}

func (c *candidates) offer(f *frame, t *ast.Term, values []rego.Value) {
	if len(values) == 0 || isValue(t.Value) {
		return
	}
	if at, each, ok := c.x.origin(f, t, 0); ok {
		c.add(at, each, values)
	}
}

// add records values for a place in the input.
func (c *candidates) add(at []string, each bool, values []rego.Value) {
	if len(at) == 0 || slices.ContainsFunc(fixed, func(p []string) bool { return len(at) >= len(p) && slices.Equal(p, at[:len(p)]) }) {
		return
	}
	kind := kindOfPlace(at, each)
	if kind == "relation" && c.x.user() == "" {
		return // nobody who could have it
	}
	if c.x.secret(at) && !slices.Contains([]string{"role", "group", "scope", "relation"}, kind) {
		return // the value that would match is secret
	}
	if each && !slices.ContainsFunc(c.lists[kind], func(p []string) bool { return slices.Equal(p, at) }) {
		c.lists[kind] = append(c.lists[kind], at)
	}
	for _, v := range values {
		switch v.(type) {
		case ast.String, ast.Number, ast.Boolean:
			c.list = append(c.list, candidate{kind: kind, at: at, each: each, value: v})
		}
	}
}

func kindOfPlace(at []string, each bool) string {
	last := at[len(at)-1]
	switch path := strings.Join(at, "."); {
	case each && (path == "user.roles" || path == "user.groups"):
		return "relation"
	case each && (last == "roles" || last == "groups" || last == "scopes"):
		return strings.TrimSuffix(last, "s")
	case path == "identity.authenticated":
		return "login"
	case path == "identity.subject", path == "identity.identity":
		return "subject"
	case path == "attributes.request.http.method", path == "attributes.request.http.headers.:method":
		return "method"
	}
	return "input"
}

func (x *explainer) anonymous() bool {
	doc, _ := rego.JSON(x.input)
	input, _ := doc.(map[string]any)
	who, _ := input["identity"].(map[string]any)
	authenticated, known := who["authenticated"].(bool)
	return known && !authenticated
}

// apply returns the input with one change. changed is false if it has that value already.
func (c *candidates) apply(one *candidate, anonymous bool) (input rego.Value, changed bool) {
	doc, err := rego.JSON(c.x.input) // a private copy
	root, isObject := doc.(map[string]any)
	if err != nil || !isObject {
		return nil, false
	}
	value, _ := rego.JSON(one.value)
	switch one.kind {
	case "role", "group", "scope":
		for _, at := range c.lists[one.kind] {
			changed = setAt(root, at, true, value) || changed
		}
	case "method":
		changed = setAt(root, []string{"attributes", "request", "http", "method"}, false, value)
		for _, at := range [][]string{{"attributes", "request", "http", "headers", ":method"}, {"route", "method"}} {
			if hasAt(root, at) {
				setAt(root, at, false, value)
			}
		}
	case "subject":
		changed = setAt(root, []string{"identity", "subject"}, false, value)
		setAt(root, []string{"identity", "identity"}, false, value)
	case "login":
		changed = anonymous
	default:
		changed = setAt(root, one.at, one.each, value)
	}
	if anonymous && one.personal() {
		setAt(root, []string{"identity", "authenticated"}, false, true)
		setAt(root, []string{"identity", "type"}, false, "IDENTITY_TYPE_JWT")
		if !hasAt(root, []string{"identity", "subject"}) {
			setAt(root, []string{"identity", "subject"}, false, "somebody")
			setAt(root, []string{"identity", "identity"}, false, "somebody")
		}
	}
	input, err = rego.FromJSON(root)
	return input, err == nil && changed
}

func hasAt(root map[string]any, at []string) bool {
	var here any = root
	for _, key := range at {
		object, ok := here.(map[string]any)
		if !ok {
			return false
		}
		if here, ok = object[key]; !ok {
			return false
		}
	}
	return true
}

// setAt sets a value, or adds it to a list, and reports whether that changed anything.
func setAt(root map[string]any, at []string, each bool, value any) bool {
	object := root
	for _, key := range at[:len(at)-1] {
		inner, ok := object[key].(map[string]any)
		if !ok {
			inner = map[string]any{}
			object[key] = inner
		}
		object = inner
	}
	last := at[len(at)-1]
	if !each {
		if equalJSON(object[last], value) {
			return false
		}
		object[last] = value
		return true
	}
	list, _ := object[last].([]any)
	if slices.ContainsFunc(list, func(v any) bool { return equalJSON(v, value) }) {
		return false
	}
	object[last] = append(slices.Clone(list), value)
	return true
}

func equalJSON(a, b any) bool {
	switch a := a.(type) {
	case string:
		s, ok := b.(string)
		return ok && a == s
	case bool:
		s, ok := b.(bool)
		return ok && a == s
	case json.Number:
		s, ok := b.(json.Number)
		if !ok {
			return false
		}
		x, errA := strconv.ParseFloat(string(a), 64)
		y, errB := strconv.ParseFloat(string(s), 64)
		return errA == nil && errB == nil && x == y
	}
	return false
}
