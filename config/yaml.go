package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"gatehouse/nearest"
	"gatehouse/yamltext"
)

// maxConfig bounds gatehouse.yaml, in bytes.
const maxConfig = 1 << 20

// Document is a parsed YAML file that remembers where each key stands, so that a problem found later can name its line.
type Document struct {
	File  string
	Lines map[string]int // "identity.jwt[0].keys.file" -> line
	Errs  []error
}

// DecodeYAML reads a YAML file into the struct that out points to. It is strict: an unknown or repeated key, a value of
// the wrong type and an undefined ${NAME} are problems with file and line, all of them at once; they are in the
// document's Errs, and what they are about is left out. The error is for text that is no YAML at all. ${NAME} in a scalar is
// replaced by the environment variable after parsing, so that a value can never add structure; $${ stands for ${.
func DecodeYAML(file string, text []byte, out any) (*Document, error) {
	d := &Document{File: file, Lines: map[string]int{}}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return d, yamltext.Error(file, err)
	}
	if len(root.Content) == 0 || !d.walk(root.Content[0], reflect.TypeOf(out).Elem(), "") {
		return d, nil
	}
	if err := root.Decode(out); err != nil { // walk has seen every value: this is a fault of ours
		d.Errs = append(d.Errs, fmt.Errorf("%s: %w", file, err))
	}
	return d, nil
}

func (d *Document) fail(line int, format string, args ...any) {
	d.Errs = append(d.Errs, fmt.Errorf("%s:%d: %s", d.File, line, fmt.Sprintf(format, args...)))
}

// At returns "file:line" of the key at this path, or of the nearest one above it that is in the file.
func (d *Document) At(path string) string {
	for p := path; p != ""; {
		if line, ok := d.Lines[p]; ok {
			return fmt.Sprintf("%s:%d", d.File, line)
		}
		p = p[:max(strings.LastIndexAny(p, ".["), 0)]
	}
	return d.File
}

// walk checks a node against the type it will be decoded into, expands its scalars and takes out what cannot be decoded.
// It reports whether the node itself can.
func (d *Document) walk(n *yaml.Node, t reflect.Type, path string) bool {
	if path != "" {
		d.Lines[path] = n.Line
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	custom := reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]())
	switch {
	case n.Kind == yaml.AliasNode:
		d.fail(n.Line, "%s: aliases are not supported: write the value out", path)
	case n.Kind == yaml.ScalarNode:
		return d.expand(n, path) && d.scalar(n, t, path)
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		kept := n.Content[:0]
		for i, item := range n.Content {
			if d.walk(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i)) {
				kept = append(kept, item)
			}
		}
		n.Content = kept
		return true
	case n.Kind == yaml.MappingNode && (t.Kind() == reflect.Struct || t.Kind() == reflect.Map):
		d.mapping(n, t, path)
		return true
	case t.Kind() == reflect.Interface: // anything goes
		return d.free(n, t, path)
	case n.Kind == yaml.SequenceNode:
		d.fail(n.Line, "%s: a list where %s belongs", path, kindName(t, custom))
	default:
		d.fail(n.Line, "%s: a mapping where %s belongs", path, kindName(t, custom))
	}
	return false
}

// free walks a list or a mapping where every value may be anything.
func (d *Document) free(n *yaml.Node, t reflect.Type, path string) bool {
	if n.Kind == yaml.SequenceNode {
		return d.walk(n, reflect.SliceOf(t), path)
	}
	return d.walk(n, reflect.MapOf(reflect.TypeFor[string](), t), path)
}

// scalar decodes one value by itself, so that what is wrong with it can be said in our words and under its key.
func (d *Document) scalar(n *yaml.Node, t reflect.Type, path string) bool {
	err := n.Decode(reflect.New(t).Interface())
	if err == nil {
		return true
	}
	if path == "" {
		d.fail(n.Line, "this is no configuration: it begins with %q where keys such as listen and policy belong", n.Value)
		return false
	}
	if wrong, ok := errors.AsType[*valueError](err); ok {
		d.fail(n.Line, "%s: %s", path, wrong.text)
	} else {
		d.fail(n.Line, "%s: %q where %s belongs", path, n.Value, kindName(t, false))
	}
	return false
}

