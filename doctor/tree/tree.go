// Package tree is a text of YAML or JSON as a tree that remembers the line of every value, can be changed, and is written again with its
// comments. It owns the bounds of what is read: bytes, values, depth. It imports nothing of ours but the foundations.
package tree

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"gatehouse/yamltext"

	"go.yaml.in/yaml/v3"
)

// Bounds of one text. An alias counts for all that it stands for.
const (
	MaxText   = 32 << 20
	maxValues = 2_000_000
	maxDepth  = 200
)

// Text is one file, or one answer of a server.
type Text struct {
	Name string
	JSON bool // written as JSON, and so written again
	docs []*yaml.Node

	inner []inner // texts within its values
}

// inner is a text that is a value of another one.
type inner struct {
	at   *yaml.Node
	text *Text
	was  string // written before anything was changed
}

// Parse reads a text. What is not YAML or JSON, what is too large or too deep, and a mapping with the same key twice are errors with file and line.
func Parse(name string, text []byte) (*Text, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("%s: larger than %d MiB", name, MaxText>>20)
	}
	t := &Text{Name: name}
	if root, err := parseJSON(text); err == nil {
		t.JSON, t.docs = true, []*yaml.Node{{Kind: yaml.DocumentNode, Line: 1, Content: []*yaml.Node{root}}}
		return t, t.bound()
	} else if bad, ok := errors.AsType[*jsonError](err); ok {
		return nil, fmt.Errorf("%s:%d: %w", name, bad.line, bad)
	}
	for d := yaml.NewDecoder(strings.NewReader(string(text))); ; {
		var root yaml.Node
		err := d.Decode(&root)
		if errors.Is(err, io.EOF) {
			return t, t.bound()
		}
		if err != nil {
			return nil, yamltext.Error(name, err)
		}
		t.docs = append(t.docs, &root)
	}
}

