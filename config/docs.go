package config

import (
	_ "embed"
	"fmt"
	"reflect"
	"strings"
)

// AppsExample is a gatehouse.yaml with every key about several applications.
//
//go:embed testdata/apps.yaml
var AppsExample string

// FullExample is a gatehouse.yaml with every key there is, but for those of AppsExample and RemoteExample. Tests see to that, and that it loads.
//
//go:embed testdata/full.yaml
var FullExample string

// RemoteExample is one with every key about bundles from elsewhere.
//
//go:embed testdata/remote.yaml
var RemoteExample string

const configIntro = `# gatehouse.yaml

<!-- Generated from the configuration's types by: make docs. Edit the doc tags in package config instead. -->

Every key is optional: ` + "`gatehouse serve --bundle ./policy`" + ` runs with the defaults. The file is read strictly. An unknown
key, a value of the wrong type, a file that is not there: each is an error with its line, all of them are reported at once,
and nothing starts.

- Durations and sizes carry their unit: ` + "`250ms`, `30s`, `5m`; `64KiB`, `1MiB`, `1MB`, `512B`" + `.
- Relative paths are relative to the file that they are in.
- ` + "`${NAME}`" + ` in a value is replaced by the environment variable, after parsing, so that it never adds structure. One that is
  not set is an error. ` + "`$${`" + ` stands for ` + "`${`" + `. Put secrets into files or the environment.
- SIGHUP reads the file again and makes all of it active in one step, except the keys that say "Changes need a restart", or reports what is wrong and changes nothing.
`

// Page is docs/config.md: each section of the configuration with its keys, and an example of everything.
func Page() string {
	var b strings.Builder
	b.WriteString(configIntro)
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		f := t.Field(i)
		name := Key(f)
		if name == "-" {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", name, f.Tag.Get("doc"))
		if keys := keysBelow(f.Type, name); len(keys) > 0 {
			b.WriteString("\n| key | type | |\n|---|---|---|\n")
			for _, k := range keys {
				fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.Path, k.Type, strings.ReplaceAll(k.Doc, "|", `\|`))
			}
		}
	}
	b.WriteString("\n## Several applications\n\n```yaml\n" + AppsExample + "```\n")
	b.WriteString("\n## Bundles from elsewhere\n\n```yaml\n" + RemoteExample + "```\n")
	b.WriteString("\n## Everything at once\n\n```yaml\n" + FullExample + "```\n")
	return b.String()
}

// Key is the YAML key of a field of the configuration, "-" for one without.
func Key(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

// element takes pointers, lists and maps off a type, and shows the latter two in the path.
func element(t reflect.Type, path string) (reflect.Type, string) {
	for {
		switch t.Kind() {
		case reflect.Pointer:
			t = t.Elem()
		case reflect.Slice:
			t, path = t.Elem(), path+"[]"
		case reflect.Map:
			t, path = t.Elem(), path+".*"
		default:
			return t, path
		}
	}
}

func typeName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Duration]():
		return "duration"
	case reflect.TypeFor[Size]():
		return "size"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Slice:
		if inner := typeName(t.Elem()); inner != "mapping" {
			return "list of " + inner + "s"
		}
		return "list of mappings"
	case reflect.Interface:
		return "anything"
	case reflect.Map:
		return "mapping"
	case reflect.Struct:
		return "mapping"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64, reflect.Float64:
		return "number"
	default:
		return "string"
	}
}
