package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// Line is a line taken apart into its members, in their order, so that some can be changed. What is not changed is never decoded.
type Line struct {
	members        []member
	erased, masked []string
}

type member struct {
	name  string
	raw   []byte // aliases the line, until it is changed
	value any    // what it decodes to; nil: it has not been decoded
	dirty bool   // value counts, not raw
}

// ParseLine reads a line, which is one of ours: an object whose erased and masked are lists of strings.
func ParseLine(line []byte) (*Line, error) {
	dec := json.NewDecoder(bytes.NewReader(line))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("reading an event: not an object: %w", err)
	}
	ev := &Line{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("reading an event: %w", err)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, fmt.Errorf("reading an event: %w", err)
		}
		switch name := t.(string); name {
		case "erased":
			err = json.Unmarshal(raw, &ev.erased)
		case "masked":
			err = json.Unmarshal(raw, &ev.masked)
		default:
			ev.members = append(ev.members, member{name: name, raw: raw})
		}
		if err != nil {
			return nil, fmt.Errorf("reading an event: %w", err)
		}
	}
	return ev, nil
}

// find returns a member, nil where there is none.
func (ev *Line) find(name string) *member {
	for i := range ev.members {
		if ev.members[i].name == name {
			return &ev.members[i]
		}
	}
	return nil
}

// decode gives the member's value to change, with its numbers as they stand.
func (m *member) decode() (*any, error) {
	if m.value == nil {
		dec := json.NewDecoder(bytes.NewReader(m.raw))
		dec.UseNumber()
		if err := dec.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("reading %q of an event: %w", m.name, err)
		}
	}
	return &m.value, nil
}

// Erase takes a whole member out, if it is there, and says so.
func (ev *Line) Erase(name string) {
	before := len(ev.members)
	ev.members = slices.DeleteFunc(ev.members, func(m member) bool { return m.name == name })
	if len(ev.members) < before {
		ev.erased = note(ev.erased, "/"+name)
	}
}

// KeepOnly erases all members but those of these names, and forgets what in the others was masked.
func (ev *Line) KeepOnly(names ...string) {
	ev.masked = nil
	for _, m := range slices.Clone(ev.members) {
		if !slices.Contains(names, m.name) {
			ev.Erase(m.name)
		}
	}
}

// Prepend puts a member that is a string before all others.
func (ev *Line) Prepend(name, value string) {
	ev.members = slices.Insert(ev.members, 0, member{name: name, value: value, dirty: true})
}

// MaxPointers bounds erased and masked.
const MaxPointers = 1000

// note adds a pointer to a list of them, once.
func note(list []string, pointer string) []string {
	if slices.Contains(list, pointer) || len(list) >= MaxPointers {
		return list
	}
	return append(list, pointer)
}

// Append writes the event as a line: erased and masked before the documents, as a line has them.
func (ev *Line) Append(dst []byte) ([]byte, error) {
	at := slices.IndexFunc(ev.members, func(m member) bool { return m.name == "result" || m.name == "input" })
	if at < 0 {
		at = len(ev.members)
	}
	dst = append(dst, '{')
	from := len(dst)
	var err error
	add := func(name string, v any) {
		if len(dst) > from {
			dst = append(dst, ',')
		}
		if raw, ok := v.([]byte); ok {
			dst = append(append(marshal(dst, name, &err), ':'), raw...)
			return
		}
		dst = marshal(append(marshal(dst, name, &err), ':'), v, &err)
	}
	for i := range len(ev.members) + 1 {
		if i == at && len(ev.erased) > 0 {
			add("erased", ev.erased)
		}
		if i == at && len(ev.masked) > 0 {
			add("masked", ev.masked)
		}
		if i == len(ev.members) {
			break
		}
		if m := &ev.members[i]; m.dirty {
			add(m.name, m.value)
		} else {
			add(m.name, m.raw)
		}
	}
	return append(dst, '}', '\n'), err
}

// marshal appends a value as JSON, without escapes for HTML. The first error is kept.
func marshal(dst []byte, v any, err *error) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if e := enc.Encode(v); e != nil && *err == nil {
		*err = fmt.Errorf("writing an event: %w", e)
	}
	return append(dst, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
}
