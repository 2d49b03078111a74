package policy_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"gatehouse/policy/bundle"
)

func TestReadRefuses(t *testing.T) {
	const fine = "package authz\n\nallow := true\n"
	tests := []struct {
		name       string
		files      tree
		limits     bundle.Limits
		complaints []string // each must be in the error
	}{
		{"two broken modules", tree{"a.rego": "package a\n\nx := }\n", "sub/b.rego": "package b\n\ny if {\n"}, bundle.Limits{},
			[]string{`reading bundle "app": a.rego:3: `, `reading bundle "app": sub/b.rego:`}},
		{"several errors in one module", tree{"a.rego": "package a\n\nallow { true }\n\ndeny { true }\n\nx if 1\n"}, bundle.Limits{},
			[]string{"a.rego:3: ", "a.rego:5: "}},
		{"an empty module", tree{"a.rego": ""}, bundle.Limits{}, []string{`a.rego`, "empty module"}},
		{"not Rego", tree{"a.rego": "hello\x00"}, bundle.Limits{}, []string{`a.rego:1: `}},
		{"broken JSON", tree{"sub/data.json": "{\n  \"a\": 1,\n  \"b\": }\n"}, bundle.Limits{}, []string{`sub/data.json:3: `}},
		{"unfinished JSON", tree{"data.json": "{\n  \"a\": "}, bundle.Limits{}, []string{`data.json:2: ends in the middle`}},
		{"JSON and more", tree{"data.json": "{}\n{}"}, bundle.Limits{}, []string{`data.json:2: more follows`}},
		{"empty JSON", tree{"data.json": ""}, bundle.Limits{}, []string{`data.json:1: empty`}},
		{"broken YAML", tree{"data.yaml": "a: 1\nb: [\n"}, bundle.Limits{}, []string{`data.yaml:`}},
		{"broken YAML line", tree{"data.yaml": "a: 1\n b: 2\n"}, bundle.Limits{}, []string{`data.yaml:2: `}},
		{"top of data no object", tree{"data.json": "[]"}, bundle.Limits{}, []string{"data.json: the top of a bundle's data is an object"}},
		{"one value twice", tree{"data.json": `{"a": {"b": 1}}`, "a/data.yaml": "b: 2"}, bundle.Limits{},
			[]string{`data.json: "a/b" is defined by a/data.yaml too`}},
		{"value and object", tree{"data.json": `{"a": 1}`, "a/b/data.json": `{}`}, bundle.Limits{},
			[]string{`data.json: "a" is defined by a/b/data.json too`}},
		{"a number beyond reason", tree{"data.json": `{"a": 1e999999999}`}, bundle.Limits{}, []string{"number"}},
		{"nested beyond reason", tree{"data.json": `{"a": ` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`},
			bundle.Limits{}, []string{"nested deeper than 1000"}},
		{"broken manifest", tree{".manifest": "{\n\"roots\": 1}", "a.rego": fine}, bundle.Limits{}, []string{".manifest:2: "}},
		{"roots overlap", tree{".manifest": `{"roots": ["a", "a/b"]}`}, bundle.Limits{}, []string{`roots "a" and "a/b" overlap`}},
		{"module outside roots", tree{".manifest": `{"roots": ["orders"]}`, "a.rego": fine}, bundle.Limits{},
			[]string{`a.rego:1: package authz is outside the manifest's roots ["orders"]`}},
		{"data outside roots", tree{".manifest": `{"roots": ["a/b"]}`, "a/data.json": `{"b": 1, "c": 2}`}, bundle.Limits{},
			[]string{`a/data.json: data at "a/c" is outside the manifest's roots`}},
		{"unknown version", tree{".manifest": `{"rego_version": 7}`}, bundle.Limits{}, []string{".manifest: rego_version 7"}},
		{"a revision with a line break", tree{".manifest": `{"revision": "a\nb"}`}, bundle.Limits{}, []string{".manifest: revision"}},
		{"v0 where the manifest says v1", tree{".manifest": `{"rego_version": 1}`, "a.rego": "package a\nallow { true }\n"},
			bundle.Limits{}, []string{"a.rego:2: "}},
		{"v1 where the manifest says v0", tree{".manifest": `{"rego_version": 0}`, "a.rego": "package a\nallow if true\n"},
			bundle.Limits{}, []string{"a.rego:2: "}},
		{"a mistake in a v0 module", tree{"a.rego": "package a\nallow { true }\ndeny { true }\nx { 1 + }\n"}, bundle.Limits{},
			[]string{"a.rego:4: "}},
		{"too many files", tree{"a.rego": fine, "b.rego": fine}, bundle.Limits{Files: 1}, []string{"more than 1 files"}},
		{"too large a file", tree{"a.rego": fine}, bundle.Limits{File: 5}, []string{"a.rego: larger than 5 bytes"}},
		{"too large together", tree{"a.rego": fine, "b.rego": fine}, bundle.Limits{Total: 50}, []string{"larger than 50 bytes"}},
		{"too deep", tree{"a/b/c/d.rego": fine}, bundle.Limits{Depth: 2}, []string{"more than 2 folders deep"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b, err := bundle.Read("app", test.files.fs(), test.limits)
			var problems bundle.Problems
			if b != nil || !errors.As(err, &problems) {
				t.Fatalf("got %v and %v, want bundle.Problems", b, err)
			}
			for _, complaint := range test.complaints {
				if !strings.Contains(err.Error(), complaint) {
					t.Errorf("error %q lacks %q", err, complaint)
				}
			}
			for _, p := range problems {
				if p.Stage != "reading" || p.Bundle != "app" || strings.Contains(p.Error(), "\n") {
					t.Errorf("problem %+v is not one line about reading app", p)
				}
			}
		})
	}
}

func TestReadBoundsItsProblems(t *testing.T) {
	files := tree{}
	for i := range 50 {
		files[fmt.Sprintf("m%02d.rego", i)] = "package m\nx := \n"
	}
	_, err := bundle.Read("app", files.fs(), bundle.Limits{})
	var problems bundle.Problems
	if !errors.As(err, &problems) || len(problems) != 11 || !strings.Contains(problems[10].Text, "further problems") {
		t.Errorf("got %d problems, want ten and one that says that there are more", len(problems))
	}
}

func TestReadPlacesData(t *testing.T) {
	s := compile(t, tree{
		"authz.rego":                     "package authz\n\nallow := {\"allowed\": true, \"dynamic_metadata\": data.things}\n",
		"things/data.json":               `{"big": 12345678901234567890, "on": {"x": 1}}`,
		"things/on/data.yml":             "y: yes\nz: [1, 2.50]\n",
		"data.yaml":                      "things: {root: null}\n",
		"things/tests/ignored_test.rego": "package broken {",
	})
	d, err := s.Decide(context.Background(), nil, noon)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(d.Metadata)
	if want := "map[big:12345678901234567890 on:map[x:1 y:yes z:[1 2.5]] root:<nil>]"; got != want {
		t.Errorf("data %s, want %s", got, want)
	}
}

func TestNoticesForFilesThatAreNotRead(t *testing.T) {
	s := compile(t, tree{"authz.rego": "package authz\n\nallow := true\n", "roles.json": "{", "sub/.manifest": "{}",
		"README.md": "", "x_test.rego": "", ".hidden.json": ""})
	want := []string{
		`bundle "app": roles.json is not read: data files are named data.json or data.yaml`,
		`bundle "app": sub/.manifest is not read: a manifest is at the top of the bundle`,
	}
	if got := s.Notices(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("notices %q, want %q", got, want)
	}
}

func TestRegoVersions(t *testing.T) {
	old := "package authz\n\ndefault allow = false\n\nallow { input.user == \"ann\" }\n"
	tests := []struct {
		name  string
		files tree
	}{
		{"v0 without a manifest", tree{"authz.rego": old}},
		{"v0 by the manifest", tree{"authz.rego": old, ".manifest": `{"rego_version": 0}`}},
		{"v0 by the manifest for one file", tree{"authz.rego": old, "lib.rego": "package lib\n\nx if true\n",
			".manifest": `{"rego_version": 1, "file_rego_versions": {"/authz.rego": 0}}`}},
		{"v1", module("default allow := false\n\nallow if input.user == \"ann\"\n")},
		{"v0 with future keywords", module("import future.keywords\n\nallow if input.user == \"ann\"\n")},
		{"v0 and v1 side by side", tree{"authz.rego": old, "other.rego": "package other\n\nx contains 1 if true\n"}},
	}
	for _, test := range tests {
		s := compile(t, test.files)
		d, err := s.Decide(context.Background(), value(t, `{"user": "ann"}`), noon)
		if err != nil || !d.Allowed {
			t.Errorf("%s: %+v, %v", test.name, d, err)
		}
	}
}

func TestDigestIsOfPathsAndContents(t *testing.T) {
	base := tree{"a.rego": "package a\n", "data.json": "{}"}
	same := read(t, "other", tree{"a.rego": "package a\n", "data.json": "{}", "README.md": "x", "a_test.rego": "y"})
	if a, b := read(t, "app", base).Digest(), same.Digest(); a != b || len(a) != 64 {
		t.Errorf("digests %s and %s, want one", a, b)
	}
	for _, other := range []tree{
		{"a.rego": "package a\n\n", "data.json": "{}"}, {"b.rego": "package a\n", "data.json": "{}"},
		{"a.rego": "package a\n", "data.json": "{ }"}, {"a.rego": "package a\n"},
	} {
		if read(t, "app", other).Digest() == same.Digest() {
			t.Errorf("%v has the digest of another tree", other)
		}
	}
}

func FuzzReadModule(f *testing.F) {
	f.Add("package a\n\nallow if input.x\n", `{"a": 1}`, "a: 1", `{"roots": ["a"]}`)
	f.Add("package a\nallow { true }", `{`, "- [", `{"rego_version": 0}`)
	f.Fuzz(func(t *testing.T, rego, json, yaml, manifest string) {
		files := tree{"m.rego": rego, "data.json": json, "sub/data.yaml": yaml, ".manifest": manifest}
		b, err := bundle.Read("app", files.fs(), bundle.Limits{})
		var problems bundle.Problems
		if (b == nil) == (err == nil) || err != nil && !errors.As(err, &problems) {
			t.Fatalf("got %v and %v", b, err)
		}
	})
}
