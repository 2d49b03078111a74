package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/util"
)

// dataTree collects a bundle's data files into one tree.
type dataTree struct {
	root map[string]any
	docs []dataDoc
}

// dataDoc remembers which file put a value where, for messages.
type dataDoc struct {
	file  string
	at    []string
	value any
}

// insert places a file's value by its folder. Files may share objects but not define one value twice.
func (t *dataTree) insert(file string, value any) error {
	if t.root == nil {
		t.root = map[string]any{}
	}
	var at []string
	if dir := path.Dir(file); dir != "." {
		at = strings.Split(dir, "/")
	}
	if _, ok := value.(map[string]any); !ok && len(at) == 0 {
		return errors.New("the top of a bundle's data is an object")
	}
	wrapped := value
	for i := len(at) - 1; i >= 0; i-- {
		wrapped = map[string]any{at[i]: wrapped}
	}
	if clash := merge(t.root, wrapped.(map[string]any), nil); clash != nil {
		return fmt.Errorf("%q is defined by %s too", strings.Join(clash, "/"), t.definer(clash))
	}
	t.docs = append(t.docs, dataDoc{file: file, at: at, value: value})
	return nil
}

// merge adds src to dst and returns the path of the first value that both define. Objects are copied on the way, so that
// a file's own value stays what it was.
func merge(dst, src map[string]any, at []string) []string {
	for k, v := range src {
		here := append(at[:len(at):len(at)], k)
		old, exists := dst[k]
		object, isObject := v.(map[string]any)
		if !exists {
			if isObject {
				fresh := make(map[string]any, len(object))
				merge(fresh, object, here)
				v = fresh
			}
			dst[k] = v
			continue
		}
		oldObject, oldIsObject := old.(map[string]any)
		if !isObject || !oldIsObject {
			return here
		}
		if clash := merge(oldObject, object, here); clash != nil {
			return clash
		}
	}
	return nil
}

// definer returns the first file that defines the value at a path, or a part of it.
func (t *dataTree) definer(at []string) string {
	for _, doc := range t.docs {
		value := any(doc.value)
		for i := len(doc.at) - 1; i >= 0; i-- {
			value = map[string]any{doc.at[i]: value}
		}
		found := true
		for _, key := range at {
			object, ok := value.(map[string]any)
			if value, found = object[key]; !ok || !found {
				found = false
				break
			}
		}
		if found {
			return doc.file
		}
	}
	return "another file"
}

// decodeData returns a data file's value, or the line and text of what is wrong with it.
func decodeData(file string, content []byte) (value any, line int, err error) {
	if path.Ext(file) == ".json" {
		line, err = decodeJSON(content, &value)
		return value, line, err
	}
	// OPA's own YAML, so that a document means here what it means there.
	if err := util.Unmarshal(content, &value); err != nil {
		line, text := yamlProblem(err)
		return nil, line, errors.New(text)
	}
	return value, 0, nil
}

// decodeJSON decodes exactly one JSON value with its numbers exact. On an error it returns the line.
func decodeJSON(content []byte, into any) (int, error) {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	err := decoder.Decode(into)
	if err == nil {
		if _, err := decoder.Token(); err != io.EOF {
			return lineAt(content, decoder.InputOffset()), errors.New("more follows the JSON value")
		}
		return 0, nil
	}
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return lineAt(content, syntax.Offset), errors.New(syntax.Error())
	case errors.As(err, &wrongType):
		return lineAt(content, wrongType.Offset), fmt.Errorf("%s: a %s does not fit", wrongType.Field, wrongType.Value)
	case err == io.EOF:
		return 1, errors.New("empty")
	case err == io.ErrUnexpectedEOF:
		return lineAt(content, int64(len(content))), errors.New("ends in the middle of a JSON value")
	}
	return 0, err
}

func lineAt(content []byte, offset int64) int {
	offset = min(offset, int64(len(content)))
	return 1 + bytes.Count(content[:offset], []byte("\n"))
}

var yamlLine = regexp.MustCompile(`^(?:.*yaml: )?line (\d+): (.*)`)

// yamlProblem takes the line out of the YAML library's message.
func yamlProblem(err error) (int, string) {
	text := oneLine(err.Error())
	found := yamlLine.FindStringSubmatch(text)
	if found == nil {
		return 0, text
	}
	line, _ := strconv.Atoi(found[1])
	return line, found[2]
}
