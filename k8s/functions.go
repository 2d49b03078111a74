package k8s

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"
)

// failure is what a template says to whoever gave the values.
type failure struct{ text string }

func (f failure) Error() string { return f.text }

// functions are those of Helm that the chart uses, with Helm's meaning. The dozen of them stands here instead of a dependency on Helm and on
// its functions' library; the tests of k8s/test hold them to the original.
func functions(set *template.Template) template.FuncMap {
	return template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var out strings.Builder
			err := set.ExecuteTemplate(&out, name, data)
			return out.String(), err
		},
		"fail":    func(text string) (string, error) { return "", failure{text} },
		"default": func(other, value any) any { return either(value, other) },
		"quote":   func(v any) string { return strconv.Quote(fmt.Sprint(v)) },
		"int":     wholeNumber,
		"list":    func(v ...any) []any { return v },
		"append":  func(l []any, v any) []any { return append(l[:len(l):len(l)], v) },
		"dict":    dict,
		"get":     func(m map[string]any, key string) any { return either(m[key], "") },
		"set": func(m map[string]any, key string, value any) map[string]any {
			m[key] = value
			return m
		},
		"deepCopy": copied,
		"merge": func(into map[string]any, from ...map[string]any) map[string]any {
			for _, f := range from {
				for key, value := range f {
					if _, there := into[key]; !there {
						into[key] = value
					}
				}
			}
			return into
		},
		"mergeOverwrite": func(into, over map[string]any) map[string]any {
			overlay(into, over)
			return into
		},
		"toJson": jsonText,
		"fromJson": func(text string) (map[string]any, error) {
			d := json.NewDecoder(strings.NewReader(text))
			d.UseNumber()
			out := map[string]any{}
			if err := d.Decode(&out); err != nil {
				return nil, err
			}
			return plainNumbers(out).(map[string]any), nil
		},
		"toYaml": func(v any) (string, error) {
			text, err := yamlText(v)
			return strings.TrimSuffix(string(text), "\n"), err
		},
		"contains": func(part, text string) bool { return strings.Contains(text, part) },
		"nindent":  func(n int, text string) string { return "\n" + indented(n, text) },
		"replace":  func(old, with, text string) string { return strings.ReplaceAll(text, old, with) },
		"trim":     strings.TrimSpace,
		"trunc":    func(n int, text string) string { return text[:min(n, len(text))] },
		"regexFind": func(expression, text string) (string, error) {
			found, err := regexp.Compile(expression)
			if err != nil {
				return "", err
			}
			return found.FindString(text), nil
		},
		"trimPrefix": func(prefix, text string) string { return strings.TrimPrefix(text, prefix) },
		"trimSuffix": func(suffix, text string) string { return strings.TrimSuffix(text, suffix) },
		"sha256sum": func(text string) string {
			sum := sha256.Sum256([]byte(text))
			return hex.EncodeToString(sum[:])
		},
	}
}

func either(value, other any) any {
	if truth, ok := template.IsTrue(value); ok && truth {
		return value
	}
	return other
}

func wholeNumber(v any) (int, error) {
	switch r := reflect.ValueOf(v); {
	case r.CanInt():
		return int(r.Int()), nil
	case r.CanFloat():
		return int(r.Float()), nil
	}
	return 0, failure{fmt.Sprintf("%v is no number", v)}
}

func dict(v ...any) (map[string]any, error) {
	out := make(map[string]any, len(v)/2)
	for i := 0; i+1 < len(v); i += 2 {
		key, ok := v[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict: %v is no key", v[i])
		}
		out[key] = v[i+1]
	}
	return out, nil
}

// copied is a deep copy of maps; lists are never changed in place.
func copied(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for key, value := range m {
		if below, ok := value.(map[string]any); ok {
			value = copied(below)
		}
		out[key] = value
	}
	return out
}

// plainNumbers makes numbers of JSON those that YAML prints without an exponent.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = plainNumbers(v[key])
		}
	}
	return v
}

func jsonText(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}

func yamlText(v any) ([]byte, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return out.Bytes(), e.Close()
}

func indented(n int, text string) string {
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(text, "\n", "\n"+pad)
}
