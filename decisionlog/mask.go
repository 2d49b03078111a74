package decisionlog

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Mask changes what is recorded of a decision, as a mask of Open Policy Agent does.
type Mask struct {
	// Op is "remove" (or ""), which leaves a trace in erased, or "upsert", which leaves one in masked.
	Op string
	// Path is a JSON pointer (RFC 6901): below /input or /result, and, beyond what OPA has, below /error, /identity, /parameters, /peer,
	// /request or /requested_by. A path that leads nowhere changes nothing; upsert adds what is missing at its end.
	Path string
	// Value is what upsert puts there, in plain JSON.
	Value any
}

// maskable are the members of an event that masks may change.
var maskable = []string{"error", "identity", "input", "nd_builtin_cache", "parameters", "peer", "request", "requested_by", "result"}

const (
	opRemove = "remove"
	opUpsert = "upsert"

	mostMasks = 1000 // of one event
	mostParts = 64   // of one path
	mostPath  = 4096
)

// mask is a Mask that has been checked.
type mask struct {
	upsert bool
	path   string
	parts  []string // unescaped
	value  any
}

// parse checks a mask.
func (m Mask) parse() (out mask, err error) {
	switch m.Op {
	case "", opRemove:
	case opUpsert:
		out.upsert, out.value = true, m.Value
	default:
		return out, fmt.Errorf("mask %q: op is %q: must be remove or upsert", m.Path, m.Op)
	}
	if !strings.HasPrefix(m.Path, "/") || len(m.Path) > mostPath {
		return out, fmt.Errorf("mask %q: must be a JSON pointer such as /input/parsed_body/card", m.Path)
	}
	out.path, out.parts = m.Path, strings.Split(m.Path[1:], "/")
	if !slices.Contains(maskable, out.parts[0]) {
		return out, fmt.Errorf("mask %q: must begin with one of /%s", m.Path, strings.Join(maskable, ", /"))
	}
	if len(out.parts) > mostParts {
		return out, fmt.Errorf("mask %q: has more than %d parts", m.Path, mostParts)
	}
	for i, part := range out.parts {
		out.parts[i] = pointerUnescape.Replace(part)
	}
	return out, nil
}

var pointerUnescape = strings.NewReplacer("~1", "/", "~0", "~")

// parseMasks reads what a policy's mask rule gives: a list (or a set, which is one in JSON) of pointers and of {op, path, value}.
func parseMasks(v any) ([]mask, error) {
	if v == nil {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("the mask is a %T: must be a set of pointers and of {op, path, value}", v)
	}
	if len(list) > mostMasks {
		return nil, fmt.Errorf("the mask has %d members: at most %d", len(list), mostMasks)
	}
	var out []mask
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

// errNowhere says that a path leads nowhere, which is no mistake: not every request has everything.
var errNowhere = errors.New("no such place")

// apply changes the event.
func (m *mask) apply(ev *event) error {
	in := ev.find(m.parts[0])
	if in == nil {
		return nil
	}
	rest := m.parts[1:]
	if len(rest) == 0 && !m.upsert {
		ev.erase(in.name)
		return nil
	}
	root, err := in.decode()
	if err != nil {
		return err
	}
	switch {
	case len(rest) == 0:
		*root = clone(m.value)
	case m.upsert:
		err = upsert(*root, rest, clone(m.value))
	default:
		*root, err = remove(*root, rest)
	}
	if err != nil {
		return nil
	}
	in.dirty = true
	if m.upsert {
		ev.masked = note(ev.masked, m.path)
	} else {
		ev.erased = note(ev.erased, m.path)
	}
	return nil
}

// remove returns v without what is at a path.
func remove(v any, path []string) (any, error) {
	switch in := v.(type) {
	case map[string]any:
		below, ok := in[path[0]]
		if !ok {
			return v, errNowhere
		}
		if len(path) == 1 {
			delete(in, path[0])
			return in, nil
		}
		below, err := remove(below, path[1:])
		in[path[0]] = below
		return in, err
	case []any:
		i, err := index(path[0], in)
		if err != nil {
			return v, err
		}
		if len(path) == 1 {
			return slices.Delete(in, i, i+1), nil
		}
		in[i], err = remove(in[i], path[1:])
		return in, err
	}
	return v, errNowhere
}

// upsert puts a value at a path below v, and makes the objects that lead there.
func upsert(v any, path []string, value any) error {
	last := len(path) == 1
	switch in := v.(type) {
	case map[string]any:
		if last {
			in[path[0]] = value
			return nil
		}
		below, ok := in[path[0]]
		if !ok {
			below = map[string]any{}
		}
		if err := upsert(below, path[1:], value); err != nil {
			return err
		}
		in[path[0]] = below
		return nil
	case []any:
		i, err := index(path[0], in)
		if err != nil {
			return err
		}
		if last {
			in[i] = value
			return nil
		}
		return upsert(in[i], path[1:], value)
	}
	return errNowhere
}

func index(part string, list []any) (int, error) {
	i, err := strconv.Atoi(part)
	if err != nil || i < 0 || i >= len(list) {
		return 0, errNowhere
	}
	return i, nil
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