// bound walks all of a text, so that nobody else has to look for circles and doubles.
func (t *Text) bound() error {
	values := 0
	var walk func(n *yaml.Node, depth int) error
	walk = func(n *yaml.Node, depth int) error {
		if values++; values > maxValues {
			return fmt.Errorf("%s: more than %d values, with what its aliases repeat", t.Name, maxValues)
		}
		if depth > maxDepth {
			return fmt.Errorf("%s:%d: deeper than %d levels, or an alias that contains itself", t.Name, n.Line, maxDepth)
		}
		if n.Kind == yaml.AliasNode {
			return walk(n.Alias, depth+1)
		}
		if n.Kind == yaml.MappingNode {
			seen := make(map[string]bool, len(n.Content)/2)
			for i := 0; i+1 < len(n.Content); i += 2 {
				key := n.Content[i]
				if key.Kind != yaml.ScalarNode {
					return fmt.Errorf("%s:%d: a key that is not a string", t.Name, key.Line)
				}
				if seen[key.Value] && key.Tag != mergeTag {
					return fmt.Errorf("%s:%d: the key %q twice: Envoy and others may take different ones; remove one", t.Name, key.Line, key.Value)
				}
				seen[key.Value] = true
			}
		}
		for _, below := range n.Content {
			if err := walk(below, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	for _, doc := range t.docs {
		if err := walk(doc, 0); err != nil {
			return err
		}
	}
	return nil
}

// Documents are the texts between the lines with three dashes, without those that are empty.
func (t *Text) Documents() []Node {
	var docs []Node
	for _, doc := range t.docs {
		if len(doc.Content) > 0 && doc.Content[0].Tag != "!!null" {
			docs = append(docs, Node{t, doc.Content[0], ""})
		}
	}
	return docs
}

const mergeTag = "!!merge"

// Node is one value of a text, and where it stands. The zero Node is a value that is not there: asking it for more gives more of the same.
type Node struct {
	text *Text
	node *yaml.Node
	path string
}

// Exists says whether there is such a value.
func (n Node) Exists() bool { return n.node != nil }

// File is the text's name.
func (n Node) File() string {
	if n.text == nil {
		return ""
	}
	return n.text.Name
}

// Line is 0 for a value that is not there.
func (n Node) Line() int {
	if n.node == nil {
		return 0
	}
	return n.node.Line
}

// Path leads to the value from the beginning of its document, as static_resources.listeners[0].name does.
func (n Node) Path() string { return n.path }

// IsMap and IsList say what a value is.
func (n Node) IsMap() bool { return n.node != nil && n.node.Kind == yaml.MappingNode }

// IsList says whether it is a list.
func (n Node) IsList() bool { return n.node != nil && n.node.Kind == yaml.SequenceNode }

// below is a value within n, with what an alias stands for.
func (n Node) below(node *yaml.Node, path string) Node {
	if node == nil {
		return Node{}
	}
	return Node{n.text, resolved(node), path}
}

// Get follows names through mappings, each as it is in a message (snake_case) or in JSON (camelCase), also through YAML's merges.
func (n Node) Get(names ...string) Node {
	for _, name := range names {
		if !n.IsMap() {
			return Node{}
		}
		path := name
		if strings.ContainsAny(name, ".[]") {
			path = strconv.Quote(name)
		}
		if n.path != "" {
			path = n.path + "." + path
		}
		n = n.below(find(n.node, name, 0), path)
	}
	return n
}

// find is a field that stands in the mapping itself, else one that is merged into it.
func find(mapping *yaml.Node, name string, depth int) *yaml.Node {
	if i := indexOf(mapping, name); i >= 0 {
		return mapping.Content[i+1]
	}
	for i := 0; i+1 < len(mapping.Content) && depth < maxDepth; i += 2 {
		if mapping.Content[i].Tag != mergeTag {
			continue
		}
		for _, m := range merged(mapping.Content[i+1]) {
			if found := find(m, name, depth+1); found != nil {
				return found
			}
		}
	}
	return nil
}

// merged are the mappings that a merge key's value stands for: one, or a list of them, by themselves or by aliases.
func merged(value *yaml.Node) (mappings []*yaml.Node) {
	value = resolved(value)
	from := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		from = value.Content
	}
	for _, m := range from {
		if m = resolved(m); m.Kind == yaml.MappingNode {
			mappings = append(mappings, m)
		}
	}
	return mappings
}

// resolved follows aliases.
func resolved(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func indexOf(mapping *yaml.Node, name string) int {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if key := mapping.Content[i].Value; key == name || key == camel(name) {
			return i
		}
	}
	return -1
}

func camel(name string) string {
	if !strings.Contains(name, "_") {
		return name
	}
	parts := strings.Split(name, "_")
	for i := 1; i < len(parts); i++ {
		if parts[i] != "" {
			parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
		}
	}
	return strings.Join(parts, "")
}

// Items are the values of a list.
func (n Node) Items() []Node {
	if !n.IsList() {
		return nil
	}
	items := make([]Node, len(n.node.Content))
	for i, item := range n.node.Content {
		items[i] = n.below(item, fmt.Sprintf("%s[%d]", n.path, i))
	}
	return items
}

// Item is one of a list.
func (n Node) Item(i int) Node {
	if items := n.Items(); i < len(items) {
		return items[i]
	}
	return Node{}
}

// Member is a field of a mapping by the name that it has there.
type Member struct {
	Name  string
	Value Node
}

// Members are the fields of a mapping, in their order, with those that are merged into it.
func (n Node) Members() []Member {
	if !n.IsMap() {
		return nil
	}
	var members []Member
	seen := map[string]bool{}
	var add func(mapping *yaml.Node, depth int)
	add = func(mapping *yaml.Node, depth int) {
		var merges []*yaml.Node
		for i := 0; i+1 < len(mapping.Content); i += 2 {
			key, value := mapping.Content[i], mapping.Content[i+1]
			if key.Tag == mergeTag {
				merges = append(merges, merged(value)...)
			} else if !seen[key.Value] {
				seen[key.Value] = true
				members = append(members, Member{key.Value, n.Get(key.Value)})
			}
		}
		for _, m := range merges {
			if depth < maxDepth {
				add(m, depth+1)
			}
		}
	}
	add(n.node, 0)
	return members
}

// Text is a scalar as it is written; "" where there is none.
func (n Node) Text() string {
	if n.node == nil || n.node.Kind != yaml.ScalarNode || n.node.Tag == "!!null" {
		return ""
	}
	return n.node.Value
}

// True says whether a value is true.
func (n Node) True() bool { return strings.EqualFold(n.Text(), "true") }

// Texts are the scalars of a list, or the only one.
func (n Node) Texts() []string {
	if n.IsList() {
		var texts []string
		for _, item := range n.Items() {
			texts = append(texts, item.Text())
		}
		return texts
	}
	if text := n.Text(); text != "" {
		return []string{text}
	}
	return nil
}

// Number is a scalar that is one.
func (n Node) Number() (float64, bool) {
	f, err := strconv.ParseFloat(n.Text(), 64)
	return f, err == nil
}

// Parse reads a value that is a text of YAML, as ConfigMaps have them. Its lines are those of the whole, and what is changed in it is changed there.
func (n Node) Parse() (*Text, error) {
	if n.node == nil || n.node.Kind != yaml.ScalarNode {
		return nil, fmt.Errorf("%s:%d: not a text", n.File(), n.Line())
	}
	t, err := Parse(n.File(), []byte(n.node.Value))
	if err != nil {
		return nil, fmt.Errorf("%s:%d: the text that begins here: %w", n.File(), n.Line(), err)
	}
	before := n.node.Line - 1
	if n.node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		before = n.node.Line // it begins on the next one
	}
	var shift func(m *yaml.Node)
	shift = func(m *yaml.Node) {
		m.Line += before
		for _, below := range m.Content {
			shift(below)
		}
	}
	for _, doc := range t.docs {
		shift(doc)
	}
	was, err := t.Write()
	if err != nil {
		return nil, err
	}
	n.text.inner = append(n.text.inner, inner{n.node, t, string(was)})
	return t, nil
}

// JSON is a scalar in JSON; null where there is none.
func (n Node) JSON() []byte {
	if n.node == nil || n.node.Kind != yaml.ScalarNode {
		return []byte("null")
	}
	return ScalarJSON(n.node.Tag, n.node.Value)
}

// Key is the same for the same place, however it was reached.
func (n Node) Key() any { return n.node }

// Same says whether two are the very same place.
func (n Node) Same(other Node) bool { return n.node == other.node }
