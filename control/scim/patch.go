package scim

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Bounds of a PATCH.
const (
	maxOperations = 1000
	maxSelecting  = 128 << 10 // bytes of all paths with a filter
	maxScans      = 5         // operations that look at all members of a group
)

// operation is one of a PATCH, parsed.
type operation struct {
	op    string // add, remove, replace
	at    location
	where *node // nil: all values
	value any
	lax   bool // of a value without a path: what may not be written is passed over
}

// parsePatch reads a PatchOp.
func (k *kind) parsePatch(body []byte) ([]operation, error) {
	in, err := decode(body)
	if err != nil {
		return nil, err
	}
	var list []any
	hasSchema := false
	for name, v := range in {
		switch strings.ToLower(name) {
		case "operations":
			list, _ = v.([]any)
		case "schemas":
			all, _ := v.([]any)
			hasSchema = slices.Contains(all, any(urnPatch))
		}
	}
	switch {
	case !hasSchema:
		return nil, invalid("invalidSyntax", "schemas lacks %s", urnPatch)
	case len(list) == 0:
		return nil, invalid("invalidSyntax", "there are no Operations")
	case len(list) > maxOperations:
		return nil, fail(http.StatusRequestEntityTooLarge, "tooMany", "there are %d operations: %d are possible", len(list), maxOperations)
	}
	var out []operation
	selecting := 0
	for i, one := range list {
		object, ok := one.(map[string]any)
		if !ok {
			return nil, invalid("invalidSyntax", "operation %d is no object", i+1)
		}
		for _, v := range object {
			if path, is := v.(string); is && strings.Contains(path, "[") {
				selecting += len(path)
			}
		}
		if selecting > maxSelecting {
			return nil, fail(http.StatusRequestEntityTooLarge, "tooMany", "the paths with filters have more than %d bytes", maxSelecting)
		}
		if out, err = k.parseOperation(out, object); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (k *kind) parseOperation(out []operation, in map[string]any) ([]operation, error) {
	o := operation{}
	path, hasPath := "", false
	for name, v := range in {
		switch strings.ToLower(name) {
		case "op":
			s, _ := v.(string)
			o.op = strings.ToLower(s)
		case "path":
			if path, hasPath = v.(string); !hasPath && v != nil {
				return nil, invalid("invalidPath", "a path is a string")
			}
		case "value":
			o.value = v
		}
	}
	if o.op != "add" && o.op != "remove" && o.op != "replace" {
		return nil, invalid("invalidSyntax", "%q is neither add, remove nor replace", o.op)
	}
	if hasPath && path != "" {
		return k.parsePath(out, o, path)
	}
	if o.op == "remove" {
		return nil, invalid("noTarget", "remove needs a path")
	}
	object, ok := o.value.(map[string]any)
	if !ok {
		return nil, invalid("invalidValue", "without a path the value is an object")
	}
	o.lax = true
	lenient := func(name string, v any) error { // what is no path is ignored, but for what may deactivate
		o.value = v
		more, err := k.parsePath(out, o, name)
		if err == nil {
			out = more
		} else if deactivates(name) {
			return err
		}
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		v := object[name]
		of, isObject := v.(map[string]any)
		if strings.EqualFold(strings.TrimSpace(name), k.core.urn) && isObject {
			for _, name := range slices.Sorted(maps.Keys(of)) {
				if err := lenient(name, of[name]); err != nil {
					return nil, err
				}
			}
			continue
		}
		if s := k.extension(name); s != nil && isObject {
			for _, name := range slices.Sorted(maps.Keys(of)) {
				if find(s.attributes, name) == nil {
					continue
				}
				o.value = of[name]
				var err error
				if out, err = k.parsePath(out, o, s.urn+":"+name); err != nil {
					return nil, err
				}
			}
			continue
		}
		if err := lenient(name, v); err != nil { // also name.givenName and emails[...].value, as Entra and Okta send them
			return nil, err
		}
	}
	return out, nil
}

// deactivates reports whether a name that is no path might be meant to say that a user is not active: it is refused, where others are ignored.
func deactivates(name string) bool { return strings.Contains(strings.ToLower(name), "active") }

func (k *kind) parsePath(out []operation, o operation, path string) ([]operation, error) {
	if len(path) > maxFilter {
		return nil, invalid("invalidPath", "the path has %d bytes: %d are possible", len(path), maxFilter)
	}
	var err error
	open, end := strings.IndexByte(path, '['), strings.LastIndexByte(path, ']')
	if open < 0 {
		if o.at, err = k.locate(path); err != nil {
			return nil, err
		}
		return append(out, o), nil
	}
	if end < open {
		return nil, invalid("invalidPath", "the path %q has no ]", path)
	}
	if o.at, err = k.locate(path[:open]); err != nil {
		return nil, err
	}
	a := o.at.attribute
	if a == nil || o.at.sub != nil || !a.multi || a.sub == nil {
		return nil, invalid("invalidPath", "%q has no values to select", path[:open])
	}
	if o.where, err = k.parseFilter(path[open+1:end], a); err != nil {
		return nil, err
	}
	if rest := path[end+1:]; rest != "" {
		name, ok := strings.CutPrefix(rest, ".")
		if o.at.sub = a.find(name); !ok || o.at.sub == nil {
			return nil, invalid("invalidPath", "%s has no sub-attribute %q", a.name, rest)
		}
	}
	return append(out, o), nil
}

// apply executes an operation on a resource.
func (o *operation) apply(doc map[string]any) error {
	if o.mayNot() {
		if o.lax {
			return nil
		}
		return invalid("mutability", "%s is read-only", o.at.attribute.name)
	}
	if o.value == nil && o.op != "remove" { // null is: unassigned
		if o.at.attribute == nil || o.where != nil && o.at.sub == nil {
			return invalid("invalidValue", "there is no value")
		}
		return (&operation{op: "remove", at: o.at, where: o.where}).apply(doc)
	}
	if o.at.attribute == nil {
		return o.whole(doc)
	}
	in := doc
	if o.at.extension != "" {
		of, ok := doc[o.at.extension].(map[string]any)
		if !ok {
			of = map[string]any{}
		}
		in = of
		defer func() {
			if delete(doc, o.at.extension); len(of) > 0 {
				doc[o.at.extension] = of
			}
		}()
	}
	a := o.at.attribute
	switch {
	case a.multi && (o.where != nil || o.at.sub != nil):
		return o.some(in)
	case o.at.sub != nil:
		object, ok := in[a.name].(map[string]any)
		if !ok {
			object = map[string]any{}
		}
		if err := o.set(object, o.at.sub); err != nil {
			return err
		}
		if in[a.name] = object; len(object) == 0 {
			delete(in, a.name)
		}
		return nil
	}
	return o.set(in, a)
}

func (o *operation) mayNot() bool {
	return o.at.attribute != nil && (o.at.attribute.readOnly || o.at.sub != nil && o.at.sub.readOnly)
}

// whole is an operation on an extension.
func (o *operation) whole(doc map[string]any) error {
	if o.op == "remove" {
		delete(doc, o.at.extension)
		return nil
	}
	object, ok := o.value.(map[string]any)
	if !ok {
		return invalid("invalidValue", "%s is no object", o.at.extension)
	}
	of, err := values(enterpriseSchema.attributes, object)
	if err != nil {
		return err
	}
	if have, ok := doc[o.at.extension].(map[string]any); ok && o.op == "add" {
		for name, v := range of {
			have[name] = v
		}
		of = have
	}
	doc[o.at.extension] = of
	return nil
}

// set is an operation on an attribute as a whole.
func (o *operation) set(in map[string]any, a *attribute) error {
	if o.op == "remove" {
		if given, ok := o.value.([]any); ok && a.multi { // those values alone, as Entra sends it
			have, _ := in[a.name].([]any)
			gone, err := a.value(given)
			if err != nil {
				return err
			}
			list, _ := gone.([]any)
			o.keep(in, a, slices.DeleteFunc(slices.Clone(have), func(v any) bool { return slices.ContainsFunc(list, func(g any) bool { return sameValue(v, g) }) }))
			return nil
		}
		if a.required {
			return invalid("mutability", "%s is required", a.name)
		}
		delete(in, a.name)
		return nil
	}
	v, err := a.value(o.value)
	if err != nil {
		return err
	}
	have := in[a.name]
	switch {
	case v == nil && o.op == "replace" || v == nil && !a.multi:
		delete(in, a.name)
	case v == nil:
	case a.multi && o.op == "add":
		list, _ := have.([]any)
		was := list
		for _, one := range v.([]any) { //nolint:forcetypeassert // value makes a list
			if !slices.ContainsFunc(list, func(h any) bool { return equal(h, one) }) {
				list = append(list, one)
			}
		}
		if len(list) > maxList {
			return invalid("invalidValue", "%s has %d values: %d are possible", a.name, len(list), maxList)
		}
		onePrimary(was, list[len(was):])
		in[a.name] = list
	case a.typ == "complex" && !a.multi:
		object, ok := have.(map[string]any)
		if !ok {
			object = map[string]any{}
		}
		for name, v := range v.(map[string]any) { //nolint:forcetypeassert // single makes an object
			object[name] = v
		}
		in[a.name] = object
	default:
		in[a.name] = v
	}
	return nil
}

// sameValue reports whether a value is the one that is named, by all that is given or by its value alone.
func sameValue(have, given any) bool {
	h, ok := have.(map[string]any)
	g, both := given.(map[string]any)
	if !ok || !both {
		return equal(have, given)
	}
	for name, v := range g {
		if !equal(h[name], v) {
			return false
		}
	}
	return true
}

// onePrimary takes primary from values where one of the others has it now.
func onePrimary(was, now []any) {
	isPrimary := func(v any) bool { object, ok := v.(map[string]any); return ok && object["primary"] == true }
	if !slices.ContainsFunc(now, isPrimary) {
		return
	}
	for _, v := range was {
		if isPrimary(v) {
			v.(map[string]any)["primary"] = false //nolint:forcetypeassert // isPrimary
		}
	}
}

func (o *operation) keep(in map[string]any, a *attribute, list []any) {
	if in[a.name] = list; len(list) == 0 {
		delete(in, a.name)
	}
}

// some is an operation on the values of an attribute that a filter selects, or on a sub-attribute of all.
func (o *operation) some(in map[string]any) error {
	a := o.at.attribute
	list, _ := in[a.name].([]any)
	var chosen, others []any
	for _, v := range list {
		if object, ok := v.(map[string]any); ok && (o.where == nil || o.where.matches(object)) {
			chosen = append(chosen, v)
		} else {
			others = append(others, v)
		}
	}
	if o.op == "remove" && o.at.sub == nil {
		o.keep(in, a, others)
		return nil
	}
	if len(chosen) == 0 {
		switch o.op {
		case "remove":
			return nil
		case "replace":
			return invalid("noTarget", "no value of %s matches", a.name)
		}
		fresh := map[string]any{}
		if o.where != nil {
			o.where.imply(fresh)
		}
		if len(list) >= maxList {
			return invalid("invalidValue", "%s has %d values already", a.name, len(list))
		}
		chosen, list = []any{fresh}, append(list, fresh)
	}
	for _, v := range chosen {
		object := v.(map[string]any) //nolint:forcetypeassert // chosen has objects
		if o.at.sub != nil {
			if err := o.set(object, o.at.sub); err != nil {
				return err
			}
			continue
		}
		next, err := a.single(o.value)
		if err != nil {
			return err
		}
		given, _ := next.(map[string]any)
		if o.op == "replace" {
			clear(object)
		}
		for name, v := range given {
			object[name] = v
		}
	}
	onePrimary(others, chosen)
	o.keep(in, a, slices.DeleteFunc(list, func(v any) bool { object, ok := v.(map[string]any); return ok && len(object) == 0 }))
	return nil
}

// ids are the values of which a filter asks for one: value eq "1" or value eq "2". false: it asks for something else.
func (n *node) ids(out []string) ([]string, bool) {
	if n.op == "or" {
		out, ok := n.left.ids(out)
		if !ok {
			return nil, false
		}
		return n.right.ids(out)
	}
	id, ok := n.value.(string)
	if n.op != "eq" || !ok || n.at.attribute.name != "value" {
		return nil, false
	}
	return append(out, id), true
}

// imply fills in what a value must be to match.
func (n *node) imply(object map[string]any) {
	switch n.op {
	case "and":
		n.left.imply(object)
		n.right.imply(object)
	case "eq":
		if n.value != nil {
			object[n.at.attribute.name] = n.value
		}
	}
}
