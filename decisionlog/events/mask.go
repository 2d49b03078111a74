package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Mask changes what is recorded of a decision, as a mask of Open Policy Agent does.
type Mask struct {
	// Op is "remove" (or ""), which leaves a trace in erased, or "upsert", which leaves one in masked.
	Op string
	// Path is a JSON pointer (RFC 6901): below /input or /result, and, beyond what OPA has, below /error, /facts, /identity, /parameters, /peer,
	// /request or /requested_by. A path that leads nowhere changes nothing; upsert adds what is missing at its end.
	Path string
	// Value is what upsert puts there, in plain JSON.
	Value any
}

// maskable are the members of an event that masks may change.
var maskable = []string{"error", "facts", "identity", "input", "nd_builtin_cache", "parameters", "peer", "request", "requested_by", "result"}

const (
	opRemove = "remove"
	opUpsert = "upsert"

	maxMasks = 1000 // of one event
	maxParts = 64   // of one path
	maxPath  = 4096
)

// mask is a Mask that has been checked.
type mask struct {
	upsert bool
	path   string
	parts  []string // unescaped
	value  any
}

// Masks are some that have been checked.
type Masks []mask

// parse checks a mask.
func (m Mask) parse() (out mask, err error) {
	switch m.Op {
	case "", opRemove:
	case opUpsert:
		out.upsert, out.value = true, m.Value
	default:
		return out, fmt.Errorf("mask %q: op is %q: must be remove or upsert", m.Path, m.Op)
	}
	if !strings.HasPrefix(m.Path, "/") || len(m.Path) > maxPath {
		return out, fmt.Errorf("mask %q: must be a JSON pointer such as /input/parsed_body/card", m.Path)
	}
	out.path, out.parts = m.Path, strings.Split(m.Path[1:], "/")
	if !slices.Contains(maskable, out.parts[0]) {
		return out, fmt.Errorf("mask %q: must begin with one of /%s", m.Path, strings.Join(maskable, ", /"))
	}
	if len(out.parts) > maxParts {
		return out, fmt.Errorf("mask %q: has more than %d parts", m.Path, maxParts)
	}
	for i, part := range out.parts {
		out.parts[i] = pointerUnescape.Replace(part)
	}
	return out, nil
}

var pointerUnescape = strings.NewReplacer("~1", "/", "~0", "~")

// CheckMasks checks the masks of a configuration, whose values may be of any type that JSON has a form for.
func CheckMasks(list []Mask) (out Masks, err error) {
	for _, m := range list {
		parsed, err := m.parse()
		if err == nil {
			parsed.value, err = plainJSON(m.Value)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, parsed)
	}
	return out, nil
}

// plainJSON makes plain JSON of a value from a configuration.
func plainJSON(v any) (out any, err error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return out, dec.Decode(&out)
}

// ParseMasks reads what a policy's mask rule gives: a list (or a set, which is one in JSON) of pointers and of {op, path, value}.
func ParseMasks(v any) (Masks, error) {
	if v == nil {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("the mask is a %T: must be a set of pointers and of {op, path, value}", v)
	}
	if len(list) > maxMasks {
		return nil, fmt.Errorf("the mask has %d members: at most %d", len(list), maxMasks)
	}
	var out Masks
	for _, one := range list {
		var m Mask
		switch one := one.(type) {
		case string:
			m.Path = one
		case map[string]any:
			op, isOp := one["op"].(string)
			path, isPath := one["path"].(string)
			if !isOp || !isPath || op == "" {
				return nil, fmt.Errorf("the mask has %v: must have op and path", one)
			}
			m = Mask{Op: op, Path: path, Value: one["value"]}
		default:
			return nil, fmt.Errorf("the mask has a %T: must be a pointer or {op, path, value}", one)
		}
		parsed, err := m.parse()
		if err != nil {
			return nil, err
		}
		out = append(out, parsed)
	}
	return out, nil
}

// maskTree is what is to be removed, by the parts of the paths. That of one event has all paths, so that they are read against the event as
// it was: removing one element of a list moves no other path.
type maskTree struct {
	removed bool
	below   map[string]*maskTree
}

func (t *maskTree) add(parts []string) {
	for _, part := range parts {
		if t.below == nil {
			t.below = map[string]*maskTree{}
		}
		next := t.below[part]
		if next == nil {
			next = &maskTree{}
			t.below[part] = next
		}
		t = next
	}
	t.removed = true
}

// removes reports whether a path, or one above it, is removed.
func (t *maskTree) removes(parts []string) bool {
	for _, part := range parts {
		if t = t.below[part]; t == nil || t.removed {
			return t != nil
		}
	}
	return false
}

