package envoyconf

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"gatehouse/doctor/tree"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
)

const typePrefix = "type.googleapis.com/"

// place is how the library says where, in its errors' text alone.
var place = regexp.MustCompile(`\(line (\d+):\d+\): `)

// decode reads a value into a message of Envoy's. Extensions of which nothing is known here become empty, and so do fields of a newer Envoy.
func decode(n tree.Node, into proto.Message) error {
	w := writer{}
	w.value(n)
	err := protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(w.Bytes(), into)
	if err == nil {
		return nil
	}
	line, text := n.Line(), strings.TrimLeft(strings.TrimPrefix(err.Error(), "proto:"), " \u00a0")
	if found := place.FindStringSubmatchIndex(text); found != nil {
		if at, err := strconv.Atoi(text[found[2]:found[3]]); err == nil && at >= 1 && at <= len(w.lines) {
			line = w.lines[at-1]
		}
		text = text[:found[0]] + text[found[1]:]
	}
	return fmt.Errorf("%s:%d: Envoy would not take this %s: %s", n.File(), line, into.ProtoReflect().Descriptor().Name(), text)
}

// writer writes a value as JSON for protojson: one value a line, so that the library's lines lead back to those of the text.
type writer struct {
	bytes.Buffer
	lines []int
}

func (w *writer) newline(line int) {
	w.lines = append(w.lines, line)
	if len(w.lines) > 1 {
		w.WriteByte('\n')
	}
}

func (w *writer) value(n tree.Node) {
	w.newline(n.Line())
	switch {
	case n.IsMap():
		w.mapping(n)
	case n.IsList():
		w.WriteByte('[')
		for i, item := range n.Items() {
			if i > 0 {
				w.WriteByte(',')
			}
			w.value(item)
		}
		w.WriteByte(']')
	default:
		w.Write(n.JSON())
	}
}

func (w *writer) mapping(n tree.Node) {
	members := n.Members()
	if kind, value, isAny := typed(n); isAny {
		if !known(kind) {
			w.WriteString(`{"@type": "` + typePrefix + `google.protobuf.Struct", "value": {}}`)
			return
		}
		members = append([]tree.Member{}, value.Members()...)
		w.WriteString(`{"@type": "` + typePrefix + kind + `"`)
		for _, m := range members {
			if m.Name != "@type" {
				w.WriteByte(',')
				w.member(m)
			}
		}
		w.WriteByte('}')
		return
	}
	w.WriteByte('{')
	first := true
	for _, m := range members {
		if !first {
			w.WriteByte(',')
		}
		first = false
		w.member(m)
	}
	w.WriteByte('}')
}

func (w *writer) member(m tree.Member) {
	w.Write(tree.ScalarJSON("!!str", m.Name))
	w.WriteString(": ")
	w.value(m.Value)
}

// typed takes an Any apart: the full name of its message, and the mapping that holds its fields. A TypedStruct is what it stands for.
func typed(n tree.Node) (kind string, value tree.Node, ok bool) {
	at := n.Get("@type")
	if !at.Exists() {
		return "", tree.Node{}, false
	}
	kind = messageName(at.Text())
	if kind == "xds.type.v3.TypedStruct" || kind == "udpa.type.v1.TypedStruct" {
		return messageName(n.Get("type_url").Text()), n.Get("value"), true
	}
	return kind, n, true
}

func messageName(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

func known(kind string) bool {
	_, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(kind))
	return err == nil
}

// as reads an Any of a message that has been decoded.
func as[M proto.Message](a *anypb.Any, into M) (M, bool) {
	if a == nil || !a.MessageIs(into) || a.UnmarshalTo(into) != nil {
		var none M
		return none, false
	}
	return into, true
}
