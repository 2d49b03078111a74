package tree

import (
	"bytes"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Set gives a field of a mapping a value: a bool, a string, a number, a Node, a list or a mapping of such. A field that is there keeps its
// comments and its spelling.
func (n Node) Set(name string, value any) {
	if !n.IsMap() {
		return
	}
	made := n.make(value)
	if i := indexOf(n.node, name); i >= 0 {
		old := n.node.Content[i+1]
		made.HeadComment, made.LineComment, made.FootComment = old.HeadComment, old.LineComment, old.FootComment
		n.node.Content[i+1] = made
		return
	}
	n.node.Content = append(n.node.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: n.spelled(name)}, made)
	n.unfold()
}

// spelled is a name as the names around it are written.
func (n Node) spelled(name string) string {
	if n.text != nil && n.text.JSON {
		for i := 0; i < len(n.node.Content); i += 2 {
			if bytes.ContainsRune([]byte(n.node.Content[i].Value), '_') {
				return name
			}
		}
		return camel(name)
	}
	return name
}

// unfold writes a mapping that has grown by a mapping on lines of its own.
func (n Node) unfold() {
	if n.text == nil || n.text.JSON {
		return
	}
	if len(n.node.Content) == 2 { // it was {}
		n.node.Style &^= yaml.FlowStyle
	}
}

// Remove takes a field off a mapping.
func (n Node) Remove(name string) {
	if !n.IsMap() {
		return
	}
	if i := indexOf(n.node, name); i >= 0 {
		n.node.Content = slices.Delete(n.node.Content, i, i+2)
	}
}

// RemoveItem takes a value off a list. It is found by what it is, as others may have gone before it.
func (n Node) RemoveItem(item Node) {
	if !n.IsList() {
		return
	}
	n.node.Content = slices.DeleteFunc(n.node.Content, func(c *yaml.Node) bool { return c == item.node || c.Kind == yaml.AliasNode && c.Alias == item.node })
}

// Insert puts a value into a list in front of another one, at its end where that is not there.
func (n Node) Insert(before Node, value any) {
	if !n.IsList() {
		return
	}
	at := slices.IndexFunc(n.node.Content, func(c *yaml.Node) bool { return before.node != nil && c == before.node })
	if at < 0 {
		at = len(n.node.Content)
	}
	n.node.Content = slices.Insert(n.node.Content, at, n.make(value))
}

// Make gives the mapping or list with a name, and makes an empty one where there is none.
func (n Node) Make(name string, empty any) Node {
	if found := n.Get(name); found.Exists() && (found.IsMap() || found.IsList()) {
		return found
	}
	n.Set(name, empty)
	return n.Get(name)
}

// Pair is a field of a mapping that keeps its place.
type Pair struct {
	Name  string
	Value any
}

// make is a value as a tree.
func (n Node) make(value any) *yaml.Node {
	switch value := value.(type) {
	case Node:
		return clone(value.node)
	case []Pair:
		m := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, p := range value {
			name := p.Name
			if n.text != nil && n.text.JSON {
				name = camel(name)
			}
			m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, n.make(p.Value))
		}
		if len(value) == 0 {
			m.Style = yaml.FlowStyle
		}
		return m
	case []any:
		list := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, item := range value {
			list.Content = append(list.Content, n.make(item))
		}
		if len(value) == 0 {
			list.Style = yaml.FlowStyle
		}
		return list
	case []string:
		list := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Style: yaml.FlowStyle}
		for _, item := range value {
			list.Content = append(list.Content, n.make(item))
		}
		return list
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(value)}
	case int:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: fmt.Sprint(value)}
	case string:
		scalar := &yaml.Node{}
		scalar.SetString(value)
		return scalar
	default:
		panic(fmt.Sprintf("doctor/tree: a value of type %T", value))
	}
}

// clone is a tree of its own, in which what aliases stand for is written out.
func clone(n *yaml.Node) *yaml.Node {
	n = resolved(n)
	c := *n
	c.Anchor, c.Content = "", make([]*yaml.Node, len(n.Content))
	for i, below := range n.Content {
		c.Content[i] = clone(below)
	}
	return &c
}

// Write is the text again, with what was changed. Comments stay; empty lines go.
func (t *Text) Write() ([]byte, error) {
	for _, in := range t.inner {
		written, err := in.text.Write()
		if err != nil {
			return nil, err
		}
		if string(written) != in.was {
			in.at.Value = string(written)
		}
	}
	var b bytes.Buffer
	if t.JSON {
		writeJSON(&b, t.docs[0].Content[0], "  ", "\n")
		b.WriteByte('\n')
		return b.Bytes(), nil
	}
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	for _, doc := range t.docs {
		if err := e.Encode(doc); err != nil {
			return nil, fmt.Errorf("writing %s: %w", t.Name, err)
		}
	}
	if err := e.Close(); err != nil {
		return nil, fmt.Errorf("writing %s: %w", t.Name, err)
	}
	return b.Bytes(), nil
}
