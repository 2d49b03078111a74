package config

import (
	"reflect"
	"strings"
)

// KeyDoc is a key of gatehouse.yaml as docs/config.md has it.
type KeyDoc struct {
	Path string `json:"key"` // policy.bundles[].name
	Type string `json:"type"`
	Doc  string `json:"doc"`
}

// AllKeys are all keys, in the order of docs/config.md.
func AllKeys() []KeyDoc {
	var all []KeyDoc
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		if f := t.Field(i); Key(f) != "-" {
			all = append(all, KeyDoc{Key(f), typeName(f.Type), f.Tag.Get("doc")})
			all = append(all, keysBelow(f.Type, Key(f))...)
		}
	}
	return all
}

// keysBelow are the keys below a type, at any depth.
func keysBelow(t reflect.Type, path string) []KeyDoc {
	t, path = element(t, path)
	if t.Kind() != reflect.Struct {
		return nil
	}
	var all []KeyDoc
	for i := range t.NumField() {
		f := t.Field(i)
		name := Key(f)
		if name == "" || name == "-" {
			continue
		}
		full := path + "." + name
		all = append(all, KeyDoc{full, typeName(f.Type), f.Tag.Get("doc")})
		all = append(all, keysBelow(f.Type, full)...)
	}
	return all
}

// NamedKeys are the keys that a text names: the key itself, whether or not the text has the marks of lists and mappings, and those directly below it.
// They are none where there is no such key.
func NamedKeys(text string) (found []KeyDoc) {
	plain := func(path string) string { return strings.NewReplacer("[]", "", ".*", "").Replace(path) }
	text = strings.Trim(plain(text), ".")
	for _, k := range AllKeys() {
		path := plain(k.Path)
		below, under := strings.CutPrefix(path, text+".")
		if path == text || under && !strings.Contains(below, ".") || text == "" && !strings.Contains(path, ".") {
			found = append(found, k)
		}
	}
	return found
}
