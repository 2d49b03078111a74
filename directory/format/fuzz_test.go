package format_test

import (
	"context"
	"slices"
	"testing"

	"gatehouse/directory/format"
)

// fuzzFile loads what the fuzzer makes up under a name. What loads is written and loaded again as the same.
func fuzzFile(f *testing.F, name string, seeds ...string) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := format.Load(context.Background(), written(t, map[string]string{name: text}), format.Options{})
		if err != nil {
			return
		}
		dir := t.TempDir()
		if err := format.WriteFolder(dir, s); err != nil {
			t.Fatal(err)
		}
		again, err := format.Load(context.Background(), dir, format.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if again.Digest() != s.Digest() || !slices.Equal(content(again), content(s)) {
			t.Errorf("%q\n%q", content(s), content(again))
		}
	})
}

func FuzzLines(f *testing.F) {
	fuzzFile(f, "directory.jsonl", alice+"\n"+eng+"\n"+member, `{"object":`+alice+"}\r\n\n", reader, `{"type":"user","id":"\ud83d\ude00\u0041"}`, "\xef\xbb\xbf"+doc, `[`, `{"id":`)
}

func FuzzDocument(f *testing.F) {
	fuzzFile(f, "directory.json", `{"objects":[`+alice+`,`+eng+`],"relations":[`+member+`]}`, `[{"objects":null},{"relations":[]}]`, alice+eng, `[`+doc+`]`, `{"objects":[{`, `{}`)
}

func FuzzYAML(f *testing.F) {
	fuzzFile(f, "directory.yaml", "objects: [user:alice, group:eng]\nrelations: ['group:eng#member@user:alice']\n", "objects:\n- {type: user, id: 7, properties: {a: [1, 2.50, ~, true, x]}}\n", "objects: &a [*a]", "- x")
}
