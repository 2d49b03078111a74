package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestConfigPageIsUpToDate(t *testing.T) {
	have, err := os.ReadFile("../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != Page() {
		t.Error("docs/config.md is out of date: run make docs")
	}
}

// TestEveryKeyIsDocumented holds that each key has its doc, and is in the full example.
func TestEveryKeyIsDocumented(t *testing.T) {
	t.Setenv("HOSTNAME", "here")
	used := map[string]bool{"policy.root": true, "policy.strict_routes": true, "control.pin": true} // stand for policy.decision, in apps, and for control.ca
	for name, text := range map[string]string{"full.yaml": FullExample, "apps.yaml": AppsExample, "remote.yaml": RemoteExample} {
		doc, err := DecodeYAML(name, []byte(text), Default())
		if err != nil {
			t.Fatal(err)
		}
		for path := range doc.Lines {
			used[generic(path)] = true
			if below, ok := strings.CutPrefix(generic(path), "policy.bundles[]"); ok {
				used["policy.shadow.bundles[]"+below] = true // they are the same
			}
		}
	}
	var check func(t reflect.Type, path string)
	check = func(typ reflect.Type, path string) {
		typ, path = element(typ, path)
		if typ.Kind() != reflect.Struct {
			return
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := Key(f)
			if name == "-" {
				continue
			}
			full := strings.TrimPrefix(path+"."+name, ".")
			if name == "" || !strings.HasSuffix(f.Tag.Get("doc"), ".") {
				t.Errorf("%s (%s): has no doc tag that is a sentence", full, f.Name)
			}
			if !used[full] {
				t.Errorf("testdata/full.yaml lacks %s", full)
			}
			check(f.Type, full)
		}
	}
	check(reflect.TypeFor[Config](), "")
}

// generic turns "identity.jwt[0].keys" into "identity.jwt[].keys" and the names of a map into *.
func generic(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		b.WriteByte(path[i])
		if path[i] == '[' {
			i += strings.IndexByte(path[i:], ']')
			b.WriteByte(']')
		}
	}
	out := b.String()
	if rest, ok := strings.CutPrefix(out, "denials.templates."); ok {
		_, below, _ := strings.Cut(rest, ".")
		out = strings.TrimSuffix("denials.templates.*."+below, ".")
	}
	return out
}
