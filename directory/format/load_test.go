package format_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"gatehouse/directory"
	"gatehouse/directory/format"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	alice    = `{"type":"user","id":"alice","display_name":"Alice","properties":{"n":12345678901234567890.10}}`
	eng      = `{"type":"group","id":"eng"}`
	doc      = `{"type":"resource","id":"7"}`
	member   = `{"object_type":"group","object_id":"eng","relation":"member","subject_type":"user","subject_id":"alice"}`
	reader   = `{"object_type":"resource","object_id":"7","relation":"reader","subject_type":"group","subject_id":"eng","subject_relation":"member","expires_at":"2040-01-02T03:04:05Z"}`
	everyone = `{"object_type":"resource","object_id":"7","relation":"reader","subject_type":"user","subject_id":"*"}`
)

// written makes a folder with these files. A name that ends in .hex is written as bytes.
func written(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		content := []byte(text)
		if rest, ok := strings.CutSuffix(name, ".hex"); ok {
			var err error
			if content, err = hex.DecodeString(text); err != nil {
				t.Fatal(err)
			}
			name = rest
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func load(t testing.TB, path string) *directory.Snapshot {
	t.Helper()
	s, err := format.Load(context.Background(), path, format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// content is a directory as sorted lines.
func content(s *directory.Snapshot) []string {
	var out []string
	for o := range s.Objects("") {
		out = append(out, fmt.Sprintf("%s %q %s", o.Ref, o.DisplayName, o.Properties))
	}
	for r := range s.Relations(directory.RelationFilter{}, time.Unix(0, 0)) {
		at := ""
		if !r.Expires.IsZero() {
			at = " until " + r.Expires.Format(time.RFC3339)
		}
		out = append(out, r.String()+at)
	}
	slices.Sort(out)
	return out
}

func packedGzip(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text))
	z.Close()
	return hex.EncodeToString(b.Bytes())
}

func packedZstd(t *testing.T, text string) string {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return hex.EncodeToString(z.EncodeAll([]byte(text), nil))
}

// TestLoadAllForms: the same directory in every form is the same directory.
func TestLoadAllForms(t *testing.T) {
	lines := func(l ...string) string { return strings.Join(l, "\n") + "\n" }
	objects, relations := lines(alice, eng, doc), lines(member, reader, everyone)
	want := content(load(t, written(t, map[string]string{"objects.jsonl": objects, "relations.jsonl": relations})))
	if len(want) != 6 || want[5] != `user:alice "Alice" {"n":12345678901234567890.10}` {
		t.Fatalf("%q", want)
	}
	camel := strings.NewReplacer("display_name", "displayName", "object_type", "objectType", "object_id", "objectId",
		"subject_type", "subjectType", "subject_id", "subjectId", "subject_relation", "subjectRelation", "expires_at", "expiresAt")
	list := func(l string) string { return strings.Join(strings.Split(strings.TrimSpace(l), "\n"), ",\n") }
	yaml := `
objects:
  - {type: user, id: alice, display_name: Alice, properties: {n: 12345678901234567890.10}}
  - group:eng
  - {type: resource, id: 7}
relations:
  - group:eng#member@user:alice
  - {object_type: resource, object_id: "7", relation: reader, subject_type: group, subject_id: eng, subject_relation: member, expires_at: 2040-01-02T03:04:05Z}
  - resource:7#reader@user:*
`
	for name, files := range map[string]map[string]string{
		"camel case":       {"objects.jsonl": camel.Replace(objects), "relations.jsonl": camel.Replace(relations)},
		"CRLF and BOM":     {"objects.jsonl": "\ufeff" + strings.ReplaceAll(objects, "\n", "\r\n"), "relations.jsonl": "\r\n\n" + strings.ReplaceAll(relations, "\n", "\r\n")},
		"no last newline":  {"objects.jsonl": strings.TrimSpace(objects), "relations.jsonl": strings.TrimSpace(relations)},
		"white space":      {"objects.jsonl": strings.ReplaceAll(objects, ":{", ": { "), "relations.jsonl": strings.ReplaceAll(relations, ",", " , ")},
		"gzip":             {"objects.jsonl.gz.hex": packedGzip(objects), "relations.jsonl.gz.hex": packedGzip(relations)},
		"zstd":             {"objects.jsonl.zst.hex": packedZstd(t, objects), "relations.jsonl.zst.hex": packedZstd(t, relations)},
		"Topaz":            {"objects.json": `{"objects": [` + list(objects) + `]}`, "relations.json": `{"relations":[` + list(relations) + `]}`},
		"Topaz, templates": {"x_objects.json": `{"objects": [` + list(objects) + `]}`, "x_relations.json": `{"relations":[` + list(relations) + `]}`, "x_assertions.json": "{"},
		"one document":     {"directory.json": `{"relations": [` + list(relations) + `], "objects":[` + list(objects) + `]}`},
		"ds-load":          {"directory.json": "[" + `{"objects": [` + list(objects) + `]}, {"relations":[` + list(relations) + `]}` + "]"},
		"an array":         {"directory.json": "[" + list(relations) + "," + list(objects) + "]"},
		"mixed lines":      {"directory.jsonl": relations + objects},
		"import":           {"directory.jsonl": lines(`{"relation": `+member+`}`, `{"object":`+alice+`}`, eng, reader, everyone, `{"object": `+doc+`}`)},
		"YAML":             {"directory.yaml": yaml},
		"timestamps":       {"directory.json": `{"objects": [` + strings.ReplaceAll(list(objects), `{"type"`, `{"etag":"1","created_at":"2020-01-01T00:00:00Z","updatedAt":{},"type"`) + `], "relations": [` + list(relations) + `]}`},
		"escapes":          {"objects.jsonl": strings.ReplaceAll(objects, "Alice", `\u0041\u006cice`), "relations.jsonl": relations},
	} {
		t.Run(name, func(t *testing.T) {
			dir := written(t, files)
			if got := content(load(t, dir)); !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			for _, name := range []string{"directory.json", "directory.jsonl", "directory.yaml"} {
				if _, ok := files[name]; ok {
					if got := content(load(t, filepath.Join(dir, name))); !slices.Equal(got, want) {
						t.Errorf("the file by itself: %q", got)
					}
				}
			}
		})
	}
}

// TestLoadProblems: errors name file, line, reason and remedy, and nothing is loaded.
func TestLoadProblems(t *testing.T) {
	deep := strings.Repeat("[", 1<<20)
	for name, tc := range map[string]struct {
		files map[string]string
		want  []string // lines of the error, after its first; of a shorter error its parts
	}{
		"unknown field":         {map[string]string{"objects.jsonl": `{"type":"user","id":"a","email":"x"}`}, []string{`objects.jsonl:1: unknown field "email": an object has type, id, display_name and properties; remove it, or move it into properties`}},
		"unknown type":          {map[string]string{"objects.jsonl": alice + "\n" + `{"type":"usr","id":"a"}`}, []string{`objects.jsonl:2: object usr:a: unknown type "usr": the manifest has user, identity, group, role, resource; correct it, or add the type to the manifest`}},
		"unknown relation":      {map[string]string{"relations.jsonl": strings.ReplaceAll(member, `"member"`, `"membr"`)}, []string{`relations.jsonl:1: relation group:eng#membr@user:alice: unknown relation or permission "membr" of type "group": group has member; correct it, or add the relation to the manifest`}},
		"a permission":          {map[string]string{"relations.jsonl": strings.ReplaceAll(everyone, `"reader"`, `"can_read"`)}, []string{`"can_read" is a permission of resource, which follows from relations and cannot be written`}},
		"dangling":              {map[string]string{"relations.jsonl": "\n" + strings.ReplaceAll(member, "alice", "zoe")}, []string{`relations.jsonl:2: relation group:eng#member@user:zoe: user:zoe does not exist; add the object, or remove the relation`}},
		"not allowed":           {map[string]string{"relations.jsonl": strings.ReplaceAll(member, `"user","subject_id":"alice"`, `"resource","subject_id":"7"`)}, []string{`add it to group#member in the manifest`}},
		"object twice":          {map[string]string{"objects.jsonl": alice + "\n" + eng + "\n" + doc + "\n" + eng + "\n" + alice}, []string{`objects.jsonl:4: object group:eng is there twice: the first is in DIR/objects.jsonl:2; remove one of them`, `objects.jsonl:5: object user:alice is there twice: the first is in DIR/objects.jsonl:1; remove one of them`}},
		"relation twice":        {map[string]string{"relations.jsonl": member + "\n" + reader + "\n\n" + member + "\n" + reader}, []string{`relations.jsonl:4: relation group:eng#member@user:alice is there twice: the first is in DIR/relations.jsonl:1; remove one of them`, `relations.jsonl:5: relation resource:7#reader@group:eng#member is there twice: the first is in DIR/relations.jsonl:2; remove one of them`}},
		"all kinds at once":     {map[string]string{"objects.jsonl": alice + "\n{\n" + eng + "\n" + eng, "relations.jsonl": reader + "\n" + member + "\n" + member}, []string{`objects.jsonl:2: the JSON ends`, `objects.jsonl:4: object group:eng is there twice`, `relations.jsonl:1: relation resource:7`, `relations.jsonl:3: relation group:eng#member@user:alice is there twice`}},
		"invalid UTF-8":         {map[string]string{"objects.jsonl": `{"type":"user","id":"a` + "\xff" + `"}`}, []string{`objects.jsonl:1: not valid UTF-8 (byte 0xff); save the file as UTF-8`}},
		"half a surrogate":      {map[string]string{"objects.jsonl": `{"type":"user","id":"a\ud800"}`}, []string{`objects.jsonl:1: not valid Unicode: \ud800 is half a surrogate pair`}},
		"NUL":                   {map[string]string{"objects.jsonl": `{"type":"user","id":"a","properties":{"x":"\u0000"}}`}, []string{`objects.jsonl:1: a NUL`}},
		"raw NUL":               {map[string]string{"objects.jsonl": "{\"type\":\"user\",\"id\":\"a\x00\"}"}, []string{`objects.jsonl:1: not valid JSON: the control character 0x00`}},
		"properties no object":  {map[string]string{"objects.jsonl": `{"type":"user","id":"a","properties":[1]}`}, []string{`objects.jsonl:1: properties are not an object`}},
		"property too long":     {map[string]string{"objects.jsonl": alice + "\n" + `{"type":"user","id":"a","properties":{"x":"` + strings.Repeat("x", 10<<20) + `"}}` + "\n" + alice}, []string{`objects.jsonl:2: a line of more than 2097152 bytes`, `objects.jsonl:3: object user:alice is there twice: the first is in DIR/objects.jsonl:1`}},
		"property over a bound": {map[string]string{"objects.jsonl": `{"type":"user","id":"a","properties":{"x":"` + strings.Repeat("x", 300<<10) + `"}}`}, []string{`objects.jsonl:1: object user:a: invalid: properties of`}},
		"id too long":           {map[string]string{"objects.jsonl": `{"type":"user","id":"` + strings.Repeat("x", 2000) + `"}`}, []string{`invalid: id of 2000 bytes; 1 to 1024 are possible`}},
		"nested":                {map[string]string{"objects.jsonl": `{"type":"user","id":"a","properties":{"x":` + deep + `}}`}, []string{`objects.jsonl:1: nested more than 64 deep`}},
		"key twice":             {map[string]string{"objects.jsonl": `{"type":"user","id":"a","id":"b"}`}, []string{`objects.jsonl:1: "id" is there twice`}},
		"key in both spellings": {map[string]string{"objects.jsonl": `{"type":"user","id":"a","display_name":"b","displayName":"b"}`}, []string{`objects.jsonl:1: "displayName" is there twice`}},
		"property twice":        {map[string]string{"objects.jsonl": `{"type":"user","id":"a","properties":{"admin":false,"\u0061dmin":true}}`}, []string{`objects.jsonl:1: "admin" is there twice in one object`}},
		"no number":             {map[string]string{"objects.jsonl": `{"type":"user","id":"a","properties":{"n":01}}`}, []string{`objects.jsonl:1: not valid JSON: '1' where "," or "}" should be`}},
		"id no string":          {map[string]string{"objects.jsonl": `{"type":"user","id":7}`}, []string{`objects.jsonl:1: id is not a string; write it in quotes`}},
		"missing":               {map[string]string{"objects.jsonl": `{"type":"user"}`, "relations.jsonl": `{"object_type":"group","object_id":""}`}, []string{`objects.jsonl:1: id missing or empty`, `relations.jsonl:1: object_id, relation, subject_type, subject_id missing or empty`}},
		"wrong file":            {map[string]string{"objects.jsonl": member, "relations.jsonl": alice}, []string{`objects.jsonl:1: a relation where objects are; relations belong into the file of relations`, `relations.jsonl:1: an object where relations are`}},
		"two on a line":         {map[string]string{"objects.jsonl": alice + eng}, []string{`objects.jsonl:1: not valid JSON: '{' where the end of the line should be`}},
		"an array of lines":     {map[string]string{"objects.jsonl": "[" + alice + "]"}, []string{`objects.jsonl:1: an array where one object or relation a line should be`}},
		"bad time":              {map[string]string{"relations.jsonl": strings.ReplaceAll(reader, "2040-01-02T03:04:05Z", "tomorrow")}, []string{`expires_at "tomorrow" is not a time; write it as 2030-01-31T18:00:00Z`}},
		"the zero time":         {map[string]string{"relations.jsonl": strings.ReplaceAll(reader, "2040-01-02T03:04:05Z", "0001-01-01T00:00:00.9Z")}, []string{`expires_at "0001-01-01T00:00:00.9Z": only times from 1970`}},
		"a time before 1970":    {map[string]string{"relations.jsonl": strings.ReplaceAll(reader, "2040-01-02T03:04:05Z", "1970-01-01T00:00:00.9Z")}, []string{"only times from 1970"}},
		"wildcard object":       {map[string]string{"objects.jsonl": `{"type":"user","id":"*"}`}, []string{`no object can have it`}},
		"torn gzip":             {map[string]string{"objects.jsonl.gz.hex": packedGzip(alice + "\n" + eng)[:60], "relations.jsonl.gz.hex": packedGzip("")}, []string{`unexpected EOF`}},
		"both":                  {map[string]string{"objects.jsonl": alice, "objects.json": `{"objects":[]}`}, []string{`objects.json beside objects.jsonl: which of them is the directory is not defined; leave one`}},
		"YAML beside lines":     {map[string]string{"objects.jsonl": alice, "directory.yaml": ``}, []string{`directory.yaml beside objects.jsonl`}},
		"no relations":          {map[string]string{"objects.jsonl": alice, "relations.jsonl": "-"}, []string{`objects without relations; an empty relations.jsonl says that there are none`}},
		"nothing":               {map[string]string{"README.md": ""}, []string{`no directory in this folder`}},
		"empty document":        {map[string]string{"directory.json": ``}, []string{`directory.json:1: empty: not a JSON document`}},
		"document, line":        {map[string]string{"directory.json": "{\"objects\": [\n{\"type\": \"user\",\n \"id\": \"a\",\n \"x\": 1}\n]}"}, []string{`directory.json:4: unknown field "x"`}},
		"document, torn":        {map[string]string{"directory.json": "{\"objects\": [\n{\"type\": \"user\","}, []string{`directory.json:2: the JSON ends before it is complete: this record has no end`}},
		"document, other field": {map[string]string{"directory.json": "{\"objects\": [],\n \"users\": []}"}, []string{`directory.json:2: unknown field "users" beside objects and relations`}},
		"document, deep":        {map[string]string{"directory.json": deep}, []string{`directory.json:1: not an object, where a record`}},
		"document, long":        {map[string]string{"directory.json": `[{"type":"` + strings.Repeat("x", 3<<20)}, []string{`directory.json:1: a record of more than 2097152 bytes`}},
		"manifest":              {map[string]string{"manifest.yaml": "model: {version: 3}\ntypes:\n  user:\n    relations: {a: nobody}\n", "objects.jsonl": alice}, []string{`manifest.yaml:4:`}},
		"UTF-16":                {map[string]string{"objects.jsonl": "\xff\xfe{\x00"}, []string{`UTF-16; save it as UTF-8`}},
		"YAML syntax":           {map[string]string{"directory.yaml": "objects:\n  - {\n"}, []string{`directory.yaml:`, `not valid YAML`}},
		"YAML field":            {map[string]string{"directory.yaml": "objects:\n  - type: user\n    id: a\n    mail: x\n"}, []string{`directory.yaml:2: unknown field "mail"`}},
		"YAML short":            {map[string]string{"directory.yaml": "objects: [user:a]\nrelations:\n  - user:a\n"}, []string{`directory.yaml:3: "user:a" is not in the short form object#relation@subject, as doc:7#viewer@group:eng#member`}},
		"YAML alias":            {map[string]string{"directory.yaml": "objects:\n  - {type: user, id: a, properties: &p {x: 1}}\n  - {type: user, id: b, properties: *p}\n"}, []string{`directory.yaml:3: an alias (*p); write its value instead`}},
		"YAML number":           {map[string]string{"directory.yaml": "objects:\n  - {type: user, id: a, properties: {x: 0x10}}\n"}, []string{`directory.yaml:2: 0x10 is a number in YAML and cannot be one in JSON`}},
		"YAML key twice":        {map[string]string{"directory.yaml": "objects:\n  - {type: user, id: a, id: b}\n"}, []string{`directory.yaml:2: "id" is there twice`}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, ok := tc.files["objects.jsonl"]; !ok && tc.files["relations.jsonl"] != "" {
				tc.files["objects.jsonl"] = alice + "\n" + eng + "\n" + doc
			}
			if _, ok := tc.files["relations.jsonl"]; !ok && tc.files["objects.jsonl"] != "" {
				tc.files["relations.jsonl"] = ""
			} else if tc.files["relations.jsonl"] == "-" {
				delete(tc.files, "relations.jsonl")
			}
			dir := written(t, tc.files)
			s, err := format.Load(context.Background(), dir, format.Options{})
			if err == nil || s != nil {
				t.Fatalf("%v, %v", s, err)
			}
			text := strings.ReplaceAll(err.Error(), dir, "DIR")
			if len(text) > 2000 {
				t.Errorf("an error of %d bytes", len(text))
			}
			for _, want := range tc.want {
				if !strings.Contains(text, want) {
					t.Errorf("got\n%s\nwant %s", text, want)
				}
			}
			if p, ok := errors.AsType[*format.Problems](err); ok && len(p.List) != max(len(tc.want), 1) && !strings.HasPrefix(name, "YAML") {
				t.Errorf("%d problems:\n%s", len(p.List), text)
			}
		})
	}
}

// TestLoadGivesUp: so many problems are told, and not more.
func TestLoadGivesUp(t *testing.T) {
	dir := written(t, map[string]string{"objects.jsonl": alice + "\n" + strings.Repeat(alice+"\n", 100), "relations.jsonl": ""})
	_, err := format.Load(context.Background(), dir, format.Options{Problems: 5})
	p, ok := errors.AsType[*format.Problems](err)
	if !ok || len(p.List) != 5 || !p.More || p.List[4].Line != 6 || !strings.Contains(p.List[4].Text, "objects.jsonl:1;") {
		t.Errorf("%v", err)
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	dir := written(t, map[string]string{"objects.jsonl": strings.Repeat(`{"type":"user","id":"a"}`+"\n", 1<<18), "relations.jsonl": ""})
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("stop")
	_, err := format.Load(ctx, dir, format.Options{Problems: 1 << 30, Progress: func(format.Progress) { cancel(stop) }})
	if !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

// TestLoadSeesChanges: a file that is written while it is read is read again by whoever wants it, not half.
func TestLoadSeesChanges(t *testing.T) {
	dir := written(t, map[string]string{"objects.jsonl": alice, "relations.jsonl": ""})
	_, err := format.Load(context.Background(), dir, format.Options{Progress: func(format.Progress) {
		if err := os.WriteFile(filepath.Join(dir, "objects.jsonl"), []byte(alice+"\n"+eng), 0o600); err != nil {
			t.Error(err)
		}
	}})
	if !errors.Is(err, format.ErrChanged) {
		t.Errorf("%v", err)
	}
}

// TestLoadFollowsLinks as a mounted ConfigMap has them.
func TestLoadFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "..data")
	if err := os.Mkdir(real, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"objects.jsonl": alice, "relations.jsonl": ""} {
		if err := errors.Join(os.WriteFile(filepath.Join(real, name), []byte(text), 0o600), os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	if got := content(load(t, dir)); len(got) != 1 {
		t.Errorf("%q", got)
	}
	if err := os.Remove(filepath.Join(real, "objects.jsonl")); err != nil {
		t.Fatal(err)
	}
	if _, err := format.Load(context.Background(), dir, format.Options{}); err == nil || !strings.Contains(err.Error(), "objects.jsonl: no such file") {
		t.Errorf("a link to nowhere: %v", err)
	}
}

// TestUnknownTypes: a directory without a manifest whose types are not those of the built-in one has one problem, however large it is.
func TestUnknownTypes(t *testing.T) {
	for name, c := range map[string]struct {
		objects int
		want    string
	}{
		"some": {30, "the directory has 1 problem, nothing was loaded:"},
		"many": {50_000, "the directory has problems, nothing was loaded; the first 1 are:"},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			for i := range c.objects {
				fmt.Fprintf(&b, "{\"type\":\"t%d\",\"id\":\"%d\"}\n", i%20, i)
			}
			dir := t.TempDir()
			for file, text := range map[string]string{"objects.jsonl": b.String(), "relations.jsonl": ""} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			_, err := format.Load(t.Context(), dir, format.Options{})
			want := c.want + "\n" + filepath.Join(dir, "objects.jsonl") + ":1: unknown types: t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11. No manifest was found, " +
				"so the built-in one is used, which has user, identity, group, role, resource; correct them, or add them to " + filepath.Join(dir, "manifest.yaml")
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}
