package format

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"gatehouse/directory"
	"gatehouse/yamltext"
)

// maxYAML bounds a YAML file, whose tree takes many times its size. Larger directories need JSON lines.
const maxYAML = 4 << 20

// readYAML reads a small, hand-written directory: objects and relations, each in full or in the short form.
func readYAML(file string, in io.Reader) reader {
	return func(_ context.Context, emit func(*batch) error) error {
		text, err := io.ReadAll(io.LimitReader(in, maxYAML+1))
		if err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
		b := &batch{file: file, done: decoded()}
		if len(text) > maxYAML {
			b.addProblem(kindAny, 0, fmt.Sprintf("more than %d MiB of YAML; convert it to JSON lines, which have no such bound", maxYAML>>20))
			return emit(b)
		}
		y := yamlReader{b: b}
		y.read(string(text))
		return emit(b)
	}
}

type yamlReader struct {
	b *batch
	d decoder
}

func (y *yamlReader) fail(k kind, n *yaml.Node, format string, args ...any) {
	y.b.addProblem(k, n.Line, fmt.Sprintf(format, args...))
}

func (y *yamlReader) read(text string) {
	if at := invalidUTF8(text); at >= 0 {
		y.b.addProblem(kindAny, 1+strings.Count(text[:at], "\n"), fmt.Sprintf("not valid UTF-8 (byte 0x%02x); save the file as UTF-8", text[at]))
		return
	}
	decoder := yaml.NewDecoder(strings.NewReader(text))
	var doc, second yaml.Node
	if err := decoder.Decode(&doc); err == io.EOF { //nolint:errorlint // as documented
		return // an empty file
	} else if err != nil {
		line, what := yamltext.Problem(err)
		y.b.addProblem(kindAny, line, "not valid YAML: "+what)
		return
	}
	if err := decoder.Decode(&second); err != io.EOF { //nolint:errorlint // as documented
		y.fail(kindAny, &doc, "more than one YAML document; put them into one")
		return
	}
	y.top(doc.Content[0])
}

func (y *yamlReader) top(root *yaml.Node) {
	if root.Kind != yaml.MappingNode {
		y.fail(kindAny, root, "not a mapping; a directory has objects and relations")
		return
	}
	seen := map[string]bool{}
	for i := 0; i < len(root.Content); i += 2 {
		key, list := root.Content[i], root.Content[i+1]
		name := key.Value
		switch {
		case name != "objects" && name != "relations":
			y.fail(kindAny, key, "unknown field %q; a directory has objects and relations", clip(name))
		case seen[name]:
			y.fail(kindAny, key, "%q is there twice; put the lists together", name)
		case list.Kind == yaml.ScalarNode && list.Tag == "!!null":
		case list.Kind != yaml.SequenceNode:
			y.fail(kindAny, list, "%s is not a list", name)
		case name == "objects":
			for _, n := range list.Content {
				y.object(n)
			}
		default:
			for _, n := range list.Content {
				y.relation(n)
			}
		}
		seen[name] = true
	}
}

func (y *yamlReader) object(n *yaml.Node) {
	var o directory.Object
	if n.Kind == yaml.ScalarNode {
		ref, err := ParseRef(n.Value)
		if err != nil {
			y.fail(kindObject, n, "%v", err)
			return
		}
		o.Ref = ref
	} else {
		if !y.full(n, kindObject) {
			return
		}
		o = y.d.object
	}
	y.b.objects, y.b.objectLines = append(y.b.objects, o), append(y.b.objectLines, n.Line)
}

func (y *yamlReader) relation(n *yaml.Node) {
	var r directory.Relation
	if n.Kind == yaml.ScalarNode {
		var err error
		if r, err = ParseRelation(n.Value); err != nil {
			y.fail(kindRelation, n, "%v", err)
			return
		}
	} else {
		if !y.full(n, kindRelation) {
			return
		}
		r = y.d.relation
	}
	y.b.relations, y.b.relationLines = append(y.b.relations, r), append(y.b.relationLines, n.Line)
}

// full reads a record with all its fields. It is converted to JSON, so that the same rules apply.
func (y *yamlReader) full(n *yaml.Node, want kind) bool {
	text, bad := appendYAML(nil, n, 0, "")
	if bad != nil {
		y.b.addProblem(want, bad.at, bad.what)
		return false
	}
	if _, err := y.d.record(string(text), want); err != nil {
		y.fail(want, n, "%s", err.what)
		return false
	}
	return true
}

// appendYAML appends a node as JSON. The position of its syntaxError is a line.
func appendYAML(out []byte, n *yaml.Node, depth int, key string) ([]byte, *syntaxError) {
	if depth > maxNested+1 {
		return nil, &syntaxError{n.Line, fmt.Sprintf("nested more than %d deep", maxNested)}
	}
	switch n.Kind {
	case yaml.ScalarNode:
		return appendScalar(out, n, depth == 1 && fieldOf(key) != fieldProperties)
	case yaml.AliasNode:
		return nil, &syntaxError{n.Line, "an alias (*" + n.Value + "); write its value instead"}
	}
	open, end := byte('{'), byte('}')
	if n.Kind == yaml.SequenceNode {
		open, end = '[', ']'
	}
	out = append(out, open)
	key = ""
	for i, c := range n.Content {
		isKey := n.Kind == yaml.MappingNode && i%2 == 0
		switch {
		case isKey && c.Kind != yaml.ScalarNode:
			return nil, &syntaxError{c.Line, "a name that is not a text"}
		case isKey && c.Tag == "!!merge":
			return nil, &syntaxError{c.Line, "a merge (<<); write the fields instead"}
		case isKey && i > 0, n.Kind == yaml.SequenceNode && i > 0:
			out = append(out, ',')
		case n.Kind == yaml.MappingNode && !isKey:
			out = append(out, ':')
		}
		if isKey {
			key = c.Value
			out = appendString(out, key)
			continue
		}
		var bad *syntaxError
		if out, bad = appendYAML(out, c, depth+1, key); bad != nil {
			return nil, bad
		}
	}
	return append(out, end), nil
}

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// appendScalar appends a scalar. A record's own fields are strings: the id 007 is no number.
func appendScalar(out []byte, n *yaml.Node, text bool) ([]byte, *syntaxError) {
	switch n.Tag {
	case "!!null":
		return append(out, "null"...), nil
	case "!!str", "!!timestamp":
		return appendString(out, n.Value), nil
	case "!!bool":
		if text {
			return appendString(out, n.Value), nil
		}
		return append(out, strings.ToLower(n.Value)...), nil
	case "!!int", "!!float":
		switch {
		case text:
			return appendString(out, n.Value), nil
		case jsonNumber.MatchString(n.Value):
			return append(out, n.Value...), nil
		}
		return nil, &syntaxError{n.Line, fmt.Sprintf("%s is a number in YAML and cannot be one in JSON; write it as a plain decimal number, or in quotes", clip(n.Value))}
	}
	return nil, &syntaxError{n.Line, fmt.Sprintf("a value of the YAML type %s; write it as a text or a number", n.Tag)}
}

// appendString appends a JSON string, without HTML escapes.
func appendString(out []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c == 0x7f {
			quoted, _ := json.Marshal(s) // a string always marshals
			return append(out, quoted...)
		}
	}
	out = append(out, '"')
	out = append(out, s...)
	return append(out, '"')
}