func (d *Document) mapping(n *yaml.Node, t reflect.Type, path string) {
	seen := map[string]int{}
	kept := n.Content[:0]
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		full := strings.TrimPrefix(path+"."+key.Value, ".")
		if line, twice := seen[key.Value]; twice {
			d.fail(key.Line, "key %q is already on line %d", full, line)
			continue
		}
		seen[key.Value] = key.Line
		var of reflect.Type
		if t.Kind() == reflect.Map {
			of = t.Elem()
		} else if field, ok := fields(t)[key.Value]; ok {
			of = field.Type
		} else {
			where := ""
			if path != "" {
				where = " in " + path
			}
			d.fail(key.Line, "unknown key %q%s: %s", key.Value, where, Suggestion(key.Value, slices.Collect(maps.Keys(fields(t)))))
			continue
		}
		if d.walk(value, of, full) {
			kept = append(kept, key, value)
		}
		d.Lines[full] = key.Line
	}
	n.Content = kept
}

// fields maps the YAML keys of a struct to its fields.
func fields(t reflect.Type) map[string]reflect.StructField {
	out := make(map[string]reflect.StructField, t.NumField())
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			out[name] = t.Field(i)
		}
	}
	return out
}

func kindName(t reflect.Type, custom bool) string {
	switch t.Kind() {
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "a mapping"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		if !custom {
			return "a whole number"
		}
	case reflect.Float64:
		return "a number"
	}
	return "a single value"
}

// Suggestion names the nearest known key, or all of them where none is near.
func Suggestion(name string, known []string) string {
	names := slices.Sorted(slices.Values(known))
	if best := nearest.Word(name, names, 3); best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	if alike := []string{"file", "path", "folder", "dir"}; slices.Contains(alike, name) {
		if i := slices.IndexFunc(alike, func(a string) bool { return slices.Contains(names, a) }); i >= 0 {
			return fmt.Sprintf("did you mean %q?", alike[i])
		}
	}
	return "known keys are " + strings.Join(names, ", ")
}

var variable = regexp.MustCompile(`\$?\$\{([^}]*)\}`)

// expand reports whether every variable in the scalar is set.
func (d *Document) expand(n *yaml.Node, path string) bool {
	if !strings.Contains(n.Value, "${") {
		return true
	}
	before := len(d.Errs)
	n.Value = variable.ReplaceAllStringFunc(n.Value, func(match string) string {
		if strings.HasPrefix(match, "$$") {
			return match[1:]
		}
		name := match[2 : len(match)-1]
		value, ok := os.LookupEnv(name)
		if !ok {
			d.fail(n.Line, "%s: environment variable %q is not set", path, name)
		}
		return value
	})
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0 {
		n.Tag = "" // a plain scalar is resolved again, so that ${PORT} may be a number
	}
	return len(d.Errs) == before
}

// Duration is a time.Duration that must carry its unit: "250ms", "30s", "5m".
type Duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (v *Duration) UnmarshalYAML(n *yaml.Node) error {
	d, err := time.ParseDuration(n.Value)
	if err != nil || d < 0 {
		return &valueError{fmt.Sprintf("%q is not a duration: write a number with its unit, such as 250ms, 30s or 5m", n.Value)}
	}
	*v = Duration(d)
	return nil
}

// Size is a number of bytes that must carry its unit: "64KiB", "1MiB", "100MB", "512B".
type Size int64

var units = []struct {
	suffix string
	factor int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}}

// UnmarshalYAML implements yaml.Unmarshaler.
func (v *Size) UnmarshalYAML(n *yaml.Node) error {
	for _, u := range units {
		digits, ok := strings.CutSuffix(n.Value, u.suffix)
		if !ok {
			continue
		}
		count, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || count < 0 || count > (1<<62)/u.factor {
			break
		}
		*v = Size(count * u.factor)
		return nil
	}
	return &valueError{fmt.Sprintf("%q is not a size: write a whole number with its unit, such as 64KiB or 1MiB", n.Value)}
}

// valueError says what is wrong with a value, to be put behind its key.
type valueError struct{ text string }

func (e *valueError) Error() string { return e.text }