// Mask changes the event by all masks at once; their order matters only where two put values at the same place, of which the last one
// stays. All paths are read against the event as it came, what is removed is removed whatever is put there, and what is put below a value
// that is put there too goes into that one.
func (ev *Line) Mask(masks Masks) error {
	var tree maskTree
	there := make([]bool, len(masks))
	upserts := make([]int, 0, len(masks))
	for i := range masks {
		m := &masks[i]
		if m.upsert {
			upserts = append(upserts, i)
			continue
		}
		var err error
		if there[i], err = ev.has(m.parts); err != nil {
			return err
		}
		tree.add(m.parts)
	}
	slices.SortStableFunc(upserts, func(a, b int) int { return len(masks[a].parts) - len(masks[b].parts) })
	for _, i := range upserts {
		m := &masks[i]
		done, err := ev.upsert(m)
		if err != nil {
			return err
		}
		there[i] = done && !tree.removes(m.parts)
	}
	if err := ev.prune(&tree); err != nil {
		return err
	}
	for i := range masks {
		switch {
		case !there[i]:
		case masks[i].upsert:
			ev.masked = note(ev.masked, masks[i].path)
		default:
			ev.erased = note(ev.erased, masks[i].path)
		}
	}
	return nil
}

// has reports whether a path leads somewhere.
func (ev *Line) has(parts []string) (bool, error) {
	in := ev.find(parts[0])
	if in == nil || len(parts) == 1 {
		return in != nil, nil
	}
	root, err := in.decode()
	if err != nil {
		return false, err
	}
	v := *root
	for _, part := range parts[1:] {
		switch inner := v.(type) {
		case map[string]any:
			below, ok := inner[part]
			if !ok {
				return false, nil
			}
			v = below
		case []any:
			i, ok := index(part, inner)
			if !ok {
				return false, nil
			}
			v = inner[i]
		default:
			return false, nil
		}
	}
	return true, nil
}

// upsert puts the mask's value at its path, and reports whether there is such a place.
func (ev *Line) upsert(m *mask) (bool, error) {
	in := ev.find(m.parts[0])
	if in == nil {
		return false, nil
	}
	root, err := in.decode()
	if err != nil {
		return false, err
	}
	if len(m.parts) == 1 {
		*root = clone(m.value)
	} else if !upsert(*root, m.parts[1:], clone(m.value)) {
		return false, nil
	}
	in.dirty = true
	return true, nil
}

// upsert puts a value at a path below v, and makes the objects that lead there.
func upsert(v any, path []string, value any) bool {
	last := len(path) == 1
	switch in := v.(type) {
	case map[string]any:
		if last {
			in[path[0]] = value
			return true
		}
		below, ok := in[path[0]]
		if !ok {
			below = map[string]any{}
		}
		if !upsert(below, path[1:], value) {
			return false
		}
		in[path[0]] = below
		return true
	case []any:
		i, ok := index(path[0], in)
		if !ok {
			return false
		}
		if last {
			in[i] = value
			return true
		}
		return upsert(in[i], path[1:], value)
	}
	return false
}

// prune takes out what is removed.
func (ev *Line) prune(tree *maskTree) error {
	for name, below := range tree.below {
		in := ev.find(name)
		switch {
		case in == nil:
			continue
		case below.removed:
			ev.members = slices.DeleteFunc(ev.members, func(m member) bool { return m.name == name })
			continue
		}
		root, err := in.decode()
		if err != nil {
			return err
		}
		*root, in.dirty = prune(*root, below), true
	}
	return nil
}

func prune(v any, tree *maskTree) any {
	switch in := v.(type) {
	case map[string]any:
		for name, t := range tree.below {
			below, ok := in[name]
			switch {
			case !ok:
			case t.removed:
				delete(in, name)
			default:
				in[name] = prune(below, t)
			}
		}
	case []any:
		gone := map[int]bool{}
		for part, t := range tree.below {
			i, ok := index(part, in)
			switch {
			case !ok:
			case t.removed:
				gone[i] = true
			default:
				in[i] = prune(in[i], t)
			}
		}
		kept := in[:0]
		for i, one := range in {
			if !gone[i] {
				kept = append(kept, one)
			}
		}
		return kept
	}
	return v
}

// index is a place in a list. RFC 6901 has no sign and no zeros in front; "-" is the place behind the last, where nothing is.
func index(part string, list []any) (int, bool) {
	i, err := strconv.Atoi(part)
	if err != nil || i < 0 || i >= len(list) || strconv.Itoa(i) != part {
		return 0, false
	}
	return i, true
}

// clone copies plain JSON, for one event alone.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, one := range v {
			out[name] = clone(one)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, one := range v {
			out[i] = clone(one)
		}
		return out
	}
	return v
}
