package events

import (
	"encoding/json"
	"slices"
	"strconv"
)

// EncodeAgain is the line of an event, by its tables of members.
func EncodeAgain(e *Event) string { return string(appendMembers(nil, e, eventMembers)) }

// MembersOf adds the names of a line's members, and of those below them.
func MembersOf(line string, seen map[string]bool) {
	s := jsonScan{text: []byte(line)}
	s.members(func(key, value []byte) {
		seen[string(key)] = true
		inner := jsonScan{text: value}
		inner.members(func(key2, _ []byte) { seen[string(key)+"."+string(key2)] = true })
	})
}

// Unseen are the members that the tables have besides.
func Unseen(seen map[string]bool) []string {
	return slices.Concat(missing(seen, "", eventMembers), missing(seen, "identity.", identityMembers), missing(seen, "request.", requestMembers),
		missing(seen, "error.", errorMembers), missing(seen, "digests.", digestMembers), missing(seen, "directory.", directoryMembers),
		missing(seen, "gap.", gapMembers))
}

func missing[T any](seen map[string]bool, below string, members []eventMember[T]) (list []string) {
	for _, m := range members {
		if !seen[below+m.name] {
			list = append(list, below+m.name)
		}
	}
	return list
}

// always are the members that a line has whatever their value is.
var always = []string{"authenticated", "dropped"}

func appendMemberName(dst []byte, name string) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	return append(append(append(dst, '"'), name...), `":`...)
}

func appendMembers[T any](dst []byte, from *T, members []eventMember[T]) []byte {
	dst = append(dst, '{')
	for _, m := range members {
		if field := m.field(from); encoded(field) || slices.Contains(always, m.name) {
			dst = appendValue(appendMemberName(dst, m.name), field)
		}
	}
	return append(dst, '}')
}

// encoded reports whether a field stands in a line.
func encoded(field any) bool {
	switch field := field.(type) {
	case *RawString:
		return *field != nil
	case *json.RawMessage:
		return *field != nil
	case *bool:
		return *field
	case *int:
		return *field != 0
	case *uint64:
		return *field != 0
	case *Identity:
		return field.Recorded
	case *Request:
		return field.Recorded
	case *Error:
		return field.Recorded
	case *Digests:
		return field.Recorded
	case *Directory:
		return field.Recorded
	case *Gap:
		return field.Recorded
	}
	return false
}

func appendValue(dst []byte, field any) []byte {
	switch field := field.(type) {
	case *RawString:
		return append(append(append(dst, '"'), *field...), '"')
	case *json.RawMessage:
		return append(dst, *field...)
	case *bool:
		return strconv.AppendBool(dst, *field)
	case *int:
		return strconv.AppendInt(dst, int64(*field), 10)
	case *uint64:
		return strconv.AppendUint(dst, *field, 10)
	case *Identity:
		return appendMembers(dst, field, identityMembers)
	case *Request:
		return appendMembers(dst, field, requestMembers)
	case *Error:
		return appendMembers(dst, field, errorMembers)
	case *Digests:
		return appendMembers(dst, field, digestMembers)
	case *Directory:
		return appendMembers(dst, field, directoryMembers)
	case *Gap:
		return appendMembers(dst, field, gapMembers)
	}
	return dst
}
