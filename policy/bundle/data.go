package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
	"go.yaml.in/yaml/v3"

	"gatehouse/policy/rego"
	"gatehouse/yamltext"
)

// dataTree merges a bundle's data files. Its nodes are finished values, and maps where several files meet: a value from one file is never
// copied.
type dataTree struct {
	root map[string]any // ast.Value or map[string]any
	docs []dataDoc
}

// dataDoc records which file defined a value, for messages.
type dataDoc struct {
	file  string
	at    []string
	value ast.Value
}

// insert places a file's value by its folder. Files may share objects but must not define the same value.
func (t *dataTree) insert(file string, value ast.Value) error {
	if t.root == nil {
		t.root = map[string]any{}
	}
	var at []string
	if dir := path.Dir(file); dir != "." {
		at = strings.Split(dir, "/")
	}
	var clash []string
	if object, ok := value.(ast.Object); len(at) > 0 {
		clash = put(t.root, at[0], at[1:], value, nil)
	} else if ok {
		clash = putAll(t.root, object, nil)
	} else {
		return errors.New("the top of a bundle's data is an object")
	}
	if clash != nil {
		return fmt.Errorf("%q is defined by %s too", strings.Join(clash, "/"), t.definer(clash))
	}
	t.docs = append(t.docs, dataDoc{file: file, at: at, value: value})
	return nil
}

// put sets the value at key, rest... below node, which is at here. It returns the path of the first conflict, nil if there is none.
func put(node map[string]any, key string, rest []string, value ast.Value, here []string) []string {
	here = append(here[:len(here):len(here)], key)
	old, exists := node[key]
	object, isObject := value.(ast.Object)
	switch {
	case !exists && len(rest) == 0:
		node[key] = value
		return nil
	case !exists:
		old = map[string]any{}
	case len(rest) == 0 && !isObject:
		return here
	}
	inner, ok := expand(old)
	if !ok {
		return here
	}
	node[key] = inner
	if len(rest) == 0 {
		return putAll(inner, object, here)
	}
	return put(inner, rest[0], rest[1:], value, here)
}

func putAll(node map[string]any, object ast.Object, here []string) (clash []string) {
	object.Until(func(key, value *ast.Term) bool {
		clash = put(node, string(key.Value.(ast.String)), nil, value.Value, here)
		return clash != nil
	})
	return clash
}

// expand returns a node as a map that may be added to; false if it is no object.
func expand(node any) (map[string]any, bool) {
	switch node := node.(type) {
	case map[string]any:
		return node, true
	case ast.Object:
		members := make(map[string]any, node.Len())
		node.Foreach(func(key, value *ast.Term) { members[string(key.Value.(ast.String))] = value.Value })
		return members, true
	}
	return nil, false
}

// collapse turns a node into a value.
func collapse(node any) ast.Value {
	members, ok := node.(map[string]any)
	if !ok {
		return node.(ast.Value)
	}
	object := ast.NewObjectWithCapacity(len(members))
	for key, member := range members {
		object.Insert(ast.StringTerm(key), ast.NewTerm(collapse(member)))
	}
	return object
}

// definer returns the first file that defines the value at a path, or a part of it.
func (t *dataTree) definer(at []string) string {
	for _, doc := range t.docs {
		if len(at) <= len(doc.at) {
			if slices.Equal(at, doc.at[:len(at)]) {
				return doc.file
			}
			continue
		}
		if slices.Equal(at[:len(doc.at)], doc.at) && defines(doc.value, at[len(doc.at):]) {
			return doc.file
		}
	}
	return "another file"
}

func defines(value ast.Value, at []string) bool {
	for _, key := range at {
		object, ok := value.(ast.Object)
		if !ok {
			return false
		}
		member := object.Get(ast.StringTerm(key))
		if member == nil {
			return false
		}
		value = member.Value
	}
	return true
}

// decodeData returns a data file's value, or the line and text of the problem.
func decodeData(file string, content []byte) (value ast.Value, line int, err error) {
	var document any
	if path.Ext(file) == ".json" {
		if value, ok := rego.ReadJSON(content); ok {
			return value, 0, nil
		}
		if line, err := rego.DecodeJSON(content, &document); err != nil {
			return nil, line, err
		}
	} else if line := secondDocument(content); line > 0 {
		return nil, line, errors.New("a second YAML document starts here, and only the first would be read: put it into a file of its own, or join them")
	} else if err := util.Unmarshal(content, &document); err != nil { // OPA's YAML parser, so that documents mean the same as in OPA
		line, text := yamltext.Problem(err)
		return nil, line, errors.New(text)
	}
	value, err = rego.FromJSONAt(document, 0)
	return value, 0, err
}

// documentMark matches a line that may start or end a YAML document.
var documentMark = regexp.MustCompile(`(?m)(^|\r)(---|\.\.\.)`)

// secondDocument returns the line of the second YAML document, 0 if there is none. OPA silently reads only the first.
func secondDocument(content []byte) int {
	if len(documentMark.FindAllIndex(content, 2)) == 0 {
		return 0
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var first, second yaml.Node
	if decoder.Decode(&first) != nil { // parsing reports the error
		return 0
	}
	switch err := decoder.Decode(&second); {
	case err == io.EOF:
		return 0
	case err != nil:
		line, _ := yamltext.Problem(err)
		return max(line, 1)
	}
	return max(second.Line, 1)
}
