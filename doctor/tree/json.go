package tree

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// jsonError is for a text that is meant as JSON.
type jsonError struct {
	line int
	text string
}

func (e *jsonError) Error() string { return e.text }

var errNoJSON = errors.New("not JSON")

// parseJSON reads one value of JSON. YAML's reader would do for most, but not for tabs and pairs of surrogates. An error that is not a
// jsonError says that the text may be YAML.
func parseJSON(text []byte) (*yaml.Node, error) {
	if trimmed := bytes.TrimSpace(text); len(trimmed) == 0 || trimmed[0] != '{' && trimmed[0] != '[' || !json.Valid(trimmed) {
		return nil, errNoJSON // flow style of YAML begins in the same way
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var newlines []int64
	for i, b := range text {
		if b == '\n' {
			newlines = append(newlines, int64(i))
		}
	}
	line := func() int {
		return 1 + sort.Search(len(newlines), func(i int) bool { return newlines[i] >= d.InputOffset() })
	}
	var value func(depth int) (*yaml.Node, error)
	value = func(depth int) (*yaml.Node, error) {
		if depth > maxDepth {
			return nil, &jsonError{line(), fmt.Sprintf("deeper than %d levels", maxDepth)}
		}
		token, err := d.Token()
		if err != nil {
			return nil, &jsonError{line(), err.Error()}
		}
		at := line()
		switch token := token.(type) {
		case string:
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: token, Style: yaml.DoubleQuotedStyle, Line: at}, nil
		case json.Number:
			tag := "!!int"
			if strings.ContainsAny(token.String(), ".eE") {
				tag = "!!float"
			}
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: token.String(), Line: at}, nil
		case bool:
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(token), Line: at}, nil
		case json.Delim:
			n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Style: yaml.FlowStyle, Line: at}
			if token == '{' {
				n.Kind, n.Tag = yaml.MappingNode, "!!map"
			}
			for d.More() {
				below, err := value(depth + 1)
				if err != nil {
					return nil, err
				}
				n.Content = append(n.Content, below)
			}
			_, err := d.Token()
			return n, err
		default:
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null", Line: at}, nil
		}
	}
	root, err := value(0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errNoJSON
	}
	return root, nil
}

// AppendJSON writes the value as JSON. lines, where not nil, gets the line in the text for each line that is written: one for each scalar.
func (n Node) AppendJSON(b *bytes.Buffer, indent string) { writeJSON(b, n.node, indent, "\n") }

func writeJSON(b *bytes.Buffer, n *yaml.Node, indent, newline string) {
	n = resolved(n)
	open, closing := byte('['), byte(']')
	switch n.Kind {
	case yaml.ScalarNode:
		b.Write(ScalarJSON(n.Tag, n.Value))
		return
	case yaml.MappingNode:
		open, closing = '{', '}'
	}
	b.WriteByte(open)
	for i := 0; i < len(n.Content); i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(newline + indent)
		if n.Kind == yaml.MappingNode {
			b.Write(quote(n.Content[i].Value))
			b.WriteString(": ")
			i++
		}
		writeJSON(b, n.Content[i], indent, newline+indent)
	}
	if len(n.Content) > 0 {
		b.WriteString(newline)
	}
	b.WriteByte(closing)
}

// ScalarJSON is a scalar of YAML in JSON, by its tag.
func ScalarJSON(tag, value string) []byte {
	switch tag {
	case "!!null":
		return []byte("null")
	case "!!bool":
		return []byte(strings.ToLower(value))
	case "!!int":
		if i, err := strconv.ParseInt(strings.ReplaceAll(value, "_", ""), 0, 64); err == nil {
			return strconv.AppendInt(nil, i, 10)
		}
	case "!!float":
		if json.Valid([]byte(value)) {
			return []byte(value)
		}
		if f, err := strconv.ParseFloat(value, 64); err == nil {
			if raw, err := json.Marshal(f); err == nil {
				return raw
			}
		}
	}
	return quote(value)
}

func quote(text string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // a string always encodes
	return bytes.TrimRight(b.Bytes(), "\n")
}
